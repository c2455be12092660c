"""Displacement of the HAADF image against the maps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
from scipy import fft, ndimage

from ..common.operators import block_sums, products
from .prepare import PreparedData
from .weights import significance, vertex

_NEAR = 4  # pixels, from the best of all displacements
_SHIFT_Z = 2.0  # standard deviations, as for the gain of the HAADF image
_COARSE = 128  # pixels a side, of the images whose displacements are all tried
# Part of the squares of a smaller displacement that a larger one leaves at most. Due to
# the noise of the maps, cells of a lattice of 4 x 4 leave down to 0.78 of each other.
_FAR_LEFT = 0.7
# Least part of the squares that a near displacement, or parts of a pixel, explain, by
# its significance and the pixels a side; up to 16 by the noise of the maps.
_LEAST_GAIN = 20.0
_WORTH_A_TRIAL = 0.01  # part of the squares that a parabola has to promise


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Displacement of the HAADF image against the maps; 0 unless it is significant.

    `y` and `x` in pixels, positive where the features of the image lie further down and
    right; `z`, how much better the displaced model fits, in standard deviations.
    """

    y: float = 0.0
    x: float = 0.0
    z: float = 0.0

    @property
    def significant(self) -> bool:
        """Whether there is a displacement."""
        return (self.y, self.x) != (0, 0)

    @property
    def is_far(self) -> bool:
        """Whether it is larger than what is looked for nearby."""
        return max(abs(self.y), abs(self.x)) > _NEAR

    def message_of(self, name: str) -> str:
        """The warning about an image; empty if there is no displacement."""
        if not self.significant:
            return ""
        whole = self.y.is_integer() and self.x.is_integer()
        how = "by whole pixels" if whole else "and interpolated by cubic splines"
        return (
            f"{name} is displaced against the maps by ({self.y:.3g}, "
            f"{self.x:.3g}) pixels (down, right; {self.z:.1f} standard deviations): it "
            f"was moved back {how}"
        )

    def __add__(self, other: "Shift") -> "Shift":
        """One displacement after the other."""
        return Shift(y=self.y + other.y, x=self.x + other.x, z=max(self.z, other.z))


def far_shift(image: np.ndarray, weight: np.ndarray, model: np.ndarray) -> Shift:
    """Displacement of the HAADF image by up to a quarter of the field.

    On coarse pixels of a large image. The displacement that leaves least of the image
    unexplained is taken, if it leaves much less than none does; of those that do not
    leave much more the smallest, since a lattice is like itself after each period.

    `weight` is the inverse noise variance in any unit, 0 where the image is not used.
    `model` is the image that maps with little noise are expected to give: with
    coefficients of their own, the maps of a lattice also fit where its columns have
    changed places.
    """
    factor = -(-max(image.shape) // _COARSE)
    image, weight, maps = (_coarse(a, factor) for a in (image, weight, model[None]))
    reach = tuple(n // 4 for n in image.shape)
    if not _can_be_tried(weight, reach):
        return Shift()
    left = _unexplained(image, weight, maps, reach)
    if not left.min() <= _FAR_LEFT * left[reach]:  # or NaN, of a constant image
        return Shift()
    alike = (left == ndimage.minimum_filter(left, 3)) & (_FAR_LEFT * left <= left.min())
    places = np.argwhere(alike) - reach
    y, x = places[np.argmin((places**2).sum(axis=1))].tolist()
    z, _ = _gain(image, weight, maps, y, x)
    if z <= _SHIFT_Z:
        return Shift()
    return Shift(y=float(y * factor), x=float(x * factor), z=z)


def near_shift(
    prepared: PreparedData, maps: np.ndarray, *, whole: bool = False
) -> Shift:
    """Displacement of the HAADF image by up to 4 pixels, and by parts of a pixel.

    Maps moved by whole pixels are fitted to the image with coefficients of their own,
    since a displacement biases those found before. The search descends from no
    displacement to the next minimum of the squares, refined by a parabola if that
    explains more. `maps` are fused without the image. `whole` leaves parts of a pixel
    out.
    """
    image, weight = prepared.haadf, prepared.precision
    reach = min(_NEAR, (min(image.shape) - 1) // 4)
    if not _can_be_tried(weight, (reach, reach)):
        return Shift()
    least = _LEAST_GAIN / np.sqrt(image.size)
    squares = _squares_of(image, weight, maps, reach)
    here, best = None, (0, 0)
    while best != here:  # until no neighbour is better
        here = y, x = best
        around = [(y + j, x + i) for j in (0, -1, 1) for i in (0, -1, 1)]
        best = min(around, key=lambda place: squares(*place))
    z = 0.0
    if max(map(abs, best)) == reach:  # the end of the search is no minimum
        best = (0, 0)
    if best != (0, 0):
        z, part = _gain(image, weight, maps, *best)
        if z <= _SHIFT_Z or z * part <= least:
            best, z = (0, 0), 0.0
    y, x = best
    if whole:
        return Shift(y=float(y), x=float(x), z=z)
    along_y = [squares(y + k, x) for k in (-1, 0, 1)]
    along_x = [squares(y, x + k) for k in (-1, 0, 1)]
    (rest_y, lower_y), (rest_x, lower_x) = vertex(along_y), vertex(along_x)
    if lower_y + lower_x > _WORTH_A_TRIAL * squares(y, x):
        rest = rest_y, rest_x
        more, part = _gain(image, weight, maps, y, x, rest)
        if more > _SHIFT_Z and more * part > least:
            return Shift(y=y + rest_y, x=x + rest_x, z=max(z, more))
    return Shift(y=float(y), x=float(x), z=z)


def _squares_of(
    image: np.ndarray, weight: np.ndarray, maps: np.ndarray, reach: int
) -> Callable[[int, int], float]:
    """Squares that the maps leave of the image when moved by (y, x), up to `reach`.

    Of the pixels that no displacement removes; infinite beyond.
    """
    inner = (slice(reach, -reach),) * 2
    n_y, n_x = image.shape
    weight = weight[inner]
    image = image[inner] - np.average(image[inner], weights=weight)
    weighted = weight * image
    variance = float(np.vdot(weighted, image))
    # reused for each displacement: fresh memory is slow
    columns = np.ones((len(maps) + 1, *image.shape))
    scaled = np.empty_like(columns)

    @cache
    def squares(y: int, x: int) -> float:
        if max(abs(y), abs(x)) > reach:
            return np.inf
        columns[:-1] = maps[:, reach - y : n_y - reach - y, reach - x : n_x - reach - x]
        np.multiply(columns, weight, out=scaled)
        right = products(columns, weighted[None])[:, 0]
        normal = products(scaled, columns)
        solution = np.linalg.lstsq(normal, right, rcond=1e-10)[0]
        return variance - float(right @ solution)

    return squares


def _can_be_tried(weight: np.ndarray, reach: tuple[int, ...]) -> bool:
    """Whether displacements that far leave a part of the image that is used."""
    inner = tuple(slice(r, n - r) for n, r in zip(weight.shape, reach, strict=True))
    return min(reach) > 0 and bool(weight[inner].any())


def _coarse(array: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of pixels."""
    if factor == 1:
        return array
    n_y, n_x = (n // factor for n in array.shape[-2:])
    array = array[..., : n_y * factor, : n_x * factor]
    shape = *array.shape[:-2], n_y, factor, n_x, factor
    return array.reshape(shape).mean(axis=(-3, -1))


def _unexplained(
    image: np.ndarray, weight: np.ndarray, maps: np.ndarray, reach: tuple[int, ...]
) -> np.ndarray:
    """Fraction of the variance of the image that displaced maps leave unexplained.

    For all displacements up to `reach` in either direction, shape ``(2 reach_y + 1, 2
    reach_x + 1)``, within the pixels that both have. The sums of each fit are
    correlations, by fast Fourier transforms.
    """
    shape = [
        fft.next_fast_len(n + r, real=True)
        for n, r in zip(image.shape, reach, strict=True)
    ]
    around = np.ix_(*(np.arange(-r, r + 1) for r in reach))

    def transform(array: np.ndarray) -> np.ndarray:
        return fft.rfft2(array, shape)

    def correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return fft.irfft2(one * transform(other).conj(), shape)[around]

    weight = np.asarray(weight, dtype=np.float64)
    image = image - np.average(image, weights=weight)
    level = np.abs(maps).max(axis=(1, 2), keepdims=True)
    maps = maps / np.where(level > 0, level, 1).astype(np.float64)
    n = len(maps)
    weights, first, second = (transform(weight * image**k) for k in range(3))
    one = np.ones(image.shape)
    sums = correlation(weights, one)
    mean = correlation(first, one) / sums
    variance = correlation(second, one) - mean**2 * sums
    means = [correlation(weights, x) / sums for x in maps]
    normal, right = np.empty((*sums.shape, n, n)), np.empty((*sums.shape, n))
    for i in range(n):
        right[..., i] = correlation(first, maps[i]) - sums * mean * means[i]
        for j in range(i + 1):
            cross = correlation(weights, maps[i] * maps[j])
            normal[..., i, j] = cross - sums * means[i] * means[j]
            normal[..., j, i] = normal[..., i, j]
    # a map without contrast where both are explains nothing
    ridge = 1e-6 * np.trace(normal, axis1=-2, axis2=-1)[..., None, None] + 1e-300
    solution = np.linalg.solve(normal + ridge * np.eye(n), right[..., None])[..., 0]
    explained = (solution * right).sum(axis=-1)
    return 1 - explained / np.maximum(variance, 1e-12 * variance.max())


def _gain(
    image: np.ndarray,
    weight: np.ndarray,
    maps: np.ndarray,
    y: int,
    x: int,
    rest: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """How much better maps displaced by whole pixels fit the image than fixed ones.

    With `rest`, how much better this part of a pixel in addition makes them fit. In
    standard deviations, from the scatter between blocks of 16 x 16 pixels; and the
    part of the squares that it explains.
    """
    n_y, n_x = image.shape
    window = slice(max(y, 0), n_y + min(y, 0)), slice(max(x, 0), n_x + min(x, 0))
    source = slice(max(-y, 0), n_y - max(y, 0)), slice(max(-x, 0), n_x - max(x, 0))
    fixed, moved = (maps[:, rows, columns] for rows, columns in (window, source))
    if rest is not None:
        fixed = moved
        moved = ndimage.shift(moved, (0, *rest), order=3, mode="nearest")
    image, weight = image[window], weight[window]
    before, after = (_squares(image, weight, x) for x in (fixed, moved))
    gain, total = before - after, before.sum()
    part = float(gain.sum() / total) if total > 0 else 0.0
    return significance(block_sums(gain)), part


def _squares(image: np.ndarray, weight: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Weighted squares of what a fit of the image by the maps leaves, by pixels."""
    columns = np.concatenate([maps, np.ones((1, *image.shape))])
    normal = products(columns * weight, columns)
    right = products(columns, (weight * image)[None])[:, 0]
    solution = np.linalg.lstsq(normal, right, rcond=1e-10)[0]
    return weight * (image - np.tensordot(solution, columns, 1)) ** 2


def aligned(prepared: PreparedData, shift: Shift) -> PreparedData:
    """Move the HAADF image back; `trusted` becomes 0 where no image is left.

    By whole pixels, which keeps its noise, or by cubic splines. These lower the noise
    of a pixel but not that of coarser features, so that its variance stays as it is.
    """
    if not shift.significant:
        return prepared
    y, x = round(shift.y), round(shift.x)
    rest = shift.y - y, shift.x - x
    haadf = _moved(prepared.haadf, y, x)
    trusted = _moved(np.pad(prepared.trusted, 1), y, x)
    if any(rest):
        haadf = ndimage.shift(haadf, np.negative(rest), order=3, mode="nearest")
        # where the pixels on both sides are trusted
        beside = [(0, int(np.sign(k))) for k in rest]
        trusted = np.min(
            [_moved(trusted, *place) for place in product(*beside)], axis=0
        )
    return replace(
        prepared,
        haadf=haadf,
        sigma=_moved(prepared.sigma, y, x),
        trusted=np.ascontiguousarray(trusted[1:-1, 1:-1]),
    )


def _moved(image: np.ndarray, y: int, x: int) -> np.ndarray:
    """An image moved up and left by whole pixels, continued with those at its edge."""
    n_y, n_x = image.shape
    rows = np.clip(np.arange(n_y) + y, 0, n_y - 1)
    columns = np.clip(np.arange(n_x) + x, 0, n_x - 1)
    return image[np.ix_(rows, columns)]
