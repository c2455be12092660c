"""Images that are solved tile by tile."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..common.messages import merged
from ..common.missing import fill, missing_notes, missing_pixels
from ..common.solution import Solution
from ..common.spans import moved
from ..common.threads import Workers, workers
from .convex.problem import Problem
from .convex.solver import common_flux_multiplier, minimise
from .elastic import EXPONENT
from .examine import guarded
from .flux import DOUBTFUL, NO_VACUUM, FluxLock, judge, vacuum_background
from .given import Chemistry, Pixels
from .method import (
    Decision,
    conclude,
    decide,
    stage_callbacks,
    understand,
)
from .options import CalibratedOptions
from .prepare import PreparedData, Totals, prepare
from .sharing import judge_sharing
from .shift import Shift, aligned, far_shift
from .slow import without_slow

# Tolerance of the maps over that of the overview, on which all tiles depend.
_OVERVIEW_PRECISION = 10
_MULTIPLIER_ITERATIONS = 200


def decide_on_sample(
    pixels: Pixels,
    chemistry: Chemistry,
    options: CalibratedOptions,
    *,
    totals: Totals,
    num_workers: int | None = None,
) -> tuple[Decision, np.ndarray]:
    """Calibrate and choose the weights on a sample of an image.

    The pixels are those of
    :func:`~hyperspy_fusion.core.calibrated.sample.representative_tiles`; `totals` are
    those of the whole image. Returns the decision, which holds for all tiles, and the
    prior.
    """
    with workers(num_workers) as run:
        preparation, prior, further = understand(
            pixels, chemistry, options, totals=totals, run=run
        )
        # the sample holds hardly any vacuum
        preparation = replace(preparation, background_known=True)
        decision, prepared = decide(preparation, prior, options, run, further=further)
        if options.share:
            image = decision.image(prepared)
            sharing = judge_sharing(image, decision.weights, run, options)
            decision = replace(decision, sharing=sharing)
    return decision, prior


def background_of_vacuum(
    pixels: Pixels,
    decision: Decision,
    options: CalibratedOptions,
    *,
    factor: int,
    num_workers: int | None = None,
) -> tuple[np.ndarray | None, str]:
    """Background of a whole image on large pixels, in the units of the maps.

    The pixels are means over `factor` x `factor` pixels. Shape ``(n_elements, 1, 1)``;
    None if the maps are no counts, or there is too little vacuum. The text tells why.
    """
    if not decision.units.counts or decision.report.inverted:
        return None, ""
    with workers(num_workers) as run:
        pixels = replace(pixels, elastic=None)  # not needed
        prepared, _ = _part(pixels, decision, options, run, factor)
    vacuum = vacuum_background(prepared, factor)
    if vacuum.background is None:
        return None, DOUBTFUL if vacuum.doubtful else NO_VACUUM
    values = vacuum.background * decision.units.count_value / factor**2
    return values[:, None, None], ""


def rough_shifts(
    pixels: Pixels, chemistry: Chemistry, options: CalibratedOptions, *, factor: int
) -> list[Shift]:
    """Displacements of elastic images, HAADF first, of which there are means.

    The pixels are those of :func:`overview`. In whole large pixels, given in those of
    the image.
    """
    background = 0 if pixels.background is None else pixels.background
    net = fill(pixels.maps) - background
    shifts = []
    for k, image in enumerate(pixels.images):
        prior = chemistry.coefficients(EXPONENT if k else options.gamma)
        model = np.tensordot(prior, net, axes=1)
        found = far_shift(fill(image[None])[0], 1.0 * np.isfinite(image), model)
        shifts.append(replace(found, y=factor * found.y, x=factor * found.x))
    return shifts


def overview(
    pixels: Pixels,
    decision: Decision,
    options: CalibratedOptions,
    *,
    factor: int,
    elements: Sequence[str] = (),
    num_workers: int | None = None,
) -> tuple[np.ndarray, Decision]:
    """Fused maps of a whole image on large pixels, to see how its flux is distributed.

    The pixels are means over `factor` x `factor` pixels. Returns means over the large
    pixels in the units of the maps, and the decision with the flux lock of the image.
    """
    with workers(num_workers) as run:
        prepared, _ = _part(pixels, decision, options, run, factor)
        weights = decision.weights
        prepared = replace(prepared, lock=judge(prepared, elements))
        optimum = minimise(
            prepared.problem(weights.lambda_tv, weights.lambda_haadf),
            run,
            tolerance=options.tolerance / _OVERVIEW_PRECISION,
            max_iter=options.max_iter,
        )
    count_value = decision.units.count_value
    maps = optimum.maps * np.float32(count_value / factor**2)[:, None, None]
    numbers = replace(decision.numbers, lock=prepared.lock)
    return maps, replace(decision, numbers=numbers)


def common_multipliers(
    parts: Sequence[Pixels],
    insides: Sequence[tuple[slice, slice]],
    sums: np.ndarray,
    decision: Decision,
    options: CalibratedOptions,
    num_workers: int | None = None,
) -> np.ndarray:
    """Multipliers ν_i of the flux lock of an image, in 1 / counts, from a sample of it.

    0 where the flux is free.

    With them in the objective instead of a lock, tiles that are solved one by one keep
    the flux of the image together, but for a few per mille. The sums of the sample come
    from :func:`overview`, which follows the same counts: with the measured sums, the
    noise of the sample would make the multipliers ten times as uncertain.

    Parameters
    ----------
    parts : list of Pixels
        Tiles from all over the image, with as much vacuum as all of it and a halo each.
    insides : list of tuple of slice
        The tiles without their halo.
    sums : numpy.ndarray
        Expected sums of their maps over measured pixels, in the units of the maps,
        shape ``(n_elements,)``.
    decision, options, num_workers
        As for :func:`solve_part`.
    """
    weights = decision.weights

    def problem(part: Pixels, run: Workers) -> Problem:
        prepared, _ = _part(part, decision, options, run)
        return prepared.problem(weights.lambda_tv, weights.lambda_haadf)

    with workers(num_workers) as run:
        return common_flux_multiplier(
            run.each(problem, parts),
            insides,
            sums / decision.units.count_value,
            decision.numbers.lock.kept,
            run,
            _MULTIPLIER_ITERATIONS,
        )


def solve_part(
    pixels: Pixels,
    decision: Decision,
    options: CalibratedOptions,
    *,
    inner: tuple[slice, slice],
    prior: np.ndarray,
    num_workers: int | None = None,
    callback: Callable | None = None,
) -> Solution:
    """Fuse one tile of an image, with the decision of the whole image.

    The pixels include the halo of the tile; `inner` are the rows and columns without
    it. Returns the solution of the tile without halo: its sums add up to the flux of
    the image, and its costs to the cost.
    """
    rows, columns = inner
    missing = missing_pixels(pixels.maps[:, rows, columns], pixels.haadf[inner])
    with workers(num_workers) as run:
        prepared, decision = _part(pixels, decision, options, run, inner=inner)
        callback_for = stage_callbacks(callback)
        # The lock is one of all tiles together; refits keep the sums of the tile.
        free = FluxLock.free(len(prior))
        problem = decision.last_problem(replace(prepared, lock=free), run)
        kept = prepared if options.n_refits or options.share else None
        del prepared  # frees its pixels
        return conclude(
            decision,
            problem,
            kept,
            prior,
            options,
            run,
            callback_for,
            missing,
            inner=inner,
        )


def _part(
    pixels: Pixels,
    decision: Decision,
    options: CalibratedOptions,
    run: Workers,
    factor: int = 1,
    inner: tuple[slice, slice] | None = None,
) -> tuple[PreparedData, Decision]:
    """Prepared data of a tile, and the decision with reports and notes about it.

    The reports are of the `inner` rows and columns, if these are given.
    """
    # means are no multiples of a count
    units = replace(decision.units, exact=()) if factor > 1 else decision.units
    preparation = prepare(pixels, options, units=units, run=run)
    plain = preparation.prepared.with_error(decision.numbers.error)
    plain = prepared = plain.with_numbers(decision.numbers)
    if factor == 1:
        prepared = aligned(prepared, decision.shift)
    else:
        prepared = prepared.on_large_pixels(factor)
    if decision.slow:
        prepared = without_slow(prepared, factor=factor)
    report = decision.report
    if decision.weights.lambda_haadf > 0 and decision.amounts is None:
        # the coefficients stay those of the sample
        prepared, report = guarded(prepared, report, run)
    if inner is not None:
        report = report.within(*inner, prepared.trusted)
    images, found = [], []
    for k, image in enumerate(decision.elastic):
        if image.weight > 0 and pixels.elastic is not None:
            own = pixels.elastic[k]
            term, image = image.part(plain, own, run, factor)  # noqa: PLW2901
            images.append(term)
            if inner is not None:
                report_of = image.report.within(*inner, term.precision)
                image = replace(image, report=report_of)  # noqa: PLW2901
        found.append(image)
    prepared = replace(prepared, elastic=tuple(images))
    decision = replace(
        decision, report=report, notes=preparation.notes, elastic=tuple(found)
    )
    return prepared, decision


def together(
    solutions: Sequence[Solution],
    pixels: Sequence[int],
    origins: Sequence[tuple[int, int]],
) -> Solution:
    """One solution, without maps, for an image whose tiles were solved.

    `pixels` are the numbers of pixels of the tiles, `origins` their first rows and
    columns. Costs are summed, a tile that ended early keeping its last value; of the
    reports of the guard the worst is kept, and a message tells in how many of the tiles
    it holds.
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
    missing = {
        name: sum(record[name] for record in records)
        for name in ("missing_pixels", "haadf_missing_pixels")
    }

    def combined(function: Callable, *names: str) -> dict[str, Any]:
        """Those of these entries that the tiles have, one number or array for all."""
        found = {
            name: function([record[name] for record in records], axis=0)
            for name in names
            if name in records[0]
        }
        return {k: v if np.ndim(v) else float(v) for k, v in found.items()}

    mean = partial(np.average, weights=pixels)
    shares = "flagged", "elastic_flagged", "sharing_size", "sharing_returned"
    n_tiles = {"sharing_tiles": float(len(records))}
    return replace(
        longest,
        maps=None,
        variance=None,
        replicas=None,
        unshared=None,
        costs=replace(longest.costs, **terms),
        status=next((s.status for s in solutions if not s.converged), longest.status),
        converged=all(s.converged for s in solutions),
        record={
            **records[0],
            **missing,
            **combined(np.max, "change", "gap", "guard", "elastic_guard"),
            **combined(mean, *shares),
            **(n_tiles if "sharing" in records[0] else {}),
            "flagged_spans": np.concatenate(
                [
                    moved(record["flagged_spans"], *origin)
                    for record, origin in zip(records, origins, strict=True)
                ]
            ),
        },
        notes=(
            *missing_notes(**missing),
            *merged([s.notes for s in solutions], "tiles"),
        ),
        warnings=merged([s.warnings for s in solutions], "tiles"),
    )
