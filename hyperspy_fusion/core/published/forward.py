"""Forward model: the HAADF image of given elemental maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

ZWeighting = Literal["none", "Z", "Z/sum", "Z**gamma", "Z**gamma/sum"]


def element_weights(
    atomic_numbers: Sequence[int], gamma: float, z_weighting: ZWeighting = "Z"
) -> np.ndarray:
    r"""Weights w_i of the elements in the HAADF model.

    Parameters
    ----------
    atomic_numbers : sequence of int
        Z_i, shape ``(n_elements,)``.
    gamma : float
        Exponent γ of the Z-contrast, dimensionless.
    z_weighting : {"none", "Z", "Z/sum", "Z**gamma", "Z**gamma/sum"}
        ``"none"``: :math:`w_i = 1`. ``"Z"``: :math:`w_i = Z_i` over the mean of all
        Z, which is what the tutorial of Manassa et al. (2024) uses. ``"Z**gamma"``:
        :math:`w_i = Z_i^γ` over the mean of all, which is the
        :math:`\sum_i (Z_i x_i)^γ` of Schwartz et al. (2022) up to a common factor
        (both images are scaled to [0, 1] anyway). ``"/sum"`` divides by the sum
        instead of the mean.

    Returns
    -------
    numpy.ndarray
        Shape ``(n_elements,)``, float64, dimensionless.
    """
    if z_weighting not in get_args(ZWeighting):
        raise ValueError(
            f"z_weighting is {z_weighting!r}: expected one of "
            f"{', '.join(map(repr, get_args(ZWeighting)))}"
        )
    weights = np.asarray(atomic_numbers, dtype=np.float64)
    if z_weighting == "none":
        return np.ones_like(weights)
    if z_weighting.startswith("Z**gamma"):
        weights = weights**gamma
    return weights / (weights.sum() if z_weighting.endswith("/sum") else weights.mean())


@dataclass(frozen=True, kw_only=True)
class PowerModel:
    r"""The model of the published method, :math:`A(x) = \sum_i w_i x_i^γ`.

    Attributes
    ----------
    weights : numpy.ndarray
        w_i, shape ``(n_elements,)``, see :func:`element_weights`.
    gamma : float
        Exponent γ of the Z-contrast, at least 1, dimensionless.
    """

    weights: np.ndarray
    gamma: float

    def __call__(self, maps: np.ndarray) -> np.ndarray:
        """Return A(x), shape ``(y, x)``, of maps of shape ``(n_elements, y, x)``."""
        return np.tensordot(self.weights, maps**self.gamma, axes=1)
