r"""Where the HAADF image contradicts the maps: model error and local misfit.

The noise of the HAADF image is far lower than that of the maps, so that whatever the
linear model :math:`h = o + \sum_i c_i x_i` leaves out would be turned into chemistry.
The measured maps, which do not depend on the image, show where that happens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from scipy.ndimage import (
    binary_dilation,
    binary_propagation,
    gaussian_filter,
    gaussian_filter1d,
)
from scipy.special import ndtr, ndtri

from ..common.operators import products
from ..common.spans import cropped, spans_of
from .noise import cumulant_of_mean
from .prepare import PreparedData

WIDTHS = 4.0, 8.0, 16.0  # pixels, of the Gaussians over which misfits are averaged

# Standard deviations above which a local misfit is flagged in images of up to _USUAL
# pixels; larger ones have larger extremes by chance.
_THRESHOLD = 4.5
_USUAL = 256**2
_REACH = 2.0  # standard deviations, at the edge of a flagged region

# Harmless slow misfit: fractions of the standard deviation of the image, since
# detectors are not more linear than that, and of the model error, which is not white.
_SLOW_CONTRAST = 0.015
_SLOW_ERROR = 0.2
_MARGIN = 2  # pixels added around a flagged region
_PASSES = 8
_LARGE = 2**15  # pixels, above which misfits are averaged over blocks
_ROWS = 256  # rows at a time; a multiple of the sides of all blocks
_LEAST_SHARE = 0.2  # fraction of a Gaussian on known pixels; 0.25 in a corner
_WORST = 0.5  # fraction of the largest misfit above which others are flagged, too
_LEAST_TRUSTED = 0.25  # fraction of the pixels, to find coefficients from
_BAND = 1.5, 4.0  # pixels, of the Gaussians of the band-pass filter of model errors
_PASSED = 1 / 3  # fraction of the power that it passes at periods of 10 to 16 pixels
_MEDIAN_SQUARE = 0.455  # median of the squares of standard normal numbers
_TYPICAL = 2.0  # times the noise, from which on there is a model error

# Inverted contrast: width in pixels of the Gaussian that averages the counts, and the
# correlation of image and expected image below which the contrast is inverted.
_CONTRAST_WIDTH = 1.5
_INVERTED = -0.5

_TOO_FEW = (
    "the maps hold too few counts to judge whether the HAADF image contradicts them: "
    "trust the fused maps only if it shows the same specimen, with an intensity that "
    "grows with the thickness and all heavy elements among the maps"
)


def prediction(prepared: PreparedData, maps: np.ndarray) -> np.ndarray:
    """The linear model of the image, o + Σ c_i x_i."""
    return prepared.offset + np.tensordot(prepared.coefficients, maps, axes=1)


def misfit(prepared: PreparedData, maps: np.ndarray) -> np.ndarray:
    """HAADF image minus its model from fused or net maps, units of the image."""
    return prepared.haadf - prediction(prepared, maps)


def model_error(prepared: PreparedData, maps: np.ndarray) -> float:
    """Standard deviation of what the linear model cannot explain all over the image.

    A local misfit is flagged by the guard; one that is everywhere, as when the maps are
    not proportional to the thickness, makes the image a less precise measurement than
    its noise suggests. The residual of the measured maps is filtered to scales of 1.5
    to 4 pixels; its median square is insensitive to a few places. `maps` are fused
    ones, from which the noise is computed. Returns units of the image; 0 unless the
    median square is twice that of the noise.
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


def contrast(prepared: PreparedData, prior: np.ndarray) -> float:
    """Correlation of the HAADF image and the one that is expected from the maps.

    The expected image is the sum of the net maps with the weights of the prior, which
    do not depend on the image. 0 where nothing can be compared.
    """
    expected = np.tensordot(prior.astype(np.float32), prepared.net(), axes=1)
    known = np.isfinite(expected) & (prepared.trusted > 0)
    if not known.any():
        return 0.0
    share = gaussian_filter(known.astype(np.float64), _CONTRAST_WIDTH)
    pair = []
    for image in (expected, prepared.haadf):
        total = gaussian_filter(
            np.where(known, image, 0), _CONTRAST_WIDTH, output=np.float64
        )
        values = total[known] / share[known]
        pair.append(values - values.mean())
    (one, mixed), (_, other) = products(np.stack(pair), np.stack(pair))
    scale = np.sqrt(one * other)
    return float(mixed / scale) if scale > 0 else 0.0


def is_inverted(correlation: float) -> bool:
    """Whether an image of this :func:`contrast` seems to be inverted."""
    return correlation < _INVERTED


def local_z(
    prepared: PreparedData, maps: np.ndarray, width: float = WIDTHS[0], step: int = 1
) -> np.ndarray:
    r"""Local misfit of the HAADF image and the measured maps, in standard deviations.

    .. math::

        z = \frac{G * (h - o - \sum_i c_i (b_i - β_i))}
                 {\sqrt{G^2 * (σ_h^2 + \sum_i c_i^2 \operatorname{var} b_i) + ε^2}}

    with a Gaussian G, var b_i = x_i + β_i for counts, and a harmless slow misfit ε of
    0.015 standard deviations of the image and 0.2 model errors. Few counts have a
    skewed distribution: z is made normal by the transformation of E. B. Wilson and M.
    M. Hilferty, Proc. Natl. Acad. Sci. 17, 684 (1931), with the third cumulant
    :math:`-G^3 * \sum_i c_i^3 (x_i + β_i)`.

    The test assumes that the image is right. Where by chance no counts were measured,
    the fused maps are too small to explain it and would have hardly any noise: there
    the counts that the image tells are added to them, in the mean composition.

    Parameters
    ----------
    prepared : PreparedData
        With coefficients and offset; `trusted` is ignored.
    maps : numpy.ndarray
        Fused maps x, from which the noise is computed; or on pixels twice as large.
    width : float
        Standard deviation of G, pixels.
    step : int
        Pixels a side of blocks that are averaged beforehand, for speed; z is the same
        in all pixels of a block.

    Returns
    -------
    numpy.ndarray
        z, dimensionless, shape ``(y, x)``; positive where the image is brighter than
        expected from the maps. Pixels that are missing in a map or in the image are
        left out; z is 0 there, and where few others are near.
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
    """Means over square blocks of `step` pixels a side, with 0 for unknown pixels.

    `known` is True where the residual is known, `share` its mean in each block;
    `residual`, `second` and `third` are block means of the residual and of the
    cumulants of its noise, `unexplained` of the image minus its model from fused maps.
    `per_count` is the intensity of a count of the mean composition, 0 if the noise does
    not depend on the maps.
    """

    _MEANS: ClassVar = "share", "residual", "second", "third", "unexplained"

    step: int
    per_count: float
    known: np.ndarray
    share: np.ndarray
    residual: np.ndarray
    second: np.ndarray
    third: np.ndarray
    unexplained: np.ndarray

    @classmethod
    def of(cls, prepared: PreparedData, maps: np.ndarray, step: int) -> "_BlockMeans":
        """Compute the means, some rows at a time to save memory."""
        known = np.empty(prepared.haadf.shape, bool)
        total = np.zeros(len(maps))
        parts = []
        for start in range(0, len(known), _ROWS):
            rows = slice(start, start + _ROWS)
            some, fused = prepared.rows(rows), _fine_rows(maps, known, rows)
            cumulants = _cumulants(some, fused)
            total += fused.sum(axis=(1, 2), dtype=np.float64)
            known[rows] = np.isfinite(cumulants[0])
            parts.append(
                [
                    _block_mean(np.where(known[rows], image, 0), step)
                    for image in (1.0, *cumulants, misfit(some, fused))
                ]
            )
        means = (np.concatenate(part) for part in zip(*parts, strict=True))
        return cls(
            step=step,
            per_count=_per_count(prepared, total),
            known=known,
            **dict(zip(cls._MEANS, means, strict=True)),
        )

    def coarser(self, factor: int) -> "_BlockMeans":
        """Means over blocks that are larger by a factor."""
        if factor == 1:
            return self
        means: dict[str, Any] = {
            name: _block_mean(getattr(self, name), factor) for name in self._MEANS
        }
        return replace(self, step=self.step * factor, **means)


def _per_count(prepared: PreparedData, total: np.ndarray) -> float:
    """Intensity of a count of the mean composition; 0 if the noise is given."""
    c = prepared.coefficients
    brightness = c @ total
    if prepared.variance is not None or not brightness > 0:
        return 0.0
    return float(c**2 @ total / brightness)


def _fine_rows(maps: np.ndarray, image: np.ndarray, rows: slice) -> np.ndarray:
    """Rows of maps on the pixels of an image, whose pixels may be twice as small."""
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
    enough = share > _LEAST_SHARE
    excess = gaussian_filter(means.unexplained, width, mode="constant")
    excess = np.divide(excess, share, out=np.zeros_like(excess), where=enough)
    added = means.per_count * np.maximum(excess, 0) * means.share
    slow = np.hypot(_SLOW_CONTRAST * prepared.contrast, _SLOW_ERROR * prepared.error)
    # cumulants of the mean of step² numbers
    second = (means.second + added) / step**2
    variance = np.maximum(cumulant_of_mean(second, width, mode="constant"), 0)
    spread = np.hypot(np.sqrt(variance), slow * share)
    z = np.divide(total, spread, out=np.zeros_like(total), where=enough)
    if prepared.variance is None:
        third = (means.third + means.per_count * added) / step**4
        third = np.maximum(cumulant_of_mean(third, width, 3, mode="constant"), 0)
        skew = np.divide(third, spread**3, out=np.zeros_like(third), where=enough)
        z = np.where(enough, -_unskewed(-z, skew), 0)
    z = z.astype(np.float32).repeat(step, axis=0).repeat(step, axis=1)
    z = z[: len(means.known), : len(means.known.T)]
    z[~means.known] = 0
    return z


def _block_mean(image: np.ndarray, step: int) -> np.ndarray:
    """Mean over square blocks; 0 beyond the edges."""
    if step == 1:
        return np.asarray(image, np.float64)
    n_y, n_x = (-(-size // step) for size in image.shape)
    padded = np.zeros((n_y * step, n_x * step))
    padded[: len(image), : len(image.T)] = image
    rows = padded.reshape(n_y, step, n_x * step).sum(axis=1)
    return (rows.reshape(n_y, n_x, step).sum(axis=2) / step**2).astype(np.float32)


def _unskewed(z: np.ndarray, skew: np.ndarray) -> np.ndarray:
    """Normal scores from those of a skewed distribution."""
    skew = np.maximum(skew, 1e-3)
    return (6 / skew) * (np.cbrt(np.maximum(1 + skew * z / 2, 0)) - 1) + skew / 6


@dataclass(frozen=True, kw_only=True)
class GuardReport:
    """Where the HAADF image contradicts the maps.

    Attributes
    ----------
    largest : float
        Largest absolute z on any scale and in any pass, in standard deviations; NaN if
        not `judged`.
    flagged : float
        Fraction of the pixels whose HAADF image is not used because of it.
    brighter : bool
        Whether the image is brighter than expected where z is largest.
    correlation : float
        Of the image with the one that is expected from the maps.
    judged : bool
        False if the maps hold too few counts for a contradiction to be found.
    spans : numpy.ndarray
        The flagged pixels, as :mod:`~hyperspy_fusion.core.common.spans`.
    """

    largest: float = np.nan
    flagged: float = 0.0
    brighter: bool = False
    correlation: float = 0.0
    judged: bool = True
    spans: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))

    def within(self, rows: slice, columns: slice, trusted: np.ndarray) -> "GuardReport":
        """The report of a part of the image; `trusted` is not 0 where it is used."""
        spans = cropped(self.spans, rows, columns)
        n_flagged = np.diff(spans[:, 1:]).sum()
        n_usable = n_flagged + np.count_nonzero(trusted[rows, columns])
        flagged = float(n_flagged / n_usable) if n_usable else 0.0
        return replace(self, flagged=flagged, spans=spans)

    @property
    def inverted(self) -> bool:
        """Whether the image is dark where the maps are bright, all in all."""
        return is_inverted(self.correlation)

    def message_of(self, name: str) -> str:
        """The warning about an image of this name; empty if nothing was found."""
        inverted = (
            "seems to have inverted contrast, as a bright-field image: it is dark "
            f"where the maps are bright (correlation {self.correlation:.2f}). Pass the "
            "annular dark-field image, or haadf * -1.0; if it is a dark-field image, a "
            "heavy element is missing among the maps"
        )
        if self.flagged == 0 and self.inverted:
            return f"{name} {inverted}"
        if self.flagged == 0:
            return "" if self.judged else _TOO_FEW
        percent = 100 * self.flagged
        shown = f"{percent:.0f}" if percent >= 1 else f"{percent:.1g}"
        where = f"in {shown} % of the pixels"
        if self.flagged == 1:
            where = "all over the image"
        cause = "is darker than expected from the maps: it may be saturated or shadowed"
        if self.brighter:
            cause = "is brighter than expected from the maps: an element may be missing"
        found = (
            f"{name} contradicts the maps {where} (by up to "
            f"{self.largest:.0f} standard deviations) and is not used there."
        )
        if self.inverted:
            return f"{found} It {inverted}"
        return (
            f"{found} Where it does so most, it {cause}, or the images may be "
            "displaced or distorted against each other"
        )


def guard(
    prepared: PreparedData,
    maps: np.ndarray,
    recalibrate: Callable,
    *,
    judged: bool | None = None,
) -> tuple[PreparedData, GuardReport]:
    """Find where the HAADF image contradicts the maps; it is not used there.

    Flagged regions bias the coefficients, so these are found again without them, and
    all pixels are tested again: what was flagged because of the bias comes back, what
    the bias hid is found.

    Parameters
    ----------
    prepared : PreparedData
        With coefficients and offset.
    maps : numpy.ndarray
        The fused maps of the calibration.
    recalibrate : callable
        ``recalibrate(prepared)`` returns the data with new coefficients and offset,
        found where `trusted` is 1, and the maps.
    judged : bool, optional
        Whether there are enough counts, else nothing is flagged; of a tile that of its
        image, by default it is found.

    Returns
    -------
    prepared : PreparedData
        With `trusted` 0 in flagged regions, everywhere if too little is left, and new
        coefficients.
    report : GuardReport
    """
    if judged is None:
        judged = _are_enough(prepared)
    usable = prepared.trusted > 0
    everything = np.where(usable, prepared.haadf, np.nan)
    flagged = np.zeros(usable.shape, dtype=bool)
    extremes = []
    for k in range(_PASSES + 1):
        seen = np.where(flagged, np.nan, everything) if k else everything
        scores = _scores(replace(prepared, haadf=seen), maps)
        extremes += [_extreme(z) for z in scores]
        suspicious = _suspicious(scores, threshold(prepared.pixels))
        if not (judged and suspicious.any()):
            break
        flagged |= suspicious
        trusted = usable & ~flagged
        if k == _PASSES or trusted.sum() < _LEAST_TRUSTED * usable.sum():
            flagged = usable
            break
        prepared, maps = recalibrate(
            replace(prepared, trusted=trusted.astype(np.float32))
        )
    del seen, scores, suspicious  # makes room for the next pass
    prepared = replace(prepared, trusted=(usable & ~flagged).astype(np.float32))
    again = replace(prepared, haadf=everything)
    z = local_z(again, maps, step=_step(prepared, WIDTHS[0]))
    extreme = max([*extremes, _extreme(z)], key=abs)
    report = GuardReport(
        largest=abs(extreme) if judged else np.nan,
        flagged=float(flagged[usable].mean()) if usable.any() else 0.0,
        brighter=extreme > 0,
        judged=judged,
        spans=spans_of(flagged & usable),
    )
    return prepared, report


def _are_enough(prepared: PreparedData) -> bool:
    """Whether a contradiction as large as the image itself could be found.

    Where N counts are expected besides B of the background and only B are measured, z
    is N divided by the square root of N + B.
    """
    if prepared.variance is not None:
        return True
    width = max(_widths(prepared.haadf.shape))
    least = threshold(prepared.pixels) / np.sqrt(4 * np.pi) / width
    net, total = np.empty((2, *prepared.haadf.shape), prepared.data.dtype)
    for start in range(0, len(net), _ROWS):  # some at a time to save memory
        rows = slice(start, start + _ROWS)
        some = prepared.rows(rows)
        net[rows] = np.nan_to_num(some.net()).sum(axis=0)
        total[rows] = np.nan_to_num(some.data).sum(axis=0)
    if net.mean() > least * np.sqrt(total.mean()):  # found faster
        return True
    net, total = (gaussian_filter(image, width) for image in (net, total))
    return bool((net > least * np.sqrt(np.maximum(total, 0))).any())


def _extreme(z: np.ndarray) -> float:
    """The value farthest from zero."""
    return float(z.flat[np.abs(z).argmax()])


def _scores(prepared: PreparedData, maps: np.ndarray) -> list[np.ndarray]:
    """Local z on all scales that fit into the image."""
    widths = _widths(prepared.haadf.shape)
    steps = [_step(prepared, width) for width in widths]
    means = _BlockMeans.of(prepared, maps, steps[0])
    scores = []
    for width, step in zip(widths, steps, strict=True):
        means = means.coarser(step // means.step)
        scores.append(_standardised(prepared, means, width))
    return scores


def _widths(shape: tuple[int, ...]) -> list[float]:
    """The scales that fit into an image."""
    return [WIDTHS[0], *(width for width in WIDTHS[1:] if 6 * width <= min(shape))]


def _step(prepared: PreparedData, width: float) -> int:
    """Pixels a side of the blocks on which a scale is tested."""
    return int(width) // 2 if prepared.haadf.size > _LARGE else 1


def threshold(n_pixels: int) -> float:
    """Local misfit above which the HAADF image is not used, standard deviations.

    4.5 in images of up to 256 x 256 pixels; in larger ones it grows so that a false
    alarm stays equally rare per image, to 5.3 at 2048 x 2048.
    """
    return float(-ndtri(ndtr(-_THRESHOLD) * min(_USUAL / n_pixels, 1)))


def _suspicious(scores: Sequence[np.ndarray], least: float) -> np.ndarray:
    """Pixels of the worst regions on the finest scale that shows any, with a margin."""
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
