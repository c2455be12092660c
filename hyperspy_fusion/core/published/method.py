"""The published algorithm, step by step.

J. Schwartz et al., npj Comput. Mater. 8, 16 (2022); J. Manassa, M. Shah et al.,
Elemental Microscopy (2024). Maps and HAADF image are scaled to [0, 1]; each iteration
takes a gradient step of unit length on both data terms, clips at zero and denoises
each element by total variation, which together is a proximal-gradient step on

    lambda_haadf Ψ_1 + lambda_chem Ψ_2 + lambda_tv TV.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..common.options import Options, choice, flag, number, whole_number
from ..common.solution import (
    CostHistory,
    Solution,
    Status,
    check_different,
    check_finite,
    check_magnitude,
)
from ..common.threads import Workers, most_at_once, workers
from .forward import PowerModel, ZWeighting, element_weights
from .kernels import ScaledProblem, iterate_published, published_tiles
from .objective import PublishedObjective
from .tv_prox import TVAlgorithm, tv_schedule


@dataclass(frozen=True, kw_only=True)
class PublishedOptions(Options):
    """Options of :func:`~hyperspy_fusion.fuse_published`, which describes them.

    The defaults are those of the DyScO3 tutorial of Manassa et al. None as
    `lambda_haadf` means 1 / n_elements.
    """

    lambda_haadf: float | None = number(
        None, least=0, instead="None", remark="None stands for 1 / n_elements"
    )
    lambda_chem: float = number(0.08, least=0)
    lambda_tv: float = number(0.15, least=0)
    gamma: float = number(1.6, least=1, most=10)
    epsilon: float = number(
        0.24, above=0, remark="the logarithm of empty pixels is taken"
    )
    n_iter: int = whole_number(30, least=1)
    n_iter_tv: int = whole_number(
        3, least=1, remark="regularize=False turns the total variation off"
    )
    z_weighting: ZWeighting = choice("Z", ZWeighting)
    initial_threshold: float | None = number(
        None, least=0, most=1, instead="None", remark="a fraction of each map's range"
    )
    regularize: bool = flag(default=True)
    tv_algorithm: TVAlgorithm = choice("FGP", TVAlgorithm)
    tolerance: float | None = number(
        None, above=0, instead="None", remark="None runs all iterations"
    )


def scale_to_unit(image: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Scale an image to [0, 1] (constant: 0), float32; with its minimum and range."""
    low = float(image.min())
    span = float(image.max()) - low
    scaled = np.subtract(image, low, dtype=np.float64)
    if span > 0:
        scaled *= 1 / span
    return scaled.astype(np.float32), low, span


def published_objective(
    measured: np.ndarray,
    haadf: np.ndarray,
    atomic_numbers: Sequence[int],
    options: PublishedOptions,
) -> tuple[PublishedObjective, dict[str, Any]]:
    """Scale the data to [0, 1] and state the objective.

    Returns the objective of the scaled maps, and minimum and range of each map and of
    the image, by their names in the record.
    """
    scaled, low, span = zip(*map(scale_to_unit, measured), strict=True)
    scaled_haadf, haadf_low, haadf_span = scale_to_unit(haadf)
    lambda_haadf = options.lambda_haadf
    objective = PublishedObjective(
        measured=np.stack(scaled),
        haadf=scaled_haadf,
        model=PowerModel(
            weights=element_weights(atomic_numbers, options.gamma, options.z_weighting),
            gamma=options.gamma,
        ),
        lambda_haadf=1 / len(scaled) if lambda_haadf is None else lambda_haadf,
        lambda_chem=options.lambda_chem,
        lambda_tv=options.lambda_tv if options.regularize else 0.0,
        epsilon=options.epsilon,
    )
    scaling = {
        "map_offset": np.array(low),
        "map_range": np.array(span),
        "haadf_offset": haadf_low,
        "haadf_range": haadf_span,
    }
    return objective, scaling


def iterate(
    steps: Callable,
    evaluate: Callable,
    weigh: Callable,
    *,
    n_iter: int,
    at_once: int = 1,
    tolerance: float | None = None,
    callback: Callable | None = None,
) -> tuple[list, Status]:
    """Iterate until the cost changes little enough or the iterations are used up.

    Parameters
    ----------
    steps : callable
        ``steps(n)`` advances the state by n iterations and returns the cost terms
        *before* each of them, which it computes on the way.
    evaluate : callable
        ``evaluate()`` returns the cost terms of the state.
    weigh : callable
        Turns the terms into the total cost.
    n_iter : int
        Largest number of iterations, at least 1.
    at_once : int
        Largest number of iterations of a step; 1 if there is a tolerance.
    tolerance : float, optional
        Stop when the total cost changes by at most this fraction of itself in one
        iteration. By default all iterations are run.
    callback : callable, optional
        ``callback(n, total)``, with the iterations so far and the last known total
        cost.

    Returns
    -------
    terms : list of tuple
        The terms after each iteration.
    status : Status
        Why the iteration ended.

    Raises
    ------
    FloatingPointError
        If the cost is no longer finite.
    """
    terms: list[np.ndarray] = []  # at the start, then after each iteration
    totals = []

    def record(found: Any) -> None:
        check_finite(
            found,
            f"the cost after {len(terms)} iterations is",
            "the weights are too large for the unit step of this method, lower "
            "lambda_haadf or lambda_chem",
        )
        terms.append(found)
        totals.append(weigh(found))

    status = Status.FINISHED if tolerance is None else Status.N_ITER
    n = 0
    while n < n_iter:
        some = min(at_once, n_iter - n) if tolerance is None else 1
        for found in steps(some):
            record(found)
        n += some
        if callback is not None:
            callback(n, totals[-1])
        if (
            tolerance is not None
            and n > 2  # the first total is that of the start
            and abs(totals[-1] - totals[-2]) <= tolerance * abs(totals[-2])
        ):
            status = Status.CONVERGED
            break
    record(evaluate())
    return terms[1:], status


def solve(
    maps: np.ndarray,
    haadf: np.ndarray,
    atomic_numbers: Sequence[int],
    options: PublishedOptions,
    *,
    num_workers: int | None = None,
    callback: Callable | None = None,
) -> Solution:
    """Run the published algorithm on one field of view.

    Parameters
    ----------
    maps, haadf, atomic_numbers, options
        As for :func:`published_objective`.
    num_workers : int, optional
        Number of threads; by default Numba's setting.
    callback : callable, optional
        ``callback("solution", n_iter, total_cost)`` after some milliseconds of
        iterations.

    Returns
    -------
    Solution
        Fused maps in the units of the measured ones.

    Raises
    ------
    FloatingPointError
        If the iteration diverges.
    """
    check_magnitude("maps", maps, largest=1e30)  # they are scaled in float64
    check_different(maps, haadf)
    objective, scaling = published_objective(maps, haadf, atomic_numbers, options)
    maps, others = objective.measured.copy(), np.empty_like(objective.measured)
    if options.initial_threshold is not None:
        maps[maps < options.initial_threshold] = 0
    n_iter_tv = options.n_iter_tv if objective.lambda_tv > 0 else 0
    schedule = tv_schedule(
        objective.lambda_tv or 1.0, n_iter_tv, fast=options.tv_algorithm == "FGP"
    )
    problem = ScaledProblem(
        measured=objective.measured,
        haadf=objective.haadf,
        weights=objective.model.weights.astype(np.float32),
        gamma=np.float32(objective.model.gamma),
        lambda_haadf=np.float32(objective.lambda_haadf),
        lambda_chem=np.float32(objective.lambda_chem),
        epsilon=np.float32(objective.epsilon),
    )

    with workers(num_workers) as run:

        def steps(n_iter: int) -> np.ndarray:
            nonlocal maps, others
            terms = _advance(run, problem, (maps, others), schedule, n_iter)
            if n_iter % 2:
                maps, others = others, maps
            return terms

        def evaluate() -> np.ndarray:  # the new maps are not used
            return _advance(run, problem, (maps, others), schedule[:1], 1)[0]

        terms, status = iterate(
            steps,
            evaluate,
            objective.weigh,
            n_iter=options.n_iter,
            at_once=most_at_once(objective.measured.size),
            tolerance=options.tolerance,
            callback=None if callback is None else partial(callback, "solution"),
        )

    by_term = np.array(terms).T
    costs = CostHistory(
        total=objective.weigh(by_term),
        haadf=by_term[0],
        chemical=by_term[1],
        tv=by_term[2],
        iterations=1.0 + np.arange(len(by_term[0])),
    )
    shape = (len(maps), 1, 1)
    maps *= scaling["map_range"].astype(np.float32).reshape(shape)
    maps += scaling["map_offset"].astype(np.float32).reshape(shape)
    return Solution(
        maps=maps,
        costs=costs,
        n_iter=len(costs.total),
        status=describe_rises(status, costs),
        converged=status is Status.CONVERGED,
        record={
            "lambda_haadf": objective.lambda_haadf,
            "haadf_coefficients": objective.model.weights,
            **scaling,
        },
    )


def _advance(
    run: Workers,
    problem: ScaledProblem,
    pair: tuple[np.ndarray, np.ndarray],
    schedule: np.ndarray,
    n_iter: int,
) -> np.ndarray:
    """Iterate from the first maps of a pair to the second, and back.

    Returns the cost terms before each iteration, shape ``(n_iter, 3)``.
    """
    shape = problem.measured.shape
    n_threads = len(run.blocks(shape, each=1))
    tiles = published_tiles(shape, len(schedule) - 1, n_threads)
    row_terms = np.zeros((n_iter, tiles[:, 6].max() + 1, 3, shape[1]))
    fixed = problem, schedule, tiles
    if n_threads == 1:
        run(iterate_published, [(0, len(tiles))], *pair, *fixed, row_terms)
        n_iter = 0
    each = [(i, i + 1) for i in range(len(tiles))]
    for k in range(n_iter):
        run(iterate_published, each, *pair, *fixed, row_terms[k : k + 1])
        pair = pair[::-1]
    return row_terms.sum(axis=1).sum(axis=-1)


def describe_rises(status: Status, costs: CostHistory) -> str:
    """The status, with the number of iterations in which the cost rose.

    The objective is not convex and the step length is fixed, so that a rise is no
    error; but then the result depends on when the method stops.
    """
    rises = {
        name: int(np.sum(np.diff(getattr(costs, name)) > 0))
        for name in ("total", "haadf", "chemical", "tv")
    }
    rose = ", ".join(f"{name} in {count}" for name, count in rises.items() if count)
    if not rose:
        return str(status)
    return f"{status}; costs that rose, of {len(costs.total) - 1} steps: {rose}"
