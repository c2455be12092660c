import numpy as np
from numpy.testing import assert_array_equal

from hyperspy_fusion.core.calibrated.sample import at_places, busiest_of_quarters


def test_the_busiest_square_of_each_quarter():
    maps = np.ones((2, 41, 60))
    corners = [[(3, 5), (11, 44)], [(25, 0), (33, 52)]]
    for k, (y, x) in enumerate(corner for row in corners for corner in row):
        maps[:, y : y + 8, x : x + 8] = 10 + k
    places = busiest_of_quarters(maps, 8)
    found = [[(rows.start, columns.start) for rows, columns in row] for row in places]
    assert found == corners
    expected = np.kron([[10, 11], [12, 13]], np.ones((8, 8)))
    assert_array_equal(at_places(maps, places), [expected] * 2)
