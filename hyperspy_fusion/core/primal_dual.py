r"""The calibrated method: a convex problem in counts, solved to a certified gap.

.. math::

    \min_{x ≥ 0} \sum_i \sum_r [x_i - (b_i + δ_i) \log(x_i + β_i + δ_i)]
    + \tfrac12 \sum_r w (h - o - \sum_i c_i x_i)^2
    + TGV_α^2(L_i x_i) \quad \text{subject to } \sum_r x_i = F_i

with w = μ / σ_h² and L_i = λ / √s_i. The unknowns of the solver are u_i = L_i x_i.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .certificate import certificate, flux_correction, terms_within
from .sweep import blocks_of, empty_seams, iterate, refine_rows
from .threads import most_at_once

__all__ = [
    "CHECK_EVERY",
    "Optimum",
    "Problem",
    "State",
    "common_price",
    "solve",
    "warm_start",
]

# Over-relaxation of the primal-dual iteration (L. Condat, J. Optim. Theory Appl. 158,
# 460 (2013)); below 2. This number and those that follow gave the fewest iterations to
# a gap of 1e-3 on the simulated specimens, with 0.1 to 200 counts and λ of 1.4 to 11.
_RELAXATION = 1.7
# Steps of the slopes against those of the maps, of their duals against those of the
# gradient, and the weight of the flux row.
_SLOPE_STEP = 2.0
_SLOPE_DUAL_STEP = 0.5
_FLUX_WEIGHT = 1.0
# Balance of primal against dual steps, of the geometric mean of u and of its noise: one
# or the other is how far the maps have to go. The maps come near the optimum first, and
# then their certificate does: after 50 iterations the maps are as near as after 100 to
# 250 with one balance for both, and 100 to 175 iterations make a gap of 1e-3 instead of
# 100 to 350.
_PRIMAL_FIRST = 0.8
_DUAL_THEN = 0.07
_FIRST = 50  # iterations
_COARSEST = 16  # pixels
CHECK_EVERY = 25  # iterations between two certificates


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One fusion with everything that calibration and selection decide.

    Attributes
    ----------
    data : numpy.ndarray
        Counts b, or values with Gaussian noise, shape ``(n_elements, y, x)``; NaN
        where missing.
    background : numpy.ndarray
        β, known background counts a pixel, shape ``(n_elements, 1, 1)`` or that of
        the data. Values are without background.
    pedestal : numpy.ndarray
        δ, counts, shape ``(n_elements,)``; not used for values.
    variance : numpy.ndarray or None
        Variance of values, shape of the data or ``(n_elements, 1, 1)``; None for
        counts.
    haadf : numpy.ndarray
        h - o: the image without offset, shape ``(y, x)``.
    haadf_precision : numpy.ndarray
        1 / σ_h², shape ``(y, x)``; 0 where the image is not used.
    lambda_haadf : float
        μ.
    coefficients : numpy.ndarray
        c_i ≥ 0, HAADF intensity a count, shape ``(n_elements,)``.
    strength : numpy.ndarray
        L_i = λ / √s_i, shape ``(n_elements,)``, 1 / counts.
    typical : float
        A typical value of u, for the steps; dimensionless.
    flux : numpy.ndarray or None
        F_i, counts, shape ``(n_elements,)``; None leaves the flux free.
    price : numpy.ndarray or None
        ν_i, shape ``(n_elements,)``, where the flux is free: the term Σ ν_i x_i of the
        objective stands for the lock of a larger image. None is 0.
    alpha : float or None
        Weight of the second order of TGV, pixels; None for TV.
    """

    data: np.ndarray
    background: np.ndarray
    pedestal: np.ndarray
    variance: np.ndarray | None
    haadf: np.ndarray
    haadf_precision: np.ndarray
    lambda_haadf: float
    coefficients: np.ndarray
    strength: np.ndarray
    typical: float
    flux: np.ndarray | None
    price: np.ndarray | None = None
    alpha: float | None = 0.5

    @property
    def poisson(self):
        """Whether the data are counts."""
        return self.variance is None

    @property
    def shape(self):
        """Pixels ``(y, x)``."""
        return self.haadf.shape

    @property
    def noise(self):
        """A typical standard deviation of u, dimensionless."""
        if self.poisson:  # typical = λ ⟨√s⟩ and strength = λ / √s give λ
            return np.sqrt(self.typical / np.mean(1 / self.strength))
        return np.sqrt(
            np.mean(self.strength**2 * np.nanmean(self.variance, axis=(1, 2)))
        )

    @cached_property
    def haadf_unit(self):
        """Unit of the HAADF image in the kernels: its median σ_h / √μ."""
        weight = self.lambda_haadf * self.haadf_precision
        used = weight > 0
        return 1 / np.sqrt(np.median(weight[used])) if used.any() else 1.0

    @property
    def scaled_price(self):
        """ν of u, shape ``(n_elements,)``."""
        if self.price is None:
            return np.zeros(len(self.data))
        return self.price / self.strength

    def scaled(self):
        """The problem in u = L x and h in its unit, as the kernels take it, float32."""
        unit = self.haadf_unit
        data = np.empty(self.data.shape, np.float32)
        precision = np.zeros((1, 1, 1) if self.poisson else data.shape, np.float32)
        for i, (image, strength) in enumerate(
            zip(self.data, self.strength, strict=True)
        ):
            if self.poisson:
                data[i] = image + self.pedestal[i]
            else:
                data[i] = image * strength
                precision[i] = 1 / (self.variance[i] * strength**2)
            missing = np.isnan(image)
            data[i][missing] = -1 if self.poisson else 0
            if not self.poisson:
                precision[i][missing] = 0
        offset = self.background + self.pedestal[:, None, None]
        offset = offset * self.strength[:, None, None]
        return {
            "data": data,
            "precision": precision,
            "poisson": self.poisson,
            "rate": (1 / self.strength).astype(np.float32),
            "offset": np.ascontiguousarray(offset, np.float32),
            "haadf": np.ascontiguousarray(self.haadf / unit, np.float32),
            "haadf_weight": np.ascontiguousarray(
                self.lambda_haadf * unit**2 * self.haadf_precision, np.float32
            ),
            "coefficients": (self.coefficients / (self.strength * unit)).astype(
                np.float32
            ),
        }


@dataclass(kw_only=True)
class State:
    """All that the iteration carries on; float32 but for the flux.

    Attributes
    ----------
    u : numpy.ndarray
        Scaled maps, shape ``(n_elements, y, x)``.
    v : numpy.ndarray
        Slopes, shape ``(2, n_elements, y, x)``.
    p, q : numpy.ndarray
        Duals of gradient and symmetrised gradient, shapes ``(2, n_elements, y, x)``
        and ``(3, n_elements, y, x)``.
    tension : numpy.ndarray
        Dual of the HAADF term, of the image in its unit, shape ``(y, x)``.
    flux_dual : numpy.ndarray
        Multipliers of the flux in each pixel, shape ``(n_elements,)``, float64.
    """

    u: np.ndarray
    v: np.ndarray
    p: np.ndarray
    q: np.ndarray
    tension: np.ndarray
    flux_dual: np.ndarray


def cold_start(problem, maps=None):
    """A state with zero duals at given maps (counts), by default the data."""
    if maps is None:
        maps = problem.data
        if problem.poisson:
            maps = maps - problem.background
        missing = np.isnan(maps)
        if missing.any():
            known = np.maximum((~missing).sum(axis=(1, 2), keepdims=True), 1)
            mean = np.nansum(maps, axis=(1, 2), keepdims=True) / known
            maps = np.where(missing, mean, maps)
    u = np.maximum(maps * problem.strength[:, None, None], 0)
    u = np.ascontiguousarray(u, np.float32)
    second = u.shape if problem.alpha is not None else (1, 1, 1)
    v = np.zeros((2, *second), np.float32)
    return State(
        u=u,
        v=v,
        p=np.zeros((2, *u.shape), np.float32),
        q=np.zeros((3, *second), np.float32),
        tension=np.zeros(problem.shape, np.float32),
        flux_dual=problem.scaled_price,
    )


class Iteration:
    """The primal-dual iteration of one problem.

    L. Condat, J. Optim. Theory Appl. 158, 460 (2013), algorithm 3.2 without smooth
    term: over-relaxed primal-dual splitting with the blocks

        K = [[gradient, -1], [0, E], [flux row, 0]]

    whose steps meet ‖Σ^½ K T^½‖ ≤ 1, by ‖gradient‖² ≤ 8 and ‖E‖² ≤ 8.
    """

    def __init__(self, problem, state, run):
        self.problem, self.state, self.run = problem, state, run
        self.scaled = problem.scaled()
        second_order = problem.alpha is not None
        flux_weight = 0.0 if problem.flux is None else _FLUX_WEIGHT
        operator = np.array(
            [
                [np.sqrt(8 + flux_weight**2), np.sqrt(_SLOPE_STEP) * second_order],
                [0, np.sqrt(8 * _SLOPE_STEP * _SLOPE_DUAL_STEP) * second_order],
            ]
        )
        self.norm = np.linalg.norm(operator, 2)
        self.second_order = second_order
        n_elements, n_y, n_x = state.u.shape
        blocks = blocks_of(state.u.shape)
        self.edges = np.array([0, *(stop for _, stop in blocks)])
        self.seams = empty_seams(blocks, n_elements, n_x)
        self.row_sums = np.empty((n_elements, n_y))
        # the flux row is flux_weight / √N, and its dual is kept times that
        self.flux_factor = flux_weight**2 / (n_y * n_x)
        self.balance(_PRIMAL_FIRST)

    def balance(self, ratio):
        """Choose primal steps large against dual ones, or small."""
        ratio *= np.sqrt(self.problem.typical * self.problem.noise)
        self.tau = ratio / self.norm
        self.sigma = 1 / (ratio * self.norm)

    def advance(self, n_iter=1, *, relaxation=_RELAXATION, settle=False):
        """Advance the state by some iterations.

        If they `settle`, the last is not over-relaxed: the maps are not negative
        afterwards, and the duals meet their bounds.
        """
        state, problem = self.state, self.problem
        locked = problem.flux is not None
        self.run.together(
            iterate,
            state.u,
            state.v,
            state.p,
            state.q,
            state.flux_dual,
            state.tension,
            *self.scaled.values(),
            np.float32(self.tau),
            np.float32(self.tau * _SLOPE_STEP),
            np.float32(self.sigma),
            np.float32(self.sigma * _SLOPE_DUAL_STEP),
            np.float32(problem.alpha or 1),
            self.second_order,
            problem.flux * problem.strength if locked else np.zeros(len(state.u)),
            self.sigma * self.flux_factor,
            np.float32(relaxation),
            np.float32(1 if settle else relaxation),
            n_iter,
            self.edges,
            self.row_sums,
            self.seams,
            most=len(self.edges) - 1,
        )


def with_flux(problem, u):
    """Maps in counts, float32, that meet the flux lock, from scaled ones."""
    maps = np.maximum(u, 0)
    factor, summand = flux_correction(problem, maps.sum(axis=(1, 2), dtype=np.float64))
    maps *= (factor / problem.strength).astype(np.float32)[:, None, None]
    maps += (summand / problem.strength).astype(np.float32)[:, None, None]
    return maps


def coarsen(problem):
    """The problem on pixels twice as large; its u is twice the fine one."""
    n_y, n_x = (size // 2 * 2 for size in problem.shape)

    def total(array):
        if array.shape[-2:] != problem.shape:
            return 4 * array  # one number for all pixels
        rows = array[..., 0:n_y:2, :n_x] + array[..., 1:n_y:2, :n_x]
        return rows[..., 0::2] + rows[..., 1::2]

    def present(array):
        missing = np.isnan(array)
        if not missing.any():
            return total(array)
        count = 4 - total(missing.astype(array.dtype))
        sums = 4 * total(np.where(missing, 0, array))
        with np.errstate(invalid="ignore"):  # NaN where all are missing
            return sums / count

    return replace(
        problem,
        data=present(problem.data),
        background=total(problem.background),
        pedestal=4 * problem.pedestal,
        variance=None if problem.variance is None else total(problem.variance),
        haadf=total(problem.haadf) / 4,
        # the noise of four pixels averages; their terms become one
        haadf_precision=total(problem.haadf_precision),
        coefficients=problem.coefficients / 4,
        strength=problem.strength / 2,
        typical=2 * problem.typical,
        alpha=None if problem.alpha is None else problem.alpha / 2,
    )


def prolong(state, problem, run):
    """A state of the fine problem from one of the coarse problem, which is used up."""

    def refine(coarse, factor=1.0):
        fine = np.empty((*coarse.shape[:-2], *problem.shape), np.float32)
        run(
            refine_rows,
            blocks_of((1, *problem.shape)),
            coarse.reshape(-1, *coarse.shape[-2:]),
            np.float32(factor),
            fine.reshape(-1, *problem.shape),
        )
        return fine

    def refine_field(coarse, factor=1.0):
        fine = refine(coarse, factor)
        fine[0, ..., -1, :] = 0  # where the gradient takes no difference
        fine[1, ..., :, -1] = 0
        return fine

    second_order = problem.alpha is not None
    fine = {}
    for name, factor in (("q", 2.0), ("v", 0.25), ("p", 1.0), ("u", 0.5)):
        coarse = getattr(state, name)
        if name in "qv" and not second_order:
            fine[name] = coarse
            continue
        fine[name] = (refine_field if name in "vp" else refine)(coarse, factor)
        setattr(state, name, None)  # whose memory the next one may need
        del coarse
    return State(
        **fine,
        tension=refine(state.tension, 0.5),
        flux_dual=state.flux_dual / 2,
    )


def warm_start(problem, run, n_iter=30):
    """Solve on ever finer pixels: what is smooth converges on the coarse ones."""
    if min(problem.shape) < 2 * _COARSEST:
        return cold_start(problem)
    coarse = coarsen(problem)
    state = warm_start(coarse, run, n_iter)
    Iteration(coarse, state, run).advance(n_iter, settle=True)
    del coarse  # before the fine state comes
    return prolong(state, problem, run)


def restart(state, old, new):
    """Turn a state of one problem into one of another with the same pixels, in place.

    Maps stay what they are in counts, so that u and v scale with the strength; p and q
    keep their bounds; the tension keeps its unit. Multipliers of a flux that was locked
    and is free now stay as its price.

    Parameters
    ----------
    state : State
        Of the old problem.
    old, new : Problem
        Problems that differ by weights, coefficients or offset.

    """
    ratio = new.strength / old.strength
    factor = ratio.astype(np.float32)[:, None, None]
    state.u *= factor
    if new.alpha is not None:
        state.v *= factor
    used = new.lambda_haadf > 0 and old.lambda_haadf > 0
    state.tension *= np.float32(new.haadf_unit / old.haadf_unit if used else 0)
    state.flux_dual /= ratio


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Where the iteration ended.

    Attributes
    ----------
    maps : numpy.ndarray
        x, counts, shape ``(n_elements, y, x)``, float32; they meet the flux lock.
    state : State
        The state, for a warm start.
    history : list of tuple
        ``(n_iter, (haadf, chemical, tv))`` at each certificate.
    gap : float
        Distance to the optimum at most, of the value of the objective.
    n_iter : int
        Iterations on the pixels of the problem.
    """

    maps: np.ndarray
    state: State
    history: list
    gap: float
    n_iter: int


def solve(problem, run, *, tolerance, max_iter, start=None, callback=None, window=None):
    """Solve a problem until its certificate meets the tolerance.

    Parameters
    ----------
    problem : Problem
        The problem.
    run : callable
        From :func:`~hyperspy_fusion.core.threads.workers`.
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
        Rows and columns of the pixels whose terms are returned, by default all.

    Returns
    -------
    Optimum
    """
    history, gap = [], np.inf
    if callback is not None:
        callback(0, gap)
    state = warm_start(problem, run) if start is None else start
    iteration = Iteration(problem, state, run)
    most = most_at_once(state.u.size)
    n_iter = 0
    while n_iter < max_iter:
        if n_iter == _FIRST and tolerance is not None:
            iteration.balance(_DUAL_THEN)
        stop = min(n_iter + most, max_iter)
        if tolerance is not None:
            stop = min(stop, (n_iter // CHECK_EVERY + 1) * CHECK_EVERY)
        check = stop == max_iter or (stop % CHECK_EVERY == 0 and tolerance is not None)
        iteration.advance(stop - n_iter, settle=check)
        n_iter = stop
        if check and tolerance is not None:
            terms, upper, lower = certificate(problem, state, run)
            # of the terms themselves: with a price the objective may be around 0
            value = problem.lambda_haadf * terms[0] + terms[1] + terms[2]
            gap = (upper - lower) / value if value > 0 else 0.0
            if window is not None:
                terms = terms_within(problem, state, *window, run)
            history.append((n_iter, terms))
        if callback is not None:
            callback(n_iter, gap)
        if tolerance is not None and gap <= tolerance:
            break
    del iteration  # its copy of the data goes before the maps come
    maps = with_flux(problem, state.u)
    return Optimum(maps=maps, state=state, history=history, gap=gap, n_iter=n_iter)


def common_price(problems, insides, flux, run, n_iter):
    """Multipliers of one flux lock of several problems.

    They are iterated side by side, as :func:`solve` does one, with the sums of all.

    Parameters
    ----------
    problems : list of Problem
        Parts of an image, with the same strengths.
    insides : list of tuple of slice
        Rows and columns of each that count for the flux, away from edges that are none
        of the image.
    flux : numpy.ndarray
        What the maps sum up to there, counts, shape ``(n_elements,)``.
    run : callable
        From :func:`~hyperspy_fusion.core.threads.workers`.
    n_iter : int
        Number of iterations.

    Returns
    -------
    numpy.ndarray
        ν_i, shape ``(n_elements,)``.
    """
    strength = problems[0].strength
    dual = np.zeros(len(strength))
    before = None
    n_pixels = 0

    def begin(problem, run):
        # the flux is that of all; it is only there so that the steps are small enough
        problem = replace(problem, flux=np.zeros(len(strength)))
        state = warm_start(replace(problem, flux=None), run)
        return Iteration(problem, state, run)

    def advance(task, _):
        iteration, inside = task
        iteration.state.flux_dual = dual.copy()
        iteration.advance()
        u = iteration.state.u[(slice(None), *inside)]
        return u.sum(axis=(1, 2), dtype=np.float64), u[0].size

    iterations = run.each(begin, problems)
    tasks = list(zip(iterations, insides, strict=True))
    for n in range(n_iter):
        if n == _FIRST:
            for iteration in iterations:
                iteration.balance(_DUAL_THEN)
        sums, sizes = zip(*run.each(advance, tasks), strict=True)
        sums, n_pixels = np.sum(sums, axis=0), sum(sizes)
        bar = sums if before is None else 2 * sums - before
        before = sums
        step = iterations[0].sigma * _FLUX_WEIGHT**2 / n_pixels
        dual = dual + _RELAXATION * step * (bar - flux * strength)
    return dual * strength
