"""What users hold -> `Measurement` (arrays, elements, axes), and back to signals.

The table "What users hold" of the user guide is this room's specification: maps on
navigation axes from eXSpy, Signal2D from Velox, parameter maps of EELS models,
loadings of a decomposition.
"""

import re
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import hyperspy.api as hs
import numpy as np
import pint

from .tiling import computed, is_lazy, stack

__all__ = [
    "BACKGROUND",
    "VARIANCE",
    "Measurement",
    "as_images",
    "atomic_number",
    "carried_background",
    "change_background",
    "check_values",
    "choose_haadf",
    "describe",
    "drop_background",
    "infer_element",
    "lose_background",
    "may_be_haadf",
    "members_along",
    "members_of",
    "name_element",
    "pair",
    "series_shape",
    "split",
]

# Where a map of raw counts carries its background, a signal of the same pixels.
BACKGROUND = "Elemental_map.background"
# What stands there once the map has been changed in a way that the background cannot
# follow.
_LOST = "lost"
# Where HyperSpy keeps the variance of the noise.
VARIANCE = "Signal.Noise_properties.variance"

# Two pixel sizes that differ by more than this part do not belong to one scan.
_SCALE_TOLERANCE = 0.01

_HAADF_TITLE = re.compile(r"haadf|^DF-S$|annular_detector", re.IGNORECASE)
# Velox names the segments of its detectors DF4-A to DF4-D.
_SEGMENT_TITLE = re.compile(r"-[A-D]$")
_ELEMENT_IN_TITLE = re.compile(
    r"^(?P<whole>[A-Z][a-z]?)$"
    r"|^(?P<technique>[A-Z][a-z]?)-(?:EELS|EDS|EDX)$"
    # Fe_L3, Fe_L2,3, C_K1a; Cu_Ka, Sr_Lb1, Ir_M2N4; neither Au_NPs nor Co_Oxide
    r"|\b(?P<edge>[A-Z][a-z]?)_"
    r"(?:[K-O](?:\d[\d,]*a?)?|[KLM][abgα-γ]\d?|L[ln]|Mz|M\d[NO]\d)(?![^\W_])"
    r"|\bpercent of (?P<quantified>[A-Z][a-z]?)\b"
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Maps and HAADF image of the same pixels, ready for the mathematics.

    Attributes
    ----------
    maps : numpy.ndarray
        Shape ``navigation + (n_elements, y, x)``, native byte order, in the units of
        the signals.
    haadf : numpy.ndarray
        Shape ``navigation + (y, x)``.
    elements : tuple of str
        Symbols, in the order of the maps.
    images : tuple of Signal2D
        The signals the maps came from, seen as images: they lend the results their
        axes and metadata.
    variance : numpy.ndarray or None
        Noise variance of the maps from ``Signal.Noise_properties.variance``, of the
        shape of the maps or ``(n_elements, 1, 1)``; None unless all maps have it.
    background : numpy.ndarray or None
        Background that the maps carry in ``Elemental_map.background``, of their shape
        and in their units, 0 for those that carry none; None if no map does.
    """

    maps: np.ndarray
    haadf: np.ndarray
    elements: tuple
    images: tuple
    variance: np.ndarray | None = None
    background: np.ndarray | None = None

    @property
    def navigation_shape(self):
        """Shape of the series, ``()`` for one field of view."""
        return self.haadf.shape[:-2]

    @property
    def atomic_numbers(self):
        """Z of each element."""
        return tuple(map(atomic_number, self.elements))

    def net(self):
        """The same with the background that the maps carry subtracted from them."""
        if self.background is None:
            return self
        return replace(self, maps=self.maps - self.background, background=None)

    def to_signals(self, maps, record):
        """Turn fused arrays into signals.

        Parameters
        ----------
        maps : numpy.ndarray
            Shape ``navigation + (n_elements, y, x)``, in the units of the signals.
        record : dict
            What to store in ``metadata.Multimodal_fusion``.

        Returns
        -------
        list of ElementalMap
            In the order of the maps, with the axes and the metadata of each; without
            the background, for the result holds none.
        """
        signals = []
        for i, (image, element) in enumerate(
            zip(self.images, self.elements, strict=True)
        ):
            data = maps[..., i, :, :]
            if not is_lazy(data):
                data = np.ascontiguousarray(data)
            signal = image._deepcopy_with_new_data(data)  # noqa: SLF001
            signal._lazy = is_lazy(data)  # noqa: SLF001 - whatever the image is
            signal.set_signal_type("elemental_map")
            drop_background(signal.metadata)
            name_element(signal, element)
            signal.metadata.add_dictionary({"Multimodal_fusion": dict(record)})
            signals.append(signal)
        return signals


@cache
def _atomic_numbers():
    from exspy.material import elements  # noqa: PLC0415 - slow to import

    return {
        symbol: int(elements[symbol].General_properties.Z)
        for symbol in list(elements.keys())
    }


def atomic_number(element):
    """Return Z of an element's symbol; a ValueError if there is no such element."""
    try:
        return _atomic_numbers()[element]
    except KeyError:
        raise ValueError(
            f"{element!r} is not the symbol of an element: expected one like 'Fe' "
            "(case matters)"
        ) from None


def infer_element(signal):
    """Read from a signal which element it maps.

    In this order: one entry in ``Sample.xray_lines``; one entry in
    ``Sample.elements``; a title that is an element's symbol; ``Fe-EELS`` or
    ``Fe-EDS``; an edge or line such as ``Fe_L3`` in the title; ``percent of Fe``.

    Parameters
    ----------
    signal : BaseSignal
        The map.

    Returns
    -------
    str or None
        The symbol, or None where nothing says it.
    """
    known = _atomic_numbers()
    for node in ("xray_lines", "elements"):
        entries = signal.metadata.get_item(f"Sample.{node}", [])
        if isinstance(entries, str):  # what .nxs makes of a list of one
            entries = [entries]
        symbol = entries[0].split("_")[0] if len(entries) == 1 else None
        if symbol in known:
            return symbol
    for match in _ELEMENT_IN_TITLE.finditer(signal.metadata.General.title.strip()):
        symbol = match.group(match.lastgroup)
        if symbol in known:
            return symbol
    return None


def name_element(signal, element):
    """Note which element a signal maps, and forget X-ray lines of others.

    Parameters
    ----------
    signal : BaseSignal
        The map, which is modified.
    element : str
        Symbol.
    """
    signal.metadata.set_item("Sample.elements", [element])
    lines = signal.metadata.get_item("Sample.xray_lines", [])
    lines = [lines] if isinstance(lines, str) else lines
    if any(line.split("_")[0] != element for line in lines):
        del signal.metadata.Sample.xray_lines


def describe(signal):
    """Describe a signal in a line: title, size in pixels, pixel size, series.

    Parameters
    ----------
    signal : BaseSignal
        Any signal.

    Returns
    -------
    str
        For example ``'Fe-EELS' (20 x 16, 158.7 nm/px)``, of a series
        ``'Fe' (20 x 16, 158.7 nm/px, series of 12)``.
    """
    image = signal.axes_manager.signal_axes
    axes = image if len(image) > 1 else signal.axes_manager.navigation_axes[:2] or image
    size = " x ".join(str(axis.size) for axis in axes)
    pixel = "uncalibrated"
    if axes and _is_calibrated(axes[0]):
        pixel = f"{axes[0].scale:.4g} {axes[0].units}/px"
    series = " x ".join(map(str, series_shape(signal)))
    if series:
        pixel += f", series of {series}"
    return f"{signal.metadata.General.title!r} ({size}, {pixel})"


def series_shape(signal):
    """Sizes of the navigation axes of a signal besides those of the image.

    Parameters
    ----------
    signal : BaseSignal
        Images, or images of spectra or of numbers on the first two navigation axes.

    Returns
    -------
    tuple of int
        In HyperSpy's order, ``()`` of a single image.
    """
    manager = signal.axes_manager
    on_navigation = manager.signal_dimension < 2
    return manager.navigation_shape[2 if on_navigation else 0 :]


def as_images(signal, role):
    """See a signal as an image or a series of images.

    Parameters
    ----------
    signal : BaseSignal
        Signal2D, or a signal whose image axes are navigation axes, as eXSpy's
        ``get_lines_intensity`` makes it; the first two navigation axes are then the
        image, further ones the series.
    role : str
        What the signal is, for the errors.

    Returns
    -------
    Signal2D
        A view of the signal with two uniform signal axes.

    Raises
    ------
    TypeError
        If it is no HyperSpy signal or its data are not real numbers.
    ValueError
        If it is no image.
    """
    _check_signal(signal, role)
    name = f"{role} {signal.metadata.General.title!r}"
    if signal.ragged:
        raise TypeError(
            f"{name} is ragged: expected an image, of the same shape everywhere"
        )
    kind = signal.data.dtype
    if kind.fields is not None:
        raise TypeError(
            f"{name} is an RGB picture: expected the data behind it; if there are "
            "none, take one channel with signal.change_dtype('uint8')"
        )
    if kind.kind not in "biuf":
        raise TypeError(
            f"{name} has data of type {kind}: expected real numbers; of complex data "
            "take signal.real or signal.amplitude"
        )
    manager = signal.axes_manager
    if manager.signal_dimension == 0 and manager.navigation_dimension > 1:
        signal = signal.transpose(signal_axes=(0, 1))
    elif manager.signal_dimension != 2:
        raise ValueError(
            f"{name} has {manager.navigation_dimension} navigation and "
            f"{manager.signal_dimension} signal axes: expected an image. Spectra are "
            "turned into maps by get_lines_intensity (EDS), by integrating an edge "
            "(EELS), or by hyperspy_fusion.load_multimodal"
        )
    for axis in signal.axes_manager.signal_axes:
        if not axis.is_uniform:
            raise ValueError(
                f"{name} has the non-uniform axis {axis.name!r}: expected pixels of "
                "equal size, resample it with signal.interpolate_on_axis"
            )
    return signal


def carried_background(signal):
    """Return the background that a map carries.

    Parameters
    ----------
    signal : BaseSignal
        The map.

    Returns
    -------
    BaseSignal or None
        Of the pixels of the map, in its units; None if the map carries none.

    Raises
    ------
    ValueError
        If it does not belong to the map any more, because the map was changed.
    """
    background = signal.metadata.get_item(BACKGROUND)
    if background is None or _fits(background, signal):
        return background
    if _is_signal(background):
        found = f"has the shape {background.data.shape}, the map {signal.data.shape}"
    else:
        found = "was lost when the map was changed"
    raise ValueError(
        f"the background that the map {describe(signal)} carries {found}: .inav, .isig "
        "and .rebin change both, other operations only the map. Change the maps after "
        "the fusion, give the background with background= (calibrated method), take "
        "maps from get_net_map(), or, if the map holds none any more, del "
        "signal.metadata.Elemental_map"
    )


def _fits(background, signal):
    return _is_signal(background) and background.data.shape == signal.data.shape


def lose_background(signal):
    """Note that the background a map carries, if any, is that of the map no more.

    So with the maps of a stack, and with their variance if the stack has lost its own.
    """
    members = [member.metadata for member in members_of(signal)]
    for metadata in (signal.metadata, *members):
        if metadata.has_item(BACKGROUND):
            metadata.set_item(BACKGROUND, _LOST)
    if not signal.metadata.has_item(VARIANCE):
        for metadata in members:
            _drop_variance(metadata)


def change_background(source, target, change):
    """Change the background that a map carries as the map itself was changed.

    Parameters
    ----------
    source : BaseSignal
        The map before the change.
    target : BaseSignal
        The changed map, which gets the changed background.
    change : callable
        Returns the changed background.
    """
    background = source.metadata.get_item(BACKGROUND)
    if background is None:
        drop_background(target.metadata)
    elif _fits(background, source):
        target.metadata.set_item(BACKGROUND, change(background))
    else:
        target.metadata.set_item(BACKGROUND, _LOST)


def drop_background(metadata):
    """Forget the background of a map whose metadata these are."""
    if metadata.has_item(BACKGROUND):
        del metadata.Elemental_map


def _drop_variance(metadata):
    if metadata.has_item(VARIANCE):
        del metadata.Signal.Noise_properties


def _check_signal(signal, role):
    if not _is_signal(signal):
        raise TypeError(
            f"{role} is of type {type(signal).__name__}: expected a HyperSpy signal, "
            "such as hs.signals.Signal2D(array)"
        )


def choose_haadf(signals, shape=None):
    """Pick the HAADF image among signals.

    Parameters
    ----------
    signals : list of BaseSignal
        For example all that :func:`hyperspy.api.load` found in a file.
    shape : tuple of int, optional
        Pixels ``(y, x)`` of the maps; only images of this shape fit.

    Returns
    -------
    BaseSignal
        The only one that fits by signal type or title (HAADF, ``DF-S``,
        ``annular_detector``, or the name of its file) and by shape.

    Raises
    ------
    ValueError
        If none or several fit; the message lists the candidates.
    """
    for i, signal in enumerate(signals):
        _check_signal(signal, f"image number {i}")
    images = [
        signal
        for signal in signals
        if signal.axes_manager.signal_dimension in (0, 2) and signal.data.ndim > 1
    ]
    named = [signal for signal in images if may_be_haadf(signal)]
    fitting = [s for s in named if shape is None or s.data.shape[-2:] == tuple(shape)]
    if len(fitting) == 1:
        return fitting[0]
    expected = "a HAADF image"
    if shape is not None:
        expected += f" of {shape[1]} x {shape[0]} pixels (x, y)"
    candidates = "; ".join(describe(signal) for signal in fitting or named or images)
    raise ValueError(
        f"{len(fitting) or 'none'} of the images can be taken for {expected}: name one "
        f"with haadf=. Candidates: {candidates or 'there are no images'}"
    )


def may_be_haadf(signal):
    """Whether signal type or title allow an image to be the HAADF image.

    Parameters
    ----------
    signal : BaseSignal
        Any signal.

    Returns
    -------
    bool
        True for the signal type HAADF, for the titles that :func:`choose_haadf`
        names, and for the name of the image's file unless that names an element.
    """
    if signal._signal_type == "HAADF":  # noqa: SLF001 - the metadata may hold an alias
        return True
    general = signal.metadata.General
    title = general.title.strip()
    filename = general.get_item("original_filename", "")
    if not title or _SEGMENT_TITLE.search(title):
        return False
    if _HAADF_TITLE.search(title):
        return True
    return title == Path(filename).stem and infer_element(signal) is None


def pair(
    maps, haadf, elements=None, *, allow_missing=False, carried=True, lazily=False
):
    """Bring maps and HAADF image together and check that they belong together.

    Parameters
    ----------
    maps : list of BaseSignal, or BaseSignal
        One signal per element, each an image or a series of images; or one signal
        whose last navigation axis runs over the elements (a stack); or a single map.
    haadf : BaseSignal, or list of BaseSignal
        The HAADF image or series; of a list, the one that :func:`choose_haadf` picks.
    elements : list of str, optional
        Symbols in the order of the maps; by default :func:`infer_element` reads them.
    allow_missing : bool
        Let NaN stand for missing pixels; else it is an error.
    carried : bool
        Read the background that the maps carry.
    lazily : bool
        Leave lazy signals lazy; their values are not checked then.

    Returns
    -------
    Measurement

    Raises
    ------
    TypeError, ValueError
        If something is missing, double, of another shape or scale, or not an image of
        finite real numbers.
    """
    images = split(maps)
    if not images:
        raise ValueError("there are no maps: expected one signal per element")
    names = _element_names(images, elements)
    backgrounds = [
        carried_background(image) if carried and _is_signal(image) else None
        for image in images
    ]
    variances = [image.get_noise_variance() for image in images if _is_signal(image)]
    images = [
        as_images(image, f"map of {e}") for e, image in zip(names, images, strict=True)
    ]
    first, first_name = images[0], f"map of {names[0]}"
    if isinstance(haadf, list | tuple):
        haadf = choose_haadf(haadf, first.data.shape[-2:])
    haadf = as_images(haadf, "HAADF image")
    for name, image in zip(names[1:], images[1:], strict=True):
        _check_same_pixels(first, first_name, image, f"map of {name}")
    _check_same_pixels(first, first_name, haadf, "HAADF image")

    variance = _stack_variances(variances, images)
    background = _stack_backgrounds(backgrounds, images)
    arrays = [_native(signal.data) for signal in (*images, haadf)]
    if not (lazily and is_lazy(*arrays)):
        arrays, variance, background = computed([arrays, variance, background])
        check_values(names, arrays, allow_missing=allow_missing)
    return Measurement(
        maps=stack(arrays[:-1], axis=-3),
        haadf=arrays[-1],
        elements=tuple(names),
        images=tuple(images),
        variance=variance,
        background=background,
    )


def check_values(elements, arrays, *, allow_missing):
    """Check that images hold finite numbers, not all the same.

    Parameters
    ----------
    elements : sequence of str
        Of the maps.
    arrays : sequence of numpy.ndarray
        The maps and the HAADF image, or series of them.
    allow_missing : bool
        As for :func:`pair`.

    Raises
    ------
    ValueError
        If they do not.
    """
    labels = [*(f"map of {name}" for name in elements), "HAADF image"]
    ranges = [
        _finite_range(label, array, allow_missing=allow_missing)
        for label, array in zip(labels, arrays, strict=True)
    ]
    _check_contrast(labels, ranges)


def split(maps):
    """List one signal per element of a list, a stack or a single map.

    Parameters
    ----------
    maps : list of BaseSignal, or BaseSignal
        As for :func:`pair`.

    Returns
    -------
    list of BaseSignal
        Of a stack that :func:`hyperspy.api.stack` did not make, without title and
        ``Sample``: what these say is not true of each element.

    Raises
    ------
    TypeError
        If something is no HyperSpy signal.
    """
    if isinstance(maps, list | tuple):
        for i, signal in enumerate(maps):
            _check_signal(signal, f"map number {i}")
        return list(maps)
    stack = as_images(maps, "stack of maps")
    if stack.axes_manager.navigation_dimension == 0:
        return [stack]
    size = stack.axes_manager.navigation_shape[-1]
    members = members_along(stack)
    if members:
        # Left to itself, HyperSpy splits the axis that now has the number which that
        # of the elements had.
        parts = stack.split(axis=-1 + 1j)
        for part, member in zip(parts, members, strict=True):
            part._metadata = member.metadata.deepcopy()  # noqa: SLF001
            part._original_metadata = member.original_metadata.deepcopy()  # noqa: SLF001
            if not stack.metadata.has_item(VARIANCE):  # as after arithmetic
                _drop_variance(part.metadata)
        return parts
    parts = [stack.inav[..., i] for i in range(size)]
    for part in parts:
        part.metadata.General.title = ""
        part.metadata.set_item("Sample.elements", [])
        part.metadata.set_item("Sample.xray_lines", [])
    return parts


def members_of(stack):
    """List what :func:`hyperspy.api.stack` keeps of the signals that it stacked.

    Parameters
    ----------
    stack : BaseSignal
        Any signal.

    Returns
    -------
    list of DictionaryTreeBrowser
        With the ``metadata`` and ``original_metadata`` of each signal, in their order,
        as ``.split()`` gives them back; empty if the signal is no such stack.
    """
    members = stack.original_metadata.get_item("stack_elements", {})
    return [members[f"element{i}"] for i in range(len(members))]


def members_along(stack):
    """List the members of a stack in the order of its last navigation axis.

    Parameters
    ----------
    stack : BaseSignal
        Any signal with a navigation axis.

    Returns
    -------
    list of DictionaryTreeBrowser
        As of :func:`members_of`, one for each place; empty if that is not known.
    """
    members = members_of(stack)
    axis = stack.axes_manager.navigation_axes[-1]
    # The axis that HyperSpy makes counts the members, also when it is sliced.
    places = np.rint(axis.axis).astype(int)
    if np.array_equal(places, axis.axis) and set(places) <= set(range(len(members))):
        return [members[i] for i in places]
    return members if len(members) == axis.size else []


def _element_names(images, elements):
    if elements is None:
        names = [infer_element(image) for image in images]
        unknown = [i for i, name in enumerate(names) if name is None]
        if unknown:
            listed = ", ".join(f"{i}: {describe(images[i])}" for i in unknown)
            raise ValueError(
                f"nothing says which element these of the maps show: {listed}. Name "
                "the elements of all maps, in their order, with elements=['Fe', ...], "
                "or set metadata.Sample.elements of each"
            )
    else:
        names = [elements] if isinstance(elements, str) else list(elements)
        if len(names) != len(images):
            raise ValueError(
                f"elements names {len(names)} elements and there are {len(images)} "
                "maps: expected one name per map, in their order"
            )
    for name in names:
        atomic_number(name)
    for i, name in enumerate(names):
        first = names.index(name)
        if first != i:
            raise ValueError(
                f"{name} is mapped twice, by {describe(images[first])} (number "
                f"{first}) and {describe(images[i])} (number {i}): leave one out, or "
                "name the maps with elements= if one shows another element"
            )
    return names


def _is_calibrated(axis):
    # HyperSpy leaves units undefined or empty; some files write pixels as units.
    return isinstance(axis.units, str) and axis.units not in ("", "px", "pixels")


def _check_same_pixels(one, one_name, other, other_name):
    """Raise or warn if a map and another image cannot show the same pixels."""
    one_shape, other_shape = one.data.shape, other.data.shape
    if one_shape[-2:] != other_shape[-2:]:
        raise ValueError(
            f"the {one_name} has {one_shape[-2]} x {one_shape[-1]} pixels and the "
            f"{other_name} {other_shape[-2]} x {other_shape[-1]} (y, x): rebin or crop "
            "one of them so that both cover the same pixels"
        )
    if one_shape[:-2] != other_shape[:-2]:
        raise ValueError(
            _other_positions(one_name, one_shape[:-2], other_name, other_shape[:-2])
        )
    for a, b in zip(
        one.axes_manager.signal_axes, other.axes_manager.signal_axes, strict=True
    ):
        if _is_calibrated(a) != _is_calibrated(b):
            bare = one_name if _is_calibrated(b) else other_name
            warnings.warn(
                f"the {bare} is not calibrated along {a.name}: its pixels are taken "
                f"for those of the {other_name if bare == one_name else one_name}; set "
                "scale and units of its axes if they are known",
                UserWarning,
                stacklevel=4,
            )
            return
        if not _is_calibrated(a):
            continue
        a, b = _in_common_units(a, b, one_name, other_name)  # noqa: PLW2901
        if abs(a.scale - b.scale) > _SCALE_TOLERANCE * abs(a.scale):
            raise ValueError(
                f"the {one_name} has pixels of {a.scale:.5g} {a.units} along {a.name} "
                f"and the {other_name} of {b.scale:.5g} {b.units}: rebin or crop one "
                "of them so that both cover the same field"
            )
        # RosettaSciIO gives Velox images the origin 0, whatever their maps have.
        known = a.offset != 0 and b.offset != 0
        if known and abs(a.offset - b.offset) > abs(a.scale) / 2:
            warnings.warn(
                f"the {one_name} starts at {a.offset:.5g} {a.units} along {a.name} and "
                f"the {other_name} at {b.offset:.5g} {b.units}: they are taken to show "
                "the same pixels; crop them to one field if they do not",
                UserWarning,
                stacklevel=4,
            )


def _other_positions(one_name, one_shape, other_name, other_shape):
    """Say what to do if the navigation shapes of a map and another image differ."""
    found = " and ".join(
        f"the {name} is {f'a series of shape {shape}' if shape else 'a single image'}"
        for name, shape in ((one_name, one_shape), (other_name, other_shape))
    )
    of_haadf = other_name == "HAADF image"
    # Valid also where the image axes are navigation axes, which come first.
    first = f".inav[{', '.join(['...', *'0' * len(one_shape or other_shape)])}]"
    if one_shape and other_shape:
        remedy = "crop the series to the same positions with .inav"
    elif other_shape and of_haadf:
        remedy = (
            "average the images of all the time that the maps took, with haadf.mean(), "
            f"or take the one of the maps, such as haadf{first}"
        )
    elif of_haadf:
        repeated = "haadf"
        for n in reversed(one_shape):
            repeated = f"hs.stack([{repeated}] * {n})"
        remedy = (
            f"if it holds for all of them, repeat it with {repeated}, or take one "
            f"position of each map, such as one_map{first}"
        )
    else:
        remedy = f"take one position of the series, such as one_map{first}"
    return f"{found}: expected the same positions of both; {remedy}"


def _in_common_units(a, b, a_name, b_name):
    """Two calibrated axes in the units of the first, copies if that changes them."""
    if a.units == b.units:
        return a, b
    a, b = a.copy(), b.copy()
    found = b.units
    with warnings.catch_warnings(), suppress(pint.DimensionalityError):
        warnings.simplefilter("ignore")  # HyperSpy's, of units it does not know
        for axis in (b, a):  # also the first, whose units may be spelt otherwise
            axis.convert_to_units(a.units)
    if a.units != b.units:
        raise ValueError(
            f"the {a_name} has pixels in {a.units!r} and the {b_name} in {found!r}: "
            "expected units that can be converted into each other"
        )
    return a, b


def _is_signal(candidate):
    return isinstance(candidate, hs.signals.BaseSignal)


def _stack_variances(variances, images):
    """Noise variances as an array that broadcasts against the maps, or None."""
    if any(variance is None for variance in variances):
        return None
    arrays = [
        as_images(variance, "noise variance").data
        if _is_signal(variance)
        else np.asarray(variance, dtype=np.float64)
        for variance in variances
    ]
    shape = images[0].data.shape
    try:
        arrays = [np.broadcast_to(array, shape) for array in arrays]
    except ValueError as error:  # a slice of a stack does not reach its maps
        found = " or ".join(map(str, dict.fromkeys(array.shape for array in arrays)))
        raise ValueError(
            f"the noise variance of a map has the shape {found} and the map {shape}: "
            "slice the maps before they are stacked, or clear the variance with "
            "map.set_noise_variance(None)"
        ) from error
    return stack(arrays, axis=-3)


def _stack_backgrounds(backgrounds, images):
    """Backgrounds as an array of the shape of the maps, or None."""
    if all(background is None for background in backgrounds):
        return None
    arrays = [
        np.zeros(image.data.shape)
        if background is None
        else as_images(background, "background").data
        for background, image in zip(backgrounds, images, strict=True)
    ]
    return stack(arrays, axis=-3)


def _native(array):
    """An array in the byte order of the machine, lazy if it is."""
    kind = "u1" if array.dtype == bool else array.dtype.newbyteorder("=")
    return array.astype(kind, copy=False)


def _finite_range(label, array, *, allow_missing):
    """Least and largest value of an array; an error if a value is not finite."""
    limits = array.min(), array.max()  # NaN if any pixel is
    if np.all(np.isfinite(limits)):
        return limits
    missing = np.isnan(array)
    if allow_missing and missing.all(axis=(-2, -1)).any():
        raise ValueError(
            f"the {label} has nothing but missing pixels: leave its element out, or "
            "that position of the series"
        )
    bad = np.count_nonzero(np.isinf(array) if allow_missing else ~np.isfinite(array))
    if bad:
        raise ValueError(
            f"the {label} has {bad} pixels that are "
            f"{'infinite' if allow_missing else 'NaN or infinite'}: expected finite "
            "values; fill them, for example with np.nan_to_num(signal.data), or crop "
            "them away with .isig"
        )
    return np.nanmin(array), np.nanmax(array)


def _check_contrast(labels, ranges):
    *maps, (low, high) = ranges
    if low == high:
        raise ValueError(
            f"the HAADF image holds the value {high} only: it says nothing about the "
            "specimen, choose another image with haadf="
        )
    flat = [
        f"{label} ({high} everywhere)"
        for label, (low, high) in zip(labels[:-1], maps, strict=True)
        if low == high
    ]
    if len(flat) == len(maps):
        raise ValueError(
            f"no map has any contrast: {', '.join(flat)}. Expected at least one that "
            "shows its element; in a file with several sets of maps choose another set"
        )
    if flat:
        warnings.warn(
            f"without any contrast: {', '.join(flat)}. Such a map comes back as it "
            "was; leave it out of the fusion if its element is not in the specimen",
            UserWarning,
            stacklevel=5,
        )
