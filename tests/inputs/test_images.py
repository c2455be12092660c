import threading

import numpy as np
import pytest
from small_images import SHAPE, image

from hyperspy_fusion.inputs.images import choose_haadf, new_signal


@pytest.mark.parametrize(
    "title", ["HAADF", "Gatan HAADF", "STEM HAADF Image", "DF-S", "annular_detector"]
)
def test_choose_haadf_by_title(title):
    others = [image(t) for t in ("Fe", "BF", "SE", "BSE", "DF4-A", "DF4-B", "a", "")]
    found = image(title)
    assert choose_haadf([*others, found]) is found


def test_choose_haadf_by_signal_type_or_file_name():
    typed = image("x")
    typed.set_signal_type("HAADF")
    assert choose_haadf([image("y"), typed]) is typed
    named = image("scan 3")
    named.metadata.General.original_filename = "scan 3.dm4"
    assert choose_haadf([image("y"), named]) is named


def test_choose_haadf_by_shape():
    small, large = image("HAADF"), image("HAADF", np.ones((20, 20)))
    assert choose_haadf([small, large], shape=SHAPE) is small


def test_two_haadf_images_are_listed():
    images = [image("HAADF", scale=2, units="nm"), image("DF-S")]
    with pytest.raises(ValueError, match="2 of the images.*'HAADF' .7 x 5, 2 nm/px.*"):
        choose_haadf(images)


def test_without_haadf_all_images_are_listed():
    with pytest.raises(ValueError, match="none of the images.*'Ch 1'.*'SE'"):
        choose_haadf([image("Ch 1"), image("SE")], shape=SHAPE)
    with pytest.raises(ValueError, match="there are no images"):
        choose_haadf([])


# --- new signals -----------------------------------------------------------------


def test_new_signal_has_axes_and_metadata_of_another():
    source = image("Fe", scale=2, units="nm", elements=["Fe"])
    source.set_noise_variance(3.0)
    source.tmp_parameters.set_item("filename", "scan")
    made = new_signal(source, source.data + 1, signal_type="elemental_map")
    assert type(made).__name__ == "ElementalMap"
    assert made.axes_manager[0].units == "nm"
    assert made.metadata.Sample.elements == ["Fe"]
    assert made.tmp_parameters.filename == "scan"
    assert made.get_noise_variance() is None
    assert source.get_noise_variance() == 3.0
    made.metadata.Sample.elements.append("O")
    made.axes_manager[0].scale = 5
    assert source.metadata.Sample.elements == ["Fe"]
    assert source.axes_manager[0].scale == 2
    assert new_signal(source, source.as_lazy().data)._lazy


def test_new_signal_never_empties_the_other():
    source, empty, done = image("Fe"), [], threading.Event()

    def watch():
        while not done.is_set():
            if source.data is None:
                empty.append(1)

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(50):
        new_signal(source, source.data)
    done.set()
    thread.join()
    assert not empty
