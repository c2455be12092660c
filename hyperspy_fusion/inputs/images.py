"""Signals as images: their axes, and whether two of them show the same pixels."""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hyperspy.signals import BaseSignal, Signal2D

from ..execution.arrays import is_lazy, unmasked
from .elements import entry_of, infer_element, title_of
from .matching import hint, in_common_units, is_calibrated

# Largest relative difference of two pixel sizes that belong to one scan.
_SCALE_TOLERANCE = 0.01
# Largest ratio of two pixel sizes that may be those of one scan, one of them wrong.
_MISCALIBRATED = 1.5
_HAADF_TITLE = re.compile(r"haadf|^DF-S$|annular_detector", re.IGNORECASE)

# Velox names the segments of its detectors DF4-A to DF4-D.
_SEGMENT_TITLE = re.compile(r"-[A-D]$")

# Nodes of the metadata that HyperSpy and eXSpy take for such.
_NODES = (
    "General",
    "Sample",
    "Signal",
    "_HyperSpy",
    "Acquisition_instrument",
    *(
        f"Acquisition_instrument.{mode}{node}"
        for mode in ("SEM", "TEM")
        for node in ("", ".Stage", ".Detector", ".Detector.EDS")
    ),
)


def new_signal(
    source: BaseSignal,
    data: Any,
    *,
    axes: list[dict] | None = None,
    metadata: Any = None,
    original_metadata: Any = None,
    signal_type: str = "",
) -> BaseSignal:
    """Make a signal from an array, with axes and metadata of another signal.

    HyperSpy's own methods remove the data of the other signal for a moment, so that
    other threads find it empty. `source` is not modified; its noise properties are left
    out. `axes` are in the order of the array. The result is lazy if the array is.
    """
    if axes is None:
        axes = axes_of(source)
    nodes = (source.metadata if metadata is None else metadata).as_dictionary()
    for *place, name in (node.split(".") for node in _NODES):
        parent = nodes
        for node in place:  # those above are nodes, or gone
            parent = parent.get(node, {})
        if not isinstance(parent.get(name, {}), dict):
            del parent[name]
    nodes.get("Signal", {}).pop("Noise_properties", None)
    nodes.get("_HyperSpy", {}).pop("navigator", None)
    if original_metadata is None:
        original_metadata = source.original_metadata
    originals = original_metadata.as_dictionary()
    signal = BaseSignal(
        data,
        axes=copy.deepcopy(axes),
        metadata=copy.deepcopy(nodes),
        original_metadata=copy.deepcopy(originals),
        attributes={"_lazy": is_lazy(data)},
    )
    signal.tmp_parameters.add_dictionary(source.tmp_parameters.as_dictionary())
    signal.set_signal_type(signal_type)
    return signal


def with_data(signal: BaseSignal, data: Any, axes: list[dict] | None = None) -> Any:
    """A signal of other data, with the axes, the metadata and the class of one."""
    kind = signal._signal_type  # noqa: SLF001 - the metadata may hold anything
    return new_signal(signal, data, axes=axes, signal_type=kind)


def axes_of(signal: BaseSignal) -> list[dict]:
    """Axes of a signal in the order of its array, as dictionaries."""
    return list(signal.axes_manager.as_dictionary().values())


def describe(signal: BaseSignal) -> str:
    """Describe a signal in a line: ``'Fe' (20 x 16, 158.7 nm/px, series of 12)``."""
    image = signal.axes_manager.signal_axes
    axes = image if len(image) > 1 else signal.axes_manager.navigation_axes[:2] or image
    size = " x ".join(str(axis.size) for axis in axes)
    pixel = "uncalibrated"
    if axes and axes[0].is_uniform and is_calibrated(axes[0]):
        pixel = f"{axes[0].scale:.4g} {axes[0].units}/px"
    series = " x ".join(map(str, series_shape(signal)))
    if series:
        pixel += f", series of {series}"
    return f"{title_of(signal)!r} ({size}, {pixel})"


def series_shape(signal: BaseSignal) -> tuple[int, ...]:
    """Sizes of the navigation axes beyond those of the image, in HyperSpy's order."""
    manager = signal.axes_manager
    on_navigation = manager.signal_dimension < 2
    return manager.navigation_shape[2 if on_navigation else 0 :]


def as_images(signal: BaseSignal, role: str) -> Signal2D:
    """View a signal as an image or a series of images.

    Parameters
    ----------
    signal : BaseSignal
        Signal2D, or a signal with the image on its navigation axes, as eXSpy's
        ``get_lines_intensity`` makes it: the first two are then the image, others the
        series.
    role : str
        Role of the signal, for the errors.

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
    check_signal(signal, role)
    name = f"{role} {title_of(signal)!r}"
    check_real(signal, name)
    manager = signal.axes_manager
    if manager.signal_dimension == 0 and manager.navigation_dimension > 1:
        # as signal.transpose(signal_axes=(0, 1)), which leaves the array as it is
        variance = signal.get_noise_variance()
        axes = axes_of(signal)
        for axis in axes[-2:]:
            axis["navigate"] = False
        signal = new_signal(signal, signal.data, axes=axes)
        if isinstance(variance, BaseSignal):
            variance = as_images(variance, "noise variance")
        if variance is not None:
            signal.set_noise_variance(variance)
    elif manager.signal_dimension != 2:
        raise ValueError(
            f"{name} has {manager.navigation_dimension} navigation and "
            f"{manager.signal_dimension} signal axes: expected an image. Spectra are "
            "turned into maps by get_lines_intensity (EDS), by integrating an edge "
            "(EELS), or by hyperspy_fusion.load_multimodal; X-ray spectra are fused "
            "as they are by hyperspy_fusion.fuse_spectra"
        )
    for axis in signal.axes_manager.signal_axes:
        if not axis.is_uniform:
            raise ValueError(
                f"{name} has the non-uniform axis {axis.name!r}: expected pixels of "
                "equal size, resample it with signal.interpolate_on_axis"
            )
    if not signal.data.size:
        raise ValueError(
            f"{name} has the shape {signal.data.shape}: expected one pixel at least"
        )
    return _without_impossible_axes(signal)


def _without_impossible_axes(signal: Signal2D) -> Signal2D:
    """An image whose axes have no calibration where it cannot be one."""
    axes = axes_of(signal)
    for axis in axes[-2:]:
        numbers = axis["scale"], axis["offset"]
        if not (axis["scale"] and np.isfinite(numbers).all()):
            axis |= {"scale": 1.0, "offset": 0.0, "units": ""}
    known = axes == axes_of(signal)
    return signal if known else new_signal(signal, signal.data, axes=axes)


def check_real(signal: BaseSignal, name: str) -> None:
    """Raise a TypeError if the data of a signal are no real numbers."""
    kind = signal.data.dtype
    if signal.ragged:
        raise TypeError(
            f"{name} is ragged: expected an image, of the same shape everywhere"
        )
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


def check_signal(signal: Any, role: str) -> None:
    """Raise a TypeError if an object is no HyperSpy signal."""
    if isinstance(signal, BaseSignal):
        return
    found = f"{role} is of type {type(signal).__name__}"
    remedy = "expected a HyperSpy signal, such as hs.signals.Signal2D(array)"
    if isinstance(signal, str | Path):
        found = f"{role} is the path {str(signal)!r}"
        remedy = (
            "expected a HyperSpy signal. hyperspy_fusion.load_multimodal finds maps "
            "and HAADF image in files, call fuse_multimodal(*load_multimodal(path))"
        )
    elif signal is None and role == "HAADF image":
        found = "there is no HAADF image"
        remedy = (
            "expected a HyperSpy signal, the image that was recorded together with the "
            "maps; hyperspy_fusion.load_multimodal finds it in the file of the maps"
        )
    elif signal is not None:
        remedy += "; maps may have names, as in {'Fe': hs.signals.Signal2D(array)}"
    raise TypeError(f"{found}: {remedy}")


def choose_haadf(
    signals: Sequence[BaseSignal], shape: tuple[int, ...] | None = None
) -> BaseSignal:
    """Pick the HAADF image among signals.

    The only one that fits by signal type or title (HAADF, ``DF-S``,
    ``annular_detector``, or the name of its file) and, if `shape` is given, has these
    pixels ``(y, x)``. A ValueError lists the candidates if none or several fit.
    """
    for i, signal in enumerate(signals):
        check_signal(signal, f"image number {i}")
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


def haadf_of(
    haadf: BaseSignal | Sequence[BaseSignal], shape: tuple[int, ...] | None = None
) -> Signal2D:
    """The HAADF image, or of a list that which :func:`choose_haadf` picks."""
    if isinstance(haadf, list | tuple):
        haadf = choose_haadf(haadf, shape)
    return as_images(haadf, "HAADF image")


def may_be_haadf(signal: BaseSignal) -> bool:
    """Whether signal type or title allow an image to be the HAADF image.

    The titles are those of :func:`choose_haadf`, but not the name of a file that names
    an element.
    """
    if signal._signal_type == "HAADF":  # noqa: SLF001 - the metadata may hold an alias
        return True
    title = title_of(signal)
    filename = str(entry_of(signal, "General", "original_filename"))
    if not title or _SEGMENT_TITLE.search(title):
        return False
    if _HAADF_TITLE.search(title):
        return True
    return title == Path(filename).stem and infer_element(signal) is None


def check_same_pixels(
    one: Signal2D, one_name: str, other: Signal2D, other_name: str
) -> list[str]:
    """Raise a ValueError if two images cannot show the same pixels.

    They must agree in shape, positions and size of a pixel. The names are for messages.
    Returns the warnings.
    """
    found: list[str] = []
    bare_known = False
    one_shape, other_shape = one.data.shape, other.data.shape
    remedy = hint(one, other) if other_name == "HAADF image" else ""
    advice = ""
    if one_shape[-2:] != other_shape[-2:]:
        raise ValueError(
            f"the {one_name} has {one_shape[-2]} x {one_shape[-1]} pixels and the "
            f"{other_name} {other_shape[-2]} x {other_shape[-1]} (y, x): rebin or crop "
            f"one of them so that both cover the same pixels{remedy}"
        )
    if one_shape[:-2] != other_shape[:-2]:
        raise ValueError(
            _other_positions(one_name, one_shape[:-2], other_name, other_shape[:-2])
        )
    for a, b in zip(
        one.axes_manager.signal_axes, other.axes_manager.signal_axes, strict=True
    ):
        if is_calibrated(a) != is_calibrated(b):
            if bare_known:  # of both axes once
                continue
            bare_known = True
            pair = [(a, one_name), (b, other_name)]
            (axis, its), (_, bare) = pair if is_calibrated(a) else reversed(pair)
            found.append(
                f"the {bare} is not calibrated along {a.name}: its pixels are taken "
                f"for those of the {its}, of {axis.scale:.4g} {axis.units}; set scale "
                "and units of its axes if they are known to be others"
            )
            continue
        if not is_calibrated(a):
            continue
        a, b = in_common_units(a, b, one_name, other_name)  # noqa: PLW2901
        if abs(a.scale - b.scale) > _SCALE_TOLERANCE * abs(a.scale):
            if other_name == "HAADF image":
                advice = _advice_on_scale(abs(b.scale / a.scale))
            raise ValueError(
                f"the {one_name} has pixels of {a.scale:.5g} {a.units} along {a.name} "
                f"and the {other_name} of {b.scale:.5g} {b.units}: {advice}rebin or "
                f"crop one of them so that both cover the same field{remedy}"
            )
        # RosettaSciIO gives Velox images the origin 0, whatever their maps have.
        known = a.offset != 0 and b.offset != 0
        if known and abs(a.offset - b.offset) > abs(a.scale) / 2:
            found.append(
                f"the {one_name} starts at {a.offset:.5g} {a.units} along {a.name} and "
                f"the {other_name} at {b.offset:.5g} {b.units}: they are taken to show "
                f"the same pixels; crop them to one field if they do not{remedy}"
            )
    return found


def _advice_on_scale(ratio: float) -> str:
    """Advice on a HAADF image of as many pixels as the maps, but of another size."""
    if 1 / _MISCALIBRATED < ratio < _MISCALIBRATED:
        return (
            "if they are of one scan, as their equal number of pixels suggests, call "
            'with match="pixels", which takes the calibration of the maps; else '
        )
    return (
        "if the image is a survey image, choose the one that was recorded together "
        "with the maps; else "
    )


def _other_positions(
    one_name: str,
    one_shape: tuple[int, ...],
    other_name: str,
    other_shape: tuple[int, ...],
) -> str:
    """Message for a map and another image with different navigation shapes."""
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


def native(array: Any) -> Any:
    """An array in the byte order of the machine; masked pixels become NaN."""
    array = unmasked(array)
    kind = "u1" if array.dtype == bool else array.dtype.newbyteorder("=")
    return array.astype(kind, copy=False)
