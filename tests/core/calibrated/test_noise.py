import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core.calibrated.noise import (
    count_gain,
    haadf_noise,
    map_noise,
    noise_line,
)
from hyperspy_fusion.core.common.missing import fill


def columns(size=128, pitch=16, sigma=2.2):
    """A lattice of atomic columns between 0 and 1."""
    along = sum(
        np.exp(-((np.arange(size) - pitch * (k + 0.3)) ** 2) / (2 * sigma**2))
        for k in range(-1, size // pitch + 2)
    )
    return np.outer(along, along) / along.max() ** 2


def slope_image(size=128):
    return np.add.outer(np.linspace(0, 0.7, size), np.linspace(0, 0.3, size))


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
    intercept, slope, _, levels, variances = noise_line(image, robust=True)
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
    assert_allclose(found, gain, rtol=0.1)


def test_no_gain_of_what_is_not_counts():
    rng = np.random.default_rng(0)
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


@pytest.mark.parametrize("missing", [np.s_[:40], np.s_[:, 10:60], np.s_[20:50, 15:70]])
def test_where_the_image_was_not_measured_it_has_no_noise_to_tell(missing):
    rng = np.random.default_rng(4)
    image = rng.normal(500, 20, (80, 80))
    known = np.ones(image.shape, bool)
    known[missing] = False
    filled = fill(np.where(known, image, np.nan)[None])[0]
    assert haadf_noise(filled).min() < 10
    assert_allclose(haadf_noise(filled, known), 20, rtol=0.15)


def test_noise_of_net_counts_vanishes_with_the_signal():
    rng = np.random.default_rng(0)
    mean = np.zeros((128, 128))
    mean[40:90, 40:90] = 9.0
    net = rng.poisson(mean).astype(float)
    net -= rng.random(net.shape) < 0.005
    line = noise_line(net, robust=False)
    assert abs(line.lowest) < 0.05  # and not the lowest pixel
    assert line.slope == pytest.approx(1, rel=0.2)
    assert line.intercept < 0.2


def test_noise_of_an_image_that_was_clipped():
    rng = np.random.default_rng(0)
    image = np.zeros((96, 96))
    image[30:70, 20:80] = 2000 * (1 + slope_image()[:40, :60])
    noisy = image + 50 * rng.normal(size=image.shape)
    for clipped in (noisy, np.maximum(noisy, 0), np.maximum(noisy - 150, 0)):
        inside = haadf_noise(clipped)[40:60, 30:70]
        assert np.median(inside) == pytest.approx(50, rel=0.25)
