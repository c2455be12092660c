"""Messages: those of many images or tiles merged, and warnings of the caller."""

import re
import sys
import warnings
from collections.abc import Sequence

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def merged(messages: Sequence[Sequence[str]], places: str) -> tuple[str, ...]:
    """Merge messages that differ in nothing but their numbers.

    Numbers become ranges, and a message that does not hold everywhere says where.

    Parameters
    ----------
    messages : sequence of sequence of str
        Those of each image, or of each tile of an image.
    places : str
        What these are: "images" or "tiles".
    """
    groups: dict[str, dict[int, list[str]]] = {}
    for k, found in enumerate(messages):
        for message in found:
            group = groups.setdefault(_NUMBER.sub("#", message), {})
            group.setdefault(k, []).append(message)
    return tuple(
        _as_one([one for own in group.values() for one in own])
        + out_of(len(group), len(messages), places)
        for group in groups.values()
    )


def out_of(n: int, total: int, places: str = "images") -> str:
    """Words for a part of all places; empty if it is all of them."""
    return "" if n == total else f" ({n} of {total} {places})"


def map_names(elements: Sequence[str], n: int) -> list[str]:
    """What n maps are called: by their elements if these are known, else by number."""
    known = [f"map of {element}" for element in elements]
    return known or [f"map number {i}" for i in range(n)]


def warn(message: str) -> None:
    """Raise a UserWarning where the package was called from, however deep this is."""
    package = __name__.partition(".")[0]
    frame, level = sys._getframe(1), 2  # noqa: SLF001 - inspect is as private, and slow
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def _as_one(messages: Sequence[str]) -> str:
    """The first message, with the ranges of the numbers of all."""
    columns = zip(*map(_NUMBER.findall, messages), strict=True)
    ranges = iter([_range(numbers) for numbers in columns])
    return _NUMBER.sub(lambda _: next(ranges), messages[0])


def _range(numbers: Sequence[str]) -> str:
    low, high = min(numbers, key=float), max(numbers, key=float)
    return low if float(low) == float(high) else f"{low} to {high}"
