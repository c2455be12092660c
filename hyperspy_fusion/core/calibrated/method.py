"""The calibrated method: calibrate, choose the weights, solve, say what to trust."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..common.options import Options, choice, flag, number, whole_number
from ..common.solution import CostHistory, Solution, Status
from ..common.threads import workers
from .coefficients import CALIBRATION_LAMBDA, calibrate
from .convex.problem import coarsen
from .convex.solver import CHECK_EVERY, WarmStart, minimise
from .guard import GuardReport, guard, local_z, model_error
from .prepare import PreparedData, Units, prepare
from .shift import Shift, aligned, find_shift
from .uncertainty import uncertainty
from .weights import _TRIAL_ITERATIONS, Weights, weigh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..common.threads import Workers
    from .convex.problem import Problem
    from .convex.solver import Optimum
    from .prepare import Preparation, Totals

__all__ = [
    "CalibratedOptions",
    "Decision",
    "Regularizer",
    "cost_history",
    "counts_alone",
    "decide",
    "examine",
    "local_misfit",
    "rough_maps",
    "shared_weights",
    "solve",
]

Regularizer = Literal["tgv", "tv"]


@dataclass(frozen=True, kw_only=True)
class CalibratedOptions(Options):
    """Options of the calibrated method; by default the data decide.

    Attributes
    ----------
    lambda_haadf, lambda_tv : float or None
        μ and λ; None, or "auto", chooses by cross-validation.
    gamma : float
        Exponent γ of the Z-contrast in the expected coefficients, dimensionless.
    regularizer : {"tgv", "tv"}
        Total generalised variation of second order, or total variation.
    lock_flux : bool
        Keep the sum of each map.
    uncertainty : bool
        Estimate the variance of the maps.
    tolerance : float
        Largest relative distance of the objective to its optimum.
    max_iter : int
        Largest number of iterations.
    seed : int
        Seed of the random split of the counts.
    """

    lambda_haadf: Any = number(None, least=0, instead="'auto'")
    lambda_tv: Any = number(None, above=0, instead="'auto'")
    gamma: float = number(1.7, above=0)
    regularizer: Regularizer = choice("tgv", Regularizer)
    lock_flux: bool = flag(default=True)
    uncertainty: bool = flag(default=False)
    tolerance: float = number(1e-3, above=0)
    max_iter: int = whole_number(2000, least=1)
    seed: int = whole_number(0, least=0)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was found out about an image before its maps are solved for; no pixels.

    Attributes
    ----------
    units : Units
        What the numbers are.
    numbers : PreparedData
        Coefficients, model error and scales, without pixels.
    shift : Shift
        Of the HAADF image against the maps.
    weights : Weights
        λ and μ.
    report : GuardReport
        What the guard saw.
    notes : tuple of str
        What a user may want to know.
    flux_multiplier : numpy.ndarray or None
        Of the flux lock of all parts together, from
        :func:`~hyperspy_fusion.core.calibrated.parts.common_multipliers`.
    """

    units: Units
    numbers: PreparedData
    shift: Shift
    weights: Weights
    report: GuardReport
    notes: tuple
    flux_multiplier: np.ndarray | None = None

    def problem(self, prepared: PreparedData) -> Problem:
        """The convex problem of some pixels."""
        problem = prepared.problem(self.weights.lambda_tv, self.weights.lambda_haadf)
        return replace(problem, flux_multiplier=self.flux_multiplier)

    def record(self) -> dict[str, Any]:
        """What the record of the fusion says of it, and of no single pixel."""
        tried = self.weights.tried
        numbers, gain = self.numbers, self.units.gain
        return {
            "lambda_haadf": self.weights.lambda_haadf,
            "lambda_chem": 1.0,
            "lambda_tv": self.weights.lambda_tv,
            "haadf_coefficients": numbers.coefficients / gain,
            "haadf_offset": numbers.offset + self.units.base,
            "haadf_gain": self.weights.gain,
            "haadf_model_error": numbers.error,
            "shift": np.array([self.shift.y, self.shift.x]) * self.shift.significant,
            "count_value": gain,
            **({"weights_tried": tried} if len(tried) else {}),
        }


def decide(
    preparation: Preparation,
    prior: np.ndarray,
    options: CalibratedOptions,
    run: Workers,
    callback_for: Callable[[str], Callable | None] = lambda _: None,
) -> tuple[Decision, PreparedData]:
    """Calibrate the image, see where it can be trusted, and choose the weights.

    Parameters
    ----------
    preparation : Preparation
        The data.
    prior : numpy.ndarray
        Expected c_i in any common unit, shape ``(n_elements,)``.
    options : CalibratedOptions
        The options.
    run : callable
        From :func:`~hyperspy_fusion.core.threads.workers`.
    callback_for : callable, optional
        ``callback_for(stage)`` returns the callback of a stage, or None.

    Returns
    -------
    decision : Decision
        All but the pixels.
    prepared : PreparedData
        With the pixels.
    """
    prepared, shift, report = examine(preparation, prior, run, callback_for)
    weights = weigh(
        [prepared.take(preparation.tiles)],
        run,
        seed=options.seed,
        lambda_tv=options.lambda_tv,
        lambda_haadf=options.lambda_haadf,
        callback=callback_for("weights"),
    )
    decision = Decision(
        units=preparation.units,
        numbers=prepared.numbers(),
        shift=shift,
        weights=weights,
        report=report,
        notes=preparation.notes,
    )
    return decision, prepared


def examine(
    preparation: Preparation,
    prior: np.ndarray,
    run: Workers,
    callback_for: Callable[[str], Callable | None] = lambda _: None,
) -> tuple[PreparedData, Shift, GuardReport]:
    """Calibrate the image and see where it can be trusted.

    Parameters
    ----------
    preparation, prior, run, callback_for
        As for :func:`decide`.

    Returns
    -------
    prepared : PreparedData
        With coefficients, and `trusted` 0 where the image contradicts the maps.
    shift : Shift
        By which the image was moved back.
    report : GuardReport
        What the guard saw.
    """
    prepared, tiles = preparation.prepared, preparation.tiles
    path = WarmStart(run, callback_for("calibration"))
    coarse = WarmStart(run)  # of a large image

    def recalibrate(
        prepared: PreparedData,
    ) -> tuple[PreparedData, PreparedData, np.ndarray]:
        part, fused = calibrate(prepared.take(tiles), path, prior)
        prepared = replace(prepared, coefficients=part.coefficients, offset=part.offset)
        return prepared, part, fused

    def with_maps(prepared: PreparedData) -> tuple[PreparedData, np.ndarray]:
        prepared, _, fused = recalibrate(prepared)
        return prepared, fused if tiles is None else rough_maps(prepared, coarse)

    # before all else: a shift spoils the coefficients and looks like model error
    part = prepared.take(tiles)
    shift = find_shift(part, counts_alone(part, path))
    prepared, part, fused = recalibrate(aligned(prepared, shift))
    error = model_error(part, fused)
    if error > 0:
        prepared, part, fused = recalibrate(prepared.with_error(error))
    del part
    prepared, report = guard(
        prepared, fused if tiles is None else rough_maps(prepared, coarse), with_maps
    )
    return prepared, shift, report


_ROUGH_ITERATIONS = 20


def rough_maps(prepared: PreparedData, path: WarmStart) -> np.ndarray:
    """Maps that tell the noise of the measured ones, on pixels twice as large."""
    problem = prepared.problem(CALIBRATION_LAMBDA, 1.0)
    if min(problem.shape) < 2:
        return path.solve(problem, _ROUGH_ITERATIONS)
    problem = coarsen(problem)
    coarse = path.solve(problem, _ROUGH_ITERATIONS) / 4
    odd = [(0, n % 2) for n in prepared.haadf.shape]
    return np.pad(coarse, [(0, 0), *odd], mode="edge")


def counts_alone(prepared: PreparedData, path: WarmStart) -> np.ndarray:
    """Maps fused without the HAADF image."""
    return path.solve(prepared.problem(CALIBRATION_LAMBDA, 0.0), _TRIAL_ITERATIONS)


def stage_callbacks(callback: Callable | None) -> Callable[[str], Callable | None]:
    """The callback of each stage, which :func:`solve` tells of it."""
    return lambda stage: None if callback is None else partial(callback, stage)


def understand(
    maps: np.ndarray,
    haadf: np.ndarray,
    atomic_numbers: Sequence[int],
    options: CalibratedOptions,
    background: Any,
    variance: np.ndarray | None,
    sensitivities: Sequence[float] | None = None,
    totals: Totals | None = None,
) -> tuple[Preparation, np.ndarray]:
    """Prepare the data; and the c_i to expect, in any common unit: Z^γ, an atom."""
    preparation = prepare(
        maps, haadf, options, background=background, variance=variance, totals=totals
    )
    prior = np.asarray(atomic_numbers, dtype=np.float64) ** options.gamma
    prior *= preparation.units.gain
    return preparation, prior if sensitivities is None else prior / sensitivities


def solve(
    maps: np.ndarray,
    haadf: np.ndarray,
    atomic_numbers: Sequence[int],
    options: CalibratedOptions,
    *,
    background: Any = 0.0,
    variance: np.ndarray | None = None,
    sensitivities: Sequence[float] | None = None,
    num_workers: int | None = None,
    callback: Callable | None = None,
) -> Solution:
    """Fuse one field of view.

    Parameters
    ----------
    maps : numpy.ndarray
        Measured maps, shape ``(n_elements, y, x)``; NaN where missing.
    haadf : numpy.ndarray
        HAADF image, shape ``(y, x)``, in any units; NaN where missing.
    atomic_numbers : sequence of int
        Z_i, shape ``(n_elements,)``.
    options : CalibratedOptions
        The options.
    background : numpy.ndarray
        Known background of the maps, in their units, that broadcasts against them.
    variance : numpy.ndarray, optional
        Noise variance of the maps, that broadcasts against them.
    sensitivities : numpy.ndarray, optional
        What an atom adds to the map of its element, in any common unit, shape
        ``(n_elements,)``.
    num_workers : int, optional
        Number of threads; by default Numba's setting.
    callback : callable, optional
        ``callback(stage, n, gap)``: after some milliseconds of iterations of the
        "solution", with the relative gap of the last certificate, infinite before the
        first; and, with an infinite gap, of the problems of "calibration" and
        "uncertainty", and at each trial of "weights".

    Returns
    -------
    Solution
        Maps in the units of `maps`.
    """
    preparation, prior = understand(
        maps, haadf, atomic_numbers, options, background, variance, sensitivities
    )
    callback_for = stage_callbacks(callback)
    with workers(num_workers) as run:
        decision, prepared = decide(preparation, prior, options, run, callback_for)
        del preparation  # pixels as they were before the calibration
        problem = decision.problem(prepared)
        kept = prepared if options.uncertainty else None
        del prepared  # and its pixels
        return conclude(decision, problem, kept, prior, options, run, callback_for)


def conclude(
    decision: Decision,
    problem: Problem,
    prepared: PreparedData | None,
    prior: np.ndarray,
    options: CalibratedOptions,
    run: Workers,
    callback_for: Callable[[str], Callable | None],
    *,
    inner: tuple[slice, slice] | None = None,
) -> Solution:
    """Solve for the maps and say how that went; `prepared` is for the uncertainty."""
    weights, gain, report = decision.weights, decision.units.gain, decision.report
    # Not from the calibration: it may take long to forget its weights.
    optimum = minimise(
        problem,
        run,
        tolerance=options.tolerance,
        max_iter=options.max_iter,
        callback=callback_for("solution"),
        window=inner,
    )
    variance = None
    if prepared is not None:
        variance = uncertainty(
            prepared,
            prior,
            (weights.lambda_tv, weights.lambda_haadf),
            optimum.maps,
            run,
            options.seed,
            callback_for("uncertainty"),
        )
        variance = variance * gain[:, None, None] ** 2
    maps = optimum.maps
    if inner is not None:
        rows, columns = inner
        maps = np.ascontiguousarray(maps[:, rows, columns])
        variance = None if variance is None else variance[:, rows, columns]
    maps *= gain.astype(np.float32)[:, None, None]
    converged = optimum.gap <= options.tolerance
    return Solution(
        maps=maps,
        sums=None if inner is None else maps.sum(axis=(1, 2), dtype=np.float64),
        variance=variance,
        costs=cost_history(optimum, weights),
        n_iter=optimum.n_iter,
        status=str(Status.CONVERGED if converged else Status.MAX_ITER),
        converged=converged,
        record={
            **decision.record(),
            "gap": float(optimum.gap),
            "guard": report.largest,
            "flagged": report.flagged,
        },
        notes=decision.notes,
        warnings=tuple(
            filter(
                None, (*decision.units.warnings, decision.shift.message, report.message)
            )
        ),
    )


def cost_history(optimum: Optimum, weights: Weights) -> CostHistory:
    """The terms of the objective at each certificate.

    The chemical term is half the deviance, which differs from the negative logarithm
    of the likelihood by a constant.
    """
    haadf, chemical, tv = np.array([terms for _, terms in optimum.history]).T
    tv = tv / weights.lambda_tv
    return CostHistory(
        total=weights.lambda_haadf * haadf + chemical + weights.lambda_tv * tv,
        haadf=haadf,
        chemical=chemical,
        tv=tv,
        interval=CHECK_EVERY,
    )


def shared_weights(
    images: Sequence,
    options: CalibratedOptions,
    atomic_numbers: Sequence[int],
    sensitivities: Sequence[float] | None = None,
) -> Weights:
    """Choose weights that are the best for several images together.

    Parameters
    ----------
    images : list of dict
        For each `maps`, `haadf`, `background` and `variance` as for :func:`solve`.
    options, atomic_numbers, sensitivities
        As for :func:`solve`.

    Returns
    -------
    Weights
    """
    settings = []
    with workers() as run:
        for image in images:
            preparation, prior = understand(
                **image,
                atomic_numbers=atomic_numbers,
                options=options,
                sensitivities=sensitivities,
            )
            prepared, *_ = examine(preparation, prior, run)
            settings.append(prepared.take(preparation.tiles))
        return weigh(
            settings,
            run,
            seed=options.seed,
            lambda_tv=options.lambda_tv,
            lambda_haadf=options.lambda_haadf,
        )


def local_misfit(
    maps: np.ndarray,
    haadf: np.ndarray,
    fused: np.ndarray,
    record: Any,
    options: CalibratedOptions,
    *,
    background: Any = 0.0,
    variance: np.ndarray | None = None,
) -> np.ndarray:
    """Local misfit of a fusion that was done, see :func:`local_z`.

    Parameters
    ----------
    maps, haadf : numpy.ndarray
        As for :func:`solve`.
    fused : numpy.ndarray
        What came out, shape ``(n_elements, y, x)``, in the units of `maps`.
    record : mapping
        What :func:`solve` recorded of it.
    options : CalibratedOptions
        The options.
    background, variance : numpy.ndarray, optional
        As for :func:`solve`.

    Returns
    -------
    numpy.ndarray
        z, shape ``(y, x)``, dimensionless, on the pixels of the maps.
    """
    preparation = prepare(
        maps, haadf, options, background=background, variance=variance
    )
    prepared = preparation.prepared
    gain = preparation.units.gain  # of the data, where that of a sample may differ
    y, x = np.asarray(record["shift"])
    prepared = replace(
        aligned(prepared, Shift(y=y, x=x, z=np.inf)),
        coefficients=np.asarray(record["haadf_coefficients"]) * gain,
        offset=float(record["haadf_offset"]) - preparation.units.base,
    )
    prepared = prepared.with_error(float(record["haadf_model_error"]))
    seen = np.where(prepared.trusted > 0, prepared.haadf, np.nan)
    return local_z(replace(prepared, haadf=seen), fused / gain[:, None, None])
