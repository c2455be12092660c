from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from hyperspy_fusion.core.calibrated import Path, calibrate
from hyperspy_fusion.core.calibration import haadf_noise, signal_scale
from hyperspy_fusion.core.diagnostics import (
    GuardReport,
    Shift,
    aligned,
    find_shift,
    guard,
    local_z,
    misfit,
    model_error,
    threshold,
    uncertainty,
)
from hyperspy_fusion.core.primal_dual import solve
from hyperspy_fusion.core.setting import Setting
from hyperspy_fusion.core.threads import workers

COEFFICIENTS = np.array([300.0, 100.0])
OFFSET = 500.0
NOISE = 40.0
PRIOR = np.array([3.0, 1.0])


def discs(n=64):
    """Two elements in overlapping discs on an empty ground, counts."""
    y, x = np.mgrid[:n, :n]
    one = 4.0 * (np.hypot(y - 0.35 * n, x - 0.4 * n) < 0.2 * n)
    two = 4.0 * (np.hypot(y - 0.6 * n, x - 0.6 * n) < 0.25 * n)
    return gaussian_filter(np.stack([one, two]) + 0.05, (0, 1, 1))


def measured(truth, *, seed=0, extra=0.0):
    """The setting of a measurement of known truth and coefficients."""
    rng = np.random.default_rng(seed)
    background = np.full((2, 1, 1), 0.02)
    data = rng.poisson(truth + background).astype(float)
    clean = OFFSET + np.tensordot(COEFFICIENTS, truth, axes=1) + extra
    scale = signal_scale(data, background)
    shape = truth.shape[1:]
    return Setting(
        data=data,
        background=background,
        variance=None,
        scale=scale,
        level=scale,
        pedestal=0.2 * data.mean(axis=(1, 2)),
        haadf=rng.normal(clean, NOISE),
        sigma=np.full(shape, NOISE),
        error=0.0,
        contrast=0.0,
        trusted=np.ones(shape),
        coefficients=COEFFICIENTS,
        offset=OFFSET,
        alpha=0.25,
        lock_flux=True,
        pixels=data[0].size,
    )


@pytest.fixture(scope="module")
def run():
    with workers(1) as run:
        yield run


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
    setting = replace(
        measured(truth),
        variance=np.full((2, 1, 1), 4.0),
        background=np.zeros((2, 1, 1)),
    )
    z = local_z(setting, truth, width=0.05)
    # a kernel of one pixel; its continuous norm is not that of the sampled one
    residual = misfit(setting, setting.net())
    assert_allclose(np.corrcoef(z.ravel(), residual.ravel())[0, 1], 1)


def test_local_z_of_values_with_known_variance():
    truth = discs()
    rng = np.random.default_rng(1)
    variance = np.full(truth.shape, 0.5)
    setting = replace(
        measured(truth),
        data=rng.normal(truth, np.sqrt(variance)),
        background=np.zeros((2, 1, 1)),
        variance=variance,
    )
    z = local_z(setting, truth)
    assert_allclose(z.std(), 1, atol=0.15)


@pytest.mark.parametrize("slow", [{"contrast": 6e4}, {"error": 4500.0}])
def test_local_z_puts_up_with_what_does_no_harm(slow):
    truth = discs()
    setting = replace(
        measured(truth, extra=1e4),
        variance=np.full((2, 1, 1), 4.0),
        background=np.zeros((2, 1, 1)),
    )
    strict, tolerant = (
        local_z(s, truth)[20:-20, 20:-20] for s in (setting, replace(setting, **slow))
    )
    # 0.015 of the contrast, 0.2 of the model error: 900
    assert_allclose(tolerant, 1e4 / np.hypot(1e4 / strict, 900), rtol=0.05)
    assert (tolerant < 0.9 * strict).all()


@pytest.mark.parametrize("shape", [(64, 64), (63, 61)])
def test_local_z_of_blocks_is_nearly_that_of_pixels(shape):
    truth = discs()[:, : shape[0], : shape[1]]
    setting = measured(truth, extra=30.0)
    fine = local_z(setting, truth, 8.0)
    coarse = local_z(setting, truth, 8.0, step=4)
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
    setting = measured(truth)
    assert_array_equal(local_z(setting, coarse), local_z(setting, fine))


def test_local_z_leaves_missing_pixels_out():
    truth = discs()
    setting = measured(truth)
    data = setting.data.copy()
    data[0, 10:30, 10:30] = np.nan
    haadf = setting.haadf.copy()
    haadf[50:, 50:] = np.nan
    z = local_z(replace(setting, data=data, haadf=haadf), truth)
    assert_array_equal(z[10:30, 10:30], 0)
    assert_array_equal(z[50:, 50:], 0)
    assert np.isfinite(z).all()
    assert 0.5 < z[z != 0].std() < 1.5
    # what is missing has no say
    data[1, 10:30, 10:30] = 1e6
    again = local_z(replace(setting, data=data, haadf=haadf), truth)
    assert_allclose(again, z)


@pytest.mark.parametrize("seed", range(3))
def test_model_error_is_zero_without_misfit(seed):
    truth = discs(128)
    setting = measured(truth, seed=seed)
    assert model_error(setting, truth) == 0
    # nor do missing pixels or an image that is not used make one
    data = setting.data.copy()
    data[np.random.default_rng(seed).random(data.shape) < 0.2] = np.nan
    assert model_error(replace(setting, data=data), truth) == 0
    assert model_error(replace(setting, trusted=np.zeros((128, 128))), truth) == 0


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
    return lambda setting: calibrate(setting, Path(run), PRIOR)


@pytest.mark.parametrize("seed", range(3))
def test_guard_is_silent_where_the_model_holds(run, seed):
    recalibrate = calibrator(run)
    setting, maps = recalibrate(measured(discs(), seed=seed))
    after, report = guard(setting, maps, recalibrate)
    assert report.largest <= 4.5
    assert report.flagged == 0
    assert report.words == ""
    assert_array_equal(after.trusted, 1)


def test_false_alarms_are_as_rare_in_large_images():
    assert threshold(64**2) == pytest.approx(4.5)
    assert threshold(256**2) == pytest.approx(4.5)
    for size in (512, 2048):
        chances = (size / 256) ** 2 * norm.sf(threshold(size**2))
        assert_allclose(chances, norm.sf(4.5))


def test_guard_knows_of_what_image_its_pixels_are_a_part(run, blob):
    """What does not happen by chance in a small image does in one of many tiles."""
    recalibrate = calibrator(run)
    setting, maps = recalibrate(measured(discs(), extra=0.14 * blob))
    _, alone = guard(setting, maps, recalibrate)
    assert alone.flagged > 0
    _, part = guard(replace(setting, pixels=2**28), maps, recalibrate)
    assert part.flagged == 0
    assert 4.5 < part.largest < threshold(2**28)


@pytest.mark.parametrize(
    ("flagged", "words"),
    [(1.0, "all over"), (0.234, "in 23 %"), (0.014, "in 1 %"), (1.8e-4, "in 0.02 %")],
)
def test_how_much_is_flagged_is_said_as_it_is(flagged, words):
    report = GuardReport(largest=7.0, flagged=flagged, brighter=True)
    assert words in report.words


@pytest.mark.parametrize("seed", range(3))
def test_guard_finds_an_unmapped_element(run, blob, seed):
    recalibrate = calibrator(run)
    setting, maps = recalibrate(measured(discs(), seed=seed, extra=blob))
    after, report = guard(setting, maps, recalibrate)
    assert report.largest > 6
    assert report.brighter
    assert "an element may be missing" in report.words
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
    setting, maps = recalibrate(measured(discs(), extra=wave))
    _, report = guard(setting, maps, recalibrate)
    assert report.largest > 6
    assert report.flagged > 0.3


def test_guard_keeps_what_was_not_to_be_used(run):
    recalibrate = calibrator(run)
    trusted = np.ones((64, 64))
    trusted[:8] = 0
    setting = measured(discs())
    haadf = setting.haadf.copy()
    haadf[:8] = 0
    setting, maps = recalibrate(replace(setting, haadf=haadf, trusted=trusted))
    after, report = guard(setting, maps, recalibrate)
    assert report.flagged == 0
    assert_array_equal(after.trusted, trusted)


def test_guard_copes_with_a_tiny_image(run):
    recalibrate = calibrator(run)
    setting, maps = recalibrate(measured(discs(16)))
    _, report = guard(setting, maps, recalibrate)
    assert np.isfinite(report.largest)


def counts_alone(setting, run):
    return solve(setting.problem(4.0, 0.0), run, tolerance=None, max_iter=60).maps


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (1, 2), (-3, 1)])
def test_shift_is_found_and_undone(run, shift):
    setting = measured(discs())
    moved = replace(setting, haadf=np.roll(setting.haadf, shift, axis=(0, 1)))
    found = find_shift(moved, counts_alone(moved, run))
    assert_allclose((found.y, found.x), shift, atol=0.4)
    assert found.significant == (shift != (0, 0))
    assert bool(found.words) == found.significant
    back = aligned(moved, found)
    inside = back.trusted > 0
    assert inside.mean() > 0.9
    assert_array_equal(back.haadf[inside], setting.haadf[inside])


def test_shift_takes_the_trusted_pixels_along():
    setting = measured(discs())
    trusted = np.ones((64, 64))
    trusted[20, 30] = 0
    back = aligned(replace(setting, trusted=trusted), Shift(y=2.0, x=-1.0, z=9.0))
    assert back.trusted[18, 31] == 0
    assert_array_equal(back.trusted[-2:], 0)
    assert_array_equal(back.trusted[:, 0], 0)
    assert back.trusted.sum() == 62 * 63 - 1


def test_shift_of_an_image_that_is_not_used():
    setting = replace(measured(discs()), trusted=np.zeros((64, 64)))
    assert not find_shift(setting, setting.net()).significant
    tiny = measured(discs(3))
    assert not find_shift(tiny, tiny.net()).significant


def test_uncertainty_covers_the_error(run):
    truth = discs()
    setting, _ = calibrate(measured(truth), Path(run), PRIOR)
    weights = 3.0, 0.1
    maps = solve(setting.problem(*weights), run, tolerance=1e-3, max_iter=400).maps
    variance = uncertainty(setting, PRIOR, weights, maps, run, seed=0)
    assert variance.shape == maps.shape
    assert (variance > 0).all()
    on_object = truth > 0.4
    covered = np.abs(maps - truth) <= 2 * np.sqrt(variance)
    assert covered[on_object].mean() > 0.85
    # but not by being useless
    assert np.sqrt(variance[on_object].mean()) < 0.3 * truth.max()
    again = uncertainty(setting, PRIOR, weights, maps, run, seed=0)
    assert_array_equal(again, variance)


def test_uncertainty_of_values_and_missing_pixels(run):
    truth = discs(32)
    rng = np.random.default_rng(2)
    variance = np.full((2, 1, 1), 0.25)
    data = rng.normal(truth, 0.5)
    data[0, 4:8, 4:8] = np.nan
    setting = replace(
        measured(truth),
        data=data,
        background=np.zeros((2, 1, 1)),
        variance=variance,
        scale=np.full(2, 0.25),
        sigma=haadf_noise(measured(truth).haadf),
    )
    maps = solve(setting.problem(2.0, 0.1), run, tolerance=None, max_iter=60).maps
    found = uncertainty(setting, PRIOR, (2.0, 0.1), maps, run, seed=0)
    assert np.isfinite(found).all()
    # smoothing beats the raw data
    assert found.mean() < 0.25
