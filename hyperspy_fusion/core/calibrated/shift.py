"""Displacement of the HAADF image against the maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..common.operators import products
from .weights import block_scores, significance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .prepare import PreparedData

__all__ = [
    "Shift",
    "aligned",
    "find_shift",
]

_LARGEST_SHIFT = 4  # pixels
_SHIFT_Z = 2.0  # as of the gain of the HAADF image


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Displacement of the HAADF image against the maps.

    Attributes
    ----------
    y, x : float
        Pixels; positive where the features of the image lie further down and right.
    z : float
        How much better the displaced model explains the image, in standard deviations.
    """

    y: float
    x: float
    z: float

    @property
    def significant(self) -> bool:
        """Whether it is there."""
        return self.z > _SHIFT_Z

    @property
    def message(self) -> str:
        """What was seen; empty if all is well."""
        if not self.significant:
            return ""
        return (
            f"the HAADF image is displaced against the maps by ({self.y:.1f}, "
            f"{self.x:.1f}) pixels (down, right; {self.z:.1f} standard deviations): it "
            f"was moved back by ({round(self.y)}, {round(self.x)})"
        )


def find_shift(prepared: PreparedData, maps: np.ndarray) -> Shift:
    """Displacement of the HAADF image against the maps, by cross-correlation.

    Maps that are moved by whole pixels are fitted to the image, all with coefficients
    of their own, since a displacement spoils those that were found without it. From no
    displacement the search goes downhill to the next minimum of the squares, which is
    interpolated by a parabola. Gains are summed over blocks of 16 x 16 pixels, whose
    scatter tells how certain they are.

    Parameters
    ----------
    prepared : PreparedData
        The prepared data; pixels with `trusted` 0 are left out.
    maps : numpy.ndarray
        Maps that know nothing of the image, fused with λ_haadf = 0, shape
        ``(n_elements, y, x)``.

    Returns
    -------
    Shift
    """
    reach = min(_LARGEST_SHIFT, (min(prepared.haadf.shape) - 1) // 4)
    inner = (slice(reach, -reach),) * 2
    if reach < 1 or not prepared.trusted[inner].any():
        return Shift(y=0.0, x=0.0, z=0.0)
    weight = prepared.trusted[inner] / prepared.sigma[inner] ** 2
    image = prepared.haadf[inner] - np.average(prepared.haadf[inner], weights=weight)
    n_y, n_x = prepared.haadf.shape
    weighted = weight * image
    # used again for each displacement: fresh memory is slow
    columns = np.ones((len(maps) + 1, *image.shape))
    scaled = np.empty_like(columns)

    def fit(y: int, x: int) -> tuple[np.ndarray, float]:
        """Coefficients of the maps moved by (y, x), and what they gain."""
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
    while best != here:  # downhill
        here = y, x = best
        around = [(y + j, x + i) for j in (0, -1, 1) for i in (0, -1, 1)]
        best = min(around, key=lambda place: total(*place))
    y, x = best
    z = 0.0
    if best != (0, 0):
        z = significance(block_scores(residual(0, 0) - residual(y, x)))
    return Shift(
        y=y + _vertex([total(y + k, x) for k in (-1, 0, 1)]),
        x=x + _vertex([total(y, x + k) for k in (-1, 0, 1)]),
        z=z,
    )


def _vertex(values: Sequence[float]) -> float:
    """Where the parabola through a minimum and its two neighbours is least."""
    low, middle, high = values
    bend = low - 2 * middle + high
    if not 0 < bend < np.inf:
        return 0.0
    return float(np.clip((low - high) / (2 * bend), -0.5, 0.5))


def aligned(prepared: PreparedData, shift: Shift) -> PreparedData:
    """Move the HAADF image back by whole pixels, which leaves its noise as it is.

    Parameters
    ----------
    prepared : PreparedData
        The prepared data.
    shift : Shift
        From :func:`find_shift`.

    Returns
    -------
    PreparedData
        With image and σ_h moved, and `trusted` 0 where nothing came in; the same
        prepared if the shift is not significant.
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
