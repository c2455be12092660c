from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from problems import each_problem, make_problem, objective

from hyperspy_fusion.core.calibrated.convex.certificate import certificate
from hyperspy_fusion.core.calibrated.convex.iteration import (
    Iteration,
    cold_start,
    restart,
)
from hyperspy_fusion.core.calibrated.convex.multigrid import prolong, warm_start
from hyperspy_fusion.core.calibrated.convex.problem import (
    coarsen,
    towards_bright,
    upright,
    with_flux,
)
from hyperspy_fusion.core.calibrated.convex.solver import (
    CHECK_EVERY,
    kept_at,
    minimise,
)
from hyperspy_fusion.core.calibrated.convex.sweep import State
from hyperspy_fusion.core.common import threads
from hyperspy_fusion.core.common.operators import (
    gradient,
    inner,
    total_generalised_variation,
)


def without_element(problem, i):
    """The problem with the map of one element empty."""
    data, pedestal, tv_scale = (
        array.copy() for array in (problem.data, problem.pedestal, problem.tv_scale)
    )
    data[i], pedestal[i], tv_scale[i] = 0, 0, tv_scale[i] * 30
    flux = problem.flux
    if flux is not None:
        flux = np.where(np.arange(len(flux)) == i, 0, flux)
    return replace(problem, data=data, pedestal=pedestal, tv_scale=tv_scale, flux=flux)


def optimum(problem, tolerance=1e-5, max_iter=5000, **options):
    with threads.workers(1) as run:
        return minimise(problem, run, tolerance=tolerance, max_iter=max_iter, **options)


def value(problem, optimum):
    slopes = optimum.state.v if problem.alpha is not None else None
    return objective(problem, optimum.maps, slopes)


@each_problem
def test_solution_meets_its_certificate(options):
    problem = make_problem(**options)
    seen = []
    # what no term holds drifts, as far as float32 sees no difference
    loose = problem.flux is None and problem.lambda_haadf == 0
    tolerance = 3e-4 if loose else 1e-4
    found = optimum(problem, tolerance, callback=lambda *told: seen.append(told))
    assert seen[0] == (0, np.inf)
    assert seen[-1] == (found.n_iter, found.gap)
    assert found.gap <= tolerance
    assert found.n_iter == found.history[-1][0]
    assert found.n_iter % CHECK_EVERY == 0
    assert found.gap <= 1.1 * min(gap for _, gap in seen)
    # the certificate tells the objective of the maps that are returned
    (terms, upper, bound) = certificate(problem, found.state)
    assert_allclose(terms, found.history[-1][1])
    assert_allclose(upper, value(problem, found), rtol=1e-6)
    assert_allclose((upper - bound) / upper, found.gap)
    assert found.maps.min() >= 0
    sums = found.maps.sum(axis=(1, 2), where=problem.measured(), dtype=float)
    locked = problem.flux_locked
    if locked.any():
        assert_allclose(sums[locked], problem.flux[locked], rtol=1e-6)


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
    tv_scale = problem.tv_scale[:, None]
    if problem.poisson:
        b = data + problem.pedestal[:, None]
        offset = (problem.background[:, 0] + problem.pedestal[:, None]) * tv_scale
        middle = rho * (t + offset) - 1 / tv_scale
        root = np.sqrt(middle**2 + 4 * rho * b)
        return np.maximum((middle + root) / (2 * rho) - offset, 0)
    precision = 1 / (problem.variance.reshape(t.shape) * tv_scale**2)
    return np.maximum((precision * data * tv_scale + rho * t) / (precision + rho), 0)


def reference(problem, n_iter=4000, rho=0.3):
    """Alternating directions in float64: dense matrices, one linear solve a step.

    The unknowns (u, v) of all elements meet copies of u, of ∇u - v and of E v, which
    carry the data terms and the norms; the HAADF term and the flux are in the solve.
    """
    n_elements, n_y, n_x = problem.data.shape
    n = n_y * n_x
    tv_scale = problem.tv_scale[:, None]
    tv_only = problem.alpha is None
    grad, bend = dense(differences, (n_y, n_x)), dense(bends, (2, n_y, n_x))
    one = np.hstack([np.eye(n), np.zeros((n, 2 * n))])
    first = np.hstack([grad, np.zeros((2 * n, 2 * n)) if tv_only else -np.eye(2 * n)])
    second = np.hstack([np.zeros((3 * n, n)), bend])
    stacked = np.vstack([one, first, second])  # of one element
    k = (problem.coefficients / problem.tv_scale)[:, None]
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
    wanted = [] if problem.flux is None else problem.flux * problem.tv_scale

    copies = np.zeros((n_elements, 6 * n))
    copies[:, :n] = problem.data.reshape(n_elements, n) * tv_scale
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
    return with_flux(problem, u), inner(slopes.swapaxes(0, 1))


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


@pytest.mark.parametrize("directions", [(1, -1), (-1, 1), (-1, -1)])
def test_directions(directions):
    """Rows and columns are reversed, the window with them, and the maps come back."""
    problem = make_problem((17, 40), further=(0.3,), missing=0.1)
    y, x = directions
    window = slice(2, 9), slice(5, 30)
    rows = slice(2, 9) if y > 0 else slice(8, 15)
    turned = rows, slice(5, 30) if x > 0 else slice(10, 35)

    def solved(problem, window):
        run = threads.Workers()
        return minimise(problem, run, tolerance=1e-3, max_iter=500, window=window)

    given = replace(problem, directions=directions)
    plain = solved(upright(given), turned)
    found = solved(given, window)
    assert_array_equal(found.maps, plain.maps[:, ::y, ::x])
    assert found.maps.flags.c_contiguous
    assert found.history == plain.history
    other = solved(problem, window)  # TGV makes a small difference
    assert np.abs(other.maps - found.maps).max() < 0.1 * other.maps.max()


def test_towards_bright():
    image = np.random.default_rng(0).random((12, 15))
    y, x = towards_bright(image)
    assert towards_bright(image.T) == (x, y)
    assert towards_bright(3 * image + 1e3) == (y, x)
    assert towards_bright(image[::-1]) == (-y, x)
    assert towards_bright(image[:, ::-1]) == (y, -x)
    assert towards_bright(np.arange(20.0).reshape(4, 5)) == (1, 1)
    assert towards_bright(np.ones((5, 4))) == (1, 1)
    assert towards_bright(image + image[::-1, ::-1]) == (1, 1)


def test_an_image_is_worth_two_of_half_its_weight():
    problem = make_problem((40, 37), 3, lambda_haadf=0.3)
    half = replace(problem.images[0], weight=0.15)
    two = replace(problem, lambda_haadf=0.15, elastic=(half,))
    one, other = optimum(problem, 1e-5), optimum(two, 1e-5)
    assert one.n_iter == other.n_iter
    assert_allclose(other.maps, one.maps, atol=2e-3 * one.maps.max())
    (haadf, *_, further), terms = other.history[-1][1], one.history[-1][1]
    assert_allclose([haadf, further], terms[0], rtol=1e-3)
    assert_allclose(two.value((haadf, *terms[1:], further)), problem.value(terms))


@pytest.mark.parametrize("spoilt", ["weight", "precision", "coefficients"])
def test_a_further_image_without_weight_changes_nothing(spoilt):
    problem = make_problem(missing=0.1)
    image = make_problem(further=(0.3,)).elastic[0]
    image = replace(image, **{spoilt: 0 * getattr(image, spoilt)})
    without = optimum(problem, 1e-4)
    found = optimum(replace(problem, elastic=(image,)), 1e-4)
    assert_allclose(found.maps, without.maps, atol=1e-3 * without.maps.max())
    if spoilt != "coefficients":
        assert_allclose(found.gap, without.gap, rtol=0.5)  # both are of rounding


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
        tv_scale=problem.tv_scale / unit,
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
    rough = cold_start(replace(problem, data=np.full_like(problem.data, 2)))
    assert_allclose(cold, maps, atol=3e-3 * maps.max())
    assert_allclose(
        optimum(problem, 1e-5, start=rough).maps, maps, atol=0.01 * maps.max()
    )


def test_continues_from_a_state():
    problem = make_problem()
    first = optimum(problem, 1e-4)
    again = optimum(problem, 1e-4, start=first.state)
    assert again.n_iter < first.n_iter
    assert again.gap <= 1e-4


@pytest.mark.parametrize("alpha", [0.5, None])
@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_restart_at_other_weights(alpha, mu):
    old = make_problem(alpha=alpha)
    new = replace(
        old,
        tv_scale=2 * old.tv_scale,
        typical=2 * old.typical,
        lambda_haadf=mu,
        coefficients=0.7 * old.coefficients,
    )
    state = optimum(old, 1e-4).state
    maps = state.u / old.tv_scale[:, None, None]
    haadf_dual = state.haadf_dual / old.images[0].unit
    restart(state, old, new)
    assert_allclose(state.u / new.tv_scale[:, None, None], maps, rtol=1e-6)
    assert_allclose(
        state.haadf_dual / new.images[0].unit, haadf_dual * (mu > 0), rtol=1e-5
    )
    # another start, the same optimum
    again, fresh = optimum(new, 1e-6, start=state), optimum(new, 1e-6)
    assert_allclose(again.maps, fresh.maps, atol=2e-2 * fresh.maps.max())
    assert_allclose(value(new, again), value(new, fresh), rtol=3e-6)


def test_maps_with_many_holes_converge_within_the_default_of_max_iter():
    problem = make_problem((64, 64), lambda_tv=20.0, missing=0.4, counts=2.0)
    assert optimum(problem, 1e-3, 2000).within(1e-3)


def test_max_iter_ends_with_a_certificate():
    max_iter = CHECK_EVERY + 7
    found = optimum(make_problem(), 1e-12, max_iter)
    assert found.n_iter == max_iter
    assert [n_iter for n_iter, _ in found.history] == [CHECK_EVERY, max_iter]
    assert 0 < found.gap < 1
    found = optimum(make_problem(), None, 70)
    assert (found.n_iter, found.history, found.gap) == (70, [], np.inf)


@each_problem
def test_terms_of_the_first_iterations(options):
    problem = make_problem(**options)
    found = optimum(problem, 1e-12, 20, early=True)
    iterations = [n_iter for n_iter, _ in found.history]
    assert iterations == kept_at(20).tolist() == [1, 2, 4, 8, 16, 20]
    assert len(optimum(problem, 1e-12, 8, early=True).history) == 4
    for n_iter, terms in found.history[:-1]:
        with threads.workers(1) as run:
            state = warm_start(problem, run)
            Iteration(problem, state, run).advance(n_iter)
        slopes = state.v if problem.alpha is not None else None
        expected = objective(problem, with_flux(problem, state.u), slopes)
        assert_allclose(problem.value(terms), expected, 1e-5)


@pytest.mark.parametrize("window", [None, (slice(3, 9), slice(2, 11))])
def test_terms_of_the_first_iterations_change_nothing(window):
    given = {"tolerance": 1e-3, "max_iter": 80, "window": window}
    one, two = (
        optimum(make_problem(), early=early, **given) for early in (False, True)
    )
    assert_array_equal(one.maps, two.maps)
    assert (one.n_iter, one.gap) == (two.n_iter, two.gap)
    assert two.history[5:] == one.history


def test_terms_of_a_window_from_the_first_iteration_on():
    problem = make_problem(flux=False)
    halves = slice(0, 7), slice(7, problem.shape[0])
    columns = slice(0, problem.shape[1])
    one, other = (
        optimum(problem, early=True, window=(rows, columns)).history for rows in halves
    )
    for whole, *parts in zip(
        optimum(problem, early=True).history, one, other, strict=True
    ):
        sums = np.sum([terms for _, terms in parts], axis=0)
        assert_allclose(sums, whole[1], rtol=1e-6)


def test_gap_where_a_multiplier_outweighs_the_terms():
    problem = make_problem(counts=400, flux=False)
    flux_multiplier = np.array([-0.5, -0.4])
    problem = replace(problem, flux_multiplier=flux_multiplier)
    found, best = (optimum(problem, tolerance) for tolerance in (1e-3, 1e-6))
    whole = [
        value(problem, o) + flux_multiplier @ o.maps.sum(axis=(1, 2))
        for o in (found, best)
    ]
    assert whole[1] < 0
    _, (haadf, chemical, tv) = best.history[-1]
    terms = problem.lambda_haadf * haadf + chemical + tv
    assert 0 <= whole[0] - whole[1] <= 1.1e-3 * terms
    assert 0 < found.gap <= 1e-3


# Flux


def test_with_flux():
    problem = make_problem()
    u = np.random.default_rng(0).uniform(-1, 2, problem.data.shape)
    u = u.astype(np.float32)
    u[1] = 0  # nothing to scale: spread evenly
    maps = with_flux(problem, u)
    assert maps.min() == 0
    assert_allclose(maps.sum(axis=(1, 2)), problem.flux, rtol=1e-6)
    positive = u[0] > 0
    ratio = maps[0][positive] / u[0][positive]
    assert_allclose(ratio, ratio[0], rtol=1e-6)
    assert_allclose(maps[1], problem.flux[1] / u[1].size, rtol=1e-6)
    free = with_flux(replace(problem, flux=None), u)
    assert_allclose(free, u.clip(0) / problem.tv_scale[:, None, None], rtol=1e-6)


def test_flux_is_kept_although_the_image_wants_more():
    problem = make_problem(lambda_haadf=1.0)
    problem = replace(problem, coefficients=problem.coefficients / 2)
    locked = optimum(problem, 1e-4)
    assert locked.gap <= 1e-4
    assert_allclose(locked.maps.sum(axis=(1, 2)), problem.flux, rtol=1e-6)
    # before the final scaling too, nearly
    u = locked.state.u.sum(axis=(1, 2)) / problem.tv_scale
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
    on_even = replace(
        problem,
        **{
            name: None if array is None else array[..., : even[0], : even[1]]
            for name in constant
            for array in [getattr(problem, name)]
        },
    )
    values = []
    for one in (coarse, on_even):
        size = one.data[0].size / coarse.data[0].size
        maps = np.full(one.data.shape, 1.7 / size)
        values.append(objective(one, maps, np.zeros((2, *maps.shape))))
    assert_allclose(*values)


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
    _, coarse_upper, _ = certificate(coarse, state)
    with threads.workers(1) as run:
        fine = prolong(state._asdict(), problem, run)
    _, upper, bound = certificate(problem, fine)
    assert upper - bound <= 1e-5 * upper
    assert_allclose(upper, coarse_upper, rtol=1e-6)


@pytest.mark.parametrize("shape", [(33, 47), (100, 300), (64, 16), (16, 16), (1, 70)])
@pytest.mark.parametrize("alpha", [0.5, None])
def test_warm_start_of_any_shape(shape, alpha):
    problem = make_problem(shape, alpha=alpha, missing=0.02)
    with threads.workers(2) as run:
        state = warm_start(problem, run, n_iter=5)
    fresh = cold_start(problem)
    for name in State._fields:
        array = getattr(state, name)
        assert array.shape == getattr(fresh, name).shape
        assert array.dtype == getattr(fresh, name).dtype
        assert np.isfinite(array).all()
    assert_array_equal(state.v, inner(state.v))
    assert_array_equal(state.p, inner(state.p))


def test_warm_start_is_nearer_than_a_cold_one():
    problem = make_problem((66, 70), lambda_tv=4.0)
    with threads.workers(1) as run:
        warm = warm_start(problem, run)
        states = [warm, cold_start(problem)]
        gaps = []
        for state in states:
            iteration = Iteration(problem, state, run)
            iteration.advance(20)
            _, upper, bound = certificate(problem, state)
            gaps.append((upper - bound) / upper)
    assert gaps[0] < gaps[1] / 2


# Stopping


def test_a_rare_element_comes_to_rest_too():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    truth = np.stack([np.full((48, 48), 200.0), 2.0 * (np.hypot(y - 20, x - 30) < 4)])
    problem = replace(
        make_problem((48, 48)),
        data=rng.poisson(truth).astype(float),
        haadf=truth.sum(axis=0),
        coefficients=np.ones(2),
        flux=None,
    )
    found = optimum(problem, 1e-3)
    assert found.within(1e-3)
    best = optimum(problem, 1e-6)
    contrast = np.linalg.norm(best.maps[1] - best.maps[1].mean())
    assert np.linalg.norm(found.maps[1] - best.maps[1]) < 0.05 * contrast
    assert np.isinf(optimum(problem, 1e-3, max_iter=25).change).all()
    cut = optimum(problem, 1e-9, max_iter=50)
    assert np.isfinite(cut.change).all()
    assert not cut.within(1e-9)
