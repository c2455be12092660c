import warnings
from dataclasses import replace

import hyperspy.api as hs
import numpy as np
import pytest
from known_discs import discs, measured
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

import hyperspy_fusion
from hyperspy_fusion.core.calibrated.flux import FluxLock, judge, vacuum_background


def as_values(prepared, data):
    """The same measurement as values with the variance of the counts."""
    variance = np.maximum(prepared.data, 1)
    return replace(
        prepared, data=data, variance=variance, background=np.zeros((2, 1, 1))
    )


def test_known_sums_are_kept():
    found = judge(measured(discs()), ["Co", "Mn"])
    assert found.kept.all()
    assert not found.notes
    assert not found.warnings


@pytest.mark.parametrize("sparse", [0.0, 0.2])
def test_a_sum_below_the_noise_of_its_background_is_not_kept(sparse):
    truth = discs()
    truth[0] *= sparse
    prepared = measured(truth)
    prepared = replace(prepared, background=np.array([[[3.0]], [[0.02]]]))
    rng = np.random.default_rng(0)
    data = prepared.data + 0
    data[0] = rng.poisson(truth[0] + 3)
    found = judge(replace(prepared, data=data), ["Co", "Mn"])
    assert found.kept.tolist() == [False, True]
    (note,) = found.notes
    assert "the sum of the map of Co is known" in note


def test_background_above_the_counts():
    prepared = measured(discs())
    prepared = replace(prepared, background=np.array([[[1.0]], [[0.02]]]))
    found = judge(prepared)
    assert found.kept.tolist() == [False, True]
    (warning,) = found.warnings
    assert "the zero of the map number 0 is too low" in warning
    assert "background is larger than its counts" in warning


def test_zero_below_zero():
    prepared = measured(discs())
    data = prepared.data - np.array([0.0, 0.6])[:, None, None]
    found = judge(as_values(prepared, data), ["Co", "Mn"])
    assert found.kept.tolist() == [True, False]
    (warning,) = found.warnings
    assert "the zero of the map of Mn is too low: too much was subtracted" in warning


@pytest.mark.parametrize("too_many", [0.0, 0.5])
def test_zero_below_zero_between_atomic_columns(too_many):
    # any block of pixels holds a column, whose counts outweigh it
    maps, haadf, _ = hyperspy_fusion.data.lattice(96)
    image = gaussian_filter(haadf.data, 2)
    dark = image < image.min() + 0.1 * np.ptp(image)
    for signal in maps:
        signal.data = signal.data - too_many * dark
        signal.set_noise_variance(hs.signals.Signal2D(np.maximum(signal.data, 0.2)))
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        fused = hyperspy_fusion.fuse_multimodal(
            maps, haadf, lambda_tv=4, lambda_haadf=0.1
        )
    told = [str(one.message) for one in raised]
    found = [text for text in told if "where the HAADF image is darkest" in text]
    assert len(found) == 2 * (too_many > 0)
    if found:
        assert found[0].startswith("the zero of the map of Dy is too low: too much")
        assert "standard deviations below 0). Its sum is not kept" in found[0]
    record = fused[0].metadata.Multimodal_fusion
    assert record.sum_kept[0] == (too_many == 0)


def test_exact_zeros_are_hardly_taken_for_too_low():
    rng = np.random.default_rng(0)
    truth = discs()
    n_wrong = 0
    prepared = measured(truth)
    for _ in range(200):
        data = rng.poisson(truth + 0.02).astype(np.float32)
        n_wrong += len(judge(replace(prepared, data=data)).warnings)
    assert n_wrong <= 4  # of 400


def test_loadings_are_refused():
    prepared = measured(discs())
    data = prepared.data.copy()
    data[1] *= -1
    with pytest.raises(ValueError, match=r"the map of Mn is negative .* loadings"):
        judge(as_values(prepared, data), ["Co", "Mn"])


def test_missing_pixels_tell_nothing():
    prepared = measured(discs())
    data = prepared.data.copy()
    data[:, :20] = np.nan
    missing = replace(prepared, data=data)
    assert judge(missing).kept.all()
    flux = replace(missing, lock=FluxLock(kept=np.ones(2, bool))).flux
    assert_allclose(flux, (prepared.data - 0.02)[:, 20:].sum(axis=(1, 2)))
    free = replace(missing, lock=FluxLock(kept=np.array([False, True]))).flux
    assert free.tolist() == [np.inf, flux[1]]
    assert replace(missing, lock=FluxLock.free(2)).flux is None


@pytest.mark.parametrize("offset", [0.25, 1.0])
def test_particles_do_not_pay_for_negative_vacuum(offset):
    maps, haadf, truth = hyperspy_fusion.data.core_shell(64, counts=16)
    particles = sum(image.data for image in truth) > 0.5
    for image in maps:
        image.data = image.data - offset * ~particles
    with pytest.warns(UserWarning, match="the zero of the map of (Co|Mn|O) is too low"):
        fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    for one, true in zip(fused, truth, strict=True):
        total = true.data[particles].sum()
        assert_allclose(one.data[particles].sum(), total, rtol=0.03)


@pytest.mark.parametrize("tile_size", [None, 64])
def test_measured_pixels_keep_their_counts_beside_missing_ones(tile_size):
    maps, haadf, _ = hyperspy_fusion.data.core_shell(128, counts=4)
    mask = np.zeros((128, 128), dtype=bool)
    mask[:, 86:] = True
    fused = hyperspy_fusion.fuse_multimodal(
        maps,
        haadf,
        background=0,
        mask=mask,
        lambda_haadf=0.1,
        lambda_tv=4.0,
        tolerance=0.02,  # a large hole takes many iterations
        tile_size=tile_size,
    )
    for one, counts in zip(fused, maps, strict=True):
        total = counts.data[~mask].sum()
        assert_allclose(one.data[~mask].sum(), total, rtol=1e-5)


# Vacuum


def test_background_of_the_vacuum():
    prepared = measured(discs(128))
    found, pixels, doubtful = vacuum_background(prepared)
    assert not doubtful
    assert pixels > 1000
    assert_allclose(
        found, 0.02 + 0.05, rtol=0.12
    )  # of the counter, and of the specimen
    data = prepared.data.copy()
    data[:, :, :64] = np.nan
    half = vacuum_background(replace(prepared, data=data)).background
    assert_allclose(half, 0.07, rtol=0.15)
    full = replace(prepared, offset=0.0)  # nothing is as dark as the offset
    assert vacuum_background(full) == (None, 0, False)
    small = measured(discs(24))
    assert vacuum_background(small) == (None, 0, False)


def test_the_error_of_a_background_that_was_found():
    prepared = measured(discs(128))
    kept = [judge(prepared, vacuum=n).kept for n in (0, 128**2, 1)]
    assert_array_equal(kept[0], kept[1])
    assert kept[0].any()
    assert not kept[2].any()


@pytest.mark.parametrize("background", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("name", ["core_shell", "janus"])
def test_a_background_of_many_counts(name, background):
    maps, haadf, truth = getattr(hyperspy_fusion.data, name)(96, seed=3)
    rng = np.random.default_rng(7)
    for signal in maps:
        more = rng.poisson(background - 0.02, signal.data.shape)
        signal.data = signal.data + more
    if (name, background) == ("janus", 1.0):  # three quarters of the field are vacuum
        with pytest.warns(UserWarning, match="no background was subtracted: where"):
            hyperspy_fusion.fuse_multimodal(maps, haadf)
        return
    fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    found = fused[0].metadata.Multimodal_fusion.vacuum_background
    assert_allclose(found, background, rtol=0.15)
    for signal, true in zip(fused, truth, strict=True):
        assert signal.data.sum() == pytest.approx(true.data.sum(), rel=0.15)


@pytest.mark.parametrize("tile_size", [None, 96])
def test_background_that_is_not_given_is_that_of_the_vacuum(tile_size):
    maps, haadf, _ = hyperspy_fusion.data.core_shell(128, counts=4)
    weights = {"lambda_haadf": 0.1, "lambda_tv": 4.0, "tile_size": tile_size}
    fused = hyperspy_fusion.fuse_multimodal(maps, haadf, **weights)
    record = fused[0].metadata.Multimodal_fusion
    assert_allclose(record.vacuum_background, 0.02, rtol=0.2)
    assert "the mean of the maps in the vacuum" in record.notes
    for one, counts, found in zip(fused, maps, record.vacuum_background, strict=True):
        total = counts.data.sum() - found * 128**2
        assert_allclose(one.data.sum(), total, rtol=1e-4)
    given = hyperspy_fusion.fuse_multimodal(maps, haadf, background=0, **weights)
    record = given[0].metadata.Multimodal_fusion
    assert_allclose(record.vacuum_background, 0)
    assert "vacuum" not in record.notes
    assert_allclose(given[0].data.sum(), maps[0].data.sum(), rtol=1e-4)


@pytest.mark.parametrize("counts", [2, 16])
def test_a_matrix_is_no_background(counts):
    """Precipitates in a foil, whose element is everywhere: there is no vacuum."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:96, :96]
    places = rng.uniform(0, 96, (20, 2))
    odd = sum(np.exp(-(((y - a) / 3) ** 2) - ((x - b) / 8) ** 2) for a, b in places)
    thickness = np.array([1 - 0.3 * np.minimum(odd, 1), 0.02 + 0.4 * odd])
    expected = thickness * np.array([counts, 2 * counts])[:, None, None]
    bright = np.tensordot([13**1.7, 29**1.7], thickness, 1) / 300
    haadf = hyperspy_fusion.HAADFImage(rng.poisson(2000 * (0.1 + bright)))
    measured = rng.poisson(expected + 0.02)
    maps = {
        element: hyperspy_fusion.ElementalMap(image)
        for element, image in zip(("Al", "Cu"), measured, strict=True)
    }
    with pytest.warns(UserWarning, match="may be of an element that is everywhere"):
        fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    for signal, true in zip(fused, expected, strict=True):
        assert signal.data.sum() == pytest.approx(true.sum(), rel=0.1)
