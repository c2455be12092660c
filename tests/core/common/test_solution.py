import numpy as np
import pytest

from hyperspy_fusion.core.common.solution import check_different


@pytest.fixture
def images():
    return np.random.default_rng(0).poisson(5.0, (3, 40, 32))


@pytest.mark.parametrize("kind", [int, float])
def test_the_same_data_twice_are_refused(images, kind):
    one, other, haadf = images.astype(kind)
    check_different(np.stack([one, other]), haadf, ["Co", "O"])
    with pytest.raises(ValueError, match="the map of Co and the map of Ni hold the"):
        check_different(np.stack([one, other, one]), haadf, ["Co", "O", "Ni"])
    with pytest.raises(ValueError, match="map number 1 and the HAADF image hold"):
        check_different(np.stack([one, haadf]), haadf)
    further = [one + 1, haadf.copy()]
    with pytest.raises(ValueError, match="HAADF image and the elastic image phase"):
        check_different(np.stack([one, other]), haadf, (), further, ["bf", "phase"])


def test_missing_pixels_are_equal(images):
    one, _, haadf = images.astype(float)
    one[3, 4] = np.nan
    with pytest.raises(ValueError, match="was one read twice"):
        check_different(np.stack([one, one]), haadf)


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_maps_of_nearly_nothing_may_be_the_same(images, value):
    empty = np.full((2, 40, 32), value)
    check_different(empty, images[0])
    empty[:, 5, 5:9] = 8  # one count each, at the same places
    check_different(empty, images[0])
