import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core.calibrated.convex.bins import Bins, unmixing
from hyperspy_fusion.core.calibrated.spectra import efficiency, merge, mixing_of


def overlapping(n_channels=400):
    """Lines of five elements, some of which overlap, and a continuum."""
    energy = np.linspace(0.2, 10, n_channels)
    lines = {4.47: 4.51, 4.83: 4.93, 6.4: 7.06, 0.525: 0.525, 1.7: 3.0}
    columns = [
        np.exp(-(((energy - a) / 0.06) ** 2) / 2)
        + 0.15 * np.exp(-(((energy - b) / 0.06) ** 2) / 2)
        for a, b in lines.items()
    ]
    shapes = np.stack([*columns, 1 / energy], axis=1)
    return shapes / shapes.sum(axis=0), np.array([5.0, 4.0, 0.5, 6.0, 1.0, 8.0])


def test_few_bins_keep_the_information():
    shapes, sums = overlapping()
    labels = merge(shapes, sums)
    mixing = mixing_of(shapes, labels)
    assert len(mixing) == labels.max() + 1 <= 24
    assert_allclose(mixing.sum(axis=0), 1)
    found = efficiency(shapes, mixing, sums)
    assert (found <= 1 + 1e-9).all()
    assert found.min() > 0.95
    for leading in range(len(sums) - 1):
        x = 0.1 * sums / sums.sum()
        x[leading] += 0.9
        assert efficiency(shapes, mixing, x).min() > 0.8
    equal = np.arange(len(shapes)) * len(mixing) // len(shapes)
    assert efficiency(shapes, mixing_of(shapes, equal), sums).min() < found.min()


def test_channels_of_one_direction_are_merged_without_loss():
    rng = np.random.default_rng(0)
    kinds = rng.dirichlet([1, 1, 1], 6)
    shapes = kinds[rng.integers(6, size=90)] * rng.uniform(0.1, 3, 90)[:, None]
    shapes /= shapes.sum(axis=0)
    sums = np.array([3.0, 2.0, 1.0])
    labels = merge(shapes, sums)
    assert labels.max() == 5
    assert_allclose(efficiency(shapes, mixing_of(shapes, labels), sums), 1)
    assert_array_equal(labels, merge(shapes, sums))


def test_channels_without_expected_counts_are_left_out():
    shapes, sums = overlapping()
    shapes[:20] = 0
    shapes /= shapes.sum(axis=0)
    labels = merge(shapes, sums)
    assert_array_equal(labels == -1, np.arange(400) < 20)
    assert_allclose(mixing_of(shapes, labels).sum(axis=0), 1)


@pytest.mark.parametrize("n_bins", [1, 8])
def test_unmixing_inverts_the_mixing(n_bins):
    shapes, sums = overlapping()
    if n_bins == 1:
        shapes, sums = shapes[:, :1] / shapes[:, 0].sum(), sums[:1]
    mixing = mixing_of(shapes, merge(shapes, sums, n_bins))
    assert len(mixing) <= n_bins
    identity = unmixing(mixing, sums) @ mixing
    assert_allclose(identity, np.eye(len(sums)), atol=1e-8)


def test_counts_are_shared_out_with_the_sums_of_the_components():
    rng = np.random.default_rng(0)
    shapes, sums = overlapping()
    labels = merge(shapes, sums, 12)
    mixing = mixing_of(shapes, labels)
    counts = rng.poisson(np.ones((12, 5, 7))).astype(np.float32)
    counts[:, 2, 3] = np.nan
    maps = Bins(counts=counts, mixing=mixing).of_sums(sums)
    assert maps.dtype == np.float32
    assert_array_equal(np.isnan(maps), np.isnan(counts[:1]).repeat(len(sums), axis=0))
    assert_allclose(np.nansum(maps, axis=(1, 2)), sums, rtol=1e-5)


def test_a_component_without_counts_in_its_bins_stays_empty():
    """As of a frame with few counts: no division by zero."""
    counts = np.zeros((3, 4, 5), np.float32)
    counts[0, ::2] = 1
    mixing = np.array([[1.0, 0.0], [0.0, 0.6], [0.0, 0.4]])
    maps = Bins(counts=counts, mixing=mixing).of_sums(np.array([10.0, 3.0]))
    assert_allclose(maps.sum(axis=(1, 2)), [10.0, 0.0])
