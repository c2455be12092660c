from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from arrays_in import given, prepare, solve
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion.core.calibrated import examine as examine_module
from hyperspy_fusion.core.calibrated.again import local_z_again
from hyperspy_fusion.core.calibrated.given import Pixels
from hyperspy_fusion.core.calibrated.options import CalibratedOptions
from hyperspy_fusion.core.calibrated.series import shared_weights
from hyperspy_fusion.core.calibrated.shift import Shift
from hyperspy_fusion.core.calibrated.slow import slow_message, without_slow

Z = (27, 25, 8)
BACKGROUND = 0.02


@cache
def specimen(size=64, counts=4.0):
    maps, haadf, truth = hf.data.core_shell(size=size, counts=counts)
    arrays = (np.stack([s.data for s in signals]) for signals in (maps, truth))
    return *arrays, haadf.data.astype(float)


def supported(image, strength=0.5):
    """The image on a support that becomes thicker to one side, with its noise."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] / len(image)
    added = strength * np.ptp(image) * (0.8 * x + 0.2 * y)
    return image + np.random.default_rng(1).poisson(added)


def fused(haadf, **options):
    maps, *_ = specimen()
    return solve(maps, haadf, Z, CalibratedOptions(**options), background=BACKGROUND)


def error(maps):
    truth = specimen()[1]
    squares = ((maps - truth) ** 2).mean(axis=(1, 2)) / (truth**2).mean(axis=(1, 2))
    return np.sqrt(squares).mean()


@pytest.fixture(scope="module")
def alone():
    return fused(specimen()[2], lambda_haadf=0.0)


@pytest.fixture(scope="module")
def on_support():
    return fused(supported(specimen()[2]))


def test_the_image_helps_in_spite_of_its_support(alone, on_support):
    record = on_support.record
    assert record["haadf_slow"] > 0.5
    assert record["lambda_haadf"] > 0
    assert record["flagged"] < 0.1
    clean = fused(specimen()[2])
    assert clean.record["haadf_slow"] == 0
    assert error(on_support.maps) < 0.95 * error(alone.maps)
    assert error(on_support.maps) < 1.1 * error(clean.maps)
    assert_allclose(
        record["haadf_coefficients"][:2],
        clean.record["haadf_coefficients"][:2],
        rtol=0.2,
    )
    (text,) = on_support.warnings
    assert text.startswith("the HAADF image has a slowly varying part that the maps do")


def test_the_slow_part_is_found_again(on_support):
    maps, _, haadf = specimen()
    pixels = Pixels(maps=maps, haadf=supported(haadf), background=BACKGROUND)
    z = local_z_again(pixels, on_support.maps, on_support.record)
    assert np.abs(z).max() < 4.5
    kept = {**on_support.record, "haadf_slow": 0.0}
    z = local_z_again(pixels, on_support.maps, kept)
    assert np.abs(z).max() > 10


def test_a_displacement_behind_a_support_is_found(on_support):
    haadf = specimen()[2]
    y, x = np.mgrid[:64, :64] / 64
    film = 0.7 * np.ptp(haadf) * np.exp(-((x - 0.6) ** 2 + (y - 0.4) ** 2) / 0.12)
    found = fused(np.roll(haadf, (3, -2), axis=(0, 1)) + film)
    assert found.record["haadf_slow"] > 0.1
    assert_allclose(found.record["shift"], [3, -2], atol=0.6)
    assert error(found.maps) < 1.1 * error(on_support.maps)
    assert any("is displaced against the maps" in text for text in found.warnings)


def test_a_far_displacement_has_to_predict_better(monkeypatch):
    _, _, haadf = specimen()
    expected = fused(haadf)
    monkeypatch.setattr(
        examine_module, "far_shift", lambda *_: Shift(y=9.0, x=0.0, z=9.0)
    )
    found = fused(haadf)
    assert not found.record["shift"].any()
    assert_allclose(found.maps, expected.maps)


def test_given_weights(alone, on_support):
    weights = {
        name: float(on_support.record[name]) for name in ("lambda_tv", "lambda_haadf")
    }
    found = fused(supported(specimen()[2]), **weights)
    assert found.record["haadf_slow"] > 0.5
    assert error(found.maps) < 0.95 * error(alone.maps)


@pytest.mark.parametrize("weights", [{}, {"lambda_tv": 4.0, "lambda_haadf": 0.1}])
@pytest.mark.parametrize("spoil", [np.flipud, np.transpose])
def test_a_wrong_image_stays_wrong(alone, spoil, weights):
    found = fused(spoil(supported(specimen()[2])), **weights)
    assert found.record["haadf_slow"] == 0
    assert error(found.maps) < 1.1 * error(alone.maps)


def test_of_no_image_nothing_is_subtracted(alone):
    found = fused(supported(specimen()[2]), lambda_haadf=0.0)
    assert found.record["haadf_slow"] == 0
    assert error(found.maps) == pytest.approx(error(alone.maps), rel=0.02)


def test_weights_of_several_images(on_support):
    maps, _, haadf = specimen()
    pixels, chemistry = given(maps, supported(haadf), Z, background=BACKGROUND)
    weights, further = shared_weights([pixels], chemistry, CalibratedOptions())
    assert further == ()
    assert weights.lambda_haadf == on_support.record["lambda_haadf"]
    assert weights.lambda_tv == on_support.record["lambda_tv"]


# --- the slow part -----------------------------------------------------------------


def known(size=96):
    """Data whose image is o + Σ c_i x_i of the measured maps, without noise."""
    maps, *_ = specimen(size)
    c = np.array([300.0, 200.0, 20.0])
    haadf = 500 + np.tensordot(c, maps, 1)
    prepared = prepare(maps, haadf, CalibratedOptions(), background=0.0).prepared
    base = haadf.min()
    return replace(prepared, coefficients=c, offset=500 - base)


def test_what_is_slow_is_subtracted_and_what_is_fine_stays():
    plain = known()
    y, x = np.mgrid[:96, :96] / 96
    slow = 400 * (x + 0.5 * np.sin(3 * y)).astype(np.float32)
    assert_allclose(without_slow(plain).haadf, plain.haadf, atol=0.1)
    found = without_slow(replace(plain, haadf=plain.haadf + slow))
    inside = (slice(8, -8), slice(8, -8))
    assert np.abs(found.haadf - plain.haadf)[inside].max() < 0.05 * np.ptp(slow)
    fine = 100 * (-1.0) ** np.arange(96, dtype=np.float32)
    found = without_slow(replace(plain, haadf=plain.haadf + fine))
    assert_allclose(found.haadf[inside], (plain.haadf + fine)[inside], atol=5)


def test_pixels_that_are_not_known_do_not_count():
    plain = known()
    bad = plain.haadf.copy()
    bad[20:30, 40:60] = 1e6
    trusted = plain.trusted.copy()
    trusted[20:30, 40:60] = 0
    found = without_slow(replace(plain, haadf=bad, trusted=trusted)).haadf
    assert_allclose(found[trusted > 0], plain.haadf[trusted > 0], atol=0.1)


def test_tiles_that_are_put_together_do_not_see_each_other():
    plain = known(96)
    slow = plain.haadf + np.linspace(0, 500, 96, dtype=np.float32)
    one = replace(plain, haadf=slow)
    other = replace(
        plain, haadf=slow[::-1, ::-1] + 2000, data=plain.data[:, ::-1, ::-1]
    )
    both = replace(
        one,
        data=np.concatenate([one.data, other.data], axis=-1),
        haadf=np.concatenate([one.haadf, other.haadf], axis=-1),
        trusted=np.concatenate([one.trusted, other.trusted], axis=-1),
    )
    alone = [without_slow(each).haadf for each in (one, other)]
    found = without_slow(both, tile=96).haadf
    assert_array_equal(found, np.concatenate(alone, axis=-1))
    assert np.abs(without_slow(both).haadf - found).max() > 50


def test_message():
    assert slow_message("the image", 0.0, 0.0) == ""
    text = slow_message("the image", 0.45, 0.02)
    assert "contradicted the maps in 45 % of the pixels, and without" in text
    assert text.endswith("that part does so in 2 % of the pixels")
    assert "contradicted the maps all over, and" in slow_message("it", 1.0, 0.0)


# --- vacuum ------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [1.0, 3.5, 4.5, 6.0])
def test_the_dark_side_of_a_wedge_is_no_vacuum(strength):
    maps, haadf, truth = hf.data.lattice(size=64, counts=4)
    haadf.data = haadf.data + strength * haadf.data.max() * np.linspace(0, 1, 64)
    found = solve(
        np.stack([signal.data for signal in maps]),
        haadf.data,
        (66, 21, 8),
        CalibratedOptions(lambda_tv=3.0),
    )
    assert not found.record["vacuum_background"].any()
    assert found.record["haadf_slow"] == 1
    kept = found.maps.sum(axis=(1, 2)) / [signal.data.sum() for signal in truth]
    assert_allclose(kept, 1, atol=0.1)


def test_vacuum_is_found_in_spite_of_a_support():
    maps, _, haadf = specimen()
    given, options = (maps, supported(haadf), Z), CalibratedOptions(lambda_tv=5.0)
    found = solve(*given, options).record
    assert found["haadf_slow"] > 0.1
    assert_allclose(found["vacuum_background"], BACKGROUND, atol=0.01)
