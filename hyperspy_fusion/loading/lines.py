"""Energies, weights and widths of X-ray lines."""

from typing import Any

import numpy as np
from hyperspy.signals import BaseSignal

from ..inputs.elements import lines_of

__all__ = [
    "LOWEST",
    "PER_KEV",
    "RESOLUTION",
    "beam_energy_of",
    "fwhm",
    "lines_of",
    "resolution_of",
]

PER_KEV = {"eV": 1000.0, "keV": 1.0}  # units of an energy axis
LOWEST = 0.2  # keV; below are noise of the detector and its zero peak
RESOLUTION = 130.0  # eV at Mn_Ka, where a file has none; the default of eXSpy
_MN_KA = 5898.7  # eV


def fwhm(energy: Any, resolution: float) -> Any:
    """Width in keV of a line at an energy in keV, after Fiori and Newbury (1978).

    `resolution` is that of the detector for Mn_Ka, in eV.
    """
    squared = resolution**2 + 2.5 * (1000 * energy - _MN_KA)
    return np.sqrt(np.maximum(squared, 0)) / 1000


def resolution_of(signal: BaseSignal) -> float:
    """Energy resolution of the detector of a signal for Mn_Ka, in eV."""
    found = RESOLUTION
    for mode in ("SEM", "TEM"):
        place = f"Acquisition_instrument.{mode}.Detector.EDS.energy_resolution_MnKa"
        found = signal.metadata.get_item(place, found)
    return float(found)


def beam_energy_of(signal: BaseSignal) -> float:
    """Energy of the beam of a signal in keV; infinite where a file has none."""
    modes = ("SEM", "TEM")
    places = (f"Acquisition_instrument.{mode}.beam_energy" for mode in modes)
    return float(min(signal.metadata.get_item(place, np.inf) for place in places))
