"""Solutions -> signals with their record; and functions of fused signals."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import hyperspy.api as hs
import numpy as np
from hyperspy.misc.utils import DictionaryTreeBrowser
from hyperspy.signals import BaseSignal, Signal1D, Signal2D

from . import __version__
from .core.calibrated.method import CHECK_EVERY, CalibratedOptions, local_misfit
from .core.calibrated.parts import together
from .core.common.messages import merged
from .core.common.options import Options
from .core.common.solution import Solution
from .execution.arrays import is_lazy, stack
from .execution.lazy import Pending
from .execution.plan import Task
from .inputs.elements import infer_element, name_element
from .inputs.images import new_signal
from .inputs.measurement import Background, Image, Maps, Mask, Measurement, measure
from .inputs.stacks import (
    UNCERTAINTY,
    gather,
    members_of,
    split,
    variance_signal,
)
from .summary import summary_of, summary_of_pending

if TYPE_CHECKING:
    from .signals import ElementalMap, HAADFImage

_logger = logging.getLogger(__name__)
_TERMS = ("total", "haadf", "chemical", "tv")
# Sum of the amounts below which there are no fractions, over that quantile of it.
_LEAST_AMOUNT, _MOST = 0.05, 0.99

# --- solutions -> record ---------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """Makes the record of a fusion from its solutions.

    Attributes
    ----------
    method : {"calibrated", "published"}
        The method.
    elements : tuple of str
        Symbols, in the order of the maps.
    atomic_numbers : tuple of int
        Z of each.
    options : Options
        Options of the method.
    shape : tuple of int
        Shape of the series.
    places : tuple of tuple
        Position and number of pixels of each task.
    match : {"axes", None}
        How maps and image were brought to the same pixels.
    notes : tuple of str
        What that did.
    background_given : bool
        Whether the background was given.
    warnings : tuple of str
        Those that the signals gave before the fusion.
    """

    method: str
    elements: tuple[str, ...]
    atomic_numbers: tuple[int, ...]
    options: Options
    shape: tuple[int, ...]
    places: tuple[tuple[tuple[int, ...], int], ...]
    match: str | None
    notes: tuple[str, ...]
    background_given: bool
    warnings: tuple[str, ...]

    @classmethod
    def of(
        cls, method: str, measurement: Measurement, options: Options, tasks: list[Task]
    ) -> Conclusion:
        """For the planned tasks of a measurement."""
        return cls(
            method=method,
            elements=measurement.elements,
            atomic_numbers=measurement.atomic_numbers,
            options=options,
            shape=measurement.navigation_shape,
            places=tuple((task.position, task.pixels) for task in tasks),
            match=measurement.match,
            notes=measurement.notes,
            background_given=measurement.background is not None,
            warnings=measurement.warnings,
        )

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays of a solution that have the shape of the maps."""
        uncertain = getattr(self.options, "uncertainty", False)
        return ("maps", "variance") if uncertain else ("maps",)

    @property
    def asked(self) -> dict[str, Any]:
        """Entries of the record that are known beforehand."""
        options = {k: v for k, v in asdict(self.options).items() if v is not None}
        return {
            "method": self.method,
            "version": __version__,
            "elements": ",".join(self.elements),
            "atomic_numbers": np.array(self.atomic_numbers, dtype=np.float64),
            **options,
            **({"match": self.match} if self.match else {}),
        }

    def __call__(
        self, solutions: Sequence[Solution]
    ) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
        """Return the record of the fusion, its notes and its new warnings.

        The record holds builtins and float64 arrays only, which ``.hspy``, ``.zspy``
        and ``.nxs`` can save.
        """
        images: dict[tuple[int, ...], list] = {}
        for solution, (position, pixels) in zip(solutions, self.places, strict=True):
            images.setdefault(position, []).append((solution, pixels))
        shape = self.shape
        found = np.empty(shape, dtype=object)
        for position, tiles in images.items():
            whole = len(tiles) == 1
            found[position] = (
                tiles[0][0] if whole else together(*zip(*tiles, strict=True))
            )
        notes = (*self.notes, *merged([s.notes for s in found.flat], "images"))
        messages = merged([s.warnings for s in found.flat], "images")
        messages += self._not_converged(found)
        every = *self.warnings, *messages
        costs, records = [s.costs for s in found.flat], [s.record for s in found.flat]
        cost = {
            t: _over_positions(shape, [getattr(c, t) for c in costs]) for t in _TERMS
        }
        # Of tiled images that share weights, only the first has those that were tried.
        recorded = {
            name: _over_positions(shape, [r.get(name, np.nan) for r in records])
            for name in records[0]
        }
        record = {
            **self.asked,
            **recorded,
            "n_iter": _over_positions(shape, [s.n_iter for s in found.flat]),
            "converged": all(solution.converged for solution in found.flat),
            "status": "\n".join(dict.fromkeys(s.status for s in found.flat)),
            "notes": "\n".join(notes),
            "warnings": "\n".join(every),
            "summary": summary_of(self, list(found.flat), notes, every),
            "cost": cost,
            "cost_interval": found.flat[0].costs.interval,
        }
        return record, notes, messages

    def _not_converged(self, found: np.ndarray) -> tuple[str, ...]:
        """The warning that a tolerance was not met, if there is one."""
        late = [s for s in found.flat if not s.converged]
        if getattr(self.options, "tolerance", None) is None or not late:
            return ()
        options: Any = self.options
        limit = "max_iter" if hasattr(options, "max_iter") else "n_iter"
        where = f" in {len(late)} of {found.size} images" if self.shape else ""
        gaps = [s.record["gap"] for s in late if "gap" in s.record]
        gap = f", with a gap of {max(gaps):.1e}" if gaps else ""
        message = (
            f"{limit}={getattr(options, limit)} was reached before the tolerance of "
            f"{options.tolerance:g}{where}{gap}: raise {limit}, or loosen tolerance"
        )
        return (message,)


def _over_positions(shape: tuple[int, ...], values: list) -> Any:
    """Values of all positions as one array; that of a single image as it is.

    Arrays of different length are padded with NaN; of texts each is kept once.
    """
    if not shape:
        return values[0]
    if isinstance(values[0], str):
        return "\n".join(dict.fromkeys(values))
    arrays = [np.asarray(value, dtype=float) for value in values]
    longest = max(arrays, key=np.size).shape
    out = np.full((len(arrays), *longest), np.nan)
    for k, array in enumerate(arrays):
        place: Any = (k, *map(slice, array.shape))
        out[place] = array
    return out.reshape(*shape, *longest)


def pending_record(
    conclusion: Conclusion, later: Pending, measurement: Measurement
) -> dict[str, Any]:
    """Record of lazy maps: its numbers are lazy, too."""
    record = {
        **conclusion.asked,
        "status": str(later),
        "summary": summary_of_pending(),
        "pending": later,
        "cost": {},
    }
    n_elements = len(measurement.elements)
    options: Any = conclusion.options
    each: dict[str, tuple[int, ...]] = {"haadf_coefficients": (n_elements,)}
    if conclusion.method == "calibrated":
        n_values = -(-options.max_iter // CHECK_EVERY)
        by_element = ["count_value", "change", "vacuum_background", "own_norm"]
        by_element.append("sum_kept")
        each |= dict.fromkeys(by_element, (n_elements,)) | {"shift": (2,)}
        numbers: tuple[str, ...] = ("haadf_gain", "haadf_model_error", "gap")
        numbers += ("guard", "flagged", "missing_pixels", "haadf_missing_pixels")
        record["cost_interval"] = CHECK_EVERY
    else:
        n_values, numbers = options.n_iter, ("haadf_range",)
        each |= {"map_offset": (n_elements,), "map_range": (n_elements,)}
        record["cost_interval"] = 1
    numbers += ("n_iter", "lambda_haadf", "lambda_chem", "lambda_tv", "haadf_offset")
    each |= dict.fromkeys(numbers, ())
    each |= {f"cost.{term}": (n_values,) for term in _TERMS}
    for name, own in each.items():
        entry = later.entry(name, (*measurement.navigation_shape, *own))
        node, _, term = name.rpartition(".")
        (record[node] if node else record)[term] = entry
    return record


# --- record -> signals -----------------------------------------------------------


def as_signals(
    measurement: Measurement, arrays: dict[str, Any], record: dict[str, Any]
) -> list[ElementalMap]:
    """Turn fused arrays into signals, with axes and metadata of the measured images.

    Arrays have the shape ``navigation + (n_elements, y, x)``: "maps" in the units of
    the signals, and perhaps "variance". `record` goes to
    ``metadata.Multimodal_fusion``.
    """
    signals = []
    for i, (image, element) in enumerate(
        zip(measurement.images, measurement.elements, strict=True)
    ):
        data = {name: _contiguous(a[..., i, :, :]) for name, a in arrays.items()}
        signal = new_signal(image, data["maps"], signal_type="elemental_map")
        name_element(signal, element)
        forget(signal)  # an earlier fusion, and the signals of a series
        if members_of(signal):
            del signal.original_metadata.stack_elements
        _add_record(signal.metadata, record)
        if "variance" in data:
            variance = variance_signal(signal, data["variance"])
            signal.metadata.set_item(UNCERTAINTY, variance)
        signals.append(signal)
    return signals


def _add_record(metadata: DictionaryTreeBrowser, record: dict[str, Any]) -> None:
    """Store a record, and say what maps are that were fused from fractions."""
    metadata.add_dictionary({"Multimodal_fusion": dict(record)})
    if "fraction_sum" in record:
        metadata.set_item("Signal.quantity", "Amount (relative)")


def _contiguous(array: Any) -> Any:
    return array if is_lazy(array) else np.ascontiguousarray(array)


def tell(notes: Sequence[str], messages: Sequence[str], stacklevel: int = 4) -> None:
    """Log notes, and raise warnings in the caller of the fusion."""
    for note in notes:
        _logger.info(note)
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=stacklevel)


def restack(stack_of_maps: ElementalMap, fused: list[ElementalMap]) -> ElementalMap:
    """Stack fused maps in the same way as the stack that was fused.

    The last navigation axis of `stack_of_maps` runs over the elements; each part of
    the result has the metadata of its map.
    """
    data = stack([signal.data for signal in fused], axis=0)
    result = new_signal(stack_of_maps, data, signal_type="elemental_map")
    if result.metadata.has_item("_HyperSpy.Stacking_history"):
        del result.metadata._HyperSpy.Stacking_history  # noqa: SLF001
    record = fused[0].metadata.Multimodal_fusion.as_dictionary()
    result.metadata.add_dictionary({"Multimodal_fusion": record})
    gather(result, fused)
    return result


# --- lazy signals ----------------------------------------------------------------


def pending(signal: BaseSignal) -> list[Pending]:
    """List the records of lazy maps that are not computed yet, each once.

    Of a stack also those of its maps; empty if nothing is pending.
    """
    found = [
        metadata.get_item("Multimodal_fusion.pending")
        for metadata in _all_metadata(signal)
    ]
    return list({id(one): one for one in found if isinstance(one, Pending)}.values())


def complete(
    signal: BaseSignal, later: Sequence[Pending], found: Sequence[np.ndarray]
) -> None:
    """Complete the records of a lazy map in place, log notes and raise warnings.

    `later` lists what was pending, `found` what was computed for it.
    """
    for one, known in zip(later, found, strict=True):
        record, notes, messages = known.item()
        for metadata in _all_metadata(signal):
            if metadata.get_item("Multimodal_fusion.pending") is one:
                variance = metadata.get_item(UNCERTAINTY)
                del metadata.Multimodal_fusion
                _add_record(metadata, record)
                if variance is not None:
                    metadata.set_item(UNCERTAINTY, variance)
        tell(notes, messages)


def _all_metadata(signal: BaseSignal) -> list[DictionaryTreeBrowser]:
    """The metadata of a signal, and of the members if it is a stack."""
    return [signal.metadata, *(member.metadata for member in members_of(signal))]


# --- records that no longer apply ------------------------------------------------


def forget(signal: BaseSignal) -> None:
    """Remove the record of a fusion from a signal, and from the members of a stack."""
    for metadata in _all_metadata(signal):
        if metadata.has_item("Multimodal_fusion"):
            del metadata.Multimodal_fusion


# --- what can be asked of fused maps ---------------------------------------------


def record_of(fused: BaseSignal) -> DictionaryTreeBrowser:
    """The record ``metadata.Multimodal_fusion``; a ValueError if there is none."""
    record = fused.metadata.get_item("Multimodal_fusion")
    if record is None:
        raise ValueError(
            f"{fused!r} has no metadata.Multimodal_fusion: expected a map that "
            "fuse_multimodal or fuse_published returned"
        )
    return record


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
    if not isinstance(fused, BaseSignal):
        return maps
    elements = record_of(fused).elements.split(",")
    taken_apart = fused.axes_manager.navigation_dimension > 0  # else it is the user's
    if taken_apart and len(maps) == len(elements):
        for signal, element in zip(maps, elements, strict=True):
            name_element(signal, element)
    return maps


def _all_maps_of_fusion(
    fused: Sequence[BaseSignal] | BaseSignal,
) -> list[BaseSignal]:
    """As :func:`maps_of_fusion`; a ValueError if these are not all maps of it."""
    fused = maps_of_fusion(fused)
    records = [record_of(signal) for signal in fused]
    found = [infer_element(signal) for signal in fused]
    expected = records[0].elements.split(",") if records else []
    if not found or found != expected:
        shown = ", ".join(map(str, found)) or "nothing"
        raise ValueError(
            f"there are fused maps of {shown}: expected all maps of one fusion in "
            f"their order, {', '.join(expected) or 'any'}"
        )
    return fused


def cost_history(fused: BaseSignal) -> Signal1D:
    """See :meth:`hyperspy_fusion.ElementalMap.get_cost_history`."""
    record = record_of(fused)
    # After a lazy load the arrays in the metadata are dask arrays.
    terms = [np.asarray(record.cost[term]) for term in _TERMS]
    signal = hs.signals.Signal1D(np.stack(terms, axis=-2))
    signal.metadata.General.title = "Cost of the fusion"
    iteration = signal.axes_manager.signal_axes[0]
    interval = int(record.get_item("cost_interval", 1))
    iteration.name, iteration.scale, iteration.offset = "iteration", interval, interval
    if iteration.high_value > record.get_item("max_iter", np.inf):
        iteration.convert_to_non_uniform_axis()  # the last value came earlier
        iteration.axis = np.append(iteration.axis[:-1], record.max_iter)
    signal.axes_manager.navigation_axes[0].name = "term"
    signal.metadata.set_item("Multimodal_fusion.terms", ",".join(_TERMS))
    return signal


def get_misfit(
    maps: Maps,
    fused: Sequence[ElementalMap] | ElementalMap,
    haadf: Image,
    background: Background = None,
    *,
    standardised: bool = False,
    mask: Mask = None,
) -> Signal2D:
    """Misfit of the HAADF image and its model, or of the image and the measured maps.

    Parameters
    ----------
    maps : list of BaseSignal
        The measured maps, as they were fused.
    fused : list of ElementalMap
        All maps that the fusion returned, in their order.
    haadf : BaseSignal
        The HAADF image that was fused.
    background : optional
        As it was given to :func:`fuse_multimodal`; only for `standardised`.
    standardised : bool, default False
        False: the image minus :func:`get_haadf_model`, in its units. True: the local
        misfit z of image and measured maps, in standard deviations, by which the guard
        of the calibrated method judges; see
        :func:`hyperspy_fusion.core.calibrated.guard.local_z`.
    mask : optional
        As it was given to :func:`fuse_multimodal`; only for `standardised`.

    Returns
    -------
    Signal2D
        Shape ``navigation + (y, x)``, on the axes of the first map. An image that the
        fusion moved back is not moved here, but for `standardised`.

    Raises
    ------
    ValueError
        If the signals do not belong together, or `standardised` is asked of the
        published method or of maps of fractions.
    """
    model = get_haadf_model(fused)
    fused = maps_of_fusion(fused)
    record = record_of(fused[0])
    measurement = measure(
        maps,
        haadf,
        background,
        elements=record.elements.split(","),
        mask=mask,
        match=record.get_item("match"),
    )
    image = new_signal(model, measurement.haadf - model.data)
    image.metadata.General.title = "Misfit"
    if not standardised:
        return image
    if record.method != "calibrated":
        raise ValueError(
            "the local misfit is defined for the calibrated method only: expected maps "
            "that fuse_multimodal returned"
        )
    if record.has_item("fraction_sum"):
        raise ValueError(
            "the local misfit is not defined for fractions, whose sum is that of the "
            "image: expected maps that were fused from counts"
        )
    results = np.stack([signal.data for signal in fused], axis=-3)
    names: tuple[str, ...] = "shift", "haadf_coefficients", "haadf_offset"
    names += "haadf_model_error", "vacuum_background"
    for position in np.ndindex(measurement.navigation_shape):
        variance, given = measurement.variance, measurement.background
        image.data[position] = local_misfit(
            measurement.maps[position],
            measurement.haadf[position],
            results[position],
            {name: np.asarray(record[name])[position] for name in names},
            CalibratedOptions(),
            background=None if given is None else given[position],
            variance=None if variance is None else variance[position],
        )
    image.metadata.General.title = "Local misfit in standard deviations"
    return image


def get_haadf_model(fused: Sequence[ElementalMap] | ElementalMap) -> HAADFImage:
    r"""HAADF image that the fused maps predict.

    Of the calibrated method it is :math:`o + \sum_i c_i x_i`, of the published one
    :math:`a + s \sum_i w_i \hat x_i^γ`, with the maps
    :math:`\hat x_i` and the image scaled to [0, 1] as in the fusion, and offset a and
    range s of the measured HAADF image.

    Parameters
    ----------
    fused : list of ElementalMap, or ElementalMap
        All maps that one fusion returned, in their order, or a stack of them.

    Returns
    -------
    HAADFImage
        Shape ``navigation + (y, x)``, in the units of the measured HAADF image, on
        the axes of the first map.

    Raises
    ------
    ValueError
        If maps are missing or do not come from one fusion, or are a part of a series:
        its record is that of the whole.
    """
    fused = _all_maps_of_fusion(fused)
    record = record_of(fused[0])
    maps = np.stack([signal.data for signal in fused], axis=-3)
    series = np.shape(record["haadf_coefficients"])[:-1]
    if maps.shape[:-3] != series:
        raise ValueError(
            f"the maps have the navigation shape {maps.shape[:-3]} and their record "
            f"{series}: take the model of all maps of the series, and select the "
            "positions with .inav"
        )

    def recorded(name: str) -> Any:  # of elements to maps, of positions to images
        return np.asarray(record[name])[..., np.newaxis, np.newaxis]

    if record.method == "published":
        span = recorded("map_range")
        scaled = (maps - recorded("map_offset")) / np.where(span > 0, span, 1)
        maps = np.maximum(scaled, 0) ** record.gamma
    model = (recorded("haadf_coefficients") * maps).sum(axis=-3)
    if record.method == "published":
        model *= recorded("haadf_range")
    model += recorded("haadf_offset")
    image = new_signal(fused[0], model, signal_type="HAADF")
    image.metadata.General.title = "HAADF model"
    del image.metadata.Multimodal_fusion
    # the element of the first map, and its unit
    for node in ("Sample.elements", "Sample.xray_lines", "Signal.quantity"):
        if image.metadata.has_item(node):
            parent, name = node.split(".")
            delattr(image.metadata[parent], name)
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
    fused = _all_maps_of_fusion(fused)
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
