import warnings

import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scans import HAADF, SHAPE, elements_of, image, titles_of

import hyperspy_fusion
from hyperspy_fusion import HAADFImage
from hyperspy_fusion.loading import find_candidates, load_multimodal


def test_maps_come_in_the_order_of_the_signals_or_of_the_elements():
    signals = [image("Cu"), HAADF, image("O-EDS"), image("survey", (9, 9)), image("Fe")]
    maps, haadf, _ = load_multimodal(signals)
    assert elements_of(maps) == [["Cu"], ["O"], ["Fe"]]
    assert all(type(signal) is hyperspy_fusion.ElementalMap for signal in maps)
    assert type(haadf) is HAADFImage
    assert_array_equal(haadf.data, HAADF.data)
    maps, *_ = load_multimodal(signals, ["Fe", "O-EDS"])
    assert elements_of(maps) == [["Fe"], ["O"]]
    assert titles_of(maps) == ["Fe", "O-EDS"]
    maps, *_ = load_multimodal(tuple(signals), "O")
    assert elements_of(maps) == [["O"]]


def test_maps_on_navigation_axes_are_maps():
    copper = image("", xray_lines=["Cu_Ka"]).T
    series = hs.stack([image("", elements=["Fe"])] * 3)
    series = series.transpose(navigation_axes=(1, 2, 0))
    series.metadata.General.title = "Fe"
    for signal, shape in ((copper, SHAPE), (series, (3, *SHAPE))):
        (elemental_map,), *_ = load_multimodal([signal, HAADF])
        assert type(elemental_map) is hyperspy_fusion.ElementalMap
        assert elemental_map.data.shape == shape
    assert list(load_multimodal([copper, HAADF])[0][0].metadata.Sample.xray_lines) == [
        "Cu_Ka"
    ]


def test_ambiguous_maps_are_refused_with_a_list():
    signals = [image("Fe-EELS"), image("Fe"), image("O"), HAADF]
    with pytest.raises(ValueError, match="Fe is shown by 'Fe-EELS'.* and 'Fe'") as info:
        load_multimodal(signals)
    assert str(find_candidates(signals)) in str(info.value)
    assert "elements=['Fe-EELS', ...]" in str(info.value)
    # A title is unambiguous, also where it is a symbol.
    maps, *_ = load_multimodal(signals, ["Fe", "O"])
    assert titles_of(maps) == ["Fe", "O"]
    with pytest.raises(ValueError, match="Fe is shown by 'Fe'.* and 'Fe-EELS'"):
        load_multimodal(signals, ["Fe", "Fe-EELS"])
    signals[1].metadata.General.title = "Fe-EDS"
    with pytest.raises(ValueError, match="'Fe' is shown by 'Fe-EELS'.* and 'Fe-EDS'"):
        load_multimodal(signals, ["Fe", "O"])


@pytest.mark.parametrize("lazy", [False, True])
def test_empty_maps_are_left_out(lazy):
    empty = np.zeros(SHAPE)
    signals = [image("Fe", data=empty), image("Fe-EELS"), image("O"), HAADF]
    signals = [signal.as_lazy() for signal in signals] if lazy else signals
    left_out = r"^maps that are zero everywhere are left out: 'Fe' \(7 x 5, 2 nm/px\)$"
    for elements in (None, ["Fe", "O"]):
        with pytest.warns(UserWarning, match=left_out):
            maps, *_ = load_multimodal(signals, elements)
        assert titles_of(maps) == ["Fe-EELS", "O"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert titles_of(load_multimodal(signals, ["O"]).maps) == ["O"]
        # where there is nothing else
        assert titles_of(load_multimodal([signals[0], HAADF]).maps) == ["Fe"]
        alone = load_multimodal([signals[0], signals[2], HAADF], ["Fe", "O"])
    assert titles_of(alone.maps) == ["Fe", "O"]
    signals.append(image("Fe-EDS"))
    with pytest.raises(ValueError, match="Fe is shown by 'Fe-EELS'.* and 'Fe-EDS'"):
        load_multimodal(signals)


def test_missing_and_unequal_maps_are_refused():
    signals = [image("Fe"), image("O", (8, 8)), HAADF]
    with pytest.raises(ValueError, match="no map of 'Co': expected the title"):
        load_multimodal(signals, ["Co"])
    with pytest.raises(
        ValueError, match=r"'Fe' \(7 x 5, .*'O' \(8 x 8, .* differ in size"
    ):
        load_multimodal(signals)
    with pytest.raises(ValueError, match="elements is empty"):
        load_multimodal(signals, [])
