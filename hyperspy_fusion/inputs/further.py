"""Elastic images besides HAADF: phases, other detectors."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hyperspy.signals import BaseSignal, Signal2D

from .elements import title_of
from .images import as_images, check_same_pixels, check_signal, describe

Elastic: TypeAlias = BaseSignal | Sequence[BaseSignal] | Mapping[str, BaseSignal] | None
Weight: TypeAlias = float | Literal["auto"]
Weighting: TypeAlias = Weight | Sequence[Weight] | Mapping[str, Weight]
MOST = 3  # images besides HAADF


def further_images(
    elastic: Any, haadf: Signal2D, messages: list[str]
) -> dict[str, Signal2D]:
    """Elastic images by their names: those given, else their titles.

    They have the pixels of the HAADF image; warnings are added to `messages`.

    Raises
    ------
    TypeError
        If one is no signal, not of real numbers, or its name is no text.
    ValueError
        If one is no image, or of other pixels, two are the same, or there are more than
        three.
    """
    if elastic is None:
        return {}
    named = _named(elastic)
    if len(named) > MOST:
        raise ValueError(
            f"elastic has {len(named)} images: expected at most {MOST} besides HAADF"
        )
    signals = list(named.values())
    for k, signal in enumerate(signals):
        if any(signal is other for other in (haadf, *signals[:k])):
            raise ValueError(
                f"elastic has the image {describe(signal)} twice, or it is the HAADF "
                "image: leave one out"
            )
    images = {name: _as_real(name, signal) for name, signal in named.items()}
    for name, image in images.items():
        if image.data.ndim > haadf.data.ndim:
            raise ValueError(
                f"the elastic image {name} is {describe(named[name])}: expected one "
                "image, as HAADF. A 4D-STEM data set becomes one by a virtual "
                "detector, such as signal.isig[20:40, 20:40].sum(axis='sig').T"
            )
        messages += check_same_pixels(
            haadf, "HAADF image", image, f"elastic image {name}"
        )
    return images


def _named(elastic: Any) -> dict[str, Any]:
    """Elastic images by their names, as they were given."""
    if isinstance(elastic, str | Path):
        elastic = [elastic]  # which is an error
    if not isinstance(elastic, BaseSignal | Iterable):
        raise TypeError(
            f"elastic is of type {type(elastic).__name__}: expected a signal, or a "
            "list or dict of signals"
        )
    if isinstance(elastic, Mapping):
        for name in elastic:
            if not isinstance(name, str) or name.splitlines() != [name]:
                raise TypeError(
                    f"elastic has the name {name!r}: expected a text of one line, as "
                    "{'phase': signal}"
                )
        return dict(elastic)
    signals = [elastic] if isinstance(elastic, BaseSignal) else list(elastic)
    for k, signal in enumerate(signals):
        check_signal(signal, f"elastic image number {k}")
    return dict(zip(_titles(signals), signals, strict=True))


def _titles(signals: Sequence[BaseSignal]) -> list[str]:
    """A name for each: its title, numbered where it has none or others have it too."""
    titles = [" ".join(title_of(signal).split()) for signal in signals]
    names: list[str] = []
    for k, title in enumerate(titles, 1):
        name = title
        if not title or titles.count(title) > 1:
            name = f"{title or 'elastic'} {k}"
        while name in (*names, *titles[k:]):  # a title may look like a number
            name += "'"
        names.append(name)
    return names


def _as_real(name: str, signal: Any) -> Signal2D:
    check_signal(signal, f"elastic image {name}")
    if signal.data.dtype.kind == "c":
        raise TypeError(
            f"the elastic image {name} holds complex numbers: expected real ones; pass "
            "its phase or its amplitude, signal.phase or signal.amplitude"
        )
    return as_images(signal, f"elastic image {name}")
