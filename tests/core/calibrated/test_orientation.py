import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hyperspy_fusion import data
from hyperspy_fusion.core.calibrated.method import CalibratedOptions, solve
from hyperspy_fusion.core.calibrated.orientation import Orientation
from hyperspy_fusion.core.calibrated.shift import Shift

TURNS = {
    "upside down": lambda array: array[..., ::-1, :],
    "mirrored": lambda array: array[..., ::-1],
    "transposed": lambda array: array.swapaxes(-2, -1),
    "by a quarter": lambda array: np.rot90(array, axes=(-2, -1)),
    "by three quarters": lambda array: np.rot90(array, 3, axes=(-2, -1)),
}
each_turn = pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)


@each_turn
@pytest.mark.parametrize("shape", [(20, 20), (15, 24)])
def test_all_orientations_are_brought_to_one(turn, shape):
    image = np.random.default_rng(0).random(shape)
    one, other = Orientation.of(image), Orientation.of(turn(image))
    assert_array_equal(one.turn(image), other.turn(turn(image)))
    for orientation, seen in ((one, image), (other, turn(image))):
        assert_array_equal(orientation.turn_back(orientation.turn(seen)), seen)


@each_turn
def test_shift_is_that_of_the_images(turn):
    # a point, and where it comes to lie
    image = np.random.default_rng(0).random((20, 20))
    orientation = Orientation.of(turn(image))
    before, after = (
        np.argwhere(orientation.turn(np.eye(1, 400, k).reshape(20, 20)))[0]
        for k in (5 * 20 + 7, 7 * 20 + 8)
    )
    y, x = (after - before).tolist()
    found = orientation.shift_back(Shift(y=y, x=x, z=3.0))
    assert (found.y, found.x, found.z) == (2, 1, 3)


@pytest.fixture(scope="module")
def specimen():
    maps, haadf, _ = data.core_shell(48, counts=4)
    return np.stack([image.data for image in maps]), haadf.data


@pytest.fixture(scope="module")
def solution(specimen):
    return solve(*specimen, (27, 25, 8), CalibratedOptions())


@each_turn
def test_orientation_does_not_matter(specimen, solution, turn):
    found = solve(*map(turn, specimen), (27, 25, 8), CalibratedOptions())
    assert_array_equal(found.maps, turn(solution.maps))


def test_order_of_the_elements_does_not_matter(specimen):
    maps, haadf = specimen
    order = [2, 0, 1]
    background = np.array([0.02, 0.03, 0.04])[:, None, None]
    options = CalibratedOptions(uncertainty=True, lambda_tv=4.0, lambda_haadf=0.1)
    one = solve(
        maps,
        haadf,
        (27, 25, 8),
        options,
        background=background,
        sensitivities=(1.0, 2.0, 3.0),
    )
    other = solve(
        maps[order],
        haadf,
        (8, 27, 25),
        options,
        background=background[order],
        sensitivities=(3.0, 1.0, 2.0),
    )
    assert_array_equal(other.maps, one.maps[order])
    assert_array_equal(other.variance, one.variance[order])
    for name in ("haadf_coefficients", "change", "own_norm", "count_value"):
        assert_array_equal(other.record[name], one.record[name][order])
