"""Tiles of an image, with a halo around them that is solved in addition."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .arrays import is_lazy

# Pixels around a tile, by regulariser. The influence of pixels further away is about
# 1e-3 of the 99th percentile of a map. With 32 pixels TGV leaves seams of 3e-3 where
# the weight is large, and TV, whose plateaus are wide, of 5e-2.
HALOS = {"tgv": 64, "tv": 128}
_LARGEST = 4096  # pixels a side, above which an image is solved by tiles
_TILE = 2048  # pixels a side of these tiles
_SMALLEST_CHUNK = 256  # pixels a side, of chunks that become tiles
SMALLEST_TILE = 32  # pixels a side


def cut(
    array: Any,
    position: tuple[int, ...],
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> Any:
    """The part of an array that a task needs, lazy if the array is."""
    if array is None:
        return None
    if array.shape[-2:] == (1, 1):  # one value for all pixels
        return array[position]
    return array[position][..., rows, columns]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A tile of an image: its rows and columns, and `outer`, those with its halo."""

    rows: slice
    columns: slice
    outer: tuple[slice, slice]

    @classmethod
    def of(cls, rows: slice, columns: slice, sizes: Sequence[int], halo: int) -> "Tile":
        """A tile with its halo, which ends at the edges of an image of these sizes."""
        outer_rows, outer_columns = (
            slice(max(span.start - halo, 0), min(span.stop + halo, size))
            for span, size in zip((rows, columns), sizes, strict=True)
        )
        return cls(rows=rows, columns=columns, outer=(outer_rows, outer_columns))

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns of the tile within what is solved."""
        rows, columns = (
            slice(own.start - outer.start, own.stop - outer.start)
            for own, outer in zip((self.rows, self.columns), self.outer, strict=True)
        )
        return rows, columns


def tiles_of(array: Any, tile_size: int | None, halo: int) -> list[list[Tile]] | None:
    """Cut the image on the last two axes of an array into tiles, row by row.

    `tile_size` is in pixels, at least 32; by default the tiles are the chunks of the
    image, small ones put together, and an image of one chunk is cut only if it is
    larger than 4096 pixels a side. Returns None if the image is solved as a whole.
    """
    sizes = array.shape[-2:]
    if tile_size is not None:
        edges = [[*range(0, size, tile_size), size] for size in sizes]
    else:
        chunks = array.chunks[-2:] if is_lazy(array) else [(size,) for size in sizes]
        edges = [_edges(sizes) for sizes in chunks]
    if all(len(along) == 2 for along in edges):
        return None

    return [
        [
            Tile.of(slice(*rows), slice(*columns), sizes, halo)
            for columns in pairwise(edges[1])
        ]
        for rows in pairwise(edges[0])
    ]


def _edges(chunks: Sequence[int]) -> list[int]:
    """Edges of tiles along one axis, from those of chunks."""
    size = sum(chunks)
    edges = [0]
    for edge in np.cumsum(chunks).tolist():
        if edge - edges[-1] >= _SMALLEST_CHUNK or edge == size:
            edges.append(edge)
    if len(edges) > 2 and edges[-1] - edges[-2] < _SMALLEST_CHUNK:
        del edges[-2]
    if len(edges) == 2 and size <= _LARGEST:
        return edges
    fine = [0]
    for start, stop in pairwise(edges):
        n = -(-(stop - start) // _TILE)
        fine += [start + (stop - start) * (k + 1) // n for k in range(n)]
    return fine
