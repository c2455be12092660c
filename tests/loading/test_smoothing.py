import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.loading.smoothing import (
    count_value,
    map_filled,
    smooth_counts,
    smooth_ratio,
)

Y, X = np.mgrid[:64, :64]
WAVE = 1 + 0.8 * np.sin(2 * np.pi * X / 64)


def error(estimate, expected):
    return np.sqrt(np.mean((estimate - expected) ** 2))


def test_few_counts_are_smoothed_as_far_as_the_specimen_allows():
    rng = np.random.default_rng(0)
    constant = rng.poisson(0.5, WAVE.shape).astype(float)
    assert error(smooth_counts(constant), 0.5) < 0.05  # of 0.7 before
    counts = rng.poisson(WAVE).astype(float)
    smooth = smooth_counts(counts)
    # below both a narrower and a wider Gaussian: sd 1 leaves an error of 0.28
    assert error(smooth, WAVE) < 0.1
    assert_allclose(smooth.mean(), counts.mean(), rtol=0.01)


def test_many_counts_stay_sharp():
    expected = 1e6 * (1.0 + (Y // 8 + X // 8) % 2)
    counts = np.random.default_rng(0).poisson(expected).astype(float)
    assert_allclose(smooth_counts(counts), counts, rtol=1e-5)


def test_scaled_counts_are_smoothed_like_counts():
    counts = np.random.default_rng(0).poisson(20 * WAVE).astype(float)
    smooth = smooth_counts(0.3 * counts) / 0.3
    assert_allclose(smooth, smooth_counts(counts), rtol=0.2)
    assert error(smooth, 20 * WAVE) < 1  # of 4.5 before


def test_ratio_without_noise_is_exact():
    exposure = np.array([[2.0, 4.0], [0.0, 1.0]])
    ratio = smooth_ratio(np.ones((2, 2)), exposure, np.zeros((2, 2)))
    assert_array_equal(ratio, [[0.5, 0.25], [0, 1]])


@pytest.mark.parametrize("empty", ["counts", "exposure"])
def test_ratio_of_nothing_is_zero(empty):
    images = {"counts": np.ones((6, 6)), "exposure": np.ones((6, 6))}
    images[empty] = np.zeros((6, 6))
    assert not smooth_ratio(**images, variance=np.ones((6, 6))).any()


def test_ratio_where_nothing_was_expected_is_the_mean():
    counts, exposure = np.full((20, 20), 3.0), np.full((20, 20), 6.0)
    counts[:, :10] = exposure[:, :10] = 0
    assert_allclose(smooth_ratio(counts, exposure, counts), 0.5)


def test_value_of_a_count():
    counts = np.random.default_rng(0).poisson(20 * WAVE).astype(float)
    assert count_value(counts) == count_value(np.zeros((9, 9))) == 1
    assert_allclose(count_value(2.5 * counts), 2.5, rtol=0.1)
    assert count_value(np.full((4, 9), 0.5)) == 0  # too small for an estimate


@pytest.mark.parametrize("lazy", [False, True])
def test_missing_pixels_are_filled_first(lazy):
    counts = np.random.default_rng(0).poisson(20, (2, 3, 16, 16)).astype(float)
    counts[0, 1, 3, 4], counts[1, 2, 5] = np.nan, np.inf
    filled = map_filled(lambda one, _: one, counts, counts)
    known = np.isfinite(counts)
    assert_array_equal(filled[known], counts[known])
    assert np.isfinite(filled).all()
    assert 10 < filled[~known].min() < filled[~known].max() < 30
    if lazy:
        chunked = da.from_array(counts, chunks=(1, 2, 5, 16))
        found = map_filled(lambda one, _: one, chunked, counts)
        assert isinstance(found, da.Array)
        assert_array_equal(found.compute(), filled)
