"""What spectra in bins tell of each element alone, and halves of their counts."""

from dataclasses import replace

import numpy as np
import pytest
from arrays_in import prepare
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core.calibrated.convex.bins import Bins
from hyperspy_fusion.core.calibrated.options import CalibratedOptions
from hyperspy_fusion.core.calibrated.spectra import Spectra
from hyperspy_fusion.core.calibrated.split import split
from hyperspy_fusion.core.calibrated.unmixed import unmixed, with_counts

# two elements whose lines overlap, and a continuum
MIXING = np.array([[0.6, 0.3, 0.1], [0.3, 0.6, 0.2], [0.1, 0.1, 0.3], [0, 0, 0.4]])
EXPECTED = np.array([3.0, 2.0, 4.0])


@pytest.fixture
def image():
    """Counts of flat maps, as they are fused; one pixel is missing."""
    rng = np.random.default_rng(0)
    counts = rng.poisson((MIXING @ EXPECTED)[:, None, None], (4, 48, 64))
    counts = counts.astype(np.float32)
    counts[:, 5, 7] = np.nan
    spectra = Spectra(
        bins=Bins(counts=counts, mixing=MIXING, n_elements=2),
        sums=EXPECTED * (48 * 64 - 1),
        errors=np.ones(3),
        names=("Ba", "Ti", "continuum"),
        shares=np.ones(2),
    )
    maps, variance = spectra.unmixed()
    haadf = rng.normal(10, 1, (48, 64))
    given = {"variance": variance, "bad_known": True}
    preparation = prepare(maps, haadf, CalibratedOptions(), **given)
    return spectra.prepared(preparation.prepared)


def test_unmixed_elements_have_no_bias_and_their_variance(image):
    found = unmixed(image)
    assert found.bins is None
    assert found.data.shape == (2, 48, 64)
    assert_array_equal(np.argwhere(np.isnan(found.data[0])), [[5, 7]])
    n = np.isfinite(found.data[0]).sum()
    spread = np.nanstd(found.data, axis=(1, 2))
    mean = np.nanmean(found.data, axis=(1, 2))
    assert (np.abs(mean - EXPECTED[:2]) < 4 * spread / np.sqrt(n)).all()
    assert_allclose(found.variance.mean(axis=(1, 2)), spread**2, rtol=0.1)
    assert len(found.coefficients) == len(found.lock.kept) == len(found.scale) == 2
    assert_array_equal(found.net(), found.data)


def test_maps_stay_as_they_are(image):
    maps = replace(image, bins=None)
    assert unmixed(maps) is maps
    assert_array_equal(with_counts(maps, 2 * maps.data).data, 2 * maps.data)


def test_the_same_counts_are_the_same_data(image):
    again = with_counts(image, image.bins.counts)
    # those of the fixture are not of the sums that fit best
    assert_allclose(again.data, image.data, rtol=0.02)
    assert_array_equal(np.isnan(again.data), np.isnan(image.data))


def test_halves_are_independent_measurements(image):
    dose, (one, other) = split(image, 3)
    assert dose == 0.5
    assert_array_equal(one.bins.counts + other.bins.counts, image.bins.counts)
    counts = one.bins.counts[np.isfinite(one.bins.counts)]
    assert (counts == np.rint(counts)).all()
    assert_allclose(one.pedestal, image.pedestal / 2)
    assert_allclose(one.coefficients, 2 * image.coefficients)
    assert_allclose(
        np.nansum(one.data, axis=(1, 2)),
        np.nansum(image.data, axis=(1, 2)) / 2,
        rtol=0.03,
    )
    noise = [
        (unmixed(half).data - EXPECTED[:2, None, None] / 2)[0] for half in (one, other)
    ]
    known = np.isfinite(noise[0])
    found = np.corrcoef(*(each[known] for each in noise))[0, 1]
    assert abs(found) < 4 / np.sqrt(known.sum())
