"""What can be asked of fused maps: model, misfit, fractions, costs, a summary."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import hyperspy.api as hs
import numpy as np
from hyperspy.misc.utils import DictionaryTreeBrowser
from hyperspy.signals import BaseSignal, Signal1D, Signal2D

from .core.calibrated.again import (
    groups_again,
    groups_of_spectra_again,
    local_z_again,
)
from .core.calibrated.given import Pixels
from .core.calibrated.groups import Groups
from .core.calibrated.spectra import Spectra
from .core.common.spans import region_of
from .execution.arrays import computed
from .execution.tiles import cut
from .inputs.elements import entry_of, infer_element, name_element, title_of
from .inputs.further import Elastic
from .inputs.images import new_signal, with_data
from .inputs.measurement import Background, Image, Maps, Mask, Measurement, measure
from .inputs.microscope import mend_numbers
from .inputs.stacks import remove, split
from .provenance import check_as_fused, check_same, checksums, pixels, sums_of
from .results import TERMS, pending

if TYPE_CHECKING:
    from .signals import ElementalMap, HAADFImage

# What the record holds of the HAADF image, and of further images.
_FIT = {
    "shift": "elastic_shift",
    "haadf_coefficients": "elastic_coefficients",
    "haadf_offset": "elastic_offset",
    "haadf_model_error": "elastic_model_error",
    "haadf_slow": "elastic_slow",
}
# Sum of the amounts below which there are no fractions, over that quantile of it.
_LEAST_AMOUNT, _MOST = 0.05, 0.99


def record_of(fused: BaseSignal) -> DictionaryTreeBrowser:
    """The record ``metadata.Multimodal_fusion``; a ValueError if there is none."""
    if not isinstance(fused, BaseSignal):
        raise TypeError(
            f"one of the fused maps is of type {type(fused).__name__}: expected a map "
            "that a fusion returned, as fuse_multimodal, or a list of them"
        )
    record = entry_of(fused, "Multimodal_fusion")
    if not isinstance(record, DictionaryTreeBrowser):
        raise ValueError(  # noqa: TRY004 - of the metadata, not of an argument
            f"{fused!r} has no metadata.Multimodal_fusion: expected a map that "
            "a fusion returned, as fuse_multimodal"
        )
    return record


def complete_record(fused: BaseSignal) -> dict[str, Any]:
    """The record; of lazy maps that are not computed yet what it will be."""
    record = record_of(fused)
    later = record.get_item("pending")
    if later is None:
        return record.as_dictionary()
    (found,) = computed([later.found])
    complete, *_ = found.item()
    return complete


def measured_as(
    record: DictionaryTreeBrowser,
    maps: Maps,
    haadf: Image,
    background: Background,
    mask: Mask,
    elastic: Elastic = None,
) -> Measurement:
    """What was fused, with the elements and the matching that are in the record.

    Of spectra, the windows of their lines. Quietly: the fusion gave the same warnings.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if of_spectra(record) and is_spectrum_image(maps):
            maps = windows_of(maps, record.lines.split(","))
        return measure(
            maps,
            haadf,
            background,
            elements=record.elements.split(","),
            mask=mask,
            match=record.get_item("match"),
            elastic=elastic,
        )


def of_spectra(record: DictionaryTreeBrowser) -> bool:
    """Whether maps were fused from spectra."""
    return record.get_item("kind") == "spectra"


def is_spectrum_image(signal: Any) -> bool:
    """Whether a signal holds X-ray spectra of a field of view, or of a series."""
    if not hasattr(signal, "get_lines_intensity"):  # of eXSpy
        return False
    manager = signal.axes_manager
    return manager.signal_dimension == 1 and manager.navigation_dimension > 1


def windows_of(spectra: Any, lines: Sequence[str]) -> list[BaseSignal]:
    """Sums of the counts in a window around each line, as eXSpy chooses it."""
    spectra = with_data(spectra, spectra.data)  # eXSpy slices it
    mend_numbers(spectra)
    return spectra.get_lines_intensity(xray_lines=lines)


def net_maps(measurement: Measurement, record: DictionaryTreeBrowser) -> Any:
    """Measured maps without the background that was given, or found in the vacuum.

    In the units of the maps, shape ``navigation + (n_elements, y, x)``.
    """
    below = measurement.background
    if below is None:
        below = np.asarray(record.get_item("vacuum_background", [0.0]), dtype=float)
        below = below[..., np.newaxis, np.newaxis]
    return measurement.maps - below


def first_of(fused: Any) -> Any:
    """One of the maps of a fusion, which share their record."""
    if not isinstance(fused, list | tuple):
        return fused
    if not fused:
        raise ValueError("fused is an empty list: expected the maps of one fusion")
    return fused[0]


def summarize(fused: Sequence[ElementalMap] | ElementalMap) -> str:
    """Tell in sentences what a fusion did.

    What the maps were taken for, whether the HAADF image was used and what it gained,
    what was assumed and left out, whether it converged, all warnings, and what to do
    about them.

    Parameters
    ----------
    fused : list of ElementalMap, or ElementalMap
        The maps of one fusion, one of them, or a stack: they share their record. Of a
        series, sentences hold for all images where they do not say for how many.

    Returns
    -------
    str
        One sentence or warning a line; ``summary`` of the record.

    Raises
    ------
    ValueError
        If the map does not come from a fusion, or from one of an earlier version.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf, background=0.02)
    >>> for line in hyperspy_fusion.summarize(fused).splitlines()[:2]:
    ...     print(line)
    The maps of Co, Mn, O were fused by the calibrated method.
    The maps were taken for counts.
    """
    record = record_of(first_of(fused))
    if not record.has_item("summary"):
        raise ValueError(
            f"the record was made by version {record.version}, which wrote no summary: "
            "fuse the maps again, or read the entries of metadata.Multimodal_fusion"
        )
    return record.summary


def maps_of_fusion(fused: Sequence[BaseSignal] | BaseSignal) -> list[BaseSignal]:
    """List the maps of a fusion, given as a list or as a stack of them."""
    maps = split(fused)
    if not maps:
        raise ValueError("fused is an empty list: expected the maps of one fusion")
    if not isinstance(fused, BaseSignal):
        return maps
    elements = record_of(fused).elements.split(",")
    taken_apart = fused.axes_manager.navigation_dimension > 0  # else it is the user's
    if taken_apart and len(maps) == len(elements):
        for signal, element in zip(maps, elements, strict=True):
            name_element(signal, element)
    return maps


def all_maps_of_fusion(
    fused: Sequence[BaseSignal] | BaseSignal,
) -> list[BaseSignal]:
    """As :func:`maps_of_fusion`; a ValueError if these are not all maps of it."""
    fused = maps_of_fusion(fused)
    records = [record_of(signal) for signal in fused]
    found = [infer_element(signal) for signal in fused]
    expected = records[0].elements.split(",")
    if found != expected:
        raise ValueError(
            f"there are fused maps of {', '.join(map(str, found))}: expected all maps "
            f"of one fusion in their order, {', '.join(expected)}"
        )
    for name in ("checksums", "call"):
        if len({record.get_item(name) for record in records}) > 1:
            raise ValueError(
                f"the fused maps of {', '.join(expected)} are of several fusions, of "
                "other data or options: expected those of one"
            )
    return fused


def cost_history(fused: BaseSignal) -> Signal1D:
    """See :meth:`hyperspy_fusion.ElementalMap.get_cost_history`."""
    record = record_of(fused)
    # After a lazy load the arrays in the metadata are dask arrays.
    terms = [np.asarray(record.cost[term]) for term in TERMS]
    signal = hs.signals.Signal1D(np.stack(terms, axis=-2))
    signal.metadata.General.title = "Cost of the fusion"
    iteration = signal.axes_manager.signal_axes[0]
    iteration.name, iteration.offset = "iteration", 1
    known = np.asarray(record.cost_iterations)
    if not np.array_equal(known, iteration.axis):
        iteration.convert_to_non_uniform_axis()
        iteration.axis = known
    signal.axes_manager.navigation_axes[0].name = "term"
    signal.metadata.set_item("Multimodal_fusion.terms", ",".join(TERMS))
    return signal


def get_misfit(
    maps: Maps,
    fused: Sequence[ElementalMap] | ElementalMap,
    haadf: Image,
    background: Background = None,
    *,
    standardised: bool = False,
    mask: Mask = None,
    image: str | None = None,
) -> Signal2D:
    """Misfit of an elastic image and its model, or of the image and the measured maps.

    Parameters
    ----------
    maps : list of BaseSignal, or BaseSignal
        The measured maps, as they were fused; the spectra of :func:`fuse_spectra`.
    fused : list of ElementalMap
        All maps that the fusion returned, in their order.
    haadf : BaseSignal
        The HAADF image that was fused, or the one that `image` names.
    background : optional
        As it was given to :func:`fuse_multimodal`; only for `standardised`.
    standardised : bool, default False
        False: the image minus :func:`get_haadf_model`, in its units. True: the local
        misfit z of image and measured maps, in standard deviations, by which the guard
        of the calibrated method judges; see
        :func:`hyperspy_fusion.core.calibrated.guard.local_z`.
    mask : optional
        As it was given to :func:`fuse_multimodal`; only for `standardised`.
    image : str, optional
        Name of one of the further images that were given as `elastic`, which is then
        passed as `haadf`; by default the HAADF image.

    Returns
    -------
    Signal2D
        Shape ``navigation + (y, x)``, on the axes of the first map. An image that the
        fusion moved back is not moved here, but for `standardised`.

    Raises
    ------
    ValueError
        If the signals do not belong together, or `standardised` is asked of the
        published method, of spectra or of maps of fractions, or without the background
        or the mask of the fusion.
    """
    model = get_haadf_model(fused, image)
    fused = maps_of_fusion(fused)
    record = record_of(fused[0])
    measurement = measured_as(record, maps, haadf, background, mask)
    if measurement.haadf.shape != model.data.shape:
        raise ValueError(
            f"the fused maps have the shape {model.data.shape} and the measured ones "
            f"{measurement.haadf.shape}: expected those that were fused, of the same "
            "positions and pixels"
        )
    name = title_of(haadf) if isinstance(haadf, BaseSignal) else ""
    if image is None and name in record.get_item("elastic", "").split("\n") and name:
        raise ValueError(
            f"haadf is {name}, a further image of the fusion: pass image={name!r}, too"
        )
    found = new_signal(model, measurement.haadf - model.data)
    found.metadata.General.title = "Misfit"
    if not standardised:
        return found
    if record.method != "calibrated":
        raise ValueError(
            "the local misfit is defined for the calibrated method only: expected maps "
            "that fuse_multimodal returned"
        )
    if of_spectra(record):
        raise ValueError(
            "the local misfit is not defined for windows, which hold other lines and "
            "the continuum: expected maps that were fused by fuse_multimodal. The "
            "largest local difference to the spectra is in summarize(fused)"
        )
    if "fraction_sum" in complete_record(fused[0]):
        raise ValueError(
            "the local misfit is not defined for fractions, whose sum is that of the "
            "image: expected maps that were fused from counts"
        )
    _check_as_fused(fused, measurement)
    found.data[:] = _local_misfit(measurement, fused, image)
    found.metadata.General.title = "Local misfit in standard deviations"
    return found


def flagged_pixels(fused: Sequence[BaseSignal]) -> np.ndarray:
    """Pixels where the HAADF image was not used since it contradicts the maps.

    Shape ``navigation + (y, x)``, bool; False if it is not known where they are, as of
    maps that were transposed.
    """
    shape = fused[0].data.shape
    spans = record_of(fused[0]).get_item("flagged_spans")
    if spans is None:
        spans = complete_record(fused[0]).get("flagged_spans", np.nan)
    spans = np.asarray(spans)
    flagged = np.zeros(shape, dtype=bool)
    if np.isfinite(spans).any():
        for position in np.ndindex(shape[:-2]):
            flagged[position] = region_of(spans[position], shape[-2:])
    return flagged


def _local_misfit(
    measurement: Measurement, fused: Sequence[BaseSignal], elastic: str | None
) -> np.ndarray:
    """Local misfit of the images of a finished fusion, one after the other."""
    record = record_of(fused[0])
    maps, haadf = computed([measurement.maps, measurement.haadf])
    results = np.stack(computed([signal.data for signal in fused]), axis=-3)
    wanted = "vacuum_background", "haadf_row_noise", *_FIT
    nothing = np.zeros(measurement.navigation_shape)  # in earlier records
    numbers = {name: np.asarray(record.get_item(name, nothing)) for name in wanted}
    if elastic is not None:
        k = _number_of(elastic, record)
        numbers["haadf_row_noise"] = nothing  # which HAADF only is corrected for
        for name, of_image in _FIT.items():
            values = np.asarray(record[of_image])
            numbers[name] = values.take(k, axis=len(measurement.navigation_shape))
    found = np.empty(haadf.shape, dtype=np.float32)
    for position in np.ndindex(measurement.navigation_shape):
        own = {name: values[position] for name, values in numbers.items()}
        sign = -1 if np.any(own["haadf_coefficients"] < 0) else 1
        for name in ("haadf_coefficients", "haadf_offset"):
            own[name] = sign * own[name]  # an inverted image is turned over
        image = Pixels(
            maps=maps[position],
            haadf=sign * haadf[position],
            background=cut(measurement.background, position),
            variance=cut(measurement.variance, position),
        )
        found[position] = sign * local_z_again(image, results[position], own)
    return found


def groups_at(
    measurement: Measurement,
    fused: Sequence[ElementalMap],
    position: tuple[int, ...],
    spectra: Spectra | None = None,
) -> Groups:
    """The groups of a fusion with shared counts, at a position of a series.

    From the `spectra` there, if these were fused. Raises a ValueError if there are
    none.
    """
    record = complete_record(fused[0])
    _check_whole(record, measurement.navigation_shape)
    _check_as_fused(fused, measurement)
    if not np.asarray(record.get("sharing", 0.0))[position]:
        asked = "sharing was not accepted" if record.get("share") else "share is False"
        raise ValueError(
            f"no pixels share their counts, since {asked}: expected maps that "
            "fuse_multimodal(..., share=True) returned, with sharing accepted there"
        )
    if spectra is None and record["kind"] == "spectra":
        raise ValueError(
            "the maps were fused from spectra, by all counts of which their groups are "
            "found: expected the spectra in the place of the measured maps"
        )
    n_tiles = int(np.asarray(record["sharing_tiles"])[position])
    if n_tiles > 1:
        raise ValueError(
            f"the image was solved in {n_tiles} tiles, each with groups of its own: "
            "expected an image that was solved in one piece, as a part of this one"
        )
    further = record.get("lambda_elastic")
    if further is not None and np.any(np.asarray(further)[position] > 0):
        raise ValueError(
            "the fusion used further elastic images, on which its groups depend: "
            "expected maps that were fused with the HAADF image alone"
        )
    known, found = sums_of(record), checksums(pixels(measurement))
    check_same(  # of spectra the images
        {name: value for name, value in known.items() if name in found},
        {name: value for name, value in found.items() if name in known},
    )
    first = np.stack(computed([m.get_unshared().data for m in fused]), axis=-3)
    maps, haadf = computed([measurement.maps, measurement.haadf])
    flagged = flagged_pixels(fused)
    numbers = {
        name: np.asarray(value)[position] if np.ndim(value) else value
        for name, value in record.items()
        if name not in ("cost", "atomic_numbers")
    }
    own = first[position], numbers, ~flagged[position]
    if spectra is not None:
        return groups_of_spectra_again(haadf[position], spectra, *own)
    image = Pixels(
        maps=maps[position],
        haadf=haadf[position],
        background=cut(measurement.background, position),
        variance=cut(measurement.variance, position),
    )
    return groups_again(image, *own)


def get_haadf_model(
    fused: Sequence[ElementalMap] | ElementalMap, image: str | None = None
) -> HAADFImage | Signal2D:
    r"""HAADF image, or another elastic image, that the fused maps predict.

    Of the calibrated method it is :math:`o + \sum_i c_i x_i`, of the published one
    :math:`a + s \sum_i w_i \hat x_i^γ`, with the maps
    :math:`\hat x_i` and the image scaled to [0, 1] as in the fusion, and offset a and
    range s of the measured HAADF image.

    Parameters
    ----------
    fused : list of ElementalMap, or ElementalMap
        All maps that one fusion returned, in their order, or a stack of them.
    image : str, optional
        Name of one of the further images that were given as `elastic`; by default the
        HAADF image. Also of an image that was not used, by its coefficients.

    Returns
    -------
    HAADFImage, or Signal2D of another image
        Shape ``navigation + (y, x)``, in the units of the measured image, on the axes
        of the first map.

    Raises
    ------
    ValueError
        If maps are missing or do not come from one fusion, or are a part of a series:
        its record is that of the whole; or the fusion had no image of this name.
    """
    fused = all_maps_of_fusion(fused)
    record = record_of(fused[0])
    maps = np.stack([signal.data for signal in fused], axis=-3)
    _check_whole(record, maps.shape[:-3])

    def recorded(name: str) -> Any:  # of elements to maps, of positions to images
        return np.asarray(record[name])[..., np.newaxis, np.newaxis]

    if image is not None:
        k = _number_of(image, record)
        coefficients = recorded("elastic_coefficients")[..., k, :, :, :]
        data = (coefficients * maps).sum(axis=-3)
        data += recorded("elastic_offset")[..., k, :, :]
        return _image_like(fused[0], data, f"{image} model", "")

    if record.method == "published":
        span = recorded("map_range")
        scaled = (maps - recorded("map_offset")) / np.where(span > 0, span, 1)
        maps = np.maximum(scaled, 0) ** record.gamma
    model = (recorded("haadf_coefficients") * maps).sum(axis=-3)
    if record.method == "published":
        model *= recorded("haadf_range")
    model += recorded("haadf_offset")
    return _image_like(fused[0], model, "HAADF model", "HAADF")


def _check_as_fused(fused: Sequence[BaseSignal], measurement: Measurement) -> None:
    """Raise a ValueError if a background or a mask is not given as it was."""
    given = {"background": measurement.background, "mask": measurement.masked or None}
    check_as_fused(complete_record(fused[0]), **given)


def _check_whole(record: Any, shape: tuple[int, ...]) -> None:
    """Raise a ValueError if maps of this navigation shape are a part of a series."""
    series = np.shape(record["haadf_coefficients"])[:-1]
    if shape != series:
        raise ValueError(
            f"the maps have the navigation shape {shape} and their record {series}: "
            "expected all maps of the series; choose the position afterwards, by .inav "
            "or inav="
        )


def _number_of(image: str, record: DictionaryTreeBrowser) -> int:
    """The place of an elastic image in the record of a fusion."""
    names = record.get_item("elastic", "").split("\n")
    if image not in names:
        known = ", ".join(filter(None, names))
        raise ValueError(
            f"the fusion had no elastic image {image!r} besides HAADF: expected "
            f"{f'one of {known}' if known else 'none, since elastic was not given'}"
        )
    return names.index(image)


def _image_like(fused: BaseSignal, data: Any, title: str, kind: str) -> Any:
    """An image on the axes of a map, without what is true of the map only."""
    image = new_signal(fused, data, signal_type=kind)
    image.metadata.General.title = title
    # the element of the first map, and its unit
    nodes = "Sample.elements", "Sample.xray_lines", "Signal.quantity"
    remove(image.metadata, "Multimodal_fusion", *nodes)
    return image


def get_fractions(
    fused: Sequence[ElementalMap] | ElementalMap,
) -> list[ElementalMap]:
    """Fractions of the elements, from maps that were fused from fractions.

    :func:`fuse_multimodal` returns relative amounts for maps of fractions; these are
    the shares of their sum.

    Parameters
    ----------
    fused : list of ElementalMap, or ElementalMap
        All maps that one fusion returned, in their order, or a stack of them; computed
        if they were lazy.

    Returns
    -------
    list of ElementalMap
        Fractions with the sum of the measured ones, 1 or 100, float32; NaN where there
        is hardly anything: less than 5 % of the 99th percentile of the sum.

    Raises
    ------
    ValueError
        If maps are missing, do not come from one fusion, were fused from counts, or are
        not computed yet.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.lattice(size=32)
    >>> total = maps[0] + maps[1] + maps[2] + 1e-9
    >>> fractions = [element / total for element in maps]
    >>> fused = hyperspy_fusion.fuse_multimodal(fractions, haadf)
    >>> hyperspy_fusion.get_fractions(fused)[0]
    <ElementalMap, title: Dy, dimensions: (|32, 32)>
    """
    fused = all_maps_of_fusion(fused)
    if any(map(pending, fused)):
        raise ValueError("the maps are not computed yet: call compute() of each")
    record = record_of(fused[0])
    if not record.has_item("fraction_sum"):
        raise ValueError(
            "the maps were not fused from fractions: expected relative amounts. Counts "
            "are turned into fractions by a quantification, as eXSpy's"
        )
    maps = np.stack([signal.data for signal in fused], axis=-3)
    total = maps.sum(axis=-3)
    most = np.quantile(total, _MOST, axis=(-2, -1), keepdims=True)
    wanted = np.asarray(record["fraction_sum"])[..., np.newaxis, np.newaxis]
    factor = wanted / np.where(total > _LEAST_AMOUNT * most, total, np.nan)
    found = []
    for i, signal in enumerate(fused):
        data = (maps[..., i, :, :] * factor).astype(np.float32)
        fractions = new_signal(signal, data, signal_type="elemental_map")
        fractions.metadata.Signal.quantity = "Fraction"
        del fractions.metadata.Multimodal_fusion  # it is that of the amounts
        found.append(fractions)
    return found
