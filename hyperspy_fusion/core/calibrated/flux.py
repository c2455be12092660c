"""Which sums of the maps the data know, and the background that vacuum shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter

from ..common.messages import map_names
from ..common.missing import fill
from ..common.operators import block_sums

if TYPE_CHECKING:
    from .prepare import PreparedData

# Fractions of the pixels, those where the smoothed HAADF image is darkest.
_DARKEST = 0.02, 0.05, 0.1
_DARK_BELOW = 3.3  # standard deviations below 0 of the sum over them; 1e-3 by chance
_BELOW = 5.0  # standard deviations below 0, from which on a block is negative
_LOADING = 1.0  # depth of the negative over the height of the positive places
_SMOOTHING = 2.0  # pixels, of the Gaussian in which they are looked for
_FEW = 0.005  # fraction of the pixels that are lower, or higher
# Noise of the sum over the sum of a map that is kept: of the background of counts; of
# values, whose noise is that of the element, too.
_KNOWN, _KNOWN_VALUES = 0.1, 1 / 3

# Vacuum: fraction of the range of the HAADF image above its offset, margin in pixels,
# and fraction and number of pixels that it needs.
_DARK = 0.03
_MARGIN = 2
_LEAST_VACUUM = 0.02
# Of the mean counts, that the vacuum has less of in one map at least; and its counts of
# all maps over what these rise above it: more may be an element that is everywhere.
_EMPTIER, _MOST_BACKGROUND = 0.5, 0.5
_LEAST_PIXELS = 1000
_VACUUM_BLOCK = 8  # pixels a side
_ABOVE = 4.0  # standard deviations, of the counts of a block that is no vacuum


@dataclass(frozen=True, kw_only=True)
class FluxLock:
    """Which sums of the maps are kept.

    Attributes
    ----------
    kept : numpy.ndarray
        True where the fused map keeps the sum of the counts, shape ``(n_elements,)``.
    notes, warnings : tuple of str
        What was found, for the user.
    """

    kept: np.ndarray
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def free(cls, n_elements: int) -> FluxLock:
        """No sum is kept."""
        return cls(kept=np.zeros(n_elements, bool))

    @classmethod
    def of_all(cls, n_elements: int) -> FluxLock:
        """All sums are kept."""
        return cls(kept=np.ones(n_elements, bool))


def judge(
    prepared: PreparedData, elements: Sequence[str] = (), vacuum: int = 0
) -> FluxLock:
    """Find which sums are known.

    The sum of a map is that of its counts minus that of its background, which has an
    error. It is kept only where that error is small: x ≥ 0 makes positive values of the
    noise in the empty pixels, and the particles would pay for them. Nor is it kept
    where a map is below 0 by more than its noise, in a block or where the HAADF image
    is dark, since its zero is wrong then.

    Parameters
    ----------
    prepared : PreparedData
        Data of a whole image, or sums over larger pixels.
    elements : sequence of str
        Symbols, for the messages.
    vacuum : int
        Number of pixels from which the background was found; 0 if it was given.

    Raises
    ------
    ValueError
        If a map has both signs, as the loadings of a decomposition.
    """
    counts = prepared.variance is None
    variance: Any = prepared.variance
    if not counts:
        variance = np.broadcast_to(variance, prepared.data.shape)
    kept, notes, warnings = [], [], []
    darkest = _darkest(prepared)
    names = map_names(elements, len(prepared.data))
    for i, (name, data) in enumerate(zip(names, prepared.data, strict=True)):
        known = np.isfinite(data)
        background = np.broadcast_to(prepared.background[i], data.shape)
        net = np.where(known, data - background, 0).astype(np.float64)
        if counts:
            noise = np.where(known, np.maximum(net, 0) + background, 0)
            total = background.sum(where=known, dtype=np.float64)
            # a mean over the vacuum has an error of its own, the same in all pixels
            more = total * np.count_nonzero(known) / vacuum if vacuum else 0.0
            uncertain = np.sqrt(total + more)
        else:
            noise = np.where(known, variance[i], 0)
            uncertain = np.sqrt(noise.sum(dtype=np.float64))
        z, z_dark = _lowest_z(net, noise), _dark_z(net, noise, darkest)
        too_low = z < -_BELOW or z_dark < -_DARK_BELOW
        flux = net.sum()
        largest = _KNOWN if counts else _KNOWN_VALUES
        known_well = uncertain <= largest * flux or uncertain == 0
        kept.append(known_well and not too_low)
        if too_low:
            low, high = _range(net)
            if not counts and -low > _LOADING * high:
                raise ValueError(
                    f"the {name} is negative in places ({low:.3g}) as deeply as it is "
                    f"positive in others ({high:.3g}): expected amounts of an element, "
                    "not loadings of a decomposition, which have both signs; take the "
                    "maps from its model, s.get_decomposition_model()"
                )
            cause = (
                "its background is larger than its counts"
                if counts
                else "too much was subtracted from it"
            )
            where = f"in places (up to {-z:.0f} standard deviations below 0)"
            if z >= -_BELOW:
                where = (
                    f"where the HAADF image is darkest ({-z_dark:.0f} standard "
                    "deviations below 0)"
                )
            warnings.append(
                f"the zero of the {name} is too low: {cause} {where}. Its sum is not "
                "kept"
            )
        elif not known_well:
            share = (
                f"to {100 * uncertain / flux:.0f} % only" if flux > 0 else "not at all"
            )
            notes.append(
                f"the sum of the {name} is known {share}, by the noise of its "
                "background: it is not kept"
            )
    return FluxLock(kept=np.array(kept), notes=tuple(notes), warnings=tuple(warnings))


def _lowest_z(net: np.ndarray, noise: np.ndarray) -> float:
    """Lowest block mean in standard deviations."""
    total, variance = block_sums(net), block_sums(noise)
    seen = variance > 0
    return float((total[seen] / np.sqrt(variance[seen])).min(initial=0.0))


def _darkest(prepared: PreparedData) -> list[np.ndarray]:
    """Where the image is darkest, in some fractions of its pixels; bool ``(y, x)``.

    The choice does not depend on the maps, so that it is not one of their lowest noise.
    """
    seen = prepared.trusted > 0
    if not seen.any():
        return []
    smooth = gaussian_filter(np.asarray(prepared.haadf, np.float64), 1)
    levels = np.quantile(smooth[seen], _DARKEST)
    return [seen & (smooth <= level) for level in levels]


def _dark_z(net: np.ndarray, noise: np.ndarray, darkest: Sequence[np.ndarray]) -> float:
    """Lowest sum over dark pixels in standard deviations; 0 if none is below 0."""
    lowest = 0.0
    for dark in darkest:
        variance = noise.sum(where=dark)
        if variance > 0:
            lowest = min(lowest, float(net.sum(where=dark) / np.sqrt(variance)))
    return lowest


def _range(net: np.ndarray) -> tuple[float, float]:
    """How low and how high a map is, but for its noise and a few pixels."""
    smooth = gaussian_filter(net, _SMOOTHING)
    low, high = np.quantile(smooth, (_FEW, 1 - _FEW))
    return float(low), float(high)


class Vacuum(NamedTuple):
    """What the vacuum shows.

    Attributes
    ----------
    background : numpy.ndarray or None
        Mean counts of each map in it, shape ``(n_elements,)``; None if there is too
        little vacuum, or it may be none.
    pixels : int
        Number of its pixels.
    doubtful : bool
        Whether it may be none: it has most of the mean counts of each map, as the thin
        side of a wedge, or as many counts as rise above it, as a matrix.
    """

    background: np.ndarray | None = None
    pixels: int = 0
    doubtful: bool = False


def vacuum_background(prepared: PreparedData, factor: int = 1) -> Vacuum:
    """Mean counts of each map in the vacuum, of pixels that are larger by a factor.

    Vacuum is where the HAADF image is at its offset. The calibration has found that
    with maps whose background gives no electrons: it lacks what the coefficients make
    of the counts where the image is darkest.
    """
    dark = gaussian_filter(np.asarray(prepared.haadf, np.float64), 1)
    seen = (prepared.trusted > 0) & np.isfinite(prepared.data).all(axis=0)
    if not seen.any():
        return Vacuum()
    darkest = seen & (dark <= np.quantile(dark[seen], _DARKEST[0]))
    below = prepared.net()[:, darkest].mean(axis=1, dtype=np.float64)
    dark -= prepared.offset + prepared.coefficients @ below
    dark = (dark < _DARK * np.quantile(dark, 0.99)) & (prepared.trusted > 0)
    vacuum = binary_erosion(dark, iterations=_MARGIN)
    least = _LEAST_PIXELS / factor**2
    if vacuum.mean() < _LEAST_VACUUM or vacuum.sum() < least:
        return Vacuum()
    found = np.array([_level(image, vacuum, least) for image in prepared.data])
    means = np.nanmean(prepared.data, axis=(1, 2), dtype=np.float64)
    smooth = gaussian_filter(fill(prepared.data), (0, _SMOOTHING, _SMOOTHING))
    above = np.quantile(smooth, 1 - _FEW, axis=(1, 2)) - found
    less = found.sum() < _MOST_BACKGROUND * above.sum()
    if less and (found < _EMPTIER * means).any():
        return Vacuum(found, int(vacuum.sum()))
    return Vacuum(doubtful=bool(found.any()))


def _level(counts: np.ndarray, vacuum: np.ndarray, least: float) -> float:
    """Mean counts in the vacuum, without blocks that hold more than its noise.

    A light element hardly shows in the image: where one is, there is no vacuum. 0 if
    less than the least number of pixels, or than half of it, is left.
    """
    known = vacuum & np.isfinite(counts)
    area = block_sums(known.astype(np.float64), _VACUUM_BLOCK)
    total = block_sums(np.where(known, counts, 0).astype(np.float64), _VACUUM_BLOCK)
    empty = area > 0
    while empty.any():
        expected = total[empty].sum() / area[empty].sum() * area
        filled = empty & (total - expected > _ABOVE * np.sqrt(expected + 1))
        if not filled.any():
            break
        empty &= ~filled
    enough = area[empty].sum() >= max(least, area.sum() / 2)
    return float(total[empty].sum() / area[empty].sum()) if enough else 0.0


NO_VACUUM = (
    "the background was not given, and the HAADF image shows too little vacuum to find "
    "it: none was subtracted. If the maps have one, give background="
)
DOUBTFUL = (
    "no background was subtracted: where the HAADF image is darkest, the maps hold so "
    "many counts that these may be of an element that is everywhere. If that is "
    "vacuum, its mean counts are the background, to be given with background=; if it "
    "is none, background=0 says so"
)


def vacuum_note(background: np.ndarray, elements: Sequence[str]) -> str:
    """Note on a background that was measured in the vacuum; empty if there is none."""
    if not background.any():
        return ""
    values = ", ".join(
        f"{background[i]:.3g} of {element}" for i, element in enumerate(elements)
    )
    return (
        f"the background was not given: the mean of the maps in the vacuum, {values}, "
        "was subtracted; background=0 keeps it"
    )
