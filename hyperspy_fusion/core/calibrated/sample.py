"""Representative tiles of a large image."""

from itertools import pairwise
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter

from ..common.missing import fill

# Images of at least so many pixels are calibrated on 4 x 4 tiles of 96 x 96 pixels.
LARGE = 2**18
TILES = 4
TILE = 96


def representative_tiles(maps: np.ndarray, factor: int = 1) -> list | None:
    """Representative tiles of a large image: in each cell the one with most counts.

    `factor` is the number of pixels of the image along a side of one pixel of `maps`, a
    power of 2 up to 16. Returns the corners ``(y, x)`` of the tiles, row by row, or
    None if the image is small.
    """
    size = maps.shape[1:]
    if factor**2 * np.prod(size) < LARGE or factor * min(size) < TILES * TILE:
        return None
    half = TILE // 2 // factor
    n_y, n_x = (n // half for n in size)
    blocks = maps[:, : n_y * half, : n_x * half]
    blocks = blocks.reshape(len(maps), n_y, half, n_x, half)
    counts = np.nansum(blocks, axis=(2, 4), dtype=np.float64)
    counts /= np.maximum(counts.sum(axis=(1, 2), keepdims=True), 1e-300)
    counts = counts.sum(axis=0)
    # sums over all tiles at multiples of half a tile
    counts = counts[:-1, :-1] + counts[1:, :-1] + counts[:-1, 1:] + counts[1:, 1:]
    edges_y, edges_x = (np.arange(TILES + 1) * (n + 1) // TILES for n in counts.shape)
    tiles = []
    for low_y, high_y in pairwise(edges_y):
        row = []
        for low_x, high_x in pairwise(edges_x):
            # tiles of the next cell begin half a tile later: none overlap
            cell = counts[low_y : high_y - 1, low_x : high_x - 1]
            y, x = np.unravel_index(cell.argmax(), cell.shape)
            row.append(tuple(int(n) * TILE // 2 for n in (low_y + y, low_x + x)))
        tiles.append(row)
    return tiles


def mosaic(array: np.ndarray, tiles: Any) -> Any:
    """Put tiles of an array together as one image; all of it if `tiles` is None."""
    if tiles is None:
        return array
    return np.block([[tile_at(array, corner) for corner in row] for row in tiles])


def tile_at(array: np.ndarray, corner: tuple[int, int]) -> Any:
    """The tile of an array that begins at a corner ``(y, x)``."""
    y, x = corner
    return array[..., y : y + TILE, x : x + TILE]


def busiest(maps: np.ndarray, size: int) -> tuple[slice, slice]:
    """Rows and columns of the square with the highest sum of all maps.

    `maps` have the shape ``(n_elements, y, x)``, NaN where missing; each counts as much
    as the others.
    """
    shape = maps.shape[1:]
    sides = [min(size, n) for n in shape]
    filled = np.maximum(fill(maps), 0)
    sums = filled.sum(axis=(1, 2), dtype=np.float64)
    total = np.tensordot(1 / np.maximum(sums, 1e-30), filled, axes=1)
    found = uniform_filter(total.astype(np.float64), sides, mode="constant")
    # of squares within the image: that of a pixel begins half a side before it
    inside = tuple(
        slice(side // 2, side // 2 + n - side + 1)
        for side, n in zip(sides, shape, strict=True)
    )
    corner = np.unravel_index(found[inside].argmax(), found[inside].shape)
    rows, columns = (
        slice(int(first), int(first) + side)
        for first, side in zip(corner, sides, strict=True)
    )
    return rows, columns


def busiest_of_quarters(maps: np.ndarray, size: int) -> list:
    """The busiest square of each quarter of an image, as rows and columns.

    As :func:`busiest`; two rows of two places for :func:`at_places`.
    """
    middle_y, middle_x = (n // 2 for n in maps.shape[1:])
    found: list[list] = []
    for first_y, below in ((0, slice(middle_y)), (middle_y, slice(middle_y, None))):
        found.append([])
        for first_x, right in ((0, slice(middle_x)), (middle_x, slice(middle_x, None))):
            rows, columns = busiest(maps[:, below, right], size)
            found[-1].append((_moved(rows, first_y), _moved(columns, first_x)))
    return found


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def at_places(array: np.ndarray, places: list) -> np.ndarray:
    """Parts of an array put together as one image, from rows of rows and columns."""
    return np.block(
        [[array[..., rows, columns] for rows, columns in row] for row in places]
    )
