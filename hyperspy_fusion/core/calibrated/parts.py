"""Images that are solved in parts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.threads import workers
from .convex.solver import WarmStart, common_flux_multiplier, minimise
from .guard import guard
from .method import conclude, decide, rough_maps, stage_callbacks, understand
from .prepare import prepare
from .shift import aligned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..common.solution import Solution
    from ..common.threads import Workers
    from .convex.problem import Problem
    from .guard import GuardReport
    from .method import CalibratedOptions, Decision
    from .prepare import PreparedData, Totals

__all__ = [
    "common_multipliers",
    "decide_on_sample",
    "overview",
    "solve_part",
    "together",
]

_OVERVIEW_PRECISION = 10  # times that of the maps, since all parts depend on it
_MULTIPLIER_ITERATIONS = 200


def decide_on_sample(
    maps: np.ndarray,
    haadf: np.ndarray,
    atomic_numbers: Sequence[int],
    options: CalibratedOptions,
    *,
    background: Any = 0.0,
    variance: np.ndarray | None = None,
    sensitivities: Sequence[float] | None = None,
    totals: Totals,
) -> tuple[Decision, np.ndarray]:
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
    preparation, prior = understand(
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
        decision, _ = decide(preparation, prior, options, run)
    return decision, prior


def overview(
    maps: np.ndarray,
    haadf: np.ndarray,
    factor: int,
    decision: Decision,
    options: CalibratedOptions,
    *,
    background: Any = 0.0,
    variance: np.ndarray | None = None,
) -> np.ndarray:
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
        prepared, *_ = _part(
            maps, haadf, decision, options, run, background, variance, factor
        )
        weights = decision.weights
        optimum = minimise(
            prepared.problem(weights.lambda_tv, weights.lambda_haadf),
            run,
            tolerance=options.tolerance / _OVERVIEW_PRECISION,
            max_iter=options.max_iter,
        )
    return optimum.maps * np.float32(decision.units.gain / factor**2)[:, None, None]


def common_multipliers(
    parts: Sequence[dict],
    insides: Sequence[tuple[slice, slice]],
    sums: np.ndarray,
    decision: Decision,
    options: CalibratedOptions,
) -> np.ndarray:
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

    def problem(part: dict, run: Workers) -> Problem:
        prepared, *_ = _part(**part, decision=decision, options=options, run=run)
        return prepared.problem(weights.lambda_tv, weights.lambda_haadf)

    with workers() as run:
        return common_flux_multiplier(
            run.each(problem, parts),
            insides,
            sums / decision.units.gain,
            run,
            _MULTIPLIER_ITERATIONS,
        )


def solve_part(
    maps: np.ndarray,
    haadf: np.ndarray,
    decision: Decision,
    options: CalibratedOptions,
    *,
    inner: tuple[slice, slice],
    prior: np.ndarray,
    background: Any = 0.0,
    variance: np.ndarray | None = None,
    num_workers: int | None = None,
    callback: Callable | None = None,
) -> Solution:
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
        prepared, report, notes = _part(
            maps, haadf, decision, options, run, background, variance
        )
        decision = replace(decision, report=report, notes=notes)
        # the lock is that of all parts together; what is refitted keeps its own sums
        problem = decision.problem(replace(prepared, lock_flux=False))
        kept = prepared if options.uncertainty else None
        del prepared  # and its pixels
        callback_for = stage_callbacks(callback)
        return conclude(
            decision, problem, kept, prior, options, run, callback_for, inner=inner
        )


def _part(
    maps: np.ndarray,
    haadf: np.ndarray,
    decision: Decision,
    options: CalibratedOptions,
    run: Workers,
    background: Any = 0.0,
    variance: np.ndarray | None = None,
    factor: int = 1,
) -> tuple[PreparedData, GuardReport, tuple]:
    """PreparedData of a part of an image, what the guard saw there, and notes."""
    preparation = prepare(
        maps,
        haadf,
        options,
        background=background,
        variance=variance,
        units=decision.units,
    )
    prepared = preparation.prepared.with_error(decision.numbers.error)
    prepared = prepared.with_numbers(decision.numbers)
    if factor == 1:
        prepared = aligned(prepared, decision.shift)
    else:
        prepared = prepared.on_large_pixels(factor)
    report = decision.report
    if decision.weights.lambda_haadf > 0:
        path = WarmStart(run)
        # the coefficients are those of the sample, whatever is found here
        prepared, report = guard(
            prepared, rough_maps(prepared, path), lambda s: (s, rough_maps(s, path))
        )
    return prepared, report, preparation.notes


def together(solutions: Sequence[Solution], pixels: Sequence[int]) -> Solution:
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

    def total(term: str) -> np.ndarray:
        values = [getattr(s.costs, term) for s in solutions]
        size = len(longest.costs.total)
        padded = [np.pad(v, (0, size - len(v)), mode="edge") for v in values]
        return np.sum(padded, axis=0)

    terms: dict[str, Any] = {
        term: total(term) for term in ("total", "haadf", "chemical", "tv")
    }
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
