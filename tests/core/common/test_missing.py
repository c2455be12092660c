import time

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from hyperspy_fusion.core.common.missing import fill


def smooth_maps(shape=(2, 60, 70)):
    maps = np.random.default_rng(0).uniform(0, 1, shape)
    maps = gaussian_filter(maps, (0, 4, 4))
    return 5 * maps / maps.mean()


def test_holes_are_filled_from_around_them():
    maps = smooth_maps()
    spoiled = maps.copy()
    spoiled[0, 10:12, 20:23] = np.nan
    spoiled[1, 30:50, 20:60] = np.nan
    found = fill(spoiled)
    known = np.isfinite(spoiled)
    assert_array_equal(found[known], spoiled[known])
    assert_allclose(found[~known], maps[~known], rtol=0.3)
    for image, values in zip(found, spoiled, strict=True):
        assert np.nanmin(values) <= image.min()
        assert image.max() <= np.nanmax(values)


def test_maps_without_holes_are_handed_back():
    maps = smooth_maps()
    assert fill(maps) is maps


def test_a_hole_of_any_size_goes_on_from_its_edge():
    stripes = np.repeat([[1.0, 5.0]], 64, axis=0).repeat(32, axis=1)[None]
    stripes[0, :, 40:] = np.nan
    assert_allclose(fill(stripes)[0, :, 40:], 5, rtol=0.3)


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 1, 9), (2, 13, 1), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_maps_that_are_missing_altogether_are_zero(shape, dtype):
    maps = np.full(shape, np.nan, dtype)
    found = fill(maps)
    assert_array_equal(found, 0)
    assert found.dtype == dtype
    maps[0, 0, 0] = 3
    assert_allclose(fill(maps)[0], 3, rtol=1e-6)


def test_large_holes_take_no_longer_than_small_ones():
    maps = np.ones((1, 600, 600), np.float32)
    small, large = maps.copy(), maps.copy()
    small[0, ::40, ::40] = large[0, 400:] = np.nan

    def seconds(spoiled):
        start = time.process_time()
        fill(spoiled)
        return time.process_time() - start

    assert seconds(large) < 5 * seconds(small)
