"""Noise of HAADF images and of elemental maps, from the images alone."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.fft import dctn
from scipy.ndimage import convolve, gaussian_filter, minimum_filter
from scipy.optimize import nnls

# J. Immerkær, Comput. Vis. Image Underst. 64, 300 (1996): blind to planes and to the
# curvature along each axis; of unit variance gain. This is its factor along one axis.
MASK = np.array([1, -2, 1]) / np.sqrt(6)
_BINS = 8  # of intensity with equal numbers of pixels; fewer in a small image
_LEAST_PIXELS = 30  # of a bin
_LEAST_PLATEAU = 0.02  # fraction of the pixels at the lowest value
MAD_TO_SIGMA = 1.4826  # of normal numbers
MOST_LEVELS = 4096  # different values of a map of counts
_LEAST_STEP = 1.05  # of whole numbers that are no counts
# JPEG: pixels a side of a block, blocks a side and brightest value that are needed,
# blocks that are looked at, numbers to whose multiples it rounds, and how much evener
# its transforms are: 0.2 to 0.9 in most files, up to 0.17 by chance in others.
_BLOCK, _LEAST_BLOCKS, _LEAST_BRIGHT = 8, 8, 128
_MOST_BLOCKS = 400
_ROUNDED_TO = range(2, 64)
_MORE_EVEN = 0.2
_AROUND, _LEAST_VARIANCE = 2.0, 0.05  # pixels, and fraction of the mean variance
_SCALE_WIDTH = 1.5  # pixels, of the Gaussian that shows where an element is
_LEVEL_WIDTH, _LOWEST = 8.0, 0.05  # pixels and quantile, of where it is not
_DIGITS = 64  # least step, in units of the last digit of float32
_ROUNDED, _EXACT = 0.6, 2e-3  # deviation of whole numbers; of others, in steps


def noise_residual(
    image: np.ndarray, known: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Residual of the noise mask, and where all its pixels are known."""
    # a line scan has one axis only
    along_y, along_x = (MASK if size > 2 else np.ones(1) for size in image.shape)
    residual = convolve(image, np.outer(along_y, along_x), mode="mirror")
    rim_y, rim_x = len(along_y) // 2, len(along_x) // 2
    whole = np.zeros(image.shape, dtype=bool)
    whole[rim_y : len(image) - rim_y, rim_x : len(image.T) - rim_x] = True
    if known is not None:
        complete = whole & minimum_filter(known, 3)
        whole = complete if complete.sum() > _LEAST_PIXELS else whole
    return residual, whole


class FittedLine(NamedTuple):
    """Noise variance of an image as a straight line in its intensity.

    Attributes
    ----------
    intercept, slope : float
        Variance at the lowest intensity and its increase, neither below 0; units of
        the image squared, and units of the image.
    lowest : float
        That intensity.
    levels, variances : numpy.ndarray
        The points of the fit.
    """

    intercept: float
    slope: float
    lowest: float
    levels: np.ndarray
    variances: np.ndarray


def noise_line(
    image: np.ndarray, *, robust: bool, known: np.ndarray | None = None
) -> FittedLine:
    """Noise variance of an image as a straight line in its intensity.

    Parameters
    ----------
    image : numpy.ndarray
        Shape ``(y, x)``, any units.
    robust : bool
        Median of the absolute residuals, insensitive to sharp features; or mean of
        their squares, which sparse counts need.
    known : numpy.ndarray of bool, optional
        Where the image was measured, shape ``(y, x)``.

    Returns
    -------
    FittedLine
        The lowest intensity is that of the image; of maps with values below 0, which
        noise has made, the lowest mean of a bin.
    """
    residual, whole = noise_residual(image, known)
    level = gaussian_filter(image, 1, mode="mirror")[whole]
    residual = residual[whole]
    n_bins = int(np.clip(level.size // (2 * _LEAST_PIXELS), 1, _BINS))
    edges = np.quantile(level, np.linspace(0, 1, n_bins + 1))
    points = []
    for low, high in pairwise(edges):
        chosen = (level >= low) & (level <= high)
        if chosen.sum() > _LEAST_PIXELS:
            variance = np.mean(residual[chosen] ** 2)
            if robust:
                variance = (MAD_TO_SIGMA * np.median(np.abs(residual[chosen]))) ** 2
            points.append((level[chosen].mean(), variance))
    if not points:  # a tiny image: one bin
        points = [(level.mean(), np.mean(residual**2))]
    levels, variances = np.array(points).T
    variances = np.maximum(variances, 1e-12 * np.ptp(image) ** 2)
    lowest = float(image.min())
    if lowest < 0 and not robust:
        lowest = float(levels.min())
    if not variances.any():  # a constant image
        return FittedLine(0.0, 0.0, lowest, levels, variances)
    # Relative errors; the sum keeps nearly empty bins of sparse maps from dominating.
    scale = variances if robust else np.maximum(variances, 0.1 * variances.max())
    (intercept, slope), _ = nnls(
        np.stack([1 / scale, (levels - lowest) / scale], axis=1),
        variances / scale,
    )
    return FittedLine(float(intercept), float(slope), lowest, levels, variances)


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
        Lower bound of the variance.
    width : float
        Standard deviation of the smoothing Gaussian, pixels.
    """

    intercept: float
    slope: float
    lowest: float
    floor: float
    width: float

    def times(self, factor: float) -> "NoiseLine":
        """The line of noise whose variance is larger by a factor."""
        return replace(
            self,
            intercept=factor * self.intercept,
            slope=factor * self.slope,
            floor=factor * self.floor,
        )

    def variance(self, image: np.ndarray) -> np.ndarray:
        """Noise variance of each pixel of an image."""
        smooth = gaussian_filter(image, self.width, mode="mirror")
        smooth = np.maximum(smooth - self.lowest, 0)
        return np.maximum(self.intercept + self.slope * smooth, self.floor)


def haadf_noise_line(haadf: np.ndarray, known: np.ndarray | None) -> NoiseLine:
    """Noise of a HAADF image: shot noise and that of an amplifier.

    `known` is True where it was measured; elsewhere it is filled, and seems free of
    noise.
    """
    lowest = haadf == haadf.min()
    if lowest.mean() > _LEAST_PLATEAU:  # it was clipped there, and seems free of noise
        known = ~lowest if known is None else known & ~lowest
    line = noise_line(haadf, robust=True, known=known)
    noisy = line.variances[line.variances > 1e-9 * np.ptp(haadf) ** 2]
    return NoiseLine(
        intercept=line.intercept,
        slope=line.slope,
        lowest=line.lowest,
        # saturated or empty regions seem free of noise; a constant image does not show
        # its noise
        floor=float(0.2 * np.median(noisy)) if noisy.size else 1.0,
        width=1.0,
    )


def haadf_noise(haadf: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Standard deviation by :func:`haadf_noise_line`, shape ``(y, x)``."""
    return np.sqrt(haadf_noise_line(haadf, known).variance(haadf))


def count_gain(image: np.ndarray, known: np.ndarray | None = None) -> float | None:
    """Variance over mean of a map: of scaled counts, the value of one; None if empty.

    Method of moments: the variance of Poisson counts is their mean, so of scaled counts
    their ratio is the scale. Sums over the whole image weight the pixels by their
    content, so that empty ones do not matter. `known` is True where the map was
    measured.
    """
    if image.min() < 0 or not image.any():
        return None
    residual, whole = noise_residual(image, known)
    mean, variance = image[whole].mean(), np.mean(residual[whole] ** 2)
    if not (mean > 0 and variance > 0):  # all counts are at edges or gaps
        seen = image if known is None else image[known]
        mean, variance = seen.mean(), seen.var()
    return float(variance / mean) if mean > 0 and variance > 0 else None


def are_jpeg_blocks(image: np.ndarray) -> bool:
    """Whether an image of whole numbers was compressed as JPEG does.

    That rounds each cosine transform of blocks of 8 x 8 pixels to multiples of a
    number, which in blocks that lie between these they are not.
    """
    if min(image.shape) < _LEAST_BLOCKS * _BLOCK or image.max() < _LEAST_BRIGHT:
        return False
    aligned, between = (_evenness(image[start:, start:]) for start in (0, _BLOCK // 2))
    return aligned > between + _MORE_EVEN


def _evenness(image: np.ndarray) -> float:
    """How well transforms of blocks are multiples of a number, 0 to 1.

    Mean over the waves of the largest mean of cos(2π c / q) over the blocks, with the
    transform c and a number q of some that are not larger than it usually is.
    """
    n_y, n_x = (size // _BLOCK for size in image.shape)
    blocks = image[: n_y * _BLOCK, : n_x * _BLOCK].reshape(n_y, _BLOCK, n_x, _BLOCK)
    blocks = blocks.swapaxes(1, 2).reshape(-1, _BLOCK, _BLOCK)
    blocks = blocks[:: -(-len(blocks) // _MOST_BLOCKS)]
    waves = dctn(blocks, axes=(1, 2), norm="ortho").reshape(len(blocks), -1)
    # those whose signs are all the same are whole numbers over 8
    uneven = np.arange(_BLOCK) % (_BLOCK // 2) != 0
    waves = waves[:, np.logical_or.outer(uneven, uneven).ravel()]
    usual = np.sqrt(np.mean(waves**2, axis=0))
    best = np.zeros(len(usual))
    for q in _ROUNDED_TO:
        mean = np.cos(2 * np.pi / q * waves).mean(axis=0)
        best = np.where(q <= usual, np.maximum(best, mean), best)
    return float(best.mean())


def cumulant_of_mean(
    cumulant: np.ndarray, width: float, order: int = 2, **options: Any
) -> np.ndarray:
    """Cumulant of the Gaussian mean of independent pixels: by default the variance.

    It is the sum of those of the pixels, shape ``(..., y, x)``, with the powers of the
    weights G of the mean. `width` is that of G in pixels; `options` go to SciPy's
    filter.
    """
    # the power of a Gaussian is a narrower Gaussian
    norm = (2 * np.pi * width**2) ** (1 - order) / order
    narrow = width / np.sqrt(order)
    return norm * gaussian_filter(cumulant, narrow, axes=(-2, -1), **options)


def above_zero(variance: np.ndarray) -> np.ndarray:
    """Variance without zeros, whose weight would be infinite; float32.

    Where it was estimated from single counts, it is 0 in pixels without any: a mean
    over the pixels around is put in its place.
    """
    variance = np.array(variance, dtype=np.float32)
    for image in variance:
        zero = image <= 0
        if zero.any():
            around = gaussian_filter(image, _AROUND) + _LEAST_VARIANCE * image.mean()
            image[zero] = around[zero]
    positive = variance[variance > 0]
    least = 1e-6 * positive.mean(dtype=np.float64) if positive.size else 1.0
    return np.maximum(variance, np.float64(least), dtype=np.float32)


def whole_numbers(maps: np.ndarray) -> bool:
    """Whether all values that are not missing are whole numbers."""
    return all(((m == np.rint(m)) | np.isnan(m)).all() for m in maps)


def count_step(values: np.ndarray) -> float | None:
    """The number of which all values of a map are multiples; None if there is none.

    That is the value of a count, also where an export has scaled the map and rounded it
    to whole numbers.
    """
    values = np.unique(values).astype(np.float64)
    if not 0 < values.size <= MOST_LEVELS or values[0] < 0 or values[-1] == 0:
        return None
    whole = bool((values == np.rint(values)).all())
    for shift in (0.0, 0.5) if whole else (0.0,):  # rounded, or cut off
        step = _step(values[values > 0] + shift, whole=whole)
        # any numbers are multiples of the last digit of float32
        if step is not None and step > _DIGITS * np.spacing(np.float32(values[-1])):
            return 1.0 if whole and step < _LEAST_STEP else step
    return None


def _step(values: np.ndarray, *, whole: bool) -> float | None:
    """Number of which these are multiples, found from the lowest to the highest."""
    step = min(values[0], float(np.diff(values).min(initial=values[0])))
    squares = product = 0.0
    for value in values:
        multiple = max(np.rint(value / step), 1)
        squares, product = squares + multiple**2, product + multiple * value
        step = product / squares
    multiples = np.rint(values / step)
    error = abs(values - step * multiples).max()
    return step if error <= (_ROUNDED if whole else _EXACT * step) else None


def map_noise_line(image: np.ndarray, known: np.ndarray | None) -> NoiseLine:
    """Noise of an elemental map in any units, where `known` pixels were measured."""
    line = noise_line(image, robust=False, known=known)
    least = 1e-12 * np.ptp(image) ** 2
    return NoiseLine(
        intercept=line.intercept,
        slope=line.slope,
        lowest=line.lowest,
        floor=float(max(0.05 * np.median(line.variances), least, 1e-300)),
        width=3.0,
    )


def map_noise(image: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Noise variance by :func:`map_noise_line`, shape ``(y, x)``."""
    return map_noise_line(image, known).variance(image)


def signal_scale(counts: np.ndarray, background: Any) -> np.ndarray:
    r"""Mean count s_i of each element where it is, shape ``(n_elements,)``.

    .. math:: s = \sum w (G * b - G_0 b) / \sum w, \quad w = (g - f)^2 - n

    with a Gaussian G of 1.5 pixels, g = G * (b - β), its lowest level f, and the noise
    variance n of g. The count of a pixel itself is left out, so that s is not biased.
    The mean of a map where no contrast is seen, and at least that: most counts of a
    rare element are background.
    """
    centre = 1 / (2 * np.pi * _SCALE_WIDTH**2)  # G_0
    found = []
    for image, known in zip(
        counts, np.broadcast_to(background, counts.shape), strict=True
    ):
        net = gaussian_filter(image - known, _SCALE_WIDTH, output=np.float64)
        lowest = np.quantile(gaussian_filter(image - known, _LEVEL_WIDTH), _LOWEST)
        noise = cumulant_of_mean(image, _SCALE_WIDTH, output=np.float64)
        weight = (net - lowest) ** 2 - noise
        beside = gaussian_filter(image, _SCALE_WIDTH, output=np.float64)
        beside -= centre * image
        spread = np.sqrt(2 * np.sum(noise**2) * 2 / centre)
        mean = image.mean(dtype=np.float64)
        shown = weight.sum() > 2 * spread
        scale = np.sum(weight * beside) / weight.sum() if shown else mean
        found.append(max(scale, mean, 1e-3))
    return np.array(found)
