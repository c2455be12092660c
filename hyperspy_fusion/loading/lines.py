"""Energies, weights and widths of X-ray lines."""

from collections.abc import Iterator
from contextlib import suppress
from numbers import Real
from typing import Any

import numpy as np
from hyperspy.signals import BaseSignal

from ..inputs.elements import entry_of, lines_of
from ..inputs.stacks import remove

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
_BEAM, _RESOLUTION = "beam_energy", "Detector.EDS.energy_resolution_MnKa"
_LARGEST = {_BEAM: np.inf, _RESOLUTION: 1000.0}  # keV and eV; others are none


def fwhm(energy: Any, resolution: float) -> Any:
    """Width in keV of a line at an energy in keV, after Fiori and Newbury (1978).

    `resolution` is that of the detector for Mn_Ka, in eV.
    """
    squared = resolution**2 + 2.5 * (1000 * energy - _MN_KA)
    return np.sqrt(np.maximum(squared, 0)) / 1000


def resolution_of(signal: BaseSignal) -> float:
    """Energy resolution of the detector of a signal for Mn_Ka, in eV."""
    found = [value for _, value in _numbers(signal, _RESOLUTION) if value]
    return found[-1] if found else RESOLUTION


def beam_energy_of(signal: BaseSignal) -> float:
    """Energy of the beam of a signal in keV; infinite where a file has none."""
    return min((v for _, v in _numbers(signal, _BEAM) if v), default=np.inf)


def mend_numbers(signal: BaseSignal) -> None:
    """Leave eXSpy only numbers, for beam and resolution; changes metadata in place."""
    for place in (_BEAM, _RESOLUTION):
        for path, value in _numbers(signal, place):
            if value is None:
                remove(signal.metadata, path)
            if value or place == _RESOLUTION:  # eXSpy has no default for it here
                signal.metadata.set_item(path, value or RESOLUTION)


def _numbers(signal: BaseSignal, place: str) -> Iterator[tuple[str, float | None]]:
    """Paths of what metadata have at a place, and the number; None if it is none."""
    for mode in ("SEM", "TEM"):
        path = f"Acquisition_instrument.{mode}.{place}"
        entry = entry_of(signal, *path.split("."))
        if entry is None:
            continue
        value = 0.0
        with suppress(ValueError, OverflowError):
            value = float(entry) if isinstance(entry, Real | str) else value
        yield path, value if 0 < value <= _LARGEST[place] else None
