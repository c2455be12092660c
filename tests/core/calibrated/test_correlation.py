import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

import hyperspy_fusion
from hyperspy_fusion.core.calibrated.correlation import (
    KERNELS,
    UNEVEN_KERNELS,
    find_kernel,
    find_rounded_filter,
)
from hyperspy_fusion.core.calibrated.noise import count_gain

FILTERS = {
    "a mean over 3 x 3 pixels": lambda image: ndimage.uniform_filter(image, 3),
    "a Gaussian filter of 0.7 pixels": lambda image: ndimage.gaussian_filter(
        image, 0.7
    ),
    "a Gaussian filter of 1 pixels": lambda image: ndimage.gaussian_filter(image, 1),
    "a mean over 2 x 2 pixels": lambda image: ndimage.shift(
        image, (0.5, 0.5), order=1, mode="nearest"
    ),
}


# along one axis more than along the other
UNEVEN = {
    "a mean over 1 x 3 pixels": lambda image: ndimage.uniform_filter1d(image, 3),
    "a mean over 5 x 1 pixels": lambda image: ndimage.uniform_filter1d(image, 5, 0),
    "a mean over 1 x 2 pixels": lambda image: ndimage.shift(
        image, (0, 0.5), order=1, mode="nearest"
    ),
    "a Gaussian filter of 1 x 2 pixels": lambda image: ndimage.gaussian_filter(
        image, (1, 2)
    ),
}


def counts_of(name, counts):
    maps = getattr(hyperspy_fusion.data, name)(128, counts=counts, seed=4).maps
    return [image.data.astype(float) for image in maps]


@pytest.mark.parametrize("name", ["core_shell", "lattice", "janus"])
@pytest.mark.parametrize("counts", [0.5, 4, 16])
def test_counts_are_white(name, counts):
    for image in counts_of(name, counts):
        assert find_kernel(image, 1.0) is None
        assert find_kernel(image, None) is None


@pytest.mark.parametrize("name", ["core_shell", "lattice", "janus"])
@pytest.mark.parametrize("expected", [*FILTERS, *UNEVEN])
def test_filters_are_found(name, expected):
    for image in counts_of(name, 4):
        kernel, gain = find_kernel((FILTERS | UNEVEN)[expected](image), None)
        assert kernel.name == expected
        assert 0.5 < gain < 1.5  # a count is still 1


@pytest.mark.parametrize("counts", [1, 16, 1000])
@pytest.mark.parametrize("tilt", [0.0, 0.1])
def test_stripes_are_no_correlated_noise(counts, tilt):
    y, x = np.indices((96, 96))
    stripes = 0.1 + (np.sin((x + tilt * y) / 2) > 0)
    image = np.random.default_rng(0).poisson(counts * stripes).astype(float)
    for step in (1.0, None):
        assert find_kernel(image, step) is None
        assert find_kernel(image.T, step) is None


@pytest.mark.parametrize("name", ["core_shell", "lattice", "janus"])
@pytest.mark.parametrize(
    "rounded",
    [
        lambda image: ndimage.median_filter(image, 3),
        lambda image: np.rint(ndimage.gaussian_filter(image, 1)),
    ],
    ids=["median", "rounded Gaussian"],
)
def test_filters_with_rounding_are_found(name, rounded):
    for image in counts_of(name, 8):
        noise = count_gain(rounded(image))
        assert find_rounded_filter(rounded(image), noise).area > 2
        # fewer levels make the noise smaller, but do not correlate it
        coarse = np.rint(image / 3)
        assert find_rounded_filter(coarse, count_gain(coarse)) is None


def test_interpolation_is_found():
    (image, *_) = counts_of("lattice", 16)
    turned = ndimage.rotate(image, 5, order=1, reshape=False, mode="nearest")
    kernel, gain = find_kernel(turned, None)
    assert kernel.area < 4
    assert 0.6 < gain < 1.5


def test_little_can_be_said_of_a_small_or_flat_map():
    rng = np.random.default_rng(0)
    small = ndimage.uniform_filter(rng.poisson(4.0, (20, 60)).astype(float), 3)
    assert find_kernel(small, None) is None
    assert find_rounded_filter(np.rint(small), 0.1) is None
    assert find_kernel(np.ones((64, 64)), None) is None


@pytest.mark.parametrize(
    "kernel", [*KERNELS, *UNEVEN_KERNELS[::9]], ids=lambda kernel: kernel.name
)
def test_noise_of_a_kernel(kernel):
    noise = kernel.noise((200, 210), np.random.default_rng(0))
    assert_allclose(noise.var(), 1, rtol=0.15)
    # means over large blocks have the variance of the area
    blocks = noise[:200, :200].reshape(10, 20, 10, 20).mean(axis=(1, 3))
    assert_allclose(blocks.var(), kernel.area / 400, rtol=0.5)
    assert kernel.area == pytest.approx(1 / np.mean(kernel.response((64, 64)) ** 2))


@pytest.mark.parametrize("name", ["core_shell", "janus"])
@pytest.mark.parametrize("counts", [1e3, 1e4])
def test_many_counts_are_white(name, counts):
    for image in getattr(hyperspy_fusion.data, name)(64, counts=counts).maps:
        assert find_kernel(image.data.astype(float), 1.0) is None
