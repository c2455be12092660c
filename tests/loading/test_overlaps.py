import exspy
import numpy as np
import pytest
from exspy._misc.eds.utils import get_FWHM_at_Energy
from numpy.testing import assert_allclose
from scans import HAADF, SHAPE, calibrate_energies, image

from hyperspy_fusion.loading import load_multimodal
from hyperspy_fusion.loading.overlaps import fwhm


def spectra_of(*elements, units="keV", resolution=None):
    """Empty spectra of a sample."""
    spectra = exspy.signals.EDSTEMSpectrum(np.ones((*SHAPE, 1000)))
    spectra.set_microscope_parameters(
        beam_energy=200, energy_resolution_MnKa=resolution
    )
    spectra.set_elements(elements)
    calibrate_energies(spectra, 0.02 if units == "keV" else 20, 0, units)
    return spectra


@pytest.mark.parametrize("resolution", [130, 145])
@pytest.mark.parametrize("energy", [0.3, 4.5, 17])
def test_width_of_a_line_is_that_of_exspy(energy, resolution):
    assert_allclose(
        fwhm(energy, resolution), get_FWHM_at_Energy(resolution, energy), rtol=1e-3
    )


def test_width_below_what_the_formula_allows():
    assert fwhm(0.1, 110) == 0


@pytest.mark.parametrize("units", ["keV", "eV"])
def test_overlapping_lines_are_named(units):
    with pytest.warns(UserWarning, match="X-ray lines overlap") as caught:
        load_multimodal([spectra_of("Ti", "Ba", units=units), HAADF], ["Ti", "Ba"])
    (message,) = (str(warning.message) for warning in caught)
    for expected in (
        ": Ti_Ka (4.511 keV) and Ba_La (4.466 keV), resolution 0.116 keV. ",
        "Choose another line with lines=, or fuse the spectra themselves",
    ):
        assert expected in message
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("elements", "line", "named"),
    [
        (["Cr", "Mn"], "Mn_Ka", r"Mn_Ka \(5.899 keV\) and Cr_Kb \(5.947 keV\)"),
        (["Fe", "Co"], "Co_Ka", r"Co_Ka \(6.930 keV\) and Fe_Kb \(7.058 keV\)"),
        (["Mo", "S"], "S_Ka", r"S_Ka \(2.307 keV\) and Mo_La \(2.293 keV\)"),
    ],
)
def test_lines_of_elements_that_are_not_mapped(elements, line, named):
    with pytest.warns(UserWarning, match=named):
        load_multimodal([spectra_of(*elements), HAADF], lines=line)


@pytest.mark.parametrize(
    ("elements", "lines"),
    [
        (["Fe", "Pt"], ["Fe_Ka", "Pt_La"]),
        (["Co", "Ni", "O"], ["Ni_Ka", "O_Ka"]),
        (["Fe", "Tm"], ["Fe_Ka"]),  # Tm_Ll is 0.06 keV away, but weak
    ],
)
def test_no_warning_of_lines_that_are_separated(elements, lines):
    load_multimodal([spectra_of(*elements), HAADF], lines=lines)


def test_the_resolution_of_the_detector_counts():
    """Fe_Kb is 0.128 keV from Co_Ka."""
    load_multimodal([spectra_of("Fe", "Co", resolution=110), HAADF], ["Co"])
    with pytest.warns(UserWarning, match="Co_Ka .* and Fe_Kb .*, resolution 0.140 keV"):
        load_multimodal([spectra_of("Fe", "Co", resolution=130), HAADF], ["Co"])


def test_lines_in_a_wide_window():
    spectra = spectra_of("Fe", "Co")
    load_multimodal([spectra, HAADF], lines=["Fe_Ka"])
    with pytest.warns(UserWarning, match=r"Fe_Ka .* and Co_Ka \(6.930 keV\)"):
        load_multimodal(
            [spectra, HAADF], lines=["Fe_Ka"], integration_windows=[[6.2, 7]]
        )


def test_ready_made_maps_whose_titles_are_lines():
    with pytest.warns(UserWarning, match="Ti_Ka .* and Ba_La .*, resolution 0.116"):
        load_multimodal([image("Ti_Ka"), image("Ba_La"), HAADF])
    load_multimodal([image("Fe_Ka"), image("Pt_La"), HAADF])
    load_multimodal([image("Ti"), image("Ba"), HAADF])
    load_multimodal([image("Ti_Ka"), image("Ba"), HAADF])
