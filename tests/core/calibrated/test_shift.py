from dataclasses import replace

import numpy as np
import pytest
from known_discs import discs, measured
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core.calibrated.convex.solver import minimise
from hyperspy_fusion.core.calibrated.shift import Shift, aligned, find_shift


def counts_alone(prepared, run):
    return minimise(prepared.problem(4.0, 0.0), run, tolerance=None, max_iter=60).maps


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (1, 2), (-3, 1)])
def test_shift_is_found_and_undone(run, shift):
    prepared = measured(discs())
    moved = replace(prepared, haadf=np.roll(prepared.haadf, shift, axis=(0, 1)))
    found = find_shift(moved, counts_alone(moved, run))
    assert_allclose((found.y, found.x), shift, atol=0.4)
    assert found.significant == (shift != (0, 0))
    assert bool(found.message) == found.significant
    back = aligned(moved, found)
    inside = back.trusted > 0
    assert inside.mean() > 0.9
    assert_array_equal(back.haadf[inside], prepared.haadf[inside])


def test_shift_takes_the_trusted_pixels_along():
    prepared = measured(discs())
    trusted = np.ones((64, 64))
    trusted[20, 30] = 0
    back = aligned(replace(prepared, trusted=trusted), Shift(y=2.0, x=-1.0, z=9.0))
    assert back.trusted[18, 31] == 0
    assert_array_equal(back.trusted[-2:], 0)
    assert_array_equal(back.trusted[:, 0], 0)
    assert back.trusted.sum() == 62 * 63 - 1


def test_shift_of_an_image_that_is_not_used():
    prepared = replace(measured(discs()), trusted=np.zeros((64, 64)))
    assert not find_shift(prepared, prepared.net()).significant
    tiny = measured(discs(3))
    assert not find_shift(tiny, tiny.net()).significant
