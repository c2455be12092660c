from dataclasses import replace

import numpy as np
import pytest
from arrays_in import given, solve
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, special
from specimens import fractions_of, wedge

from hyperspy_fusion.core.calibrated import multinomial
from hyperspy_fusion.core.calibrated.method import decide, understand
from hyperspy_fusion.core.calibrated.multinomial import Fractions, weigh_fractions
from hyperspy_fusion.core.calibrated.options import CalibratedOptions
from hyperspy_fusion.core.calibrated.series import shared_weights
from hyperspy_fusion.core.common.threads import workers

OPTIONS = CalibratedOptions()
GIVEN = CalibratedOptions(lambda_tv=4.0, lambda_haadf=0.03)
Z = (20, 20)


def error(maps, truth):
    scale = np.sum(maps * truth) / np.sum(maps * maps)
    return np.sqrt(np.mean((scale * maps - truth) ** 2) / np.mean(truth**2))


@pytest.fixture(scope="module")
def data():
    """Fractions on a wedge, HAADF image and true amounts."""
    counts, haadf, truth = wedge(64)
    return fractions_of(counts), haadf, truth


@pytest.fixture(scope="module")
def automatic(data):
    fractions, haadf, _ = data
    return solve(fractions, haadf, Z, OPTIONS)


def images(data):
    fractions, haadf, _ = data
    arguments = given(fractions, haadf, Z, background=0.0)
    preparation, prior, _ = understand(*arguments, OPTIONS)
    with workers() as run:
        return Fractions.of(preparation, prior, OPTIONS, run)


def test_fused_maps_are_amounts(data, automatic):
    fractions, _, truth = data
    measured = np.nan_to_num(fractions)
    assert error(automatic.maps, truth) < 0.08
    assert error(automatic.maps, truth) < 0.2 * error(measured, truth)
    shares, expected = fractions_of(automatic.maps), fractions_of(truth)
    assert error(shares, expected) < 0.3 * error(measured, expected)
    assert_allclose(automatic.maps.sum(axis=0).mean(), 1, rtol=0.05)
    assert automatic.maps.min() >= 0


def test_what_is_recorded(automatic):
    record = automatic.record
    assert record["fraction_sum"] == 1
    assert record["lambda_haadf"] == multinomial.LAMBDA_HAADF
    assert_allclose(record["counts_per_pixel"], 10, rtol=0.2)
    assert_allclose(record["count_value"], 0.1, rtol=0.2)
    assert abs(record["haadf_offset"] - 300) < 0.1 * 1200  # of the contrast
    assert np.isfinite(record["haadf_gain"])
    assert record["gap"] <= OPTIONS.tolerance
    assert "lock_flux is not used" in "".join(automatic.notes)
    (warning,) = automatic.warnings
    assert "dark level was found from the noise of the fractions" in warning


def test_the_model_of_the_image_is_that_of_the_amounts(data, automatic):
    record = automatic.record
    model = record["haadf_offset"] + np.tensordot(
        record["haadf_coefficients"], automatic.maps, axes=1
    )
    assert np.std(data[1] - model) < 0.1 * np.std(data[1])


def test_percentages_come_back_as_such(data, automatic):
    fractions, haadf, _ = data
    percent = solve(100 * fractions, haadf, Z, OPTIONS)
    assert_allclose(percent.maps, 100 * automatic.maps, rtol=1e-3, atol=1e-3)
    assert percent.record["fraction_sum"] == 100


def test_empty_pixels_may_be_zero_or_missing():
    counts, haadf, truth = wedge(64)
    counts[:, :24], truth[:, :24], haadf[:24] = 0, 0, 300
    haadf += np.random.default_rng(5).normal(0, 5, haadf.shape)
    missing = fractions_of(counts)
    zero, found = (
        solve(fractions, haadf, Z, GIVEN)
        for fractions in (np.nan_to_num(missing), missing)
    )
    assert_allclose(zero.maps, found.maps, atol=1e-6)
    assert error(found.maps, truth) < 0.15
    assert_allclose(found.record["haadf_offset"], 300, atol=3)
    assert "found in pixels without counts" in found.warnings[0]


def test_a_given_dark_level(data):
    fractions, haadf, _ = data
    options = CalibratedOptions(lambda_tv=4.0, lambda_haadf=0.03, haadf_offset=300)
    solution = solve(fractions, haadf, Z, options)
    assert_allclose(solution.record["haadf_offset"], 300)
    assert "whose dark level was given" in solution.warnings[0]


def test_without_the_image_the_sums_are_the_same(data):
    fractions, haadf, truth = data
    options = CalibratedOptions(lambda_tv=4.0, lambda_haadf=0)
    solution = solve(fractions, haadf, Z, options)
    assert solution.maps.sum(axis=0).std() < 0.1
    shares, expected = fractions_of(solution.maps), fractions_of(truth)
    assert error(shares, expected) < 0.3 * error(np.nan_to_num(fractions), expected)


def test_the_variance_of_amounts_is_not_known(data):
    fractions, haadf, _ = data
    with pytest.raises(ValueError, match="expected n_replicas=20 instead"):
        solve(fractions, haadf, Z, CalibratedOptions(uncertainty=True))


def test_replicas_hold_the_errors_of_fractions(data):
    fractions, haadf, truth = data
    options = CalibratedOptions(lambda_tv=4.0, n_replicas=20)
    solution = solve(fractions, haadf, Z, options)
    assert np.isnan(solution.variance).all()
    assert "errors of proportions" in solution.notes[-1]
    away = fractions_of(solution.replicas.transpose(1, 0, 2, 3))
    away = away.transpose(1, 0, 2, 3) - fractions_of(solution.maps)
    std = np.sqrt(np.mean(away**2, axis=0))
    seen = truth.sum(axis=0) > 0.2 * truth.sum(axis=0).max()
    wrong = np.abs(fractions_of(solution.maps) - fractions_of(truth))
    assert 0.9 < np.mean(wrong[:, seen] < 2 * std[:, seen]) < 0.995
    assert np.median(std[:, seen]) < 0.1  # it says something
    again = solve(fractions, haadf, Z, options)
    np.testing.assert_array_equal(again.replicas, solution.replicas)


@pytest.mark.parametrize("shift", [(0, 0), (3, -3)])
def test_displaced_image(shift):
    counts, haadf, truth = wedge(64)
    y, x = np.mgrid[:64, :64] - 31.5
    particle = np.hypot(y, x) < 24
    counts[:, ~particle], truth[:, ~particle], haadf[~particle] = 0, 0, 300
    haadf += np.random.default_rng(5).normal(0, 5, haadf.shape)
    moved = ndimage.shift(haadf, shift, order=0, mode="nearest")
    solution = solve(fractions_of(counts), moved, Z, GIVEN)
    assert_allclose(solution.record["shift"], shift, atol=1 if any(shift) else 0)
    assert any("displaced" in one for one in solution.warnings) == any(shift)
    assert error(solution.maps, truth) < 0.3


def test_missing_pixels_of_the_image(data):
    fractions, haadf, truth = data
    haadf = haadf.copy()
    haadf[10:14, 20:24] = np.nan
    assert error(solve(fractions, haadf, Z, GIVEN).maps, truth) < 0.15


def test_sums_of_the_counts_that_fractions_stand_for_are_kept(data, run):
    fractions, haadf, _ = data
    arguments = given(fractions, haadf, Z, background=0.0)
    preparation, prior, _ = understand(*arguments, GIVEN)
    decision, prepared = decide(preparation, prior, GIVEN, run)
    problem = decision.last_problem(prepared, run)
    counts = np.where(np.isnan(problem.data), 0, problem.data).sum(axis=(1, 2))
    assert_allclose(problem.flux, counts, rtol=1e-5)
    assert not decision.record()["sum_kept"].any()


def test_a_rare_heavy_element_does_not_explain_the_image():
    """It would cost least: two grains of gold on titania of varied thickness."""
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:64, :64]
    support = 3 + 2 * np.sin(x / 5) * np.cos(y / 7)
    gold = sum(
        np.exp(-((y - j) ** 2 + (x - i) ** 2) / 8) for j, i in ((20, 20), (44, 36))
    )
    truth = np.stack([2 * support, support, gold])
    numbers = 8, 22, 79
    image = np.tensordot(np.power(numbers, 1.7), truth, 1)
    haadf = 300 + image + rng.normal(0, 5, image.shape)
    fused = solve(fractions_of(rng.poisson(truth)), haadf, numbers, GIVEN).maps
    found, expected = (maps[2].sum() / maps.sum() for maps in (fused, truth))
    assert_allclose(found, expected, rtol=0.3)


# --- the choice of the weights --------------------------------------------------------


def test_given_weights_are_not_tried(data, run):
    weights = weigh_fractions(
        [images(data)], run, seed=0, lambda_tv=3.0, lambda_haadf=0.1
    )
    assert (weights.lambda_tv, weights.lambda_haadf) == (3.0, 0.1)
    assert len(weights.tried) == 0


def test_lambda_is_chosen_for_a_given_weight_of_the_image(data, run):
    calls = []
    weights = weigh_fractions(
        [images(data)],
        run,
        seed=0,
        lambda_haadf=0.0,
        callback=lambda n, gap: calls.append((n, gap)),
    )
    assert weights.lambda_haadf == 0
    assert len(weights.tried) < len(calls)  # those of norms are not in the table
    assert calls[:2] == [(0, np.inf), (1, np.inf)]


def test_whole_pixels_are_hidden_and_each_once(data):
    image = images(data)
    folds = multinomial._folds(image, 0)
    assert len(folds) == 4
    hidden = [np.isnan(fold.image.prepared.data) for fold in folds]
    for lost, fold in zip(hidden, folds, strict=True):
        assert_array_equal(lost.all(axis=0), lost.any(axis=0))
        assert_allclose(lost.mean(), 0.2, atol=0.03)
        assert not fold.weight[~lost].any()
    empty = np.isnan(image.prepared.data)
    assert np.sum(hidden, axis=0, where=~empty).max() == 1


def test_errors_of_predictions(data):
    fold = multinomial._folds(images(data), 0)[0]
    perfect = fold.errors(np.where(np.isnan(fold.target), 0.5, fold.target) + 1e-9)
    assert_allclose(perfect, 0, atol=1e-4)
    found = np.full_like(fold.target, 0.5)
    squares, deviance = fold.errors(found)
    assert_allclose(squares, np.nansum(fold.weight * (fold.target - 0.5) ** 2, axis=0))
    # the logarithm of the likelihood is that of so many counts with these shares
    measured, expected = map(fold.image.law.shares, (fold.target, found))
    gain = np.sum(special.rel_entr(measured, expected), axis=0)
    there = fold.counts > 0
    assert_allclose(deviance[there], (fold.counts * gain)[there], rtol=1e-4)
    assert not deviance[~there].any()


def test_noise_has_the_score_of_its_elements():
    """The weighted squared noise of each element is the same on average."""
    counts, haadf, truth = wedge(96)
    image = images((fractions_of(counts), haadf, truth))
    noise = np.nan_to_num(fractions_of(counts) - fractions_of(truth))
    weight, _ = image.score_weights()
    squares = weight * noise**2
    assert_allclose(*squares.mean(axis=(1, 2)), rtol=0.2)
    left, right = squares[..., :48].mean(), squares[..., 48:].mean()
    assert_allclose(left, right, rtol=0.3)


def test_shared_weights(data):
    fractions, haadf, truth = data
    image, chemistry = given(fractions, haadf, Z, background=0.0)
    weights, further = shared_weights([image, image], chemistry, OPTIONS)
    assert further == ()
    alone = solve(fractions, haadf, Z, OPTIONS).record
    assert_allclose(weights.lambda_tv, alone["lambda_tv"], rtol=1e-6)
    counts = replace(image, maps=np.rint(truth))
    with pytest.raises(ValueError, match="some maps of the series are fractions and"):
        shared_weights([image, counts], chemistry, OPTIONS)
