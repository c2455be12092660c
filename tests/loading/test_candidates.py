import numpy as np
import pytest
from scans import HAADF, SHAPE, eels_of, image

from hyperspy_fusion.loading import find_candidates, load_multimodal


def test_candidates_are_sorted_by_their_part(eds):
    survey = image("a", (8, 8))
    spectrum = eds.inav[0, 0]
    line_scan = eds.inav[0]
    eels = eels_of()
    iron, fft = image("Fe"), image("FFT", data=np.ones(SHAPE, dtype=complex))
    signals = [survey, eds, iron, HAADF, spectrum, fft, eels, line_scan]
    found = find_candidates(signals)
    assert found.maps == (iron,)
    assert found.haadf == (HAADF,)
    assert found.spectrum_images == (eds, eels)
    assert found.others == (survey, spectrum, fft, line_scan)


def test_candidates_are_listed(eds):
    empty = image("Co", data=np.zeros(SHAPE))
    spectra = [eds.inav[0, 0]] * 2
    signals = [image("Fe-EELS"), empty, HAADF, eds, eels_of(), image("a"), *spectra]
    assert str(find_candidates(signals)).splitlines() == [
        "maps:",
        "  Fe: 'Fe-EELS' (7 x 5, 2 nm/px)",
        "  Co: 'Co' (7 x 5, 2 nm/px), zero everywhere",
        "HAADF candidates:",
        "  'HAADF' (7 x 5, 2 nm/px)",
        "spectrum images:",
        "  EDS: 'EDS' (7 x 5, 2 nm/px), 0.16931 to 20.017 keV",
        "  EELS: 'EELS' (7 x 5, 2 nm/px), 400 to 911.5 eV",
        "others:",
        "  'a' (7 x 5, 2 nm/px)",
        "  2 x <EDSTEMSpectrum, title: EDS, dimensions: (|992)>",
    ]
    assert str(find_candidates([])).splitlines() == [
        "maps: none",
        "HAADF candidates: none",
        "spectrum images: none",
        "others: none",
    ]


def test_a_map_in_a_file_named_after_its_element_is_a_map():
    iron, dark_field = image("Fe"), image("scan 3")
    iron.metadata.General.original_filename = "Fe.tif"
    dark_field.metadata.General.original_filename = "scan 3.tif"
    found = find_candidates([iron, dark_field])
    assert found.maps == (iron,)
    assert found.haadf == (dark_field,)


def test_what_is_no_signal_is_refused():
    with pytest.raises(TypeError, match="of type ndarray: expected the path"):
        find_candidates([np.ones(SHAPE)])
    with pytest.raises(TypeError, match="of type int"):
        load_multimodal(3)
    with pytest.raises(
        TypeError, match="found lazy, reader .* options for reading a file"
    ):
        load_multimodal([HAADF], lazy=True, reader="emd")
