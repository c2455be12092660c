"""Groups of pixels that look alike, and the means of their counts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter

from ..common.compilation import compilers, index
from ..common.threads import Workers
from .sample import TILE

# What a pixel looks like: patches under a Gaussian window, in pixels, and the number of
# their principal components, which are found from a sample of the pixels.
_PATCH, _WINDOW, _HAADF_WIDTH = 11, 3.0, 0.7
_COMPONENTS, _SAMPLE, _AT_ONCE = 16, 4096, 4096
_MORE, _POWERS = 8, 4  # of the search for them
# Neighbours are sought among so many pixels: among ever more candidates the nearest are
# those with the same noise.
POOL = 2**14
_CANDIDATES = 512  # whose distances are computed together
# Chemistry: pixels over which it is averaged, and its noise.
_CHEMISTRY_WIDTH, _NOISE_WIDTH, _LEAST_NOISE = 1.5, 6.0, 0.1
# Every second pixel of every second row has a group; with each of its members the
# pixels around them are shared, up to so far. So each pixel is reached at least twice
# along each axis, but for edges.
STEP, REACH = 2, 2

# Pixels from an edge at which a patch is whole, and most of what chemistry is averaged
# over. Pixels nearer to it are compared by those so far inside: mirrored surroundings
# look like nothing else in a crystal.
_WHOLE_PATCH, _WHOLE_MEAN = _PATCH // 2, 2

# Repetition: pixels over which an image is smoothed to leave its slow part out, those
# around no displacement that are left out, and the size of the image over the largest
# displacement.
_SLOW, _NEAR, _FARTHEST = 12.0, 3, 3

_kernel, _part = compilers(fastmath=False)


def repetition(image: np.ndarray) -> float:
    """How well an image repeats itself: 1 for a crystal, below 0.7 for particles.

    The largest autocorrelation at a peak away from the centre, without the slow part of
    the image; the median over its tiles, since the tiles of a sample do not fit. On the
    way to the peak it has to fall below half of its height: along an edge an image does
    not change, and does not repeat itself.
    """
    starts: list[range] = [
        range(0, max(size - TILE // 2, 1), TILE) for size in image.shape
    ]
    found = [
        _highest_peak(image[y : y + TILE, x : x + TILE])
        for y in starts[0]
        for x in starts[1]
    ]
    return float(np.median(found))


def _highest_peak(image: np.ndarray) -> float:
    """Highest peak of the autocorrelation of an image; 0 if there is none."""
    shape = image.shape
    double = tuple(2 * size for size in shape)
    fine = image - gaussian_filter(image.astype(np.float64), _SLOW)
    window = np.sqrt(np.outer(*(np.hanning(size + 2)[1:-1] for size in shape)))
    fine = fine * window
    products, overlap = (
        np.fft.fftshift(np.fft.irfft2(np.abs(np.fft.rfft2(a, double)) ** 2, double))
        for a in (fine - fine.mean(), window)
    )
    away = [size // _FARTHEST for size in shape]
    inner = tuple(
        slice(size - n, size + n + 1) for size, n in zip(shape, away, strict=True)
    )
    products, overlap = products[inner], overlap[inner]
    variance = products[tuple(away)] / overlap[tuple(away)]
    if not variance > 0 or min(away) <= _NEAR:
        return 0.0
    correlation = products / overlap / variance
    peaks = correlation == maximum_filter(correlation, 2 * _NEAR + 1)
    peaks[tuple(slice(n - _NEAR, n + _NEAR + 1) for n in away)] = False
    centre = np.array(away)
    places = np.argwhere(peaks)
    heights = correlation[peaks]
    for k in np.argsort(-heights):
        steps = np.linspace(0, 1, 1 + int(np.abs(places[k] - centre).max()))
        way = centre[:, None] + np.outer(places[k] - centre, steps)
        lowest = map_coordinates(correlation, way, order=1).min()
        if lowest < heights[k] / 2:
            return float(max(heights[k], 0.0))
    return 0.0


@dataclass(frozen=True, kw_only=True)
class LocalChemistry:
    """Smoothed maps and the variance of their noise, by which pixels are told apart.

    Attributes
    ----------
    level, variance : numpy.ndarray
        Shape ``(n_elements, y, x)``, float32.
    limits : tuple of float
        Standard deviations by which two pixels may differ to be in one group, and
        those by which the pixels around them may.
    """

    level: np.ndarray
    variance: np.ndarray
    limits: tuple[float, float]

    @classmethod
    def of(
        cls, maps: np.ndarray, difference: np.ndarray, limits: tuple[float, float]
    ) -> "LocalChemistry":
        """From fused maps, and maps whose variance is that of their noise."""
        width = 0, _CHEMISTRY_WIDTH, _CHEMISTRY_WIDTH
        squares = gaussian_filter(difference, width) ** 2
        variance = gaussian_filter(squares, (0, _NOISE_WIDTH, _NOISE_WIDTH))
        variance += _LEAST_NOISE * squares.mean(axis=(1, 2), keepdims=True)
        return cls(
            level=gaussian_filter(maps, width).astype(np.float32),
            variance=variance.astype(np.float32),
            limits=limits,
        )


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What pixels and their surroundings look like.

    Patches of the HAADF image and of fused maps in units of their noise, under a
    Gaussian window, reduced to their principal components.

    Attributes
    ----------
    images : numpy.ndarray
        Image and maps in units of their noise, continued beyond their edges, shape
        ``(n_images, y + 10, x + 10)``, float32.
    window : numpy.ndarray
        Weights of the pixels of a patch, shape ``(11, 11)``, float32.
    mean : numpy.ndarray
        Mean patches, shape ``(n_images * 121,)``, float32.
    basis : numpy.ndarray
        Principal components, shape ``(n_images * 121, n_components)``, float32.
    """

    images: np.ndarray
    window: np.ndarray
    mean: np.ndarray
    basis: np.ndarray

    @classmethod
    def of(
        cls,
        haadf: np.ndarray,
        sigma: np.ndarray,
        maps: np.ndarray,
        noise: np.ndarray,
        run: Workers,
        seed: int,
    ) -> "Looks":
        """Find the principal components.

        Parameters
        ----------
        haadf, sigma : numpy.ndarray
            The image and its noise, shape ``(y, x)``.
        maps : numpy.ndarray
            Fused maps, shape ``(n_elements, y, x)``.
        noise : numpy.ndarray
            Standard deviation of each, shape ``(n_elements,)``.
        run : Workers
            The threads.
        seed : int
            Of the sample of pixels.
        """
        around = np.arange(_PATCH) - _PATCH // 2
        squares = around[:, None] ** 2 + around**2
        window = np.exp(-squares / (4 * _WINDOW**2))  # root of a Gaussian
        window = (window / np.linalg.norm(window)).astype(np.float32)
        images = [gaussian_filter(haadf / sigma.mean(), _HAADF_WIDTH)]
        images += [one / s for one, s in zip(maps, noise, strict=True) if s > 0]
        edge = [(0, 0), *[(_PATCH // 2, _PATCH // 2)] * 2]
        padded = np.pad(np.asarray(images, np.float32), edge, mode="reflect")
        rng = np.random.default_rng(seed)
        n = haadf.size
        pixels = rng.choice(n, min(_SAMPLE, n), replace=False)
        some = _patches(padded, window, pixels, run)
        mean = some.mean(axis=0)
        basis = _principal(some - mean, rng)
        return cls(images=padded, window=window, mean=mean, basis=basis)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image."""
        rows, columns = (n - _PATCH + 1 for n in self.images.shape[1:])
        return rows, columns

    def at(self, pixels: np.ndarray, run: Workers) -> np.ndarray:
        """Of pixels, by their number, shape ``(n_pixels, n_components)``, float32."""
        found = np.empty((len(pixels), self.basis.shape[1]), np.float32)
        for start in range(0, len(pixels), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            patches = _patches(self.images, self.window, pixels[some], run)
            found[some] = (patches - self.mean) @ self.basis
        return found


def _principal(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """First principal components of vectors, nearly, in columns.

    By subspace iteration (N. Halko et al., SIAM Rev. 53, 217 (2011), section 4.5): few
    calls of LAPACK, whose threads hinder each other where other programs run.
    """
    size = vectors.shape[1]
    square = vectors.T @ vectors
    start = rng.standard_normal((size, min(_COMPONENTS + _MORE, size)))
    basis = start.astype(np.float32)
    for _ in range(_POWERS):
        basis = np.linalg.qr(square @ basis)[0]
    turn = np.linalg.eigh(basis.T @ square @ basis)[1]
    return np.ascontiguousarray(basis @ turn[:, ::-1][:, :_COMPONENTS])


def _patches(
    images: np.ndarray, window: np.ndarray, pixels: np.ndarray, run: Workers
) -> np.ndarray:
    """Weighted patches around pixels, shape ``(n_pixels, n_images * 121)``."""
    out = np.empty((len(pixels), len(images) * window.size), np.float32)
    blocks = run.blocks((out.shape[1], len(pixels), 1))
    run(patch_rows, blocks, images, window, pixels.astype(np.int32), out)
    return out


def grid(shape: tuple[int, int]) -> np.ndarray:
    """Numbers of the pixels that have a group, shape ``(n_rows, n_columns)``."""
    numbers = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    return numbers[::STEP, ::STEP]


def _inner(places: Any, n: int, margin: int) -> Any:
    """The nearest of n places along an axis that are so far from its ends."""
    margin = min(margin, (n - 1) // 2)
    return np.clip(places, margin, n - 1 - margin)


def neighbours(looks: Looks, k: int, run: Workers, seed: int) -> np.ndarray:
    """Each pixel of the grid and the k - 1 most like it, the most alike first.

    At an edge they are those of the nearest pixel whose patch is whole, displaced as
    this is. Shape ``(n_rows, n_columns, k)``, int32.
    """
    pixels = grid(looks.shape)
    numbers = np.arange(np.prod(looks.shape), dtype=np.int32).reshape(looks.shape)
    inside = [_inner(np.arange(n), n, _WHOLE_PATCH) for n in looks.shape]
    pool = numbers[np.ix_(*map(np.unique, inside))].ravel()
    if len(pool) > POOL:
        rng = np.random.default_rng(seed)
        pool = np.sort(rng.choice(pool, POOL, replace=False))
    near = np.empty((pixels.size, min(k, len(pool))), np.int32)
    own = numbers[np.ix_(*(places[::STEP] for places in inside))].ravel()
    points = looks.at(own, run)
    candidates = np.ascontiguousarray(looks.at(pool, run).T)
    # a pixel of the grid is as much work as one that meets each candidate
    blocks = run.blocks((len(pool), len(own), 1))
    run(nearest_rows, blocks, points, own, candidates, pool, near)
    near += (pixels.ravel() - own)[:, None]
    return near.reshape(*pixels.shape, -1)


@dataclass(frozen=True, kw_only=True)
class Groups:
    r"""Pixels that look alike.

    A group G(p) holds a pixel p of the grid and those of its k nearest that pass the
    test of chemistry. With each of its members q the pixels around it correspond to
    those around p: q + δ to t = p + δ, with δ up to 2 pixels, if t and q + δ pass a
    wider test themselves. At an edge pixels are tested by those 2 pixels inside, and
    their members by what is displaced from them as these are.

    Attributes
    ----------
    members : numpy.ndarray
        Numbers of the pixels of each group, p the first, shape ``(n_rows, n_columns,
        k)``, int32.
    count : numpy.ndarray
        How many of them there are, shape ``(n_rows, n_columns)``, int32.
    level, variance : numpy.ndarray
        Of the chemistry, with the elements of a pixel side by side, since pixels are
        met in any order, shape ``(y, x, n_elements)``, float32.
    limits : numpy.ndarray
        Squares of those of the chemistry, float32.
    """

    members: np.ndarray
    count: np.ndarray
    level: np.ndarray
    variance: np.ndarray
    limits: np.ndarray

    @classmethod
    def of(
        cls, members: np.ndarray, chemistry: LocalChemistry, run: Workers
    ) -> "Groups":
        """Test neighbours, which are put in order in their array."""
        groups = cls(
            members=members,
            count=np.empty(members.shape[:2], np.int32),
            level=_by_pixel(chemistry.level),
            variance=_by_pixel(chemistry.variance),
            limits=np.array(chemistry.limits, np.float32) ** 2,
        )
        blocks = run.blocks((members.shape[2], *members.shape[:2]))
        run(group_rows, blocks, *groups._tests, members, groups.count)
        return groups

    @property
    def _tests(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.level, self.variance, self.limits

    @property
    def size(self) -> float:
        """Mean size of a group."""
        return float(self.count.mean())

    def mean(self, data: np.ndarray, run: Workers) -> np.ndarray:
        r"""Mean data of all pixels that correspond to a pixel.

        .. math::

            y(t) = \text{mean of } b(q + δ) \text{ over all } p + δ = t, q \in G(p)

        `data` are b, shape ``(n_elements, y, x)``, NaN where missing; as is the result,
        float32, where all that correspond are missing.
        """
        out = np.empty(data.shape, np.float32)
        blocks = run.blocks((self.members.shape[2], *data.shape[1:]))
        measured = _by_pixel(data)
        run(share_rows, blocks, measured, self.members, self.count, *self._tests, out)
        return out

    def corresponding(self, y: int, x: int) -> tuple[np.ndarray, np.ndarray]:
        """All pixels that correspond to a pixel, and how often each counts.

        Returns places ``(y, x)``, shape ``(n, 2)``, and whole numbers, shape ``(n,)``.
        """
        shape = self.level.shape[:2]
        found = []
        for i, j in np.ndindex(self.count.shape):
            dy, dx = y - i * STEP, x - j * STEP
            if max(abs(dy), abs(dx)) > REACH:
                continue
            members = self.members[i, j, : self.count[i, j]]
            v, u = np.unravel_index(members, shape)
            v, u = v + dy, u + dx
            inside = (v >= 0) & (u >= 0) & (v < shape[0]) & (u < shape[1])
            v, u = v[inside], u[inside]
            if dy or dx:
                alike = self._alike(y, x, v, u)
                v, u = v[alike], u[alike]
            found.append(np.stack([v, u], axis=1))
        return np.unique(np.concatenate(found), axis=0, return_counts=True)

    def _alike(self, y: int, x: int, v: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Which pixels (v, u) pass the wider test with pixel (y, x)."""
        n_y, n_x = self.level.shape[:2]
        dy, dx = _inner(y, n_y, _WHOLE_MEAN) - y, _inner(x, n_x, _WHOLE_MEAN) - x
        y, x, v, u = y + dy, x + dx, v + dy, u + dx
        alike = (v >= 0) & (u >= 0) & (v < n_y) & (u < n_x)
        v, u = v[alike], u[alike]
        squares = (self.level[v, u] - self.level[y, x]) ** 2
        limit = self.limits[1] * (self.variance[v, u] + self.variance[y, x])
        alike[alike] = (squares <= limit).all(axis=1)
        return alike


def _by_pixel(maps: np.ndarray) -> np.ndarray:
    """Maps with the elements of a pixel side by side, float32 in C order."""
    return np.array(np.moveaxis(maps, 0, 2), np.float32, order="C")


@_kernel
def patch_rows(images, window, pixels, out, start, stop):
    """Weighted patches around some pixels, one in each row."""
    size = index(window.shape[0])
    n_x = index(images.shape[2]) - size + index(1)
    for p in range(index(start), index(stop)):
        y, x = index(pixels[p]) // n_x, index(pixels[p]) % n_x
        j = index(0)
        for i in range(index(images.shape[0])):
            for v in range(size):
                for u in range(size):
                    out[p, j] = images[i, y + v, x + u] * window[v, u]
                    j += index(1)


@_kernel
def nearest_rows(points, own, candidates, pool, near, start, stop):
    """Some pixels and those that are nearest to them, the nearest first."""
    n = index(pool.shape[0])
    k = index(near.shape[1]) - index(1)
    d = np.empty(_CANDIDATES, np.float32)
    # a heap with the most distant of the nearest on top
    far, who = np.empty(k, np.float32), np.empty(k, np.int32)
    for p in range(index(start), index(stop)):
        near[p, index(0)] = own[p]
        if k == 0:
            continue
        far[:] = np.inf
        who[:] = -1
        for first in range(index(0), n, index(_CANDIDATES)):
            m = min(n - first, index(_CANDIDATES))
            d[:] = 0
            for c in range(index(points.shape[1])):
                f = points[p, c]
                for j in range(m):
                    e = candidates[c, first + j] - f
                    d[j] += e * e
            for j in range(m):
                if d[j] < far[index(0)] and pool[first + j] != own[p]:
                    _replace_top(far, who, k, d[j], pool[first + j])
        for m in range(k, index(0), -1):
            last = index(m) - index(1)
            near[p, index(m)] = who[index(0)]
            _replace_top(far, who, last, far[last], who[last])


@_part
def _replace_top(far, who, k, d, q):
    """Replace the top of a heap of k, and sink it to its place."""
    j = index(0)
    while True:
        child = index(2) * j + index(1)
        if child >= k:
            break
        if child + index(1) < k and far[child + index(1)] > far[child]:
            child += index(1)
        if far[child] <= d:
            break
        far[j], who[j] = far[child], who[child]
        j = child
    far[j], who[j] = d, q


@_part
def _differ(level, variance, limit, y, x, v, u):
    """Whether two pixels differ by more than a limit in an element."""
    for i in range(index(level.shape[2])):
        d = level[y, x, i] - level[v, u, i]
        if d * d > limit * (variance[y, x, i] + variance[v, u, i]):
            return True
    return False


@_part
def _within_reach(t, n):
    """First number on the grid within reach of a pixel of n, and the one after all."""
    first = max(t - REACH + STEP - 1, 0) // STEP
    return first, min(t + REACH, n - 1) // STEP + 1


@_part
def _inwards(t, n):
    """What leads from one of n places to the nearest where a mean is whole."""
    margin = min(_WHOLE_MEAN, (n - 1) // 2)
    return min(max(t, margin), n - 1 - margin) - t


@_kernel
def group_rows(level, variance, limits, members, count, start, stop):
    """Members of the groups of some rows: the neighbours that pass the test."""
    n_y, n_x = level.shape[:2]
    for p in range(start, stop):
        dy = _inwards(p * STEP, n_y)
        y, i = index(p * STEP + dy), index(p)
        for s in range(members.shape[1]):
            dx = _inwards(s * STEP, n_x)
            x, j = index(s * STEP + dx), index(s)
            m = index(1)
            for k in range(index(1), index(members.shape[2])):
                q = members[i, j, k]
                v, u = q // n_x + dy, q % n_x + dx
                if v < 0 or u < 0 or v >= n_y or u >= n_x:
                    continue
                v, u = index(v), index(u)
                if not _differ(level, variance, limits[index(0)], y, x, v, u):
                    members[i, j, m] = members[i, j, k]
                    m += index(1)
            count[i, j] = m


@_kernel
def share_rows(data, members, count, level, variance, limits, out, start, stop):
    """Means over all pixels that correspond to those of some rows."""
    n_y, n_x, n = data.shape
    total, weight = np.empty(n, np.float32), np.empty(n, np.float32)
    for ty in range(start, stop):
        for tx in range(n_x):
            total[:] = 0
            weight[:] = 0
            t, s = index(ty), index(tx)
            # where chemistry is compared
            in_y, in_x = _inwards(ty, n_y), _inwards(tx, n_x)
            y, x = index(ty + in_y), index(tx + in_x)
            low_y, high_y = max(-in_y, 0), n_y - max(in_y, 0)
            low_x, high_x = max(-in_x, 0), n_x - max(in_x, 0)
            first, last = _within_reach(ty, n_y)
            left, right = _within_reach(tx, n_x)
            for py in range(first, last):
                dy = ty - py * STEP
                for px in range(left, right):
                    dx = tx - px * STEP
                    i, j = index(py), index(px)
                    for k in range(index(count[i, j])):
                        q = members[i, j, k]
                        ry, rx = q // n_x + dy, q % n_x + dx
                        if ry < low_y or rx < low_x or ry >= high_y or rx >= high_x:
                            continue
                        r, c = index(ry), index(rx)
                        v, u = index(ry + in_y), index(rx + in_x)
                        if (dy != 0 or dx != 0) and _differ(
                            level, variance, limits[index(1)], y, x, v, u
                        ):
                            continue
                        for e in range(index(n)):
                            b = data[r, c, e]
                            if b == b:  # noqa: PLR0124 - not missing
                                total[e] += b
                                weight[e] += np.float32(1)
            for e in range(index(n)):
                mean = np.float32(np.nan)
                if weight[e] > 0:
                    mean = total[e] / weight[e]
                out[e, t, s] = mean
