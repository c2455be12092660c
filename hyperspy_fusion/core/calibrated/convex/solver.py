"""Iterate until the certificate meets the tolerance."""

from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...common.solution import CostHistory, check_finite
from ...common.threads import Workers, most_at_once
from .certificate import certificate, terms_at
from .iteration import FLUX_WEIGHT, RELAXATION, Iteration, restart
from .multigrid import warm_start
from .problem import Problem, upright, with_flux
from .sweep import State

_STILL = 3.0  # times the tolerance: largest change of a map between certificates
_SAMPLED = 4  # rows, of which one is compared
# Of a flat or an empty map, what a change is compared with: fractions of its mean, and
# of the noise.
_FLAT, _EMPTY = 0.01, 0.003
_REMEDY = "maps, HAADF image, background or noise variance hold values out of range"
CHECK_EVERY = 25  # iterations between two certificates
_EARLY = 1, 2, 4, 8, 16  # iterations whose terms are kept, too, without a certificate


def kept_at(max_iter: int) -> np.ndarray:
    """Iterations after which terms of the objective are kept, if it runs so long."""
    early = [n_iter for n_iter in _EARLY if n_iter < max_iter]
    return np.r_[early, np.arange(CHECK_EVERY, max_iter, CHECK_EVERY), max_iter]


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Result of the iteration.

    Attributes
    ----------
    maps : numpy.ndarray
        x, counts, shape ``(n_elements, y, x)``, float32; they meet the flux lock.
    state : State or None
        For a warm start, if it was kept; of the problem as it is solved.
    history : list of tuple
        ``(n_iter, terms)`` at each certificate, with its terms, and if they were asked
        for after some iterations before the first.
    gap : float
        Upper bound of the distance of the objective to its optimum.
    n_iter : int
        Iterations on the pixels of the problem.
    change : numpy.ndarray
        Last change of the map of each element over its contrast, shape
        ``(n_elements,)``; infinite if it was not found.
    """

    maps: np.ndarray
    state: Any
    history: list
    gap: float
    n_iter: int
    change: np.ndarray

    def within(self, tolerance: float) -> bool:
        """Whether gap and changes, as far as these are known, meet the tolerance."""
        known = self.change[np.isfinite(self.change)]
        return self.gap <= tolerance and bool((known <= _STILL * tolerance).all())

    def costs(
        self, lambda_tv: float, lambda_haadf: float, others: Sequence[float]
    ) -> CostHistory:
        """Terms of the objective, in the first iterations and at each certificate.

        The total has those of further images, whose weights are `others`, too. The
        chemical term is half the deviance, which differs from the negative
        log-likelihood by a constant.
        """
        iterations, terms = zip(*self.history, strict=True)
        haadf, chemical, tv, *further = np.array(terms).T
        tv = tv / lambda_tv
        total = lambda_haadf * haadf + chemical + lambda_tv * tv
        for weight, term in zip(others, further, strict=True):
            total = total + weight * term
        return CostHistory(
            total=total,
            haadf=haadf,
            chemical=chemical,
            tv=tv,
            iterations=np.array(iterations, dtype=np.float64),
        )


def minimise(
    problem: Problem,
    run: Workers,
    *,
    tolerance: float | None,
    max_iter: int,
    start: State | None = None,
    callback: Callable | None = None,
    window: tuple[slice, slice] | None = None,
    early: bool = False,
) -> Optimum:
    """Solve a problem until certificate and changes of the maps meet the tolerance.

    The gap is one of all elements together and says little of a rare one. Of spectra
    the changes of other components, which nobody sees, do not count.

    Parameters
    ----------
    problem : Problem
        The problem.
    run : Workers
        The threads.
    tolerance : float or None
        Largest relative gap; None runs `max_iter` iterations without a certificate.
    max_iter : int
        Largest number of iterations.
    start : State, optional
        Where to start, by default :func:`warm_start`. It is modified.
    callback : callable, optional
        ``callback(n_iter, gap)`` at the start and after some milliseconds of
        iterations, with the gap of the last certificate, infinite before the first.
    window : tuple of slice, optional
        Rows and columns whose terms are returned, by default all.
    early : bool
        Whether terms of the first iterations are returned, too; see :func:`kept_at`.
        The iteration is the same with and without them.
    """
    y, x = problem.directions
    problem, window = _upright(problem, window)
    check_finite(problem.probe(), "a number of the problem is", _REMEDY)
    history, gap = [], np.inf
    n_shown = problem.n_elements
    change = np.full(n_shown, np.inf)
    before = None
    if callback is not None:
        callback(0, gap)
    state = warm_start(problem, run) if start is None else start
    iteration = Iteration(problem, state, run)
    most = most_at_once(state.u.size)
    n_iter = 0
    wanted = _EARLY if early else ()
    while n_iter < max_iter:
        if tolerance is not None:
            iteration.next_stage()
        stop = min(n_iter + most, max_iter)
        if tolerance is not None:
            stop = min(stop, (n_iter // CHECK_EVERY + 1) * CHECK_EVERY)
        stop = min([stop, *wanted[bisect(wanted, n_iter) :]])
        check = stop == max_iter or (stop % CHECK_EVERY == 0 and tolerance is not None)
        iteration.advance(stop - n_iter, settle=check)
        n_iter = stop
        if check and tolerance is not None:
            terms, gap = _certified(problem, state, run, window, n_iter)
            history.append((n_iter, terms))
            change, before = _change(state.u[:n_shown], before, problem.noise)
        elif n_iter in wanted:
            history.append((n_iter, terms_at(problem, state, run, window)))
        if callback is not None:
            callback(n_iter, gap)
        if tolerance is None:
            continue
        if gap <= tolerance and (change <= _STILL * tolerance).all():
            break
    del iteration  # frees its copy of the data
    maps = np.ascontiguousarray(with_flux(problem, state.u)[..., ::y, ::x])
    return Optimum(
        maps=maps, state=state, history=history, gap=gap, n_iter=n_iter, change=change
    )


def _upright(problem: Problem, window: Any) -> tuple[Problem, Any]:
    """The problem as it is solved, and the rows and columns of a window in it."""
    if problem.directions == (1, 1):
        return problem, window
    if window is not None:
        pairs = zip(window, problem.shape, problem.directions, strict=True)
        window = tuple(_in_direction(*pair) for pair in pairs)
    return upright(problem), window


def _in_direction(inside: slice, size: int, direction: int) -> slice:
    """A slice of an axis, of that axis in a direction of 1 or -1."""
    start, stop, _ = inside.indices(size)
    return inside if direction > 0 else slice(size - stop, size - start)


def _certified(
    problem: Problem,
    state: State,
    run: Workers,
    window: tuple[slice, slice] | None,
    n_iter: int,
) -> tuple[tuple[float, ...], float]:
    """Terms of the objective in the window, and the relative gap of all of it."""
    terms, upper, lower = certificate(problem, state, run)
    bounds = *terms, upper, lower
    check_finite(bounds, f"the cost after {n_iter} iterations is", _REMEDY)
    # The sum of the terms, which are not negative: the objective itself may be around 0
    # where it has a flux multiplier.
    value = problem.value(terms)
    gap = (upper - lower) / value if value > 0 else 0.0
    if window is not None:
        terms = terms_at(problem, state, run, window)
    return terms, gap


def _change(
    u: np.ndarray, before: np.ndarray | None, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Change of each map since the last certificate over its contrast; sampled maps."""
    now = u[:, ::_SAMPLED].copy()
    if before is None:
        return np.full(len(u), np.inf), now
    contrast = now - now.mean(axis=(1, 2), keepdims=True)
    size = np.linalg.norm(contrast, axis=(1, 2))
    size += _FLAT * np.linalg.norm(now, axis=(1, 2))
    # the error of a flat map is that of its mean, as much as the noise of one pixel
    size += noise * max(1, _EMPTY * np.sqrt(now[0].size))
    moved = np.linalg.norm(now - before, axis=(1, 2))
    return moved / size, now


class WarmStart:
    """Solver of similar problems, each started from the solution of the last."""

    def __init__(self, run: Workers, callback: Callable | None = None) -> None:
        self.run, self.callback = run, callback
        self.last: tuple[Problem, State] | None = None

    def solve(self, problem: Problem, n_iter: int) -> np.ndarray:
        """Maps after `n_iter` more iterations, shape ``(n_elements, y, x)``, counts."""
        start = None
        if self.last is not None:
            before, start = self.last
            restart(start, before, problem)
        optimum = minimise(
            problem,
            self.run,
            tolerance=None,
            max_iter=n_iter,
            start=start,
            callback=self.callback,
        )
        self.last = problem, optimum.state
        return optimum.maps


def common_flux_multiplier(
    problems: Sequence[Problem],
    insides: Sequence[tuple[slice, slice]],
    flux: np.ndarray,
    locked: np.ndarray,
    run: Workers,
    n_iter: int,
) -> np.ndarray:
    """Multipliers ν_i of one flux lock of several problems, shape ``(n_elements,)``.

    The problems, which have the same `tv_scale`, are iterated side by side as
    :func:`minimise` iterates one, with the sums of all over `insides`: the rows and
    columns of each that are away from artificial edges. `flux` are the sums over
    their measured pixels there, in counts; only those that are `locked` are kept, the
    multipliers of the others are 0.
    """
    tv_scale = problems[0].tv_scale
    solved = [_upright(*each) for each in zip(problems, insides, strict=True)]
    problems, insides = zip(*solved, strict=True)
    dual = np.zeros(len(tv_scale))
    before = None
    n_pixels = 0

    def begin(problem: Problem, run: Workers) -> Iteration:
        # the flux of all, so that the steps are small enough
        problem = replace(problem, flux=np.zeros(len(tv_scale)))
        state = warm_start(replace(problem, flux=None), run)
        return Iteration(problem, state, run)

    def advance(task: tuple, _: Any) -> tuple[np.ndarray, int]:
        iteration, inside = task
        iteration.state.flux_dual[:] = dual
        iteration.advance()
        rows, columns = inside
        u = iteration.state.u[:, rows, columns]
        known = iteration.problem.measured(rows, columns)
        return u.sum(axis=(1, 2), dtype=np.float64, where=known), u[0].size

    iterations = run.each(begin, problems)
    tasks = list(zip(iterations, insides, strict=True))
    for _ in range(n_iter):
        for iteration in iterations:
            iteration.next_stage()
        sums, sizes = zip(*run.each(advance, tasks), strict=True)
        sums, n_pixels = np.sum(sums, axis=0), sum(sizes)
        bar = sums if before is None else 2 * sums - before
        before = sums
        step = iterations[0].sigma * FLUX_WEIGHT**2 / n_pixels
        dual = dual + RELAXATION * step * locked * (bar - flux * tv_scale)
    return dual * tv_scale
