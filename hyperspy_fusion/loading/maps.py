"""Elemental maps as signals: ready-made ones, their copies and their backgrounds."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hyperspy.signals import BaseSignal, Signal2D

from ..inputs.elements import infer_element, title_of
from ..inputs.images import as_images, describe, new_signal
from ..signals import ElementalMap
from .candidates import are_empty


class Mapped(NamedTuple):
    """What was made from spectra.

    Attributes
    ----------
    maps : list of ElementalMap
        One per element.
    background : list of Signal2D or None
        Background of each map; None if it is not known.
    warnings : list of str
        What the user has to know about them.
    """

    maps: list[ElementalMap]
    background: list[BaseSignal] | None
    warnings: list[str]


def elemental_map(signal: BaseSignal, element: str) -> ElementalMap:
    """Copy an image, or a series of images, into the map of an element."""
    image = as_images(signal, f"map of {element}").deepcopy()
    image.set_signal_type("elemental_map")
    image.metadata.set_item("Sample.elements", [element])
    return image


def background_signal(elemental_map: ElementalMap, data: Any) -> Signal2D:
    """Make a signal of the background of a map, an array of its shape and units."""
    background = new_signal(elemental_map, data)
    background.metadata.General.title = f"Background of {title_of(elemental_map)}"
    return background


def image_shapes(images: Iterable[BaseSignal]) -> set[tuple[int, ...]]:
    """Pixels ``(y, x)`` of images, each shape once."""
    return {image.data.shape[-2:] for image in images}


def choose_maps(
    maps: Sequence[BaseSignal], elements: list[str] | None
) -> tuple[list[ElementalMap], list[str]]:
    """Copy the requested ready-made maps, one per element, all of one size.

    `elements` holds titles or symbols and sets the order; None takes all maps. Maps
    that are zero everywhere are left out where there are others, which a message tells.
    """
    every, empty = maps, are_empty(maps)
    filled = [s for s, no in zip(maps, empty, strict=True) if not no] or maps
    if elements is None:
        maps = filled
    else:
        maps = [_find_map(filled, every, entry) for entry in elements]
    asked = set(elements or map(title_of, every))
    kept = set(map(id, maps))  # signals do not compare
    left_out = [
        describe(signal)
        for signal, no in zip(every, empty, strict=True)
        if no and id(signal) not in kept and asked & _names(signal)
    ]
    messages = [
        f"maps that are zero everywhere are left out: {', '.join(left_out)}"
    ] * bool(left_out)
    by_element: dict[str, list[BaseSignal]] = {}
    for signal in maps:
        by_element.setdefault(str(infer_element(signal)), []).append(signal)
    doubles = [
        f"{element} is shown by {' and '.join(map(describe, signals))}"
        for element, signals in by_element.items()
        if len(signals) > 1
    ]
    if doubles:
        raise ValueError(
            f"{'; '.join(doubles)}: expected one map per element, choose the maps by "
            f"their titles with elements=['{title_of(maps[0])}', ...], or give a list "
            "of the signals to use"
        )
    if len(image_shapes(maps)) > 1:
        raise ValueError(
            f"the maps {', '.join(map(describe, maps))} differ in size: expected maps "
            "of the same pixels, choose them with "
            f"elements=['{title_of(maps[0])}', ...]"
        )
    chosen = [elemental_map(*pair) for pair in zip(maps, by_element, strict=True)]
    return chosen, messages


def _names(signal: BaseSignal) -> set[str]:
    return {title_of(signal), str(infer_element(signal))}


def _find_map(
    filled: Sequence[BaseSignal], every: Sequence[BaseSignal], entry: str
) -> BaseSignal:
    """Find the map with a title or, if there is none, of an element; `filled` first."""
    found: list[BaseSignal] = []
    for maps in (filled, every):
        found = found or [signal for signal in maps if title_of(signal) == entry]
        found = found or [signal for signal in maps if infer_element(signal) == entry]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{entry!r} is shown by {' and '.join(map(describe, found))}: choose by "
            "the title, or give a list of the signals to use"
        )
    raise ValueError(
        f"there is no map of {entry!r}: expected the title or the element of a map; to "
        "map a spectrum image instead, give lines= or a window"
    )
