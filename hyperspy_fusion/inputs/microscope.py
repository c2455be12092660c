"""Numbers that the metadata of X-ray signals have of the microscope."""

from collections.abc import Iterator
from contextlib import suppress
from numbers import Real

import numpy as np
from hyperspy.misc.utils import DictionaryTreeBrowser
from hyperspy.signals import BaseSignal

from .elements import entry_of
from .stacks import remove

RESOLUTION = 130.0  # eV at Mn_Ka, where a file has none; the default of eXSpy
_BEAM, _RESOLUTION = "beam_energy", "Detector.EDS.energy_resolution_MnKa"
_LARGEST = {_BEAM: np.inf, _RESOLUTION: 1000.0}  # keV and eV; others are none


def resolution_of(signal: BaseSignal) -> float:
    """Energy resolution of the detector of a signal for Mn_Ka, in eV."""
    found = [value for _, value in _numbers(signal, _RESOLUTION) if value]
    return found[-1] if found else RESOLUTION


def beam_energy_of(signal: BaseSignal) -> float:
    """Energy of the beam of a signal in keV; infinite where a file has none."""
    return min((v for _, v in _numbers(signal, _BEAM) if v), default=np.inf)


def no_numbers(signal: BaseSignal) -> list[str]:
    """What is told of entries that are no numbers."""
    told = []
    for place in (_BEAM, _RESOLUTION):
        for path, value in _numbers(signal, place):
            if value is None:
                entry = entry_of(signal, *path.split("."))
                is_node = isinstance(entry, DictionaryTreeBrowser)
                told.append(
                    f"{path.rpartition('.')[-1]} of the metadata is "
                    f"{'a node' if is_node else f'{entry!r:.40}'}: expected a number "
                    "above 0, so that it was taken as not known"
                )
    return told


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
