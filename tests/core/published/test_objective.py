import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from hyperspy_fusion.core.published.forward import PowerModel
from hyperspy_fusion.core.published.objective import (
    chemical_cost,
    chemical_gradient,
    haadf_cost,
    haadf_gradient,
)


def slope(function, maps, direction, step=1e-5):
    """Central difference of a function along a direction."""
    return (function(maps + step * direction) - function(maps - step * direction)) / (
        2 * step
    )


@given(seed=st.integers(0, 1000))
def test_gradients_match_finite_differences(seed):
    rng = np.random.default_rng(seed)
    maps = rng.uniform(0.1, 2, (3, 4, 5))
    direction = rng.normal(size=maps.shape)
    measured = rng.uniform(0, 1, maps.shape)
    haadf = rng.uniform(0, 1, maps.shape[1:])
    model = PowerModel(weights=rng.uniform(0.2, 2, 3), gamma=rng.uniform(1.4, 2))

    assert_allclose(
        slope(lambda x: chemical_cost(x, measured, 0.05), maps, direction),
        np.vdot(chemical_gradient(maps, measured, 0.05), direction),
        rtol=1e-6,
        atol=1e-6,
    )
    assert_allclose(
        slope(lambda x: haadf_cost(x, haadf, model), maps, direction),
        np.vdot(haadf_gradient(maps, haadf, model), direction),
        rtol=1e-6,
        atol=1e-6,
    )


def test_terms_of_known_numbers():
    maps = np.array([[[1.0, 3.0]]])
    assert chemical_cost(maps, np.array([[[0.0, np.e]]]), 0.0) == 4 - np.e * np.log(3)
    identity = type("Identity", (), {"__call__": lambda _, x: x[0]})()
    assert haadf_cost(maps, np.array([[1.0, 1.0]]), identity) == 2.0


def test_total_is_the_weighted_sum(objective):
    haadf, chemical, tv = objective.terms(objective.measured)
    assert objective.weigh((haadf, chemical, tv)) == (
        0.4 * haadf + 0.1 * chemical + 0.2 * tv
    )
