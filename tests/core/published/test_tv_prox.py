import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

from hyperspy_fusion.core.common.operators import (
    gradient,
    gradient_adjoint,
    total_variation,
)
from hyperspy_fusion.core.published.method import scale_to_unit
from hyperspy_fusion.core.published.tv_prox import total_variation_prox


def objective(x, image, weight):
    return 0.5 * np.sum((x - image) ** 2) + weight * total_variation(x)


def written_out(image, weight, n_iter, *, fast=True):
    """Steps of (fast) gradient projection by the operators, in float64."""
    p = q = np.zeros((2, *image.shape))
    t = 1.0
    for _ in range(n_iter):
        x = np.maximum(image - weight * gradient_adjoint(q), 0)
        new = q + gradient(x) / (8 * weight)
        new /= np.maximum(1, np.hypot(*new))
        t, before = (1 + np.sqrt(1 + 4 * t**2)) / 2, t
        q = new + fast * (before - 1) / t * (new - p)
        p = new
    return np.maximum(image - weight * gradient_adjoint(p), 0)


def optimum(image, weight, n_iter=3000):
    """Value of the TV prox, from a long run."""
    return objective(written_out(image, weight, n_iter), image, weight)


images = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-2, 2))
)


@given(image=images, weight=st.floats(0.01, 1), seed=st.integers(0, 100))
def test_prox_meets_its_optimality_condition(image, weight, seed):
    # x is the prox of y exactly when (y - x) / λ is a subgradient of TV + [x >= 0]:
    # <y - x, z - x> <= λ (TV(z) - TV(x)) for every z >= 0.
    x = total_variation_prox(image, weight, 1000).astype(float)
    assert x.min() >= 0
    rng = np.random.default_rng(seed)
    for size in (1.0, 0.1, 0.01):
        z = np.maximum(x + size * rng.normal(size=x.shape), 0)
        excess = weight * (total_variation(z) - total_variation(x))
        assert np.vdot(image - x, z - x) <= excess + 1e-3


@given(image=images, weight=st.floats(0.01, 1), seed=st.integers(0, 100))
def test_prox_is_firmly_nonexpansive(image, weight, seed):
    other = image + np.random.default_rng(seed).normal(size=image.shape)
    a = total_variation_prox(image, weight, 500).astype(float)
    b = total_variation_prox(other, weight, 500).astype(float)
    assert np.sum((a - b) ** 2) <= np.vdot(a - b, image - other) + 1e-2


@given(
    image=images,
    weight=st.floats(0.01, 1),
    n_iter=st.integers(1, 20),
    algorithm=st.sampled_from(["FGP", "GP"]),
)
def test_steps_are_those_of_the_operators(image, weight, n_iter, algorithm):
    found = total_variation_prox(image, weight, n_iter, algorithm)
    fast = algorithm == "FGP"
    assert_allclose(found, written_out(image, weight, n_iter, fast=fast), atol=2e-5)


def test_prox_of_a_step_is_known():
    # Two plateaus of m and n pixels in one dimension move together by λ/m and λ/n.
    step = np.array([[0.5, 0.5, 0.5, 1.5, 1.5]])
    expected = np.array([[0.6, 0.6, 0.6, 1.35, 1.35]])
    assert_allclose(total_variation_prox(step, 0.3, 2000), expected, atol=1e-4)


def test_prox_without_weight_or_steps_only_clips():
    image = np.array([[-1.0, 2.0]])
    for weight, n_iter in ((0, 5), (1, 0)):
        assert_allclose(total_variation_prox(image, weight, n_iter), [[0.0, 2.0]])


@pytest.mark.parametrize("algorithm", ["FGP", "GP"])
def test_prox_is_the_same_transposed(algorithm):
    image = np.random.default_rng(0).uniform(0, 1, (20, 33))
    assert_allclose(
        total_variation_prox(image.T, 0.2, 9, algorithm).T,
        total_variation_prox(image, 0.2, 9, algorithm),
        atol=1e-6,
    )


def test_unknown_algorithm():
    with pytest.raises(ValueError, match="'ISTA': expected 'FGP' or 'GP'"):
        total_variation_prox(np.zeros((2, 2)), 1, 1, "ISTA")


def test_fgp_earns_its_name(real_data):
    scandium = scale_to_unit(np.load(real_data("DyScO3_EDX_HAADF.npz"))["Sc"])[0]

    def error(weight, n_iter, algorithm):
        x = total_variation_prox(scandium, weight, n_iter, algorithm).astype(float)
        return objective(x, scandium, weight) / best[weight] - 1

    best = {weight: optimum(scandium, weight) for weight in (0.15, 0.022)}
    assert error(0.15, 120, "FGP") <= 1e-3
    assert error(0.15, 500, "GP") > 1e-3
    assert error(0.022, 10, "FGP") <= 1e-3
