from dataclasses import replace

import numpy as np
import pytest
from arrays_in import prepare
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import gammaln, xlogy
from specimens import fractions_of, wedge

from hyperspy_fusion.core.calibrated.composition import (
    few_counts,
    noise_law,
    normalised,
    sum_of_fractions,
)
from hyperspy_fusion.core.calibrated.options import CalibratedOptions

# --- what fractions are -------------------------------------------------------------


def some_fractions(n=20, seed=0):
    values = np.random.default_rng(seed).gamma(3, size=(3, n, n))
    return (values / values.sum(axis=0)).astype(np.float32)


@pytest.mark.parametrize("total", [1, 100, 37])
def test_fractions_and_percentages(total):
    assert_allclose(sum_of_fractions(total * some_fractions()), total, rtol=1e-6)


def test_empty_pixels_are_left_out():
    maps = some_fractions()
    maps[:, :15] = 0
    assert sum_of_fractions(maps) == 1


def test_whole_percent_are_rounded_fractions():
    assert sum_of_fractions(np.rint(100 * some_fractions())) == 100


@pytest.mark.parametrize(
    "maps",
    [
        np.ones((1, 20, 20)),
        np.zeros((3, 20, 20)),
        np.random.default_rng(0).poisson(4.0, (3, 20, 20)),
        np.random.default_rng(0).poisson(1e4, (3, 20, 20)),
        some_fractions()[:2],
        1.05 * some_fractions() * np.linspace(0.99, 1.01, 20),
    ],
    ids=["one map", "nothing", "counts", "many counts", "not all", "not so exact"],
)
def test_no_fractions(maps):
    assert sum_of_fractions(np.asarray(maps)) is None


@pytest.mark.parametrize("value", [1, 5, 100 / 3, 0.37])
def test_one_bright_pixel_is_no_fraction(value):
    maps = np.zeros((3, 20, 20), np.float32)
    maps[:, 4, 7] = value
    assert sum_of_fractions(maps) is None


def test_few_pixels_may_hold_fractions():
    maps = some_fractions()
    maps[:, 1:] = 0  # 20 pixels are left
    assert sum_of_fractions(maps) == 1
    assert sum_of_fractions(100 * maps) == 100


def test_single_counts_are_no_fractions():
    maps = np.zeros((3, 20, 20))
    maps[[0, 1, 2], [3, 9, 12], [4, 5, 19]] = 1
    assert sum_of_fractions(maps) is None


def test_empty_pixels_are_missing():
    maps = 50 * some_fractions()
    maps[:, 0] = 0
    maps[1, 1] = np.nan
    found = normalised(maps)
    assert np.isnan(found[:, :2]).all()
    assert_allclose(found[:, 2:].sum(axis=0), 1, rtol=1e-5)
    assert found.dtype == np.float32


# --- their noise --------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.01, 0.7, 5.0, 39.0, 41.0, 300.0])
def test_few_counts_is_the_mean_inverse(mean):
    n = np.arange(1, 2000)
    share = np.exp(xlogy(n, mean) - mean - gammaln(n + 1)) / -np.expm1(-mean)
    assert_allclose(few_counts(np.array(mean)), mean * (share / n).sum(), rtol=1e-3)


COUNT_VALUE = np.array([0.03, 0.02, 0.08])
PRIOR = np.array([3.0, 2.0, 1.0])


def counted(thickness, proportions, value, seed=0):
    """Fractions of counts that stand for these amounts."""
    amounts = thickness * proportions[:, None, None]
    value = value[:, None, None]
    return fractions_of(value * np.random.default_rng(seed).poisson(amounts / value))


@pytest.fixture(scope="module")
def law():
    """The law of a wedge, whose HAADF image has the offset 500 and no vacuum."""
    thickness = np.linspace(0.5, 1.5, 160) * np.ones((160, 1))
    y, x = np.mgrid[:160, :160] / 25
    first, second = 0.3 + 0.2 * np.sin(y), 0.3 + 0.2 * np.sin(x)
    proportions = np.stack([first, second, 1 - first - second])
    value = COUNT_VALUE[:, None, None]
    counts = np.random.default_rng(0).poisson(thickness * proportions / value)
    haadf = 500 + 1000 * thickness * np.tensordot(PRIOR, proportions, axes=1)
    haadf = np.random.default_rng(1).normal(haadf, 10)
    fractions = fractions_of(value * counts)
    return noise_law(fractions, haadf, np.isfinite(haadf), PRIOR)


def test_the_noise_tells_the_dark_level(law):
    assert law.source == "noise"
    contrast = 1000 * PRIOR.mean() * 1.5
    assert abs(law.offset - 500) < 0.1 * contrast
    assert law.message == ""


def test_value_of_a_count(law):
    assert_allclose(law.count_value, COUNT_VALUE, rtol=0.25)
    assert_allclose(law.coefficients, 1000 * PRIOR, rtol=0.1)


@pytest.mark.parametrize(
    ("value", "thickness"), [(COUNT_VALUE, 1.0), (np.full(3, 0.04), 0.04)]
)
def test_the_law_is_that_of_simulated_fractions(law, value, thickness):
    law = replace(law, count_value=value)
    proportions = np.array([0.2, 0.3, 0.5])
    fractions = counted(np.full((300, 300), thickness), proportions, value)
    one = proportions[:, None, None]
    expected = law.variance(one) / law.precision(one, np.array([[thickness]]))
    found = np.nanvar(fractions, axis=(1, 2))
    assert_allclose(found, expected[:, 0, 0], rtol=0.1)


def test_sum_and_counts_by_the_image(law):
    proportions = np.array([0.2, 0.3, 0.5])[:, None, None]
    haadf = law.offset + 2 * law.coefficients @ proportions[:, 0]
    assert_allclose(law.total(haadf[None], proportions), 2)
    counts = law.expected_counts(haadf[None], proportions)
    assert_allclose(counts, 2 * (proportions[:, 0, 0] / law.count_value).sum())
    assert law.total(np.array([[law.offset - 5]]), proportions) == 0


def test_few_pixels():
    fractions = np.full((2, 10, 10), np.nan)
    fractions[:, 2, 2] = 0.5
    haadf = np.random.default_rng(0).random((10, 10))
    with pytest.raises(ValueError, match="0 pixels hold fractions and have neighbours"):
        noise_law(fractions, haadf, np.isfinite(haadf), np.ones(2))


# --- the dark level -----------------------------------------------------------------


@pytest.fixture(scope="module")
def particle():
    """Fractions of a particle in vacuum, and its HAADF image."""
    counts, haadf, _ = wedge(96)
    counts[:, :30] = 0
    haadf[:30] = 300 + np.random.default_rng(3).normal(0, 5, (30, 96))
    return fractions_of(counts), haadf


def test_vacuum_has_the_dark_level(particle):
    fractions, haadf = particle
    law = noise_law(fractions, haadf, np.isfinite(haadf), np.ones(2))
    assert law.source == "vacuum"
    assert_allclose(law.offset, 300, atol=2)


def test_a_bright_region_without_fractions_is_no_vacuum():
    counts, haadf, _ = wedge(96)
    fractions = fractions_of(counts)
    fractions[:, 30:70, 40:80] = np.nan
    law = noise_law(fractions, haadf, np.isfinite(haadf), np.ones(2))
    assert law.source == "noise"


def test_the_dark_level_can_be_given(particle):
    fractions, haadf = particle
    law = noise_law(fractions, haadf, np.isfinite(haadf), np.ones(2), offset=123.0)
    assert (law.offset, law.source) == (123.0, "given")


def test_a_uniform_specimen_does_not_tell_the_dark_level():
    rng = np.random.default_rng(0)
    fractions = fractions_of(rng.poisson(10.0, (2, 96, 96)))
    haadf = rng.normal(1000, 1, (96, 96))
    found = [
        noise_law(fractions, haadf, np.isfinite(haadf), np.ones(2), offset=offset)
        for offset in (None, 0.0)
    ]
    assert "the dark level of the HAADF image is not certain" in found[0].message
    assert found[1].message == ""


def test_an_element_that_is_nowhere(particle):
    fractions, haadf = particle
    known = np.isfinite(fractions[0])
    fractions = np.stack([*fractions, np.where(known, 0, np.nan)])
    law = noise_law(fractions, haadf, np.isfinite(haadf), np.ones(3))
    assert np.isfinite(law.count_value).all()
    assert (law.count_value > 0).all()


# --- counts instead of them ---------------------------------------------------------


def test_pseudo_counts_have_the_fractions_and_the_sums(law):
    fractions = counted(np.full((40, 40), 0.01), np.array([0.2, 0.3, 0.5]), COUNT_VALUE)
    haadf = np.random.default_rng(0).random((40, 40))
    prepared = prepare(fractions, haadf, CalibratedOptions()).prepared
    counts = 1 + 5 * np.random.default_rng(1).random((40, 40))
    data = law.pseudo_counts(prepared, counts).data
    known = np.isfinite(fractions[0])
    assert_array_equal(np.isfinite(data).all(axis=0), known)
    assert_allclose(data.sum(axis=0)[known], counts[known], rtol=1e-5)
    assert_allclose(law.proportions(data)[:, known], fractions[:, known], atol=1e-4)


def test_the_likelihood_of_pseudo_counts_lies_below_that_of_fractions():
    """With equality where the sum of the maps is that of the pseudo-counts."""
    rng = np.random.default_rng(0)
    shares, maps = rng.dirichlet(np.ones(3), 50), rng.gamma(2, size=(50, 3))

    def poisson(maps, sums):
        counts = shares * sums[:, None]
        return (xlogy(counts, maps) - maps).sum(axis=1)

    def multinomial(maps, sums):
        counts = shares * sums[:, None]
        return xlogy(counts, maps / maps.sum(axis=1, keepdims=True)).sum(axis=1)

    sums = maps.sum(axis=1)
    constant = poisson(maps, sums) - multinomial(maps, sums)
    other = maps * rng.gamma(2, size=(50, 3))
    assert np.all(poisson(other, sums) - constant <= multinomial(other, sums) + 1e-9)
