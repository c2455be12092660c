from dataclasses import replace

import numpy as np
import pytest
from known_discs import discs, measured
from numpy.testing import assert_allclose

import hyperspy_fusion
from hyperspy_fusion.core.calibrated.flux import FluxLock, judge


def as_values(prepared, data):
    """The same measurement as values with the variance of the counts."""
    variance = np.maximum(prepared.data, 1)
    return replace(
        prepared, data=data, variance=variance, background=np.zeros((2, 1, 1))
    )


def test_known_sums_are_kept():
    found = judge(measured(discs()), ["Co", "Mn"])
    assert_allclose(found.deviations, 0)
    assert not found.notes
    assert not found.warnings


@pytest.mark.parametrize("sparse", [0.0, 0.2])
def test_a_sum_below_its_noise_is_kept_within_that_of_its_background(sparse):
    truth = discs()
    truth[0] *= sparse
    prepared = measured(truth)
    prepared = replace(prepared, background=np.array([[[3.0]], [[0.02]]]))
    rng = np.random.default_rng(0)
    data = prepared.data + 0
    data[0] = rng.poisson(truth[0] + 3)
    found = judge(replace(prepared, data=data), ["Co", "Mn"])
    detected = sparse > 0
    assert_allclose(found.deviations, [np.inf if detected else 2, 0])
    (note,) = found.notes
    assert "the sum of the map of Co" in note
    assert ("% only" in note) == detected


def test_background_above_the_counts():
    prepared = measured(discs())
    prepared = replace(prepared, background=np.array([[[1.0]], [[0.02]]]))
    found = judge(prepared)
    assert_allclose(found.deviations, [np.inf, 0])
    (warning,) = found.warnings
    assert "the zero of the map number 0 is too low" in warning
    assert "background is larger than its counts" in warning


def test_zero_below_zero():
    prepared = measured(discs())
    data = prepared.data - np.array([0.0, 0.6])[:, None, None]
    found = judge(as_values(prepared, data), ["Co", "Mn"])
    assert_allclose(found.deviations, [0, np.inf])
    (warning,) = found.warnings
    assert "the zero of the map of Mn is too low: too much was subtracted" in warning


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
    assert_allclose(judge(missing).deviations, 0)
    flux, slack = replace(missing, lock=FluxLock.exact(2)).flux
    assert_allclose(flux, (prepared.data - 0.02)[:, 20:].sum(axis=(1, 2)))
    assert_allclose(slack, 0)


def test_slack_is_the_noise_of_the_background():
    prepared = measured(discs())
    lock = FluxLock(deviations=np.array([2.0, np.inf]))
    _, slack = replace(prepared, lock=lock).flux
    assert_allclose(slack, [2 * np.sqrt(0.02 * 64**2), np.inf])
    assert replace(prepared, lock=FluxLock.free(2)).flux == (None, None)


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
        mask=mask,
        lambda_haadf=0.1,
        lambda_tv=4.0,
        tolerance=0.01,  # a large hole takes many iterations
        tile_size=tile_size,
    )
    for one, counts in zip(fused, maps, strict=True):
        total = counts.data[~mask].sum()
        assert_allclose(one.data[~mask].sum(), total, rtol=1e-5)
