from dataclasses import replace

import numpy as np
import pytest
from arrays_in import prepare, solve

import hyperspy_fusion as hf
from hyperspy_fusion.core.calibrated.linearity import linear_power, power_message
from hyperspy_fusion.core.calibrated.options import CalibratedOptions

Z = {"core_shell": (27, 25, 8), "lattice": (66, 21, 8), "janus": (79, 26, 8)}


def measured(name="lattice", counts=16.0, change=lambda image: image, size=96):
    maps, haadf, _ = getattr(hf.data, name)(size=size, counts=counts, seed=3)
    image = change(haadf.data.astype(float))
    return np.stack([signal.data for signal in maps]), image, Z[name]


def prepared(*args, **kwargs):
    maps, haadf, _ = measured(*args, **kwargs)
    return prepare(maps, haadf, CalibratedOptions(), background=0.02).prepared


def power(gamma):
    return lambda image: (image - image.min()) ** gamma


@pytest.mark.parametrize("name", Z)
@pytest.mark.parametrize("counts", [0.25, 1.0, 4.0, 16.0])
def test_an_image_as_detected_is_linear(name, counts):
    assert linear_power(prepared(name, counts)) == 1


@pytest.mark.parametrize("name", Z)
@pytest.mark.parametrize("gamma", [0.45, 0.5])
def test_a_gamma_correction_is_found(name, gamma):
    found = linear_power(prepared(name, 8.0, power(gamma), size=128))
    assert found == pytest.approx(1 / gamma, rel=0.25)


def test_a_square_and_a_logarithm_are_found():
    assert linear_power(prepared(change=power(2))) == pytest.approx(0.6, abs=0.1)
    logarithm = prepared(change=lambda image: np.log1p((image - image.min()) / 20))
    assert linear_power(logarithm) > 2.5


def test_units_of_the_image_and_missing_pixels_do_not_matter():
    one = prepared(change=power(0.5))
    other = prepared(change=lambda image: 7 * power(0.5)(image) - 3)
    assert linear_power(other) == pytest.approx(linear_power(one), rel=1e-3)
    trusted, data = one.trusted.copy(), one.data.copy()
    trusted[:20] = 0
    data[:, 60:, :20] = np.nan
    part = replace(one, trusted=trusted, data=data)
    assert linear_power(part) == pytest.approx(linear_power(one), rel=0.1)


def test_what_no_power_explains():
    rng = np.random.default_rng(0)
    assert linear_power(prepared(change=rng.permuted)) == 1
    x = np.linspace(0, 1, 96)
    sloping = prepared(
        "core_shell", change=lambda image: image + 0.5 * np.ptp(image) * x
    )
    assert linear_power(sloping) == 1


def test_little_can_be_said_of_a_small_or_flat_image():
    assert linear_power(prepared(change=power(0.5), size=40)) == 1
    one = prepared()
    assert linear_power(replace(one, haadf=np.ones_like(one.haadf))) == 1
    assert linear_power(replace(one, trusted=np.zeros_like(one.trusted))) == 1


def test_too_many_maps_to_tell():
    one = prepared(change=power(0.5))
    many = replace(one, data=np.tile(one.data, (8, 1, 1)))
    assert linear_power(many) == 1


def test_the_noise_of_values_is_that_which_was_given():
    one = prepared(change=power(0.5))
    values = replace(one, variance=np.maximum(one.data, 0.5))
    assert linear_power(values) == pytest.approx(linear_power(one), rel=0.1)
    # a larger one hides the power
    assert linear_power(replace(values, variance=100 * values.variance)) == 1


def test_it_is_told_and_recorded():
    options = CalibratedOptions(lambda_tv=3.0, lambda_haadf=0.1)
    found = solve(*measured(change=power(0.5), size=64), options, background=0.02)
    assert any("not linear in the maps" in text for text in found.warnings)
    assert found.record["haadf_power"] > 1.3
    clean = solve(*measured(size=64), options, background=0.02)
    assert not any("not linear" in text for text in clean.warnings)
    assert clean.record["haadf_power"] == 1


def test_message():
    assert power_message(1.0) == ""
    assert "gamma correction of 0.5, have been a log" in power_message(2.0)
    assert "the maps lose counts where there are many" in power_message(0.5)
