"""The fused kernels are held to what NumPy says in float64."""

import numba
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core.published import kernels


@numba.njit
def apply(function, x):
    out = np.empty_like(x)
    for i in range(x.size):
        out[i] = function(x[i])
    return out


def test_log2_is_that_of_float32():
    x = np.geomspace(1e-37, 1e37, 9999).astype(np.float32)
    near_one = np.linspace(0.5, 2, 9999, dtype=np.float32)
    for values in (x, near_one):
        expected = np.log2(values.astype(float))
        assert_allclose(apply(kernels._log2, values), expected, rtol=2e-7, atol=1e-10)
    assert_array_equal(apply(kernels._log2, np.float32([0.25, 1, 8])), [-2, 0, 3])


def test_exp2_is_that_of_float32():
    x = np.linspace(-125.9, 126.9, 9999).astype(np.float32)
    assert_allclose(apply(kernels._exp2, x), np.exp2(x.astype(float)), rtol=2e-7)
    # beyond, it stays where numbers are normal
    limits = apply(kernels._exp2, np.float32([-1e3, 0, 3, 1e3]))
    assert_allclose(limits, [2.0**-126, 1, 8, 2.0**127], rtol=1e-7)


@pytest.mark.parametrize("gamma", [1.0, 1.6, 3.0])
def test_powers_of_the_misfit(gamma):
    x = np.concatenate([[0], np.geomspace(1e-35, 1, 700)]).astype(np.float32)
    powers, misfit = np.empty((1, x.size), np.float32), np.zeros_like(x)
    exponent = np.float32(gamma - 1)
    maps = x.reshape(1, 1, -1)
    kernels._power_row(maps, 0, 0, 0, exponent, np.float32(2), powers, misfit)
    expected = x.astype(float) ** np.float64(exponent)
    assert_allclose(powers[0], expected, rtol=3e-6, atol=1e-18)
    assert_allclose(misfit, -2 * expected * x, rtol=3e-6, atol=1e-18)
    assert powers[0, 0] == (gamma == 1)


@pytest.mark.parametrize(
    ("shape", "reach"),
    [((3, 1, 1), 0), ((1, 3, 5), 15), ((3, 500, 70), 15), ((12, 700, 4096), 3)],
)
def test_tiles_cover_all_pixels_once(shape, reach):
    seen = np.zeros(shape[1:], int)
    tiles = kernels.published_tiles(shape, reach, 2)
    for top, bottom, left, right, begin, end, _ in tiles:
        seen[top:bottom, left:right] += 1
        assert (begin, end) == (max(left - reach, 0), min(right + reach, shape[2]))
    assert_array_equal(seen, 1)


def test_tiles_of_much_work_are_shared_evenly():
    assert len(kernels.published_tiles((3, 32, 64), 3, 2)) == 1
    for n_threads in (1, 2, 3):
        for size, reach in ((256, 3), (256, 15), (1024, 3), (4096, 15)):
            tiles = kernels.published_tiles((3, size, size), reach, n_threads)
            assert len(tiles) % n_threads == 0
