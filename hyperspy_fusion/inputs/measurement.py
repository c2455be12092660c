"""Supported inputs -> `Measurement`: arrays, elements and axes that belong together.

The table "Supported inputs" of the user guide is the specification. What is checked
here is not checked again further down.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from hyperspy.signals import BaseSignal, Signal2D

from ..core.calibrated.composition import sum_of_fractions
from ..core.common.messages import warn
from ..execution.arrays import computed, is_lazy, stack
from .elements import atomic_number, element_in, infer_element, title_of
from .further import Elastic, further_images
from .images import (
    as_images,
    axes_of,
    check_same_pixels,
    describe,
    haadf_of,
    may_be_haadf,
    native,
    new_signal,
)
from .matching import Match, is_calibrated
from .stacks import of_several_elements, split
from .values import check_background, check_values

Maps: TypeAlias = Sequence[BaseSignal] | Mapping[str, BaseSignal] | BaseSignal
Image: TypeAlias = BaseSignal | Sequence[BaseSignal]
Background: TypeAlias = (
    float | Sequence[float | BaseSignal] | Mapping[str, float | BaseSignal] | BaseSignal
) | None
Mask: TypeAlias = np.ndarray | BaseSignal | None
_PER_CENT = re.compile(r"\b(?:percent|per cent)\b|(?:at|wt)\.? ?%", re.IGNORECASE)
_SEEN = 256  # pixels a side that tell whether maps are fractions
_HOW = Literal["axes", "pixels"]
Matching: TypeAlias = _HOW | None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Maps and HAADF image of the same pixels, checked.

    Attributes
    ----------
    maps : numpy.ndarray or dask.array.Array
        Shape ``navigation + (n_elements, y, x)``, native byte order, in the units of
        the signals; NaN where pixels are missing or masked, or their variance is not
        known.
    haadf : numpy.ndarray or dask.array.Array
        Shape ``navigation + (y, x)``; NaN where missing.
    background : numpy.ndarray, dask.array.Array or None
        Known background of the maps, in their units, shape
        ``navigation + (n_elements, y, x)``, or with 1 in place of y and x.
    variance : numpy.ndarray, dask.array.Array or None
        Noise variance of the maps from ``Signal.Noise_properties.variance``, of their
        shape; None unless all maps have it.
    sensitivities : tuple of float or None
        Relative sensitivity factor of each element.
    elements : tuple of str
        Symbols, in the order of the maps.
    images : tuple of Signal2D
        The signals of the maps, viewed as images, for axes and metadata of the result.
    check : callable or None
        ``check([*maps, haadf, *elastic], background)`` checks the values of one
        position of lazy signals, which are not known before, and returns warnings; None
        if they are checked.
    match : {"axes", "pixels", None}
        By what maps and image were brought to the same pixels.
    notes : tuple of str
        How that was done.
    warnings : tuple of str
        Those about the signals.
    elastic : numpy.ndarray, dask.array.Array or None
        Further elastic images, shape ``navigation + (n_images, y, x)``; NaN where
        missing.
    elastic_names : tuple of str
        Their names.
    masked : bool
        Whether a mask was given.
    """

    maps: Any
    haadf: Any
    background: Any
    variance: Any
    sensitivities: tuple[float, ...] | None
    elements: tuple[str, ...]
    images: tuple[Signal2D, ...]
    check: Callable[[Sequence[np.ndarray], Any], list[str]] | None
    match: Matching
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    elastic: Any = None
    elastic_names: tuple[str, ...] = ()
    masked: bool = False

    @property
    def navigation_shape(self) -> tuple[int, ...]:
        """Shape of the series, ``()`` for one field of view."""
        return self.haadf.shape[:-2]

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Z of each element."""
        return tuple(map(atomic_number, self.elements))

    @property
    def lazy(self) -> bool:
        """Whether maps or an image are lazy."""
        return is_lazy(self.maps, self.haadf, self.elastic)


def measure(
    maps: Maps,
    haadf: Image,
    background: Background = None,
    *,
    elements: Sequence[str] | None = None,
    sensitivities: Mapping[str, float] | None = None,
    mask: Mask = None,
    match: Matching = None,
    elastic: Elastic = None,
    allow_missing: bool = True,
    lazily: bool = False,
) -> Measurement:
    """Collect signals as a measurement, and check that they belong together.

    Parameters
    ----------
    maps, haadf, background, elements, sensitivities, mask, match, elastic
        As for :func:`hyperspy_fusion.fuse_multimodal`.
    allow_missing : bool
        Whether pixels may be missing (NaN); else that is an error.
    lazily : bool
        Leave lazy signals lazy; their values are then not checked here.

    Raises
    ------
    TypeError, ValueError
        If something is missing, double, of another shape or scale, or not an image of
        finite real numbers.
    """
    if match is not None and not (isinstance(match, str) and match in get_args(_HOW)):
        raise ValueError(f"match is {match!r}: expected None, 'axes' or 'pixels'")
    _check_roles(maps, haadf)
    signals = split(maps)
    if not signals:
        raise ValueError("there are no maps: expected one signal per element")
    messages: list[str] = []
    names = _element_names(maps, signals, elements, messages)
    messages += _already_fused(names, signals)
    variances = [signal.get_noise_variance() for signal in signals]
    images = [
        as_images(signal, f"map of {name}")
        for name, signal in zip(names, signals, strict=True)
    ]
    first, first_name = images[0], f"map of {names[0]}"
    haadf = haadf_of(haadf, None if match else first.data.shape[-2:])
    for name, image in zip(names[1:], images[1:], strict=True):
        messages += check_same_pixels(first, first_name, image, f"map of {name}")
    further = further_images(elastic, haadf, messages)
    sums, shown, (haadf, *others), notes = _on_common_area(
        images, [haadf, *further.values()], match
    )
    messages += check_same_pixels(shown[0], first_name, haadf, "HAADF image")
    shown = _calibrated([*shown, haadf])[:-1]
    messages += _of_few_elements(names, signals, shown)

    inputs = {
        "variance": _stack_variances(variances, images),
        "background": _stack_backgrounds(background, names, images, messages),
        "mask": None if mask is None else mask_array(mask, first.data.shape),
    }
    if sums is not None:
        inputs = {k: None if a is None else sums(a) for k, a in inputs.items()}
    inputs["images"] = [native(signal.data) for signal in (*shown, haadf, *others)]
    check = partial(
        check_values, tuple(names), allow_missing=allow_missing, further=tuple(further)
    )
    lazy = lazily and is_lazy(*inputs["images"])
    if not lazy:
        inputs = computed(inputs)
    if background is not None and not is_lazy(inputs["background"]):
        check_background(inputs["background"])
    arrays = inputs["images"]
    stacked, image = stack(arrays[: len(names)], axis=-3), arrays[len(names)]
    seen = arrays[len(names) + 1 :]
    if allow_missing:
        stacked = _without_unknown(stacked, inputs["mask"], inputs["variance"])
    if not lazy:
        messages += check([*np.moveaxis(stacked, -3, 0), image, *seen])
    for message in messages:
        warn(message)
    return Measurement(
        maps=stacked,
        haadf=image,
        background=inputs["background"],
        variance=inputs["variance"],
        sensitivities=_sensitivities(sensitivities, names),
        elements=tuple(names),
        images=tuple(shown),
        check=check if lazy else None,
        match=match,
        notes=notes,
        warnings=tuple(messages),
        elastic=stack(seen, axis=-3) if seen else None,
        elastic_names=tuple(further),
        masked=mask is not None,
    )


def _check_roles(maps: Any, haadf: Any) -> None:
    """Raise a ValueError if maps and HAADF image are swapped."""
    if isinstance(maps, list | tuple) and len(maps) == 1:
        maps = maps[0]
    others = haadf.values() if isinstance(haadf, Mapping) else haadf
    several = isinstance(haadf, list | tuple | Mapping)
    others = list(others) if several else [others]
    if not all(isinstance(signal, BaseSignal) for signal in (maps, *others)):
        return  # which is another error
    several = len(others) > 1
    shown = several or any(map(_shows_elements, others))
    image = may_be_haadf(maps) or (several and not _shows_elements(maps))
    if image and shown and not any(map(may_be_haadf, others)):
        raise ValueError(
            f"maps and HAADF image are swapped: the first argument is the image "
            f"{describe(maps)}, and the second has {', '.join(map(describe, others))}. "
            "Expected the maps first, as in fuse_multimodal(maps, haadf)"
        )


def _shows_elements(signal: BaseSignal) -> bool:
    """Whether a signal is known to be a map, or a stack of maps."""
    return infer_element(signal) is not None or of_several_elements(signal)


def _already_fused(names: Sequence[str], signals: Sequence[BaseSignal]) -> list[str]:
    """The warning that maps are results of a fusion, if they are."""
    fused = [
        name
        for name, signal in zip(names, signals, strict=True)
        if signal.metadata.has_item("Multimodal_fusion")
    ]
    message = (
        f"the maps of {', '.join(fused)} are fused already: their noise is no longer "
        "that of independent counts, which a fusion relies on. Fuse the measured maps"
    )
    return [message] if fused else []


def common_area(maps: BaseSignal, haadf: Image) -> Match:
    """What a map and the HAADF image, or that in a list, have in common by axes."""
    return Match.of(as_images(maps, "map"), haadf_of(haadf))


def _on_common_area(
    images: list[Signal2D], elastic: list[Signal2D], match: Matching
) -> tuple[Callable[[Any], Any] | None, list[Signal2D], list[Signal2D], tuple]:
    """Maps and elastic images, HAADF first, in the pixels of their common area.

    With the function that brings other arrays there, and notes.
    """
    haadf = elastic[0]
    if match is None:
        return None, images, elastic, ()
    if match == "pixels":
        if images[0].data.shape[-2:] != haadf.data.shape[-2:]:
            return None, images, elastic, ()  # which is an error
        calibration = axes_of(images[0])[-2:]
        note = (
            f"the HAADF image {describe(haadf)} was taken to show the pixels of the "
            f"maps, {describe(images[0])}, whatever its axes say"
        )
        axes = [*axes_of(haadf)[:-2], *calibration]
        elastic = [new_signal(image, image.data, axes=axes) for image in elastic]
        return None, images, elastic, (note,)
    area = common_area(images[0], haadf)
    arrays = [native(image.data) for image in images]
    sums = area.sums
    means = area.is_sum and _are_fractions(arrays)
    if means:
        arrays = area.means_of_fractions(arrays)
        sums = partial(_without_values, sums)
    else:
        arrays = list(map(sums, arrays))
    shown = [
        new_signal(image, array, axes=area.axes(axes_of(image)))
        for image, array in zip(images, arrays, strict=True)
    ]
    axes = [*axes_of(haadf)[:-2], *axes_of(shown[0])[-2:]]
    elastic = [
        new_signal(image, area.image(native(image.data)), axes=axes)
        for image in elastic
    ]
    return sums, shown, elastic, area.notes(means=means)


def _are_fractions(arrays: Sequence[Any]) -> bool:
    """Whether maps are fractions, from some pixels of the first image."""
    step = max(max(arrays[0].shape[-2:]) // _SEEN, 1)
    first = (0,) * (arrays[0].ndim - 2)
    seen = np.stack(computed([a[first][::step, ::step] for a in arrays]))
    return sum_of_fractions(seen[:, np.isfinite(seen).all(axis=0)]) is not None


def _of_few_elements(
    names: Sequence[str], signals: Sequence[BaseSignal], shown: Sequence[Signal2D]
) -> list[str]:
    """A warning of maps in per cent that are not those of all elements."""
    called = [
        name
        for name, signal in zip(names, signals, strict=True)
        if _PER_CENT.search(title_of(signal))
    ]
    if not called or _are_fractions([native(image.data) for image in shown]):
        return []
    which, verb = ("maps", "are") if len(called) > 1 else ("map", "is")
    message = (
        f"by the title, the {which} of {', '.join(called)} {verb} in per cent, but the "
        "maps do not add up to the same in every pixel, as those of all elements do: "
        "they were not taken for fractions. Fuse the maps of all elements together, or "
        "better counts"
    )
    return [message]


def _without_values(sums: Callable[[Any], Any], array: Any) -> Any:
    """Sums of a mask; a ValueError for what belongs to the values of fractions."""
    if array.dtype == bool:
        return sums(array)
    raise ValueError(
        "the maps are fractions, and the pixels of the HAADF image are larger: a "
        "variance or a background would have to be averaged, too. Leave it out, or "
        "bring the maps to the pixels of the image before the fusion"
    )


def _calibrated(images: Sequence[Signal2D]) -> list[Signal2D]:
    """Images of the same pixels: those without calibration get that of another."""
    known: dict[int, Any] = {}
    for image in reversed(images):
        for i, axis in enumerate(image.axes_manager.signal_axes[::-1]):
            if is_calibrated(axis):
                known[i] = {"scale": axis.scale, "units": axis.units}
    found = []
    for image in images:
        pair = image.axes_manager.signal_axes[::-1]
        new = {i: own for i, own in known.items() if not is_calibrated(pair[i])}
        if new:
            axes = axes_of(image)
            for i, own in new.items():
                axes[-2 + i] |= {**own, "offset": 0.0}
            image = new_signal(image, image.data, axes=axes)  # noqa: PLW2901
        found.append(image)
    return found


def _element_names(
    maps: Maps,
    signals: Sequence[BaseSignal],
    elements: Sequence[str] | str | None,
    messages: list[str],
) -> list[str]:
    """Elements of the maps: as given, else as inferred; adds warnings to `messages`."""
    found = [infer_element(signal) for signal in signals]
    if isinstance(maps, Mapping):
        if elements is not None and list(elements) != list(maps):
            raise ValueError(
                f"elements is {elements!r} and the maps are named {list(maps)}: leave "
                "elements out, or give the maps as a list"
            )
        elements = list(maps)
    if elements is None:
        names = _inferred(signals, found)
    else:
        of_numpy = isinstance(elements, np.ndarray) and elements.ndim != 1
        if of_numpy or not isinstance(elements, Iterable):
            raise TypeError(
                f"elements is {elements!r}: expected a list of symbols, one per map in "
                "their order, as ['Fe', 'O']"
            )
        names = [elements] if isinstance(elements, str) else list(elements)
        if len(names) != len(signals):
            raise ValueError(
                f"elements names {len(names)} elements and there are {len(signals)} "
                "maps: expected one name per map, in their order"
            )
    for name in names:
        atomic_number(name)
    for i, name in enumerate(names):
        first = names.index(name)
        if first != i:
            raise ValueError(
                f"{name} is mapped twice, by {describe(signals[first])} (number "
                f"{first}) and {describe(signals[i])} (number {i}): leave one out, or "
                "name the maps with elements= if one shows another element"
            )
    messages += [
        f"the map number {i}, {describe(signals[i])}, is taken for one of {name}, but "
        f"its metadata or title says {own}: check the names and their order"
        for i, name in enumerate(names)
        for own in dict.fromkeys((found[i], element_in(title_of(signals[i]))))
        if own not in (name, None)
    ]
    return names


def _inferred(signals: Sequence[BaseSignal], found: Sequence[str | None]) -> list[str]:
    """Elements found in the signals; an error if one is not known."""
    unknown = [i for i, name in enumerate(found) if name is None]
    for i in unknown:
        as_images(signals[i], f"map number {i}")  # an error if it is a spectrum image
    if unknown:
        listed = ", ".join(f"{i}: {describe(signals[i])}" for i in unknown)
        raise ValueError(
            f"nothing says which element these of the maps show: {listed}. Name the "
            "elements of all maps, in their order, with elements=['Fe', ...], or set "
            "metadata.Sample.elements of each"
        )
    return [name for name in found if name is not None]


def _sensitivities(
    sensitivities: Mapping[str, float] | None, names: Sequence[str]
) -> tuple[float, ...] | None:
    if sensitivities is None:
        return None
    if not isinstance(sensitivities, Mapping):
        raise TypeError(
            f"sensitivities is of type {type(sensitivities).__name__}: expected a dict "
            f"of a number for each of {', '.join(names)}"
        )
    lacking = [name for name in names if name not in sensitivities]
    if lacking:
        raise ValueError(
            f"sensitivities has none for {', '.join(lacking)}: expected one for "
            f"each of {', '.join(names)}"
        )
    found = [sensitivities[name] for name in names]
    if not all(isinstance(s, Real) and np.isfinite(s) and s > 0 for s in found):
        raise ValueError(
            f"sensitivities are {', '.join(map(str, found))}: expected finite numbers "
            "above 0"
        )
    return tuple(map(float, found))


def mask_array(mask: Any, shape: tuple[int, ...]) -> Any:
    """A mask as an array, of the shape of the maps or of one position."""
    if isinstance(mask, BaseSignal):
        mask = as_images(mask, "mask").data
    mask = mask if is_lazy(mask) else np.asarray(mask)
    if mask.dtype != bool or mask.shape not in (shape, shape[-2:]):
        raise ValueError(
            f"mask is of type {mask.dtype} and shape {mask.shape}: expected bool, True "
            f"where pixels are missing, and the shape {shape[-2:]} (y, x) of the maps"
        )
    return mask


def _without_unknown(maps: Any, mask: Any, variance: Any) -> Any:
    """Maps with NaN where they are masked, or where their variance is unknown."""
    if mask is not None:
        maps = np.where(mask[..., np.newaxis, :, :], np.nan, maps)
    if variance is not None:  # it is NaN where a model was not fitted
        known = np.isfinite(variance)
        if is_lazy(known) or not known.all():
            maps = np.where(known, maps, np.nan)
    return maps


def _stack_variances(variances: Sequence[Any], images: Sequence[Signal2D]) -> Any:
    """Noise variances as an array of the shape of the maps, or None."""
    if any(variance is None for variance in variances):
        return None
    arrays = [
        as_images(variance, "noise variance").data
        if isinstance(variance, BaseSignal)
        else np.asarray(variance, dtype=np.float64)
        for variance in variances
    ]
    shape = images[0].data.shape
    try:
        arrays = [np.broadcast_to(array, shape) for array in arrays]
    except ValueError as error:  # a slice of a stack does not slice those of its maps
        found = " or ".join(map(str, dict.fromkeys(array.shape for array in arrays)))
        raise ValueError(
            f"the noise variance of a map has the shape {found} and the map {shape}: "
            "slice the maps before they are stacked, or clear the variance with "
            "map.set_noise_variance(None)"
        ) from error
    return stack(arrays, axis=-3)


def _stack_backgrounds(
    background: Any,
    names: Sequence[str],
    images: Sequence[Signal2D],
    messages: list[str],
) -> Any:
    """A background in any form, as an array of ``Measurement.background``'s shape.

    Warnings are added to `messages`.
    """
    expected = (
        "expected a number for all maps, or a number or signal for each, in their order"
    )
    if background is None:
        return None
    entries = _background_entries(background, names, expected)
    first = images[0]
    one_pixel = (*first.data.shape[:-2], 1, 1)
    arrays = []
    entry: Any
    for entry, name in zip(entries, names, strict=True):
        if isinstance(entry, BaseSignal):
            image = as_images(entry, f"background of {name}")
            messages += check_same_pixels(first, "map", image, f"background of {name}")
            arrays.append(native(image.data))
        elif isinstance(entry, Real) or (
            isinstance(entry, np.ndarray) and entry.ndim == 0
        ):
            arrays.append(np.full(one_pixel, float(entry)))
        else:
            raise TypeError(
                f"background of {name} is of type {type(entry).__name__}: {expected}"
            )
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    return stack([np.broadcast_to(array, shape) for array in arrays], axis=-3)


def _background_entries(
    background: Any, names: Sequence[str], expected: str
) -> list[Any]:
    """List the background of each map; `expected` is for the errors."""
    if isinstance(background, Mapping):
        lacking = [name for name in names if name not in background]
        if lacking:
            raise ValueError(
                f"background has none for {', '.join(lacking)}: {expected}"
            )
        return [background[name] for name in names]
    if isinstance(background, BaseSignal):
        background = split(background)
    elif isinstance(background, np.ndarray) and background.ndim == 1:
        background = background.tolist()
    if not isinstance(background, list | tuple):
        return [background] * len(names)
    if len(background) != len(names):
        raise ValueError(
            f"background has {len(background)} entries and there are {len(names)} "
            f"maps: {expected}"
        )
    return list(background)
