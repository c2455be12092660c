"""A slowly varying part of an elastic image that the maps do not explain.

Supports, thickness wedges and contamination add to any image, and a phase may lack its
low frequencies. Such a part contradicts the maps all over the image. Over some ten
pixels, though, the measured maps are precise: what they leave of the image there can be
subtracted, and its fine detail is of use again.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from ..common.threads import Workers
from .coefficients import CrossFit
from .convex.solver import WarmStart
from .examine import Examined, counts_alone, examine
from .guard import misfit
from .prepare import Preparation, PreparedData
from .sample import TILE
from .shift import Shift, aligned, near_shift
from .weights import LEAST_GAIN, Trials, Weights, significance, weigh

_FROM = 0.1  # fraction of flagged pixels from which on a slow part is looked for
_WIDTH = 12.0  # pixels, of its Gaussian
_PASSES = 8


def slow_message(name: str, before: float, flagged: float) -> str:
    """What a user has to know of a slow part; empty if none was subtracted."""
    if before == 0:
        return ""
    where = f"in {100 * before:.0f} % of the pixels"
    if before == 1:  # or by a model error
        where = "all over"
    return (
        f"{name} has a slowly varying part that the maps do not explain, as of a "
        "support, of contamination, or of an element without a map; it was subtracted: "
        f"the image contradicted the maps {where}, and without that part does so in "
        f"{100 * flagged:.0f} % of the pixels"
    )


def _averaging(
    pixels: PreparedData, width: float, tile: int | None
) -> Callable[[PreparedData], np.ndarray]:
    """How what the measured maps leave of an image of these pixels is averaged.

    By a Gaussian; of an image that is put together from tiles, in each tile of `tile`
    pixels.
    """
    known = ~np.isnan(pixels.data).any(axis=0) & (pixels.trusted > 0)
    sizes = [(n // (tile or n), tile or n) for n in known.shape]
    shape = tuple(n for size in sizes for n in size)

    def averaged(image: np.ndarray) -> np.ndarray:
        tiles = image.astype(np.float32).reshape(shape)
        found = gaussian_filter(tiles, (0, width, 0, width), mode="constant")
        return found.reshape(image.shape)

    share = averaged(known)

    def slow_part(own: PreparedData) -> np.ndarray:
        total = averaged(np.where(known, misfit(own, own.net()), 0))
        return np.divide(total, share, out=np.zeros_like(total), where=share > 0)

    return slow_part


def without_slow(
    own: PreparedData, *, factor: int = 1, tile: int | None = None
) -> PreparedData:
    """Data without the slow part of their image, by the coefficients that they have.

    Parameters
    ----------
    own : PreparedData
        With coefficients and offset.
    factor : int
        Pixels a side of which those of `own` are sums.
    tile : int, optional
        Pixels a side of the tiles from which the image is put together.
    """
    slow_part = _averaging(own, _WIDTH / factor, tile)
    for _ in range(_PASSES):
        own = replace(own, haadf=own.haadf - slow_part(own))
    return own


def examined_without_slow(
    examined: Examined,
    preparation: Preparation,
    prior: np.ndarray,
    run: Workers,
    callback_for: Callable[[str], Callable | None],
    *,
    leaves: float = 1.0,
) -> Examined | None:
    """The same image without its slow part, examined again.

    Coefficients and slow part are found in turn.

    Parameters
    ----------
    examined : Examined
        What was found about the image as it is.
    preparation : Preparation
        From which that was found.
    prior, run, callback_for
        As for :func:`~.examine.examine`.
    leaves : float
        Fraction of the flagged pixels that may still contradict the maps.

    Returns
    -------
    Examined or None
        None if the image contradicts the maps in few pixels and has no model error, or
        is hardly better so.
    """
    before, error = examined.report.flagged, examined.prepared.error
    if before <= _FROM and error > 0:  # that is all over the image
        before, most = 1.0, error / 2
    else:
        most = np.inf
    if before <= _FROM or examined.report.inverted:
        return None
    plain = preparation.prepared
    tile = TILE if plain.sampled else None
    found, tiles = examined.prepared, preparation.tiles
    alone = counts_alone(plain.take(tiles), WarmStart(run))
    shift = examined.shift
    for is_last in (False, False, True):
        own = _as_calibrated(aligned(plain, shift), found)
        own = replace(own, background=examined.prepared.background)
        slow_part = _averaging(own, _WIDTH, tile)
        for _ in range(_PASSES):
            own = replace(own, haadf=own.haadf - slow_part(own))
            found, _ = CrossFit().calibrate(own.take(tiles), prior, run)
            own = replace(own, coefficients=found.coefficients, offset=found.offset)
        moved = Shift() if is_last else near_shift(own.take(tiles), alone)
        if not moved.significant:
            break
        shift += moved  # the slow part hid it
    # its vacuum, too: the dark side of a wedge is none
    unlocked = replace(own, background=plain.background, lock=plain.lock)
    again = replace(preparation, prepared=unlocked)
    new = examine(again, prior, run, callback_for, displaced="no")
    if new.background is None and examined.background is not None:
        known = replace(own, lock=examined.prepared.lock)
        again = replace(preparation, prepared=known, background_known=True)
        new = examine(again, prior, run, callback_for, displaced="no")
        new = replace(new, background=examined.background, note=examined.note)
    if new.report.flagged > leaves * before or new.prepared.error > most:
        return None
    # by the last coefficients, from which tiles and later calls find it again
    last = new.prepared
    own = _as_calibrated(aligned(plain, shift), last)
    return replace(
        new,
        prepared=replace(last, haadf=without_slow(own, tile=tile).haadf),
        shift=shift,
        report=replace(new.report, correlation=examined.report.correlation),
        slow=before,
    )


def _as_calibrated(own: PreparedData, other: PreparedData) -> PreparedData:
    """The data with the background and the coefficients of others."""
    return replace(
        own,
        background=other.background,
        coefficients=other.coefficients,
        offset=other.offset,
    )


def examine_best(
    preparation: Preparation,
    prior: np.ndarray,
    run: Workers,
    given: dict[str, Any],
    callback_for: Callable[[str], Callable | None] = lambda _: None,
    fused_as: Callable[[PreparedData], PreparedData] = lambda prepared: prepared,
) -> tuple[Examined, Weights | None]:
    """Examine an image, as it is or without its slow part, whichever predicts better.

    A displacement by more than a few pixels has to improve the prediction, too.

    Parameters
    ----------
    preparation, prior, run, callback_for
        As for :func:`~.examine.examine`.
    given : dict
        Seed, weights that are given, and callback, as for :func:`~.weights.weigh`.
    fused_as : callable
        Returns the data as they are fused from those that were examined.

    Returns
    -------
    examined : Examined
        Of the image with the lower held-out error.
    weights : Weights or None
        Chosen for it; None if they are not known yet.
    """
    plain = examine(preparation, prior, run, callback_for)
    if given["lambda_haadf"] == 0:  # the image is not used anyway
        return plain, None

    def seen_of(examined: Examined) -> list[PreparedData]:
        return [fused_as(examined.prepared).take(preparation.tiles)]

    def errors(examined: Examined, weights: Weights) -> np.ndarray:
        trials = Trials(seen_of(examined), run, seed=given["seed"])
        chosen = weights.lambda_tv, weights.lambda_haadf
        return trials(*chosen, apart=weights.apart)[0]

    usual = None
    if plain.shift.is_far:  # what is not in the maps may look like a displacement
        usual = weigh(seen_of(plain), run, **given)
        stay = examine(preparation, prior, run, callback_for, displaced="near")
        weights = weigh(seen_of(stay), run, **given)
        gain = significance(errors(stay, weights) - errors(plain, usual))
        if gain < LEAST_GAIN:
            plain, usual = stay, weights
    other = examined_without_slow(plain, preparation, prior, run, callback_for)
    if other is None:
        return plain, usual
    weights = weigh(seen_of(other), run, **given)
    if weights.lambda_haadf == 0:
        return plain, usual
    tested = weights.gain >= LEAST_GAIN  # NaN if the weight was given
    if tested and plain.report.flagged == 1:  # not used as it is
        return other, weights
    usual = usual or weigh(seen_of(plain), run, **given)
    gain = significance(errors(plain, usual) - errors(other, weights))
    if gain > (0 if tested else LEAST_GAIN):
        return other, weights
    return plain, usual
