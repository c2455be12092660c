import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core.common.operators import (
    block_sums,
    gradient,
    gradient_adjoint,
    inner,
    joint_norm,
    symmetrised_gradient,
    symmetrised_gradient_adjoint,
    total_generalised_variation,
    total_variation,
)

images = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-2, 2))
)


@given(image=images, seed=st.integers(0, 100))
def test_gradient_and_its_adjoint(image, seed):
    field = np.random.default_rng(seed).normal(size=(2, *image.shape))
    assert_allclose(
        np.vdot(gradient(image), field),
        np.vdot(image, gradient_adjoint(field)),
        rtol=1e-6,
        atol=1e-12,
    )


def test_total_variation_of_known_images():
    step = np.zeros((4, 5))
    step[:, 3:] = 2.0
    assert total_variation(step) == 8.0
    corner = np.zeros((3, 3))
    corner[1, 1] = 1.0
    # one pixel: differences to the left and above, and both at once at the pixel
    assert_allclose(total_variation(corner), 2 + np.sqrt(2))
    assert total_variation(np.full((3, 3), 7.0)) == 0


shapes = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))


@given(shape=shapes, seed=st.integers(0, 1000))
def test_symmetrised_gradient_and_its_adjoint(shape, seed):
    rng = np.random.default_rng(seed)
    field = inner(rng.normal(size=(2, *shape)))
    tensor = rng.normal(size=(3, *shape))
    adjoint = symmetrised_gradient_adjoint(tensor)
    twice = tensor * np.reshape([1, 1, 2], (3, 1, 1, 1))  # the mixed component
    assert_allclose(
        np.vdot(symmetrised_gradient(field), twice),
        np.vdot(field, adjoint),
        atol=1e-12,
    )
    assert_allclose(adjoint, inner(adjoint))


@given(shape=shapes, seed=st.integers(0, 1000))
def test_second_differences_are_those_of_the_mirrored_image(shape, seed):
    image = np.random.default_rng(seed).normal(size=shape)
    mirrored = np.pad(image, [(0, 0), (1, 1), (1, 1)], mode="symmetric")
    along_y, along_x = np.diff(mirrored, axis=1), np.diff(mirrored, axis=2)
    expected = [
        np.diff(along_y, axis=1)[:, :, 1:-1],
        np.diff(along_x, axis=2)[:, 1:-1],
        (np.diff(along_x, axis=1)[:, :-1, 1:] + np.diff(along_y, axis=2)[:, 1:, :-1])
        / 2,
    ]
    assert_allclose(symmetrised_gradient(gradient(image)), expected, atol=1e-12)


def test_inner_is_where_the_gradient_takes_differences():
    field = np.ones((2, 1, 3, 4))
    ramps = np.add.outer(np.arange(3.0), np.arange(4.0))[None]
    assert_allclose(inner(field), gradient(ramps))
    assert field.min() == 1  # a copy


def test_norm_of_operators_is_below_that_of_the_steps():
    # of 20 x 20 pixels, by the power method; 8 bounds both
    for apply, adjoint, start in (
        (gradient, gradient_adjoint, (1, 20, 20)),
        (symmetrised_gradient, symmetrised_gradient_adjoint, (2, 1, 20, 20)),
    ):
        x = np.random.default_rng(0).normal(size=start)
        for _ in range(100):
            x = adjoint(apply(x / np.linalg.norm(x)))
        assert 7.5 < np.linalg.norm(x) <= 8


def test_joint_norm_of_known_fields():
    field = np.zeros((2, 2, 1, 3))
    field[:, :, 0, 0] = [[1, 2], [2, 4]]
    field[0, 0, 0, 1] = -3
    assert_allclose(joint_norm(field), [[5, 3, 0]])
    tensor = np.zeros((3, 1, 1, 2), np.float32)
    tensor[:, 0, 0, 0] = 1, 1, 1
    tensor[2, 0, 0, 1] = 3
    assert_allclose(joint_norm(tensor), [[2, 3 * np.sqrt(2)]])


def test_total_generalised_variation_of_ramps():
    # Two elements, 3 and 4 a row: their mirrored edges bend by 5 along 7 columns each
    rows = np.arange(6.0)[:, None] * np.ones(7)
    maps = np.stack([10 + 3 * rows, 4 * rows])
    slopes = gradient(maps)
    assert_allclose(total_generalised_variation(maps, slopes, 0.3), 0.3 * 2 * 7 * 5)
    assert_allclose(total_generalised_variation(maps, 0 * slopes, 0.3), 5 * 7 * 5)
    # An oblique one bends by 1 at 2 x 5 pixels, by 2 at 2 x 4, by both at the corners
    ramp = np.add.outer(np.arange(6.0), 2 * np.arange(7.0))[None]
    assert_allclose(
        total_generalised_variation(ramp, gradient(ramp), 1.0),
        2 * 5 * 1 + 2 * 4 * 2 + 4 * np.sqrt(5),
    )
    flat = np.full((2, 3, 4), 7.0)
    assert total_generalised_variation(flat, gradient(flat), 1.0) == 0


def test_edges_at_the_same_place_cost_less():
    step = np.zeros((1, 4, 5))
    step[..., 3:] = 2.0
    still = np.zeros((2, 2, 4, 5))
    together = np.concatenate([step, step])
    apart = np.concatenate([step, step[..., ::-1]])
    assert_allclose(total_generalised_variation(together, still, 1.0), 8 * np.sqrt(2))
    assert_allclose(total_generalised_variation(apart, still, 1.0), 16)
    assert_allclose(
        total_generalised_variation(step, still[:, :1], 1.0), total_variation(step[0])
    )


@pytest.mark.parametrize(
    ("shape", "n_blocks"),
    [
        ((128, 128), 64),
        ((64, 64), 16),
        ((100, 300), 7 * 19),
        ((65, 64), 5 * 4),
        ((32, 32), 16),
        ((16, 16), 16),
        ((1, 100), 50),
        ((1, 1), 1),
    ],
)
def test_blocks_share_the_sum(shape, n_blocks):
    image = np.random.default_rng(0).uniform(size=shape)
    found = block_sums(image)
    assert found.shape == (n_blocks,)
    assert_allclose(found.sum(), image.sum())


def test_blocks_of_known_sums():
    image = np.zeros((64, 80))
    image[:16, :16] = 1
    image[16:32, 16:32] = 2
    image[63, 79] = 7
    found = block_sums(image).reshape(4, 5)
    expected = np.zeros((4, 5))
    expected[0, 0], expected[1, 1], expected[3, 4] = 256, 512, 7
    assert_array_equal(found, expected)
