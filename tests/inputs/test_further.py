import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from small_images import SHAPE, image, on_navigation_axes

from hyperspy_fusion.inputs.measurement import measure

RNG = np.random.default_rng(0)


def other(title="", **axes):
    return image(title, RNG.random(SHAPE), **axes)


def test_names_are_titles():
    images = [other("iDPC"), other(), other("BF")]
    found = measure([image("Fe")], image(), elastic=images)
    assert found.elastic_names == ("iDPC", "elastic 2", "BF")
    assert_array_equal(found.elastic, [signal.data for signal in images])
    assert not found.warnings
    again = measure([image("Fe")], image(), elastic=[other("a"), other("a")])
    assert again.elastic_names == ("a 1", "a 2")


def test_one_image_and_named_images():
    phase = other("a file name")
    assert measure([image("Fe")], image(), elastic=phase).elastic.shape == (1, *SHAPE)
    named = measure([image("Fe")], image(), elastic={"phase": phase})
    assert named.elastic_names == ("phase",)
    without = measure([image("Fe")], image())
    assert without.elastic is None
    assert without.elastic_names == ()


def test_image_on_navigation_axes():
    phase = other("ADF")
    turned = on_navigation_axes(phase)
    assert_array_equal(
        measure([image("Fe")], image(), elastic=turned).elastic[0], phase.data
    )


def test_missing_pixels_stay():
    phase = other("ADF")
    phase.data[2, 3] = np.nan
    found = measure([image("Fe")], image(), elastic=phase)
    assert np.argwhere(np.isnan(found.elastic)).tolist() == [[0, 2, 3]]


def test_lazy_images_stay_lazy():
    found = measure([image("Fe")], image(), elastic=other("a").as_lazy(), lazily=True)
    assert isinstance(found.elastic, da.Array)
    assert found.lazy
    arrays = [found.maps[0], found.haadf, found.elastic[0]]
    assert found.check([np.asarray(array) for array in arrays]) == []
    with pytest.raises(ValueError, match="the elastic image a is constant"):
        found.check([*map(np.asarray, arrays[:2]), np.ones(SHAPE)])


def test_common_area_of_all():
    rng = np.random.default_rng(1)

    def wide(title):
        signal = hs.signals.Signal2D(rng.random((16, 16)))
        signal.metadata.General.title = title
        for axis in signal.axes_manager.signal_axes:
            axis.scale, axis.units, axis.name = 0.5, "nm", axis.name
        return signal

    fe = hs.signals.Signal2D(rng.random((8, 8)))
    fe.metadata.General.title = "Fe"
    for axis in fe.axes_manager.signal_axes:
        axis.scale, axis.units, axis.offset = 1.0, "nm", 0.25
    haadf, phase = wide("HAADF"), wide("phase")
    found = measure([fe], haadf, match="axes", elastic=phase)
    expected = phase.data.reshape(8, 2, 8, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(found.elastic[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (lambda: [1.0], TypeError, "elastic image number 0"),
        (lambda: {"BF": np.ones(SHAPE)}, TypeError, "elastic image BF"),
        (
            lambda: other("exit wave") * 1j,
            TypeError,
            "exit wave holds complex numbers: .* signal.phase or signal.amplitude",
        ),
        (lambda: [other("a"), *[other("b")] * 2], ValueError, "image 'b' .* twice"),
        (
            lambda: [other(f"{k}") for k in range(4)],
            ValueError,
            "4 images: expected at most 3",
        ),
        (
            lambda: image("BF", np.ones(SHAPE)),
            ValueError,
            "the elastic image BF is constant",
        ),
        (
            lambda: image("BF", RNG.random((4, 4))),
            ValueError,
            "HAADF image has .* and the elastic image BF 4 x 4",
        ),
        (
            lambda: hs.signals.Signal2D(RNG.random((*SHAPE, 6, 6))),
            ValueError,
            "expected one image, as HAADF. A 4D-STEM data set",
        ),
    ],
)
def test_what_is_no_further_image(given, kind, message):
    with pytest.raises(kind, match=message):
        measure([image("Fe")], image(), elastic=given())
