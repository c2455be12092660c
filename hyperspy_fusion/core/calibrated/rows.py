"""Noise that the pixels of a row of the HAADF image share.

The beam current or the dwell time may differ from row to row, and detectors pick up hum
of the mains. A specimen has structure along rows, too; but that is in the maps as well,
or is smooth, periodic, or at a few edges. Noise of rows has the same power at all
frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.fft import dct, idct
from scipy.ndimage import gaussian_filter

from .noise import MAD_TO_SIGMA

if TYPE_CHECKING:
    from .reading import Units

_LEAST_SIZE = 48  # pixels a side
_MEASURED = 0.98  # fraction of the pixels
_LEAST_ROWS = 8  # of a part of the image
_WIDTH = 1.5  # pixels, of the Gaussian of the maps that explain the image
# Power of the means of the rows over that by the noise of their pixels, the same over
# that of the other axis, and its root over the contrast of the image: less is chance,
# the specimen, or harmless.
_POWER, _UNEVEN, _CONTRAST = 15.0, 4.0, 0.02
_STRUCTURE = 9.0  # power over that of the noise of rows, above which it is specimen
_CLIPPED = 3.0  # standard deviations of residuals, which edges have more of
_PASSES = 4  # of the weights of the fit
_RIDGE = 0.05  # of the mean square: rows with less signal hardly show their gain
_LEAST_GAIN = 0.2
_DARK = 0.01  # quantile of the image
_LEFT = 0.98  # of the differences of neighbouring rows, after a correction
_SIGNIFICANT = 3.5  # standard deviations, of how the counts of the maps vary


@dataclass(frozen=True, kw_only=True)
class RowNoise:
    """Noise of the rows, or columns, of an image.

    Attributes
    ----------
    axis : int
        0 if pixels share it along rows, 1 if along columns.
    dark : float or None
        Intensity that a gain of the rows does not change; None if they have offsets.
    size : float
        Standard deviation of their means by it, over that of the image.
    follow : bool
        Whether the counts of the maps vary alike.
    """

    axis: int
    dark: float | None
    size: float
    follow: bool = False

    @property
    def message(self) -> str:
        """What a user has to know."""
        lines = ("rows", "columns")[self.axis]
        kind = "offsets" if self.dark is None else "gains"
        cause = (
            "the counts of the maps do not show it, so that it seems to be of the "
            "detector, or there are too few counts to tell"
        )
        if self.follow:
            what = ("beam current or dwell time", "the thickness of the specimen")
            cause = (
                f"the counts of the maps vary alike, as if {what[self.axis]} varied. "
                "The maps were not corrected for it"
            )
        return (
            f"the HAADF image has scan-line noise: {kind} of its {lines}, "
            f"{100 * self.size:.0f} % of the standard deviation of the image, were "
            f"removed from it; {cause}. Averaging many fast frames reduces it"
        )


def levelled(
    image: np.ndarray,
    seen: np.ndarray,
    maps: np.ndarray,
    units: Units,
    tile: int | None,
) -> tuple[np.ndarray, RowNoise | None]:
    """The image without the noise of its rows, and that noise; None if it has none.

    The image itself is returned if it has none.

    Parameters
    ----------
    image, seen, maps : numpy.ndarray
        As for :func:`find_row_noise`.
    units : Units
        With the noise of a whole image, if this is a part of it.
    tile : int or None
        Pixels a side of the tiles from which the image is put together; None if it is
        not.
    """
    n_y, n_x = image.shape if tile is None else (tile, tile)
    places = [
        (..., slice(y, y + n_y), slice(x, x + n_x))
        for y in range(0, image.shape[0], n_y)
        for x in range(0, image.shape[1], n_x)
    ]
    rows = units.rows
    models = [_explained(image[at], maps[at]) for at in places]
    if rows is None:
        tried = [
            find_row_noise(
                image[at], seen[at], maps[at], model, units.noise, units.base
            )
            for at, model in zip(places, models, strict=True)
        ]
        found = [one for one in tried if one is not None]
        if 2 * len(found) <= len(tried):
            return image, None
        rows = sorted(found, key=lambda one: one.size)[len(found) // 2]
    image = image.copy()
    for at, model in zip(places, models, strict=True):
        image[at] = without_row_noise(image[at], seen[at], model, rows)
    return image, rows


def find_row_noise(
    image: np.ndarray,
    seen: np.ndarray,
    maps: np.ndarray,
    model: np.ndarray,
    noise: Any,
    base: float,
) -> RowNoise | None:
    """Noise of the rows or columns of an image; None if there is none.

    Parameters
    ----------
    image : numpy.ndarray
        Without gaps, shape ``(y, x)``.
    seen : numpy.ndarray of bool
        Where image and maps were measured.
    maps : numpy.ndarray
        Without gaps, shape ``(n_elements, y, x)``.
    model : numpy.ndarray
        What these explain of the image.
    noise : NoiseLine
        Of the pixels.
    base : float
        What was subtracted from the image.
    """
    too_few = min(image.shape) < _LEAST_SIZE or seen.mean() < _MEASURED
    if too_few or not np.ptp(image):
        return None
    left = np.where(seen, image - model, 0)
    most = _CLIPPED * MAD_TO_SIGMA * np.median(abs(left))
    clipped = np.clip(left, -most, most)
    white = np.array([_white(clipped.mean(axis=1 - axis)) for axis in (0, 1)])
    power = white * image.shape[::-1] / np.mean(noise.variance(image))
    axis = int(power.argmax())
    size = float(np.sqrt(white[axis]) / np.std(image, where=seen))
    least = max(_POWER, _UNEVEN * power.min())
    if power[axis] < least or size < _CONTRAST:
        return None
    dark = float(np.quantile(gaussian_filter(image, 1), _DARK))
    nothing = [-base] if -base < dark else []  # all of it may be multiplied
    best, least_uneven = None, _LEFT * _unevenness(image, axis)
    for level in (None, dark, *nothing):
        tried = RowNoise(axis=axis, dark=level, size=size)
        levelled = without_row_noise(image, seen, model, tried)
        uneven = _unevenness(levelled, axis)
        if uneven < least_uneven:
            best, least_uneven = tried, uneven
    if best is None:
        return None
    relative = left.mean(axis=1 - axis) / (image.mean() - dark)
    sums = maps.sum(axis=2 - axis, dtype=np.float64)
    sums = sums[np.ptp(sums, axis=1) > 0]
    if not len(sums):
        return best
    slopes, errors = _slopes(relative, sums)
    weights = 1 / errors**2
    common = weights @ slopes / weights.sum()
    significance = common * np.sqrt(weights.sum())
    unequal = abs(slopes - common) > _SIGNIFICANT * errors
    if significance < -_SIGNIFICANT or unequal.any():
        return None  # layers of the specimen
    return replace(best, follow=bool(significance > _SIGNIFICANT))


def without_row_noise(
    image: np.ndarray, seen: np.ndarray, model: np.ndarray, rows: RowNoise
) -> np.ndarray:
    """The image without the noise of its rows.

    What has more power at a frequency than that noise is left to the specimen. The
    arrays are those of :func:`find_row_noise`.
    """
    if rows.axis == 1:
        turned = replace(rows, axis=0)
        return without_row_noise(image.T, seen.T, model.T, turned).T
    if len(image) < _LEAST_ROWS:  # of a tile
        return image
    rest = image - model
    signal = np.ones_like(model)
    if rows.dark is not None:
        signal = np.maximum(model - rows.dark, 0)
    least = _RIDGE * np.mean(signal**2)
    weight = seen.astype(np.float64)
    for _ in range(_PASSES):
        norm = np.sum(weight * (signal**2 + least), axis=1, keepdims=True)
        found = np.sum(weight * signal * rest, axis=1, keepdims=True)
        found /= np.maximum(norm, 1e-30)
        left = rest - found * signal
        spread = MAD_TO_SIGMA * np.median(abs(left), axis=1, keepdims=True)
        weight = seen / (1 + (left / (2 * spread + 1e-9 * np.ptp(image) + 1e-30)) ** 2)
    waves = dct(found[:, 0], norm="ortho")
    waves[waves**2 > _STRUCTURE * _white(found[:, 0])] = 0
    waves[0] = 0
    found = idct(waves, norm="ortho")[:, None]
    if rows.dark is None:
        return (image - found).astype(image.dtype)
    return (
        rows.dark + (image - rows.dark) / np.maximum(1 + found, _LEAST_GAIN)
    ).astype(image.dtype)


def _explained(image: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """What the smoothed maps explain of an image."""
    smooth = np.stack([gaussian_filter(m, _WIDTH, output=np.float64) for m in maps])
    smooth -= smooth.mean(axis=(1, 2), keepdims=True)
    each = smooth.reshape(len(maps), -1)
    found, *_ = np.linalg.lstsq(each @ each.T, each @ image.ravel(), rcond=1e-9)
    return image.mean(dtype=np.float64) + np.tensordot(found, smooth, axes=1)


def _white(profile: np.ndarray) -> float:
    """Power of the part of a profile that has the same at all frequencies.

    A few waves, and a few edges, do not matter.
    """
    window = np.hanning(len(profile) + 2)[1:-1]
    power = abs(np.fft.rfft(window * (profile - profile.mean()))) ** 2
    power /= np.log(2) * np.sum(window**2)  # median of exponential numbers, to mean
    n = len(power)
    # that of a specimen falls towards high frequencies
    high = min(np.median(power[n // 2 :]), np.median(power[3 * n // 4 :]))
    bends = MAD_TO_SIGMA * np.median(abs(np.diff(profile, 2)))
    return float(min(high, bends**2 / 6))


def _unevenness(image: np.ndarray, axis: int) -> float:
    return float(np.mean(abs(np.diff(image, axis=axis)), dtype=np.float64))


def _slopes(change: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative change of the sums of maps over a row per that of the image.

    At high frequencies, with their standard deviations.
    """
    means = sums.mean(axis=1)
    waves, of_maps = dct(change, norm="ortho"), dct(sums, norm="ortho")
    used = waves**2 <= _STRUCTURE * _white(change)
    used[: len(waves) // 2] = False
    waves, of_maps = waves[used], of_maps[:, used]
    norm = np.maximum(waves @ waves, 1e-30)
    found = of_maps @ waves / norm
    left = np.mean((of_maps - np.outer(found, waves)) ** 2, axis=1)
    return found / means, np.sqrt(left / norm) / means
