import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scans import HAADF, WEIGHTS, eels_of, elements_of, image, titles_of

import hyperspy_fusion
from hyperspy_fusion.loading import find_candidates, load_multimodal


def test_eds_spectra_are_mapped_by_exspy(eds, eds_spectrum):
    maps, *_ = load_multimodal([eds, HAADF])
    lines = [signal.metadata.Sample.xray_lines for signal in maps]
    assert lines == [["Fe_Ka"], ["Pt_La"]]
    assert elements_of(maps) == [["Fe"], ["Pt"]]
    for signal, expected in zip(maps, eds_spectrum.get_lines_intensity(), strict=True):
        assert type(signal) is hyperspy_fusion.ElementalMap
        assert_allclose(signal.data, WEIGHTS * expected.data[0])
        assert signal.axes_manager.signal_axes[0].units == "nm"


def test_lines_and_elements_choose_x_ray_lines(eds):
    def lines_of(*args, **choice):
        maps, *_ = load_multimodal([eds, HAADF], *args, **choice)
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
        (iron,), *_ = load_multimodal(signals, **choice)
        assert iron.metadata.Sample.xray_lines == ["Fe_Ka"]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_window_with_a_masked_channel_is_missing(eds, lazy):
    expected = load_multimodal([eds, HAADF], background_windows="auto")
    masked = np.ma.array(eds.data, mask=np.zeros(eds.data.shape, bool))
    (channel,) = eds.axes_manager.signal_axes[0].value2index(np.array([6.4]))
    masked[0, 1, channel] = np.ma.masked  # of iron
    eds.data = masked
    found = load_multimodal(
        [eds.as_lazy() if lazy else eds, HAADF], background_windows="auto"
    )
    for one, other, n in zip(found.maps, expected.maps, (1, 0), strict=True):
        missing = np.isnan(np.asarray(one.data))
        assert missing.sum() == n
        assert missing[0, 1] == (n == 1)
        assert_allclose(np.asarray(one.data)[~missing], other.data[~missing])


def test_windows_of_x_ray_lines(eds, eds_spectrum):
    lines = ["Pt_La", "Fe_Ka"]
    background = eds_spectrum.estimate_background_windows(xray_lines=lines)
    rows = [[9.2, 9.7], [6.2, 6.6]]

    def check(expected, **windows):
        maps, _, background = load_multimodal([eds, HAADF], lines=lines, **windows)
        net = eds_spectrum.get_lines_intensity(lines, **expected)
        expected.pop("background_windows", None)
        raw = eds_spectrum.get_lines_intensity(lines, **expected)
        assert (background is None) == ("background_windows" not in windows)
        for i, signal in enumerate(maps):
            assert_allclose(signal.data, WEIGHTS * raw[i].data[0])
            if background:
                # The background is smoothed, its counts stay.
                total = WEIGHTS.sum() * net[i].data[0]
                assert_allclose((signal.data - background[i].data).sum(), total)

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
            "disagree: expected each el",
        ),
        ({"elements": ["Fe"], "lines": ["Pt_La"]}, "disagree: expected each element"),
        ({"elements": ["Xx"]}, "'Xx' is not the symbol of an element"),
        ({"elements": ["H"]}, "H has no α line in the measured range"),
        ({"lines": ["Fe_Qa"]}, "Fe_Qa is not a line of Fe: expected one of .*Fe_Ka"),
        ({"lines": ["Fe"]}, "Fe is not a line of Fe: expected one of"),
        (
            {"lines": ["Ag_Ka"]},
            "Ag_Ka is at 22.163 keV, outside the measured 0.16931 to 20.017 keV",
        ),
        (
            {"integration_windows": True},
            "windows is True: expected a row of 2 energies",
        ),
        ({"integration_windows": np.nan}, r"Fe_Ka is \[nan, nan\]: expected rising"),
        (
            {"elements": ["Fe"], "integration_windows": [[6.4, 6.401]]},
            "Fe_Ka is .* too narrow for channels of 0.02003 keV: expected at least one",
        ),
        (
            {"elements": ["Fe"], "background_windows": [[6, 6.001, 7, 7.001]]},
            "background_windows of Fe_Ka is .* too narrow",
        ),
        (
            {"integration_windows": [[6, 7]]},
            "row of 2 energies for each of Fe_Ka, Pt_L",
        ),
        ({"integration_windows": [[6, 7], [9, 99]]}, "Pt_La is .*within the measured"),
        ({"integration_windows": [[7, 6], [9, 9.5]]}, "Fe_Ka is .*expected rising"),
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


def test_missing_names_of_elements_are_reported(eds):
    del eds.metadata.Sample.elements
    for spectra in (eds, eels_of()):
        with pytest.raises(ValueError, match="names no elements: .* elements="):
            load_multimodal([spectra, HAADF])


def test_windows_below_a_line_that_hold_the_zero_peak():
    axes = [
        {
            "name": name,
            "size": size,
            "scale": scale,
            "offset": offset,
            "units": unit,
            "navigate": name != "Energy",
        }
        for name, size, scale, offset, unit in (
            ("y", 4, 1, 0, "nm"),
            ("x", 4, 1, 0, "nm"),
            ("Energy", 600, 0.01, -0.2, "keV"),
        )
    ]
    data = np.ones((4, 4, 600), np.int64)
    data[..., :40] = 500  # up to 0.2 keV
    spectra = hs.signals.BaseSignal(data, axes=axes).as_signal1D(2)
    spectra.set_signal_type("EDS_TEM")
    spectra.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 200.0)
    haadf = image("HAADF", (4, 4))
    with pytest.warns(
        UserWarning, match="background of C_Ka was estimated from the ch"
    ):
        found = load_multimodal([spectra, haadf], ["C"], background_windows="auto")
    assert found.background[0].data.max() < 1.5 * found.maps[0].data.max()
