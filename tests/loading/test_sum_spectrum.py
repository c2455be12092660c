import dask.array as da
import numpy as np
import pytest
from hyperspy.signals import Signal1D
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion
from hyperspy_fusion import data, fit_sum_spectrum
from hyperspy_fusion.inputs.foreign import elements_of_exspy

LINES = ["Au_La", "Fe_Ka", "O_Ka"]
ELEMENTS = ["Au", "Fe", "O"]


@pytest.fixture(scope="module")
def truth():
    return data.janus(48).truth


@pytest.fixture
def spectra(truth):
    return data.xray_spectra(truth, LINES)


def peaks(lines, resolution=130.0, scale=0.01, n=1500, background=20.0):
    """A spectrum of counts of some energies in keV, whose noise is that of Poisson."""
    energy = scale * np.arange(n)
    expected = np.full(n, background)
    for centre, counts in lines:
        width = np.sqrt(0.0025 * (centre - 5.9) + (resolution / 1000) ** 2) / 2.355
        peak = np.exp(-(((energy - centre) / width) ** 2) / 2)
        expected += counts * scale / (width * np.sqrt(2 * np.pi)) * peak
    counts = np.random.default_rng(1).poisson(expected)
    axis = {"size": n, "scale": scale, "offset": 0.0, "units": "keV", "name": "E"}
    return Signal1D(counts, axes=[axis])


def test_counts_of_the_elements(spectra, truth):
    found = fit_sum_spectrum(spectra, ELEMENTS)
    assert found.elements == ("Au", "Fe", "O")
    shells = {"Au": "L", "Fe": "K", "O": "K"}
    exspy = pytest.importorskip("exspy.material").elements
    for image, element in zip(truth, ELEMENTS, strict=True):
        known = exspy[element].Atomic_properties.Xray_lines.as_dictionary()
        weight = sum(
            line["weight"]
            for name, line in known.items()
            if name[0] == shells[element] and line["energy (keV)"] < 15.3
        )
        counts = found.sums[f"{element}_{shells[element]}"]
        error = abs(counts - weight * image.data.sum())
        assert error < 4 * found.errors[element]
    assert 0.8 < found.chi2 < 1.2
    assert found.warnings == ()
    assert_allclose(found.model, sum(found.components.values()))


def test_energies_and_resolution_are_fitted(spectra):
    axis = spectra.axes_manager.signal_axes[0]
    axis.scale *= 1.002
    axis.offset = 1.002 * axis.offset + 0.006
    spectra.set_microscope_parameters(energy_resolution_MnKa=138)
    with pytest.warns(UserWarning, match="energies of the spectra are 8 eV too high"):
        found = fit_sum_spectrum(spectra, ELEMENTS)
    assert_allclose(found.scale * 1.002, 1, atol=5e-4)
    assert_allclose(found.offset + found.scale * 0.006, 0, atol=0.002)
    assert_allclose(found.resolution, 130, atol=3)


@pytest.mark.parametrize("units", ["keV", "eV"])
@pytest.mark.parametrize("lazy", [False, True])
def test_forms_of_the_same_spectra(spectra, units, lazy):
    wanted = fit_sum_spectrum(spectra, ELEMENTS)
    one = spectra.deepcopy()
    if units == "eV":
        axis = one.axes_manager.signal_axes[0]
        axis.convert_to_units("eV")
    if lazy:
        one = one.as_lazy(chunks=(16, 16, -1))
        assert isinstance(one.data, da.Array)
    found = fit_sum_spectrum(one, "Au", ["Fe", "O"])
    assert_array_equal(found.counts, wanted.counts)
    assert_allclose(found.model, wanted.model, rtol=1e-6)
    total = fit_sum_spectrum(spectra.sum(), ELEMENTS)
    assert_allclose(total.model, wanted.model, rtol=1e-6)


def test_elements_of_the_metadata(spectra):
    spectra.set_elements(ELEMENTS)
    assert set(fit_sum_spectrum(spectra).elements) == set(ELEMENTS)


def test_shares_of_a_window(spectra):
    found = fit_sum_spectrum(spectra, ELEMENTS)
    shares = found.shares(6.3, 6.5)
    assert_allclose(sum(shares.values()), 1)
    assert shares["Fe"] > 0.9
    with pytest.raises(ValueError, match=r"from 20 to 21 keV holds no channel"):
        found.shares(20, 21)


def test_peak_of_an_element_that_is_not_listed(spectra):
    with pytest.warns(UserWarning, match="perhaps Fe_K.*name its element") as record:
        found = fit_sum_spectrum(spectra, ["Au", "O"])
    said = [str(warning.message) for warning in record]
    assert tuple(said) == found.warnings
    assert "a peak at 6.4" in said[0]
    assert found.chi2 > 2


def test_element_that_is_not_there(spectra):
    with pytest.warns(UserWarning, match="no sign of Mn in the sum spectrum"):
        fit_sum_spectrum(spectra, ELEMENTS, "Mn")


@pytest.mark.parametrize(("resolution", "apart"), [(130, True), (350, False)])
def test_elements_that_cannot_be_told_apart(resolution, apart):
    spectra = peaks([(2.307, 3e4), (2.293, 3e4), (2.395, 1e4)], resolution)
    place = "Acquisition_instrument.TEM.Detector.EDS.energy_resolution_MnKa"
    spectra.metadata.set_item(place, resolution)
    if apart:
        assert fit_sum_spectrum(spectra, ["S", "Mo"]).warnings == ()
        return
    with pytest.warns(UserWarning, match="no sign of|told apart"):
        found = fit_sum_spectrum(spectra, ["S", "Mo"])
    assert "S and Mo can hardly be told apart" in "".join(found.warnings)


@pytest.mark.parametrize(
    ("energy", "named"),
    [
        (12.808, "the sum peak of Fe_K and Fe_K"),
        (4.664, "the escape peak of Fe_K"),
    ],
)
def test_artefacts_of_the_detector(energy, named):
    lines = [(6.404, 1e5), (7.058, 0.1272e5), (energy, 3e3)]
    with pytest.warns(UserWarning, match=named):
        fit_sum_spectrum(peaks(lines), "Fe")


def test_weak_line_that_is_not_in_the_table():
    lines = [(6.404, 1e5), (7.058, 0.1272e5), (5.6, 3e3)]
    with pytest.warns(UserWarning, match="a line of Fe_K that eXSpy does not know"):
        fit_sum_spectrum(peaks(lines), "Fe")


@pytest.mark.parametrize("scale", [0.005, 0.01, 0.02])
def test_nothing_is_said_of_a_right_list(scale):
    lines = [(6.404, 1e4), (7.058, 0.1272e4)]
    found = fit_sum_spectrum(peaks(lines, scale=scale, n=int(15 / scale)), "Fe")
    assert found.warnings == ()
    assert_allclose(found.sums["Fe_K"], 1.1272e4, rtol=0.05)


def test_range(spectra):
    found = fit_sum_spectrum(spectra, ["Au", "Fe"], energy_range=(4, 12))
    assert found.energies[0] >= 4
    assert found.energies[-1] <= 12
    spectra.set_microscope_parameters(beam_energy=10)
    assert fit_sum_spectrum(spectra, ELEMENTS).energies[-1] <= 10


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.data.astype(float) * 0, ValueError, "not all 0"),
        (lambda s: s.data.astype(float) - 1, ValueError, "finite counts of at least 0"),
        (lambda s: np.where(s.data > 3, np.nan, 1.0), ValueError, "finite counts"),
        (lambda s: (s.data > 0) * 1e-3, ValueError, "at least 100"),
    ],
)
def test_counts_that_are_none(spectra, change, error, message):
    spectra.data = change(spectra)
    with pytest.raises(error, match=message):
        fit_sum_spectrum(spectra, ELEMENTS)


@pytest.mark.parametrize(
    ("elements", "options", "message"),
    [
        (["Au", "Xx"], {}, "Xx"),
        (["Au", "Fe"], {"energy_range": (7.5, 12)}, "Fe has no line within"),
        (["Au"], {"energy_range": (12, 4)}, "two rising energies"),
        (["Au"], {"energy_range": (30, 40)}, "within the measured"),
        (["Au"], {"energy_range": (1, 2, 3)}, "two rising energies"),
        (["Au"], {"energy_range": ("a", "b")}, "two rising energies"),
        (["Au"], {"energy_range": 5}, "two rising energies"),
        (["Au"], {"energy_range": np.array([12, 4])}, "two rising energies"),
        (None, {}, "names no elements"),
        ([], {}, "elements is empty"),
    ],
)
def test_wrong_arguments(spectra, elements, options, message):
    with pytest.raises(ValueError, match=message):
        fit_sum_spectrum(spectra, elements, **options)


def test_channels_of_unequal_width(spectra):
    spectra.axes_manager.signal_axes[0].convert_to_non_uniform_axis()
    with pytest.raises(ValueError, match="energy axis is not uniform"):
        fit_sum_spectrum(spectra, ELEMENTS)


def test_what_is_no_spectrum(spectra):
    with pytest.raises(TypeError, match="one signal axis"):
        fit_sum_spectrum(data.janus(16).haadf, ELEMENTS)
    with pytest.raises(TypeError, match="one signal axis"):
        fit_sum_spectrum(np.ones(100), ELEMENTS)
    spectra.axes_manager.signal_axes[0].units = "nm"
    with pytest.raises(ValueError, match="in nm: expected keV or eV"):
        fit_sum_spectrum(spectra, ELEMENTS)


def test_picture(spectra):
    found = fit_sum_spectrum(spectra, ELEMENTS)
    counts, residual = hyperspy_fusion.plot_sum_spectrum(found, [(6.3, 6.5)])
    shown = counts.get_legend_handles_labels()[1]
    assert shown == ["measured", "Au", "Fe", "O", "continuum", "fitted"]
    assert [text.get_text() for text in counts.texts] == ["Au L", "Fe K", "O K"]
    measured = counts.lines[0].get_ydata()
    assert_array_equal(measured, found.counts)
    assert_allclose(
        residual.lines[0].get_ydata(),
        (found.counts - found.model) / np.sqrt(np.maximum(found.model, 0.1)),
    )
    assert "Reduced χ²" in counts.figure.get_supxlabel()


@pytest.fixture(scope="module")
def measured():
    """FePt nanoparticles on carbon and a copper grid, from eXSpy's examples."""
    elements_of_exspy()  # without the warnings of its imports
    from exspy.data import EDS_TEM_FePt_nanoparticles  # noqa: PLC0415

    return EDS_TEM_FePt_nanoparticles()


def test_what_a_measured_spectrum_holds_besides(measured):
    with pytest.warns(UserWarning, match="a peak|too high"):
        found = fit_sum_spectrum(measured, ["Fe", "Pt"])
    said = "\n".join(found.warnings)
    for line in ("C_Ka", "Cu_Ka", "Si_Ka"):
        assert f"perhaps {line}" in said


def test_measured_spectrum_with_all_of_its_elements(measured):
    found = fit_sum_spectrum(measured, ["Fe", "Pt"], ["C", "O", "Si", "Cu"])
    assert found.warnings == ()
    iron, platinum = found.sums["Fe_K"], found.sums["Pt_L"]
    with pytest.warns(UserWarning, match="a peak|too high"):
        few = fit_sum_spectrum(measured, ["Fe", "Pt"])
    assert_allclose([few.sums["Fe_K"], few.sums["Pt_L"]], [iron, platinum], rtol=0.02)
