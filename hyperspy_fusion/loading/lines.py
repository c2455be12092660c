"""Energies, weights and widths of X-ray lines."""

from typing import Any

import numpy as np

from ..inputs.elements import lines_of
from ..inputs.microscope import RESOLUTION, beam_energy_of, resolution_of

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
_MN_KA = 5898.7  # eV


def fwhm(energy: Any, resolution: float) -> Any:
    """Width in keV of a line at an energy in keV, after Fiori and Newbury (1978).

    `resolution` is that of the detector for Mn_Ka, in eV.
    """
    squared = resolution**2 + 2.5 * (1000 * energy - _MN_KA)
    return np.sqrt(np.maximum(squared, 0)) / 1000
