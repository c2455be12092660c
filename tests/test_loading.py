import copy
import logging

import dask
import exspy
import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion
from hyperspy_fusion import HAADFImage, LazyElementalMap, LazyHAADFImage
from hyperspy_fusion.loading import find_candidates, load_multimodal

SHAPE = (5, 7)  # y, x
WEIGHTS = np.arange(1, 36, dtype=float).reshape(SHAPE)


def image(title="", shape=SHAPE, data=None, **sample):
    """A Signal2D of pixels of 2 nm."""
    if data is None:
        data = np.arange(np.prod(shape), dtype=float).reshape(shape)
    signal = hs.signals.Signal2D(data)
    signal.metadata.General.title = title
    for name, value in sample.items():
        signal.metadata.set_item(f"Sample.{name}", value)
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.units = 2, "nm"
    return signal


def elements_of(maps):
    return [list(signal.metadata.Sample.elements) for signal in maps]


def titles_of(signals):
    return [signal.metadata.General.title for signal in signals]


def background_of(elemental_map):
    return elemental_map.metadata.Elemental_map.background


def net_of(elemental_map):
    """Net counts: the map less the background that it carries."""
    return elemental_map.data - background_of(elemental_map).data


def calibrate_energies(spectra, scale, offset, units):
    axis = spectra.axes_manager.signal_axes[0]
    axis.scale, axis.offset, axis.units = scale, offset, units
    for axis in spectra.axes_manager.navigation_axes:
        axis.scale, axis.units = 2, "nm"


@pytest.fixture(scope="module")
def eds_spectrum():
    return exspy.data.EDS_TEM_FePt_nanoparticles()


@pytest.fixture
def eds(eds_spectrum):
    """The spectrum of FePt particles in every pixel, times the weights."""
    spectra = exspy.signals.EDSTEMSpectrum(
        WEIGHTS[..., np.newaxis] * eds_spectrum.data,
        metadata=eds_spectrum.metadata.as_dictionary(),
    )
    axis = eds_spectrum.axes_manager.signal_axes[0]
    calibrate_energies(spectra, axis.scale, axis.offset, axis.units)
    spectra.metadata.General.title = "EDS"
    return spectra


ENERGIES = {"scale": 0.5, "offset": 400.0}  # eV


def eels_of(edges=None, size=1024, exponent=3.0, **energies):
    """EELS counts of a power law and of steps ``{onset: height}`` times the weights."""
    energies = {**ENERGIES, **energies}
    bounds = energies["offset"] + (np.arange(size + 1) - 0.5) * energies["scale"]
    if exponent == 1:
        background = np.diff(np.log(bounds / 700))
    else:
        background = np.diff((bounds / 700) ** (1 - exponent)) / (1 - exponent)
    background *= 200 / background[0]
    data = WEIGHTS[::-1, ::-1, np.newaxis] * background
    for onset, height in (edges or {}).items():
        data = data + WEIGHTS[..., np.newaxis] * height * (bounds[:-1] >= onset)
    spectra = exspy.signals.EELSSpectrum(data)
    calibrate_energies(spectra, **energies, units="eV")
    spectra.metadata.General.title = "EELS"
    return spectra


HAADF = image("HAADF")
FUSION = {"method": "published", "n_iter": 5}


# --- what there is -------------------------------------------------------------


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
    with pytest.raises(TypeError, match="holds a ndarray: expected the path"):
        find_candidates([np.ones(SHAPE)])
    with pytest.raises(TypeError, match="holds a int"):
        load_multimodal(3)
    with pytest.raises(TypeError, match="lazy, reader: options of reading a file"):
        load_multimodal([HAADF], lazy=True, reader="emd")


# --- ready-made maps -----------------------------------------------------------


def test_maps_come_in_the_order_of_the_signals_or_of_the_elements():
    signals = [image("Cu"), HAADF, image("O-EDS"), image("survey", (9, 9)), image("Fe")]
    maps, haadf = load_multimodal(signals)
    assert elements_of(maps) == [["Cu"], ["O"], ["Fe"]]
    assert all(type(signal) is hyperspy_fusion.ElementalMap for signal in maps)
    assert type(haadf) is HAADFImage
    assert_array_equal(haadf.data, HAADF.data)
    maps, _ = load_multimodal(signals, ["Fe", "O-EDS"])
    assert elements_of(maps) == [["Fe"], ["O"]]
    assert titles_of(maps) == ["Fe", "O-EDS"]
    maps, _ = load_multimodal(tuple(signals), "O")
    assert elements_of(maps) == [["O"]]


def test_signals_handed_over_are_not_modified(eds):
    iron, eels = image("Fe"), eels_of({708: 50})
    signals = [iron, HAADF, eds, eels]
    before = [
        (type(s), s.data.copy(), copy.deepcopy(s.metadata.as_dictionary()))
        for s in signals
    ]
    for choice in ({}, {"lines": ["Pt_La"]}, {"lines": ["Fe_L3"]}):
        maps, haadf = load_multimodal(signals, **choice)
        for signal in (*maps, haadf):
            signal.data += 1
            signal.axes_manager[0].scale = 17
            signal.metadata.General.title = "mine"
    for signal, (signal_type, data, metadata) in zip(signals, before, strict=True):
        assert type(signal) is signal_type
        assert_array_equal(signal.data, data)
        assert signal.metadata.as_dictionary() == metadata
        assert signal.axes_manager[0].scale == 2


def test_maps_on_navigation_axes_are_maps():
    copper = image("", xray_lines=["Cu_Ka"]).T
    series = hs.stack([image("", elements=["Fe"])] * 3)
    series = series.transpose(navigation_axes=(1, 2, 0))
    series.metadata.General.title = "Fe"
    for signal, shape in ((copper, SHAPE), (series, (3, *SHAPE))):
        (elemental_map,), _ = load_multimodal([signal, HAADF])
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
    maps, _ = load_multimodal(signals, ["Fe", "O"])
    assert titles_of(maps) == ["Fe", "O"]
    with pytest.raises(ValueError, match="Fe is shown by 'Fe'.* and 'Fe-EELS'"):
        load_multimodal(signals, ["Fe", "Fe-EELS"])
    signals[1].metadata.General.title = "Fe-EDS"
    with pytest.raises(ValueError, match="'Fe' is shown by 'Fe-EELS'.* and 'Fe-EDS'"):
        load_multimodal(signals, ["Fe", "O"])


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


# --- the HAADF image -----------------------------------------------------------


def test_haadf_of_the_size_of_the_maps_is_taken():
    signals = [image("Fe"), image("HAADF", (9, 9)), HAADF]
    assert load_multimodal(signals)[1].data.shape == SHAPE
    # The same where it is named.
    assert load_multimodal(signals, haadf="HAADF")[1].data.shape == SHAPE


def test_haadf_can_be_named(tmp_path):
    first, second = image("DF4", data=np.eye(5, 7)), image("BF", data=np.ones(SHAPE))
    signals = [image("Fe"), first, second, HAADF]
    assert_array_equal(load_multimodal(signals, haadf="DF4")[1].data, first.data)
    assert_array_equal(load_multimodal(signals, haadf=second)[1].data, second.data)
    path = tmp_path / "another file.hspy"
    second.save(path)
    for haadf in (path, str(path)):
        found = load_multimodal(signals, haadf=haadf)[1]
        assert type(found) is HAADFImage
        assert_array_equal(found.data, second.data)


def test_haadf_on_navigation_axes_is_taken():
    assert_array_equal(load_multimodal([image("Fe"), HAADF.T])[1].data, HAADF.data)


def test_brackets_in_the_name_of_a_file_are_no_pattern(tmp_path):
    hs.stack([image("Fe"), image("Co")]).save(tmp_path / "scan1.hspy")
    image("Fe", data=np.ones(SHAPE)).save(tmp_path / "scan[1].hspy")
    HAADF.save(tmp_path / "haadf[1].hspy")
    (found,), haadf = load_multimodal(
        str(tmp_path / "scan[1].hspy"), haadf=str(tmp_path / "haadf[1].hspy")
    )
    assert_array_equal(found.data, 1)
    assert_array_equal(haadf.data, HAADF.data)


def test_haadf_that_is_missing_or_ambiguous_is_refused(tmp_path):
    iron = image("Fe")
    with pytest.raises(ValueError, match="no HAADF image in the source: give one with"):
        load_multimodal(iron)
    with pytest.raises(
        ValueError, match="none of the images .* of 7 x 5 pixels.*Candidates: 'a'"
    ):
        load_multimodal([iron, image("a", (9, 9))])
    with pytest.raises(ValueError, match="2 of the images can be taken") as info:
        load_multimodal([iron, HAADF, image("DF-S")])
    assert "HAADF candidates:\n  'HAADF' (7 x 5, 2 nm/px)\n  'DF-S'" in str(info.value)
    with pytest.raises(ValueError, match="haadf='b' is neither the title .* existing"):
        load_multimodal([iron, HAADF], haadf="b")
    with pytest.raises(TypeError, match="HAADF image is of type int"):
        load_multimodal([iron, HAADF], haadf=3)
    path = tmp_path / "spectrum.hspy"
    hs.signals.Signal1D(np.ones(4)).save(path)
    with pytest.raises(ValueError, match="no HAADF image in .*spectrum.hspy"):
        load_multimodal([iron, HAADF], haadf=path)


# --- EDS -----------------------------------------------------------------------


def test_eds_spectra_are_mapped_by_exspy(eds, eds_spectrum):
    maps, _ = load_multimodal([eds, HAADF])
    lines = [signal.metadata.Sample.xray_lines for signal in maps]
    assert lines == [["Fe_Ka"], ["Pt_La"]]
    assert elements_of(maps) == [["Fe"], ["Pt"]]
    for signal, expected in zip(maps, eds_spectrum.get_lines_intensity(), strict=True):
        assert type(signal) is hyperspy_fusion.ElementalMap
        assert_allclose(signal.data, WEIGHTS * expected.data[0])
        assert signal.axes_manager.signal_axes[0].units == "nm"


def test_lines_and_elements_choose_x_ray_lines(eds):
    def lines_of(*args, **choice):
        maps, _ = load_multimodal([eds, HAADF], *args, **choice)
        return [signal.metadata.Sample.xray_lines[0] for signal in maps]

    assert lines_of(["Pt", "Fe"]) == ["Pt_La", "Fe_Ka"]
    assert lines_of(lines="Pt_Ma") == ["Pt_Ma"]
    assert lines_of(["Pt", "Fe"], ["Fe_La"]) == ["Pt_La", "Fe_La"]
    assert lines_of(["C"]) == ["C_Ka"]
    eds.set_lines(["Fe_La"])  # as a user would
    assert lines_of() == ["Fe_La", "Pt_La"]
    assert lines_of(["Fe"]) == ["Fe_La"]
    assert lines_of(lines=["Fe_Ka"]) == ["Fe_Ka"]


def test_lines_win_over_ready_made_maps(eds):
    signals = [eds, image("Fe"), image("Pt"), HAADF]
    assert titles_of(load_multimodal(signals)[0]) == ["Fe", "Pt"]
    for choice in (
        {"lines": ["Fe_Ka"]},
        {"elements": ["Fe"], "integration_windows": 2},
        {"elements": ["Fe"], "background_windows": "auto"},
    ):
        (iron,), _ = load_multimodal(signals, **choice)
        assert iron.metadata.Sample.xray_lines == ["Fe_Ka"]


def test_windows_of_x_ray_lines(eds, eds_spectrum):
    lines = ["Pt_La", "Fe_Ka"]
    background = eds_spectrum.estimate_background_windows(xray_lines=lines)
    rows = [[9.2, 9.7], [6.2, 6.6]]

    def check(expected, **windows):
        maps, _ = load_multimodal([eds, HAADF], lines=lines, **windows)
        net = eds_spectrum.get_lines_intensity(lines, **expected)
        expected.pop("background_windows", None)
        raw = eds_spectrum.get_lines_intensity(lines, **expected)
        for i, signal in enumerate(maps):
            assert_allclose(signal.data, WEIGHTS * raw[i].data[0])
            if "background_windows" in windows:
                # The background is smoothed, its counts stay.
                total = WEIGHTS.sum() * net[i].data[0]
                assert_allclose(net_of(signal).sum(), total)
            else:
                assert not signal.metadata.has_item("Elemental_map")

    check({"background_windows": background}, background_windows="auto")
    check({"background_windows": background}, background_windows=background.tolist())
    check({"integration_windows": 1.2}, integration_windows=1.2)
    check(
        {"integration_windows": rows, "background_windows": background},
        integration_windows=np.array(rows),  # which eXSpy itself stumbles over
        background_windows=background,
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"lines": ["Fe_Ka", "Fe_Kb"]}, "Fe_Ka and Fe_Kb are lines of Fe: expected on"),
        (
            {"elements": ["Fe", "Fe"], "lines": ["Fe_Ka"]},
            "do not fit: expected each el",
        ),
        ({"elements": ["Fe"], "lines": ["Pt_La"]}, "do not fit: expected each element"),
        ({"elements": ["Xx"]}, "'Xx' is not the symbol of an element"),
        ({"elements": ["H"]}, "H has no α line in the measured range"),
        (
            {"lines": ["Fe_Qa"]},
            "Qa is not a valid line of Fe|Fe_Qa is not a valid line",
        ),
        ({"lines": ["Ag_Ka"]}, "Ag_Ka is not in the data energy range"),
        (
            {"integration_windows": [[6, 7]]},
            "row of 2 energies for each of Fe_Ka, Pt_L",
        ),
        ({"integration_windows": [[6, 7], [9, 99]]}, "Pt_La is .*within the measured"),
        ({"integration_windows": [[7, 6], [9, 9.5]]}, "Fe_Ka is .*that rise"),
        ({"background_windows": True}, "windows is True: expected a row of 4 energies"),
        ({"background_windows": "all"}, "windows is 'all': expected a row of 4 energi"),
    ],
)
def test_what_eds_spectra_cannot_give_is_refused(eds, choice, message):
    with pytest.raises(ValueError, match=message) as info:
        load_multimodal([eds, HAADF], **choice)
    assert str(find_candidates([eds, HAADF])) in str(info.value)


def test_two_lines_in_the_metadata_are_refused(eds):
    eds.metadata.Sample.xray_lines = ["Fe_Ka", "Fe_La", "Pt_La"]
    with pytest.raises(ValueError, match=r"Fe_Ka and Fe_La .* lines=\['Fe_Ka', ...\]"):
        load_multimodal([eds, HAADF])


def test_elements_nobody_names_are_asked_for(eds):
    del eds.metadata.Sample.elements
    for spectra in (eds, eels_of()):
        with pytest.raises(ValueError, match="which elements .* elements="):
            load_multimodal([spectra, HAADF])


# --- EELS ----------------------------------------------------------------------


def test_counts_of_an_edge_are_found(caplog):
    caplog.set_level(logging.INFO, "hyperspy_fusion.loading")
    (iron,), _ = load_multimodal([eels_of({708: 50}), HAADF], ["Fe"])
    # 708 eV to 1.1 x 708 eV = 778.8 eV, channels of 0.5 eV and 50 counts
    assert_allclose(net_of(iron), 50 * 141 * WEIGHTS, rtol=1e-2)
    assert type(iron) is hyperspy_fusion.ElementalMap
    assert iron.metadata.General.title == "Fe_L3"
    assert elements_of([iron]) == [["Fe"]]
    assert iron.axes_manager.signal_axes[0].units == "nm"
    assert "Fe_L3: background 601.8 to 700.92 eV, sum 700.92 to 778.8 eV" in caplog.text


@pytest.mark.parametrize("exponent", [1.0, 1.5, 3.0, 5.0])
def test_power_law_is_removed_exactly(exponent):
    spectra = eels_of(exponent=exponent)
    total = spectra.isig[701.0:779.0].data.sum(axis=-1)
    (iron,), _ = load_multimodal([spectra, HAADF], ["Fe"])
    assert_array_equal(iron.data, total)
    assert np.abs(net_of(iron) / total).max() < 1e-4


def test_edge_agrees_with_a_fit_of_hyperspy():
    spectra = eels_of({708: 50})
    (iron,), _ = load_multimodal(
        [spectra, HAADF],
        lines=["Fe_L3"],
        background_windows=[[600, 700]],
        integration_windows=[[700, 760]],
    )
    fitted = spectra.isig[600.0:761.0].remove_background(
        signal_range=(600.0, 700.0), fast=False, show_progressbar=False
    )
    expected = fitted.isig[700.0:760.0].sum(axis=-1).data
    assert_allclose(net_of(iron), expected, rtol=2e-2)


def test_edge_of_noisy_spectra_is_not_biased():
    spectra = eels_of({708: 500})
    spectra.data = np.random.default_rng(0).poisson(spectra.data).astype(np.uint16)
    (iron,), _ = load_multimodal([spectra, HAADF], ["Fe"])
    assert_allclose(net_of(iron).sum(), 500 * 141 * WEIGHTS.sum(), rtol=1e-2)


def test_edge_of_few_counts_is_not_lost():
    energies = 400 + 0.5 * np.arange(1024)
    expected = 0.1 * (energies / 700) ** -3 + 0.05 * (energies >= 708)
    rng = np.random.default_rng(0)
    spectra = exspy.signals.EELSSpectrum(rng.poisson(expected, (60, 60, 1024)))
    calibrate_energies(spectra, **ENERGIES, units="eV")
    (iron,), _ = load_multimodal([spectra, HAADF], ["Fe"], haadf=HAADF)
    assert_allclose(net_of(iron).mean(), 0.05 * 141, rtol=0.02)


def test_where_there_are_no_counts_there_is_no_background():
    spectra = eels_of({708: 50})
    spectra.data[0, 0] = 0
    (iron,), _ = load_multimodal([spectra, HAADF], ["Fe"])
    assert iron.data[0, 0] == 0
    assert background_of(iron).data[0, 0] < 1e-4 * background_of(iron).data[0, 1]
    assert_allclose(net_of(iron)[1:], 50 * 141 * WEIGHTS[1:], rtol=1e-2)
    spectra.data[..., :610] = 0  # below 705 eV
    (iron,), _ = load_multimodal([spectra, HAADF], ["Fe"])
    assert not background_of(iron).data.any()


def test_default_windows_keep_away_from_the_edges_of_other_elements(caplog):
    caplog.set_level(logging.INFO, "hyperspy_fusion.loading")
    heights = {532: 40, 708: 20, 779: 10}
    spectra = eels_of(heights)
    maps, _ = load_multimodal([spectra, HAADF], ["Co", "O", "Fe"])
    assert titles_of(maps) == ["Co_L3", "O_K", "Fe_L3"]
    # The background of Co starts 30 eV after Fe_L2, the sum of Fe stops before Co.
    assert "Co_L3: background 751 to 771.21 eV" in caplog.text
    assert "Fe_L3: background 601.8 to 700.92 eV, sum 700.92 to 771.21" in caplog.text
    assert "O_K: background 452.2 to 526.68 eV, sum 526.68 to 585.2" in caplog.text
    # So it is where the metadata know of Fe and only Co is wanted.
    caplog.clear()
    spectra.metadata.set_item("Sample.elements", ["Co", "Fe"])
    load_multimodal([spectra, HAADF], ["Co"])
    assert "Co_L3: background 751 to 771.21 eV" in caplog.text


def test_edges_are_chosen_in_the_measured_range():
    def edges(elements, **energies):
        maps, _ = load_multimodal([eels_of(**energies), HAADF], elements)
        return titles_of(maps)

    assert edges(["Al"], offset=1200) == ["Al_K"]
    assert edges(["Sr"], offset=100) == ["Sr_M5"]
    assert edges(["Sr"], offset=1700) == ["Sr_L3"]
    with pytest.raises(ValueError, match="Al_K is at 1560 eV, outside the measured"):
        edges(["Al"])


def test_elements_of_the_metadata_are_mapped_by_rising_atomic_number():
    spectra = eels_of()
    spectra.metadata.set_item("Sample.elements", ["Fe", "O"])
    maps, _ = load_multimodal([spectra, HAADF])
    assert titles_of(maps) == ["O_K", "Fe_L3"]


def test_windows_of_edges():
    spectra = eels_of({708: 50})

    def counts(**windows):
        (iron,), _ = load_multimodal([spectra, HAADF], lines=["Fe_L3"], **windows)
        return net_of(iron) / WEIGHTS

    assert_allclose(counts(integration_windows=50), 50 * 99, rtol=1e-2)
    assert_allclose(counts(integration_windows=[[702, 728]]), 50 * 39, rtol=1e-2)
    # Each default window gives way to the other one.
    assert_allclose(counts(integration_windows=[[690, 728]]), 50 * 39, rtol=1e-2)
    assert_allclose(counts(background_windows=[[650, 705]]), 50 * 141, rtol=1e-2)
    both = {"background_windows": [[650, 705]], "integration_windows": 50}
    assert_allclose(counts(**both), 50 * 99, rtol=1e-2)
    assert_array_equal(counts(background_windows="auto"), counts())


def test_missing_spectra_are_missing_pixels():
    spectra, whole = eels_of({708: 50}), eels_of({708: 50})
    spectra.data[1, 2] = np.nan
    spectra.data[3, 0, 400:] = np.nan
    (iron,), _ = load_multimodal([spectra, HAADF], lines=["Fe_L3"])
    (expected,), _ = load_multimodal([whole, HAADF], lines=["Fe_L3"])
    missing = np.zeros(SHAPE, bool)
    missing[1, 2] = missing[3, 0] = True
    assert_array_equal(np.isnan(iron.data), missing)
    assert_array_equal(iron.data[~missing], expected.data[~missing])
    assert np.isfinite(background_of(iron).data).all()
    assert_allclose(net_of(iron)[~missing], net_of(expected)[~missing], rtol=0.1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"elements": ["Li"]}, "Li has no major edge above 100 eV, choose .*: Li_K"),
        ({"lines": ["Fe_L9"]}, "Fe has no edge Fe_L9, choose one with lines=: .*Fe_L3"),
        ({"lines": ["Fe"]}, "Fe has no edge Fe, choose one"),
        ({"lines": ["Fe_L3", "Fe_L2"]}, "lines of Fe: expected one line per element"),
        ({"lines": ["Cu_L3"]}, "Cu_L3 is at 931 eV, outside the measured range"),
        ({"elements": ["O", "Cr"]}, "Cr_L3 at 575 eV has no room .* fit a model with"),
        ({"elements": ["Sc"]}, "Sc_L3 at 402 eV has no room of 10 eV"),
        (
            {"background_windows": [[600, 650, 700]]},
            "a row of 2 energies for each of Fe",
        ),
        ({"background_windows": [[300, 700]]}, "within the measured 400 to 911.5 eV"),
        (
            {"background_windows": [[710, 720]]},
            r"\[710.0, 720.0\] eV .* do not fit Fe_L3",
        ),
        (
            {"integration_windows": [[690, 705]]},
            r"\[690.0, 705.0\] eV .* not fit Fe_L3",
        ),
        ({"integration_windows": 300}, "do not fit Fe_L3 at 708 eV"),
        ({"background_windows": [[699.8, 700]]}, "too narrow for channels of 0.5 eV"),
    ],
)
def test_what_eels_spectra_cannot_give_is_refused(choice, message):
    signals = [eels_of(), HAADF]
    choice = (
        choice if {"lines", "elements"} & set(choice) else {**choice, "elements": "Fe"}
    )
    with pytest.raises(ValueError, match=message) as info:
        load_multimodal(signals, **choice)
    assert str(find_candidates(signals)) in str(info.value)


def test_energies_must_be_in_ev():
    spectra = eels_of()
    calibrate_energies(spectra, 0.0005, 0.4, "keV")
    with pytest.raises(ValueError, match="axis is in keV: .* axis.convert_to_units"):
        load_multimodal([spectra, HAADF], ["Fe"])


def test_variance_of_the_spectra_is_not_that_of_the_map():
    spectra = eels_of()
    spectra.metadata.set_item(
        "Signal.Noise_properties.Variance_linear_model.gain_factor", 2.0
    )
    (iron,), _ = load_multimodal([spectra, HAADF], ["Fe"])
    assert not iron.metadata.has_item("Signal.Noise_properties")
    assert spectra.metadata.has_item("Signal.Noise_properties")


# --- the background that maps carry ---------------------------------------------


@pytest.fixture
def carrying():
    """A map of raw counts of iron that carries its background, 5 x 7 pixels."""
    return load_multimodal([eels_of({708: 50}), HAADF], ["Fe"])[0][0]


def test_background_belongs_to_the_pixels_of_the_map(carrying):
    background = background_of(carrying)
    assert type(background) is hs.signals.Signal2D
    assert background.metadata.General.title == "Background of Fe_L3"
    assert background.axes_manager.signal_axes[0].units == "nm"
    assert background.data.min() > 0
    net = carrying.get_net_map()
    assert type(net) is hyperspy_fusion.ElementalMap
    assert_allclose(net.data, 50 * 141 * WEIGHTS, rtol=1e-2)
    assert not net.metadata.has_item("Elemental_map")
    assert_array_equal(carrying.data - background.data, net.data)
    with pytest.raises(ValueError, match="carries no background in metadata"):
        net.get_net_map()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.isig[1:4, 2:],
        lambda s: s.isig[::2, 2.0:8.0],
        lambda s: s.deepcopy(),
        lambda s: s.rebin(scale=(7, 5)),
        lambda s: s.rebin(new_shape=(1, 5)),
        lambda s: s.isig[:6, :4].rebin(scale=(2, 2)).isig[1:],
        lambda s: s.transpose(signal_axes=(0, 1)),
        lambda s: s.T.T,
    ],
)
def test_background_follows_the_map(carrying, change, lazy):
    if lazy:
        carrying = carrying.as_lazy()
    changed = change(carrying)
    expected = change(carrying.get_net_map())
    assert type(changed) is type(carrying)
    assert background_of(changed).data.shape == changed.data.shape
    axes = [s.axes_manager.signal_axes for s in (background_of(changed), changed)]
    for one, other in zip(*axes, strict=True):
        assert (one.scale, one.offset) == (other.scale, other.offset)
    assert_allclose(
        np.asarray(changed.get_net_map().data), np.asarray(expected.data), atol=1e-9
    )


def test_background_follows_a_series():
    series = hs.stack([eels_of({708: 50})] * 3)
    haadf = hs.stack([HAADF] * 3)
    haadf.metadata.General.title = "HAADF"
    (iron,), _ = load_multimodal([series, haadf], ["Fe"])
    assert_array_equal(net_of(iron.inav[1]), net_of(iron)[1])
    assert_array_equal(net_of(iron.inav[1:].isig[2:]), net_of(iron)[1:, :, 2:])
    sliced = iron.inav[0]
    iron.inav.__getitem__(2, out=sliced)
    assert_array_equal(net_of(sliced), net_of(iron)[2])


def test_background_of_a_series_stays_with_its_order_of_axes():
    iron = hyperspy_fusion.ElementalMap(np.ones((5, 5, 5)))
    iron.metadata.set_item("Elemental_map.background", iron.deepcopy())
    for kept in (
        iron.transpose(signal_axes=2),
        iron.transpose(signal_axes=[1, 2]),
        iron.transpose(navigation_axes=[0]),
    ):
        assert_array_equal(net_of(kept), 0)
    aligned = iron.deepcopy()
    aligned.align2D(shifts=np.eye(5, 2), crop=False, show_progressbar=False)
    for changed in (
        aligned,
        iron.transpose(signal_axes=[0, 1]),
        iron.T.transpose(signal_axes=2),
    ):
        with pytest.raises(ValueError, match="was lost when the map was changed"):
            changed.get_net_map()


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")  # zarr 2
@pytest.mark.parametrize("extension", ["hspy", "zspy", "nxs"])
@pytest.mark.parametrize("lazy", [False, True])
def test_background_is_saved_with_the_map(carrying, tmp_path, extension, lazy):
    path = tmp_path / f"map.{extension}"
    (carrying.as_lazy() if lazy else carrying).save(path)
    back = hs.load(path, lazy=lazy)
    back = back[0] if isinstance(back, list) else back
    assert_array_equal(np.asarray(net_of(back.isig[2:])), net_of(carrying)[:, 2:])
    (again,), _ = load_multimodal([back, HAADF])
    assert_array_equal(np.asarray(net_of(again)), net_of(carrying))


@pytest.mark.parametrize("stacked", [False, True])
def test_background_and_variance_are_computed_with_the_map(carrying, tmp_path, stacked):
    carrying.set_noise_variance(carrying.deepcopy())
    carrying.save(tmp_path / "map.nxs")
    expected = net_of(carrying), carrying.data
    lazy = hs.load(tmp_path / "map.nxs", lazy=True)[0]
    assert dask.is_dask_collection(background_of(lazy).data)
    if stacked:
        lazy = hs.stack([lazy, lazy.deepcopy()])
    lazy.compute(close_file=True, show_progressbar=False)
    for signal in lazy.split() if stacked else [lazy]:
        found = signal.get_net_map(), signal.get_noise_variance()
        for one, values in zip(found, expected, strict=True):
            assert type(one.data) is np.ndarray
            assert_array_equal(one.data, values)


def in_place(operation):
    def change(signal):
        operation(signal)
        return signal

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s * 2,
        lambda s: s - background_of(s),
        lambda s: hs.stack([s, s], show_progressbar=False).sum(axis=0),
        lambda s: s.map(np.sqrt, inplace=False, show_progressbar=False),
        in_place(lambda s: s.__imul__(2)),
        in_place(lambda s: s.__isub__(background_of(s))),
        in_place(lambda s: s.crop(0, 1, 6)),
        in_place(lambda s: s.map(np.sqrt, show_progressbar=False)),
        in_place(lambda s: s.map(np.sqrt, False, None, True)),  # noqa: FBT003
        lambda s: s.isig[:5, :].transpose(signal_axes=(1, 0)),
        lambda s: s.isig[:5, :].transpose(navigation_axes=[], signal_axes=[1, 0]),
        lambda s: (s + 1).isig[1:],
    ],
)
def test_a_map_without_its_background_is_refused(carrying, change):
    changed = change(carrying)
    haadf = image("HAADF", changed.data.shape)
    for method in ("published", "calibrated"):
        with pytest.raises(ValueError, match="the background that the map .* give the"):
            hyperspy_fusion.fuse_multimodal([changed], haadf, method=method)
    with pytest.raises(ValueError, match="the background that the map"):
        changed.get_net_map()
    del changed.metadata.Elemental_map
    (fused,) = hyperspy_fusion.fuse_multimodal([changed], haadf, method="published")
    assert fused.data.shape == changed.data.shape


def test_a_stack_of_maps_keeps_their_backgrounds(carrying):
    other = carrying.isig[:]
    other.data = other.data[::-1]
    background_of(other).data = background_of(other).data[::-1]
    other.metadata.Sample.elements = ["Co"]
    other.metadata.General.title = "Co_L3"
    stack = hs.stack([carrying, other], show_progressbar=False)
    options = {"method": "published", "n_iter": 3}
    expected = hyperspy_fusion.fuse_multimodal([carrying, other], HAADF, **options)
    fused = stack.fuse_multimodal(HAADF, **options)
    assert_array_equal(fused.data, np.stack([s.data for s in expected]))
    for signal in (*expected, fused, *fused.split()):
        assert not signal.metadata.has_item("Elemental_map")
    assert stack.inav[0].data.shape == SHAPE
    found, expected = (
        hyperspy_fusion.fuse_multimodal(maps, HAADF, **options)[0]
        for maps in (stack.inav[1:], [other])
    )
    assert_array_equal(found.data, expected.data)
    # Slices of the images of a stack do not reach the maps that it was made of.
    part = stack.isig[1:]
    haadf = image("HAADF", part.data.shape[1:])
    with pytest.raises(ValueError, match="the background that the map"):
        hyperspy_fusion.fuse_multimodal(part, haadf, elements=["Fe", "Co"])


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s * 2,
        lambda s: s - 5,
        lambda s: s.map(np.sqrt, inplace=False, show_progressbar=False),
        in_place(lambda s: s.__imul__(2)),
    ],
)
def test_a_stack_that_was_changed_loses_the_backgrounds(carrying, change):
    stack = hs.stack([carrying, carrying], show_progressbar=False)
    stack = change(stack)
    with pytest.raises(ValueError, match="the background that the map .* was lost"):
        hyperspy_fusion.fuse_multimodal(stack, HAADF, elements=["Fe", "Co"])
    for part in stack.split():
        with pytest.raises(ValueError, match="was lost when the map was changed"):
            part.get_net_map()


def test_published_method_takes_net_maps(carrying):
    options = {"method": "published", "n_iter": 3}
    (fused,) = hyperspy_fusion.fuse_multimodal([carrying], HAADF, **options)
    net = carrying.get_net_map()
    (expected,) = hyperspy_fusion.fuse_multimodal([net], HAADF, **options)
    assert_array_equal(fused.data, expected.data)


LINES = {"EELS": ["Co_L3", "Mn_L3", "O_K"], "EDS": ["Co_Ka", "Mn_Ka", "O_Ka"]}
INTEGRATED = {
    "EELS": [[771, 855], [634, 700], [526, 585]],
    "EDS": [[6.7, 7.1], [5.7, 6.1], [0.4, 0.6]],
}
BESIDE = {
    "EELS": [[685, 770], [565, 633], [455, 525]],
    "EDS": [[6.4, 6.6, 7.2, 7.4], [5.4, 5.6, 6.2, 6.4], [0.2, 0.3, 0.7, 0.8]],
}


def noisy_spectra(kind, specimen):
    """Spectra with Poisson noise, and the net counts that they are expected to hold.

    20 counts of each element a pixel, above at least 10 counts of background.
    """
    shown = np.stack([truth.data / truth.data.mean() for truth in specimen.truth])
    scale, offset, units = (1, 400, "eV") if kind == "EELS" else (0.02, 0, "keV")
    energies = offset + scale * np.arange(500)
    level = (energies / 700) ** -3 if kind == "EELS" else np.ones(500)
    inside = [
        (energies > start - scale / 2) & (energies < stop - scale / 2)
        for start, stop in INTEGRATED[kind]
    ]
    thickness = (1 + shown.mean(axis=0)) / 2
    expected = 10 * thickness[..., np.newaxis] * level / level[inside[0]].sum()
    for image_, window, onset in zip(shown, inside, (779, 640, 532), strict=True):
        line = level * (energies >= onset) if kind == "EELS" else window
        expected += 20 * image_[..., np.newaxis] * line / line[window].sum()
    counts = np.random.default_rng(0).poisson(expected)
    if kind == "EELS":
        spectra = exspy.signals.EELSSpectrum(counts)
    else:
        spectra = exspy.signals.EDSTEMSpectrum(counts)
        spectra.set_microscope_parameters(beam_energy=200)
    calibrate_energies(spectra, scale, offset, units)
    return spectra, 20 * shown


# Estimated backgrounds are not exact: the guard may say so.
@pytest.mark.filterwarnings("ignore:the HAADF image contradicts the maps")
@pytest.mark.parametrize("kind", ["EELS", "EDS"])
def test_raw_counts_with_their_background_are_fused_better_than_net_ones(kind):
    specimen = hyperspy_fusion.data.core_shell(size=64)
    spectra, true = noisy_spectra(kind, specimen)
    specimen.haadf.axes_manager.signal_axes.set(scale=2, units="nm")
    maps, haadf = load_multimodal(
        spectra,
        lines=LINES[kind],
        haadf=specimen.haadf,
        background_windows=BESIDE[kind],
        integration_windows=INTEGRATED[kind],
    )

    def fuse(maps, **options):
        fused = hyperspy_fusion.fuse_multimodal(maps, haadf, **options)
        assert not any(s.metadata.has_item("Elemental_map") for s in fused)
        return np.stack([signal.data for signal in fused])

    def error(fused):
        squares = ((fused - true) ** 2).mean(axis=(1, 2))
        return np.mean(np.sqrt(squares) / true.mean(axis=(1, 2)))

    fused = fuse(maps)
    net = [signal.get_net_map() for signal in maps]
    assert_allclose(fused.sum(axis=(1, 2)), true.sum(axis=(1, 2)), rtol=0.02)
    assert_allclose(fused.sum(axis=(1, 2)), [s.data.sum() for s in net], rtol=1e-3)
    assert error(fused) < 0.98 * error(fuse(net))
    if kind == "EDS":
        # What is given wins over what is carried.
        background = [background_of(signal) for signal in maps]
        assert_array_equal(fuse(maps, background=background), fused)
        assert fuse(maps, background=0).sum() > 1.2 * fused.sum()


# --- several spectrum images ---------------------------------------------------


def test_spectra_that_measured_the_lines_are_taken(eds):
    low, high = eels_of(offset=200), eels_of({708: 50}, offset=600)
    signals = [low, eds, high, HAADF]
    maps, _ = load_multimodal(signals, lines=["Fe_L3"])
    assert_allclose(net_of(maps[0]), 50 * 141 * WEIGHTS, rtol=1e-2)
    assert titles_of(load_multimodal(signals, lines=["C_K"])[0]) == ["C_K"]
    # Where both can give them, EDS wins.
    (iron,), _ = load_multimodal(signals, ["Fe"])
    assert iron.metadata.Sample.xray_lines == ["Fe_Ka"]
    with pytest.raises(ValueError, match="no spectrum image can be mapped") as info:
        load_multimodal(signals, lines=["Au_M5"])
    assert "EDS: 'EDS'" in str(info.value)
    assert str(info.value).count("Au_M5 is at 2206 eV, outside the measured") == 2


def test_spectra_of_the_size_of_the_haadf_image_are_taken(eds):
    cropped = eds.inav[:4, :3]
    survey, small = image("a", (9, 9)), image("DF", (3, 4))
    maps, _ = load_multimodal([cropped, eds, HAADF, survey])
    assert maps[0].data.shape == SHAPE
    maps, haadf = load_multimodal([cropped, eds, HAADF, small], haadf="DF")
    assert maps[0].data.shape == haadf.data.shape == (3, 4)


def test_several_spectrum_images_are_refused_with_a_list(eds):
    second = eds.deepcopy()
    second.metadata.General.title = "second"
    signals = [eds, second, eds.inav[:4, :3], HAADF]
    with pytest.raises(ValueError, match="several spectrum images") as info:
        load_multimodal(signals)
    message = str(info.value).split("There are")[0]
    assert "'EDS' (7 x 5, 2 nm/px)" in message
    assert "'second' (7 x 5, 2 nm/px)" in message
    assert "(4 x 3" not in message
    with pytest.raises(ValueError, match=r"(?s)several spectrum images.*\(4 x 3"):
        load_multimodal(signals, haadf=image("DF", (9, 9)))


def test_source_without_maps_and_spectra_is_refused(eds):
    for signals in ([HAADF], [HAADF, eds.inav[0]], [HAADF, image("a")]):
        with pytest.raises(ValueError, match="none with two navigation axes"):
            load_multimodal(signals)
    with pytest.raises(ValueError, match="none with two navigation axes"):
        load_multimodal([HAADF, image("Fe")], lines=["Fe_Ka"])


def test_series_of_spectra_become_series_of_maps(eds):
    for spectra in (eds, eels_of({708: 50})):
        series = hs.stack([spectra] * 3)  # (x, y, t|energy)
        haadf = hs.stack([HAADF] * 3)
        haadf.metadata.General.title = "HAADF"
        (iron,), found = load_multimodal([series, haadf], ["Fe"])
        (expected,), _ = load_multimodal([spectra, HAADF], ["Fe"])
        assert iron.data.shape == found.data.shape == (3, *SHAPE)
        assert_allclose(iron.data, np.stack([expected.data] * 3))
        if spectra is not eds:
            assert_allclose(net_of(iron), np.stack([net_of(expected)] * 3))


# --- frames --------------------------------------------------------------------


def stack_of(signal, factors):
    """A stack of frames, each the signal times a factor."""
    stack = hs.stack([signal * factor for factor in factors], show_progressbar=False)
    stack.metadata.General.title = signal.metadata.General.title
    return stack


@pytest.fixture
def stacks(eds):
    """Spectra and HAADF images of three frames, which their sums tell apart."""
    return [stack_of(eds, [1, 2, 4]), stack_of(HAADF, [1, 2, 4])]


@pytest.mark.parametrize(
    ("frames", "kept"),
    [
        (slice(None), [1, 2, 4]),
        (slice(1, 9), [2, 4]),
        (slice(None, None, -2), [1, 4]),
        ([1], [2]),
        ([2, 0, 0], [1, 4]),
        ((-1, -2), [2, 4]),
        (range(2), [1, 2]),
        (np.array([0, 2], dtype=np.uint8), [1, 4]),
        ([True, False, True], [1, 4]),
        (np.array([False, True, False]), [2]),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_frames_are_summed_and_haadf_images_averaged(stacks, eds, frames, kept, lazy):
    signals = [signal.as_lazy() for signal in stacks] if lazy else stacks
    (iron,), haadf = load_multimodal(signals, ["Fe"], frames=frames)
    (expected,), _ = load_multimodal([eds, HAADF], ["Fe"])
    assert iron._lazy == haadf._lazy == lazy
    assert_allclose(iron.data, sum(kept) * expected.data)
    assert_allclose(haadf.data, np.mean(kept) * HAADF.data)
    assert haadf.data.dtype == float
    assert haadf.axes_manager.signal_axes[0].units == "nm"
    assert [signal.data.shape[0] for signal in stacks] == [3, 3]


def test_background_is_that_of_the_summed_frames():
    eels = eels_of({708: 50})
    stacks = [stack_of(eels, [1, 2, 4]), stack_of(HAADF, [1, 2, 4])]
    (iron,), _ = load_multimodal(stacks, ["Fe"], frames=[0, 2])
    (expected,), _ = load_multimodal([eels * 5, HAADF], ["Fe"])
    assert_allclose(iron.data, expected.data)
    assert_allclose(background_of(iron).data, background_of(expected).data)
    # The same of maps of each frame, which carry theirs.
    maps, haadf = load_multimodal(stacks, ["Fe"])
    (iron,), _ = load_multimodal([*maps, haadf], frames=[0, 2])
    assert_allclose(iron.data, expected.data)
    assert_allclose(net_of(iron), net_of(maps[0])[[0, 2]].sum(axis=0))


def test_ready_made_maps_of_all_frames_are_not_taken(stacks):
    signals = [image("Fe"), *stacks]
    (iron,), _ = load_multimodal(signals, ["Fe"], frames=[0])
    assert iron.metadata.Sample.xray_lines == ["Fe_Ka"]


def test_metadata_are_those_of_the_sum(stacks):
    node = "Acquisition_instrument.TEM.Detector.EDS.number_of_frames"
    gain = "Signal.Noise_properties.Variance_linear_model.gain_factor"
    stacks[0].metadata.set_item(node, 3)
    stacks[1].metadata.set_item(gain, 38.0)
    (iron,), haadf = load_multimodal(stacks, ["Fe"], frames=[0, 2])
    assert iron.metadata.get_item(node) == 2
    assert not haadf.metadata.has_item("Signal.Noise_properties")
    assert stacks[0].metadata.get_item(node) == 3
    assert stacks[1].metadata.has_item(gain)


def test_haadf_image_without_frames_must_be_named(stacks):
    spectra, haadf = stacks
    with pytest.raises(
        ValueError, match="have 3 frames, and the HAADF image is 'HAADF"
    ):
        load_multimodal([spectra, HAADF], ["Fe"], frames=[0])
    for named in ("HAADF", HAADF):
        _, found = load_multimodal([spectra, HAADF], ["Fe"], frames=[0], haadf=named)
        assert_array_equal(found.data, HAADF.data)
    for named in (None, "HAADF"):
        with pytest.raises(ValueError, match=r"series of 2\): expected an image"):
            load_multimodal([spectra, haadf.inav[1:]], frames=[0], haadf=named)
    # A single frame has a single image.
    spectra = spectra.inav[..., :1]
    _, found = load_multimodal([spectra, HAADF], ["Fe"], frames=[0])
    assert_array_equal(found.data, HAADF.data)


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        ([1, 3, -4], ValueError, "frames has 3, -4, .* size 3: expected .* 0 to 2"),
        ([True, False], ValueError, "frames has 2 booleans, .* or 3 booleans"),
        ([], ValueError, "keeps none of the numbers 0 to 2"),
        (slice(3, None), ValueError, "keeps none of the numbers 0 to 2"),
        ([False] * 3, ValueError, "keeps none of the numbers 0 to 2"),
        (1, TypeError, "frames is 1: expected a slice, a list of frame numbers"),
        ("0", TypeError, "frames is '0': expected"),
        ([0.0, 1.0], TypeError, "expected a slice, a list of"),
        ([[0], [1, 2]], TypeError, "expected a slice, a list of"),
        (slice("a"), TypeError, "expected a slice, a list of"),
    ],
)
def test_frames_that_do_not_fit_are_refused(stacks, frames, error, message):
    with pytest.raises(error, match=message):
        load_multimodal(stacks, ["Fe"], frames=frames)


def test_sources_without_frames_are_refused(eds, stacks):
    spectra, haadf = stacks
    for source in (
        [eds, HAADF],
        [image("Fe"), HAADF],
        [stack_of(spectra, [1, 1]), haadf],
    ):
        with pytest.raises(ValueError, match="(?s)neither .* Leave frames out.*There"):
            load_multimodal(source, frames=[0])
    with pytest.raises(ValueError, match=r"(?s)stacks of \[2, 3\] frames.*series of 2"):
        load_multimodal([spectra, spectra.inav[..., 1:], haadf], frames=[0])


# --- lazy ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["maps", "eds", "eels"])
def test_lazy_stays_lazy(tmp_path, eds, kind):
    source = {
        "maps": image("Fe"),
        "eds": eds,
        "eels": eels_of({708: 50}),
    }[kind]
    source.save(tmp_path / "source.hspy")
    HAADF.save(tmp_path / "HAADF.hspy")
    where = {"source": tmp_path / "source.hspy", "haadf": tmp_path / "HAADF.hspy"}
    where["background_windows"] = None if kind == "maps" else "auto"
    (lazy,), lazy_haadf = load_multimodal(**where, elements=["Fe"], lazy=True)
    (eager,), haadf = load_multimodal(**where, elements=["Fe"])
    if kind != "maps":
        assert background_of(lazy)._lazy
        assert_allclose(net_of(lazy).compute(), net_of(eager))
        assert_allclose(lazy.get_net_map().data.compute(), net_of(eager))
    assert type(lazy) is LazyElementalMap
    assert type(lazy_haadf) is LazyHAADFImage
    lazy.compute(show_progressbar=False)
    lazy_haadf.compute(show_progressbar=False)
    assert_allclose(lazy.data, eager.data)
    assert_array_equal(lazy_haadf.data, haadf.data)
    assert lazy.metadata.Sample.elements == ["Fe"]


# --- real files ----------------------------------------------------------------


def test_velox_maps(real_data):
    path = real_data("velox_EDS_SI_16x16.emd")
    maps, haadf = load_multimodal(str(path))
    assert elements_of(maps) == [["C"], ["Ca"], ["O"], ["Cu"]]
    assert haadf.metadata.General.title == "HAADF"
    for signal in (*maps, haadf):
        assert signal.data.shape == (16, 16)
        for axis in signal.axes_manager.signal_axes:
            assert axis.units == "nm"
            assert_allclose(axis.scale, 3.599, rtol=1e-3)


def test_velox_spectra(real_data):
    path = real_data("velox_EDS_SI_16x16.emd")
    maps, _ = load_multimodal(path, lines=["C_Ka", "Cu_Ka"])
    spectra = find_candidates(path).spectrum_images[0]
    expected = spectra.get_lines_intensity(["C_Ka", "Cu_Ka"])
    for signal, intensity in zip(maps, expected, strict=True):
        assert_array_equal(signal.data, intensity.data)
        assert signal.metadata.Sample.xray_lines == intensity.metadata.Sample.xray_lines
    lazy, haadf = load_multimodal(path, lines=["C_Ka", "Cu_Ka"], lazy=True)
    assert type(lazy[0]) is LazyElementalMap
    assert type(haadf) is LazyHAADFImage
    assert_array_equal(lazy[0].data.compute(), maps[0].data)


def test_velox_frames(real_data):
    path = real_data("velox_EDS_SI_16x16.emd")
    frames = {"load_SI_image_stack": True, "sum_frames": False}
    maps, haadf = load_multimodal(path, lines=["C_Ka"], **frames)
    assert maps[0].data.shape == haadf.data.shape == (2, 16, 16)
    summed, averaged = load_multimodal(path, lines=["C_Ka"], frames=[1])
    assert type(summed[0]) is hyperspy_fusion.ElementalMap
    assert type(averaged) is HAADFImage
    assert_array_equal(summed[0].data, maps[0].data[1])
    assert_array_equal(averaged.data, haadf.data[1])

    options = {"lines": ["Cu_Ka"], "background_windows": "auto"}
    whole, _ = load_multimodal(path, **options)
    for lazy in (False, True):
        summed, averaged = load_multimodal(
            path, frames=slice(None), lazy=lazy, **options
        )
        for signal, expected in zip(summed, whole, strict=True):
            assert signal._lazy == background_of(signal)._lazy == lazy
            assert_array_equal(signal.data, expected.data)
            assert_allclose(net_of(signal), net_of(expected))
        assert averaged._lazy == lazy
        assert_allclose(averaged.data, haadf.data.mean(axis=0))


def test_velox_frames_are_fused(real_data):
    path = real_data("velox_EDS_SI_16x16.emd")
    signals = hs.load(path, load_SI_image_stack=True, sum_frames=False)
    haadf = next(s for s in signals if s.metadata.General.title == "HAADF")
    maps = signals[-1].get_lines_intensity(["C_Ka", "Cu_Ka"])
    assert maps[0].axes_manager.navigation_shape == (16, 16, 2)
    assert haadf.axes_manager.navigation_shape == (2,)
    fused = hyperspy_fusion.fuse_multimodal(maps, haadf, **FUSION)
    record = fused[0].metadata.Multimodal_fusion
    assert record.cost.total.shape == (2, 5)
    for k in range(2):
        single = hyperspy_fusion.fuse_multimodal(
            [signal.inav[..., k] for signal in maps], haadf.inav[k], **FUSION
        )
        for signal, expected in zip(fused, single, strict=True):
            assert_array_equal(signal.data[k], expected.data)


def test_velox_file_with_eels_and_eds(real_data):
    path = real_data("velox_EELS_EDS.emd")
    with pytest.raises(ValueError, match="Fe is shown by") as info:
        load_multimodal(path)
    for expected in (
        "Fe: 'Fe-EELS' (20 x 16, uncalibrated)",
        "Fe: 'Fe' (20 x 16, 0.1587 µm/px), zero everywhere",
        "HAADF candidates:\n  'DF-S' (20 x 16, 0.1587 µm/px)\n",
        "EELS: 'EELS' (20 x 16, 158.7 nm/px), 480 to 826.35 eV",
        "EDS: 'EDS' (128 x 128, 0.1587 µm/px), -0.2 to 40.75 keV",
        "'a' (128 x 128, 0.1587 µm/px)",
    ):
        assert expected in str(info.value)

    maps, haadf = load_multimodal(path, ["Fe-EELS", "Co-EELS", "O-EELS"])
    assert elements_of(maps) == [["Fe"], ["Co"], ["O"]]
    assert haadf.metadata.General.title == "DF-S"

    # Only one of the three EELS spectrum images measured all of these.
    maps, haadf = load_multimodal(path, lines=["Fe_L3", "Co_L3", "O_K"])
    assert titles_of(maps) == ["Fe_L3", "Co_L3", "O_K"]
    assert maps[0].data.shape == haadf.data.shape == (16, 20)

    maps, haadf = load_multimodal(path, lines=["Fe_Ka", "O_Ka"], haadf="a")
    assert maps[0].data.shape == haadf.data.shape == (128, 128)


def test_gatan_file_without_haadf(real_data):
    path = real_data("EELS_SI.dm4")
    with pytest.raises(ValueError, match="no HAADF image in the source: .* haadf="):
        load_multimodal(path, lines=["O_K"])
    haadf = hs.signals.Signal2D(np.arange(4.0).reshape(2, 2))
    maps, found = load_multimodal(path, lines=["O_K", "Fe_L3"], haadf=haadf)
    assert elements_of(maps) == [["O"], ["Fe"]]
    assert all(signal.data.shape == (2, 2) for signal in maps)
    assert type(found) is HAADFImage
    assert type(haadf) is hs.signals.Signal2D


@pytest.mark.parametrize("name", ["lines", "elements"])
def test_names_that_are_none(name, tmp_path):
    with pytest.raises(TypeError, match=f"{name} has 3: expected names"):
        load_multimodal(tmp_path / "any.emd", **{name: [3]})
