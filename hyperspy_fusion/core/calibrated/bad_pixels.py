"""Bad pixels of maps and HAADF image: outliers that no other modality confirms.

What is real leaves its trace in all modalities: X-rays of a particle come with
electrons that it scatters. A pixel, line or block that stands out against its
neighbours in one of them alone is hot, dead, stuck or saturated.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy.ndimage import (
    binary_dilation,
    binary_opening,
    convolve,
    find_objects,
    label,
    maximum_filter,
    minimum_filter,
)
from scipy.special import betainc, gammainc, gammaincc

from ..common.missing import fill
from ..common.threads import ALONE, Workers
from .composition import sum_of_fractions
from .correlation import find_kernel
from .noise import count_step, haadf_noise, map_noise_line

_CHANCE = 1e-7  # of a false alarm in an image
_DOUBT = 1e-3  # chance below which another modality is believed to follow
_SIGMAS = 8.0  # of the noise of the HAADF image, by which a bad pixel stands out
_RISE = 5.0  # the same, of a particle
_STEP = 0.1  # of the standard deviation of the image, by which it follows a line
_VARIED = 3.0  # times the noise, by which the neighbours of a stuck line differ from it
_LEAST_SIZE = 5  # pixels a side of the image
_LEAST_LINE = 32  # pixels
_WIDEST = 4  # lines side by side
_ORDINARY = 0.999  # quantile, beyond which values do not tell the noise
# Of the noise, over the mean variance and the range of a map: less is no counts.
_LEAST_SLOPE = 0.1
_MOST_PIXELS, _FEW = 1e-3, 8  # fraction and number; more are atoms of the specimen
_SIDE = 2  # lines beside a line or block that it is compared with
_BRIGHT = 3.0  # counts, from which on a pixel may be a single atom
_BLOCKS = 3, 5  # pixels a side of the smallest blocks
_LARGEST_BLOCK = 0.25  # fraction of the image
_RULED_OUT = 1e-4  # chance of counts, below which a bright or dark pixel is not real
_UNEQUAL = 10.0  # by which elements differ in counts per HAADF intensity
_FALL = 2.0, 0.05  # times the counts expected where the image falls, and at least
_PLATEAU = 1e-3  # fraction of the pixels that are saturated
_FLAT = 0.5  # fraction of equal neighbours in an image without noise
_PASSES = 4
_SHOWN = 3  # places that a note names

_INNER = np.ones((3, 3), bool)
_INNER[1, 1] = False
_OUTER = np.ones((5, 5), bool)
_OUTER[1:4, 1:4] = False
_RINGS = _INNER, _OUTER  # around a pixel, and around one of a cluster
_DIRECTIONS = (0, 1), (1, 0), (1, 1), (1, -1)

Region = tuple[slice, slice]


def set_aside(
    maps: np.ndarray,
    haadf: np.ndarray,
    elements: Sequence[str] = (),
    *,
    is_part: bool = False,
    run: Workers = ALONE,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Maps and HAADF image with NaN at their bad pixels, and notes that name these.

    The notes do not name the places in a part of an image. Threads of `run` work on a
    map each.
    """
    haadf = np.asarray(haadf)
    if min(haadf.shape) < _LEAST_SIZE or not np.isfinite(haadf).any():
        return maps, haadf, []
    names = [f"the {name} map" for name in elements]
    names = names or [f"map {k} (counted from 0)" for k in range(len(maps))]
    finder = _Finder(maps, haadf, run)
    clean, notes = _without_bad(finder, haadf, "the HAADF image", is_part=is_part)
    if notes:
        haadf, finder = clean, _Finder(maps, clean, run)
    measured = maps
    # outliers add to the noise of maps that are no counts, and hide others
    for _ in range(_PASSES):
        found = finder.bad_maps()
        if not found.any():
            break
        if maps is measured:
            # A filter spreads an outlier, and what neighbours share looks like one.
            white = np.array([not _filtered(image) for image in fill(maps)])
        found &= white[:, None, None]
        if not found.any():
            break
        maps = np.where(found, np.float32(np.nan), maps)
        finder = _Finder(maps, haadf, run)
    for image, rest, name in zip(measured, maps, names, strict=True):
        bad = np.isnan(rest) & ~np.isnan(image)
        if bad.any():
            words = name, "treated as missing"
            notes.append(_note(image, bad, *words, is_part=is_part))
    return maps, haadf, notes


def image_without_bad(
    maps: np.ndarray, image: np.ndarray, name: str, *, is_part: bool = False
) -> tuple[np.ndarray, list[str]]:
    """A further elastic image with NaN at its bad pixels, and notes that name these.

    As :func:`set_aside`.
    """
    image = np.asarray(image)
    if min(image.shape) < _LEAST_SIZE or not np.isfinite(image).any():
        return image, []
    return _without_bad(_Finder(maps, image), image, name, is_part=is_part)


def _without_bad(
    finder: "_Finder", image: np.ndarray, name: str, *, is_part: bool
) -> tuple[np.ndarray, list[str]]:
    """An image with NaN at its saturated and bad pixels, and notes that name these."""
    saturated = finder.saturated()
    bad = finder.bad_image() & ~saturated
    notes = []
    if saturated.any():
        words = name, "not used", "saturated"
        notes.append(_note(image, saturated, *words, is_part=is_part))
    if bad.any():
        notes.append(_note(image, bad, name, "not used", is_part=is_part))
    return np.where(bad | saturated, np.nan, image), notes


def _filtered(image: np.ndarray) -> bool:
    """Whether neighbouring pixels of a map share their noise."""
    clipped = np.minimum(image, np.quantile(image, _ORDINARY, method="lower"))
    return find_kernel(clipped, count_step(clipped)) is not None


def _note(
    image: np.ndarray,
    bad: np.ndarray,
    name: str,
    fate: str,
    kind: str = "",
    *,
    is_part: bool,
) -> str:
    """What is bad and where, lines and blocks in one piece."""
    if not kind:
        surroundings = fill(np.where(bad, np.nan, image)[None])[0]
        hot = (image > surroundings)[bad]
        kind = "hot" if hot.all() else "hot or dead" if hot.any() else "dead"
    labels, number = label(bad, np.ones((3, 3)))
    places = [
        ", ".join(
            f"{axis} {part.start}"
            + (f" to {part.stop - 1}" if part.stop > part.start + 1 else "")
            for axis, part, size in zip(("row", "column"), box, bad.shape, strict=True)
            if part.stop - part.start < size
        )
        for box in find_objects(labels)[:_SHOWN]
    ]
    where = "; ".join(filter(None, places)) + ("; ..." if number > _SHOWN else "")
    n = int(np.count_nonzero(bad))
    some, verb = ("pixels", "are") if n > 1 else ("pixel", "is")
    shown = f" ({where})" if where and not is_part else ""
    return f"{n} {some} of {name} {verb} {kind}{shown} and {verb} {fate}"


def _more(n: Any, area: float, beside: Any, area_beside: float) -> Any:
    """Chance of at least n counts, given those on an area beside."""
    n, beside = np.maximum(n, 1e-9, dtype=np.float64), np.asarray(beside, np.float64)
    return betainc(n, beside + 1, area / (area + area_beside))


def _fewer(n: Any, area: float, beside: Any, area_beside: float) -> Any:
    """Chance of at most n counts, given those on an area beside."""
    n, beside = np.asarray(n, np.float64), np.asarray(beside, np.float64)
    return betainc(beside + 1, n + 1, area_beside / (area + area_beside))


def _in_counts(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A map in units of its counts, at least 0; of its noise, if it has none."""
    most = np.quantile(image, _ORDINARY, method="lower")
    clipped = np.minimum(image, most)
    clipped = clipped if np.ptp(clipped) > 0 else image
    if not np.ptp(image):
        return image
    step = count_step(clipped[known])
    if step is not None:
        return image / step
    # The variance of counts n is n: these have that of the map at each intensity.
    line = map_noise_line(clipped, known)
    slope = max(
        line.slope, _LEAST_SLOPE * line.variance(clipped).mean() / np.ptp(clipped)
    )
    return np.maximum(line.intercept + slope * (image - line.lowest), 0) / slope**2


def _many(counts: np.ndarray) -> Any:
    """Sum of counts to which a few bright pixels contribute little."""
    return np.minimum(counts, max(_BRIGHT, 2 * np.median(counts))).sum()


class _Finder:
    """Tests of one modality against the others.

    Parameters
    ----------
    maps, haadf : numpy.ndarray
        The measurement; NaN where missing.
    run : Workers
        Threads that work on a map each.
    """

    def __init__(
        self, maps: np.ndarray, haadf: np.ndarray, run: Workers = ALONE
    ) -> None:
        self.run = run
        self.known = np.isfinite(maps)
        filled = fill(maps)
        pairs = list(zip(filled, self.known, strict=True))
        self.counts = run.each(lambda pair, _: _in_counts(*pair), pairs)
        seen = self.known.all(axis=0)
        self.fractions = sum_of_fractions(filled[:, seen]) is not None
        self.seen = np.isfinite(haadf)
        self.image = fill(np.asarray(haadf, np.float64)[None])[0]
        self.chance = _CHANCE / haadf.size

    @cached_property
    def sigma(self) -> np.ndarray:
        """Standard deviation of the noise of the image."""
        return haadf_noise(self.image, self.seen)

    @cached_property
    def peaks(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the image has a peak, and a hollow, or was not measured."""
        rising, falling = (_peaks(sign * self.image, self.sigma) for sign in (1, -1))
        return rising | ~self.seen, falling | ~self.seen

    @cached_property
    def counts_of_rise(self) -> np.ndarray:
        """Counts of all maps for what the image rises above its surroundings."""
        # within one pixel: particles may be displaced
        rise = maximum_filter(self.image - _mean_beside(self.image, _OUTER), 3)
        return self._counts_per_intensity(np.ones(self.seen.shape, bool)) * rise

    def bad_maps(self) -> np.ndarray:
        """True where a map is bad."""
        if self.fractions:  # the noise of one is that of all, and no outlier is seen
            return np.zeros(self.known.shape, bool)
        maps = range(len(self.counts))
        return np.stack(self.run.each(lambda k, _: self._bad_map(k), maps))

    def _bad_map(self, k: int) -> np.ndarray:
        """True where one map is bad."""
        bad = self._bad_map_pixels(k)
        for region in _stuck(np.where(self.known[k], self.counts[k], np.nan)):
            if self._map_region_is_bad(k, *region):
                bad[region[0]] = True
        return bad & self.known[k]

    def _bad_map_pixels(self, k: int) -> np.ndarray:
        """Pixels of a map whose counts leave no trace elsewhere."""
        counts = self.counts[k]
        most, least = _extremes(counts)
        area = _INNER.sum() * 3  # of a 5 x 5 neighbourhood
        hot = counts > most + 3
        hot[hot] = _more(counts[hot], 1, area * most[hot], area) < self.chance
        dead = counts < least - 3
        dead[dead] = _fewer(counts[dead], 1, area * least[dead], area) < self.chance
        for found, sign in ((hot, 1), (dead, -1)):
            if not found.any():
                continue
            real = self.peaks[0 if sign > 0 else 1][found]
            if sign > 0:
                # A peak excuses as many counts as an element may give for it.
                rise = (counts - most)[found]
                enough = _UNEQUAL * self.counts_of_rise[found] >= rise
                real &= enough | ~self.seen[found]
            # what takes the place of other elements may not show in the image
            for other in self.counts[:k] + self.counts[k + 1 :]:
                real |= _moves(other, found, -sign)
            found[found] = ~real
            if found.sum() > max(_MOST_PIXELS * found.size, _FEW):
                found[:] = False
        return hot | dead

    def _counts_per_intensity(self, typical: np.ndarray) -> float:
        """Counts of all maps for the HAADF intensity above its dark, on some pixels.

        0 if there is no such intensity.
        """
        low = np.quantile(self.image, 0.01)
        total = sum(counts[typical].mean(dtype=np.float64) for counts in self.counts)
        brightness = (self.image[typical] - low).mean(dtype=np.float64)
        return float(total / brightness) if brightness > 0 else 0.0

    def bad_image(self) -> np.ndarray:
        """True where the HAADF image is bad."""
        bad = self._bad_image_pixels()
        if not self._is_noisy():
            return bad & self.seen
        for region, sides in _stuck(np.where(self.seen, self.image, np.nan)):
            value = self.image[region].mean()
            varied = all(
                np.mean((self.image[side] - value) ** 2)
                > _VARIED**2 * np.mean(self.sigma[side] ** 2)
                and np.ptp(self.image[side]) > 0
                for side in sides
            )
            step = [value - self.image[side].mean() for side in sides]
            direction = 1 if min(step) > 0 else -1 if max(step) < 0 else 0
            if varied and not (
                direction and self._follow(region, sides, direction, self.counts)
            ):
                bad[region] = True
        return bad & self.seen

    def _bad_image_pixels(self) -> np.ndarray:
        """Pixels whose brightness would have given other counts."""
        image = self.image
        most, least = _extremes(image, _RINGS[:1])
        hot = image > most + _SIGMAS * self.sigma
        dead = image < least - _SIGMAS * self.sigma
        if self.fractions:  # do not tell the thickness
            return np.zeros(image.shape, bool)
        if not (hot.any() or dead.any()):
            return hot
        total = np.asarray(sum(self.counts), np.float64)
        low, high = np.quantile(image, [0.01, 0.99])
        per_intensity = self._counts_per_intensity(~(hot | dead))
        # particles may be displaced by a pixel
        near = binary_dilation(hot, np.ones((3, 3)))
        moves = np.zeros(image.shape, bool)
        for counts in self.counts:
            moves[near] |= _moves(counts, near, 1)
        beside = _mean_beside(total)
        expected = per_intensity * (image[hot] - most[hot]) / _UNEQUAL
        few = gammaincc(total[hot] + 1, beside[hot] + expected) < _RULED_OUT
        hot[hot] = few & ~binary_dilation(moves, np.ones((3, 3)))[hot]
        # the intensity of nothing
        span = high - low
        base = 0.0 if low > -0.05 * span else low - span
        left = (image[dead] - base) / np.maximum(least[dead] - base, 1e-300)
        factor, floor = _FALL
        expected = factor * beside[dead] * np.maximum(left, floor)
        dead[dead] = gammainc(np.maximum(total[dead], 1e-9), expected) < _RULED_OUT
        return hot | dead

    def saturated(self) -> np.ndarray:
        """Plateaus at the largest value of a noisy image."""
        image = self.image
        top = (image == image[self.seen].max()) & self.seen
        plateau = binary_opening(top, np.ones((2, 2)))
        none = np.zeros(top.shape, bool)
        if plateau.sum() < _PLATEAU * top.size:
            return none
        return top if self._is_noisy() else none

    def _is_noisy(self) -> bool:
        """Whether neighbours in bright places of the image differ."""
        image = self.image
        bright = (image > np.median(image)) & (image < image.max()) & self.seen
        equal = (image[:, 1:] == image[:, :-1])[bright[:, 1:] & bright[:, :-1]]
        return bool(equal.size) and bool(equal.mean() < _FLAT)

    def _map_region_is_bad(self, k: int, region: Region, sides: list[Region]) -> bool:
        """Whether a constant line or block of a map is not that of the specimen."""
        counts = self.counts[k]
        sums = counts[region].sum(), counts[region].size
        if sums[0] == 0 and self._none_by_chance(sums[1], [counts[s] for s in sides]):
            return False  # as nearly all blocks without counts in a sparse map
        for sign, tail in ((1, _more), (-1, _fewer)):
            chances = [
                tail(
                    *sums,
                    _many(counts[s]) if sign < 0 else counts[s].sum(),
                    counts[s].size,
                )
                for s in sides
            ]
            if max(chances) < self.chance:
                others = self.counts[:k] + self.counts[k + 1 :]
                inside = self.image[region].mean()
                steps = [sign * (inside - self.image[s].mean()) for s in sides]
                noise = self.sigma[region].mean() / np.sqrt(counts[region].size)
                least = max(_RISE * noise, _STEP * self.image.std())
                return not (
                    min(steps) > least or self._follow(region, sides, -sign, others)
                )
        # Many equal counts above 0 do not happen by chance, unless most counts are so.
        value, size = counts[region].min(), counts[region].size
        seen = counts, *(counts[side] for side in sides)
        share = max(np.mean(part == value) for part in seen)
        return bool(
            value > 0
            and max(counts[region].shape) >= _LEAST_LINE
            and share**size < self.chance
        )

    def _none_by_chance(self, area: int, beside: list[np.ndarray]) -> bool:
        """Whether there may be no counts on an area: :func:`_fewer` in closed form."""
        return any(
            (side.size / (area + side.size)) ** (side.sum() + 1) >= self.chance
            for side in beside
        )

    def _follow(
        self, region: Region, sides: list[Region], sign: int, maps: list[np.ndarray]
    ) -> bool:
        """Whether a map has more (sign 1) or fewer counts in a region than beside."""
        tail = _more if sign > 0 else _fewer
        return any(
            max(
                tail(
                    counts[region].sum(),
                    counts[region].size,
                    counts[side].sum(),
                    counts[side].size,
                )
                for side in sides
            )
            < _DOUBT
            for counts in maps
        )


def _extremes(
    image: np.ndarray, around: Sequence = _RINGS
) -> tuple[np.ndarray, np.ndarray]:
    """Largest and smallest neighbour, in the ring whose values are nearer."""
    rings = [
        (
            maximum_filter(image, footprint=ring, mode="mirror"),
            minimum_filter(image, footprint=ring, mode="mirror"),
        )
        for ring in around
    ]
    most, least = zip(*rings, strict=True)
    return np.min(most, axis=0), np.max(least, axis=0)


def _mean_beside(image: np.ndarray, ring: np.ndarray = _INNER) -> np.ndarray:
    """Mean of the pixels of a ring around each pixel."""
    weights = ring / ring.sum()
    return convolve(np.asarray(image, np.float64), weights, mode="mirror")


def _moves(counts: np.ndarray, where: np.ndarray, sign: int) -> np.ndarray:
    """Whether a map has more (sign 1) or fewer counts in some pixels than beside."""
    tail = _more if sign > 0 else _fewer
    moves = np.zeros(np.count_nonzero(where), bool)
    for ring in _RINGS:
        beside = np.maximum(_mean_beside(counts, ring)[where], 0) * ring.sum()
        moves |= tail(counts[where], 1, beside, ring.sum()) < _DOUBT
    return moves


def _peaks(image: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Where an image rises in all directions, within one pixel."""
    found = np.zeros(image.shape, bool)
    n_y, n_x = image.shape
    for step in (1, 2):
        padded = np.pad(image, step, mode="reflect")
        rise = np.full(image.shape, np.inf)
        for along_y, along_x in _DIRECTIONS:
            y, x = step * along_y, step * along_x
            one, other = (
                padded[step + s * y : step + s * y + n_y, step + s * x :][:, :n_x]
                for s in (1, -1)
            )
            rise = np.minimum(rise, image - (one + other) / 2)
        found |= rise > _RISE * np.sqrt(1.5) * sigma
    return binary_dilation(found, np.ones((3, 3)))


def _stuck(image: np.ndarray) -> Iterator[tuple[Region, list[Region]]]:
    """Lines and blocks of one value, each with the regions on all sides of it.

    Those at an edge of the image are left out: a specimen may begin there.
    """
    n_y, n_x = image.shape
    for axis in (0, 1):
        lines = np.moveaxis(image, axis, 0)
        if lines.shape[1] < _LEAST_LINE:
            continue
        constant = np.fmax.reduce(lines, 1) == np.fmin.reduce(lines, 1)
        for (part,) in find_objects(label(constant)[0]):
            inside = part.start > 0 and part.stop < len(lines)
            if inside and part.stop - part.start <= _WIDEST:
                region = (part, slice(None)) if axis == 0 else (slice(None), part)
                yield region, _sides(region)
    # zeros of sparse counts are attached to dead blocks, fewer to what is wider
    for size in _BLOCKS:
        flat = _flat(image, size)
        if not flat.any():
            break
        labels, _ = label(binary_dilation(flat, np.ones((size, size))))
        areas = np.bincount(labels.ravel())
        for k, region in enumerate(find_objects(labels), start=1):
            rows, columns = region
            area = (rows.stop - rows.start) * (columns.stop - columns.start)
            inside = rows.start > 0 < columns.start
            inside &= rows.stop < n_y and columns.stop < n_x
            if inside and areas[k] == area <= _LARGEST_BLOCK * image.size:
                yield region, _sides(region)


def _flat(image: np.ndarray, size: int) -> np.ndarray:
    """Where all pixels of the square around a pixel have the same value."""
    down, right = image[1:] == image[:-1], image[:, 1:] == image[:, :-1]
    flat = down[:, 1:] & down[:, :-1] & right[1:] & right[:-1]  # squares of 2 pixels
    flat = np.pad(flat, size // 2, constant_values=True)
    flat = np.logical_and.reduce([flat[k : k + len(image)] for k in range(size - 1)])
    columns = range(size - 1)
    return np.logical_and.reduce([flat[:, k : k + len(image.T)] for k in columns])


def _sides(region: Region) -> list[Region]:
    """The lines on all sides of a region inside an image."""
    rows, columns = region
    before = [
        None if part.start is None else slice(max(part.start - _SIDE, 0), part.start)
        for part in region
    ]
    after = [
        None if part.stop is None else slice(part.stop, part.stop + _SIDE)
        for part in region
    ]
    along_y = [(part, columns) for part in (before[0], after[0]) if part]
    return along_y + [(rows, part) for part in (before[1], after[1]) if part]
