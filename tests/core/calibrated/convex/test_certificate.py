import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from problems import (
    each_problem,
    least,
    make_problem,
    norm_groups,
    objective,
    pixel_terms,
)
from scipy.special import kl_div

from hyperspy_fusion.core.calibrated.convex.certificate import certificate
from hyperspy_fusion.core.calibrated.convex.iteration import Iteration, cold_start
from hyperspy_fusion.core.calibrated.convex.problem import with_flux
from hyperspy_fusion.core.calibrated.convex.rows import deviance_of, log_of
from hyperspy_fusion.core.common import threads
from hyperspy_fusion.core.common.operators import (
    gradient,
    gradient_adjoint,
    inner,
    joint_norm,
    symmetrised_gradient_adjoint,
)
from hyperspy_fusion.core.common.threads import workers


def random_state(problem, rng):
    state = cold_start(problem)
    for name in ("u", "v", "p", "q", "haadf_dual"):
        array = getattr(state, name)
        array += rng.normal(0, 0.5, array.shape).astype(np.float32)
    state.v[:] = inner(state.v)
    state.flux_dual[:] += rng.normal(0, 0.3, state.flux_dual.shape)
    return state


def near_the_optimum(problem, n_iter=150):
    state = cold_start(problem)
    with workers(1) as run:
        iteration = Iteration(problem, state, run)
        iteration.advance(n_iter + 1, settle=True)
    return state


def feasible(problem, state):
    """Scaled-down dual point: its slope of u, and the scale."""
    if problem.alpha is None:
        p = inner(state.p.astype(float))
        excess = max(joint_norm(p[:, g]).max() for g in norm_groups(problem))
    else:
        q = state.q.astype(float)
        p = inner(symmetrised_gradient_adjoint(q))
        excess = max(
            max(joint_norm(p[:, g]).max(), joint_norm(q[:, g]).max() / problem.alpha)
            for g in norm_groups(problem)
        )
    shrink = 1 / max(excess, 1)
    return gradient_adjoint(shrink * p), shrink


def lifted(slope, unheld, missing, tv_scale, most, most_missing):
    """Slopes that are raised until none is negative, and what that costs."""
    short = np.where(unheld, 1e-12 * (1 / tv_scale + abs(slope)) - slope, 0)
    lift = np.where(missing, 0, short).max(axis=(1, 2)).clip(0)
    own = np.where(missing, short, 0).clip(0)  # of each missing pixel
    paid = lift @ most + np.sum(own * most_missing)
    return slope + np.where(missing, own, lift[:, None, None]), paid


def best_duals(images, ks, weights, slope, bounded, minimiser, duals):
    """The dual of each image by bisection, one after the other."""
    duals = [np.where(w > 0, s, 0) for w, s in zip(weights, duals, strict=True)]
    for _ in range(1 if len(images) == 1 else 40):
        for j, (image, k, weight) in enumerate(zip(images, ks, weights, strict=True)):
            a = slope + sum(ks[i] * duals[i] for i in range(len(ks)) if i != j)
            pole = np.where((k > 0) & bounded, -a / np.maximum(k, 1e-300), -np.inf)
            largest = 1e6 * (1 + abs(weight * image.values))
            low = np.maximum(pole.max(axis=0), -largest)
            high = np.maximum(low, 0) + largest
            for _ in range(200):
                s = (low + high) / 2
                u = minimiser(a + k * s)
                short = s + weight * (image.values - (k * u).sum(axis=0)) < 0
                low, high = np.where(short, s, low), np.where(short, high, s)
            duals[j] = np.where(weight > 0, high, 0)
    return duals


def reference(problem, state):
    """The bound in NumPy, by the formulas; the duals of the images by bisection."""
    tv_scale = problem.tv_scale[:, None, None]
    missing = np.isnan(problem.data)
    data = np.where(missing, 0, problem.data)
    bound = 0.0
    slope, shrink = feasible(problem, state)
    u = np.maximum(state.u, 0).astype(float)
    most = 2 * u.sum(axis=(1, 2), where=~missing)
    for i, locked in enumerate(problem.flux_locked):
        if not locked:
            continue
        flux = problem.flux[i] * problem.tv_scale[i]
        most[i] = flux
        multiplier = shrink * state.flux_dual[i]
        slope[i] += np.where(missing[i], 0, multiplier)
        bound -= multiplier * flux
    if problem.poisson:
        slope += np.where(missing, 0, 1 / tv_scale)
        pedestal = problem.pedestal[:, None, None]
        b = np.where(missing, 0, data + pedestal)
        offset = np.where(missing, 0, problem.background + pedestal)
    else:
        b = data * tv_scale
        variance = np.where(missing, 0, problem.variance * tv_scale**2)
    images = problem.images
    ks = [(image.coefficients / problem.tv_scale)[:, None, None] for image in images]
    weights = [image.weight * image.precision for image in images]
    held = np.any([(w > 0) & (k > 0) for w, k in zip(weights, ks, strict=True)], axis=0)
    unheld = ~held & (missing | problem.poisson)
    slope, lift = lifted(slope, unheld, missing, tv_scale, most, 2 * u)

    def minimiser(slope):
        if problem.poisson:
            return np.maximum(b / np.maximum(slope, 1e-300) - offset * tv_scale, 0)
        return np.maximum(b - variance * slope, 0)

    bounded = missing | problem.poisson
    first = [
        dual / image.unit for dual, image in zip(state.haadf_dual, images, strict=True)
    ]
    duals = best_duals(images, ks, weights, slope, bounded, minimiser, first)
    a = slope + sum(k * s for k, s in zip(ks, duals, strict=True))
    u = minimiser(a)
    if problem.poisson:
        values = np.where(missing, 0, kl_div(b, u / tv_scale + offset))
        values = values + (a - np.where(missing, 0, 1 / tv_scale)) * u
    else:
        spread = np.where(missing, 1, variance)
        values = np.where(missing, 0, (u - b) ** 2 / (2 * spread)) + a * u
    for image, weight, s in zip(images, weights, duals, strict=True):
        used = weight > 0
        cost = s**2 / (2 * np.where(used, weight, 1)) + s * image.values
        bound -= cost[used].sum()
    return bound - lift + values.sum()


@each_problem
@pytest.mark.parametrize("state_of", [random_state, near_the_optimum])
def test_against_the_formulas(options, state_of):
    problem = make_problem(**options)
    given = np.random.default_rng(0) if state_of is random_state else 150
    state = state_of(problem, given)
    _, upper, lower = certificate(problem, state)
    slopes = state.v if problem.alpha is not None else None
    expected = objective(problem, with_flux(problem, state.u), slopes)
    assert_allclose(upper, expected, rtol=1e-6)  # maps are float32
    best = reference(problem, state)
    assert lower <= best + 1e-6 * upper
    if len(problem.images) == 1:
        assert_allclose(lower, best, atol=1e-6 * upper)
    elif state_of is near_the_optimum:  # the duals of several are found in a few turns
        assert upper - lower <= 1.02 * (upper - best) + 1e-6 * upper


@pytest.mark.parametrize("alpha", [0.5, None])
def test_does_not_depend_on_threads(alpha):
    problem = make_problem((130, 90), 3, alpha=alpha)
    state = random_state(problem, np.random.default_rng(0))
    with workers(2) as run:
        assert_array_equal(
            certificate(problem, state, run)[1:], certificate(problem, state)[1:]
        )


@each_problem
def test_copied_rows_give_the_same_bounds(options, monkeypatch):
    """As those of pixels that the kernels take as they are."""
    monkeypatch.setattr(threads, "_WORTH_A_THREAD", 32)  # several blocks of rows
    problem = make_problem(**options)

    def with_pixels(change):
        names = "data", "background", "variance", "haadf", "haadf_precision"
        pixels = {name: getattr(problem, name) for name in names}
        elastic = [
            replace(
                image, values=change(image.values), precision=change(image.precision)
            )
            for image in problem.elastic
        ]
        changed = {name: None if a is None else change(a) for name, a in pixels.items()}
        return replace(problem, elastic=tuple(elastic), **changed)

    ready = with_pixels(lambda array: array.astype(np.float32))
    reversed_view = with_pixels(
        lambda array: array[..., ::-1, ::-1].astype(np.float32)[..., ::-1, ::-1]
    )
    state = random_state(problem, np.random.default_rng(0))
    with workers(2) as run:
        found = certificate(reversed_view, state, run)
        assert found == certificate(ready, state, run)


def test_pixels_in_reverse_are_not_copied_all_at_once():
    problem = make_problem(shape=(512, 512), n_elements=3)
    data = problem.data[..., ::-1, :].astype(np.float32)[..., ::-1, :]
    problem = replace(problem, data=data)
    state = cold_start(problem)
    with workers(2) as run:
        certificate(problem, state, run)  # also finds the units of the images
        tracemalloc.start()
        certificate(problem, state, run)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 0.7 * data.nbytes


def test_log_is_that_of_float64():
    for x in (np.geomspace(1e-300, 1e300, 2001), np.linspace(0.5, 2, 2001)):
        found = [log_of(value) for value in x]
        assert_allclose(found, np.log(x), rtol=1e-15, atol=1e-18)


@pytest.mark.parametrize("b", [0.0, 1e-3, 1.0, 1e8])
@pytest.mark.parametrize(
    "ratio", [1e-3, 0.989, 0.991, 1 - 1e-9, 1.0, 1.009, 1.011, 1e4]
)
def test_deviance(b, ratio):
    expected = b * ratio if b else ratio
    t = np.longdouble(expected) / (b or 1) - 1
    exact = b * (t - np.log1p(t)) if b else expected
    assert_allclose(deviance_of(b, expected), float(exact), rtol=1e-9, atol=1e-17 * b)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    poisson=st.booleans(),
    lambda_haadf=st.sampled_from([0.0, 0.1, 1.0]),
    n_elements=st.integers(1, 3),
    further=st.sampled_from([(), (0.3,)]),
)
def test_dual_value_is_the_least_of_each_pixel(
    seed, poisson, lambda_haadf, n_elements, further
):
    problem = make_problem(
        (2, 2),
        n_elements,
        poisson=poisson,
        seed=seed,
        lambda_haadf=lambda_haadf,
        further=further,
        alpha=None,
        flux=False,
    )
    rng = np.random.default_rng(seed)
    state = random_state(problem, rng)
    largest = 0.1 / problem.tv_scale.max()
    p = largest * rng.uniform(-1, 1, state.p.shape)
    state.p[:] = inner(p)
    pull = gradient_adjoint(inner(state.p.astype(float)))
    expected = 0
    for y in range(2):
        for x in range(2):
            terms, g = pixel_terms(problem, y, x), pull[:, y, x]

            def tilted(u, terms=terms, g=g):
                total, slope = terms(u)
                return total + g @ u, slope + g

            start = np.maximum(problem.data[:, y, x] * problem.tv_scale, 0.1)
            expected += least(tilted, start)[1]
    if poisson:  # the chemical term is counted from that of the data
        b = problem.data + problem.pedestal[:, None, None]
        offset = problem.background + problem.pedestal[:, None, None]
        expected += np.sum(b * np.log(b) - b + offset)
    found = certificate(problem, state)[2]
    assert found <= expected + 1e-6 * (1 + abs(expected))
    if not further:  # the duals of several are found in a few turns
        assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@each_problem
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_no_maps_are_below_the_bound(options, seed):
    problem = make_problem(**{"shape": (7, 8), "missing": 0, **options}, seed=seed)
    rng = np.random.default_rng(seed)
    state = random_state(problem, rng)
    terms, upper, bound = certificate(problem, state)
    assert np.isfinite(bound)
    weights = [image.weight for image in problem.elastic]
    weighted = (problem.lambda_haadf, 1, 1, *weights) @ np.array(terms)
    assert_allclose(upper, weighted, rtol=1e-12)
    assert bound <= upper
    start = np.maximum(cold_start(problem).u, 0.1).astype(float)
    for _ in range(5):
        u = start * rng.uniform(0, rng.uniform(0.2, 2), start.shape)
        maps = with_flux(problem, u)
        slopes = rng.choice([0, 0.5, 1]) * gradient(
            maps * problem.tv_scale[:, None, None]
        )
        assert bound <= objective(problem, maps, slopes) * (1 + 1e-12)
