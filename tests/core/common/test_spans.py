import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal

from hyperspy_fusion.core.common.spans import cropped, moved, region_of, spans_of

regions = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def test_an_example():
    region = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=bool)
    spans = spans_of(region)
    assert spans.dtype == np.float64
    assert_array_equal(spans, [[0, 0, 2], [0, 3, 4], [2, 1, 3]])


@given(regions)
def test_back_and_forth(region):
    spans = spans_of(region)
    assert_array_equal(region_of(spans, region.shape), region)
    padded = np.pad(spans, [(0, 2), (0, 0)], constant_values=np.nan)
    assert_array_equal(region_of(padded, region.shape), region)


@given(regions, st.data())
def test_parts(region, data):
    (n_y, n_x) = region.shape
    top, left = data.draw(st.integers(0, n_y - 1)), data.draw(st.integers(0, n_x - 1))
    bottom = data.draw(st.integers(top + 1, n_y))
    right = data.draw(st.integers(left + 1, n_x))
    rows, columns = slice(top, bottom), slice(left, right)
    spans, part = spans_of(region), region[rows, columns]
    found = cropped(spans, rows, columns)
    assert_array_equal(found, spans_of(part))
    series = cropped(np.stack([spans, spans + np.nan]), rows, columns)
    assert series.shape == (2, *spans.shape)
    assert_array_equal(region_of(series[0], part.shape), part)
    assert not region_of(series[1], part.shape).any()
    expected = np.zeros_like(region)
    expected[rows, columns] = part
    assert_array_equal(region_of(moved(found, top, left), region.shape), expected)
