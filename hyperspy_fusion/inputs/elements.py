"""Elements: atomic numbers, and the element that a map shows."""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from hyperspy.misc.utils import DictionaryTreeBrowser
from hyperspy.signals import BaseSignal

from .foreign import elements_of_exspy

_ELEMENT_IN_TITLE = re.compile(
    r"^(?P<whole>[A-Z][a-z]?)$"
    r"|^(?P<technique>[A-Z][a-z]?)-(?:EELS|EDS|EDX)$"
    # O K and Fe L of JEOL; Fe Kα1
    r"|^(?P<line>[A-Z][a-z]?) [KLM](?:[abgα-γ]\d?(?:,\d)?)?$"
    # Fe_L3, Fe_L2,3, C_K1a; Cu_Ka, Sr_Lb1, Ir_M2N4; neither Au_NPs nor Co_Oxide
    r"|\b(?P<edge>[A-Z][a-z]?)_"
    r"(?:[K-O](?:\d[\d,]*a?)?|[KLM][abgα-γ]\d?|L[ln]|Mz|M\d[NO]\d)(?![^\W_])"
    r"|\bpercent of (?P<quantified>[A-Z][a-z]?)\b"
)


@cache
def _atomic_numbers() -> dict[str, int]:
    elements = elements_of_exspy()
    return {
        symbol: int(elements[symbol].General_properties.Z)
        for symbol in list(elements.keys())
    }


def atomic_number(element: str) -> int:
    """Return Z of an element; a ValueError if its symbol is unknown."""
    try:
        return _atomic_numbers()[element]
    except (KeyError, TypeError):
        raise ValueError(
            f"{element!r} is not the symbol of an element: expected one like 'Fe' "
            f"(case matters){_meant(element)}"
        ) from None


def _meant(word: object) -> str:
    """Words that suggest the symbol that was meant; empty if it is not known."""
    word = str(word).strip()
    named = [
        symbol
        for symbol in _atomic_numbers()
        if elements_of_exspy()[symbol].General_properties.name == word.lower()
    ]
    symbol = named[0] if named else word.capitalize()
    return f"; did you mean {symbol!r}?" if symbol in _atomic_numbers() else ""


def infer_element(signal: BaseSignal) -> str | None:
    """Symbol of the element that a map shows by its metadata, or None.

    In this order: one entry in ``Sample.xray_lines``; one entry in
    ``Sample.elements``; a title that is an element's symbol; ``Fe-EELS`` or
    ``Fe-EDS``; ``Fe K`` or ``Fe Kα1``; an edge or line such as ``Fe_L3`` in the title;
    ``percent of Fe``.
    """
    known = _atomic_numbers()
    for node in ("xray_lines", "elements"):
        entries = sample_entries(signal, node)
        symbol = element_of(entries[0]) if len(entries) == 1 else None
        if symbol in known:
            return symbol
    return element_in(title_of(signal))


def element_in(title: str) -> str | None:
    """Symbol of the element that a title names, or None; see :func:`infer_element`."""
    for match in _ELEMENT_IN_TITLE.finditer(title.strip()):
        symbol = match.group(match.lastgroup or 0)
        if symbol in _atomic_numbers():
            return symbol
    return None


def entry_of(signal: BaseSignal, *names: str) -> Any:
    """An entry of the metadata, or None: files hold anything in place of a node."""
    entry = signal.metadata
    for name in names:
        if not isinstance(entry, DictionaryTreeBrowser):
            return None
        entry = entry.get_item(name)
    return entry


def title_of(signal: BaseSignal) -> str:
    """Title of a signal, without blanks around it; empty if it is no text."""
    title = entry_of(signal, "General", "title")
    return title.strip() if isinstance(title, str) else ""


def element_of(line: str) -> str:
    """Element of a line or an edge, as Fe of Fe_Ka."""
    return line.partition("_")[0]


@cache
def lines_of(element: str) -> dict[str, tuple[float, float]]:
    """Energy in keV of the X-ray lines of an element, and weight within their shell."""
    table = elements_of_exspy()
    if element not in table:
        return {}
    known = table[element].Atomic_properties.get_item("Xray_lines")
    return {
        f"{element}_{name}": (values["energy (keV)"], values["weight"])
        for name, values in (known.as_dictionary() if known else {}).items()
    }


def family_of(line: str) -> str:
    """Element and shell of a line, as Fe_K of Fe_Ka."""
    return line[: line.index("_") + 2]


def sample_entries(signal: BaseSignal, node: str) -> list[str]:
    """List the elements, or the X-ray lines, in ``metadata.Sample``.

    What is no text is no entry.
    """
    entries = entry_of(signal, "Sample", node)
    # a string is what .nxs makes of a list of one
    if isinstance(entries, str):
        return [entries]
    if not isinstance(entries, Iterable):
        return []
    return [str(entry) for entry in entries if isinstance(entry, str)]


def name_element(signal: BaseSignal, element: str) -> None:
    """Store the element of a map in it, in place; remove X-ray lines of others."""
    if not isinstance(entry_of(signal, "Sample"), DictionaryTreeBrowser | None):
        del signal.metadata.Sample
    signal.metadata.set_item("Sample.elements", [element])
    lines = sample_entries(signal, "xray_lines")
    if any(element_of(line) != element for line in lines):
        del signal.metadata.Sample.xray_lines
