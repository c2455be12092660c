from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_discs import COEFFICIENTS, NOISE, OFFSET, PRIOR, discs, measured
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from hyperspy_fusion.core.calibrated import coefficients as calibration
from hyperspy_fusion.core.calibrated.coefficients import (
    CrossFit,
    fit_coefficients,
    halves,
    initial_coefficients,
)


def smooth_maps(n_elements, shape=(60, 70), seed=0, mean=5.0):
    rng = np.random.default_rng(seed)
    maps = gaussian_filter(rng.normal(size=(n_elements, *shape)), (0, 3, 3))
    maps = np.maximum(maps / maps.std() + 1, 0)
    return mean * maps / maps.mean(axis=(1, 2), keepdims=True)


# Noise


# Scales


# Coefficients


@given(
    seed=st.integers(0, 1000),
    n_elements=st.integers(1, 5),
    offset=st.sampled_from([-300.0, 0.0, 1e4]),
)
@settings(max_examples=20)
def test_coefficients_without_noise_are_exact(seed, n_elements, offset):
    maps = smooth_maps(n_elements, seed=seed)
    truth = np.random.default_rng(seed).uniform(1, 50, n_elements)
    haadf = np.tensordot(truth, maps, 1) + offset
    wide = np.full(haadf.shape, 1e9)  # the image decides, not what is expected
    found, found_offset = fit_coefficients(maps, maps, haadf, wide, np.ones(n_elements))
    assert_allclose(found, truth, rtol=1e-4)
    assert_allclose(found_offset, offset, atol=1e-2)
    found, found_offset = initial_coefficients(maps, np.zeros_like(maps), haadf)
    assert_allclose(found, truth, rtol=1e-6)
    assert_allclose(found_offset, offset, atol=1e-3)


def test_coefficients_are_not_biased_by_the_noise_of_counts():
    truth = np.array([8.0, 3.0])
    maps = smooth_maps(2, (100, 100), mean=2.0)
    found, smoothed, plain = [], [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        counts = rng.poisson(maps).astype(float)
        haadf = np.tensordot(truth, maps, 1) + 40 + 0.5 * rng.normal(size=(100, 100))
        weight = np.full(haadf.shape, 1 / 0.25)
        found.append(fit_coefficients(maps, counts, haadf, weight, np.ones(2))[0])
        smoothed.append(initial_coefficients(counts, counts, haadf)[0])
        design = np.column_stack([*counts.reshape(2, -1), np.ones(haadf.size)])
        plain.append(np.linalg.lstsq(design, haadf.ravel(), rcond=None)[0][:2])
    assert_allclose(np.mean(found, axis=0), truth, rtol=0.03)
    assert_allclose(np.mean(smoothed, axis=0), truth, rtol=0.05)
    assert (np.mean(plain, axis=0) < 0.8 * truth).all()  # what least squares makes


@pytest.mark.parametrize("missing", [0.0, 0.2, 0.4])
def test_initial_coefficients_are_not_biased_by_sparse_counts_with_gaps(missing):
    # with the noise of the known pixels alone it is up to 30 % less
    truth = np.array([8.0, 3.0])
    maps = smooth_maps(2, (200, 200), mean=0.1)
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        counts = rng.poisson(maps).astype(float)
        counts[rng.random(counts.shape) < missing] = np.nan
        haadf = np.tensordot(truth, maps, 1) + 40 + 0.05 * rng.normal(size=(200, 200))
        found.append(initial_coefficients(counts, counts, haadf)[0])
    assert_allclose(np.mean(found, axis=0), truth, rtol=0.1)


def test_expectation_decides_between_maps_that_are_the_same():
    one = smooth_maps(1)[0]
    maps = np.stack([one, one])
    weight = np.ones(one.shape)
    prior = np.array([3.0, 1.0])
    found, offset = fit_coefficients(maps, maps, 8 * one + 5, weight, prior)
    # of all c with c_1 + c_2 = 8, the one at the same distance in units of the prior
    assert_allclose(found.sum(), 8, rtol=1e-3)
    expected = 2 * prior  # p_i times 8 / (3 + 1)
    assert_allclose(found, expected, rtol=1e-3)
    assert_allclose(offset, 5, atol=0.05)
    # only the ratio of what is expected matters
    again, _ = fit_coefficients(maps, maps, 8 * one + 5, weight, 1e-6 * prior)
    assert_allclose(again, found, rtol=1e-6)


def test_inflation_trusts_the_equations_less():
    maps = smooth_maps(2)
    haadf = np.tensordot([5.0, 1.0], maps, 1)
    weight = np.full(haadf.shape, 1e-3)
    away = [
        abs(
            fit_coefficients(maps, maps, haadf, weight, np.array([1.0, 5]), inflation)[
                0
            ]
            - [5, 1]
        ).max()
        for inflation in (1.0, 10.0, 100.0)
    ]
    assert away[0] < away[1] < away[2]


def test_negative_coefficients_are_dropped():
    maps = smooth_maps(3, mean=4.0)
    haadf = np.tensordot([6.0, -4.0, 2.0], maps, 1) + 100
    weight = np.ones(haadf.shape)
    found, offset = fit_coefficients(maps, maps, haadf, weight, np.ones(3))
    assert found[1] == 0
    assert (found >= 0).all()
    # the others as if that element were not there
    rest, rest_offset = fit_coefficients(
        maps[::2], maps[::2], haadf, weight, np.ones(2)
    )
    assert_allclose(found[::2], rest, rtol=0.02)
    assert_allclose(offset, rest_offset, rtol=0.02)
    assert (initial_coefficients(maps, np.zeros_like(maps), haadf)[0] >= 0).all()


def test_missing_pixels_and_pixels_without_weight_are_ignored():
    maps = smooth_maps(2)
    haadf = np.tensordot([7.0, 2.0], maps, 1) + 30
    weight = np.ones(haadf.shape)
    net, spoiled = maps.copy(), haadf.copy()
    net[0, 3:9, 4:20] = np.nan
    spoiled[3:9, 4:20] = 1e6
    weight[40:50, 5:9] = 0
    spoiled[40:50, 5:9] = -1e6
    found, offset = fit_coefficients(maps, net, spoiled, weight, np.ones(2))
    assert_allclose(found, [7, 2], rtol=1e-3)
    assert_allclose(offset, 30, rtol=1e-2)


def test_holes_of_the_maps():
    # wider than the Gaussian, and a map of which there is nothing
    maps = smooth_maps(3)
    haadf = np.tensordot([7.0, 2.0, 0.0], maps, 1) + 30
    net = maps.copy()
    net[0, 20:30, 10:20] = np.nan
    net[2] = np.nan
    found, offset = initial_coefficients(net, np.zeros_like(net), haadf)
    assert_allclose(found, [7, 2, 0], rtol=0.1)
    assert_allclose(offset, 30, rtol=0.1)


@given(
    counts=st.sampled_from([1e-8, 1.0, 1e8]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    shift=st.sampled_from([0.0, -1e3, 1e5]),
)
def test_units_of_maps_and_image(counts, scale, shift):
    maps = smooth_maps(3)
    rng = np.random.default_rng(0)
    net = maps + rng.normal(size=maps.shape)
    haadf = np.tensordot([7.0, 2.0, 4.0], maps, 1) + rng.normal(size=maps[0].shape)
    weight, prior = np.ones(haadf.shape), np.array([3.0, 1.0, 2.0])
    found, offset = fit_coefficients(maps, net, haadf, weight, prior)
    again, again_offset = fit_coefficients(
        counts * maps,
        counts * net,
        scale * haadf + shift,
        weight / scale**2,
        prior / counts,
    )
    assert_allclose(again * counts / scale, found, rtol=1e-4)
    assert_allclose(again_offset, scale * offset + shift, atol=1e-3 * scale, rtol=1e-6)
    noise = np.ones_like(net)
    found, offset = initial_coefficients(net, noise, haadf)
    again, again_offset = initial_coefficients(
        counts * net, counts**2 * noise, scale * haadf + shift
    )
    assert_allclose(again * counts / scale, found, rtol=1e-4)
    assert_allclose(again_offset, scale * offset + shift, atol=1e-3 * scale, rtol=1e-6)


def test_empty_elements():
    maps = smooth_maps(3)
    maps[1] = 0
    haadf = np.tensordot([7.0, 2.0, 4.0], maps, 1) + 30
    found, offset = fit_coefficients(
        maps, maps, haadf, np.ones(haadf.shape), np.array([2.0, 1.0, 1.0])
    )
    assert_allclose(found[::2], [7, 4], rtol=1e-3)
    assert found[1] >= 0
    assert_allclose(offset, 30, rtol=1e-2)
    found, offset = initial_coefficients(maps, np.zeros_like(maps), haadf)
    assert_allclose(found, [7, 0, 4], rtol=1e-6)
    nothing = np.zeros_like(maps)
    for coefficients, offset in (
        initial_coefficients(nothing, nothing, haadf),
        fit_coefficients(nothing, nothing, haadf, np.ones(haadf.shape), np.ones(3)),
    ):
        assert np.isfinite(coefficients).all()
        assert_allclose(offset, haadf.mean())


def test_image_that_is_used_nowhere():
    maps = smooth_maps(2)
    found, offset = fit_coefficients(
        maps, maps, maps[0], np.zeros(maps[0].shape), np.ones(2)
    )
    assert_array_equal(found, 0)
    assert offset == 0


def test_initial_coefficients_of_flat_maps():
    flat = np.full((2, 20, 20), 3.0)
    found, offset = initial_coefficients(flat, flat, np.full((20, 20), 8.0))
    assert np.isfinite(found).all()
    assert_allclose(offset + found @ [3, 3], 8)


def test_prior_width_is_stated():
    assert calibration.PRIOR_WIDTH == 1.0


# Cross-fitting


def rare_discs(n=160):
    """A rare element on a support, counts."""
    y, x = np.mgrid[:n, :n]
    support = 4.0 * (np.hypot(y - n / 2, x - n / 2) < 0.4 * n)
    rare = sum(
        2.5 * (np.hypot(y - i * n, x - j * n) < 3)
        for i, j in ((0.4, 0.4), (0.6, 0.5), (0.5, 0.65))
    )
    return gaussian_filter(np.stack([rare, support]), (0, 1, 1))


@pytest.mark.parametrize("seed", range(3))
def test_coefficient_of_a_rare_element(run, seed):
    # 150 counts on a background of 500: its own noise would halve the coefficient
    found, _ = CrossFit().calibrate(measured(rare_discs(), seed=seed), PRIOR, run)
    assert_allclose(found.coefficients, COEFFICIENTS, rtol=0.25)


def test_halves_are_independent_measurements():
    prepared = measured(discs())
    share, (one, other) = halves(prepared)
    assert share == 0.5
    assert_array_equal(one.data + other.data, prepared.data)
    assert_allclose((one.haadf + other.haadf) / 2, prepared.haadf, rtol=1e-6)
    assert_allclose(one.sigma, np.sqrt(2) * prepared.sigma)
    noise = prepared.haadf - OFFSET - np.tensordot(COEFFICIENTS, discs(), axes=1)
    split = (one.haadf - other.haadf) / 2
    assert_allclose((noise + split).std(), np.sqrt(2) * NOISE, rtol=0.05)
    variance = np.maximum(prepared.data, 1)
    values = replace(prepared, variance=variance, background=np.zeros((2, 1, 1)))
    share, (one, other) = halves(values)
    assert share == 1
    assert one is other is values
