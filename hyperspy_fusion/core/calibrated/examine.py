"""What is found about an image before the weights: shift, coefficients, trust."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..common.missing import fill
from ..common.threads import Workers
from .coefficients import CALIBRATION_LAMBDA, CrossFit
from .convex.problem import coarsen
from .convex.solver import WarmStart
from .flux import DOUBTFUL, NO_VACUUM, vacuum_background, vacuum_note
from .guard import GuardReport, contrast, guard, is_inverted, model_error
from .prepare import Preparation, PreparedData
from .shift import Shift, aligned, far_shift, near_shift
from .weights import TRIAL_ITERATIONS

Displaced = Literal["far", "near", "no"]
_ROUGH_ITERATIONS = 20


@dataclass(frozen=True, kw_only=True)
class Examined:
    """Data that were calibrated, and what was found about them.

    Attributes
    ----------
    prepared : PreparedData
        With coefficients, the image moved back by the shift, and `trusted` 0 where it
        contradicts the maps.
    shift : Shift
        Displacement of the HAADF image against the maps.
    report : GuardReport
        Of the guard.
    background : numpy.ndarray or None
        Counts a pixel that were found in the vacuum, shape ``(n_elements,)``.
    note : str
        What was assumed about the background, for the user; or empty.
    slow : float
        Fraction of the pixels that contradicted the maps before a slow part of the
        image was subtracted, 1 for a model error all over it; 0 if none was.
    """

    prepared: PreparedData
    shift: Shift
    report: GuardReport
    background: np.ndarray | None
    note: str
    slow: float = 0.0


def examine(
    preparation: Preparation,
    prior: np.ndarray,
    run: Workers,
    callback_for: Callable[[str], Callable | None],
    alone: np.ndarray | None = None,
    *,
    displaced: Displaced = "far",
) -> Examined:
    """Calibrate, and find where the HAADF image can be trusted.

    `alone` are the maps of :func:`counts_alone` if they are known already; `displaced`
    tells by how much the image may be.
    """
    prepared, tiles = preparation.prepared, preparation.tiles
    cross_fit = CrossFit(callback_for("calibration"))
    coarse = WarmStart(run)  # on the tiles of a large image

    def recalibrate(
        prepared: PreparedData,
    ) -> tuple[PreparedData, PreparedData, np.ndarray]:
        part, fused = cross_fit.calibrate(prepared.take(tiles), prior, run)
        prepared = replace(prepared, coefficients=part.coefficients, offset=part.offset)
        return prepared, part, fused

    def with_maps(prepared: PreparedData) -> tuple[PreparedData, np.ndarray]:
        prepared, _, fused = recalibrate(prepared)
        return prepared, fused if tiles is None else rough_maps(prepared, coarse)

    # first of all: a shift biases the coefficients and looks like model error
    shift = Shift()
    if displaced != "no":
        if alone is None:
            warm = WarmStart(run, callback_for("calibration"))
            alone = counts_alone(prepared.take(tiles), warm)
            del warm  # frees its state
        shift = _shift_of(preparation, prior, alone, far=displaced == "far")
    prepared, part, fused = recalibrate(aligned(prepared, shift))
    background, note = None, ""
    correlation = contrast(part, prior)
    # the vacuum of an inverted image is where most of the specimen is
    if not (preparation.background_known or is_inverted(correlation)):
        vacuum = vacuum_background(prepared)
        background = vacuum.background
        if background is None:
            note = DOUBTFUL if vacuum.doubtful else NO_VACUUM
    if background is not None:
        values = background * preparation.units.count_value
        note = vacuum_note(values, preparation.elements)
        known = background.astype(np.float32)[:, None, None]
        prepared = replace(prepared, background=known)
        again = replace(preparation, prepared=prepared)
        prepared = again.locked(vacuum.pixels).prepared
        prepared, part, fused = recalibrate(prepared)
    error = model_error(part, fused)
    if error > 0:
        prepared, part, fused = recalibrate(prepared.with_error(error))
    del part
    prepared, report = guard(
        prepared, fused if tiles is None else rough_maps(prepared, coarse), with_maps
    )
    return Examined(
        prepared=prepared,
        shift=shift,
        report=replace(report, correlation=correlation),
        background=background,
        note=note,
    )


def _shift_of(
    preparation: Preparation, prior: np.ndarray, alone: np.ndarray, *, far: bool
) -> Shift:
    """Displacement of the image against the maps, `far` or by a few pixels."""
    prepared, tiles = preparation.prepared, preparation.tiles
    shift = Shift()
    if far and not prepared.sampled:
        seen = alone if tiles is None else fill(prepared.net())
        model = np.tensordot(prior, seen, axes=1)
        shift = far_shift(prepared.haadf, prepared.precision, model)
    return shift + near_shift(aligned(prepared, shift).take(tiles), alone)


def guarded(
    prepared: PreparedData, report: GuardReport, run: Workers
) -> tuple[PreparedData, GuardReport]:
    """A part of an image without the pixels that contradict the maps, and the report.

    `report` is that of the whole image, whose coefficients stay.
    """
    warm = WarmStart(run)
    prepared, found = guard(
        prepared,
        rough_maps(prepared, warm),
        lambda seen: (seen, rough_maps(seen, warm)),
        judged=report.judged,
    )
    return prepared, replace(found, correlation=report.correlation)


def rough_maps(prepared: PreparedData, warm: WarmStart) -> np.ndarray:
    """Fused maps on pixels twice as large, good enough to estimate the noise."""
    problem = prepared.problem(CALIBRATION_LAMBDA, 1.0)
    if min(problem.shape) < 2:
        return warm.solve(problem, _ROUGH_ITERATIONS)
    problem = coarsen(problem)
    coarse = warm.solve(problem, _ROUGH_ITERATIONS) / 4
    odd = [(0, n % 2) for n in prepared.haadf.shape]
    return np.pad(coarse, [(0, 0), *odd], mode="edge")


def counts_alone(prepared: PreparedData, warm: WarmStart) -> np.ndarray:
    """Maps fused without the HAADF image."""
    return warm.solve(prepared.problem(CALIBRATION_LAMBDA, 0.0), TRIAL_ITERATIONS)
