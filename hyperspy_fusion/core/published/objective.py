r"""The cost terms of the published objective: values and gradients, in float64.

.. math::

    Ψ(x) = λ_{HAADF} Ψ_1(x) + λ_{chem} Ψ_2(x) + λ_{TV} Ψ_3(x)

Here are the definitions, written for reading; the kernels compute the same in one
pass, and the tests compare the two.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.operators import total_variation
from .forward import PowerModel


def haadf_cost(maps: np.ndarray, haadf: np.ndarray, model: PowerModel) -> float:
    r"""HAADF consistency :math:`Ψ_1 = \tfrac12 ‖b_H - A(x)‖^2`."""
    return 0.5 * float(np.sum((haadf - model(maps)) ** 2))


def haadf_gradient(
    maps: np.ndarray, haadf: np.ndarray, model: PowerModel
) -> np.ndarray:
    r"""Gradient of :func:`haadf_cost`, :math:`-γ w_i x_i^{γ-1} (b_H - A(x))`."""
    weights = model.gamma * model.weights[:, np.newaxis, np.newaxis]
    return -weights * maps ** (model.gamma - 1) * (haadf - model(maps))


def chemical_cost(maps: np.ndarray, measured: np.ndarray, epsilon: float) -> float:
    r"""Poisson term :math:`Ψ_2 = \sum_i 1^T x_i - b_i^T \log(x_i + ε)`."""
    return float(np.sum(maps - measured * np.log(maps + epsilon)))


def chemical_gradient(
    maps: np.ndarray, measured: np.ndarray, epsilon: float
) -> np.ndarray:
    """Gradient of :func:`chemical_cost`, shape ``(n_elements, y, x)``."""
    return 1 - measured / (maps + epsilon)


@dataclass(frozen=True, kw_only=True)
class PublishedObjective:
    """Weighted sum of the terms; all images are scaled to [0, 1].

    Attributes
    ----------
    measured, haadf : numpy.ndarray
        b and b_H.
    model : PowerModel
        The forward model A.
    lambda_haadf, lambda_chem, lambda_tv : float
        The weights of the three terms, dimensionless.
    epsilon : float
        ε of the Poisson term.
    """

    measured: np.ndarray
    haadf: np.ndarray
    model: PowerModel
    lambda_haadf: float
    lambda_chem: float
    lambda_tv: float
    epsilon: float

    def terms(self, maps: np.ndarray) -> tuple[float, float, float]:
        """Return the unweighted (haadf, chemical, tv) of `maps`."""
        maps = np.asarray(maps, dtype=np.float64)
        return (
            haadf_cost(maps, self.haadf, self.model),
            chemical_cost(maps, self.measured, self.epsilon),
            float(total_variation(maps).sum()),
        )

    def weigh(self, terms: Any) -> Any:
        """Return the weighted sum of (haadf, chemical, tv); arrays broadcast."""
        haadf, chemical, tv = terms
        return (
            self.lambda_haadf * haadf
            + self.lambda_chem * chemical
            + self.lambda_tv * tv
        )
