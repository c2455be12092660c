"""Displacement of the HAADF image against the maps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..common.operators import block_sums, products
from .prepare import PreparedData
from .weights import significance

_LARGEST_SHIFT = 4  # pixels
_SHIFT_Z = 2.0  # standard deviations, as for the gain of the HAADF image


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Displacement of the HAADF image against the maps.

    `y` and `x` in pixels, positive where the features of the image lie further down and
    right; `z`, how much better the displaced model fits, in standard deviations.
    """

    y: float
    x: float
    z: float

    @property
    def significant(self) -> bool:
        """Whether the displacement is significant."""
        return self.z > _SHIFT_Z

    @property
    def message(self) -> str:
        """The warning; empty if there is no displacement."""
        if not self.significant:
            return ""
        return (
            f"the HAADF image is displaced against the maps by ({self.y:.1f}, "
            f"{self.x:.1f}) pixels (down, right; {self.z:.1f} standard deviations): it "
            f"was moved back by ({round(self.y)}, {round(self.x)})"
        )


def find_shift(prepared: PreparedData, maps: np.ndarray) -> Shift:
    """Displacement of the HAADF image against the maps, by cross-correlation.

    Maps moved by whole pixels are fitted to the image with coefficients of their own,
    since a displacement biases those found before. The search descends from no
    displacement to the next minimum of the squares, refined by a parabola. The scatter
    of the gain between blocks of 16 x 16 pixels gives its standard deviation. `maps`
    are fused without the image; pixels with `trusted` 0 are left out.
    """
    reach = min(_LARGEST_SHIFT, (min(prepared.haadf.shape) - 1) // 4)
    inner = (slice(reach, -reach),) * 2
    if reach < 1 or not prepared.trusted[inner].any():
        return Shift(y=0.0, x=0.0, z=0.0)
    weight = prepared.trusted[inner] / prepared.sigma[inner] ** 2
    image = prepared.haadf[inner] - np.average(prepared.haadf[inner], weights=weight)
    n_y, n_x = prepared.haadf.shape
    weighted = weight * image
    # reused for each displacement: fresh memory is slow
    columns = np.ones((len(maps) + 1, *image.shape))
    scaled = np.empty_like(columns)

    def fit(y: int, x: int) -> tuple[np.ndarray, float]:
        """Coefficients of the maps moved by (y, x), and the decrease of the squares."""
        columns[:-1] = maps[:, reach - y : n_y - reach - y, reach - x : n_x - reach - x]
        np.multiply(columns, weight, out=scaled)
        right = products(columns, weighted[None])[:, 0]
        normal = products(scaled, columns)
        solution = np.linalg.lstsq(normal, right, rcond=1e-10)[0]
        return solution, right @ solution

    def residual(y: int, x: int) -> np.ndarray:
        """Weighted squared residual in each pixel."""
        solution, _ = fit(y, x)
        return weight * (image - np.tensordot(solution, columns, 1)) ** 2

    errors = {}

    def total(y: int, x: int) -> float:
        if max(abs(y), abs(x)) > reach:
            return np.inf
        if (y, x) not in errors:
            errors[y, x] = -fit(y, x)[1]
        return errors[y, x]

    here, best = None, (0, 0)
    while best != here:  # until no neighbour is better
        here = y, x = best
        around = [(y + j, x + i) for j in (0, -1, 1) for i in (0, -1, 1)]
        best = min(around, key=lambda place: total(*place))
    y, x = best
    z = 0.0
    if best != (0, 0):
        z = significance(block_sums(residual(0, 0) - residual(y, x)))
    return Shift(
        y=y + _vertex([total(y + k, x) for k in (-1, 0, 1)]),
        x=x + _vertex([total(y, x + k) for k in (-1, 0, 1)]),
        z=z,
    )


def _vertex(values: Sequence[float]) -> float:
    """Position of the minimum of a parabola through three neighbours."""
    low, middle, high = values
    bend = low - 2 * middle + high
    if not 0 < bend < np.inf:
        return 0.0
    return float(np.clip((low - high) / (2 * bend), -0.5, 0.5))


def aligned(prepared: PreparedData, shift: Shift) -> PreparedData:
    """Move the HAADF image back by whole pixels, which keeps its noise, if significant.

    `trusted` becomes 0 where no image is left.
    """
    y, x = round(shift.y), round(shift.x)
    if not shift.significant or (y, x) == (0, 0):
        return prepared

    def move(image: np.ndarray) -> np.ndarray:
        n_y, n_x = image.shape
        rows = np.clip(np.arange(n_y) + y, 0, n_y - 1)
        columns = np.clip(np.arange(n_x) + x, 0, n_x - 1)
        return image[np.ix_(rows, columns)]

    inside = np.zeros_like(prepared.trusted)
    n_y, n_x = inside.shape
    inside[max(-y, 0) : n_y - max(y, 0), max(-x, 0) : n_x - max(x, 0)] = 1
    return replace(
        prepared,
        haadf=move(prepared.haadf),
        sigma=move(prepared.sigma),
        trusted=move(prepared.trusted) * inside,
    )
