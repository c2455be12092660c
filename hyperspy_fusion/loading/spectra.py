"""Elements, lines and windows for the maps of spectra: checks and shared helpers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hyperspy.axes import UniformDataAxis
from hyperspy.signals import BaseSignal

from ..inputs.elements import atomic_number, element_of, sample_entries


def as_names(argument: str, entries: str | Sequence[str] | None) -> list[str] | None:
    """Return a name or a list of names as a list; None stays None.

    A ValueError if the list is empty, a TypeError if an entry is no string.
    """
    if entries is None:
        return None
    names = [entries] if isinstance(entries, str) else list(entries)
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
    """Sum a range of channels, to shape ``navigation + (y, x)``; lazily if they are."""
    return spectra.data[..., first:last].sum(axis=-1, dtype=float)


def is_auto(windows: object) -> bool:
    """Whether windows are given as ``"auto"``."""
    return isinstance(windows, str) and windows == "auto"
