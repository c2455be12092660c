"""EDS spectra that the tests of loading share."""

import exspy
import numpy as np
import pytest
from scans import HAADF, WEIGHTS, calibrate_energies, stack_of


@pytest.fixture(scope="session")
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


@pytest.fixture
def stacks(eds):
    """Spectra and HAADF images of three frames, which their sums tell apart."""
    return [stack_of(eds, [1, 2, 4]), stack_of(HAADF, [1, 2, 4])]
