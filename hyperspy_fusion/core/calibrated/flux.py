"""Which sums of the maps the data know, and how well the fusion has to keep them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.operators import BLOCK, block_sums

if TYPE_CHECKING:
    from .prepare import PreparedData

_BELOW = 5.0  # standard deviations below 0, from which on a block is negative
_LOADING = 1.0  # depth of the lowest block over the height of the highest one
_KNOWN = 0.1  # noise of the background's sum over the sum of a map that is locked
_DETECTED = 3.0  # standard deviations of the sum of a map that shows its element
_WITHIN = 2.0  # standard deviations of the background, of a sum that shows nothing


@dataclass(frozen=True, kw_only=True)
class FluxLock:
    """How well the sum of each map is kept.

    Attributes
    ----------
    deviations : numpy.ndarray
        By how many standard deviations of its background's sum the sum of a map may
        differ from that of the counts, shape ``(n_elements,)``: 0 for a lock, infinite
        where it is free.
    notes, warnings : tuple of str
        What was found, for the user.
    """

    deviations: np.ndarray
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def free(cls, n_elements: int) -> FluxLock:
        """No lock."""
        return cls(deviations=np.full(n_elements, np.inf))

    @classmethod
    def exact(cls, n_elements: int) -> FluxLock:
        """All sums are kept."""
        return cls(deviations=np.zeros(n_elements))


def judge(prepared: PreparedData, elements: Sequence[str] = ()) -> FluxLock:
    """Find which sums are known.

    The sum of a map is that of its counts minus that of its background, which has an
    error. It is kept exactly where that error is small, up to two standard deviations
    where the map shows nothing, and not at all in between: x ≥ 0 makes positive values
    of the noise in the empty pixels, and the particles would pay for them. Nor is it
    kept where a map is below 0 by more than its noise, since its zero is wrong then.

    Parameters
    ----------
    prepared : PreparedData
        Data of a whole image, or sums over larger pixels.
    elements : sequence of str
        Symbols, for the messages.

    Raises
    ------
    ValueError
        If a map has both signs, as the loadings of a decomposition.
    """
    counts = prepared.variance is None
    variance: Any = prepared.variance
    if not counts:
        variance = np.broadcast_to(variance, prepared.data.shape)
    deviations, notes, warnings = [], [], []
    for i, data in enumerate(prepared.data):
        name = f"map of {elements[i]}" if elements else f"map number {i}"
        known = np.isfinite(data)
        background = np.broadcast_to(prepared.background[i], data.shape)
        net = np.where(known, data - background, 0).astype(np.float64)
        if counts:
            noise = np.where(known, np.maximum(net, 0) + background, 0)
            uncertain = np.sqrt(background.sum(where=known, dtype=np.float64))
        else:
            noise = np.where(known, variance[i], 0)
            uncertain = np.sqrt(noise.sum(dtype=np.float64))
        z, low, high = _extremes(net, noise)
        flux, spread = net.sum(), np.sqrt(noise.sum(dtype=np.float64))
        if z < -_BELOW:
            if not counts and -low > _LOADING * high:
                raise ValueError(
                    f"the {name} is negative in places ({low:.3g}, mean of "
                    f"{BLOCK} x {BLOCK} pixels) as deeply as it is positive in others "
                    f"({high:.3g}): expected amounts of an element, not loadings of a "
                    "decomposition, which have both signs; take the maps from the "
                    "model of the decomposition, s.get_decomposition_model()"
                )
            cause = (
                "its background is larger than its counts"
                if counts
                else "too much was subtracted from it"
            )
            warnings.append(
                f"the zero of the {name} is too low: {cause} in places (up to "
                f"{-z:.0f} standard deviations below 0). Its sum is not kept"
            )
            deviations.append(np.inf)
        elif uncertain <= _KNOWN * flux or uncertain == 0:
            deviations.append(0.0)
        elif flux > _DETECTED * spread:
            notes.append(
                f"the sum of the {name} is known to "
                f"{100 * uncertain / flux:.0f} % only, by the noise of its background: "
                "it is not kept"
            )
            deviations.append(np.inf)
        else:
            notes.append(
                f"the sum of the {name} is within its noise: it is kept up to "
                f"{_WITHIN:g} standard deviations of its background"
            )
            deviations.append(_WITHIN)
    return FluxLock(
        deviations=np.array(deviations), notes=tuple(notes), warnings=tuple(warnings)
    )


def _extremes(net: np.ndarray, noise: np.ndarray) -> tuple[float, float, float]:
    """Lowest block mean in standard deviations; the lowest and the highest one."""
    total, variance = block_sums(net), block_sums(noise)
    area = block_sums((noise > 0).astype(np.float64))
    seen = area > 0
    mean = total[seen] / area[seen]
    z = total[seen] / np.sqrt(variance[seen])
    if not z.size:
        return 0.0, 0.0, 0.0
    return float(z.min()), float(mean.min()), float(mean.max())
