from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_discs import measured
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core.calibrated.correlation import KERNELS
from hyperspy_fusion.core.calibrated.split import normal, random_parts, split, thinned


def test_thinned_counts():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (1, 300, 300)).astype(float)
    counts[0, 5, 7] = np.nan
    half = thinned(counts, 0)
    known = np.isfinite(counts)
    assert_array_equal(np.isfinite(half), known)
    assert (half[known] % 1 == 0).all()
    assert ((half <= counts) | ~known).all()
    assert_allclose(half[known].mean(), 1.5, rtol=0.01)
    assert_allclose(half[known].var(), 1.5, rtol=0.02)
    scaled = thinned(0.7 * counts, 0)
    assert ((scaled >= 0) & (scaled <= 0.7 * counts))[known].all()
    assert_allclose(scaled[known].mean(), 1.05, rtol=0.01)


@pytest.mark.parametrize("values", [False, True])
def test_halves_of_filtered_maps_are_independent(values):
    rng = np.random.default_rng(0)
    kernel = KERNELS[1]
    noise = 3 * kernel.noise((200, 200), rng)
    prepared = replace(
        measured(np.full((2, 200, 200), 50.0)),
        data=np.stack([50 + noise, 50 - noise]),
        variance=np.full((2, 1, 1), 81.0) if values else None,
        background=np.zeros((2, 1, 1)),
        kernels=(kernel, kernel),
    )
    if not values:  # of counts the noise is their number over the area
        prepared = replace(prepared, data=50 + (prepared.data - 50) * np.sqrt(50) / 9)
    share, (one, other) = split(prepared, 0)
    assert share == (1 if values else 0.5)
    assert_allclose((one.data + other.data) / (2 * share), prepared.data, rtol=1e-5)
    correlation = np.corrcoef(one.data[0].ravel(), other.data[0].ravel())[0, 1]
    assert abs(correlation) < 0.15


def test_order_of_the_maps_does_not_matter():
    counts = np.random.default_rng(0).poisson(3.0, (3, 20, 30)).astype(float)
    order = [2, 0, 1]
    assert_array_equal(thinned(counts[order], 5), thinned(counts, 5)[order])
    assert (thinned(counts, 6) != thinned(counts, 5)).any()
    assert (thinned(counts, 5, 1) != thinned(counts, 5, 0)).any()


@given(
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.sampled_from([np.fliplr, np.flipud, np.rot90, np.transpose]),
)
def test_orientation_does_not_matter(shape, turn):
    image = np.random.default_rng(0).normal(5, 1, shape)
    for draw in (
        lambda image: thinned(image[None], 5)[0],
        lambda image: normal(image, 5),
        lambda image: random_parts(image, 7, 5),
    ):
        assert_array_equal(draw(turn(image)), turn(draw(image)))
