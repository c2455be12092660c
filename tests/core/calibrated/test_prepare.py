import numpy as np
import pytest
from arrays_in import prepare
from numpy.testing import assert_allclose, assert_array_equal
from specimens import discs

from hyperspy_fusion.core.calibrated.noise import signal_scale
from hyperspy_fusion.core.calibrated.options import CalibratedOptions
from hyperspy_fusion.core.calibrated.sample import mosaic, representative_tiles

OPTIONS = CalibratedOptions()


def test_whole_numbers_are_counts():
    maps, haadf, *_ = discs()
    preparation = prepare(maps, haadf, OPTIONS, background=0.02)
    assert preparation.prepared.variance is None
    assert preparation.notes == ()
    assert_array_equal(preparation.units.count_value, 1)
    assert preparation.prepared.background.shape == (2, 1, 1)


def test_background_maps_stay_maps():
    maps, haadf, *_ = discs()
    background = np.random.default_rng(0).random(maps.shape, np.float32)
    preparation = prepare(maps, haadf, OPTIONS, background=background)
    assert_array_equal(preparation.prepared.background, background)


def test_gain_of_scaled_counts():
    maps, haadf, *_ = discs(96, 96)
    gain = np.array([0.013, 7.0])
    preparation = prepare(maps * gain[:, None, None], haadf, OPTIONS)
    assert preparation.prepared.variance is None
    assert_allclose(preparation.units.count_value, gain, rtol=0.2)
    assert "scaled counts" in preparation.notes[0]


def test_negative_values_have_gaussian_noise():
    rng = np.random.default_rng(0)
    _, haadf, _, truth = discs(96, 96)
    preparation = prepare(truth + rng.normal(0, 0.5, truth.shape), haadf, OPTIONS)
    assert_allclose(preparation.prepared.variance.mean(), 0.25, rtol=0.2)
    assert "negative pixels" in preparation.notes[0]


def test_variance_of_maps_whose_background_was_subtracted():
    maps, haadf, _, truth = discs(96, 96)
    preparation = prepare(maps - 0.02, haadf, OPTIONS)
    on = truth[0] > 0
    assert_allclose(
        preparation.prepared.variance[0][on].mean(), truth[0][on].mean(), rtol=0.4
    )


def test_fractions_with_missing_pixels():
    maps, haadf, *_ = discs()
    fractions = (maps + 0.1) / (maps + 0.1).sum(axis=0)
    lost = np.random.default_rng(0).random(maps.shape) < 0.2
    preparation = prepare(np.where(lost, np.nan, fractions), haadf, OPTIONS)
    assert preparation.units.total == 1
    known = np.isfinite(preparation.prepared.data)
    assert_array_equal(known.all(axis=0), known.any(axis=0))
    assert_array_equal(known[0], ~lost.any(axis=0))


def test_given_variance_is_taken():
    maps, haadf, *_ = discs()
    preparation = prepare(maps, haadf, OPTIONS, variance=np.full((2, 1, 1), 0.3))
    assert_array_equal(preparation.prepared.variance, np.float32(0.3))


def test_gaps_of_the_variance_are_filled():
    maps, haadf, *_ = discs()
    variance = np.full(maps.shape, 2.0)
    variance[0, 3:5, 7] = np.nan
    variance[1, 9, 9] = np.inf
    preparation = prepare(maps, haadf, OPTIONS, variance=variance)
    assert_allclose(preparation.prepared.variance, 2)


def test_a_variance_that_is_nowhere_above_zero():
    maps, haadf, *_ = discs()
    variance = np.ones(maps.shape)
    variance[1] = 0
    with pytest.raises(ValueError, match=r"nowhere a number above 0 in the maps \[1\]"):
        prepare(maps, haadf, OPTIONS, variance=variance)


def test_large_values_are_whole_in_float32_only():
    maps, haadf, *_ = discs()
    maps = 1e7 * (maps + 1.5) + np.random.default_rng(0).random(maps.shape)
    preparation = prepare(maps, haadf, OPTIONS)
    assert preparation.prepared.variance is not None


@pytest.mark.parametrize("factor", [1e18, 1e-18])
def test_values_that_float32_can_not_take_powers_of(factor):
    maps, haadf, *_ = discs()
    with pytest.raises(ValueError, match=r"values of the maps go up to .*multiply"):
        prepare(factor * maps, haadf, OPTIONS)
    with pytest.raises(ValueError, match=r"values of the HAADF image go up to"):
        prepare(maps, factor * haadf, OPTIONS)


def test_fractions_are_recognised():
    maps, haadf, *_ = discs()
    fractions = (maps + 0.1) / (maps + 0.1).sum(axis=0)
    preparation = prepare(100 * fractions, haadf, OPTIONS)
    assert preparation.units.total == 100
    assert preparation.prepared.variance is None
    assert_allclose(preparation.prepared.data, fractions, rtol=1e-5)
    assert preparation.units.warnings == ()


def test_fractions_that_are_negative():
    maps, haadf, *_ = discs()
    fractions = (maps + 0.1) / (maps + 0.1).sum(axis=0)
    fractions += 0.1 * np.array([1, -1])[:, None, None]
    preparation = prepare(fractions, haadf, OPTIONS)
    assert preparation.units.total is None
    assert preparation.prepared.variance is not None
    assert "fractions, and some are negative" in preparation.units.warnings[0]


def test_fractions_have_no_background():
    maps, haadf, *_ = discs()
    fractions = (maps + 0.1) / (maps + 0.1).sum(axis=0)
    with pytest.raises(ValueError, match="fractions and a background was given"):
        prepare(fractions, haadf, OPTIONS, background=0.02)


def test_the_variance_of_fractions_is_not_used():
    maps, haadf, *_ = discs()
    fractions = (maps + 0.1) / (maps + 0.1).sum(axis=0)
    preparation = prepare(fractions, haadf, OPTIONS, variance=np.ones((2, 1, 1)))
    assert preparation.notes[-1].startswith("the noise variance of the maps is not")


def test_a_dark_level_is_for_fractions_only():
    maps, haadf, *_ = discs()
    options = CalibratedOptions(haadf_offset=500)
    found = prepare(maps, haadf, options).units.warnings
    assert [text.partition(":")[0] for text in found] == ["haadf_offset was not used"]
    fractions = (maps + 0.1) / (maps + 0.1).sum(axis=0)
    assert prepare(fractions, haadf, options).units.warnings == ()


def test_missing_pixels_are_counted_and_filled():
    maps, haadf, *_ = discs()
    maps[0, :3, :5] = np.nan
    haadf = haadf.astype(float)
    haadf[-1] = np.nan
    preparation = prepare(maps, haadf, OPTIONS)
    assert preparation.notes[0].startswith("15 missing pixels of the maps")
    assert preparation.notes[1].startswith("32 missing pixels of the HAADF")
    assert_array_equal(preparation.prepared.trusted[-1], 0)
    assert np.isfinite(preparation.prepared.haadf).all()


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


def test_signal_scale():
    counts = np.zeros((3, 60, 60))
    counts[0] = 4  # everywhere
    counts[1, 10:50, 10:50] = 9  # in a part that is large against the Gaussian
    found = signal_scale(counts, np.zeros((3, 1, 1)))
    assert_allclose(found[0], 4)
    assert 7 < found[1] < 9
    assert found[2] == 1e-3


def test_signal_scale_of_a_rare_element():
    # 95 % of its counts are background, known or not
    y, x = np.mgrid[:200, :200]
    rare = 1.5 * (np.hypot(y - 60, x - 120) < 5)
    counts = np.random.default_rng(0).poisson(rare + 0.05)[None].astype(float)
    for background in (0.0, 0.05):
        found = signal_scale(counts, np.full((1, 1, 1), background))
        assert 0.7 < found[0] < 1.6
    # without any contrast: the mean count
    flat = np.random.default_rng(0).poisson(0.05, (1, 200, 200)).astype(float)
    assert_allclose(signal_scale(flat, np.zeros((1, 1, 1))), flat.mean())


def test_a_variance_that_is_the_counts():
    rng = np.random.default_rng(0)
    maps = rng.poisson(1.0, (2, 32, 32)).astype(float)
    haadf = maps.sum(axis=0)
    options = CalibratedOptions()
    found = prepare(maps, haadf, options, variance=maps)
    assert found.units.counts
    assert found.prepared.variance is None
    assert any("is that of their counts" in note for note in found.notes)
    given = prepare(maps, haadf, options, variance=2 * maps).prepared.variance
    assert given.min() > 0.2  # of pixels without counts, too
    assert_allclose(given[maps > 0], 2 * maps[maps > 0])
