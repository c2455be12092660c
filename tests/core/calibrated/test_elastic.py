from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from arrays_in import prepare, solve
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion.core.calibrated.convex.solver import WarmStart
from hyperspy_fusion.core.calibrated.elastic import Found, fits_inverted
from hyperspy_fusion.core.calibrated.examine import counts_alone
from hyperspy_fusion.core.calibrated.guard import GuardReport
from hyperspy_fusion.core.calibrated.options import CalibratedOptions
from hyperspy_fusion.core.calibrated.selection import select
from hyperspy_fusion.core.calibrated.shift import Shift
from hyperspy_fusion.core.calibrated.weights import (
    LAMBDA_TV,
    LEAST_GAIN,
    Search,
    Weights,
)
from hyperspy_fusion.core.common.threads import workers

Z = (66, 21, 8)


@cache
def specimen(counts=4.0):
    maps, haadf, truth = hf.data.lattice(size=64, counts=counts, seed=2)
    arrays = (np.stack([s.data for s in signals]) for signals in (maps, truth))
    return *arrays, haadf.data, truth


def image(kind, **options):
    return hf.data.elastic_image(specimen()[-1], kind, **options).data


def fused(*images, **options):
    maps, _, haadf, _ = specimen()
    names = [f"number {k}" for k in range(len(images))]
    given = {"elastic": np.stack(images), "elastic_names": names} if images else {}
    return solve(maps, haadf, Z, CalibratedOptions(**options), **given)


@pytest.fixture(scope="module")
def haadf_alone():
    return fused()


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(3)
    return 3.7 * rng.poisson(1000, specimen()[0][0].shape) + 500.0


def error(maps):
    truth = specimen()[1]
    squares = ((maps - truth) ** 2).mean(axis=(1, 2)) / (truth**2).mean(axis=(1, 2))
    return np.sqrt(squares).mean()


def model(solution, k=0):
    """The image as it was measured, from what the record holds."""
    record = solution.record
    maps = np.tensordot(record["elastic_coefficients"][k], solution.maps, 1)
    return record["elastic_offset"][k] + maps


# --- what comes out ---------------------------------------------------------------


def test_a_phase_helps(haadf_alone):
    found = fused(image("phase"))
    assert error(found.maps) < 0.85 * error(haadf_alone.maps)
    assert found.converged
    assert found.record["lambda_elastic"][0] > 0
    assert found.record["elastic_gain"][0] > 2
    assert np.corrcoef(model(found).ravel(), image("phase").ravel())[0, 1] > 0.95
    assert_allclose(model(found).mean(), image("phase").mean(), rtol=0.02)
    (note,) = (note for note in found.notes if "number 0" in note)
    assert note.startswith("the image number 0 was used; its weight")
    # the total of the costs is that of all terms
    tv, weights = found.costs.tv[-1], found.record
    terms = weights["lambda_haadf"] * found.costs.haadf[-1] + found.costs.chemical[-1]
    assert found.costs.total[-1] > 1.001 * (terms + weights["lambda_tv"] * tv)


def test_a_bright_field_image_is_turned_over(haadf_alone):
    found = fused(image("bf"))
    assert error(found.maps) < error(haadf_alone.maps)
    assert (found.record["elastic_coefficients"] <= 0).all()
    assert np.corrcoef(model(found).ravel(), image("bf").ravel())[0, 1] > 0.9
    assert any("inverted contrast" in note for note in found.notes)
    assert not any("inverted" in text for text in found.warnings)


def test_an_image_of_noise_changes_no_bit(haadf_alone, noise):
    found = fused(noise)
    assert_array_equal(found.maps, haadf_alone.maps)
    assert found.record["lambda_elastic"] == 0
    for name, value in haadf_alone.record.items():
        assert_array_equal(found.record[name], value, err_msg=name)
    assert any("number 0 was not used: it does not improve" in n for n in found.notes)
    assert found.warnings == haadf_alone.warnings


def test_a_bad_image_does_not_change_what_a_good_one_gives(noise):
    alone, both = fused(image("phase")), fused(noise, image("phase"))
    assert_array_equal(both.maps, alone.maps)
    assert both.record["lambda_elastic"][0] == 0


def test_a_displaced_image_is_moved_back(haadf_alone):
    found = fused(image("phase", shift=(2, -1)))
    assert_allclose(found.record["elastic_shift"], [[2, -1]], atol=0.2)
    assert error(found.maps) < 0.9 * error(haadf_alone.maps)
    assert any("the image number 0 is displaced" in text for text in found.warnings)


def test_a_slow_part_is_subtracted(haadf_alone):
    found = fused(image("phase", wave=True))
    assert found.record["elastic_slow"][0] > 0.1
    assert found.record["elastic_flagged"][0] < 0.1 * found.record["elastic_slow"][0]
    assert error(found.maps) < 0.95 * error(haadf_alone.maps)
    assert any("number 0 has a slowly varying part" in note for note in found.notes)


@pytest.mark.parametrize("mismatch", [{}, {"unmapped": True}])
def test_what_is_not_slow_stays(mismatch):
    found = fused(image("phase", **mismatch))
    assert found.record["elastic_slow"] == 0
    assert not any("slowly" in note for note in found.notes)


def test_missing_and_bad_pixels_of_an_image(haadf_alone):
    phase = image("phase").copy()
    phase[20:30, 5:40] = np.nan
    phase[50, 50] = 1e6
    found = fused(phase)
    assert np.isfinite(found.maps).all()
    assert error(found.maps) < 0.95 * error(haadf_alone.maps)
    assert any("number 0 is hot (row 50, column 50)" in note for note in found.notes)


def test_given_weights_stay(noise):
    given = {"lambda_tv": 3.0, "lambda_haadf": 0.1}
    found = fused(image("phase"), **given)
    assert {name: found.record[name] for name in given} == given
    assert found.record["lambda_elastic"][0] > 0
    assert_array_equal(fused(noise, **given).maps, fused(**given).maps)


def test_values_with_a_variance():
    maps, _, haadf, _ = specimen()
    variance = np.maximum(maps, 1.0)
    options = {"lambda_tv": 3.0, "lambda_haadf": 0.1}
    arguments = maps - 0.3, haadf, Z, CalibratedOptions(**options)
    more = {"elastic": image("phase")[None], "elastic_names": ["phase"]}
    alone = solve(*arguments, variance=variance)
    found = solve(*arguments, variance=variance, **more)
    assert found.record["lambda_elastic"][0] > 0
    assert error(found.maps) < error(alone.maps)


def test_fractions_take_no_further_image():
    maps, _, haadf, _ = specimen(200.0)
    fractions = maps / maps.sum(axis=0)
    alone = solve(fractions, haadf, Z, CalibratedOptions())
    more = {"elastic": image("phase")[None], "elastic_names": ["phase"]}
    found = solve(fractions, haadf, Z, CalibratedOptions(), **more)
    assert_array_equal(found.maps, alone.maps)
    assert found.record["lambda_elastic"] == 0
    assert any("phase was not used: the maps are fractions" in n for n in found.notes)


# --- what is found of an image ------------------------------------------------------


@pytest.mark.parametrize("counts", [1.0, 4.0])
@pytest.mark.parametrize("kind", ["phase", "maadf", "bf"])
def test_contrast(counts, kind):
    maps, _, _, truth = specimen(counts)
    values = hf.data.elastic_image(truth, kind).data
    prepared = prepare(maps, values, CalibratedOptions()).prepared
    with workers(1) as run:
        alone = counts_alone(prepared, WarmStart(run))
    assert fits_inverted(prepared, alone) is (kind == "bf")
    unseen = replace(prepared, trusted=0 * prepared.trusted)
    assert not fits_inverted(unseen, alone)


def found_with(**changes):
    report = {"largest": 3.0, "flagged": 0.0, "brighter": True}
    report |= {k: changes.pop(k) for k in tuple(changes) if k in report}
    usual = {
        "name": "ADF",
        "prior": np.ones(3),
        "coefficients": np.ones(3),
        "contrast": 1.0,
        "offset": 0.0,
        "error": 0.0,
        "inverted": False,
        "shift": Shift(),
        "report": GuardReport(**report),
    }
    return Found(**{**usual, **changes})


def test_images_that_are_not_tried():
    assert found_with(flagged=0.5).obstacle == ""
    assert "contradicts the maps in 51 % of" in found_with(flagged=0.51).obstacle
    assert "none of the elements" in found_with(coefficients=np.zeros(3)).obstacle
    (told,) = found_with(flagged=0.7).told
    assert told == f"the image ADF was not used: {found_with(flagged=0.7).obstacle}"


def test_warnings_are_about_images_that_are_used():
    spoilt = {"flagged": 0.1, "shift": Shift(y=2.0, x=0.0, z=9.0)}
    assert found_with(**spoilt).warnings == ()
    displaced, contradicted = found_with(**spoilt, weight=0.1).warnings
    assert displaced.startswith("the image ADF is displaced against the maps by (2, 0)")
    assert contradicted.startswith("the image ADF contradicts the maps in 10 % of the")
    assert found_with(weight=0.1).warnings == ()


# --- the choice of the weights ------------------------------------------------------


class Score:
    """Block scores that are lowest at some log weights, with images of no use."""

    def __init__(self, best, *, gain=1.0, noise=0.01, n_blocks=25, seed=0):
        self.best, self.gain = best, gain
        rng = np.random.default_rng(seed)
        self.noise = {}
        self.draw = lambda: noise * rng.normal(size=n_blocks)
        self.asked = []

    def __call__(self, lambda_tv, mus):
        self.asked.append((lambda_tv, mus))
        total = 10 + 0.1 * np.log(lambda_tv / 4) ** 2
        for mu, best in zip(mus, self.best, strict=True):
            if best is None:
                total += 0.1 * mu
            else:
                away = np.log(max(mu, 1e-3) / best)
                total += self.gain * (away**2 / 50 if mu > 0 else 1)
        noise = self.noise.setdefault((lambda_tv, mus), self.draw())
        return total + noise


def chosen(best, start, free=None, *, other=None, haadf_free=True, **options):
    score = Score(best, **options)
    n = len(best) - 1
    free = range(n) if free is None else free
    weights = Weights(lambda_tv=4.2, lambda_haadf=start, gain=5.0, tried=np.empty(0))
    second = Score(other or best, seed=1, **options)
    searches = (Search(one, LAMBDA_TV) for one in (score, second))
    return score, select(*searches, weights, [0.0] * n, free, haadf_free=haadf_free)


@pytest.mark.parametrize(("haadf", "other"), [*product([0.1, 0.3], [0.03, 0.3, 1.0])])
def test_best_weights_are_found(haadf, other):
    _, (position, mus, gains) = chosen((haadf, other), 0.1)
    assert mus == (haadf, other)
    assert LAMBDA_TV[position] == 4.0
    assert gains[0] > 2


def test_images_of_no_use_are_left_out():
    score, (_, mus, gains) = chosen((0.1, None, 0.3, None), 0.1)
    assert mus == (0.1, 0, 0.3, 0)
    assert gains[0] < 2 < gains[1]
    assert len(set(score.asked)) == len(score.asked)  # each once


def test_only_images_that_are_allowed_are_tried():
    score, (_, mus, gains) = chosen((0.1, 0.3, 0.3), 0.1, free=[1])
    assert mus == (0.1, 0, 0.3)
    assert np.isnan(gains[0])
    assert all(asked[1] == 0 for _, asked in score.asked)


def test_a_given_weight_of_haadf_stays():
    _, (_, mus, _) = chosen((0.3, 0.3), 0.07, haadf_free=False)
    assert mus == (0.07, 0.3)


def test_an_image_is_used_where_haadf_is_not():
    _, (_, mus, gains) = chosen((None, 0.3), 0.0)
    assert mus == (0, 0.3)
    assert gains[0] > 2


def test_a_small_gain_is_not_enough():
    _, (_, mus, gains) = chosen((0.1, 0.1), 0.1, gain=1e-4, noise=1.0)
    assert mus == (0.1, 0)
    assert gains[0] < LEAST_GAIN


def test_a_gain_on_one_split_alone_is_not_enough():
    _, (_, mus, gains) = chosen((0.1, 0.3), 0.1, other=(0.1, None))
    assert mus == (0.1, 0)
    assert gains[0] < LEAST_GAIN


def test_the_weight_of_haadf_falls_below_its_range_only_if_that_is_sure():
    _, (_, mus, _) = chosen((0.01, 0.3), 0.03, noise=0.1)
    assert mus[0] == 0.03
    _, (_, mus, _) = chosen((0.01, 0.3), 0.03, noise=0.0001)
    assert mus[0] == 0.01
