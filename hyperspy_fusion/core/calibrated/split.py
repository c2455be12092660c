"""Two independent measurements from one."""

from dataclasses import replace
from zlib import crc32

import numpy as np
from scipy.ndimage import gaussian_filter

from ..common.missing import fill
from .prepare import PreparedData

_LEVEL_WIDTH = 2.0  # pixels, of the Gaussian that gives the mean of filtered counts


def generators(maps: np.ndarray, *seed: int) -> list[np.random.Generator]:
    """Random numbers for each map, which do not depend on the order of the maps."""
    return [
        np.random.default_rng([*seed, crc32(np.ascontiguousarray(image).data)])
        for image in maps
    ]


def thinned(counts: np.ndarray, *seed: int, of: np.ndarray | None = None) -> np.ndarray:
    """Half of the counts, drawn one by one with p = 1/2; NaN where missing.

    Scaled counts, which are no whole numbers, are divided in the same proportion. The
    random numbers are those `of` the maps from which the counts were made, if any.
    """
    whole = np.ceil(np.nan_to_num(counts)).astype(np.int64)
    made_of = counts if of is None else of
    drawn = [
        rng.binomial(image, 0.5)
        for rng, image in zip(generators(made_of, *seed), whole, strict=True)
    ]
    return np.stack(drawn) * (counts / np.maximum(whole, 1))


def split(prepared: PreparedData, *seed: int) -> tuple[float, list[PreparedData]]:
    """Split maps into two independent measurements; returns their dose, and them.

    Counts are divided by binomial thinning with p = 1/2. Noise of the same size and
    correlation is added to one half of the values, and of filtered counts, and
    subtracted from the other.
    """
    data = prepared.data
    if prepared.variance is None:
        if not prepared.correlated:
            half = thinned(data, *seed)
            return 0.5, [prepared.share(part, 0.5) for part in (half, data - half)]
        level = gaussian_filter(fill(data), (0, _LEVEL_WIDTH, _LEVEL_WIDTH))
        noise = _noise(prepared, np.maximum(level, 0), *seed)
        halves = [(data + sign * noise) / 2 for sign in (1, -1)]
        # below zero the kernels take a pixel for missing
        return 0.5, [
            prepared.share(np.where(half < 0, np.float32(0), half), 0.5)
            for half in halves
        ]
    variance = np.broadcast_to(prepared.variance, data.shape)
    noise = _noise(prepared, variance, *seed)
    return 1.0, [
        replace(prepared, data=part, variance=2 * variance)
        for part in (data + noise, data - noise)
    ]


def _noise(prepared: PreparedData, variance: np.ndarray, *seed: int) -> np.ndarray:
    """Noise as that of the maps; of filtered maps `variance` is that without filter."""
    noise = np.empty(prepared.data.shape, np.float32)
    kernels = prepared.kernels or (None,) * len(noise)
    each = zip(kernels, generators(prepared.data, *seed), strict=True)
    for i, (kernel, rng) in enumerate(each):
        if kernel is None:
            drawn = rng.standard_normal(noise[i].shape, dtype=np.float32)
            noise[i] = np.sqrt(variance[i]) * drawn
        else:
            drawn = kernel.noise(noise[i].shape, rng)
            noise[i] = np.sqrt(variance[i] / kernel.area) * drawn
    return noise
