"""One order of the elements and one orientation of the images, whatever the user's.

The split of the counts is random and differences are taken forward, so that data that
are permuted, flipped or transposed would give slightly different results. All are
brought to the same order and orientation before, and back afterwards.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..common.solution import Solution
from .shift import Shift

_BY_ELEMENT = (
    "haadf_coefficients",
    "count_value",
    "vacuum_background",
    "own_norm",
    "change",
)


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """Flips and a transposition, in this order.

    Attributes
    ----------
    upside_down, mirrored, transposed : bool
        Whether rows are reversed, columns are, and both are exchanged.
    """

    upside_down: bool
    mirrored: bool
    transposed: bool

    @classmethod
    def of(cls, image: np.ndarray) -> "Orientation":
        """The one that brings most of an image to the upper left, above the diagonal.

        And makes it at least as high as wide.
        """
        image = np.asarray(image, dtype=np.float64)
        n_y, n_x = image.shape
        upside_down, mirrored = (
            bool(_lean(image.sum(axis=axis)) > 0) for axis in (1, 0)
        )
        turned = image[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
        transposed = n_x > n_y
        if n_x == n_y:
            rows, columns = (_lean(turned.sum(axis=axis)) for axis in (1, 0))
            transposed = bool(rows < columns)
        return cls(upside_down=upside_down, mirrored=mirrored, transposed=transposed)

    def turn(self, array: np.ndarray) -> np.ndarray:
        """An array of shape ``(..., y, x)`` in this orientation, contiguous."""
        if self.upside_down:
            array = array[..., ::-1, :]
        if self.mirrored:
            array = array[..., ::-1]
        return np.ascontiguousarray(
            array.swapaxes(-2, -1) if self.transposed else array
        )

    def turn_back(self, array: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`turn`."""
        array = array.swapaxes(-2, -1) if self.transposed else array
        if self.upside_down:
            array = array[..., ::-1, :]
        if self.mirrored:
            array = array[..., ::-1]
        return np.ascontiguousarray(array)

    def shift_back(self, shift: Shift) -> Shift:
        """A displacement of images in this orientation, as it was before."""
        y, x = (shift.x, shift.y) if self.transposed else (shift.y, shift.x)
        return replace(
            shift, y=-y if self.upside_down else y, x=-x if self.mirrored else x
        )


def _lean(profile: np.ndarray) -> float:
    """First moment of a profile about its middle."""
    place = np.arange(profile.size) - (profile.size - 1) / 2
    return float(np.sum(place * profile))


def in_order(values: Any, order: np.ndarray) -> Any:
    """Values or arrays of the elements in another order; others as they are."""
    if values is None or np.ndim(values) == 0:
        return values
    if isinstance(values, np.ndarray):
        return values[order] if len(values) == len(order) else values
    return [values[k] for k in order] if len(values) == len(order) else values


def solution_in_order(solution: Solution, order: np.ndarray) -> Solution:
    """A solution with its elements in another order."""
    record = solution.record
    found = {name: record[name][order] for name in _BY_ELEMENT if name in record}
    maps, variance = solution.maps, solution.variance
    return replace(
        solution,
        maps=None if maps is None else maps[order],
        variance=None if variance is None else variance[order],
        record={**record, **found},
    )
