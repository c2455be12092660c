import numpy as np
import pytest
from arrays_in import solve
from numpy.testing import assert_allclose, assert_array_equal
from specimens import discs

from hyperspy_fusion.core.calibrated import sample
from hyperspy_fusion.core.calibrated.options import CalibratedOptions

OPTIONS = CalibratedOptions()
GIVEN = CalibratedOptions(lambda_tv=4.0, lambda_haadf=0.1)


def error(maps, truth):
    return np.sqrt(np.mean((maps - truth) ** 2) / np.mean(truth**2))


# --- what the data are ------------------------------------------------------------


def test_background_of_values_does_not_matter():
    maps, haadf, z, _ = discs(48, 48)
    variance = np.full((2, 1, 1), 2.0)
    plain = solve(maps, haadf, z, GIVEN, variance=variance)
    raised = solve(maps + 5.0, haadf, z, GIVEN, variance=variance, background=5.0)
    assert_allclose(raised.maps, plain.maps, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "lambda_haadf",
            -1,
            "lambda_haadf is -1: expected a finite number of at least 0, or",
        ),
        ("lambda_tv", 0, "lambda_tv is 0: expected a finite number above 0, or 'auto'"),
        ("regularizer", "l1", "expected one of 'tgv', 'tv'"),
        ("tolerance", 0, "tolerance is 0"),
        ("max_iter", 0, "max_iter is 0: expected a whole number of at least 1"),
        ("gamma", 0, "gamma is 0"),
    ],
)
def test_options_outside_their_range(option, value, message):
    with pytest.raises(ValueError, match=message):
        CalibratedOptions(**{option: value})


# --- what comes out -----------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    return discs(64, 64)


@pytest.fixture(scope="module")
def automatic(data):
    return solve(*data[:3], OPTIONS)


@pytest.mark.parametrize("turn", [np.fliplr, np.flipud, np.transpose])
def test_turned_data_give_turned_maps(data, automatic, turn):
    """Coefficients and weights that are found are those of the data as they were."""
    maps, haadf, z, truth = data
    turned = solve(np.stack([turn(one) for one in maps]), turn(haadf), z, OPTIONS)
    difference = turned.maps - np.stack([turn(one) for one in automatic.maps])
    assert np.linalg.norm(difference) < 0.02 * np.linalg.norm(automatic.maps - truth)
    assert turned.record["haadf_gain"] == pytest.approx(
        automatic.record["haadf_gain"], rel=0.01
    )


def test_beats_the_measurement_and_keeps_the_counts(data, automatic):
    maps, _, _, truth = data
    assert error(automatic.maps, truth) < 0.4 * error(maps, truth)
    assert_allclose(automatic.maps.sum((1, 2)), maps.sum((1, 2)), rtol=1e-4)
    assert automatic.maps.min() >= 0
    assert automatic.converged
    assert automatic.record["gap"] <= 1e-3


def test_deterministic(data, automatic):
    again = solve(*data[:3], OPTIONS, num_workers=1)
    assert_array_equal(again.maps, automatic.maps)
    other = solve(*data[:3], CalibratedOptions(seed=5))
    tried = other.record["weights_tried"], automatic.record["weights_tried"]
    assert tried[0].shape != tried[1].shape or np.any(tried[0] != tried[1])


@pytest.mark.parametrize("given", ["lambda_tv", "lambda_haadf"])
def test_one_weight_given_the_other_chosen(data, given):
    value = {"lambda_tv": 3.3, "lambda_haadf": 0.2}[given]
    solution = solve(*data[:3], CalibratedOptions(**{given: value}))
    assert solution.record[given] == value
    assert len(solution.record["weights_tried"]) > 2


@pytest.mark.parametrize(("a", "b"), [(1e-4, 0.0), (37.0, -5e4)])
def test_units_of_the_haadf_image_do_not_matter(data, automatic, a, b):
    maps, haadf, z, _ = data
    other = solve(maps, a * haadf + b, z, OPTIONS)
    assert_allclose(other.maps, automatic.maps, atol=1e-3 * automatic.maps.max())


def test_four_times_the_iterations_change_little(data, automatic):
    longer = CalibratedOptions(tolerance=1e-9, max_iter=4 * automatic.n_iter)
    change = solve(*data[:3], longer).maps - automatic.maps
    assert np.linalg.norm(change) <= 0.01 * np.linalg.norm(automatic.maps)


@pytest.mark.parametrize(
    "shape", [(16, 16, 2), (100, 300, 2), (24, 24, 1), (24, 24, 12)]
)
def test_sizes_and_numbers_of_elements(shape):
    maps, haadf, z, truth = discs(*shape)
    solution = solve(maps, haadf, z, GIVEN)
    assert solution.maps.shape == truth.shape
    assert error(solution.maps, truth) < error(maps, truth)


def test_an_empty_element_stays_empty(data):
    maps, haadf, z, _ = data
    maps = np.stack([*maps, np.zeros_like(maps[0])])
    solution = solve(maps, haadf, [*z, 26], OPTIONS)
    assert_allclose(solution.maps[2], 0, atol=1e-6)
    assert np.isfinite(solution.maps).all()


def test_maps_come_back_in_their_units(data):
    maps, haadf, z, truth = data
    solution = solve(maps * 0.013, haadf, z, GIVEN)
    assert_allclose(solution.maps.sum((1, 2)), 0.013 * maps.sum((1, 2)), rtol=1e-4)
    assert error(solution.maps, 0.013 * truth) < 0.4 * error(maps, truth)


def test_missing_pixels_are_filled_by_the_model(data):
    maps, haadf, z, truth = data
    rng = np.random.default_rng(1)
    lost = rng.random(maps.shape) < 0.2
    solution = solve(np.where(lost, np.nan, maps), haadf, z, GIVEN)
    assert error(solution.maps[lost], truth[lost]) < 0.5 * error(
        maps[lost], truth[lost]
    )


def test_background_is_not_part_of_the_maps(data):
    maps, haadf, z, truth = data
    background = np.random.default_rng(2).poisson(3.0, maps.shape)
    solution = solve(maps + background, haadf, z, GIVEN, background=3.0)
    assert_allclose(
        solution.maps.sum((1, 2)),
        (maps + background - 3).sum((1, 2)),
        rtol=1e-4,
    )
    assert error(solution.maps, truth) < 0.5


def test_sensitivities_enter_what_is_expected_of_the_coefficients(data):
    maps, haadf, z, _ = data
    faint = maps[1] * (np.random.default_rng(0).random(maps[1].shape) < 0.02)
    maps = np.stack([maps[0], faint])  # too few counts of the second to tell
    found = [
        solve(maps, haadf, z, GIVEN, sensitivities=s).record["haadf_coefficients"]
        for s in ([1.0, 1.0], [1.0, 1e-6])
    ]
    assert np.any(found[0] != found[1])


def test_tv_instead_of_tgv(data):
    maps, haadf, z, truth = data
    options = CalibratedOptions(lambda_tv=2.0, lambda_haadf=0.1, regularizer="tv")
    assert error(solve(maps, haadf, z, options).maps, truth) < 0.4 * error(maps, truth)


def test_flux_can_be_free(data):
    maps, haadf, z, _ = data
    options = CalibratedOptions(lambda_tv=8.0, lambda_haadf=0.1, lock_flux=False)
    sums = solve(maps, haadf, z, options).maps.sum((1, 2))
    assert np.any(np.abs(sums / maps.sum((1, 2)) - 1) > 1e-5)


def test_max_iter_is_said(data):
    options = CalibratedOptions(
        lambda_tv=4.0, lambda_haadf=0.1, max_iter=50, tolerance=1e-9
    )
    solution = solve(*data[:3], options)
    assert not solution.converged
    assert "raise max_iter" in solution.status


# --- large images -----------------------------------------------------------------


def test_a_large_image_is_calibrated_on_tiles(monkeypatch):
    maps, haadf, z, truth = discs(400, 400)
    whole = solve(maps, haadf, z, GIVEN, background=0.0)
    monkeypatch.setattr(sample, "LARGE", 2**17)
    parts = solve(maps, haadf, z, GIVEN, background=0.0)
    assert parts.notes == (
        "noise, coefficients and weights were found from 16 tiles of 96 x 96 pixels",
    )
    coefficients = (s.record["haadf_coefficients"] for s in (parts, whole))
    assert_allclose(*coefficients, rtol=0.05)
    assert error(parts.maps, whole.maps) < 0.02
    assert error(parts.maps, truth) < 1.05 * error(whole.maps, truth)


# --- what does not matter -----------------------------------------------------------


def test_order_of_the_elements_does_not_matter():
    maps, haadf, z, _ = discs(48, 48, 3)
    order = [2, 0, 1]
    one = solve(maps, haadf, z, OPTIONS)
    other = solve(maps[order], haadf, z[order], OPTIONS)
    assert_allclose(other.maps, one.maps[order], atol=2e-3 * one.maps.max())
    for name in ("lambda_tv", "lambda_haadf"):
        assert_allclose(other.record[name], one.record[name], rtol=1e-4)
