from dataclasses import replace

import numpy as np
import pytest
from known_discs import COEFFICIENTS, NOISE, PRIOR, discs, measured
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from hyperspy_fusion.core.calibrated.coefficients import CrossFit
from hyperspy_fusion.core.calibrated.guard import (
    GuardReport,
    contrast,
    guard,
    local_z,
    misfit,
    model_error,
    threshold,
)


@pytest.fixture
def blob():
    y, x = np.mgrid[:64, :64]
    return 1500 * np.exp(-((y - 48) ** 2 + (x - 14) ** 2) / (2 * 3**2))


def test_misfit_of_the_truth_is_the_noise():
    truth = discs()
    residual = misfit(measured(truth), truth)
    assert_allclose(residual.std(), NOISE, rtol=0.05)


def test_local_z_is_standard_normal():
    truth = discs()
    scores = np.stack([local_z(measured(truth, seed=k), truth) for k in range(20)])
    assert abs(scores.mean()) < 0.1
    # everywhere, also in the corners and where there are hardly any counts
    assert_allclose(scores.std(axis=0).mean(), 1, atol=0.05)
    assert_allclose(scores[:, :6, :6].std(), 1, atol=0.25)
    assert np.abs(scores).max() < 4.5


def test_local_z_without_blur_is_the_plain_residual():
    truth = discs()
    prepared = replace(
        measured(truth),
        variance=np.full((2, 1, 1), 4.0),
        background=np.zeros((2, 1, 1)),
    )
    z = local_z(prepared, truth, width=0.05)
    # a kernel of one pixel; its continuous norm is not that of the sampled one
    residual = misfit(prepared, prepared.net())
    assert_allclose(np.corrcoef(z.ravel(), residual.ravel())[0, 1], 1)


def test_local_z_of_values_with_known_variance():
    truth = discs()
    rng = np.random.default_rng(1)
    variance = np.full(truth.shape, 0.5)
    prepared = replace(
        measured(truth),
        data=rng.normal(truth, np.sqrt(variance)),
        background=np.zeros((2, 1, 1)),
        variance=variance,
    )
    z = local_z(prepared, truth)
    assert_allclose(z.std(), 1, atol=0.15)


def test_local_z_where_no_count_was_measured():
    """Fused maps of 0 are no proof that there was nothing: z is the root of counts."""
    expected, width = 0.02, 8.0
    truth = np.full((1, 96, 96), expected)
    prepared = measured(discs(96))
    prepared = replace(
        prepared,
        data=np.zeros_like(truth),
        background=np.zeros((1, 1, 1)),
        haadf=300.0 * truth[0],
        coefficients=np.array([300.0]),
        offset=0.0,
        sigma=np.full((96, 96), 1e-3),
    )
    # of one count, as a composition is needed
    nothing = np.zeros_like(truth)
    nothing[0, 0, 0] = 1e-6
    z = local_z(prepared, nothing, width)[48, 48]
    n = expected * 4 * np.pi * width**2
    # exp(-n) is the chance to measure none
    assert_allclose(z, -norm.ppf(np.exp(-n)), rtol=0.1)


@pytest.mark.parametrize("slow", [{"contrast": 6e4}, {"error": 4500.0}])
def test_local_z_puts_up_with_what_does_no_harm(slow):
    truth = discs()
    prepared = replace(
        measured(truth, extra=1e4),
        variance=np.full((2, 1, 1), 4.0),
        background=np.zeros((2, 1, 1)),
    )
    strict, tolerant = (
        local_z(s, truth)[20:-20, 20:-20] for s in (prepared, replace(prepared, **slow))
    )
    # 0.015 of the contrast, 0.2 of the model error: 900
    assert_allclose(tolerant, 1e4 / np.hypot(1e4 / strict, 900), rtol=0.05)
    assert (tolerant < 0.9 * strict).all()


@pytest.mark.parametrize("shape", [(64, 64), (63, 61)])
def test_local_z_of_blocks_is_nearly_that_of_pixels(shape):
    truth = discs()[:, : shape[0], : shape[1]]
    prepared = measured(truth, extra=30.0)
    fine = local_z(prepared, truth, 8.0)
    coarse = local_z(prepared, truth, 8.0, step=4)
    assert fine.shape == coarse.shape == shape
    # block by block
    assert_array_equal(coarse[::4].repeat(4, axis=0)[: shape[0]], coarse)
    centres = fine[1:-2, 1:-2][::4, ::4]
    assert np.abs(coarse[1:-2, 1:-2][::4, ::4] - centres).max() < 0.1 * centres.max()


@pytest.mark.parametrize("shape", [(64, 64), (63, 61)])
def test_local_z_takes_maps_of_large_pixels(shape):
    truth = discs()[:, : shape[0], : shape[1]]
    coarse = truth[:, ::2, ::2]
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2)[:, : shape[0], : shape[1]]
    prepared = measured(truth)
    assert_array_equal(local_z(prepared, coarse), local_z(prepared, fine))


def test_local_z_leaves_missing_pixels_out():
    truth = discs()
    prepared = measured(truth)
    data = prepared.data.copy()
    data[0, 10:30, 10:30] = np.nan
    haadf = prepared.haadf.copy()
    haadf[50:, 50:] = np.nan
    z = local_z(replace(prepared, data=data, haadf=haadf), truth)
    assert_array_equal(z[10:30, 10:30], 0)
    assert_array_equal(z[50:, 50:], 0)
    assert np.isfinite(z).all()
    assert 0.5 < z[z != 0].std() < 1.5
    # what is missing has no say
    data[1, 10:30, 10:30] = 1e6
    again = local_z(replace(prepared, data=data, haadf=haadf), truth)
    assert_allclose(again, z)


@pytest.mark.parametrize("seed", range(3))
def test_model_error_is_zero_without_misfit(seed):
    truth = discs(128)
    prepared = measured(truth, seed=seed)
    assert model_error(prepared, truth) == 0
    # nor do missing pixels or an image that is not used make one
    data = prepared.data.copy()
    data[np.random.default_rng(seed).random(data.shape) < 0.2] = np.nan
    assert model_error(replace(prepared, data=data), truth) == 0
    assert model_error(replace(prepared, trusted=np.zeros((128, 128))), truth) == 0


@pytest.mark.parametrize("wavelength", [10, 13, 16])
def test_model_error_of_a_misfit_all_over_the_image(wavelength):
    truth = discs(128)
    phase = 2 * np.pi * np.arange(128) / wavelength
    extra = 800 * np.sin(phase)[:, None] * np.ones(128)
    found = model_error(measured(truth, extra=extra), truth)
    assert_allclose(found, 800 / np.sqrt(2), rtol=0.3)


def test_model_error_does_not_hide_slow_misfits_nor_those_of_a_place(blob):
    truth = discs()
    slow = 10 * NOISE * np.sin(np.arange(64) * 2 * np.pi / 64)
    assert model_error(measured(truth, extra=slow), truth) < NOISE
    assert model_error(measured(truth, extra=blob), truth) == 0


def calibrator(run):
    return lambda prepared: CrossFit().calibrate(prepared, PRIOR, run)


@pytest.mark.parametrize("seed", range(3))
def test_guard_is_silent_where_the_model_holds(run, seed):
    recalibrate = calibrator(run)
    prepared, maps = recalibrate(measured(discs(), seed=seed))
    after, report = guard(prepared, maps, recalibrate)
    assert report.largest <= 4.5
    assert report.flagged == 0
    assert report.message_of("the image") == ""
    assert_array_equal(after.trusted, 1)


@pytest.mark.parametrize(("share", "judged"), [(0.05, True), (0.0005, False)])
def test_too_few_counts_to_judge_are_said(run, share, judged):
    prepared, maps = calibrator(run)(measured(share * discs()))
    report = guard(prepared, maps, lambda prepared: (prepared, maps))[1]
    assert report.flagged == 0
    assert report.judged is judged
    assert ("too few counts" in report.message_of("the image")) is not judged


def test_false_alarms_are_as_rare_in_large_images():
    assert threshold(64**2) == pytest.approx(4.5)
    assert threshold(256**2) == pytest.approx(4.5)
    for size in (512, 2048):
        chances = (size / 256) ** 2 * norm.sf(threshold(size**2))
        assert_allclose(chances, norm.sf(4.5))


def test_guard_knows_of_what_image_its_pixels_are_a_part(run, blob):
    """What does not happen by chance in a small image does in one of many tiles."""
    recalibrate = calibrator(run)
    prepared, maps = recalibrate(measured(discs(), extra=0.14 * blob))
    _, alone = guard(prepared, maps, recalibrate)
    assert alone.flagged > 0
    _, part = guard(replace(prepared, pixels=2**28), maps, recalibrate)
    assert part.flagged == 0
    assert 4.5 < part.largest < threshold(2**28)


@pytest.mark.parametrize(
    ("flagged", "words"),
    [(1.0, "all over"), (0.234, "in 23 %"), (0.014, "in 1 %"), (1.8e-4, "in 0.02 %")],
)
def test_how_much_is_flagged_is_said_as_it_is(flagged, words):
    report = GuardReport(largest=7.0, flagged=flagged, brighter=True)
    assert words in report.message_of("the image")


@pytest.mark.parametrize("flagged", [0.0, 0.5])
def test_inverted_contrast_is_said(flagged):
    def message(correlation):
        return GuardReport(
            largest=7.0, flagged=flagged, brighter=True, correlation=correlation
        ).message_of("the image")

    assert "seems to have inverted contrast" in message(-0.9)
    assert "correlation -0.90" in message(-0.9)
    assert "haadf * -1.0" in message(-0.9)
    assert ("is not used there" in message(-0.9)) == (flagged > 0)
    assert "inverted" not in message(-0.4)
    assert "inverted" not in message(0.9)


def test_contrast_is_the_correlation_with_the_expected_image():
    prepared = measured(discs())
    found = contrast(prepared, PRIOR)
    assert 0.8 < found <= 1
    inverted = replace(prepared, haadf=prepared.haadf.max() - prepared.haadf)
    assert_allclose(contrast(inverted, PRIOR), -found, rtol=1e-5)
    noise = np.random.default_rng(0).normal(size=prepared.haadf.shape)
    assert abs(contrast(replace(prepared, haadf=noise), PRIOR)) < 0.3
    # nothing can be compared
    nothing = np.zeros_like(prepared.haadf)
    assert contrast(replace(prepared, trusted=nothing), PRIOR) == 0
    assert contrast(replace(prepared, haadf=nothing), PRIOR) == 0


def test_contrast_leaves_missing_pixels_out():
    prepared = measured(discs())
    data, haadf, trusted = (
        array.copy() for array in (prepared.data, prepared.haadf, prepared.trusted)
    )
    data[0, 20:30, 20:30] = np.nan
    haadf[:8], trusted[:8] = 1e6, 0
    part = replace(prepared, data=data, haadf=haadf, trusted=trusted)
    assert contrast(part, PRIOR) > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_guard_finds_an_unmapped_element(run, blob, seed):
    recalibrate = calibrator(run)
    prepared, maps = recalibrate(measured(discs(), seed=seed, extra=blob))
    after, report = guard(prepared, maps, recalibrate)
    assert report.largest > 6
    assert report.brighter
    assert "an element may be missing" in report.message_of("the image")
    assert_array_equal(after.trusted[blob > 0.1 * blob.max()], 0)
    assert 0.05 < report.flagged < 0.5
    assert_allclose(report.flagged, 1 - after.trusted.mean())
    # the region no longer biases the coefficients
    contrast = discs() - discs().mean(axis=(1, 2), keepdims=True)
    error = np.tensordot(after.coefficients - COEFFICIENTS, contrast, axes=1)
    assert error.std() < 0.1 * np.tensordot(COEFFICIENTS, contrast, axes=1).std()


def test_guard_finds_a_slow_pedestal(run):
    recalibrate = calibrator(run)
    wave = 500 * np.sin(np.arange(64) * 2 * np.pi / 64)
    prepared, maps = recalibrate(measured(discs(), extra=wave))
    _, report = guard(prepared, maps, recalibrate)
    assert report.largest > 6
    assert report.flagged > 0.3


def test_guard_keeps_what_was_not_to_be_used(run):
    recalibrate = calibrator(run)
    trusted = np.ones((64, 64))
    trusted[:8] = 0
    prepared = measured(discs())
    haadf = prepared.haadf.copy()
    haadf[:8] = 0
    prepared, maps = recalibrate(replace(prepared, haadf=haadf, trusted=trusted))
    after, report = guard(prepared, maps, recalibrate)
    assert report.flagged == 0
    assert_array_equal(after.trusted, trusted)


def test_guard_copes_with_a_tiny_image(run):
    recalibrate = calibrator(run)
    prepared, maps = recalibrate(measured(discs(16)))
    _, report = guard(prepared, maps, recalibrate)
    assert np.isfinite(report.largest)
