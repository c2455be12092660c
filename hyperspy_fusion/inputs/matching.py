"""Maps and HAADF image of different pixels: what they have in common, by their axes."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pint
from hyperspy.axes import UniformDataAxis
from hyperspy.signals import Signal2D
from scipy import sparse

from ..execution.arrays import is_lazy

_COVERED = 0.9  # part of a pixel of the maps that the image has to cover at least
_ALIGNED = 0.02  # pixels of the image, to which edges of pixels fall together
_MEANT = {"A": "Å"}  # pint takes A for ampere


@dataclass(frozen=True, kw_only=True)
class _Along:
    """How the pixels of maps and image belong together along one axis.

    Each pixel of the result is the sum of `n` pixels of the maps, from `start` to
    `stop`; `edges` are the ends of these pixels, counted in pixels of the image.
    """

    start: int
    stop: int
    n: int
    edges: np.ndarray
    sizes: tuple[int, int]  # of maps and image

    @classmethod
    def of(cls, maps: UniformDataAxis, image: UniformDataAxis) -> _Along:
        """From two axes in the same units."""
        ratio = maps.scale / image.scale
        n = max(min(round(1 / ratio), maps.size + 1), 1)  # more have no area in common
        # an offset is the middle of the first pixel, but files have that of the scan
        apart = (maps.offset - image.offset) / image.scale
        same = abs(apart) < _ALIGNED * min(ratio, 1)
        first = 0 if same else apart + (1 - ratio) / 2
        edges = first + ratio * np.arange(maps.size + 1)
        if np.all(np.abs(edges - np.rint(edges * n) / n) < _ALIGNED):
            edges = np.rint(edges * n) / n
        lacking = (1 - _COVERED) * ratio * n
        inside = np.flatnonzero((edges >= -lacking) & (edges <= image.size + lacking))
        if ratio <= 0:
            raise ValueError(
                f"the scales of maps and HAADF image along {maps.name} are "
                f"{maps.scale:.5g} and {image.scale:.5g} {maps.units}: expected the "
                "same sign, turn one of them over with signal.isig[::-1]"
            )
        if image.size < ratio:
            raise ValueError(
                f"the HAADF image is smaller than a pixel of the maps along "
                f"{maps.name}, {image.size * image.scale:.5g} of {maps.scale:.5g} "
                f"{maps.units}: correct the scales of the axes"
            )
        if inside.size <= n:
            raise ValueError(
                f"maps and HAADF image have no area in common along {maps.name}: the "
                f"maps reach from {maps.low_value:.5g} to {maps.high_value:.5g} "
                f"{maps.units} and the image from {image.low_value:.5g} to "
                f"{image.high_value:.5g}; correct offset and scale of the axes"
            )
        # sums begin where a pixel of the image begins, or next to it
        begin = inside[: min(n, inside.size - n)]
        start = int(begin[np.argmin(np.abs(edges[begin] - np.rint(edges[begin])))])
        stop = start + (int(inside[-1]) - start) // n * n
        edges = np.clip(edges[start : stop + 1 : n], 0, image.size)
        sizes = maps.size, image.size
        return cls(start=start, stop=stop, n=n, edges=edges, sizes=sizes)

    @property
    def pixels(self) -> slice | None:
        """The pixels of the image, if those of the result are whole ones."""
        first, last = np.rint(self.edges[[0, -1]]).astype(int).tolist()
        same = np.array_equal(self.edges, np.arange(first, last + 1))
        return slice(first, last) if same else None

    def means(self) -> sparse.csr_array:
        """Matrix that makes means over the pixels of the result, of the image's."""
        low, high = self.edges[:-1, None], self.edges[1:, None]
        pixel = np.floor(low) + np.arange(np.ceil((high - low).max()) + 1)
        shared = np.maximum(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0)
        row, column = np.nonzero(shared)
        values = (shared / (high - low))[row, column]
        place = row, pixel[row, column].astype(int)
        return sparse.csr_array((values, place), shape=(len(low), self.sizes[1]))


@dataclass(frozen=True, kw_only=True)
class Match:
    """How maps and HAADF image are brought to the area and pixels of both.

    The maps are cropped at whole pixels and summed over whole numbers of them, so that
    counts stay counts. The image is cropped, or averaged over the area of each pixel.
    """

    y: _Along
    x: _Along

    @classmethod
    def of(cls, maps: Signal2D, image: Signal2D) -> Match:
        """From two images; a ValueError if their axes do not tell."""
        found = []
        for a, b in zip(
            maps.axes_manager.signal_axes, image.axes_manager.signal_axes, strict=True
        ):
            for axis, name in ((a, "maps are"), (b, "HAADF image is")):
                if not is_calibrated(axis):
                    raise ValueError(
                        f"the {name} not calibrated along {axis.name}: match='axes' "
                        "needs scale, offset and units of the axes of both"
                    )
            found.append(_Along.of(*in_common_units(a, b, "map", "HAADF image")))
        x, y = found
        return cls(y=y, x=x)

    def sums(self, array: Any) -> Any:
        """Maps ``(..., y, x)``, or one value for all their pixels, in the new pixels.

        Counts, backgrounds and variances add up; NaN where any pixel is missing.
        """
        n_y, n_x = self.y.n, self.x.n
        if array.shape[-2:] == (1, 1):
            return array * (n_y * n_x)
        part = array[..., self.y.start : self.y.stop, self.x.start : self.x.stop]
        if n_y == n_x == 1:
            return part
        part = part.astype(np.result_type(part.dtype, np.int64))
        return sum(part[..., i::n_y, j::n_x] for i in range(n_y) for j in range(n_x))

    @property
    def is_sum(self) -> bool:
        """Whether a new pixel is the sum of several."""
        return max(self.y.n, self.x.n) > 1

    def means_of_fractions(self, arrays: list[Any]) -> list[Any]:
        """Maps of fractions in the new pixels: means over those that hold anything."""
        held = self.sums(sum(arrays) > 0)
        return [self.sums(array) / np.maximum(held, 1) for array in arrays]

    def image(self, array: Any) -> Any:
        """The HAADF image ``(..., y, x)`` in the new pixels."""
        rows, columns = self.y.pixels, self.x.pixels
        if rows is not None and columns is not None:
            return array[..., rows, columns]
        if not is_lazy(array):
            return self._averaged(array)
        array = array.rechunk({array.ndim - 2: -1, array.ndim - 1: -1})
        size = len(self.y.edges) - 1, len(self.x.edges) - 1
        chunks = (*array.chunks[:-2], *((n,) for n in size))
        return array.map_blocks(self._averaged, chunks=chunks, dtype=float)

    def _averaged(self, array: np.ndarray) -> np.ndarray:
        down, across = self.y.means(), self.x.means()
        flat = array.reshape(-1, *array.shape[-2:]).astype(float)
        images = np.stack([(across @ (down @ image).T).T for image in flat])
        return images.reshape(*array.shape[:-2], *images.shape[1:])

    def axes(self, axes: list[dict]) -> list[dict]:
        """The axes of the result, from those of a map in the order of its array."""
        new = [
            {
                **axis,
                "size": len(along.edges) - 1,
                "scale": along.n * axis["scale"],
                "offset": axis["offset"]
                + (along.start + (along.n - 1) / 2) * axis["scale"],
            }
            for axis, along in zip(axes[-2:], (self.y, self.x), strict=True)
        ]
        return [*axes[:-2], *new]

    def notes(self, *, means: bool) -> tuple[str, ...]:
        """What was done, for the user; `means` of the maps were taken, or sums."""
        y, x = self.y, self.x
        found, done = [], []
        if any(a.stop - a.start < a.sizes[0] for a in (y, x)):
            done.append(f"cropped to .isig[{x.start}:{x.stop}, {y.start}:{y.stop}]")
        if self.is_sum:
            verb = "averaged" if means else "summed"
            done.append(f"{verb} over {x.n} x {y.n} pixels (x, y)")
        if done:
            found.append(f"the maps were {' and '.join(done)}")
        ends = [f"{a.edges[0]:.4g}:{a.edges[-1]:.4g}" for a in (x, y)]
        if y.pixels is None or x.pixels is None:
            found.append(
                "the HAADF image was averaged over the pixels of the maps, from "
                f"{ends[0]} along x and {ends[1]} along y in its own pixels"
            )
        elif (y.pixels, x.pixels) != (slice(0, y.sizes[1]), slice(0, x.sizes[1])):
            found.append(f"the HAADF image was cropped to .isig[{', '.join(ends)}]")
        return tuple(found)


def hint(maps: Signal2D, image: Signal2D) -> str:
    """Advice to match a map and the HAADF image by their axes, if that is possible."""
    with suppress(ValueError):
        Match.of(maps, image)
        return ', or call with match="axes", which brings both to their common area'
    return ""


def is_calibrated(axis: UniformDataAxis) -> bool:
    """Whether an axis has a unit of length."""
    # HyperSpy leaves units undefined or empty; some files write pixels as units.
    units = axis.units if isinstance(axis.units, str) else ""
    return units.strip().lower() not in ("", "px", "pix", "pixel", "pixels")


def in_common_units(
    a: UniformDataAxis, b: UniformDataAxis, a_name: str, b_name: str
) -> tuple[UniformDataAxis, UniformDataAxis]:
    """Two calibrated axes in the units of the first, copied if that changes them."""
    if a.units == b.units:
        return a, b
    a, b = a.copy(), b.copy()
    found = b.units
    for axis in (a, b):
        axis.units = _MEANT.get(axis.units, axis.units)
    with warnings.catch_warnings(), suppress(pint.DimensionalityError):
        warnings.simplefilter("ignore")  # HyperSpy's, of units it does not know
        for axis in (b, a):  # also the first, whose units may be spelt otherwise
            axis.convert_to_units(a.units)
    if a.units != b.units:
        raise ValueError(
            f"the {a_name} has pixels in {a.units!r} and the {b_name} in {found!r}: "
            "expected units that can be converted into each other"
        )
    return a, b
