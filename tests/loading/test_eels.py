import logging

import exspy
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scans import (
    ENERGIES,
    HAADF,
    SHAPE,
    WEIGHTS,
    calibrate_energies,
    eels_of,
    elements_of,
    titles_of,
)

import hyperspy_fusion
from hyperspy_fusion.loading import find_candidates, load_multimodal


def load_iron(spectra, *args, **options):
    """The map of iron, and its net counts."""
    (iron,), _, (background,) = load_multimodal([spectra, HAADF], *args, **options)
    return iron, iron.data - background.data


def test_counts_of_an_edge_are_found(caplog):
    caplog.set_level(logging.INFO, "hyperspy_fusion.loading")
    iron, net = load_iron(eels_of({708: 50}), ["Fe"])
    # 708 eV to 1.1 x 708 eV = 778.8 eV, channels of 0.5 eV and 50 counts
    assert_allclose(net, 50 * 141 * WEIGHTS, rtol=1e-2)
    assert type(iron) is hyperspy_fusion.ElementalMap
    assert iron.metadata.General.title == "Fe_L3"
    assert elements_of([iron]) == [["Fe"]]
    assert iron.axes_manager.signal_axes[0].units == "nm"
    assert "Fe_L3: background 601.8 to 700.92 eV, sum 700.92 to 778.8 eV" in caplog.text


@pytest.mark.parametrize("exponent", [1.0, 1.5, 3.0, 5.0])
def test_power_law_is_removed_exactly(exponent):
    spectra = eels_of(exponent=exponent)
    total = spectra.isig[701.0:779.0].data.sum(axis=-1)
    iron, net = load_iron(spectra, ["Fe"])
    assert_array_equal(iron.data, total)
    assert np.abs(net / total).max() < 1e-4


def test_a_window_with_a_masked_channel_is_missing():
    spectra = eels_of({708: 50})
    expected, net = load_iron(spectra, ["Fe"])
    spectra.data = np.ma.masked_array(spectra.data, np.zeros(spectra.data.shape, bool))
    (channel,) = spectra.axes_manager.signal_axes[0].value2index(np.array([750.0]))
    spectra.data[0, 1, channel] = np.ma.masked
    found, other = load_iron(spectra, ["Fe"])
    missing = np.isnan(found.data)
    assert missing.sum() == missing[0, 1] == 1
    assert_array_equal(found.data[~missing], expected.data[~missing])
    assert_allclose(other[~missing], net[~missing])


def test_edge_agrees_with_a_fit_of_hyperspy():
    spectra = eels_of({708: 50})
    _, net = load_iron(
        spectra,
        lines=["Fe_L3"],
        background_windows=[[600, 700]],
        integration_windows=[[700, 760]],
    )
    fitted = spectra.isig[600.0:761.0].remove_background(
        signal_range=(600.0, 700.0), fast=False, show_progressbar=False
    )
    expected = fitted.isig[700.0:760.0].sum(axis=-1).data
    assert_allclose(net, expected, rtol=2e-2)


def test_edge_of_noisy_spectra_is_not_biased():
    spectra = eels_of({708: 500})
    spectra.data = np.random.default_rng(0).poisson(spectra.data).astype(np.uint16)
    _, net = load_iron(spectra, ["Fe"])
    assert_allclose(net.sum(), 500 * 141 * WEIGHTS.sum(), rtol=1e-2)


def test_edge_of_few_counts_is_not_lost():
    energies = 400 + 0.5 * np.arange(1024)
    expected = 0.1 * (energies / 700) ** -3 + 0.05 * (energies >= 708)
    rng = np.random.default_rng(0)
    spectra = exspy.signals.EELSSpectrum(rng.poisson(expected, (60, 60, 1024)))
    calibrate_energies(spectra, **ENERGIES, units="eV")
    _, net = load_iron(spectra, ["Fe"], haadf=HAADF)
    assert_allclose(net.mean(), 0.05 * 141, rtol=0.02)


def test_where_there_are_no_counts_there_is_no_background():
    spectra = eels_of({708: 50})
    spectra.data[0, 0] = 0
    (iron,), _, (background,) = load_multimodal([spectra, HAADF], ["Fe"])
    assert iron.data[0, 0] == 0
    assert background.data[0, 0] < 1e-4 * background.data[0, 1]
    net = iron.data - background.data
    assert_allclose(net[1:], 50 * 141 * WEIGHTS[1:], rtol=1e-2)
    spectra.data[..., :610] = 0  # below 705 eV
    (background,) = load_multimodal([spectra, HAADF], ["Fe"]).background
    assert not background.data.any()


def test_default_windows_keep_away_from_the_edges_of_other_elements(caplog):
    caplog.set_level(logging.INFO, "hyperspy_fusion.loading")
    heights = {532: 40, 708: 20, 779: 10}
    spectra = eels_of(heights)
    maps, *_ = load_multimodal([spectra, HAADF], ["Co", "O", "Fe"])
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
        maps, *_ = load_multimodal([eels_of(**energies), HAADF], elements)
        return titles_of(maps)

    assert edges(["Al"], offset=1200) == ["Al_K"]
    assert edges(["Sr"], offset=100) == ["Sr_M5"]
    assert edges(["Sr"], offset=1700) == ["Sr_L3"]
    with pytest.raises(ValueError, match="Al_K is at 1560 eV, outside the measured"):
        edges(["Al"])


def test_elements_of_the_metadata_are_mapped_by_rising_atomic_number():
    spectra = eels_of()
    spectra.metadata.set_item("Sample.elements", ["Fe", "O"])
    maps, *_ = load_multimodal([spectra, HAADF])
    assert titles_of(maps) == ["O_K", "Fe_L3"]


def test_windows_of_edges():
    spectra = eels_of({708: 50})

    def counts(**windows):
        _, net = load_iron(spectra, lines=["Fe_L3"], **windows)
        return net / WEIGHTS

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
    iron, net = load_iron(spectra, lines=["Fe_L3"])
    expected, expected_net = load_iron(whole, lines=["Fe_L3"])
    missing = np.zeros(SHAPE, bool)
    missing[1, 2] = missing[3, 0] = True
    assert_array_equal(np.isnan(iron.data), missing)
    assert_array_equal(iron.data[~missing], expected.data[~missing])
    (background,) = load_multimodal([spectra, HAADF], lines=["Fe_L3"]).background
    assert np.isfinite(background.data).all()
    assert_allclose(net[~missing], expected_net[~missing], rtol=0.1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"elements": ["Li"]}, "Li has no major edge above 100 eV, choose .*: Li_K"),
        ({"lines": ["Fe_L9"]}, "Fe has no edge Fe_L9, choose one with lines=: .*Fe_L3"),
        ({"lines": ["Fe"]}, "Fe has no edge Fe, choose one"),
        ({"lines": ["Fe_L3", "Fe_L2"]}, "lines of Fe: expected one line per element"),
        (
            {"lines": ["Cu_L3"]},
            "Cu_L3 is at 931 eV, outside the measured 400 to 911.5 eV",
        ),
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
        (
            {"integration_windows": True},
            "windows is True: expected a row of 2 energies",
        ),
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
    (iron,), *_ = load_multimodal([spectra, HAADF], ["Fe"])
    assert not iron.metadata.has_item("Signal.Noise_properties")
    assert spectra.metadata.has_item("Signal.Noise_properties")
