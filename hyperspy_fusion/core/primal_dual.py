r"""The calibrated method: a convex problem in counts, solved to a certified gap.

.. math::

    \min_{x ≥ 0} \sum_i \sum_r [x_i - (b_i + δ_i) \log(x_i + β_i + δ_i)]
    + \tfrac12 \sum_r w (h - o - \sum_i c_i x_i)^2
    + TGV_α^2(L_i x_i) \quad \text{subject to } \sum_r x_i = F_i

with w = μ / σ_h² and L_i = λ / √s_i. The unknowns of the solver are u_i = L_i x_i.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import correlate1d
from scipy.special import kl_div

from .kernels import dual_step_rows, primal_step_rows, row_blocks
from .total_variation import (
    gradient,
    gradient_adjoint,
    inner,
    joint_norm,
    symmetrised_gradient_adjoint,
    total_generalised_variation,
)

__all__ = ["Optimum", "Problem", "State", "certificate", "solve", "warm_start"]

# Over-relaxation of the primal-dual iteration (L. Condat, J. Optim. Theory Appl. 158,
# 460 (2013)); below 2.
_RELAXATION = 1.9
# Steps of the slopes against those of the maps, of their duals against those of the
# gradient, and the weight of the flux row: found by the fewest iterations to a gap of
# 1e-3 on the simulated specimens.
_SLOPE_STEP = 2.0
_SLOPE_DUAL_STEP = 0.5
_FLUX_WEIGHT = 2.0
# Balance of primal against dual steps, of the typical value of u.
_STEP_RATIO = 0.4
_COARSEST = 16  # pixels
# Where the flux is free, the certificate compares with maps of up to so many times
# the flux found.
_MOST_FLUX = 2.0
_ROUNDING = 1e-12
CHECK_EVERY = 50  # iterations between two certificates


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
    alpha: float | None = 0.5

    @property
    def poisson(self):
        """Whether the data are counts."""
        return self.variance is None

    @property
    def haadf_weight(self):
        """Weight w = μ / σ_h² of the HAADF term, shape ``(y, x)``."""
        return self.lambda_haadf * self.haadf_precision

    @property
    def shape(self):
        """Pixels ``(y, x)``."""
        return self.haadf.shape

    @property
    def haadf_unit(self):
        """Unit of the HAADF image in the kernels: its median σ_h / √μ."""
        weight = self.haadf_weight
        used = weight > 0
        return 1 / np.sqrt(np.median(weight[used])) if used.any() else 1.0

    def scaled(self):
        """The problem in u = L x and h in its unit, as the kernels take it, float32."""
        unit = self.haadf_unit
        strength = self.strength[:, None, None]
        missing = np.isnan(self.data)
        if self.poisson:
            data = np.where(missing, -1, self.data + self.pedestal[:, None, None])
            precision = np.zeros((1, 1, 1))
        else:
            data = np.where(missing, 0, self.data) * strength
            precision = np.where(missing, 0, 1 / (self.variance * strength**2))
        offset = (self.background + self.pedestal[:, None, None]) * strength
        return {
            "data": np.ascontiguousarray(data, np.float32),
            "precision": np.ascontiguousarray(precision, np.float32),
            "poisson": self.poisson,
            "rate": (1 / self.strength).astype(np.float32),
            "pedestal": np.ascontiguousarray(offset, np.float32),
            "haadf": np.ascontiguousarray(self.haadf / unit, np.float32),
            "haadf_weight": np.ascontiguousarray(
                self.haadf_weight * unit**2, np.float32
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
    u, u_bar : numpy.ndarray
        Scaled maps and their extrapolation, shape ``(n_elements, y, x)``.
    v, v_bar : numpy.ndarray
        Slopes and their extrapolation, shape ``(2, n_elements, y, x)``.
    p, q : numpy.ndarray
        Duals of gradient and symmetrised gradient, shapes ``(2, n_elements, y, x)``
        and ``(3, n_elements, y, x)``.
    tension : numpy.ndarray
        Dual of the HAADF term, of the image in its unit, shape ``(y, x)``.
    flux_dual : numpy.ndarray
        Multipliers of the flux in each pixel, shape ``(n_elements,)``, float64.
    """

    u: np.ndarray
    u_bar: np.ndarray
    v: np.ndarray
    v_bar: np.ndarray
    p: np.ndarray
    q: np.ndarray
    tension: np.ndarray
    flux_dual: np.ndarray

    def maps(self):
        """The scaled maps u ≥ 0 that the last prox gave, before over-relaxation."""
        return np.maximum(_before_relaxation(self.u, self.u_bar), 0)

    def slopes(self):
        """The slopes v that belong to :meth:`maps`."""
        return _before_relaxation(self.v, self.v_bar)


def _before_relaxation(new, bar):
    # new = old + ρ (z - old) and bar = 2 z - old
    return (new + (1 - _RELAXATION) * bar.astype(np.float64)) / (2 - _RELAXATION)


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
        u_bar=u.copy(),
        v=v,
        v_bar=v.copy(),
        p=np.zeros((2, *u.shape), np.float32),
        q=np.zeros((3, *second), np.float32),
        tension=np.zeros(problem.shape, np.float32),
        flux_dual=np.zeros(len(u)),
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
        norm = np.linalg.norm(operator, 2)
        ratio = _STEP_RATIO * problem.typical
        self.tau = ratio / norm
        self.sigma = 1 / (ratio * norm)
        self.second_order = second_order
        n_elements, n_y, n_x = state.u.shape
        self.row_sums = np.empty((n_elements, n_y))
        self.blocks = row_blocks(n_y, 0, 4 * n_x * n_elements * 16)
        # the flux row is flux_weight / √N, and its dual is kept times that
        self.flux_step = self.sigma * flux_weight**2 / (n_y * n_x)
        self.sums = state.u_bar.sum(axis=(1, 2), dtype=np.float64)

    def step(self):
        """Advance the state by one iteration."""
        state, problem = self.state, self.problem
        if problem.flux is not None:
            excess = self.sums - problem.flux * problem.strength
            state.flux_dual += _RELAXATION * self.flux_step * excess
        self.run(
            dual_step_rows,
            self.blocks,
            state.u_bar,
            state.v_bar,
            state.p,
            state.q,
            np.float32(self.sigma),
            np.float32(self.sigma * _SLOPE_DUAL_STEP),
            np.float32(problem.alpha or 1),
            np.float32(_RELAXATION),
            self.second_order,
        )
        self.run(
            primal_step_rows,
            self.blocks,
            state.u,
            state.u_bar,
            state.v,
            state.v_bar,
            state.p,
            state.q,
            state.flux_dual.astype(np.float32),
            state.tension,
            *self.scaled.values(),
            np.float32(self.tau),
            np.float32(self.tau * _SLOPE_STEP),
            np.float32(_RELAXATION),
            self.second_order,
            self.row_sums,
        )
        self.sums = self.row_sums.sum(axis=1)


def with_flux(problem, u):
    """Scale maps so that they meet the flux lock exactly."""
    if problem.flux is None:
        return u
    sums = u.sum(axis=(1, 2), keepdims=True)
    wanted = (problem.flux * problem.strength)[:, None, None]
    return np.where(sums > 0, u, 1) * (wanted / np.where(sums > 0, sums, u[0].size))


def data_terms(problem, u):
    """The chemical and the unweighted HAADF term at scaled maps, float64.

    The chemical term is half the deviance, at least 0: it differs from the objective
    by a constant of the data.
    """
    x = u / problem.strength[:, None, None]
    if problem.poisson:
        offset = problem.background + problem.pedestal[:, None, None]
        b = problem.data + problem.pedestal[:, None, None]
        chemical = kl_div(b, x + offset)
    else:
        chemical = (x - problem.data) ** 2 / (2 * problem.variance)
    misfit = problem.haadf - np.tensordot(problem.coefficients, x, axes=1)
    return (
        float(np.nansum(chemical)),
        float(0.5 * np.sum(problem.haadf_precision * misfit**2)),
    )


def certificate(problem, state):
    """Primal and dual value of the objective: honest bounds of the optimum.

    The primal value is that of maps that meet all constraints. The dual point is
    p = E* q, scaled down until ‖p‖ ≤ 1 and ‖q‖ ≤ α hold everywhere, with the HAADF
    dual chosen anew in each pixel; any such point bounds the optimum from below.

    Parameters
    ----------
    problem : Problem
        The problem.
    state : State
        Where the iteration stands.

    Returns
    -------
    terms : tuple of float
        HAADF term without its weight, chemical and TGV term at the maps.
    upper, lower : float
        The objective at the maps, and a bound that no maps can go below.
    """
    u = with_flux(problem, state.maps())
    chemical, haadf = data_terms(problem, u)
    if problem.alpha is None:
        tv = float(joint_norm(gradient(u)).sum())
        p = inner(state.p)
        excess = joint_norm(p).max()
    else:
        tv = total_generalised_variation(u, state.slopes(), problem.alpha)
        q = state.q.astype(np.float64)
        p = inner(symmetrised_gradient_adjoint(q))
        excess = max(joint_norm(p).max(), joint_norm(q).max() / problem.alpha)
    shrink = 1 / max(1.0, excess)
    pull = gradient_adjoint(shrink * p)
    if problem.flux is None:
        most = _MOST_FLUX * u.sum(axis=(1, 2))
        lower = 0.0
    else:
        most = problem.flux * problem.strength
        pull += shrink * state.flux_dual[:, None, None]
        lower = -float(shrink * state.flux_dual @ most)
    tension = state.tension / problem.haadf_unit
    lower += dual_value(problem, pull, tension, most)
    upper = problem.lambda_haadf * haadf + chemical + tv
    return (haadf, chemical, tv), upper, lower


def dual_value(problem, pull, tension, most):
    r"""Least value of the data terms plus a linear one, from below.

    .. math::

        \min_{u ≥ 0} D(u) + \tfrac w2 (h - k u)^2 + ⟨g, u⟩
        = \max_s -\tfrac{s^2}{2 w} - s h + \min_{u ≥ 0} D(u) + ⟨g + k s, u⟩

    Any s gives a bound, so the tension of the iteration is only polished by a few
    Newton steps. Where nothing else holds a pixel, as where it is missing, its slope
    must not be negative: g is raised by as much, which costs that times the sum of u.

    Parameters
    ----------
    problem : Problem
        The problem.
    pull : numpy.ndarray
        g, of u, shape ``(n_elements, y, x)``.
    tension : numpy.ndarray
        A first s, shape ``(y, x)``.
    most : numpy.ndarray
        Largest sum of u, shape ``(n_elements,)``.

    Returns
    -------
    float
        The bound, for all u up to that sum.
    """
    conjugate = _PoissonConjugate if problem.poisson else _GaussianConjugate
    terms = conjugate(problem)
    k = (problem.coefficients / problem.strength)[:, None, None]
    weight = problem.haadf_weight
    used = weight > 0
    slope = pull + terms.rate
    # g + k s has to stay above this, by which it may be above without cost
    least = np.where(terms.bounded, -np.inf, _ROUNDING * (terms.scale + abs(slope)))
    lift = np.where(used & (k > 0), 0, least - slope).max(axis=(1, 2)).clip(0)
    slope += lift[:, None, None]

    with np.errstate(divide="ignore", invalid="ignore"):
        floor = np.where(k > 0, (least - slope) / k, -np.inf).max(axis=0)
    s = np.where(used, np.maximum(tension, floor), 0.0)
    for _ in range(20):
        u, response = terms.minimiser(slope + k * s)
        balance = s + weight * (problem.haadf - (k * u).sum(axis=0))
        curvature = 1 + weight * (k**2 * response).sum(axis=0)
        s = np.where(used, np.maximum(s - balance / curvature, (s + floor) / 2), 0.0)
    own = s**2 / (2 * np.where(used, weight, 1)) + s * problem.haadf
    return float(terms.value(slope + k * s).sum() - own.sum() - lift @ most)


class _PoissonConjugate:
    """Least value of D(u) + ⟨a, u⟩ over u ≥ 0, Poisson; the rate of D is part of a."""

    def __init__(self, problem):
        strength = problem.strength[:, None, None]
        pedestal = problem.pedestal[:, None, None]
        missing = np.isnan(problem.data)
        self.b = np.where(missing, 0, problem.data + pedestal)
        self.offset = np.where(missing, 0, problem.background + pedestal)
        self.strength = strength
        self.scale = 1 / strength
        self.rate = np.where(missing, 0, self.scale)
        self.bounded = np.zeros_like(missing)

    def minimiser(self, slope):
        """The minimising u and minus its derivative by the slope, a > 0."""
        u = np.maximum(self.b / slope - self.offset * self.strength, 0)
        return u, np.where(u > 0, self.b / slope**2, 0)

    def value(self, slope):
        u, _ = self.minimiser(slope)
        deviance = kl_div(self.b, u / self.strength + self.offset)
        return np.where(self.rate > 0, deviance, 0) + (slope - self.rate) * u


class _GaussianConjugate:
    """Least value of D(u) + ⟨a, u⟩ over u ≥ 0, for values with Gaussian noise."""

    rate = 0

    def __init__(self, problem):
        strength = problem.strength[:, None, None]
        missing = np.isnan(problem.data)
        self.values = np.where(missing, 0, problem.data) * strength
        self.precision = np.where(missing, 0, 1 / (problem.variance * strength**2))
        self.variance = np.where(missing, 0, problem.variance * strength**2)
        self.scale = 1 / strength
        self.bounded = ~missing

    def minimiser(self, slope):
        """The minimising u and minus its derivative by the slope."""
        u = np.maximum(self.values - self.variance * slope, 0)
        return u, np.where(u > 0, self.variance, 0)

    def value(self, slope):
        u, _ = self.minimiser(slope)
        return self.precision * (u - self.values) ** 2 / 2 + slope * u


def coarsen(problem):
    """The problem on pixels twice as large; its u is twice the fine one."""

    def pool(array, how):
        if array.shape[-2:] != problem.shape:
            return array  # one number for all pixels
        n_y, n_x = (size // 2 * 2 for size in problem.shape)
        array = array[..., :n_y, :n_x]
        return how(array.reshape(*array.shape[:-2], n_y // 2, 2, n_x // 2, 2))

    def total(blocks):
        return 4 * blocks.mean(axis=(-3, -1))

    def present(blocks):
        found = np.isfinite(blocks)
        count = found.sum(axis=(-3, -1))
        sums = np.where(found, blocks, 0).sum(axis=(-3, -1))
        return np.where(count > 0, 4 * sums / np.maximum(count, 1), np.nan)

    per_pixel = problem.background.shape[-2:] == problem.shape
    background = problem.background
    variance = problem.variance
    if variance is not None:
        per_value = variance.shape[-2:] == problem.shape
        variance = pool(variance, total) if per_value else 4 * variance
    return replace(
        problem,
        data=pool(problem.data, present),
        background=pool(background, total) if per_pixel else 4 * background,
        pedestal=4 * problem.pedestal,
        variance=variance,
        haadf=pool(problem.haadf, total) / 4,
        # the noise of four pixels averages; their terms become one
        haadf_precision=pool(problem.haadf_precision, total),
        coefficients=problem.coefficients / 4,
        strength=problem.strength / 2,
        typical=2 * problem.typical,
        alpha=None if problem.alpha is None else problem.alpha / 2,
    )


def prolong(state, problem):
    """A state of the fine problem from one of the coarse problem."""
    shape = problem.shape

    def refine(array):
        array = array.repeat(2, axis=-2).repeat(2, axis=-1)
        missing = [(0, 0)] * (array.ndim - 2)
        missing += [(0, shape[k] - array.shape[k - 2]) for k in (0, 1)]
        array = np.pad(array, missing, mode="edge")
        for axis in (-2, -1):
            array = correlate1d(array, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
        return array.astype(np.float32)

    second = problem.alpha is not None
    u = refine(state.maps() / 2)
    v = inner(refine(state.slopes() / 4)) if second else state.v
    return State(
        u=u,
        u_bar=u.copy(),
        v=v,
        v_bar=v.copy(),
        p=inner(refine(state.p)),
        q=refine(2 * state.q) if second else state.q,
        tension=refine(state.tension / 2),
        flux_dual=state.flux_dual / 2,
    )


def warm_start(problem, run, n_iter=60):
    """Solve on ever finer pixels: what is smooth converges on the coarse ones."""
    if min(problem.shape) < 2 * _COARSEST:
        return cold_start(problem)
    coarse = coarsen(problem)
    iteration = Iteration(coarse, warm_start(coarse, run, n_iter), run)
    for _ in range(n_iter):
        iteration.step()
    return prolong(iteration.state, problem)


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Where the iteration ended.

    Attributes
    ----------
    maps : numpy.ndarray
        x, counts, shape ``(n_elements, y, x)``, float64; they meet the flux lock.
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


def solve(problem, run, *, tolerance, max_iter, start=None, callback=None):
    """Solve a problem until its certificate meets the tolerance.

    Parameters
    ----------
    problem : Problem
        The problem.
    run : callable
        From :func:`~hyperspy_fusion.core.kernels.workers`.
    tolerance : float or None
        Largest relative gap; None runs `max_iter` iterations without a certificate.
    max_iter : int
        Largest number of iterations.
    start : State, optional
        Where to start, by default :func:`warm_start`. It is modified.
    callback : callable, optional
        ``callback(n_iter, gap)`` at each certificate.

    Returns
    -------
    Optimum
    """
    state = warm_start(problem, run) if start is None else start
    iteration = Iteration(problem, state, run)
    history, gap = [], np.inf
    for n_iter in range(1, max_iter + 1):
        iteration.step()
        if tolerance is None or (n_iter % CHECK_EVERY and n_iter < max_iter):
            continue
        terms, upper, lower = certificate(problem, state)
        gap = (upper - lower) / upper if upper > 0 else 0.0
        history.append((n_iter, terms))
        if callback is not None:
            callback(n_iter, gap)
        if gap <= tolerance:
            break
    maps = with_flux(problem, state.maps()) / problem.strength[:, None, None]
    return Optimum(maps=maps, state=state, history=history, gap=gap, n_iter=n_iter)
