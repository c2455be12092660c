"""Groups of pixels that look alike, and the means of their counts."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from ..common.compilation import compilers, index
from ..common.threads import Workers

# What a pixel looks like: patches under a Gaussian window, in pixels, and the number of
# their principal components, which are found from a sample of the pixels.
_PATCH, _WINDOW, _HAADF_WIDTH = 11, 3.0, 0.7
_COMPONENTS, _SAMPLE, _ROWS = 16, 4096, 16384
# Neighbours are sought among so many pixels: among ever more candidates the nearest are
# those with the same noise.
POOL = 2**15
_LEAF, _APPROXIMATE = 32, 0.5  # of the k-d tree
# Chemistry: pixels over which it is averaged, and its noise.
_CHEMISTRY_WIDTH, _NOISE_WIDTH, _LEAST_NOISE = 1.5, 6.0, 0.1
REACH = 2  # pixels around each member of a group that are shared, too

_kernel, _part = compilers(fastmath=False)


@dataclass(frozen=True, kw_only=True)
class Chemistry:
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
    ) -> "Chemistry":
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


def features(
    haadf: np.ndarray, sigma: np.ndarray, maps: np.ndarray, noise: np.ndarray, seed: int
) -> np.ndarray:
    """What each pixel and its surroundings look like.

    Patches of the HAADF image and of fused maps in units of their noise, under a
    Gaussian window, reduced to their principal components.

    Parameters
    ----------
    haadf, sigma : numpy.ndarray
        The image and its noise, shape ``(y, x)``.
    maps : numpy.ndarray
        Fused maps, shape ``(n_elements, y, x)``.
    noise : numpy.ndarray
        Standard deviation of each, shape ``(n_elements,)``.
    seed : int
        Of the sample of pixels.

    Returns
    -------
    numpy.ndarray
        Shape ``(y * x, n_components)``, float32.
    """
    around = np.arange(_PATCH) - _PATCH // 2
    squares = around[:, None] ** 2 + around**2
    window = np.exp(-squares / (4 * _WINDOW**2)).ravel()  # root of a Gaussian
    window = (window / np.linalg.norm(window)).astype(np.float32)
    images = [gaussian_filter(haadf / sigma.mean(), _HAADF_WIDTH)]
    images += [one / s for one, s in zip(maps, noise, strict=True) if s > 0]
    views = [
        np.lib.stride_tricks.sliding_window_view(
            np.pad(image.astype(np.float32), _PATCH // 2, mode="reflect"),
            (_PATCH, _PATCH),
        )
        for image in images
    ]

    def patches(pixels: np.ndarray) -> np.ndarray:
        place = np.unravel_index(pixels, haadf.shape)
        each = [view[place].reshape(len(pixels), -1) * window for view in views]
        return np.concatenate(each, axis=1)

    n = haadf.size
    rng = np.random.default_rng(seed)
    some = patches(rng.choice(n, min(_SAMPLE, n), replace=False))
    mean = some.mean(axis=0)
    some -= mean
    basis = np.linalg.eigh(some.T @ some)[1][:, ::-1][:, :_COMPONENTS]
    found = np.empty((n, basis.shape[1]), np.float32)
    for start in range(0, n, _ROWS):
        pixels = np.arange(start, min(start + _ROWS, n))
        found[pixels] = (patches(pixels) - mean) @ basis
    return found


def neighbours(points: np.ndarray, k: int, run: Workers, seed: int) -> np.ndarray:
    """Each pixel and the k - 1 most like it, shape ``(n_pixels, k)``, int32."""
    n = len(points)
    pool = own = np.arange(n)
    if n > POOL:
        rng = np.random.default_rng(seed)
        pool = np.sort(rng.choice(n, POOL, replace=False))
    tree = cKDTree(points[pool], leafsize=_LEAF)
    k = min(k, len(pool))
    found = tree.query(points, k, eps=_APPROXIMATE, workers=run.num_workers)[1]
    near = pool[found.reshape(n, k)].astype(np.int32)
    missing = near[:, 0] != own  # not in the pool, or equal to another
    near[missing, 0] = own[missing]
    return near


def shared(
    data: np.ndarray, near: np.ndarray, k: int, chemistry: Chemistry, run: Workers
) -> tuple[np.ndarray, float]:
    r"""Mean data of all pixels that correspond to a pixel.

    A group G(p) holds p and those of its k nearest that pass the test of chemistry.
    With each of its members q the pixels around it correspond to those around p:

    .. math:: y(t) = \text{mean of } b(q + δ) \text{ over all } p + δ = t, q \in G(p)

    with δ up to 2 pixels, if t and q + δ pass a wider test themselves.

    Parameters
    ----------
    data : numpy.ndarray
        b, shape ``(n_elements, y, x)``; NaN where missing.
    near : numpy.ndarray
        From :func:`neighbours`.
    k : int
        Number of neighbours that are used.
    chemistry : Chemistry
        What tells pixels apart.
    run : Workers
        The threads.

    Returns
    -------
    y : numpy.ndarray
        Shape of `data`, float32; NaN where all that correspond are missing.
    size : float
        Mean size of a group.
    """
    near = np.ascontiguousarray(near[:, :k])
    shape = data.shape[1:]
    count = np.empty(len(near), np.int32)
    members = np.empty_like(near)
    limits = np.array(chemistry.limits, np.float32) ** 2
    blocks = run.blocks(data.shape)
    level, variance = chemistry.level, chemistry.variance
    run(group_rows, blocks, near, level, variance, limits, members, count)
    known = np.isfinite(data)
    filled = np.where(known, data, 0).astype(np.float32)
    out = np.empty(data.shape, np.float32)
    run(
        share_rows,
        blocks,
        filled,
        known,
        members,
        count.reshape(shape),
        level,
        variance,
        limits,
        out,
    )
    return out, float(count.mean())


@_part
def _differ(level, variance, limit, y, x, v, u):
    """Whether two pixels differ by more than a limit in an element."""
    for i in range(index(level.shape[0])):
        d = level[i, y, x] - level[i, v, u]
        if d * d > limit * (variance[i, y, x] + variance[i, v, u]):
            return True
    return False


@_kernel
def group_rows(near, level, variance, limits, members, count, start, stop):
    """Members of the groups of some rows: the neighbours that pass the test."""
    n_x = level.shape[2]
    for y in range(index(start), index(stop)):
        for x in range(index(n_x)):
            p = y * index(n_x) + x
            members[p, index(0)] = near[p, index(0)]
            m = index(1)
            for j in range(index(1), index(near.shape[1])):
                q = near[p, j]
                v, u = index(q // n_x), index(q % n_x)
                if not _differ(level, variance, limits[index(0)], y, x, v, u):
                    members[p, m] = q
                    m += index(1)
            count[p] = m


@_kernel
def share_rows(data, known, members, count, level, variance, limits, out, start, stop):
    """Means over all pixels that correspond to those of some rows."""
    n, n_y, n_x = data.shape
    total, weight = np.empty(n, np.float32), np.empty(n, np.float32)
    for ty in range(start, stop):
        for tx in range(n_x):
            total[:] = 0
            weight[:] = 0
            for dy in range(-REACH, REACH + 1):
                py = ty - dy
                if py < 0 or py >= n_y:
                    continue
                for dx in range(-REACH, REACH + 1):
                    px = tx - dx
                    if px < 0 or px >= n_x:
                        continue
                    p = index(py * n_x + px)
                    for k in range(index(count[index(py), index(px)])):
                        q = members[p, k]
                        ry, rx = q // n_x + dy, q % n_x + dx
                        if ry < 0 or rx < 0 or ry >= n_y or rx >= n_x:
                            continue
                        t, s = index(ty), index(tx)
                        r, c = index(ry), index(rx)
                        if (dy != 0 or dx != 0) and _differ(
                            level, variance, limits[index(1)], t, s, r, c
                        ):
                            continue
                        for i in range(index(n)):
                            total[i] += data[i, r, c]
                            weight[i] += known[i, r, c]
            for i in range(index(n)):
                mean = np.float32(np.nan)
                if weight[i] > 0:
                    mean = total[i] / weight[i]
                out[i, index(ty), index(tx)] = mean
