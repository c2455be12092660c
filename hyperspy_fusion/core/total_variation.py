r"""Isotropic total variation: operators, value and proximal map.

The gradient takes forward differences, zero at the far edges; its value is

.. math:: TV(u) = \sum_r \sqrt{(∂_y u)_r^2 + (∂_x u)_r^2}.
"""

from typing import Literal, get_args

import numpy as np

from .kernels import tv_prox_rows

__all__ = [
    "TVAlgorithm",
    "gradient",
    "gradient_adjoint",
    "total_variation",
    "total_variation_prox",
]

TVAlgorithm = Literal["FGP", "GP"]


def gradient(image):
    """Forward differences along the last two axes, zero at the far edges.

    Parameters
    ----------
    image : numpy.ndarray
        Shape ``(..., y, x)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(2, ..., y, x)``: the differences along y, then along x.
    """
    out = np.zeros((2, *image.shape), dtype=image.dtype)
    out[0, ..., :-1, :] = np.diff(image, axis=-2)
    out[1, ..., :, :-1] = np.diff(image, axis=-1)
    return out


def gradient_adjoint(field):
    """Adjoint of :func:`gradient` (minus the divergence).

    Parameters
    ----------
    field : numpy.ndarray
        Shape ``(2, ..., y, x)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(..., y, x)``.
    """
    along_y, along_x = field
    out = np.zeros_like(along_y)
    out[..., :-1, :] -= along_y[..., :-1, :]
    out[..., 1:, :] += along_y[..., :-1, :]
    out[..., :, :-1] -= along_x[..., :, :-1]
    out[..., :, 1:] += along_x[..., :, :-1]
    return out


def total_variation(image):
    """Isotropic total variation over the last two axes, in float64.

    Parameters
    ----------
    image : numpy.ndarray
        Shape ``(..., y, x)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(...)``, in the units of the image.
    """
    differences = gradient(np.asarray(image, dtype=np.float64))
    return np.hypot(*differences).sum(axis=(-2, -1))


def total_variation_prox(image, weight, n_iter, algorithm="FGP"):
    r"""Non-negative total-variation denoising by (fast) gradient projection.

    .. math:: \arg\min_{x \ge 0} \tfrac12 ‖x - y‖^2 + λ\,TV(x)

    Parameters
    ----------
    image : numpy.ndarray
        y, shape ``(y, x)``; computed in float32.
    weight : float
        λ, in the units of the image; 0 only clips.
    n_iter : int
        Steps on the dual, each of length 1/(8 λ).
    algorithm : {"FGP", "GP"}
        Fast gradient projection (with momentum), or plain gradient projection.

    Returns
    -------
    numpy.ndarray
        x, shape ``(y, x)``, float32.

    References
    ----------
    A. Beck and M. Teboulle, IEEE Trans. Image Process. 18, 2419 (2009), the
    algorithms GP and FGP of section IV.
    """
    if algorithm not in get_args(TVAlgorithm):
        raise ValueError(f"algorithm is {algorithm!r}: expected 'FGP' or 'GP'")
    image = np.ascontiguousarray(image, dtype=np.float32)
    if weight == 0 or n_iter == 0:
        return np.maximum(image, np.float32(0))
    out = np.empty_like(image)
    tv_prox_rows(
        image, np.float32(weight), n_iter, algorithm == "FGP", out, 0, len(out)
    )
    return out
