import numpy as np
import pytest
from arrays_in import solve
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from hyperspy_fusion import data
from hyperspy_fusion.core.calibrated import sharing
from hyperspy_fusion.core.calibrated.again import groups_again
from hyperspy_fusion.core.calibrated.given import Pixels
from hyperspy_fusion.core.calibrated.options import CalibratedOptions
from hyperspy_fusion.core.calibrated.sharing import Sharing

Z = 66, 21, 8
GIVEN = {"lambda_tv": 2.8, "lambda_haadf": 0.1}
BACKGROUND = np.full((3, 1, 1), 0.02)


def arrays(specimen):
    maps, truth = (
        np.stack([signal.data for signal in signals])
        for signals in (specimen.maps, specimen.truth)
    )
    return maps, specimen.haadf.data, truth


def fuse(
    maps, haadf, *, share=True, num_workers=None, weights=GIVEN, asked=None, **others
):
    options = CalibratedOptions(share=share, **weights, **(asked or {}))
    others = {"background": BACKGROUND, **others}
    return solve(maps, haadf, Z, options, num_workers=num_workers, **others)


def error(maps, truth):
    return np.mean(
        [
            np.linalg.norm(a - b) / np.linalg.norm(b)
            for a, b in zip(maps, truth, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def crystal():
    return arrays(data.lattice(size=64, counts=4))


@pytest.fixture(scope="module")
def fused(crystal):
    return fuse(*crystal[:2])


def test_a_crystal(crystal, fused):
    maps, haadf, truth = crystal
    first = fuse(maps, haadf, share=False)
    assert fused.record["sharing"] == 1
    assert (fused.record["sharing_gain"] > 3).all()
    assert fused.record["gap"] <= 1e-3
    assert error(fused.maps, truth) < 0.6 * error(first.maps, truth)
    sums = (maps - BACKGROUND).sum(axis=(1, 2))
    assert_allclose(fused.maps.sum(axis=(1, 2)), sums, rtol=1e-4)
    assert any("share their counts, " in note for note in fused.notes)


def test_threads_do_not_matter(crystal, fused):
    maps, haadf, _ = crystal
    again = fuse(maps, haadf, num_workers=1)
    assert_array_equal(again.maps, fused.maps)


def test_a_single_odd_column_is_kept():
    specimen = data.lattice(size=64, counts=16)
    maps, haadf, truth = arrays(specimen)
    # half of the heavy element of a column is missing
    y, x = np.unravel_index(truth[0, 24:40, 24:40].argmax(), (16, 16))
    rows, columns = slice(y + 20, y + 29), slice(x + 20, x + 29)
    odd = maps.copy()
    rng = np.random.default_rng(0)
    odd[0, rows, columns] = rng.binomial(maps[0, rows, columns].astype(int), 0.5)
    found = fuse(odd, haadf)
    column = found.maps[0, rows, columns].sum() / truth[0, rows, columns].sum()
    assert 0.35 < column < 0.65


def test_values_with_variance(crystal):
    _, haadf, truth = crystal
    variance = np.full((3, 1, 1), 2.0)
    rng = np.random.default_rng(0)
    values = rng.normal(truth, np.sqrt(2.0))
    first = fuse(values, haadf, share=False, variance=variance, background=None)
    second = fuse(values, haadf, variance=variance, background=None)
    assert second.record["sharing"] == 1
    assert error(second.maps, truth) < 0.8 * error(first.maps, truth)


def test_an_image_that_has_nothing_to_do_with_the_maps(crystal):
    """The lattice of the image must not be put into smooth chemistry."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.standard_normal((3, 64, 64)), (0, 5, 5), mode="wrap")
    truth = np.maximum(4 + 30 * smooth, 0.3)
    maps = rng.poisson(truth + 0.02).astype(float)
    found = fuse(maps, crystal[1], weights={})
    first = fuse(maps, crystal[1], weights={}, share=False)
    assert found.record["sharing"] == 0
    assert_array_equal(found.maps, first.maps)
    assert any("do not share their counts" in note for note in found.notes)


def test_missing_pixels_are_filled(crystal):
    maps, haadf, truth = crystal
    holed = maps.copy()
    holed[:, 20:24, 20:40] = np.nan
    found = fuse(holed, haadf)
    assert found.record["sharing"] == 1
    assert np.isfinite(found.maps).all()
    assert error(found.maps, truth) < 0.15


@pytest.fixture(scope="module")
def of_fractions():
    """A crystal whose maps are fractions, and the fusion of them."""
    maps, haadf, truth = arrays(data.lattice(size=64, counts=16))
    fractions = maps / maps.sum(axis=0)
    return fractions, haadf, truth, fuse(fractions, haadf, background=None)


def test_fractions(of_fractions):
    fractions, haadf, truth, found = of_fractions
    first = fuse(fractions, haadf, share=False, background=None)
    assert found.record["sharing"] == 1
    assert 0 < found.record["sharing_lower"] < 0.1
    assert_array_equal(found.unshared, first.maps)
    before, after, true = (a / a.sum(axis=0) for a in (first.maps, found.maps, truth))
    assert error(after, true) < 0.75 * error(before, true)

    def amounts(maps):
        return error(maps * (maps * truth).sum() / (maps**2).sum(), truth)

    assert amounts(found.maps) < amounts(first.maps)


def test_few_counts_in_fractions():
    """The noise of each pixel is that of its own counts, which the halves divide."""
    maps, haadf, _ = arrays(data.lattice(size=64, counts=4))
    total = maps.sum(axis=0)
    fractions = np.where(total > 0, maps / np.maximum(total, 1), np.nan)
    found = fuse(fractions, haadf, background=None)
    assert found.record["sharing"] == (found.record["sharing_gain"] > 3).all()
    assert np.isfinite(found.maps).all()


def test_groups_of_fractions_are_found_again(of_fractions):
    fractions, haadf, _, found = of_fractions
    asked = {"seed": 0, "regularizer": "tgv", "lock_flux": True}
    everywhere = np.ones(haadf.shape, bool)
    record = {**found.record, **asked}
    pixels = Pixels(maps=fractions, haadf=haadf)
    groups = groups_again(pixels, found.unshared, record, everywhere)
    assert groups.size == found.record["sharing_size"]


def test_what_was_returned_is_said():
    sharing = Sharing(
        accepted=True,
        gains=(5.0, 4.0),
        lower=0.042,
        by_element=(1.0, 5.0),
        choice=(64, 0.1, 0.01),
        size=40.0,
        returned=0.02,
    )
    assert "squared errors are 4.2 % lower" in sharing.note
    assert "In 2 % of the pixels the measured counts contradict" in sharing.note
    assert "no proof" in sharing.note


def test_errors_of_shared_counts(crystal):
    """Most are within 2 standard deviations; these are less than without sharing."""
    maps, haadf, truth = crystal
    found = fuse(maps, haadf, asked={"n_replicas": 6})
    first = fuse(maps, haadf, share=False, asked={"n_replicas": 6})
    assert found.record["sharing"] == 1
    assert (np.abs(found.maps - truth) < 2 * np.sqrt(found.variance)).mean() > 0.9
    assert found.variance.mean() < 0.5 * first.variance.mean()
    errors = found.replicas - found.maps
    assert_allclose((errors**2).mean(), found.variance.mean(), rtol=0.3)


def test_what_was_not_judged_again_is_said():
    sharing = Sharing(
        gains=(1.25, np.nan), by_element=(-2.0, 3.0), choice=(64, 0.1, 0.01)
    )
    assert "data is 1.2 standard deviations on a split (-2.00 for" in sharing.note


def test_a_large_image_is_judged_by_parts_of_it():
    maps, haadf, truth = arrays(data.lattice(size=200, counts=4))
    first = fuse(maps, haadf, share=False)
    found = fuse(maps, haadf)
    assert found.record["sharing"] == 1
    assert error(found.maps, truth) < 0.45 * error(first.maps, truth)
    assert_array_equal(found.unshared, first.maps)


def test_groups_are_found_again(crystal):
    maps, haadf, _ = crystal
    found = fuse(maps, haadf, background=None)
    asked = {"seed": 0, "regularizer": "tgv", "lock_flux": True}
    everywhere = np.ones(haadf.shape, bool)
    record = {**found.record, **asked}
    pixels = Pixels(maps=maps, haadf=haadf)
    groups = groups_again(pixels, found.unshared, record, everywhere)
    assert groups.size == found.record["sharing_size"]


def test_an_element_that_does_not_gain_is_as_before():
    maps, haadf, truth = arrays(data.lattice(size=96, counts=4, seed=1))
    found = fuse(maps, haadf, asked={"n_replicas": 4})
    assert found.record["sharing"] == 1
    assert_array_equal(found.record["sharing_elements"], [0, 1, 1])
    assert_array_equal(found.maps[0], found.unshared[0])
    for i in (1, 2):
        assert error(found.maps[i], truth[i]) < 0.6 * error(found.unshared[i], truth[i])
    # its errors are those of the first stage, too
    first = fuse(maps, haadf, share=False, asked={"n_replicas": 4})
    mean = found.variance.mean(axis=(1, 2)) / first.variance.mean(axis=(1, 2))
    assert mean[0] == pytest.approx(1, abs=0.1)
    assert (mean[1:] < 0.6).all()


def test_fractions_share_together():
    gains = {"accepted": True, "gains": (5.0, 4.0), "by_element": (0.5, 6.0)}
    of_counts = Sharing(**gains)
    assert of_counts.shared.tolist() == [False, True]
    assert "1 of 2 elements gain less than 1 and keep their maps" in of_counts.note
    of_fractions = Sharing(**gains, together=True)
    assert of_fractions.shared.tolist() == [True, True]
    assert "keep their maps" not in of_fractions.note


def test_nothing_is_shared_if_no_element_gains(crystal, monkeypatch):
    maps, haadf, _ = crystal
    first = fuse(maps, haadf, share=False)
    # the total is significant, and no element by itself
    monkeypatch.setattr(sharing, "_LEAST_OF_ELEMENT", 1e9)
    found = fuse(maps, haadf)
    assert found.record["sharing"] == 0
    assert_array_equal(found.maps, first.maps)
    assert "3 are required, and 1e+09 for one of the elements" in " ".join(found.notes)
