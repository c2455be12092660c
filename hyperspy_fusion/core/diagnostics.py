r"""What to trust of a calibrated fusion: model error, local misfit, shift, uncertainty.

The HAADF image is a far cleaner measurement than the maps, so that whatever the linear
model :math:`h = o + \sum_i c_i x_i` leaves out would be turned into chemistry. The
functions here see that from the measured maps, which know nothing of the image.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import (
    binary_dilation,
    binary_propagation,
    gaussian_filter,
    gaussian_filter1d,
)

from . import primal_dual

__all__ = [
    "GuardReport",
    "Shift",
    "find_shift",
    "guard",
    "local_z",
    "misfit",
    "model_error",
    "uncertainty",
]

WIDTH = 4.0  # pixels, of the Gaussian that local misfits are averaged with
THRESHOLD = 4.5  # standard deviations, above which a local misfit is flagged
_REACH = 2.0  # standard deviations, down to which a flagged region is followed
_MARGIN = 4  # pixels that are added around it
_PASSES = 5
_LEAST_TRUSTED = 0.1  # part of the pixels that coefficients can be found from
_ROUGH = 2.0  # pixels; what varies on shorter scales is white to the model error
_LARGEST_SHIFT = 4  # pixels
_LEAST_SHIFT = 0.4  # pixels
_SHIFT_Z = 4.0
_SHIFT_BLOCK = 16  # pixels a side
_REFITS = 10
_REFIT_ITERATIONS = 60
_REFIT_SMOOTHING = 1.5  # pixels


def _variance(setting, maps):
    """Noise variance of the measured maps, shape of the maps."""
    if setting.variance is None:
        return maps + setting.background
    return np.broadcast_to(setting.variance, maps.shape)


def _prediction(setting, maps):
    """o + sum c_i x_i, shape ``(y, x)``."""
    return setting.offset + np.tensordot(setting.coefficients, maps, axes=1)


def misfit(setting, maps):
    """HAADF image minus its model.

    Parameters
    ----------
    setting : Setting
        With coefficients and offset.
    maps : numpy.ndarray
        Fused maps x, shape ``(n_elements, y, x)``, or measured ones without
        background.

    Returns
    -------
    numpy.ndarray
        h - o - Σ c_i x_i, shape ``(y, x)``, units of the image; NaN where a map is.
    """
    return setting.haadf - _prediction(setting, maps)


def model_error(setting, maps):
    """Standard deviation of what the linear model cannot explain of the HAADF image.

    From the fused maps at full weight of the image: these follow it wherever the model
    lets them, so that a rough residual above the noise is the model's. The part that
    varies slowly is left out: it is no white error, and it is what :func:`guard` has to
    see.

    Parameters
    ----------
    setting : Setting
        With σ_h of the noise alone.
    maps : numpy.ndarray
        x, fused with λ_haadf = 1, shape ``(n_elements, y, x)``.

    Returns
    -------
    float
        √max(⟨r²⟩ - ⟨σ_h²⟩, 0) of the residual r minus its mean over a Gaussian of 2
        pixels, corrected for what that takes from white noise; units of the image.
    """
    used = setting.trusted > 0
    if not used.any():
        return 0.0
    residual = np.where(used, misfit(setting, maps), 0)
    share = gaussian_filter(used.astype(float), _ROUGH)
    smooth = gaussian_filter(residual, _ROUGH) / np.maximum(share, 1e-9)
    rough = (residual - smooth)[used]
    point = np.zeros(33)
    point[16] = 1
    kernel = gaussian_filter1d(point, _ROUGH)
    kept = 1 - 2 * kernel[16] ** 2 + (kernel**2).sum() ** 2
    excess = np.mean(rough**2) / kept - np.mean(setting.sigma[used] ** 2)
    return float(np.sqrt(max(excess, 0)))


def local_z(setting, maps, width=WIDTH):
    r"""Local misfit of the HAADF image and the measured maps, in standard deviations.

    .. math::

        z = \frac{G * (h - o - \sum_i c_i (b_i - β_i))}
                 {\sqrt{G^2 * (σ_h^2 + \sum_i c_i^2 \operatorname{var} b_i)}}

    with a Gaussian G, and var b_i = x_i + β_i for counts. Few counts are skewed: z is
    brought to a normal distribution by the transformation of E. B. Wilson and M. M.
    Hilferty, Proc. Natl. Acad. Sci. 17, 684 (1931), with the third cumulant
    :math:`-G^3 * \sum_i c_i^3 (x_i + β_i)`.

    Parameters
    ----------
    setting : Setting
        With coefficients and offset. `trusted` is not looked at.
    maps : numpy.ndarray
        Fused maps x, which only tell the noise, shape ``(n_elements, y, x)``.
    width : float
        Standard deviation of G, pixels.

    Returns
    -------
    numpy.ndarray
        z, dimensionless, shape ``(y, x)``; positive where the image is brighter than
        the maps tell. Pixels that miss in any map do not count; 0 far from any other.
    """
    residual = misfit(setting, setting.net())
    known = np.isfinite(residual)
    c = setting.coefficients
    variance = _variance(setting, maps)
    second = setting.sigma**2 + np.tensordot(c**2, variance, axes=1)
    total = gaussian_filter(np.where(known, residual, 0), width, mode="constant")
    spread = np.sqrt(_power_filter(np.where(known, second, 0), width, 2))
    z = np.divide(total, spread, out=np.zeros_like(total), where=spread > 0)
    if setting.variance is not None:
        return z
    third = np.tensordot(c**3, variance, axes=1)
    third = _power_filter(np.where(known, third, 0), width, 3)
    skew = np.divide(third, spread**3, out=np.zeros_like(third), where=spread > 0)
    return -_unskewed(-z, skew)


def _power_filter(image, width, power):
    """Sum over an image with weights G^power, 0 beyond the edges."""
    # the power of a Gaussian is a narrower one
    norm = (2 * np.pi * width**2) ** (1 - power) / power
    narrow = gaussian_filter(image, width / np.sqrt(power), mode="constant")
    return np.maximum(norm * narrow, 0)


def _unskewed(z, skew):
    """Standard scores of a normal distribution from those of a skewed one."""
    skew = np.maximum(skew, 1e-3)
    return (6 / skew) * (np.cbrt(np.maximum(1 + skew * z / 2, 0)) - 1) + skew / 6
