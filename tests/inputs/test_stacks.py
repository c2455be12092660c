import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from small_images import SHAPE, image, on_navigation_axes

from hyperspy_fusion.inputs.measurement import measure


def test_stack_gives_each_map_its_own_metadata():
    stack = hs.stack([image("Fe"), image("O")], show_progressbar=False)
    measurement = measure(stack, image())
    assert measurement.elements == ("Fe", "O")
    assert [i.metadata.General.title for i in measurement.images] == ["Fe", "O"]


def test_stack_of_series():
    series = [
        image(t, np.random.default_rng(0).random((4, *SHAPE))) for t in ("Fe", "O")
    ]
    stack = hs.stack(series, show_progressbar=False)
    measurement = measure(stack, series[0])
    assert measurement.elements == ("Fe", "O")
    assert_array_equal(measurement.maps[:, 1], series[1].data)


def test_stack_of_maps_on_navigation_axes():
    images = [image(t, np.random.default_rng(0).random(SHAPE)) for t in ("Fe", "O")]
    stack = hs.stack(list(map(on_navigation_axes, images)), show_progressbar=False)
    measurement = measure(stack, image())
    assert measurement.elements == ("Fe", "O")
    assert_array_equal(measurement.maps, [signal.data for signal in images])


@pytest.mark.parametrize("n_elements", [2, 11])
def test_one_position_of_a_stack_of_series(n_elements):
    names = ["Fe", "O", "C", "N", "Si", "Al", "Co", "Ni", "Cu", "Zn", "Au"]
    random = np.random.default_rng(0)
    series = [image(t, random.random((4, *SHAPE))) for t in names[:n_elements]]
    stack = hs.stack(series, show_progressbar=False).inav[2]
    measurement = measure(stack, image())
    assert measurement.elements == tuple(names[:n_elements])
    assert_array_equal(measurement.maps, [signal.data[2] for signal in series])
    assert [i.metadata.General.title for i in measurement.images] == names[:n_elements]


@pytest.mark.parametrize("signal_type", ["", "elemental_map"])
def test_a_stack_that_lost_its_variance_does_not_give_it_to_its_maps(signal_type):
    maps = [image("Fe"), image("O")]
    for signal in maps:
        signal.set_signal_type(signal_type)
        signal.set_noise_variance(image("", np.full(SHAPE, 2.0)))
    stack = hs.stack(maps, show_progressbar=False)
    measurement = measure(stack, image())
    assert_array_equal(measurement.variance, np.full((2, *SHAPE), 2.0))
    assert measure(stack * 2, image()).variance is None
    assert measure(stack, image()).variance is not None


def test_variance_of_other_pixels_is_refused():
    random = np.random.default_rng(0)
    series = [image(t, random.random((4, *SHAPE))) for t in ("Fe", "O")]
    for signal in series:
        signal.set_noise_variance(signal.deepcopy())
    stack = hs.stack(series, show_progressbar=False)
    expected = np.stack([signal.data for signal in series], axis=1)
    assert_array_equal(measure(stack, series[0]).variance, expected)
    # HyperSpy has put them side by side along x, and slices that along y and t
    part = stack.inav[0].isig[:, 1:]
    assert_array_equal(measure(part, image().isig[:, 1:]).variance, expected[0, :, 1:])
    with pytest.raises(ValueError, match=r"variance .* shape \(4, 5, 7\) .* slice the"):
        measure(stack.inav[0].isig[1:], image().isig[1:])
    parts = [signal.inav[0] for signal in series]
    assert_array_equal(measure(parts, image()).variance, expected[0])


def test_loadings_need_names():
    loadings = image("loadings", np.random.default_rng(0).random((3, *SHAPE)))
    loadings.metadata.set_item("Sample.elements", ["Fe", "O", "C"])  # of the spectra
    with pytest.raises(ValueError, match="nothing says which element"):
        measure(loadings, image())
    measurement = measure(loadings, image(), elements=["C", "Fe", "O"])
    assert_array_equal(measurement.maps, loadings.data)
