from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from hyperspy_fusion.core import kernels, primal_dual
from hyperspy_fusion.core.primal_dual import (
    Iteration,
    Problem,
    State,
    certificate,
    coarsen,
    cold_start,
    data_terms,
    dual_value,
    prolong,
    solve,
    warm_start,
    with_flux,
)
from hyperspy_fusion.core.total_variation import (
    gradient,
    inner,
    joint_norm,
    total_generalised_variation,
)


def make_problem(
    shape=(18, 23),
    n_elements=2,
    *,
    counts=4.0,
    poisson=True,
    lambda_tv=2.0,
    missing=0.0,
    flux=True,
    seed=0,
    **changes,
):
    """Smooth random specimens, measured."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.uniform(0, 1, (n_elements, *shape)), (0, 2, 2))
    truth *= counts / truth.mean()
    coefficients = rng.uniform(1, 4, n_elements)
    haadf = np.tensordot(coefficients, truth, 1)
    sigma = 0.02 * haadf.mean() * rng.uniform(0.5, 2, shape)
    haadf += sigma * rng.normal(size=shape)
    if poisson:
        variance = None
        data = rng.poisson(truth).astype(float)
        scale = np.maximum(data.mean(axis=(1, 2)), 1e-3)
    else:
        variance = counts * rng.uniform(0.5, 2, truth.shape)
        data = truth + np.sqrt(variance) * rng.normal(size=truth.shape)
        scale = variance.mean(axis=(1, 2))
    sums = np.maximum(data.sum(axis=(1, 2)), 0)
    data[rng.random(data.shape) < missing] = np.nan
    strength = lambda_tv / np.sqrt(scale)
    problem = Problem(
        data=data,
        background=np.zeros((n_elements, 1, 1)),
        pedestal=0.2 * scale,
        variance=variance,
        haadf=haadf,
        haadf_precision=1 / sigma**2,
        lambda_haadf=0.1,
        coefficients=coefficients,
        strength=strength,
        typical=float(np.mean(strength * truth.mean(axis=(1, 2)))),
        flux=sums if flux else None,
    )
    return replace(problem, **changes)


def without_element(problem, i):
    """The problem with the map of one element empty."""
    data, pedestal, strength = (
        array.copy() for array in (problem.data, problem.pedestal, problem.strength)
    )
    data[i], pedestal[i], strength[i] = 0, 0, strength[i] * 30
    flux = problem.flux
    if flux is not None:
        flux = np.where(np.arange(len(flux)) == i, 0, flux)
    return replace(problem, data=data, pedestal=pedestal, strength=strength, flux=flux)


def optimum(problem, tolerance=1e-5, max_iter=5000, **options):
    with kernels.workers(1) as run:
        return solve(problem, run, tolerance=tolerance, max_iter=max_iter, **options)


def objective(problem, maps, slopes):
    """Value at maps in counts and scaled slopes: data terms and total variation."""
    known = np.isfinite(problem.data)
    data = np.where(known, problem.data, 0)
    if problem.poisson:
        pedestal = problem.pedestal[:, None, None]
        expected = maps + problem.background + pedestal
        b = data + pedestal
        ratio = np.where(b > 0, expected / np.where(b > 0, b, 1), 1)
        chemical = expected - b - b * np.log(ratio)
    else:
        chemical = (maps - data) ** 2 / (2 * problem.variance)
    misfit = problem.haadf - np.tensordot(problem.coefficients, maps, 1)
    u = maps * problem.strength[:, None, None]
    if problem.alpha is None:
        variation = joint_norm(gradient(u)).sum()
    else:
        variation = total_generalised_variation(u, slopes, problem.alpha)
    return (
        chemical[known].sum()
        + problem.lambda_haadf * np.sum(problem.haadf_precision * misfit**2) / 2
        + variation
    )


def value(problem, optimum):
    slopes = optimum.state.slopes() if problem.alpha is not None else None
    return objective(problem, optimum.maps, slopes)


PROBLEMS = {
    "poisson": {},
    "gaussian": {"poisson": False},
    "tv": {"alpha": None},
    "free flux": {"flux": False},
    "no haadf": {"lambda_haadf": 0.0},
    "missing": {"missing": 0.2},
    "missing, no haadf": {"missing": 0.2, "lambda_haadf": 0.0},
    "missing, free, no haadf": {"missing": 0.1, "lambda_haadf": 0.0, "flux": False},
    "missing values": {"missing": 0.2, "poisson": False, "lambda_haadf": 0.0},
    "gaussian tv": {"poisson": False, "alpha": None, "flux": False},
    "background": {"background": np.array([[[0.5]], [[2.0]]])},
    "one element": {"n_elements": 1},
    "twelve elements": {"n_elements": 12, "shape": (9, 10)},
    "one row": {"shape": (1, 90)},
    "one column": {"shape": (90, 1)},
    "few counts": {"counts": 0.05},
    "many counts": {"counts": 1e4},
    "no coefficients": {"coefficients": np.zeros(2)},
}
each_problem = pytest.mark.parametrize("options", PROBLEMS.values(), ids=PROBLEMS)


# The proximal map


def pure_prox(problem, start, tau):
    """The primal step without duals and relaxation, from `start` (scaled)."""
    n_elements, n_y, n_x = start.shape
    u = start.astype(np.float32)
    nothing = np.zeros((3, n_elements, n_y, n_x), np.float32)
    second_order = False
    kernels.primal_step_rows(
        u,
        np.empty_like(u),
        nothing[:2],
        nothing[:2],
        nothing[:2],
        nothing,
        np.zeros(n_elements, np.float32),
        np.zeros((n_y, n_x), np.float32),
        *problem.scaled().values(),
        np.float32(tau),
        np.float32(tau),
        np.float32(1),
        second_order,
        np.empty((n_elements, n_y)),
        0,
        n_y,
    )
    return u


def pixel_terms(problem, y, x):
    """Data terms of one pixel as a function of scaled u, with gradient."""
    strength, c = problem.strength, problem.coefficients
    b = problem.data[:, y, x]
    known = np.isfinite(b)
    b = np.where(known, b, 0)
    weight = problem.lambda_haadf * problem.haadf_precision[y, x]

    def terms(u):
        counts = u / strength
        if problem.poisson:
            offset = problem.background[:, 0, 0] + problem.pedestal
            b_all = b + problem.pedestal
            each = counts - b_all * np.log(counts + offset)
            slope = 1 - b_all / (counts + offset)
        else:
            variance = problem.variance[:, y, x]
            each = (counts - b) ** 2 / (2 * variance)
            slope = (counts - b) / variance
        misfit = problem.haadf[y, x] - c @ counts
        total = each[known].sum() + weight * misfit**2 / 2
        return total, (np.where(known, slope, 0) - weight * misfit * c) / strength

    return terms


def least(function, start):
    """Brute force: minimum over u >= 0 of a function with gradient."""
    best = None
    for method in ("L-BFGS-B", "SLSQP", "L-BFGS-B"):  # neither succeeds always
        found = minimize(
            function,
            start,
            jac=True,
            bounds=[(0, None)] * len(start),
            method=method,
            options={"maxiter": 500, "ftol": 1e-15},
        )
        if best is None or found.fun < best.fun:
            best, start = found, found.x
    return best.x, best.fun


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    n_elements=st.integers(1, 4),
    poisson=st.booleans(),
    lambda_haadf=st.sampled_from([0.0, 0.03, 1.0]),
    counts=st.sampled_from([0.1, 3.0, 100.0]),
    tau=st.sampled_from([0.03, 1.0, 30.0]),
)
def test_prox_against_brute_force(seed, n_elements, poisson, lambda_haadf, counts, tau):
    problem = make_problem(
        (1, 3),
        n_elements,
        counts=counts,
        poisson=poisson,
        missing=0.2,
        seed=seed,
        lambda_haadf=lambda_haadf,
    )
    rng = np.random.default_rng(seed)
    start = problem.typical * rng.normal(1, 2, (n_elements, 1, 3))
    start = start.astype(np.float32).astype(float)
    found = pure_prox(problem, start, tau).astype(float)
    assert found.min() >= 0
    for x in range(3):
        terms, near = pixel_terms(problem, 0, x), start[:, 0, x]

        def moreau(u, terms=terms, near=near):
            total, slope = terms(u)
            away = (u - near) / tau
            return total + tau * np.sum(away**2) / 2, slope + away

        expected, _ = least(moreau, np.maximum(near, 0.1))
        size = 1 + np.abs(near).max() + expected.max()
        assert_allclose(found[:, 0, x], expected, atol=2e-4 * size)


def test_prox_of_known_numbers():
    # One element of unit strength without HAADF image; a missing pixel stays
    problem = make_problem(
        (1, 3),
        1,
        lambda_haadf=0.0,
        data=np.array([[[5.0, np.nan, 0.0]]]),
        pedestal=np.ones(1),
        strength=np.ones(1),
    )
    found = pure_prox(problem, np.array([[[4.0, 7.0, -9.0]]]), 1.0)
    # u - 4 + 1 - 6 / (u + 1) = 0
    assert_allclose(found[0, 0], [1 + np.sqrt(10), 7, 0], rtol=1e-6)
    gaussian = replace(problem, variance=np.full((1, 1, 3), 0.5))
    found = pure_prox(gaussian, np.array([[[4.0, 7.0, -9.0]]]), 1.0)
    assert_allclose(found[0, 0], [(4 + 2 * 5) / 3, 7, 0], rtol=1e-6)


# The certificate


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    poisson=st.booleans(),
    lambda_haadf=st.sampled_from([0.0, 0.1, 1.0]),
    n_elements=st.integers(1, 3),
)
def test_dual_value_is_the_least_of_each_pixel(seed, poisson, lambda_haadf, n_elements):
    problem = make_problem(
        (2, 2), n_elements, poisson=poisson, seed=seed, lambda_haadf=lambda_haadf
    )
    rng = np.random.default_rng(seed)
    rate = 1 / problem.strength[:, None, None]
    pull = rate * rng.uniform(-0.5, 2, (n_elements, 2, 2))
    expected = 0
    for y in range(2):
        for x in range(2):
            terms, g = pixel_terms(problem, y, x), pull[:, y, x]

            def tilted(u, terms=terms, g=g):
                total, slope = terms(u)
                return total + g @ u, slope + g

            start = np.maximum(problem.data[:, y, x] * problem.strength, 0.1)
            expected += least(tilted, start)[1]
    if poisson:  # the chemical term is counted from that of the data
        b = problem.data + problem.pedestal[:, None, None]
        offset = problem.background + problem.pedestal[:, None, None]
        expected += np.sum(b * np.log(b) - b + offset)
    most = np.full(n_elements, 1e9)
    found = dual_value(problem, pull, np.zeros((2, 2)), most)
    assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    # any tension will do, but it may take more steps
    other = dual_value(problem, pull, rng.normal(size=(2, 2)), most)
    assert other <= expected + 1e-6 * abs(expected) + 1e-6


def random_state(problem, rng):
    state = cold_start(problem)
    for name in ("u", "u_bar", "v", "v_bar", "p", "q", "tension"):
        array = getattr(state, name)
        array += rng.normal(0, 0.5, array.shape).astype(np.float32)
    state.v, state.v_bar = inner(state.v), inner(state.v_bar)
    state.flux_dual += rng.normal(0, 0.3, state.flux_dual.shape)
    return state


@each_problem
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_no_maps_are_below_the_bound(options, seed):
    problem = make_problem(**{"shape": (7, 8), "missing": 0, **options}, seed=seed)
    rng = np.random.default_rng(seed)
    state = random_state(problem, rng)
    terms, upper, bound = certificate(problem, state)
    assert np.isfinite(bound)
    weighted = (problem.lambda_haadf, 1, 1) @ np.array(terms)
    assert_allclose(upper, weighted, rtol=1e-12)
    assert bound <= upper
    start = np.maximum(cold_start(problem).u, 0.1).astype(float)
    for _ in range(5):
        u = with_flux(problem, start * rng.uniform(0, rng.uniform(0.2, 2), start.shape))
        maps = u / problem.strength[:, None, None]
        slopes = rng.choice([0, 0.5, 1]) * gradient(u)
        assert bound <= objective(problem, maps, slopes) * (1 + 1e-12)


@each_problem
def test_solution_meets_its_certificate(options):
    problem = make_problem(**options)
    gaps = []
    found = optimum(problem, 3e-5, callback=lambda _, gap: gaps.append(gap))
    assert found.gap == gaps[-1] <= 3e-5
    assert found.n_iter == 50 * len(gaps) == found.history[-1][0]
    assert gaps[-1] <= min(gaps)
    # the certificate tells the objective of the maps that are returned
    (terms, upper, bound) = certificate(problem, found.state)
    assert_allclose(terms, found.history[-1][1])
    assert_allclose(upper, value(problem, found), rtol=1e-9)
    assert_allclose((upper - bound) / upper, found.gap)
    assert found.maps.min() >= 0
    if problem.flux is not None:
        assert_allclose(found.maps.sum(axis=(1, 2)), problem.flux, rtol=1e-12)


@each_problem
def test_early_claims_hold_in_the_long_run(options):
    problem = make_problem(**options)
    long = value(problem, optimum(problem, None, 2000))
    state, claims = cold_start(problem), []
    for n_iter in (1, 3, 10, 30, 100, 300):
        state = optimum(problem, None, n_iter, start=state).state
        _, upper, bound = certificate(problem, state)
        claims.append(upper - bound)
        assert bound <= long
        assert upper - long <= upper - bound
    assert claims[-1] < 0.1 * claims[0]


@pytest.mark.parametrize("lambda_haadf", [0.0, 0.1])
@pytest.mark.parametrize("flux", [True, False])
@pytest.mark.parametrize("alpha", [0.5, None])
def test_empty_element(lambda_haadf, flux, alpha):
    problem = make_problem(flux=flux, lambda_haadf=lambda_haadf, alpha=alpha)
    found = optimum(without_element(problem, 1), 1e-4)
    assert found.gap <= 1e-4
    if flux or not lambda_haadf:
        assert_allclose(found.maps[1], 0, atol=1e-5)
    assert np.isfinite(found.maps).all()


def test_missing_pixels_are_filled_by_their_surroundings():
    problem = make_problem(counts=200.0, lambda_haadf=0.0)
    data = problem.data.copy()
    truth = data[0, 8:11, 9:12].mean()
    data[:, 8:11, 9:12] = np.nan
    found = optimum(replace(problem, data=data), 1e-4)
    assert_allclose(found.maps[0, 8:11, 9:12], truth, rtol=0.1)


@pytest.mark.parametrize("poisson", [True, False])
def test_all_missing_map_follows_the_image(poisson):
    problem = make_problem(poisson=poisson, flux=False, counts=100.0, lambda_haadf=1.0)
    data = problem.data.copy()
    data[1] = np.nan
    found = optimum(replace(problem, data=data), 1e-4)
    assert found.gap <= 1e-4
    assert_allclose(
        np.tensordot(problem.coefficients, found.maps, 1).mean(),
        problem.haadf.mean(),
        rtol=0.01,
    )


# An independent reference


def dense(operator, shape):
    """Matrix of a linear operator on arrays of a shape."""
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.stack([operator(unit).ravel() for unit in units], axis=1)


def differences(image):
    """Forward differences of the mirrored image."""
    padded = np.pad(image, [(0, 1), (0, 1)], mode="edge")
    return np.stack([np.diff(padded, axis=0)[:, :-1], np.diff(padded, axis=1)[:-1]])


def bends(field):
    """Backward differences of a mirrored field; the Euclidean norm is that of E v."""
    (y_y, y_x), (x_y, x_x) = (
        (
            np.diff(np.pad(v, [(1, 0), (0, 0)], mode=along_y), axis=0),
            np.diff(np.pad(v, [(0, 0), (1, 0)], mode=along_x), axis=1),
        )
        for v, along_y, along_x in zip(
            inner(field), ("constant", "edge"), ("edge", "constant"), strict=True
        )
    )
    return np.stack([y_y, x_x, (y_x + x_y) / np.sqrt(2)])


def shrunk(field, threshold):
    """Prox of the joint norm; shape (elements, components * pixels)."""
    parts = field.reshape(len(field), -1, 42)
    norm = np.sqrt((parts**2).sum(axis=(0, 1)))
    factor = 1 - np.minimum(threshold / np.maximum(norm, 1e-300), 1)
    return (parts * factor).reshape(field.shape)


def chemical_prox(problem, t, rho):
    """Prox of the chemical term alone; shape (elements, pixels)."""
    data = problem.data.reshape(t.shape)
    strength = problem.strength[:, None]
    if problem.poisson:
        b = data + problem.pedestal[:, None]
        offset = (problem.background[:, 0] + problem.pedestal[:, None]) * strength
        middle = rho * (t + offset) - 1 / strength
        root = np.sqrt(middle**2 + 4 * rho * b)
        return np.maximum((middle + root) / (2 * rho) - offset, 0)
    precision = 1 / (problem.variance.reshape(t.shape) * strength**2)
    return np.maximum((precision * data * strength + rho * t) / (precision + rho), 0)


def reference(problem, n_iter=4000, rho=0.3):
    """Alternating directions in float64: dense matrices, one linear solve a step.

    The unknowns (u, v) of all elements meet copies of u, of ∇u - v and of E v, which
    carry the data terms and the norms; the HAADF term and the flux are in the solve.
    """
    n_elements, n_y, n_x = problem.data.shape
    n = n_y * n_x
    strength = problem.strength[:, None]
    tv_only = problem.alpha is None
    grad, bend = dense(differences, (n_y, n_x)), dense(bends, (2, n_y, n_x))
    one = np.hstack([np.eye(n), np.zeros((n, 2 * n))])
    first = np.hstack([grad, np.zeros((2 * n, 2 * n)) if tv_only else -np.eye(2 * n)])
    second = np.hstack([np.zeros((3 * n, n)), bend])
    stacked = np.vstack([one, first, second])  # of one element
    k = (problem.coefficients / problem.strength)[:, None]
    weight = problem.lambda_haadf * problem.haadf_precision.ravel()
    size = 3 * n * n_elements
    system = rho * np.kron(
        np.eye(n_elements), stacked.T @ stacked + 1e-9 * np.eye(3 * n)
    )
    pull = np.hstack([k[i] * one for i in range(n_elements)])
    system += pull.T @ (weight[:, None] * pull)
    constant = pull.T @ (weight * problem.haadf.ravel())
    locks = np.zeros((0, size))
    if problem.flux is not None:
        locks = np.kron(np.eye(n_elements), one.sum(axis=0))
    system = np.block([[system, locks.T], [locks, np.zeros((len(locks), len(locks)))]])
    inverse = np.linalg.inv(system)
    wanted = [] if problem.flux is None else problem.flux * problem.strength

    copies = np.zeros((n_elements, 6 * n))
    copies[:, :n] = problem.data.reshape(n_elements, n) * strength
    scaled_dual = np.zeros_like(copies)
    for _ in range(n_iter):
        right = rho * ((copies - scaled_dual) @ stacked).ravel() + constant
        unknowns = (inverse @ np.concatenate([right, wanted]))[:size]
        moved = unknowns.reshape(n_elements, -1) @ stacked.T + scaled_dual
        copies = np.hstack(
            [
                chemical_prox(problem, moved[:, :n], rho),
                shrunk(moved[:, n : 3 * n], 1 / rho),
                shrunk(moved[:, 3 * n :], (problem.alpha or 0) / rho),
            ]
        )
        scaled_dual = moved - copies
    u = copies[:, :n].reshape(problem.data.shape)
    slopes = unknowns.reshape(n_elements, -1)[:, n:].reshape(n_elements, 2, n_y, n_x)
    return with_flux(problem, u) / strength[..., None], inner(slopes.swapaxes(0, 1))


@pytest.mark.parametrize(
    "options",
    [{}, {"alpha": None}, {"poisson": False, "flux": False}],
    ids=["poisson", "tv", "gaussian"],
)
def test_against_an_independent_optimiser(options):
    problem = make_problem((6, 7), seed=3, **options)
    maps, slopes = reference(problem)
    other = objective(problem, maps, slopes)
    found = optimum(problem, 5e-6)
    assert found.gap <= 5e-6
    assert_allclose(other, value(problem, found), rtol=1e-5)
    _, _, bound = certificate(problem, found.state)
    assert bound <= other
    assert_allclose(found.maps, maps, atol=3e-3 * maps.max())


# What must not matter


def test_result_does_not_depend_on_threads_and_blocks(monkeypatch):
    problem = make_problem((33, 47), 3, missing=0.05)
    results = []
    for num_workers, block_bytes in ((1, 1 << 20), (4, 1 << 20), (3, 1), (2, 1 << 16)):
        monkeypatch.setattr(kernels, "_BLOCK_BYTES", block_bytes)
        with kernels.workers(num_workers) as run:
            results.append(solve(problem, run, tolerance=1e-3, max_iter=70).maps)
    for other in results[1:]:
        assert_array_equal(other, results[0])


def test_two_runs_agree_to_the_last_bit():
    problem = make_problem()
    assert_array_equal(optimum(problem, 1e-3).maps, optimum(problem, 1e-3).maps)


@pytest.mark.parametrize("options", [{}, {"alpha": None}, {"poisson": False}])
def test_transposed(options):
    problem = make_problem((17, 40), **options)
    turned = {
        name: None if array is None else np.swapaxes(array, -1, -2)
        for name in ("data", "variance", "haadf", "haadf_precision")
        for array in [getattr(problem, name)]
    }
    maps = optimum(problem, 1e-5).maps
    other = optimum(replace(problem, **turned), 1e-5).maps
    assert_allclose(other, np.swapaxes(maps, 1, 2), atol=2e-3 * maps.max())


@pytest.mark.parametrize("unit", [1e-9, 40.0, 1e9])
def test_unit_of_the_haadf_image(unit):
    problem = make_problem()
    other = replace(
        problem,
        haadf=unit * problem.haadf,
        haadf_precision=problem.haadf_precision / unit**2,
        coefficients=unit * problem.coefficients,
    )
    maps = optimum(problem, None, 300).maps
    assert_allclose(optimum(other, None, 300).maps, maps, rtol=1e-4, atol=1e-5)
    assert_allclose(optimum(other, 1e-5).gap, optimum(problem, 1e-5).gap, rtol=0.05)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_unit_of_values(unit):
    problem = make_problem(poisson=False)
    other = replace(
        problem,
        data=unit * problem.data,
        variance=unit**2 * problem.variance,
        pedestal=unit * problem.pedestal,
        coefficients=problem.coefficients / unit,
        strength=problem.strength / unit,
        flux=unit * problem.flux,
    )
    maps = optimum(problem, None, 300).maps
    assert_allclose(
        optimum(other, None, 300).maps / unit, maps, rtol=1e-4, atol=1e-4 * maps.max()
    )


def test_pixels_where_the_image_is_not_used():
    problem = make_problem()
    precision, haadf = problem.haadf_precision.copy(), problem.haadf.copy()
    precision[5:9, 3:11] = 0
    maps = optimum(replace(problem, haadf_precision=precision), 1e-4).maps
    haadf[5:9, 3:11] = -1e3
    other = optimum(replace(problem, haadf_precision=precision, haadf=haadf), 1e-4)
    assert_allclose(other.maps, maps, rtol=1e-6, atol=1e-6)


def test_map_of_backgrounds_and_one_number():
    problem = make_problem(background=np.array([[[0.5]], [[2.0]]]))
    mapped = np.broadcast_to(problem.background, problem.data.shape).copy()
    assert_array_equal(
        optimum(replace(problem, background=mapped), None, 100).maps,
        optimum(problem, None, 100).maps,
    )


@pytest.mark.parametrize("options", [{}, {"alpha": None}, {"poisson": False}])
def test_start_does_not_matter(options):
    problem = make_problem((40, 36), **options)
    maps = optimum(problem, 1e-5).maps
    cold = optimum(problem, 1e-5, start=cold_start(problem)).maps
    rough = cold_start(problem, np.full(problem.data.shape, problem.data.mean()))
    assert_allclose(cold, maps, atol=3e-3 * maps.max())
    assert_allclose(
        optimum(problem, 1e-5, start=rough).maps, maps, atol=0.01 * maps.max()
    )


def test_continues_from_a_state():
    problem = make_problem()
    first = optimum(problem, 1e-4)
    again = optimum(problem, 1e-4, start=first.state)
    assert again.n_iter == 50
    assert again.gap <= 1e-4


def test_max_iter_ends_with_a_certificate():
    found = optimum(make_problem(), 1e-12, 70)
    assert found.n_iter == 70
    assert [n_iter for n_iter, _ in found.history] == [50, 70]
    assert 0 < found.gap < 1
    found = optimum(make_problem(), None, 70)
    assert (found.n_iter, found.history, found.gap) == (70, [], np.inf)


# Flux


def test_with_flux():
    problem = make_problem()
    u = np.random.default_rng(0).uniform(0, 2, problem.data.shape)
    u[1] = 0  # nothing to scale: spread evenly
    scaled = with_flux(problem, u)
    wanted = problem.flux * problem.strength
    assert_allclose(scaled.sum(axis=(1, 2)), wanted)
    assert_allclose(scaled[0] / u[0], scaled[0, 0, 0] / u[0, 0, 0])
    assert_allclose(scaled[1], wanted[1] / u[1].size)
    free = replace(problem, flux=None)
    assert with_flux(free, u) is u


def test_flux_is_kept_although_the_image_wants_more():
    problem = make_problem(lambda_haadf=1.0)
    problem = replace(problem, coefficients=problem.coefficients / 2)
    locked = optimum(problem, 1e-4)
    assert locked.gap <= 1e-4
    assert_allclose(locked.maps.sum(axis=(1, 2)), problem.flux, rtol=1e-12)
    # before the final scaling too, nearly
    u = locked.state.maps().sum(axis=(1, 2)) / problem.strength
    assert_allclose(u, problem.flux, rtol=1e-3)
    free = optimum(replace(problem, flux=None), 1e-4)
    assert free.maps.sum() > 1.2 * problem.flux.sum()


# Coarse and fine


@pytest.mark.parametrize("shape", [(32, 48), (33, 51)])
@pytest.mark.parametrize("options", [{}, {"poisson": False}])
def test_coarse_problem_of_constant_maps_has_the_same_value(shape, options):
    problem = make_problem(shape, **options)
    even = tuple(size // 2 * 2 for size in shape)
    ones = np.ones((2, *shape))
    constant = {
        "data": 3 * ones,
        "haadf": 5 * ones[0],
        "haadf_precision": 0.5 * ones[0],
        "background": 0.4 * ones,
        "variance": None if problem.poisson else 2 * ones,
    }
    problem = replace(problem, **constant)
    coarse = coarsen(problem)
    assert coarse.shape == (even[0] // 2, even[1] // 2)
    u = 1.7 * np.ones((2, *coarse.shape))
    on_even = replace(
        problem,
        **{
            name: None if array is None else array[..., : even[0], : even[1]]
            for name in constant
            for array in [getattr(problem, name)]
        },
    )
    fine = np.ones((2, *even)) * 1.7 / 2
    assert_allclose(data_terms(coarse, u), data_terms(on_even, fine))


def test_coarse_ramp_has_the_variation_of_the_fine_one():
    problem = make_problem((64, 64))
    coarse = coarsen(problem)
    rows = np.arange(64.0)[:, None] * np.ones((2, 64, 64))
    pooled = 2 * rows.reshape(2, 32, 2, 32, 2).mean(axis=(2, 4))
    for slopes in (0, 1):
        fine = total_generalised_variation(rows, slopes * gradient(rows), problem.alpha)
        assert_allclose(
            total_generalised_variation(
                pooled, slopes * gradient(pooled), coarse.alpha
            ),
            fine,
            rtol=0.02,
        )


def test_coarse_pixels_of_missing_ones():
    problem = make_problem((32, 32))
    data = problem.data.copy()
    data[0, 0, 0] = data[1, :2, 2:4] = np.nan
    coarse = coarsen(replace(problem, data=data))
    assert_allclose(coarse.data[0, 0, 0], np.nanmean(data[0, :2, :2]) * 4)
    assert np.isnan(coarse.data[1, 0, 1])
    assert np.isnan(coarse.data).sum() == 1


def test_prolonged_optimum_of_flat_data_is_the_optimum():
    # Flat data whose image wants other maps than the counts, and the flux a third:
    # all duals of the data terms are at work, and both grids have the same optimum.
    problem = make_problem((32, 32), lambda_haadf=0.3)
    ones = np.ones((2, 32, 32))
    problem = replace(
        problem,
        data=3 * ones,
        haadf=25 * ones[0],
        haadf_precision=0.5 * ones[0],
        flux=np.array([2.5, 3.7]) * 32**2,
    )
    coarse = coarsen(problem)
    state = optimum(coarse, 1e-7).state
    _, upper, bound = certificate(problem, prolong(state, problem))
    assert upper - bound <= 1e-5 * upper
    _, coarse_upper, _ = certificate(coarse, state)
    assert_allclose(upper, coarse_upper, rtol=1e-6)


@pytest.mark.parametrize("shape", [(33, 47), (100, 300), (64, 16), (16, 16), (1, 70)])
@pytest.mark.parametrize("alpha", [0.5, None])
def test_warm_start_of_any_shape(shape, alpha):
    problem = make_problem(shape, alpha=alpha, missing=0.02)
    with kernels.workers(2) as run:
        state = warm_start(problem, run, n_iter=5)
    fresh = cold_start(problem)
    for name in State.__dataclass_fields__:
        array = getattr(state, name)
        assert array.shape == getattr(fresh, name).shape
        assert array.dtype == getattr(fresh, name).dtype
        assert np.isfinite(array).all()
    assert_array_equal(state.v, inner(state.v))
    assert_array_equal(state.p, inner(state.p))


def test_warm_start_is_nearer_than_a_cold_one():
    problem = make_problem((66, 70), lambda_tv=4.0)
    with kernels.workers(1) as run:
        warm = warm_start(problem, run)
        states = [warm, cold_start(problem)]
        gaps = []
        for state in states:
            iteration = Iteration(problem, state, run)
            for _ in range(20):
                iteration.step()
            _, upper, bound = certificate(problem, state)
            gaps.append((upper - bound) / upper)
    assert gaps[0] < gaps[1] / 2


def test_state_before_relaxation():
    new, old = np.float32([2.0, 3.0]), np.float32([1.0, 1.0])
    rho = primal_dual._RELAXATION
    relaxed, bar = old + rho * (new - old), 2 * new - old
    assert_allclose(primal_dual._before_relaxation(relaxed, bar), new, rtol=1e-5)
