import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core import calibrated
from hyperspy_fusion.core.calibrated import (
    CalibratedOptions,
    mosaic,
    prepare,
    representative_tiles,
    solve,
)

OPTIONS = CalibratedOptions()
GIVEN = CalibratedOptions(lambda_tv=4.0, lambda_haadf=0.1)


def discs(n_y=32, n_x=32, n_elements=2, counts=4.0, seed=0):
    """Poisson counts of discs and a HAADF image, with the expected counts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:n_y, :n_x]
    truth = np.stack(
        [
            counts
            * (
                np.hypot(
                    y - rng.uniform(0.3, 0.7) * n_y, x - rng.uniform(0.3, 0.7) * n_x
                )
                < 0.25 * min(n_y, n_x)
            )
            for _ in range(n_elements)
        ]
    )
    atomic_numbers = np.linspace(79, 8, n_elements).round().astype(int)
    haadf = np.tensordot(atomic_numbers**1.7, truth, axes=1)
    haadf = rng.poisson(2000 * (haadf / haadf.max() + 0.1)) * 3.7 + 500
    return rng.poisson(truth).astype(float), haadf, atomic_numbers, truth


def error(maps, truth):
    return np.sqrt(np.mean((maps - truth) ** 2) / np.mean(truth**2))


# --- what the data are ------------------------------------------------------------


def test_whole_numbers_are_counts():
    maps, haadf, *_ = discs()
    prepared = prepare(maps, haadf, OPTIONS, background=0.02)
    assert prepared.setting.variance is None
    assert prepared.notes == ()
    assert_array_equal(prepared.units.gain, 1)
    assert prepared.setting.background.shape == (2, 1, 1)


def test_background_maps_stay_maps():
    maps, haadf, *_ = discs()
    background = np.random.default_rng(0).random(maps.shape, np.float32)
    prepared = prepare(maps, haadf, OPTIONS, background=background)
    assert_array_equal(prepared.setting.background, background)


def test_gain_of_scaled_counts():
    maps, haadf, *_ = discs(96, 96)
    gain = np.array([0.013, 7.0])
    prepared = prepare(maps * gain[:, None, None], haadf, OPTIONS)
    assert prepared.setting.variance is None
    assert_allclose(prepared.units.gain, gain, rtol=0.2)
    assert "scaled counts" in prepared.notes[0]


def test_negative_values_have_gaussian_noise():
    rng = np.random.default_rng(0)
    _, haadf, _, truth = discs(96, 96)
    prepared = prepare(truth + rng.normal(0, 0.5, truth.shape), haadf, OPTIONS)
    assert_allclose(prepared.setting.variance.mean(), 0.25, rtol=0.2)
    assert "negative pixels" in prepared.notes[0]


def test_variance_of_maps_whose_background_was_subtracted():
    maps, haadf, _, truth = discs(96, 96)
    prepared = prepare(maps - 0.02, haadf, OPTIONS)
    on = truth[0] > 0
    assert_allclose(
        prepared.setting.variance[0][on].mean(), truth[0][on].mean(), rtol=0.4
    )


def test_background_of_values_does_not_matter():
    maps, haadf, z, _ = discs(48, 48)
    variance = np.full((2, 1, 1), 2.0)
    plain = solve(maps, haadf, z, GIVEN, variance=variance)
    raised = solve(maps + 5.0, haadf, z, GIVEN, variance=variance, background=5.0)
    assert_allclose(raised.maps, plain.maps, atol=1e-4)


def test_fractions_with_missing_pixels():
    maps, haadf, *_ = discs()
    fractions = (maps + 0.1) / (maps + 0.1).sum(axis=0)
    fractions[np.random.default_rng(0).random(maps.shape) < 0.2] = np.nan
    assert "fractions" in prepare(fractions, haadf, OPTIONS).units.warnings[0]


def test_given_variance_is_taken():
    maps, haadf, *_ = discs()
    prepared = prepare(maps, haadf, OPTIONS, variance=np.full((2, 1, 1), 0.3))
    assert_array_equal(prepared.setting.variance, np.float32(0.3))


def test_fractions_are_recognised():
    maps, haadf, *_ = discs()
    fractions = (maps + 0.1) / (maps + 0.1).sum(axis=0)
    prepared = prepare(fractions, haadf, OPTIONS)
    assert prepared.setting.variance is not None
    assert "fractions" in prepared.units.warnings[0]


def test_missing_pixels_are_counted_and_filled():
    maps, haadf, *_ = discs()
    maps[0, :3, :5] = np.nan
    haadf = haadf.astype(float)
    haadf[-1] = np.nan
    prepared = prepare(maps, haadf, OPTIONS)
    assert prepared.notes[0].startswith("15 missing pixels of the maps")
    assert prepared.notes[1].startswith("32 missing pixels of the HAADF")
    assert_array_equal(prepared.setting.trusted[-1], 0)
    assert np.isfinite(prepared.setting.haadf).all()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("lambda_haadf", -1, "lambda_haadf is -1: expected at least 0, or 'auto'"),
        ("lambda_tv", 0, "lambda_tv is 0: expected above 0, or 'auto'"),
        ("regularizer", "l1", "expected one of 'tgv', 'tv'"),
        ("tolerance", 0, "tolerance is 0"),
        ("max_iter", 0, "max_iter is 0: expected at least 1"),
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
    weights = {name: automatic.record[name] for name in ("lambda_tv", "lambda_haadf")}
    longer = CalibratedOptions(tolerance=1e-9, max_iter=4 * automatic.n_iter, **weights)
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


def test_small_images_are_taken_whole():
    maps = np.ones((2, 511, 512))
    assert representative_tiles(maps) is None
    assert representative_tiles(np.ones((2, 100, 5000))) is None
    assert mosaic(maps, None) is maps


@pytest.mark.parametrize("shape", [(520, 520), (384, 900), (1000, 600)])
def test_tiles_hold_most_counts_and_do_not_overlap(shape):
    maps = np.zeros((2, *shape), np.float32)
    maps[1] = 1e-6
    bright = (150, 170), (30, shape[1] - 60)
    for y, x in bright:
        maps[0, y : y + 20, x : x + 20] = 5
    maps[0, 0, 0] = np.nan
    tiles = representative_tiles(maps)
    times = np.zeros(shape, int)
    for y, x in (corner for row in tiles for corner in row):
        assert 0 <= y <= shape[0] - 96
        assert 0 <= x <= shape[1] - 96
        times[y : y + 96, x : x + 96] += 1
    assert times.max() == 1
    for y, x in bright:
        assert times[y : y + 20, x : x + 20].min() == 1
    together = mosaic(maps, tiles)
    assert together.shape == (2, 384, 384)
    assert np.nansum(together[0]) == 2 * 20 * 20 * 5


def test_a_large_image_is_calibrated_on_tiles(monkeypatch):
    maps, haadf, z, truth = discs(400, 400)
    whole = solve(maps, haadf, z, GIVEN)
    monkeypatch.setattr(calibrated, "LARGE", 2**17)
    parts = solve(maps, haadf, z, GIVEN)
    assert parts.notes == (
        "noise, coefficients and weights were found from 16 tiles of 96 x 96 pixels",
    )
    coefficients = (s.record["haadf_coefficients"] for s in (parts, whole))
    assert_allclose(*coefficients, rtol=0.05)
    assert error(parts.maps, whole.maps) < 0.02
    assert error(parts.maps, truth) < 1.05 * error(whole.maps, truth)
