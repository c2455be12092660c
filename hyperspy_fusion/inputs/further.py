"""Elastic images besides HAADF: phases, other detectors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from hyperspy.signals import BaseSignal, Signal2D

from .elements import title_of
from .images import as_images, check_same_pixels, check_signal, describe

Elastic: TypeAlias = BaseSignal | Sequence[BaseSignal] | Mapping[str, BaseSignal] | None
Weight: TypeAlias = float | Literal["auto"]
Weighting: TypeAlias = Weight | Sequence[Weight] | Mapping[str, Weight]
MOST = 3  # images besides HAADF


def further_images(
    elastic: Any, haadf: Signal2D, said: list[str]
) -> dict[str, Signal2D]:
    """Elastic images by their names: those given, else their titles.

    They have the pixels of the HAADF image; warnings are added to `said`.

    Raises
    ------
    TypeError
        If one is no signal, or not of real numbers.
    ValueError
        If one is no image, or of other pixels, two are the same, or there are more than
        three.
    """
    if elastic is None:
        return {}
    if not isinstance(elastic, BaseSignal | Iterable):
        raise TypeError(
            f"elastic is of type {type(elastic).__name__}: expected a signal, or a "
            "list or dict of signals"
        )
    if isinstance(elastic, Mapping):
        named = dict(elastic)
    else:
        signals = [elastic] if isinstance(elastic, BaseSignal) else list(elastic)
        for k, signal in enumerate(signals):
            check_signal(signal, f"elastic image number {k}")
        named = dict(zip(_titles(signals), signals, strict=True))
    if len(named) > MOST:
        raise ValueError(
            f"elastic has {len(named)} images: expected at most {MOST} besides HAADF"
        )
    signals = list(named.values())
    for k, signal in enumerate(signals):
        if any(signal is other for other in signals[:k]):
            raise ValueError(
                f"elastic has the image {describe(signal)} twice: leave one out"
            )
    images = {name: _as_real(name, signal) for name, signal in named.items()}
    for name, image in images.items():
        if image.data.ndim > haadf.data.ndim:
            raise ValueError(
                f"the elastic image {name} is {describe(named[name])}: expected one "
                "image, as HAADF. A 4D-STEM data set becomes one by a virtual "
                "detector, such as signal.isig[20:40, 20:40].sum(axis='sig').T"
            )
        said += check_same_pixels(haadf, "HAADF image", image, f"elastic image {name}")
    return images


def _titles(signals: Sequence[BaseSignal]) -> list[str]:
    """A name for each: its title, numbered where it has none or others have it too."""
    titles = [title_of(signal) for signal in signals]
    return [
        f"{title or 'elastic'} {k + 1}"
        if not title or titles.count(title) > 1
        else title
        for k, title in enumerate(titles)
    ]


def _as_real(name: str, signal: Any) -> Signal2D:
    check_signal(signal, f"elastic image {name}")
    if signal.data.dtype.kind == "c":
        raise TypeError(
            f"the elastic image {name} holds complex numbers: expected real ones; pass "
            "its phase or its amplitude, signal.phase or signal.amplitude"
        )
    return as_images(signal, f"elastic image {name}")
