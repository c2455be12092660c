r"""What to trust of a calibrated fusion: model error, local misfit, shift, uncertainty.

The HAADF image is a far cleaner measurement than the maps, so that whatever the linear
model :math:`h = o + \sum_i c_i x_i` leaves out would be turned into chemistry. The
functions here see that from the measured maps, which know nothing of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import (
    binary_dilation,
    binary_propagation,
    gaussian_filter,
    gaussian_filter1d,
)
from scipy.special import ndtr, ndtri

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .prepare import PreparedData

__all__ = [
    "WIDTHS",
    "GuardReport",
    "guard",
    "local_z",
    "misfit",
    "model_error",
    "threshold",
]

WIDTHS = 4.0, 8.0, 16.0  # pixels, of the Gaussians that misfits are averaged with

# Standard deviations above which a local misfit is flagged, in an image of so many
# pixels. In larger ones chance goes further.
_THRESHOLD = 4.5
_USUAL = 256**2
_REACH = 2.0  # standard deviations, down to which a flagged region is followed

# A slow misfit that does no harm: this part of the contrast (standard deviation) of the
# image, which detectors are not linear beyond, and of the model error, which is not
# white on real images.
_SLOW_CONTRAST = 0.015
_SLOW_ERROR = 0.2
_MARGIN = 2  # pixels that are added around it
_PASSES = 8
_LARGE = 2**15  # pixels, above which misfits are averaged over blocks
_ROWS = 256  # that are worked on at a time; a multiple of all sides of blocks
_LEAST_SHARE = 0.2  # of a Gaussian, on known pixels; a corner of the image has 0.25
_WORST = 0.5  # of the largest local misfit: what is flagged together with it
_LEAST_TRUSTED = 0.25  # part of the pixels that coefficients can be found from
_BAND = 1.5, 4.0  # pixels, of the Gaussians between which misfits count as typical
_PASSED = 1 / 3  # of the power of a misfit of 10 to 16 pixels from crest to crest
_MEDIAN_SQUARE = 0.455  # of a normal distribution
_TYPICAL = 2.0  # times the noise


def prediction(prepared: PreparedData, maps: np.ndarray) -> np.ndarray:
    """The model of the image, o + Σ c_i x_i, shape ``(y, x)``."""
    return prepared.offset + np.tensordot(prepared.coefficients, maps, axes=1)


def misfit(prepared: PreparedData, maps: np.ndarray) -> np.ndarray:
    """HAADF image minus its model.

    Parameters
    ----------
    prepared : PreparedData
        With coefficients and offset.
    maps : numpy.ndarray
        Fused maps x, shape ``(n_elements, y, x)``, or measured ones without
        background.

    Returns
    -------
    numpy.ndarray
        h - o - Σ c_i x_i, shape ``(y, x)``, units of the image; NaN where a map is.
    """
    return prepared.haadf - prediction(prepared, maps)


def model_error(prepared: PreparedData, maps: np.ndarray) -> float:
    """Standard deviation of what the linear model cannot explain all over the image.

    A misfit of some places is the guard's; one that is typical of the image, as when
    the maps are not proportional to the thickness, makes the image a worse measurement
    than its noise tells. From the residual of the measured maps on scales of 1.5 to 4
    pixels, whose median square does not care for a few places.

    Parameters
    ----------
    prepared : PreparedData
        With coefficients and offset, and σ_h of the noise alone.
    maps : numpy.ndarray
        Fused maps x, which only tell the noise, shape ``(n_elements, y, x)``.

    Returns
    -------
    float
        Units of the image; 0 unless the median square is twice that of the noise.
    """
    residual, second, _ = _cumulants(prepared, maps)
    known = np.isfinite(residual) & (prepared.trusted > 0)
    if not known.any():
        return 0.0
    fine, coarse = _BAND
    residual = np.where(known, residual, 0)
    passed = gaussian_filter(residual, fine) - gaussian_filter(residual, coarse)
    point = np.zeros(65)
    point[32] = 1
    one, other = gaussian_filter1d(point, fine), gaussian_filter1d(point, coarse)
    power = (one @ one) ** 2 - 2 * (one @ other) ** 2 + (other @ other) ** 2
    noise = power * gaussian_filter(np.where(known, second, 0), fine)[known]
    excess = np.median(passed[known] ** 2 / noise) / _MEDIAN_SQUARE
    if excess < _TYPICAL:
        return 0.0
    return float(np.sqrt((excess - 1) * np.median(noise) / _PASSED))


def local_z(
    prepared: PreparedData, maps: np.ndarray, width: float = WIDTHS[0], step: int = 1
) -> np.ndarray:
    r"""Local misfit of the HAADF image and the measured maps, in standard deviations.

    .. math::

        z = \frac{G * (h - o - \sum_i c_i (b_i - β_i))}
                 {\sqrt{G^2 * (σ_h^2 + \sum_i c_i^2 \operatorname{var} b_i) + ε^2}}

    with a Gaussian G, var b_i = x_i + β_i for counts, and a slow misfit ε that does no
    harm: 0.015 standard deviations of the image, and 0.2 model errors. Few counts are
    skewed: z is brought to a normal distribution by the transformation of E. B. Wilson
    and M. M. Hilferty, Proc. Natl. Acad. Sci. 17, 684 (1931), with the third cumulant
    :math:`-G^3 * \sum_i c_i^3 (x_i + β_i)`.

    Parameters
    ----------
    prepared : PreparedData
        With coefficients and offset. `trusted` is not looked at.
    maps : numpy.ndarray
        Fused maps x, which only tell the noise, shape ``(n_elements, y, x)``; or on
        pixels twice as large.
    width : float
        Standard deviation of G, pixels.
    step : int
        Pixels a side of the blocks that are averaged beforehand, which is faster; z is
        the same in all pixels of a block.

    Returns
    -------
    numpy.ndarray
        z, dimensionless, shape ``(y, x)``; positive where the image is brighter than
        the maps tell. Pixels that miss in any map or in the image (NaN) do not count;
        z is 0 there, and where little but such pixels is near.
    """
    return _standardised(prepared, _BlockMeans.of(prepared, maps, step), width)


def _cumulants(
    prepared: PreparedData, maps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residual of the measured maps, second and third cumulant of its noise."""
    residual = misfit(prepared, prepared.net())
    c = prepared.coefficients.astype(np.float32)
    variance = prepared.noise_variance(maps)
    second = prepared.sigma**2 + np.tensordot(c**2, variance, axes=1)
    third = np.zeros_like(second)
    if prepared.variance is None:
        third = np.tensordot(c**3, variance, axes=1)
    return residual, second, third


@dataclass(frozen=True, kw_only=True)
class _BlockMeans:
    """Means over square blocks, with 0 for unknown pixels.

    Attributes
    ----------
    step : int
        Pixels a side of a block.
    known : numpy.ndarray
        Where the residual is known, shape ``(y, x)``.
    share : numpy.ndarray
        Of known pixels in each block.
    residual, second, third : numpy.ndarray
        Mean residual, second and third cumulant of its noise.
    """

    step: int
    known: np.ndarray
    share: np.ndarray
    residual: np.ndarray
    second: np.ndarray
    third: np.ndarray

    @classmethod
    def of(cls, prepared: PreparedData, maps: np.ndarray, step: int) -> _BlockMeans:
        """Work through the image some rows at a time, to need little memory."""
        known = np.empty(prepared.haadf.shape, bool)
        parts = []
        for start in range(0, len(known), _ROWS):
            rows = slice(start, start + _ROWS)
            cumulants = _cumulants(prepared.rows(rows), _fine_rows(maps, known, rows))
            known[rows] = np.isfinite(cumulants[0])
            parts.append(
                [
                    _block_mean(np.where(known[rows], image, 0), step)
                    for image in (1.0, *cumulants)
                ]
            )
        means = (np.concatenate(part) for part in zip(*parts, strict=True))
        names = "share", "residual", "second", "third"
        return cls(step=step, known=known, **dict(zip(names, means, strict=True)))

    def coarser(self, factor: int) -> _BlockMeans:
        """The means over larger blocks."""
        if factor == 1:
            return self
        names = "share", "residual", "second", "third"
        means = {name: _block_mean(getattr(self, name), factor) for name in names}
        return replace(self, step=self.step * factor, **means)


def _fine_rows(maps: np.ndarray, image: np.ndarray, rows: slice) -> np.ndarray:
    """Some rows of maps that may have pixels twice as large as an image."""
    if maps.shape[1:] == image.shape:
        return maps[:, rows]
    coarse = maps[:, rows.start // 2 : -(-rows.stop // 2)]
    n_y, n_x = image[rows].shape
    return coarse.repeat(2, axis=1)[:, :n_y].repeat(2, axis=2)[..., :n_x]


def _standardised(
    prepared: PreparedData, means: _BlockMeans, width: float
) -> np.ndarray:
    """Local misfit in standard deviations, from block means."""
    step = means.step
    width = width / step
    total = gaussian_filter(means.residual, width, mode="constant")
    share = gaussian_filter(means.share, width, mode="constant")
    slow = np.hypot(_SLOW_CONTRAST * prepared.contrast, _SLOW_ERROR * prepared.error)
    # the cumulants of a mean of step² numbers
    spread = np.hypot(
        np.sqrt(_power_filter(means.second / step**2, width, 2)), slow * share
    )
    enough = share > _LEAST_SHARE
    z = np.divide(total, spread, out=np.zeros_like(total), where=enough)
    if prepared.variance is None:
        third = _power_filter(means.third / step**4, width, 3)
        skew = np.divide(third, spread**3, out=np.zeros_like(third), where=enough)
        z = np.where(enough, -_unskewed(-z, skew), 0)
    z = z.astype(np.float32).repeat(step, axis=0).repeat(step, axis=1)
    z = z[: len(means.known), : len(means.known.T)]
    return np.where(means.known, z, np.float32(0))


def _block_mean(image: np.ndarray, step: int) -> np.ndarray:
    """Mean over square blocks; what lies beyond the edges is 0."""
    if step == 1:
        return np.asarray(image, np.float64)
    n_y, n_x = (-(-size // step) for size in image.shape)
    padded = np.zeros((n_y * step, n_x * step))
    padded[: len(image), : len(image.T)] = image
    rows = padded.reshape(n_y, step, n_x * step).sum(axis=1)
    return (rows.reshape(n_y, n_x, step).sum(axis=2) / step**2).astype(np.float32)


def _power_filter(image: np.ndarray, width: float, power: int) -> np.ndarray:
    """Sum over an image with weights G^power, 0 beyond the edges."""
    # the power of a Gaussian is a narrower one
    norm = (2 * np.pi * width**2) ** (1 - power) / power
    narrow = gaussian_filter(image, width / np.sqrt(power), mode="constant")
    return np.maximum(norm * narrow, 0)


def _unskewed(z: np.ndarray, skew: np.ndarray) -> np.ndarray:
    """Standard scores of a normal distribution from those of a skewed one."""
    skew = np.maximum(skew, 1e-3)
    return (6 / skew) * (np.cbrt(np.maximum(1 + skew * z / 2, 0)) - 1) + skew / 6


@dataclass(frozen=True, kw_only=True)
class GuardReport:
    """What the guard saw.

    Attributes
    ----------
    largest : float
        Largest size of z that was met, on any scale and in any pass, in standard
        deviations.
    flagged : float
        Part of the pixels whose HAADF image is not used because of it, 0 to 1.
    brighter : bool
        Whether the image is brighter than the maps tell where z is largest.
    """

    largest: float
    flagged: float
    brighter: bool

    @property
    def message(self) -> str:
        """What was seen and what it may mean; empty if all is well."""
        if self.flagged == 0:
            return ""
        percent = 100 * self.flagged
        shown = f"{percent:.0f}" if percent >= 1 else f"{percent:.1g}"
        where = f"in {shown} % of the pixels"
        if self.flagged == 1:
            where = "all over the image"
        cause = (
            "is brighter than the maps tell: an element may be missing"
            if self.brighter
            else "is darker than the maps tell: it may be saturated or shadowed"
        )
        return (
            f"the HAADF image contradicts the maps {where} (by up to "
            f"{self.largest:.0f} standard deviations) and is not used there. Where it "
            f"does so most, it {cause}, or the images may be displaced or distorted "
            f"against each other"
        )


def guard(
    prepared: PreparedData, maps: np.ndarray, recalibrate: Callable
) -> tuple[PreparedData, GuardReport]:
    """Find where the HAADF image contradicts the maps, and do without it there.

    Flagged regions bias the coefficients, so that these are found anew without them,
    and all pixels are looked at again: what was flagged only because of the bias comes
    back, what it hid is seen.

    Parameters
    ----------
    prepared : PreparedData
        With coefficients and offset.
    maps : numpy.ndarray
        The maps of the calibration, shape ``(n_elements, y, x)``.
    recalibrate : callable
        ``recalibrate(prepared)`` returns the data with new coefficients and offset,
        found where `trusted` is 1, and the maps.

    Returns
    -------
    prepared : PreparedData
        With `trusted` 0 in flagged regions, everywhere if too little is left, and the
        coefficients that belong to it.
    report : GuardReport
    """
    usable = prepared.trusted > 0
    everything = np.where(usable, prepared.haadf, np.nan)
    flagged = np.zeros(usable.shape, dtype=bool)
    extremes = []
    for k in range(_PASSES + 1):
        seen = np.where(flagged, np.nan, everything)
        scores = _scores(replace(prepared, haadf=seen), maps)
        extremes += [_extreme(z) for z in scores]
        suspicious = _suspicious(scores, threshold(prepared.pixels))
        if not suspicious.any():
            break
        flagged |= suspicious
        trusted = usable & ~flagged
        if k == _PASSES or trusted.sum() < _LEAST_TRUSTED * usable.sum():
            flagged = usable
            break
        prepared, maps = recalibrate(
            replace(prepared, trusted=trusted.astype(np.float32))
        )
    del seen, scores, suspicious  # before as much is needed once more
    prepared = replace(prepared, trusted=(usable & ~flagged).astype(np.float32))
    again = replace(prepared, haadf=everything)
    z = local_z(again, maps, step=_step(prepared, WIDTHS[0]))
    extreme = max([*extremes, _extreme(z)], key=abs)
    report = GuardReport(
        largest=abs(extreme),
        flagged=float(flagged[usable].mean()) if usable.any() else 0.0,
        brighter=extreme > 0,
    )
    return prepared, report


def _extreme(z: np.ndarray) -> float:
    """The value that is farthest from zero."""
    return float(z.flat[np.abs(z).argmax()])


def _scores(prepared: PreparedData, maps: np.ndarray) -> list[np.ndarray]:
    """Local z on all scales that fit into the image."""
    size = min(prepared.haadf.shape)
    widths = [width for width in WIDTHS if width == WIDTHS[0] or 6 * width <= size]
    steps = [_step(prepared, width) for width in widths]
    means = _BlockMeans.of(prepared, maps, steps[0])
    scores = []
    for width, step in zip(widths, steps, strict=True):
        means = means.coarser(step // means.step)
        scores.append(_standardised(prepared, means, width))
    return scores


def _step(prepared: PreparedData, width: float) -> int:
    """Pixels a side of the blocks that the guard looks at."""
    return int(width) // 2 if prepared.haadf.size > _LARGE else 1


def threshold(n_pixels: int) -> float:
    """Local misfit above which the HAADF image is not used, standard deviations.

    4.5 in images of up to 256 x 256 pixels; in larger ones as much more as it takes
    for a false alarm to be as rare an image, 5.3 in 2048 x 2048.
    """
    return float(-ndtri(ndtr(-_THRESHOLD) * min(_USUAL / n_pixels, 1)))


def _suspicious(scores: Sequence[np.ndarray], least: float) -> np.ndarray:
    """Pixels of the worst regions on the finest scale that shows any, and around."""
    for z in scores:
        size = np.abs(z)
        if size.max() > least:
            peaks = size > max(least, _WORST * size.max())
            flagged = np.zeros(z.shape, dtype=bool)
            for sign in (-1, 1):
                side = sign * z
                flagged |= binary_propagation(peaks & (side > 0), mask=side > _REACH)
            return binary_dilation(flagged, iterations=_MARGIN)
    return np.zeros(scores[0].shape, dtype=bool)
