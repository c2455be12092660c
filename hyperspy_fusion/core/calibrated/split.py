"""Two independent measurements from one."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from zlib import crc32

import numpy as np
from scipy.ndimage import gaussian_filter

from ..common.missing import fill
from .prepare import PreparedData
from .unmixed import with_counts

_LEVEL_WIDTH = 2.0  # pixels, of the Gaussian that gives the mean of filtered counts


_Turn = Callable[[np.ndarray], np.ndarray]


def oriented(image: np.ndarray, *seed: int) -> tuple[np.random.Generator, _Turn, _Turn]:
    """Random numbers for the pixels of an image, and the orientation to draw them in.

    The same pixels get the same numbers if the image is flipped, turned or transposed,
    and wherever it stands among other maps: numbers are drawn in that of its eight
    orientations whose checksum is the lowest, which is their seed, too.

    Returns
    -------
    rng : numpy.random.Generator
        The numbers.
    there, back : callable
        Turn arrays of the shape of the image into that orientation, and back.
    """
    checksum, turn = _lowest(image)
    rng = np.random.default_rng([*seed, checksum])
    return rng, lambda array: _turned(array, turn), lambda array: _back(array, turn)


def _lowest(image: np.ndarray) -> tuple[int, tuple[int, int, bool]]:
    """Lowest checksum of an image in its eight orientations, and that orientation."""
    return min(
        (crc32(np.ascontiguousarray(_turned(image, turn)).data), turn)
        for turn in product((1, -1), (1, -1), (False, True))
    )


def _turned(array: np.ndarray, turn: tuple[int, int, bool]) -> np.ndarray:
    y, x, transposed = turn
    array = array[::y, ::x]
    return array.T if transposed else array


def _back(array: np.ndarray, turn: tuple[int, int, bool]) -> np.ndarray:
    y, x, transposed = turn
    return (array.T if transposed else array)[::y, ::x]


def one_of(maps: np.ndarray) -> np.ndarray:
    """The map from which random numbers for all of them together are drawn.

    Whatever their order and orientation, and the units of the image.
    """
    return min(maps, key=lambda image: _lowest(image)[0])


def thinned(counts: np.ndarray, *seed: int, of: np.ndarray | None = None) -> np.ndarray:
    """Half of the counts, drawn one by one with p = 1/2; NaN where missing.

    Scaled counts, which are no whole numbers, are divided in the same proportion. The
    random numbers are those `of` the maps from which the counts were made, if any.
    """
    whole = np.ceil(np.nan_to_num(counts)).astype(np.int64)
    half = np.empty(counts.shape, np.int64)
    for i, image in enumerate(counts if of is None else of):
        rng, there, back = oriented(image, *seed)
        half[i] = back(rng.binomial(there(whole[i]), 0.5))
    return half * (counts / np.maximum(whole, 1))


def normal(image: np.ndarray, *seed: int) -> np.ndarray:
    """Normal random numbers for the pixels of an image, float32; see `oriented`."""
    rng, there, back = oriented(image, *seed)
    return back(rng.standard_normal(there(image).shape, dtype=np.float32))


def random_parts(image: np.ndarray, n_parts: int, *seed: int) -> np.ndarray:
    """Random part of each pixel, from 0 to `n_parts` - 1; see :func:`oriented`."""
    rng, there, back = oriented(image, *seed)
    return back(rng.integers(n_parts, size=there(image).shape))


def split(prepared: PreparedData, *seed: int) -> tuple[float, list[PreparedData]]:
    """Split maps into two independent measurements; returns their dose, and them.

    Counts are divided by binomial thinning with p = 1/2, those of spectra in their
    bins. Noise of the same size and correlation is added to one half of the values, and
    of filtered counts, and subtracted from the other.
    """
    data = prepared.data
    if prepared.bins is not None:
        counts = prepared.bins.counts
        half = thinned(counts, *seed).astype(np.float32)
        parts = [with_counts(prepared, part) for part in (half, counts - half)]
        return 0.5, [part.at_dose(part.data, 0.5) for part in parts]
    if prepared.variance is None:
        if not prepared.correlated:
            half = thinned(data, *seed)
            return 0.5, [prepared.at_dose(part, 0.5) for part in (half, data - half)]
        level = gaussian_filter(fill(data), (0, _LEVEL_WIDTH, _LEVEL_WIDTH))
        noise = _noise(prepared, np.maximum(level, 0), *seed)
        halves = [(data + sign * noise) / 2 for sign in (1, -1)]
        # below zero the kernels take a pixel for missing
        return 0.5, [
            prepared.at_dose(np.where(half < 0, np.float32(0), half), 0.5)
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
    for i, (kernel, image) in enumerate(zip(kernels, prepared.data, strict=True)):
        if kernel is None:
            noise[i] = np.sqrt(variance[i]) * normal(image, *seed)
        else:
            rng, there, back = oriented(image, *seed)
            unit = back(kernel.noise(there(image).shape, rng))
            noise[i] = np.sqrt(variance[i] / kernel.area) * unit
    return noise
