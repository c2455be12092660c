from itertools import pairwise

import h5py
import numpy as np
import pytest
import tutorial
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core.published import method as published
from hyperspy_fusion.core.published.method import (
    PublishedOptions,
    published_objective,
    scale_to_unit,
    solve,
)
from hyperspy_fusion.core.published.objective import chemical_gradient, haadf_gradient
from hyperspy_fusion.core.published.tv_prox import total_variation_prox

Z = (66, 21, 8)


@pytest.fixture(scope="module")
def data():
    """Maps of three elements and an image, in units far from [0, 1]."""
    rng = np.random.default_rng(0)
    maps = rng.poisson(5, (3, 21, 34)) * np.array([1, 1e3, 1e-3])[:, None, None]
    return maps, 500 + 40 * rng.poisson(30, (21, 34))


def rescale(solution):
    """The maps of a solution scaled as in the fusion, in float64."""
    record = solution.record
    offset, span = (record[name][:, None, None] for name in ("map_offset", "map_range"))
    return (solution.maps.astype(float) - offset) / span


def test_scale_to_unit():
    scaled, low, span = scale_to_unit(np.array([[3, 5], [11, 7]], dtype=">u2"))
    assert_allclose(scaled, [[0, 0.25], [1, 0.5]])
    assert (low, span) == (3, 8)
    constant, low, span = scale_to_unit(np.full((2, 2), 4.0))
    assert_array_equal(constant, 0)
    assert (low, span) == (4, 0)


def test_one_iteration_is_a_proximal_gradient_step(data):
    maps, haadf = data
    options = PublishedOptions(n_iter=1, n_iter_tv=7, lambda_haadf=0.2)
    objective, _ = published_objective(maps, haadf, Z, options)
    start = objective.measured.astype(float)
    stepped = (
        start
        - 0.2 * haadf_gradient(start, objective.haadf, objective.model)
        - 0.08 * chemical_gradient(start, start, 0.24)
    )
    expected = [total_variation_prox(np.maximum(x, 0), 0.15, 7) for x in stepped]
    assert_allclose(rescale(solve(maps, haadf, Z, options)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"regularize": False},
        {"tv_algorithm": "GP", "z_weighting": "Z**gamma", "gamma": 1.8},
        {"initial_threshold": 0.2, "n_iter": 1},
    ],
)
def test_costs_are_those_of_the_returned_maps(data, options):
    options = PublishedOptions(**options)
    solution = solve(*data, Z, options)
    objective, _ = published_objective(*data, Z, options)
    terms = objective.terms(rescale(solution))
    costs = solution.costs
    found = costs.haadf[-1], costs.chemical[-1], costs.tv[-1]
    assert_allclose(found, terms, rtol=1e-4)
    assert_allclose(costs.total[-1], objective.weigh(terms), rtol=1e-4)
    assert solution.n_iter == options.n_iter


def test_maps_come_back_in_their_units(data):
    maps, haadf = data
    solution = solve(maps, haadf, Z, PublishedOptions())
    other = solve(maps * 7 + 3, haadf * 2.5 - 1e3, Z, PublishedOptions())
    assert_allclose(other.maps, solution.maps * 7 + 3, rtol=1e-4, atol=1e-5)


def test_result_is_the_same_transposed(data):
    maps, haadf = data
    upright = solve(maps, haadf, Z, PublishedOptions()).maps
    lying = solve(maps.transpose(0, 2, 1), haadf.T, Z, PublishedOptions()).maps
    assert_allclose(lying.transpose(0, 2, 1), upright, rtol=1e-5)


def test_order_of_the_elements_does_not_matter(data):
    maps, haadf = data
    forward = solve(maps, haadf, Z, PublishedOptions()).maps
    backward = solve(maps[::-1], haadf, Z[::-1], PublishedOptions()).maps
    assert_allclose(backward[::-1], forward, rtol=1e-4)


@pytest.mark.parametrize("n_elements", [1, 2, 12])
def test_any_number_of_elements(n_elements):
    rng = np.random.default_rng(n_elements)
    maps = rng.poisson(3, (n_elements, 8, 5))
    z = np.arange(n_elements) + 20
    solution = solve(maps, rng.poisson(50, (8, 5)), z, PublishedOptions())
    assert solution.maps.shape == maps.shape
    assert solution.record["lambda_haadf"] == 1 / n_elements


@pytest.mark.parametrize("options", [{}, {"n_iter_tv": 6, "tv_algorithm": "GP"}])
def test_blocks_and_threads_leave_no_trace(monkeypatch, options):
    rng = np.random.default_rng(0)
    maps, haadf = rng.poisson(3, (2, 50, 37)), rng.poisson(50, (50, 37))
    options = PublishedOptions(n_iter=5, **options)
    whole = solve(maps, haadf, (27, 8), options, num_workers=1)
    for n_rows, n_columns in ((1, 1), (7, 1), (50, 2), (3, 37)):

        def tiles(shape, reach, _, n_rows=n_rows, n_columns=n_columns):
            _, n_y, n_x = shape
            return np.array(
                [
                    (top, bottom, left, right, max(left - reach, 0), end, place)
                    for top, bottom in pairwise(
                        np.linspace(0, n_y, n_rows + 1, dtype=int)
                    )
                    for place, (left, right) in enumerate(
                        pairwise(np.linspace(0, n_x, n_columns + 1, dtype=int))
                    )
                    for end in [min(right + reach, n_x)]
                ]
            )

        monkeypatch.setattr(published, "published_tiles", tiles)
        for num_workers in (1, 2, 3):
            cut = solve(maps, haadf, (27, 8), options, num_workers=num_workers)
            assert_allclose(cut.maps, whole.maps, rtol=1e-6, atol=1e-6)
            assert_allclose(cut.costs.total, whole.costs.total, rtol=1e-6)
            if n_columns == 1:
                assert_array_equal(cut.maps, whole.maps)


def test_inputs_are_not_modified(data):
    maps, haadf = data
    copies = maps.copy(), haadf.copy()
    solve(maps, haadf, Z, PublishedOptions(initial_threshold=0.5))
    assert_array_equal(maps, copies[0])
    assert_array_equal(haadf, copies[1])


def test_a_constant_map_comes_back_as_it_was(data):
    maps, haadf = data
    maps = maps.copy()
    maps[1] = 4
    assert_array_equal(solve(maps, haadf, Z, PublishedOptions()).maps[1], 4)


def test_status_says_when_a_cost_rose(data):
    maps, haadf = data
    calm = solve(maps, haadf, Z, PublishedOptions(n_iter=2, lambda_haadf=0))
    assert calm.status == "ran the n_iter iterations that were asked for"
    wild = solve(maps, haadf, Z, PublishedOptions(lambda_haadf=1.5))
    rises = np.sum(np.diff(wild.costs.total) > 0)
    assert rises > 0
    assert f"of 29 steps: total in {rises}" in wild.status


def test_tolerance_stops_early(data):
    options = PublishedOptions(n_iter=500, tolerance=1e-4, lambda_haadf=0.05)
    solution = solve(*data, Z, options)
    assert solution.converged
    assert solution.status.startswith("converged")
    assert solution.n_iter < 500
    short = solve(*data, Z, PublishedOptions(n_iter=4, tolerance=1e-12))
    assert not short.converged
    assert "raise n_iter or loosen the tolerance" in short.status


def test_divergence_is_an_error(data):
    with pytest.raises(FloatingPointError, match="lower lambda_haadf"):
        solve(*data, Z, PublishedOptions(lambda_haadf=1e15, regularize=False))


@pytest.mark.parametrize("at_once", [1, 2, 99])
def test_callback_sees_iterations_go_by(data, at_once, monkeypatch):
    monkeypatch.setattr(published, "most_at_once", lambda _: at_once)
    seen = []
    found = solve(
        *data,
        Z,
        PublishedOptions(n_iter=3),
        callback=lambda stage, n, _cost: seen.append((stage, n)),
    )
    ends = {1: (1, 2, 3), 2: (2, 3), 99: (3,)}[at_once]
    assert seen == [("solution", n) for n in ends]
    assert_array_equal(found.maps, solve(*data, Z, PublishedOptions(n_iter=3)).maps)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("gamma", 0.5, "gamma is 0.5: expected a finite number from 1 to 10"),
        (
            "lambda_haadf",
            -1,
            "lambda_haadf is -1: expected a finite number of at least 0, or None",
        ),
        ("lambda_tv", -0.1, "lambda_tv is -0.1"),
        ("epsilon", 0, "epsilon is 0: expected a finite number above 0"),
        ("z_weighting", "z", "expected one of 'none', 'Z'"),
        ("lambda_tv", np.inf, "lambda_tv is inf"),
        ("gamma", np.nan, "gamma is nan"),
        (
            "initial_threshold",
            -0.1,
            "initial_threshold is -0.1: expected a finite number from 0",
        ),
        ("initial_threshold", np.nan, "initial_threshold is nan"),
        ("n_iter", 0, "n_iter is 0: expected a whole number of at least 1"),
        ("n_iter", 2.5, "n_iter is 2.5: expected a whole number"),
        ("n_iter_tv", 0, "regularize=False turns"),
        ("tv_algorithm", "fgp", "expected one of 'FGP', 'GP'"),
        ("tolerance", 0, "tolerance is 0: expected a finite number above 0, or None"),
    ],
)
def test_options_outside_their_range(option, value, message):
    with pytest.raises(ValueError, match=message):
        PublishedOptions(**{option: value})


def correlations(fused, expected):
    return [
        np.corrcoef(a.ravel(), b.ravel())[0, 1]
        for a, b in zip(fused, expected, strict=True)
    ]


def test_dysco3_agrees_with_the_tutorial(real_data):
    file = np.load(real_data("DyScO3_EDX_HAADF.npz"))
    maps, haadf = np.stack([file[name] for name in ("Sc", "Dy", "O")]), file["HAADF"]
    z = (21, 66, 8)
    expected = tutorial.fuse(
        maps, haadf, z, chem=0.08, tv=0.15, background=0.24, n_iter_tv=3
    )
    fused = solve(maps, haadf, z, PublishedOptions()).maps
    assert min(correlations(fused, expected)) > 0.98


def test_co3o4_mn3o4_agrees_with_the_tutorial(real_data):
    with h5py.File(real_data("Co3O4_Mn3O4_EELS_HAADF.h5")) as file:
        maps = np.stack([file[name][()] for name in ("Co", "Mn", "O")])
        haadf = file["HAADF"][()]
    z = (27, 25, 8)
    expected = tutorial.fuse(
        maps,
        haadf,
        z,
        chem=0.006,
        tv=0.022,
        background=0.01,
        n_iter_tv=6,
        threshold=0.2,
    )
    options = PublishedOptions(
        lambda_chem=0.006,
        lambda_tv=0.022,
        epsilon=0.01,
        n_iter_tv=6,
        initial_threshold=0.2,
    )
    fused = solve(maps, haadf, z, options).maps
    assert min(correlations(fused, expected)) > 0.98
