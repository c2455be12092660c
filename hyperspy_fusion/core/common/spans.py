"""Regions of an image as spans of its rows: few numbers, which a record can keep.

An array of spans has the shape ``(n_spans, 3)``, float64: the row, the first column and
the one after the last. Spans that are NaN hold nothing.
"""

from collections.abc import Sequence

import numpy as np


def spans_of(region: np.ndarray) -> np.ndarray:
    """Spans of a region, bool, of shape ``(y, x)``, row by row."""
    ends = np.diff(np.pad(region, [(0, 0), (1, 1)]).astype(np.int8), axis=1)
    rows, starts = np.nonzero(ends == 1)
    _, stops = np.nonzero(ends == -1)
    return np.stack([rows, starts, stops], axis=1).astype(np.float64)


def region_of(spans: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The region, bool, of `shape` ``(y, x)``, from its spans."""
    region = np.zeros(shape, dtype=bool)
    for row, start, stop in spans[np.isfinite(spans).all(axis=1)].astype(int):
        region[row, start:stop] = True
    return region


def cropped(spans: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Spans of a part of the image, with start and stop of its `rows` and `columns`.

    Those of a series, shape ``navigation + (n_spans, 3)``, keep this shape.
    """
    row = spans[..., 0] - rows.start
    ends = np.clip(spans[..., 1:], columns.start, columns.stop) - columns.start
    inside = (row >= 0) & (row < rows.stop - rows.start) & (ends[..., 0] < ends[..., 1])
    found = np.concatenate([row[..., None], ends], axis=-1)
    if found.ndim == 2:
        return found[inside]
    return np.where(inside[..., None], found, np.nan)


def moved(spans: np.ndarray, row: int, column: int) -> np.ndarray:
    """Spans of a part of an image in the image, where the part begins at a pixel."""
    return spans + np.array([row, column, column], dtype=np.float64)
