import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from hyperspy_fusion.core import calibration
from hyperspy_fusion.core.calibration import (
    count_gain,
    fill,
    fit_coefficients,
    haadf_noise,
    initial_coefficients,
    map_noise,
    noise_line,
    signal_scale,
)


def columns(size=128, pitch=16, sigma=2.2):
    """A lattice of atomic columns between 0 and 1."""
    along = sum(
        np.exp(-((np.arange(size) - pitch * (k + 0.3)) ** 2) / (2 * sigma**2))
        for k in range(-1, size // pitch + 2)
    )
    return np.outer(along, along) / along.max() ** 2


def slope_image(size=128):
    return np.add.outer(np.linspace(0, 0.7, size), np.linspace(0, 0.3, size))


def smooth_maps(n_elements, shape=(60, 70), seed=0, mean=5.0):
    rng = np.random.default_rng(seed)
    maps = gaussian_filter(rng.normal(size=(n_elements, *shape)), (0, 3, 3))
    maps = np.maximum(maps / maps.std() + 1, 0)
    return mean * maps / maps.mean(axis=(1, 2), keepdims=True)


# Noise


@pytest.mark.parametrize("image", [columns(), slope_image()], ids=["lattice", "plain"])
@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (3.7, 500.0), (0.01, -20.0)])
@pytest.mark.parametrize("electrons", [100.0, 3000.0])
def test_haadf_noise(image, gain, offset, electrons):
    expected = electrons * (image + 0.1)
    truth = gain * np.sqrt(expected)
    ratios = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        found = haadf_noise(gain * rng.poisson(expected) + offset)
        assert found.shape == image.shape
        ratios.append(found / truth)
    ratio = np.mean(ratios, axis=0)
    assert_allclose(np.sqrt(np.mean(ratio**2)), 1, atol=0.05)
    # where it is dark, and where it is bright
    for part in (image < 0.2, image > 0.6):
        assert_allclose(ratio[part].mean(), 1, atol=0.12)


def test_haadf_noise_in_any_affine_units():
    image = np.random.default_rng(0).poisson(500 * (columns() + 0.1)).astype(float)
    assert_allclose(haadf_noise(1e-3 * image + 7), 1e-3 * haadf_noise(image), rtol=1e-6)


def test_noise_line_of_constant_noise():
    rng = np.random.default_rng(0)
    image = 1000 * slope_image() + 3 * rng.normal(size=(128, 128))
    intercept, slope, levels, variances = noise_line(image, robust=True)
    assert_allclose(intercept + slope * np.ptp(image) / 2, 9, rtol=0.1)
    assert_allclose(variances, 9, rtol=0.25)
    assert_array_equal(levels, np.sort(levels))


@pytest.mark.parametrize("shape", [(16, 16), (9, 7), (3, 3), (1, 100), (100, 1)])
def test_haadf_noise_of_small_images(shape):
    image = np.random.default_rng(0).normal(1000, 5, shape)
    found = haadf_noise(image)
    assert np.isfinite(found).all()
    assert found.min() > 0
    if min(shape) > 3:
        assert_allclose(found.mean(), 5, rtol=0.3)


def test_haadf_noise_of_vacuum_and_saturation():
    rng = np.random.default_rng(0)
    image = 3000 * columns() + 100
    measured = rng.normal(image, 30)
    for spoiled in (np.minimum(measured, 1200), np.where(image < 101, 100, measured)):
        found = haadf_noise(spoiled)
        assert np.isfinite(found).all()
        # never so small that the image would outweigh everything
        assert found.min() > 30 / 4
        assert found.max() < 30 * 2


def test_haadf_without_noise():
    for image in (np.full((20, 20), 7.0), np.zeros((20, 20)), columns(64)):
        assert np.isfinite(haadf_noise(image)).all()
        assert haadf_noise(image).min() > 0


@pytest.mark.parametrize("mean", [0.05, 1.0, 5.0])
@pytest.mark.parametrize("gain", [0.013, 250.0])
def test_count_gain(mean, gain):
    expected = 2 * mean * slope_image()
    counts = np.random.default_rng(0).poisson(expected)
    found = count_gain(gain * counts)
    if np.mean(counts == 0) < 0.05:
        assert found is None
    else:
        assert_allclose(found, gain, rtol=0.1)


def test_no_gain_of_what_is_not_counts():
    rng = np.random.default_rng(0)
    assert count_gain(rng.normal(5, 1, (32, 32)) ** 2) is None
    assert count_gain(rng.normal(0, 1, (32, 32))) is None
    assert count_gain(np.zeros((32, 32))) is None


def test_gain_of_counts_at_the_edge_and_beside_gaps():
    image = np.zeros((32, 32))
    image[0, 5:8] = 2.5
    known = np.ones(image.shape, bool)
    for missing in ((slice(0), 0), (slice(1, 32, 2), slice(1, 32, 2))):
        known[missing] = False
        assert count_gain(image, known) == pytest.approx(2.5, rel=0.2)
    known[0] = False
    assert count_gain(image, known) is None


def test_map_noise():
    rng = np.random.default_rng(0)
    image = 20 * slope_image() + 1
    found = map_noise(rng.poisson(image) * 0.5)
    middle = found[10:-10, 10:-10] / (0.25 * image[10:-10, 10:-10])
    assert_allclose(middle.mean(), 1, atol=0.05)
    assert_allclose(middle, 1, atol=0.35)
    found = map_noise(image + 0.3 * rng.normal(size=image.shape))
    assert_allclose(found.mean(), 0.09, rtol=0.1)
    assert map_noise(np.zeros((20, 20))).min() > 0


def test_map_noise_of_known_pixels():
    rng = np.random.default_rng(0)
    image = rng.normal(10, 2, (64, 64))
    known = np.ones(image.shape, bool)
    known[20:40, 20:50] = False
    image[~known] = 1e3
    assert_allclose(map_noise(np.where(known, image, 10), known).mean(), 4, rtol=0.15)


# Scales


def test_signal_scale():
    counts = np.zeros((3, 60, 60))
    counts[0] = 4  # everywhere
    counts[1, 10:50, 10:50] = 9  # in a part that is large against the Gaussian
    found = signal_scale(counts, np.zeros((3, 1, 1)))
    assert_allclose(found[0], 4)
    assert 7 < found[1] < 9
    assert found[2] == 1e-3
    # a background is not signal, but its counts are counts
    flat = signal_scale(np.full((1, 20, 20), 5.0), np.full((1, 20, 20), 2.0))
    assert_allclose(flat, 5 * 3 / 5)


def test_fill():
    maps = smooth_maps(2)
    spoiled = maps.copy()
    spoiled[0, 10:12, 20:23] = np.nan
    found = fill(spoiled)
    known = np.isfinite(spoiled)
    assert_array_equal(found[known], spoiled[known])
    assert_allclose(found[~known], maps[~known], rtol=0.3)
    assert fill(maps) is maps
    # a hole of any size goes on from its edge
    stripes = np.repeat([[1.0, 5.0]], 64, axis=0).repeat(32, axis=1)[None]
    stripes[0, :, 40:] = np.nan
    assert_allclose(fill(stripes)[0, :, 40:], 5, rtol=0.3)
    assert_array_equal(fill(np.full((1, 4, 4), np.nan)), 0)


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


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_a_small_map_that_is_nearly_empty(seed):
    # 16 x 16 pixels leave no eight bins; those of zeros alone must not decide
    rng = np.random.default_rng(seed)
    mean = np.full((16, 16), 1e-3)
    mean[4:9, 6:12] = 0.4
    image = 0.2 * rng.poisson(mean)
    found = map_noise(image)
    assert 0.1 < found[5:8, 7:11].mean() / (0.2**2 * 0.4) < 3
    assert found.min() > 1e-6 * found.max()
