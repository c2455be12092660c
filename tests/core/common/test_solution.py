import numpy as np
import pytest

from hyperspy_fusion.core.common.solution import check_different, check_elastic


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


class TestElastic:
    def check(self, haadf, *further):
        check_elastic(haadf, further, [f"image {i}" for i in range(len(further))])

    def test_images_of_their_own(self, images):
        self.check(*images)
        self.check(images[0], np.zeros((40, 32)), np.ones((40, 32)))
        shared = np.zeros((40, 32))
        shared[3, 4] = 1e12  # a hot pixel
        self.check(*(images + shared))

    @pytest.mark.parametrize(("factor", "offset"), [(2, 0), (-0.1, 7), (1, 100)])
    @pytest.mark.parametrize("kind", [np.float64, np.float32])
    def test_one_image_in_other_units(self, images, factor, offset, kind):
        copy = (factor * images[0].astype(kind) + kind(offset)).astype(kind)
        copy[5, 6] = np.nan
        message = "HAADF image and the elastic image image 1 are the same but for"
        with pytest.raises(ValueError, match=message):
            self.check(images[0], images[1], copy)
