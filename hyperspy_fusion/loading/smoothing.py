r"""Smoothing of a background in the image plane; arrays only.

The background that a single spectrum gives is noisy, but a fusion takes it as exact. So
images of background counts are smoothed by a Gaussian first. Its width is the one with
the lowest expected error by Stein's unbiased risk estimate [1]_: few counts are
smoothed as far as the specimen allows, many counts stay sharp.

References
----------
.. [1] C. M. Stein, Estimation of the mean of a multivariate normal distribution, Ann.
   Statist. 9, 1135 (1981).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from ..core.calibrated.noise import map_noise
from ..core.common.missing import fill
from ..execution.arrays import map_images

# Standard deviations of the Gaussians that are tried, pixels; infinity stands for the
# mean over the image.
_WIDTHS = 0.0, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 8.0, np.inf
# Exposure that is added to each pixel, as a fraction of the mean exposure.
_SMALL = 1e-6
_LEAST_SIZE = 5  # pixels along each side, of an image whose noise can be estimated


def map_filled(function: Callable[..., np.ndarray], *arrays: Any) -> Any:
    """Apply a function to images at each position, with missing pixels filled.

    As `map_images`; NaN and infinite pixels are missing. A background is needed there,
    too.
    """
    return map_images(partial(_of_filled, function), *arrays)


def _of_filled(function: Callable[..., np.ndarray], *images: np.ndarray) -> np.ndarray:
    known = (np.where(np.isfinite(image), image, np.nan) for image in images)
    return function(*(fill(image[np.newaxis])[0] for image in known))


def smooth_counts(counts: np.ndarray) -> np.ndarray:
    """Smooth an image of counts (times a factor) as far as its noise requires."""
    counts = np.maximum(counts, 0)
    return smooth_ratio(counts, np.ones_like(counts), count_value(counts) * counts)


def count_value(image: np.ndarray) -> float:
    """Ratio of noise variance to mean of an image not below 0, in its units.

    1 for whole numbers, which are Poisson counts; 0 for an image too small to estimate
    its noise.
    """
    if not image.any() or np.allclose(image, np.rint(image), rtol=0, atol=1e-3):
        return 1.0
    if min(image.shape) < _LEAST_SIZE:
        return 0.0
    return map_noise(image).sum() / image.sum()


def smooth_ratio(
    counts: np.ndarray, exposure: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    r"""Smooth a ratio of two images with the width of lowest expected error.

    With the Gaussian G of standard deviation s and the exposure e, the estimate for the
    counts b is :math:`e\, q_s,\ q_s = G * b / (G * e)`. Its expected squared error, up
    to a constant, is by Stein's unbiased risk estimate

    .. math::

        \sum_p w_p \Bigl[(b - e\, q_s)^2 + 2 σ^2 \frac{\partial (e\, q_s)}{\partial b}
        \Bigr]_p, \quad \frac{\partial (e\, q_s)}{\partial b} = \frac{G(0)\, e}{G * e}

    with the noise variance σ² of the counts, and weights w that are one over the
    smoothed variance. `exposure`, to which the expected counts are proportional, is
    free of noise. Returns q_s for the s of `_WIDTHS` with the lowest expected error; 0
    where counts or exposure are 0 everywhere, b / e where there is no noise.
    """
    if not (counts.any() and exposure.any()):
        return np.zeros(counts.shape)
    if not variance.any():
        return np.divide(
            counts, exposure, out=np.zeros(counts.shape), where=exposure > 0
        )
    mean = counts.mean() / exposure.mean()
    few = _SMALL * exposure.mean()  # makes the ratio the mean where both are 0
    # The constant keeps pixels without counts from dominating the sum.
    weight = 1 / (gaussian_filter(variance, 2) + variance.mean() / 10)
    lowest, best = np.inf, np.full(counts.shape, mean)
    for width in _WIDTHS:
        if np.isinf(width):
            ratio, centre = np.full(counts.shape, mean), 1 / counts.size
            expected = exposure.mean()
        elif 4 * width > min(counts.shape):
            continue
        else:
            expected = gaussian_filter(exposure, width) + few
            ratio = (gaussian_filter(counts, width) + few * mean) / expected
            point = np.zeros(2 * int(4 * width + 1) + 1)
            point[point.size // 2] = 1
            centre = gaussian_filter(point, width).max() ** 2  # G(0)
        derivative = centre * exposure / expected
        squares = (counts - exposure * ratio) ** 2 + 2 * derivative * variance
        error = np.sum(weight * squares)
        if error < lowest:
            lowest, best = error, ratio
    return best
