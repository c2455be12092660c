"""Elements, lines and windows for the maps of spectra: checks and shared helpers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from hyperspy.axes import UniformDataAxis
from hyperspy.signals import BaseSignal

from ..execution.arrays import unmasked
from ..inputs.elements import atomic_number, element_of, sample_entries
from ..inputs.images import check_real, describe
from .lines import PER_KEV


def check_spectra(spectra: BaseSignal) -> None:
    """Raise an error if spectra hold no real numbers, or nothing at all."""
    check_real(spectra, f"spectra {describe(spectra)}")
    if not spectra.data.size:
        raise ValueError(
            f"spectra {describe(spectra)} has the shape {spectra.data.shape}: expected "
            "one pixel and one channel at least"
        )


def energy_axis(spectra: BaseSignal) -> UniformDataAxis:
    """Energy axis of spectra; a ValueError if it has no energies that rise."""
    axis = spectra.axes_manager.signal_axes[0]
    if not axis.is_uniform:
        raise ValueError(
            "the energy axis is not uniform: expected equal channels, see "
            "signal.interpolate_on_axis"
        )
    if axis.units not in PER_KEV:
        raise ValueError(
            f"the energy axis is in {axis.units}: expected keV or eV, set "
            "signal.axes_manager.signal_axes[0].units"
        )
    if not (axis.scale > 0 and np.isfinite((axis.scale, axis.offset)).all()):
        raise ValueError(
            f"the energy axis starts at {axis.offset:.4g} {axis.units} and has "
            f"channels of {axis.scale:.4g} {axis.units}: expected energies that rise; "
            "set offset and scale of signal.axes_manager.signal_axes[0], or turn "
            "falling energies round with signal.isig[::-1]"
        )
    return axis


def as_names(
    argument: str,
    entries: str | Sequence[str] | None,
    *,
    may_be_empty: bool = False,
) -> list[str] | None:
    """Return a name or a list of names as a list; None stays None.

    A TypeError if it is neither, a ValueError if the list is empty.
    """
    if entries is None:
        return None
    no_list = isinstance(entries, bytes | Mapping | set | frozenset | BaseSignal) or (
        isinstance(entries, np.ndarray) and entries.ndim != 1
    )
    if no_list or not isinstance(entries, Iterable):
        raise TypeError(
            f"{argument} is {entries!r}: expected a name or a list of names, as strings"
        )
    names = [entries] if isinstance(entries, str) else list(entries)
    if may_be_empty and names in ([], [""]):
        return []
    if not names:
        raise ValueError(f"{argument} is empty: expected at least one entry, or None")
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"{argument} has {wrong[0]!r}: expected names, as strings")
    return names


def lines_by_element(
    elements: list[str] | None, lines: list[str] | None
) -> dict[str, str | None]:
    """Assign each wanted element its line, or None for the default line.

    In the order of the elements, else of the lines; empty if neither is given. A
    ValueError if an element is unknown or named twice, or if the two disagree.
    """
    chosen: dict[str, str | None] = {}
    for line in lines or ():
        element = element_of(line)
        atomic_number(element)
        if element in chosen:
            raise ValueError(one_line_message(element, [chosen[element], line]))
        chosen[element] = line
    if elements is None:
        return chosen
    for element in elements:
        atomic_number(element)
    if len(set(elements)) < len(elements) or chosen.keys() - set(elements):
        raise ValueError(
            f"elements={elements!r} and lines={lines!r} disagree: expected each "
            "element once, and lines of these elements only"
        )
    return {element: chosen.get(element) for element in elements}


def one_line_message(element: str, lines: Sequence[str | None]) -> str:
    """Error message for several lines of one element."""
    return (
        f"{' and '.join(map(str, lines))} are lines of {element}: expected one line "
        "per element, choose with lines=['Fe_Ka', ...]"
    )


def elements_of(spectra: BaseSignal) -> list[str]:
    """Elements that the metadata of spectra name, by rising atomic number."""
    elements = sample_entries(spectra, "elements")
    if not elements:
        raise ValueError(
            "metadata.Sample.elements names no elements: name those to map with "
            "elements=['Fe', ...]"
        )
    # eXSpy and RosettaSciIO make the list from a set: arbitrary order
    return sorted(elements, key=atomic_number)


def window_rows(
    argument: str,
    windows: Any,
    lines: Sequence[str],
    width: int,
    axis: UniformDataAxis,
) -> list[list[float]]:
    """Check that windows have a row of `width` energies for each line; return a list.

    A ValueError if a row does not rise or leaves the measured range. The energies are
    in the units of the axis; `argument` is the name of the windows in the errors.
    """
    try:
        rows = np.asarray(windows, dtype=float)
    except (TypeError, ValueError):
        rows = np.empty(0)
    if rows.shape != (len(lines), width):
        raise ValueError(
            f"{argument} is {windows!r}: expected a row of {width} energies for each "
            f"of {', '.join(lines)}"
        )
    low, high = axis.low_value, axis.high_value
    for line, row in zip(lines, rows.tolist(), strict=True):
        if not (low <= row[0] and row[-1] <= high and np.all(np.diff(row) >= 0)):
            raise ValueError(
                f"{argument} of {line} is {np.round(row, 4).tolist()}: expected rising "
                f"energies within the measured {low:.5g} to {high:.5g} {axis.units}"
            )
    return rows.tolist()


def sum_channels(spectra: BaseSignal, first: int, last: int) -> Any:
    """Sum a range of channels, to shape ``navigation + (y, x)``; lazily if they are.

    NaN where a channel is masked.
    """
    return unmasked(spectra.data[..., first:last]).sum(axis=-1, dtype=float)


def is_auto(windows: object) -> bool:
    """Whether windows are given as ``"auto"``."""
    return isinstance(windows, str) and windows == "auto"
