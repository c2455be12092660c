"""What has to be known before the fusion: noise levels, HAADF coefficients, scales."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import convolve, gaussian_filter, minimum_filter
from scipy.optimize import lsq_linear, nnls

__all__ = [
    "NoiseLine",
    "count_gain",
    "fill",
    "fit_coefficients",
    "haadf_noise",
    "haadf_noise_line",
    "initial_coefficients",
    "map_noise",
    "map_noise_line",
    "noise_line",
    "signal_scale",
]

# J. Immerkær, Comput. Vis. Image Underst. 64, 300 (1996): blind to planes and to the
# curvature along each axis; of unit variance gain. This is its factor along one axis.
_NOISE_MASK = np.array([1, -2, 1]) / np.sqrt(6)
_LEAST_PIXELS = 30  # in a bin
_LEAST_EMPTY = 0.05  # part of the pixels of a map of few counts
_LEAST_SHARE = 0.1  # of a Gaussian, on known pixels
_MAD_TO_SIGMA = 1.4826  # of a normal distribution
_BAND = 16384  # pixels of a sum at a time, which stay in the cache
PRIOR_WIDTH = 1.0  # of the HAADF coefficients, as a part of what is expected


def fill(maps):
    """Fill missing pixels with a Gaussian mean of their surroundings.

    The Gaussian is as narrow as the hole allows: 1.5 pixels, and twice as wide wherever
    that finds nothing.

    Parameters
    ----------
    maps : numpy.ndarray
        Shape ``(n_elements, y, x)``; NaN where missing.

    Returns
    -------
    numpy.ndarray
        Same shape; 0 where a whole map is missing.
    """
    missing = np.isnan(maps)
    if not missing.any():
        return maps
    known = (~missing).astype(np.float64)
    values = np.where(missing, 0, maps)
    empty = missing.copy()
    width = 1.5
    while empty.any() and width < 2 * max(maps.shape[-2:]):
        share = gaussian_filter(known, (0, width, width))
        near = empty & (share > 1e-2)
        values[near] = gaussian_filter(known * values, (0, width, width))[near]
        values[near] /= share[near]
        empty &= ~near
        width *= 2
    return values


def _noise_residual(image, known):
    """Residual of the noise mask, and where it has seen known pixels only."""
    # a line scan has one axis only
    along_y, along_x = (_NOISE_MASK if size > 2 else np.ones(1) for size in image.shape)
    residual = convolve(image, np.outer(along_y, along_x), mode="mirror")
    rim_y, rim_x = len(along_y) // 2, len(along_x) // 2
    whole = np.zeros(image.shape, dtype=bool)
    whole[rim_y : len(image) - rim_y, rim_x : len(image.T) - rim_x] = True
    if known is not None:
        complete = whole & minimum_filter(known, 3)
        whole = complete if complete.sum() > _LEAST_PIXELS else whole
    return residual, whole


def noise_line(image, *, robust, known=None, n_bins=8):
    """Noise variance of an image as a straight line in its intensity.

    Parameters
    ----------
    image : numpy.ndarray
        Shape ``(y, x)``, any units.
    robust : bool
        Median of the absolute residuals, which sharp features do not disturb, or mean
        of their squares, which sparse counts need.
    known : numpy.ndarray of bool, optional
        Where the image is not filled in, shape ``(y, x)``.
    n_bins : int
        Intensity bins of equal numbers of pixels, to which the line is fitted; fewer
        of a small image, so that each has enough.

    Returns
    -------
    intercept, slope : float
        Variance at the lowest intensity and its increase, neither below 0; units of
        the image squared, and units of the image.
    levels, variances : numpy.ndarray
        The points of the fit, shape ``(n_bins,)`` or less.
    """
    residual, whole = _noise_residual(image, known)
    level = gaussian_filter(image, 1, mode="mirror")[whole]
    residual = residual[whole]
    n_bins = int(np.clip(level.size // (2 * _LEAST_PIXELS), 1, n_bins))
    edges = np.quantile(level, np.linspace(0, 1, n_bins + 1))
    levels, variances = [], []
    for low, high in pairwise(edges):
        chosen = (level >= low) & (level <= high)
        if chosen.sum() > _LEAST_PIXELS:
            levels.append(level[chosen].mean())
            if robust:
                deviation = _MAD_TO_SIGMA * np.median(np.abs(residual[chosen]))
                variances.append(deviation**2)
            else:
                variances.append(np.mean(residual[chosen] ** 2))
    if not levels:  # a tiny image: one bin
        levels, variances = [level.mean()], [np.mean(residual**2)]
    levels, variances = np.array(levels), np.array(variances)
    variances = np.maximum(variances, 1e-12 * np.ptp(image) ** 2)
    if not variances.any():  # a constant image
        return 0.0, 0.0, levels, variances
    # Relative errors, but of sparse maps the nearly empty bins must not decide alone.
    scale = variances if robust else np.maximum(variances, 0.1 * variances.max())
    (intercept, slope), _ = nnls(
        np.stack([1 / scale, (levels - image.min()) / scale], axis=1),
        variances / scale,
    )
    return float(intercept), float(slope), levels, variances


@dataclass(frozen=True, kw_only=True)
class NoiseLine:
    """Noise variance as a straight line in the smoothed intensity.

    Attributes
    ----------
    intercept, slope : float
        Variance at the lowest intensity and its increase; units of the image squared,
        and units of the image.
    lowest : float
        That intensity.
    floor : float
        What the variance is at least.
    width : float
        Standard deviation of the Gaussian, pixels.
    """

    intercept: float
    slope: float
    lowest: float
    floor: float
    width: float

    def variance(self, image):
        """Noise variance of an image, of its shape."""
        smooth = gaussian_filter(image, self.width, mode="mirror")
        smooth = np.maximum(smooth - self.lowest, 0)
        return np.maximum(self.intercept + self.slope * smooth, self.floor)


def haadf_noise_line(haadf):
    """Noise variance of a HAADF image, from the image alone.

    It is taken to be a straight line in the intensity, as shot noise behind an
    amplifier is.

    Parameters
    ----------
    haadf : numpy.ndarray
        Shape ``(y, x)``, any units; or a part of the image that stands for all of it.

    Returns
    -------
    NoiseLine
        Units of the image.
    """
    intercept, slope, _, variances = noise_line(haadf, robust=True)
    return NoiseLine(
        intercept=intercept,
        slope=slope,
        lowest=float(haadf.min()),
        # saturated or empty regions may seem to have no noise at all; an image that is
        # constant says nothing, whatever its noise
        floor=float(0.2 * np.median(variances)) or 1.0,
        width=1.0,
    )


def haadf_noise(haadf):
    """Standard deviation of the noise by :func:`haadf_noise_line`, shape ``(y, x)``."""
    return np.sqrt(haadf_noise_line(haadf).variance(haadf))


def count_gain(image, known=None):
    """Value of one count in a map of scaled counts.

    By the method of moments: of Poisson counts the variance is the mean, so of scaled
    ones their ratio is the scale. Sums over the whole image weigh the pixels by what
    they hold, so that it does not matter that most of them are empty.

    Parameters
    ----------
    image : numpy.ndarray
        Shape ``(y, x)``, not negative.
    known : numpy.ndarray of bool, optional
        Where the image is not filled in, shape ``(y, x)``.

    Returns
    -------
    float or None
        In the units of the map; None if the map does not look like counts, which are
        zero in some pixels.
    """
    if image.min() < 0 or np.mean(image == 0) < _LEAST_EMPTY or not image.any():
        return None
    residual, whole = _noise_residual(image, known)
    mean, variance = image[whole].mean(), np.mean(residual[whole] ** 2)
    if not (mean > 0 and variance > 0):  # all counts lie at edges or gaps
        seen = image if known is None else image[known]
        mean, variance = seen.mean(), seen.var()
    return float(variance / mean) if mean > 0 and variance > 0 else None


def map_noise_line(image, known=None):
    """Noise variance of an elemental map in any units, from the map alone.

    Parameters
    ----------
    image : numpy.ndarray
        Shape ``(y, x)``.
    known : numpy.ndarray of bool, optional
        Where the image is not filled in, shape ``(y, x)``.

    Returns
    -------
    NoiseLine
        Units of the map.
    """
    intercept, slope, _, variances = noise_line(image, robust=False, known=known)
    return NoiseLine(
        intercept=intercept,
        slope=slope,
        lowest=float(image.min()),
        floor=float(
            max(0.05 * np.median(variances), 1e-12 * np.ptp(image) ** 2, 1e-300)
        ),
        width=3.0,
    )


def map_noise(image, known=None):
    """Noise variance by :func:`map_noise_line`, shape ``(y, x)``."""
    return map_noise_line(image, known).variance(image)


def signal_scale(counts, background):
    """Signal-weighted mean count s_i of each element.

    Parameters
    ----------
    counts : numpy.ndarray
        b, shape ``(n_elements, y, x)``.
    background : numpy.ndarray
        β, shape ``(n_elements, 1, 1)`` or that of the counts.

    Returns
    -------
    numpy.ndarray
        max(Σ (b - β) (G_3 * b) / Σ b, 1e-3), counts, shape ``(n_elements,)``, with a
        Gaussian G_3 of 3 pixels: the mean count where the element is.
    """
    smooth = gaussian_filter(counts, (0, 3, 3))
    total = counts.sum(axis=(1, 2))
    weighted = ((counts - background) * smooth).sum(axis=(1, 2))
    return np.maximum(weighted / np.maximum(total, 1e-9), 1e-3)


def initial_coefficients(net, variance, haadf, sigma=1.5):
    """HAADF coefficients by least squares on smoothed maps.

    The noise of the maps, which would pull the coefficients to zero, is taken out of
    the normal matrix.

    Parameters
    ----------
    net : numpy.ndarray
        Maps without background, shape ``(n_elements, y, x)``; NaN where missing.
    variance : numpy.ndarray
        Their noise variance, same shape.
    haadf : numpy.ndarray
        h, shape ``(y, x)``.
    sigma : float
        Width of the Gaussian, pixels.

    Returns
    -------
    coefficients : numpy.ndarray
        c_i ≥ 0, shape ``(n_elements,)``.
    offset : float
        o.
    """
    smooth, noise = _smoothed(net, variance, sigma)
    smooth = smooth.reshape(len(net), -1)
    image = gaussian_filter(haadf, sigma).ravel()
    # without their means, which are the offset's
    columns = smooth - smooth.mean(axis=1, keepdims=True)
    normal = columns @ columns.T
    spread = np.diag(normal)
    normal = normal - np.diag(np.minimum(noise, 0.9 * spread))
    scale = 1 / np.sqrt(np.maximum(np.diag(normal), 1e-300))
    right = columns @ (image - image.mean()) * scale
    values, vectors = np.linalg.eigh(normal * scale[:, None] * scale)
    roots = np.sqrt(np.maximum(values, 1e-6 * max(values.max(), 1e-300)))
    solution, _ = nnls(
        (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T @ right
    )
    solution *= scale
    return solution, float(image.mean() - solution @ smooth.mean(axis=1))


def _smoothed(net, variance, sigma):
    """Maps after a Gaussian, and the noise variance of each, summed over its pixels."""
    point = np.zeros((65, 65))
    point[32, 32] = 1
    power = (gaussian_filter(point, sigma) ** 2).sum()
    known = np.isfinite(net)
    if known.all():
        smooth = gaussian_filter(net, (0, sigma, sigma))
        return smooth, power * variance.sum(axis=(1, 2), dtype=np.float64)
    # Maps that were filled beforehand would have more noise than can be told.
    share = gaussian_filter(known.astype(np.float64), (0, sigma, sigma))
    share[share < _LEAST_SHARE] = np.nan
    smooth = gaussian_filter(np.where(known, net, 0), (0, sigma, sigma)) / share
    # the square of a Gaussian is a narrower one
    narrow = (0, sigma / np.sqrt(2), sigma / np.sqrt(2))
    noise = power * gaussian_filter(np.where(known, variance, 0), narrow) / share**2
    return fill(smooth), np.nansum(noise, axis=(1, 2))


def fit_coefficients(instrument, net, haadf, weight, prior, inflation=1.0):
    """HAADF coefficients with the fused maps as instruments.

    The equations (x, 1)' W (net, 1) (c, o) = (x, 1)' W h hold but for their noise,
    whose covariance is (x, 1)' W (x, 1) times `inflation`, and are solved by least
    squares in units of it. The noise of the maps is nearly independent of the fused
    ones, so it does not bias the result, as it does with least squares on the maps.
    Each c_i is drawn towards a p_i with a standard deviation of PRIOR_WIDTH a p_i, a
    common to all elements: that decides where the maps do not.

    Parameters
    ----------
    instrument : numpy.ndarray
        Fused maps x, shape ``(n_elements, y, x)``.
    net : numpy.ndarray
        Measured maps without background, same shape; NaN where missing.
    haadf : numpy.ndarray
        h, shape ``(y, x)``.
    weight : numpy.ndarray
        W, inverse noise variance of h, shape ``(y, x)``.
    prior : numpy.ndarray
        p_i > 0, in any common unit, shape ``(n_elements,)``.
    inflation : float
        By how much the noise of the maps makes the variance of h - Σ c_i (b_i - β_i)
        larger than 1 / W, so that the equations are not trusted beyond it.

    Returns
    -------
    coefficients : numpy.ndarray
        c_i ≥ 0, shape ``(n_elements,)``.
    offset : float
        o.
    """
    n_elements, n_y, n_x = net.shape
    moments = 0.0
    height = max(_BAND // n_x, 1)
    for rows in (slice(y, y + height) for y in range(0, n_y, height)):
        known = np.isfinite(net[:, rows]).all(axis=0)
        one = np.ones((1, *known.shape))
        left = np.concatenate([instrument[:, rows], one])
        right = [np.nan_to_num(net[:, rows]), one, left, haadf[None, rows]]
        right = np.concatenate(right) * np.where(known, weight[rows], 0)
        moments += np.tensordot(left, right, ((1, 2), (1, 2)))
    matrix, covariance = np.hsplit(moments[:, :-1], 2)
    vector = moments[:, -1]

    combined = np.zeros((2, n_elements + 1))
    combined[0, :-1], combined[1, -1] = prior, 1
    common = _solve(combined @ matrix @ combined.T, combined @ vector)[0]

    whiten = _inverse_root(covariance)
    matrix, vector = whiten @ matrix, whiten @ vector
    if common > 0:
        width = PRIOR_WIDTH * common * prior
        rows = np.sqrt(inflation) * np.eye(n_elements, n_elements + 1)
        matrix = np.concatenate([matrix, rows / width[:, None]])
        vector = np.append(
            vector, np.full(n_elements, np.sqrt(inflation) / PRIOR_WIDTH)
        )
    scale = np.linalg.norm(matrix, axis=0)
    scale = np.where(scale > 0, scale, 1)
    lowest = np.append(np.zeros(n_elements), -np.inf)
    solution = lsq_linear(matrix / scale, vector, (lowest, np.inf), method="bvls").x
    solution /= scale
    return solution[:-1], float(solution[-1])


def _inverse_root(covariance):
    """Rows that whiten a vector of this covariance; none along which there is none."""
    scale = np.sqrt(np.diag(covariance))
    scale = np.where(scale > 0, scale, 1)
    values, vectors = np.linalg.eigh(covariance / scale / scale[:, None])
    there = values > 1e-10 * values.max()
    return vectors.T[there] / np.sqrt(values[there])[:, None] / scale


def _solve(matrix, vector):
    """Least-squares solution of linear equations whose unknowns have any units."""
    rows = abs(matrix).max(axis=1)
    rows = np.where(rows > 0, rows, 1)
    matrix = matrix / rows[:, None]
    columns = abs(matrix).max(axis=0)
    columns = np.where(columns > 0, columns, 1)
    return np.linalg.lstsq(matrix / columns, vector / rows, rcond=1e-12)[0] / columns
