"""The calibrated method: calibrate, choose the weights, solve, say what to trust."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Literal, get_args

import numpy as np

from . import primal_dual
from .calibration import fit_coefficients, initial_coefficients
from .diagnostics import (
    GuardReport,
    Shift,
    aligned,
    find_shift,
    guard,
    local_z,
    model_error,
    uncertainty,
)
from .primal_dual import CHECK_EVERY
from .selection import Weights, block_scores, choose_weights, folds
from .setting import Setting, Units, prepare, whole_numbers
from .solver import CostHistory, Solution, Status
from .threads import workers

__all__ = [
    "CHECK_EVERY",
    "CalibratedOptions",
    "Decision",
    "calibrate",
    "decide_on_sample",
    "flux_price",
    "local_misfit",
    "overview",
    "shared_weights",
    "solve",
    "solve_part",
    "together",
    "weigh",
]

Regularizer = Literal["tgv", "tv"]

_CALIBRATION_ITERATIONS = 30, 15, 15  # of each pass, which goes on from the last one
_CALIBRATION_LAMBDA = 4.0
_TRIAL_ITERATIONS = 20
_ROUGH_ITERATIONS = 20
_OVERVIEW_PRECISION = 10  # times that of the maps, since all parts depend on it
_PRICE_ITERATIONS = 200


@dataclass(frozen=True, kw_only=True)
class CalibratedOptions:
    """What can be set; by default the data decide.

    Attributes
    ----------
    lambda_haadf, lambda_tv : float or None
        μ and λ; None chooses by cross-validation.
    gamma : float
        Exponent γ of the Z-contrast in what is expected of the coefficients.
    regularizer : {"tgv", "tv"}
        Total generalised variation, or total variation.
    lock_flux : bool
        Keep the sum of each map.
    tolerance : float
        Largest relative distance to the optimum.
    max_iter : int
        Largest number of iterations.
    seed : int
        Of the random split of the counts.
    uncertainty : bool
        Estimate the variance of the maps.

    Raises
    ------
    ValueError
        If a value is outside its range.
    """

    lambda_haadf: float | None = None
    lambda_tv: float | None = None
    gamma: float = 1.7
    regularizer: Regularizer = "tgv"
    lock_flux: bool = True
    tolerance: float = 1e-3
    max_iter: int = 2000
    seed: int = 0
    uncertainty: bool = False

    def __post_init__(self):
        checks = {
            "lambda_haadf": (
                self.lambda_haadf is None or self.lambda_haadf >= 0,
                "at least 0, or 'auto'",
            ),
            "lambda_tv": (
                self.lambda_tv is None or self.lambda_tv > 0,
                "above 0, or 'auto'",
            ),
            "gamma": (self.gamma > 0, "above 0"),
            "regularizer": (
                self.regularizer in get_args(Regularizer),
                "one of " + ", ".join(map(repr, get_args(Regularizer))),
            ),
            "tolerance": (self.tolerance > 0, "above 0"),
            "max_iter": (self.max_iter >= 1, "at least 1"),
        }
        for name, (fits, expected) in checks.items():
            if not fits:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: expected {expected}"
                )


class Path:
    """Solutions of neighbouring problems, each of which goes on from the last one."""

    def __init__(self, run, callback=None):
        self.run, self.callback = run, callback
        self.clear()

    def clear(self):
        """Forget the last problem."""
        self.problem = self.state = None

    def solve(self, problem, n_iter):
        """Maps after so many iterations more, counts, shape ``(n_elements, y, x)``."""
        if self.problem is not None:
            primal_dual.restart(self.state, self.problem, problem)
        optimum = primal_dual.solve(
            problem,
            self.run,
            tolerance=None,
            max_iter=n_iter,
            start=self.state,
            callback=self.callback,
        )
        self.problem, self.state = problem, optimum.state
        return optimum.maps


def calibrate(setting, path, prior):
    """Find coefficients and offset of the HAADF image, by turns with the maps.

    Parameters
    ----------
    setting : Setting
        Without coefficients.
    path : Path
        Solutions of these data.
    prior : numpy.ndarray
        Expected c_i in any common unit, shape ``(n_elements,)``.

    Returns
    -------
    setting : Setting
        With coefficients and offset.
    maps : numpy.ndarray
        The fused maps of the last pass, shape ``(n_elements, y, x)``.
    """
    net = setting.net()
    variance = setting.noise_variance(net)
    coefficients, offset = initial_coefficients(net, variance, setting.haadf)
    # Free, but at the price of the lock before: without it, half a count a pixel leaves
    # the fused maps 1 % worse.
    free = replace(setting, lock_flux=False)
    for n_iter in _CALIBRATION_ITERATIONS:
        free = replace(free, coefficients=coefficients, offset=offset)
        maps = path.solve(free.problem(_CALIBRATION_LAMBDA, 1.0), n_iter)
        # Weights that also count the noise of the maps were tried: worse by 15 % on
        # `janus` at 16 counts.
        weight = setting.trusted / setting.sigma**2
        spread = np.tensordot(coefficients**2, setting.noise_variance(maps), axes=1)
        coefficients, offset = fit_coefficients(
            maps,
            net,
            setting.haadf,
            weight,
            prior,
            inflation=1 + np.mean(weight * spread),
        )
    return replace(setting, coefficients=coefficients, offset=offset), maps


def local_misfit(maps, haadf, fused, record, options, *, background=0.0, variance=None):
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
    prepared = prepare(maps, haadf, options, background=background, variance=variance)
    setting = prepared.setting
    gain = prepared.units.gain  # of the data, where that of a sample may differ
    y, x = np.asarray(record["shift"])
    setting = replace(
        aligned(setting, Shift(y=y, x=x, z=np.inf)),
        coefficients=np.asarray(record["haadf_coefficients"]) * gain,
        offset=float(record["haadf_offset"]) - prepared.units.base,
    )
    setting = setting.with_error(float(record["haadf_model_error"]))
    seen = np.where(setting.trusted > 0, setting.haadf, np.nan)
    return local_z(replace(setting, haadf=seen), fused / gain[:, None, None])


def rough_maps(setting, path):
    """Maps that tell the noise of the measured ones, on pixels twice as large."""
    problem = setting.problem(_CALIBRATION_LAMBDA, 1.0)
    if min(problem.shape) < 2:
        return path.solve(problem, _ROUGH_ITERATIONS)
    problem = primal_dual.coarsen(problem)
    coarse = path.solve(problem, _ROUGH_ITERATIONS) / 4
    odd = [(0, n % 2) for n in setting.haadf.shape]
    return np.pad(coarse, [(0, 0), *odd], mode="edge")


def counts_alone(setting, path):
    """Maps fused without the HAADF image."""
    return path.solve(setting.problem(_CALIBRATION_LAMBDA, 0.0), _TRIAL_ITERATIONS)


def weigh(settings, run, *, seed, lambda_tv=None, lambda_haadf=None, callback=None):
    """Choose the weights by cross-validation, the same for all settings."""
    if lambda_tv is not None and lambda_haadf is not None:
        return choose_weights(None, lambda_tv, lambda_haadf)
    trials = [trial for setting in settings for trial in held_out(setting, seed)]
    tried = count()

    def score(lambda_tv, lambda_haadf):
        def errors(trial_and_target, run):
            trial, target, norm = trial_and_target
            # Not from the last trial, which would take long to forget its weights.
            maps = primal_dual.solve(
                trial.problem(lambda_tv, lambda_haadf),
                run,
                tolerance=None,
                max_iter=_TRIAL_ITERATIONS,
            ).maps
            squares = (target - maps - trial.background) ** 2 / norm
            return np.nansum(squares, axis=0)

        if callback is not None:  # from this thread only
            callback(next(tried), np.inf)
        found = run.each(errors, trials)
        each = len(found) // len(settings)
        images = [sum(found[i : i + each]) for i in range(0, len(found), each)]
        return np.concatenate(list(map(block_scores, images)))

    return choose_weights(score, lambda_tv, lambda_haadf)


def held_out(setting, seed):
    """List (setting of a part of the data, data to be foretold, unit of squares)."""
    counts = setting.variance is None and whole_numbers(setting.data)
    parts = folds(setting.data, seed, counts=counts)
    if setting.variance is None:
        norm = np.nanmean(setting.data, axis=(1, 2), keepdims=True)
    else:
        norm = np.broadcast_to(setting.variance, setting.data.shape)
        norm = norm.mean(axis=(1, 2), keepdims=True)
    norm = np.where(norm > 0, norm, 1)
    return [(setting.share(part.data, part.share), part.target, norm) for part in parts]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was found out about an image before its maps are solved for; no pixels.

    Attributes
    ----------
    units : Units
        What the numbers are.
    numbers : Setting
        Coefficients, model error and scales, without pixels.
    shift : Shift
        Of the HAADF image against the maps.
    weights : Weights
        λ and μ.
    report : GuardReport
        What the guard saw.
    notes : tuple of str
        What a user may want to know.
    price : numpy.ndarray or None
        Multipliers of the flux lock of all parts together, from :func:`flux_price`.
    """

    units: Units
    numbers: Setting
    shift: Shift
    weights: Weights
    report: GuardReport
    notes: tuple
    price: np.ndarray | None = None

    def problem(self, setting):
        """The convex problem of some pixels."""
        problem = setting.problem(self.weights.lambda_tv, self.weights.lambda_haadf)
        return replace(problem, price=self.price)

    def record(self):
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


def decide(prepared, prior, options, run, told=lambda _: None):
    """Calibrate the image, see where it can be trusted, and choose the weights.

    Parameters
    ----------
    prepared : Prepared
        The data.
    prior : numpy.ndarray
        Expected c_i in any common unit, shape ``(n_elements,)``.
    options : CalibratedOptions
        The options.
    run : callable
        From :func:`~hyperspy_fusion.core.threads.workers`.
    told : callable, optional
        ``told(stage)`` returns the callback of a stage, or None.

    Returns
    -------
    decision : Decision
        All but the pixels.
    setting : Setting
        With the pixels.
    """
    setting, shift, report = examine(prepared, prior, run, told)
    weights = weigh(
        [setting.take(prepared.tiles)],
        run,
        seed=options.seed,
        lambda_tv=options.lambda_tv,
        lambda_haadf=options.lambda_haadf,
        callback=told("weights"),
    )
    decision = Decision(
        units=prepared.units,
        numbers=setting.numbers(),
        shift=shift,
        weights=weights,
        report=report,
        notes=prepared.notes,
    )
    return decision, setting


def examine(prepared, prior, run, told=lambda _: None):
    """Calibrate the image and see where it can be trusted.

    Parameters
    ----------
    prepared, prior, run, told
        As for :func:`decide`.

    Returns
    -------
    setting : Setting
        With coefficients, and `trusted` 0 where the image contradicts the maps.
    shift : Shift
        By which the image was moved back.
    report : GuardReport
        What the guard saw.
    """
    setting, tiles = prepared.setting, prepared.tiles
    path = Path(run, told("calibration"))
    coarse = Path(run)  # of a large image

    def recalibrate(setting):
        part, fused = calibrate(setting.take(tiles), path, prior)
        setting = replace(setting, coefficients=part.coefficients, offset=part.offset)
        return setting, part, fused

    def with_maps(setting):
        setting, _, fused = recalibrate(setting)
        return setting, fused if tiles is None else rough_maps(setting, coarse)

    # before all else: a shift spoils the coefficients and looks like model error
    part = setting.take(tiles)
    shift = find_shift(part, counts_alone(part, path))
    setting, part, fused = recalibrate(aligned(setting, shift))
    error = model_error(part, fused)
    if error > 0:
        setting, part, fused = recalibrate(setting.with_error(error))
    del part
    setting, report = guard(
        setting, fused if tiles is None else rough_maps(setting, coarse), with_maps
    )
    return setting, shift, report


def _teller(callback):
    """The callback of each stage, which :func:`solve` tells of it."""
    return lambda stage: None if callback is None else partial(callback, stage)


def shared_weights(images, options, atomic_numbers, sensitivities=None):
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
            prepared, prior = _understand(
                **image,
                atomic_numbers=atomic_numbers,
                options=options,
                sensitivities=sensitivities,
            )
            setting, *_ = examine(prepared, prior, run)
            settings.append(setting.take(prepared.tiles))
        return weigh(
            settings,
            run,
            seed=options.seed,
            lambda_tv=options.lambda_tv,
            lambda_haadf=options.lambda_haadf,
        )


def _understand(
    maps,
    haadf,
    atomic_numbers,
    options,
    background,
    variance,
    sensitivities=None,
    totals=None,
):
    """Prepare the data; and the c_i to expect, in any common unit: Z^γ, an atom."""
    prepared = prepare(
        maps, haadf, options, background=background, variance=variance, totals=totals
    )
    prior = np.asarray(atomic_numbers, dtype=np.float64) ** options.gamma
    prior *= prepared.units.gain
    return prepared, prior if sensitivities is None else prior / sensitivities


def solve(
    maps,
    haadf,
    atomic_numbers,
    options,
    *,
    background=0.0,
    variance=None,
    sensitivities=None,
    num_workers=None,
    callback=None,
):
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
    prepared, prior = _understand(
        maps, haadf, atomic_numbers, options, background, variance, sensitivities
    )
    told = _teller(callback)
    with workers(num_workers) as run:
        decision, setting = decide(prepared, prior, options, run, told)
        del prepared  # pixels as they were before the calibration
        problem = decision.problem(setting)
        setting = setting if options.uncertainty else None  # and its pixels
        return _conclude(decision, problem, setting, prior, options, run, told)


def decide_on_sample(
    maps,
    haadf,
    atomic_numbers,
    options,
    *,
    background=0.0,
    variance=None,
    sensitivities=None,
    totals,
):
    """Find out what can be known of an image from a sample of it.

    Parameters
    ----------
    maps, haadf, atomic_numbers, options, background, variance, sensitivities
        As for :func:`solve`, of the sample: tiles of :func:`representative_tiles`.
    totals : Totals
        Of the image.

    Returns
    -------
    decision : Decision
        What goes for all its parts.
    prior : numpy.ndarray
        Coefficients c_i to expect, in any common unit, shape ``(n_elements,)``.
    """
    prepared, prior = _understand(
        maps,
        haadf,
        atomic_numbers,
        options,
        background,
        variance,
        sensitivities,
        totals,
    )
    with workers() as run:
        decision, _ = decide(prepared, prior, options, run)
    return decision, prior


def overview(maps, haadf, factor, decision, options, *, background=0.0, variance=None):
    """Fused maps of a whole image on large pixels: where its flux is.

    Parameters
    ----------
    maps, haadf : numpy.ndarray
        Means over `factor` x `factor` pixels of what :func:`solve` takes.
    factor : int
        Pixels a side of a large one.
    decision : Decision
        From a sample of the image.
    options : CalibratedOptions
        The options.
    background, variance : numpy.ndarray
        As for :func:`solve`; means, too.

    Returns
    -------
    numpy.ndarray
        Mean over the large pixels, shape ``(n_elements, y, x)``, in the units of the
        maps; their sum is locked.
    """
    with workers() as run:
        setting, *_ = _part(
            maps, haadf, decision, options, run, background, variance, factor
        )
        weights = decision.weights
        optimum = primal_dual.solve(
            setting.problem(weights.lambda_tv, weights.lambda_haadf),
            run,
            tolerance=options.tolerance / _OVERVIEW_PRECISION,
            max_iter=options.max_iter,
        )
    return optimum.maps * np.float32(decision.units.gain / factor**2)[:, None, None]


def flux_price(parts, insides, sums, decision, options):
    """Multipliers of the flux lock of an image, from a sample of it.

    With them in the objective, and no lock, parts of the image that are solved one by
    one meet the lock together, but for a few parts in a thousand. What the maps of the
    sample sum up to comes from :func:`overview`, which follows the same counts: with
    the measured sums, the noise of the sample would make the multipliers ten times as
    uncertain.

    Parameters
    ----------
    parts : list of dict
        Tiles from all over the image, which hold as much vacuum as all of it, each
        with some pixels around it: `maps`, `haadf`, `background` and `variance`, as
        for :func:`solve`.
    insides : list of tuple of slice
        The tiles themselves, (rows, columns).
    sums : numpy.ndarray
        What their maps sum up to, in their units, shape ``(n_elements,)``.
    decision, options
        As for :func:`solve_part`.

    Returns
    -------
    numpy.ndarray
        ν_i, shape ``(n_elements,)``, 1 / counts.
    """
    weights = decision.weights

    def problem(part, run):
        setting, *_ = _part(**part, decision=decision, options=options, run=run)
        return setting.problem(weights.lambda_tv, weights.lambda_haadf)

    with workers() as run:
        return primal_dual.common_price(
            run.each(problem, parts),
            insides,
            sums / decision.units.gain,
            run,
            _PRICE_ITERATIONS,
        )


def solve_part(
    maps,
    haadf,
    decision,
    options,
    *,
    inner,
    prior,
    background=0.0,
    variance=None,
    num_workers=None,
    callback=None,
):
    """Fuse a part of an image about which all has been decided.

    Parameters
    ----------
    maps, haadf
        As for :func:`solve`, of the part and of some pixels around it.
    decision : Decision
        From a sample of the image.
    options : CalibratedOptions
        The options.
    inner : tuple of slice
        The part itself, (rows, columns).
    prior : numpy.ndarray
        From :func:`decide_on_sample`.
    background, variance, num_workers, callback
        As for :func:`solve`.

    Returns
    -------
    Solution
        Of the part itself: maps, whose sums are part of the flux of the image, and
        costs to which the other parts' can be added.
    """
    with workers(num_workers) as run:
        setting, report, notes = _part(
            maps, haadf, decision, options, run, background, variance
        )
        decision = replace(decision, report=report, notes=notes)
        # the lock is that of all parts together; what is refitted keeps its own sums
        problem = decision.problem(replace(setting, lock_flux=False))
        setting = setting if options.uncertainty else None
        told = _teller(callback)
        return _conclude(
            decision, problem, setting, prior, options, run, told, inner=inner
        )


def _part(maps, haadf, decision, options, run, background=0.0, variance=None, factor=1):
    """Setting of a part of an image, what the guard saw there, and notes."""
    prepared = prepare(
        maps,
        haadf,
        options,
        background=background,
        variance=variance,
        units=decision.units,
    )
    setting = prepared.setting.with_error(decision.numbers.error)
    setting = setting.with_numbers(decision.numbers)
    if factor == 1:
        setting = aligned(setting, decision.shift)
    else:
        setting = setting.on_large_pixels(factor)
    report = decision.report
    if decision.weights.lambda_haadf > 0:
        path = Path(run)
        # the coefficients are those of the sample, whatever is found here
        setting, report = guard(
            setting, rough_maps(setting, path), lambda s: (s, rough_maps(s, path))
        )
    return setting, report, prepared.notes


def _conclude(decision, problem, setting, prior, options, run, told, *, inner=None):
    """Solve for the maps and say how that went; `setting` is for the uncertainty."""
    weights, gain, report = decision.weights, decision.units.gain, decision.report
    # Not from the calibration: it may take long to forget its weights.
    optimum = primal_dual.solve(
        problem,
        run,
        tolerance=options.tolerance,
        max_iter=options.max_iter,
        callback=told("solution"),
        window=inner,
    )
    variance = None
    if options.uncertainty:
        variance = uncertainty(
            setting,
            prior,
            (weights.lambda_tv, weights.lambda_haadf),
            optimum.maps,
            run,
            options.seed,
            told("uncertainty"),
        )
        variance = variance * gain[:, None, None] ** 2
    maps = optimum.maps
    if inner is not None:
        maps = np.ascontiguousarray(maps[(slice(None), *inner)])
        variance = None if variance is None else variance[(slice(None), *inner)]
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
            filter(None, (*decision.units.warnings, decision.shift.words, report.words))
        ),
    )


def together(solutions, pixels):
    """What is to be said of an image whose parts were solved; without its maps.

    Parameters
    ----------
    solutions : list of Solution
        From :func:`solve_part`, of all parts.
    pixels : list of int
        Number of pixels of each.

    Returns
    -------
    Solution
        The costs are the sums of those of the parts, each of which keeps its last
        value; what the guard saw is the worst of all.
    """
    longest = max(solutions, key=lambda s: s.n_iter)

    def total(term):
        values = [getattr(s.costs, term) for s in solutions]
        size = len(longest.costs.total)
        return sum(np.pad(v, (0, size - len(v)), mode="edge") for v in values)

    terms = {term: total(term) for term in ("total", "haadf", "chemical", "tv")}
    records = [s.record for s in solutions]
    return replace(
        longest,
        maps=None,
        variance=None,
        costs=replace(longest.costs, **terms),
        status=next((s.status for s in solutions if not s.converged), longest.status),
        converged=all(s.converged for s in solutions),
        record={
            **records[0],
            "gap": max(record["gap"] for record in records),
            "guard": max(record["guard"] for record in records),
            "flagged": float(
                np.average([record["flagged"] for record in records], weights=pixels)
            ),
        },
        notes=tuple(dict.fromkeys(note for s in solutions for note in s.notes)),
        warnings=tuple(dict.fromkeys(w for s in solutions for w in s.warnings)),
    )


def cost_history(optimum, weights):
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
