import numpy as np
import pytest
from numpy.testing import assert_allclose

from hyperspy_fusion.core.published.forward import PowerModel, element_weights


@pytest.mark.parametrize(
    ("z_weighting", "expected"),
    [
        ("none", [1, 1]),
        ("Z", [0.5, 1.5]),
        ("Z/sum", [0.25, 0.75]),
        ("Z**gamma", [0.2, 1.8]),
        ("Z**gamma/sum", [0.1, 0.9]),
    ],
)
def test_element_weights(z_weighting, expected):
    assert_allclose(element_weights((10, 30), 2.0, z_weighting), expected)


def test_unknown_weighting_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'Z\^2'.*'Z', 'Z/sum'"):
        element_weights((10, 30), 2.0, "Z^2")


def test_power_model_of_known_numbers():
    model = PowerModel(weights=np.array([2.0, 3.0]), gamma=2.0)
    maps = np.array([[[1.0, 2.0]], [[0.0, 1.0]]])
    assert_allclose(model(maps), [[2.0, 11.0]])


def test_the_weighted_text_formula_is_z_to_the_gamma():
    # (Z x)^γ of Schwartz et al. (2022), up to the common factor
    maps = np.random.default_rng(0).uniform(0, 1, (2, 3, 4))
    z = np.array([27.0, 8.0])
    model = PowerModel(weights=element_weights(z, 1.6, "Z**gamma"), gamma=1.6)
    text = ((z[:, None, None] * maps) ** 1.6).sum(axis=0)
    assert_allclose(model(maps) * np.mean(z**1.6), text)
