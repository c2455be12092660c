from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose

from hyperspy_fusion.core.calibrated.convex.multigrid import refine_rows


@pytest.mark.parametrize("shape", [(8, 12), (9, 12), (9, 13), (2, 3), (1, 1)])
def test_refined_images_are_interpolated_linearly(shape):
    coarse = np.random.default_rng(0).random((2, *(n // 2 or 1 for n in shape)))
    coarse = coarse.astype(np.float32)
    fine = np.full((2, *shape), np.nan, np.float32)
    for start, stop in pairwise([0, shape[0] // 2, shape[0]]):
        refine_rows(coarse, np.float32(0.5), fine, start, stop)
    # the centres of the fine pixels among those of the coarse ones
    expected = 0.5 * coarse
    for axis, (n, m) in enumerate(zip(shape, coarse.shape[1:], strict=True), start=1):
        places = (np.arange(n) + 0.5) / 2 - 0.5
        expected = np.apply_along_axis(
            lambda row, places=places, m=m: np.interp(places, np.arange(m), row),
            axis,
            expected,
        )
    assert_allclose(fine, expected, rtol=1e-5)
