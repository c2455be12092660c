"""Solutions -> signals with their record."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from hyperspy.misc.utils import DictionaryTreeBrowser
from hyperspy.signals import BaseSignal

from . import __version__
from .core.calibrated.convex.solver import kept_at
from .core.calibrated.elastic import Further, barred_for_fractions, entries_of
from .core.calibrated.parts import together
from .core.calibrated.sharing import Sharing
from .core.common.messages import merged, warn
from .core.common.options import Options
from .core.common.solution import Solution
from .execution.arrays import is_lazy, stack
from .execution.assembly import assemble
from .execution.lazy import Pending
from .execution.plan import ExecutionOptions, Task
from .execution.run import solve_now
from .inputs.elements import element_in, name_element, title_of
from .inputs.images import new_signal
from .inputs.measurement import Measurement
from .inputs.stacks import (
    ATTACHED,
    FLAGGED,
    REPLICAS,
    UNCERTAINTY,
    UNSHARED,
    all_metadata,
    attached_signal,
    gather,
    members_of,
    remove,
)
from .progress import Progress
from .provenance import provenance
from .summary import NOT_COMPUTED, summary_of

if TYPE_CHECKING:
    from .signals import ElementalMap

_logger = logging.getLogger(__name__)
TERMS = ("total", "haadf", "chemical", "tv")
# Numbers that the record of the calibrated method has, and those of each element.
_CALIBRATED: tuple[str, ...] = (
    "haadf_gain",
    "haadf_model_error",
    "haadf_slow",
    "haadf_power",
    "haadf_row_noise",
    "haadf_repetition",
    "gap",
    "guard",
    "flagged",
    "missing_pixels",
    "haadf_missing_pixels",
)
_BY_ELEMENT = "count_value", "change", "vacuum_background", "own_norm", "sum_kept"

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
        Position, number of pixels and first pixel of each task.
    match : {"axes", "pixels", None}
        How maps and image were brought to the same pixels.
    notes : tuple of str
        What that did.
    background_given : bool
        Whether the background was given.
    warnings : tuple of str
        Those that the signals gave before the fusion.
    elastic_names : tuple of str
        Names of the further elastic images.
    origin : dict of str to str
        By what the fusion can be repeated; empty if that is not known.
    """

    method: str
    elements: tuple[str, ...]
    atomic_numbers: tuple[int, ...]
    options: Options
    shape: tuple[int, ...]
    places: tuple[tuple[tuple[int, ...], int, tuple[int, int]], ...]
    match: str | None
    notes: tuple[str, ...]
    background_given: bool
    warnings: tuple[str, ...]
    elastic_names: tuple[str, ...] = ()
    origin: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        method: str,
        measurement: Measurement,
        options: Options,
        tasks: list[Task],
        execution: ExecutionOptions,
        origin: dict[str, str] | None = None,
    ) -> Conclusion:
        """For planned tasks; `origin` if it is not that of maps."""
        if origin is None:
            origin = provenance(measurement, options, execution)
        return cls(
            method=method,
            elements=measurement.elements,
            atomic_numbers=measurement.atomic_numbers,
            options=options,
            shape=measurement.navigation_shape,
            places=tuple((t.position, t.pixels, t.origin) for t in tasks),
            match=measurement.match,
            notes=measurement.notes,
            background_given=measurement.background is not None,
            warnings=measurement.warnings,
            elastic_names=measurement.elastic_names,
            origin=origin,
        )

    @property
    def arrays(self) -> dict[str, tuple[int, ...]]:
        """Names of the arrays of a solution, and what their shape has in front."""
        options: Any = self.options
        found: dict[str, tuple[int, ...]] = {"maps": ()}
        if getattr(options, "n_refits", 0):
            found["variance"] = ()
        if getattr(options, "n_replicas", None):
            found["replicas"] = (options.n_replicas,)
        if getattr(options, "share", False):
            found["unshared"] = ()
        return found

    @property
    def asked(self) -> dict[str, Any]:
        """Entries of the record that are known beforehand."""
        options = {k: v for k, v in asdict(self.options).items() if v is not None}
        names = self.elastic_names
        return {
            "method": self.method,
            "version": __version__,
            "elements": ",".join(self.elements),
            "atomic_numbers": np.array(self.atomic_numbers, dtype=np.float64),
            **options,
            **({"match": self.match} if self.match else {}),
            **({"elastic": "\n".join(names)} if names else {}),
            **self.origin,
        }

    def __call__(
        self, solutions: Sequence[Solution]
    ) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
        """Return the record of the fusion, its notes and its new warnings.

        The record holds builtins and float64 arrays only, which ``.hspy``, ``.zspy``
        and ``.nxs`` can save.
        """
        images: dict[tuple[int, ...], list] = {}
        for solution, (position, *place) in zip(solutions, self.places, strict=True):
            images.setdefault(position, []).append((solution, *place))
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
        messages += self._single_map(found)
        messages += _of_two_kinds(found)
        every = *self.warnings, *messages
        costs, records = [s.costs for s in found.flat], [s.record for s in found.flat]
        cost = {
            t: _over_positions(shape, [getattr(c, t) for c in costs]) for t in TERMS
        }
        # Of tiled images that share weights, only the first has those that were tried.
        names = dict.fromkeys(name for record in records for name in record)
        recorded = {
            name: _over_positions(shape, [r.get(name, np.nan) for r in records])
            for name in names
        }
        if not np.isfinite(recorded.get("flagged_spans", np.nan)).any():
            recorded.pop("flagged_spans", None)
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
            "cost_iterations": max((c.iterations for c in costs), key=len),
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
        if missing := max(s.record.get("missing_pixels", 0) for s in late):
            message += (
                f"; {missing} pixels without data make it slow, so that it helps to "
                "crop large gaps away"
            )
        return (message,)

    def _single_map(self, found: np.ndarray) -> tuple[str, ...]:
        """The warning that one map does not explain an image that was not used."""
        records = [s.record for s in found.flat]
        unused = [r for r in records if r["lambda_haadf"] == 0 or r.get("flagged")]
        options: Any = self.options
        if len(self.elements) > 1 or not unused or options.lambda_haadf == 0:
            return ()
        message = (
            f"there is a map of {self.elements[0]} only, and the HAADF image shows all "
            "elements of the specimen: fuse the maps of all of them together"
        )
        return (message,)


def _of_two_kinds(found: np.ndarray) -> tuple[str, ...]:
    """The warning that some maps of a series are fractions and some are not."""
    n_fractions = sum("fraction_sum" in s.record for s in found.flat)
    if n_fractions in (0, found.size):
        return ()
    message = (
        f"the maps of {n_fractions} of {found.size} images were taken for fractions, "
        "those of the others were not: the fused maps have different units. Fuse "
        "images of one kind together"
    )
    return (message,)


def _over_positions(shape: tuple[int, ...], values: list) -> Any:
    """Values of all positions as one array; that of a single image as it is.

    Arrays of different length are padded with NaN; of texts each is kept once.
    """
    if not shape:
        return values[0]
    if texts := [value for value in values if isinstance(value, str)]:
        return "\n".join(dict.fromkeys(texts))
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
        "summary": NOT_COMPUTED,
        "pending": later,
        "cost": {},
    }
    n_elements = len(measurement.elements)
    options: Any = conclusion.options
    each: dict[str, tuple[int, ...]] = {"haadf_coefficients": (n_elements,)}
    if conclusion.method == "calibrated":
        iterations = kept_at(options.max_iter)
        numbers = _CALIBRATED
        each |= dict.fromkeys(_BY_ELEMENT, (n_elements,)) | {"shift": (2,)}
        if conclusion.elastic_names:
            further = Further(conclusion.elastic_names, None, np.ones(n_elements))
            known = entries_of(barred_for_fractions(further), further.prior)
            each |= {name: np.shape(value) for name, value in known.items()}
        if options.share:
            sharing = Sharing(by_element=(np.nan,) * n_elements)
            each |= {name: np.shape(n) for name, n in sharing.record().items()}
    else:
        iterations = np.arange(1, options.n_iter + 1)
        numbers = ("haadf_range",)
        each |= {"map_offset": (n_elements,), "map_range": (n_elements,)}
    record["cost_iterations"] = iterations.astype(np.float64)
    numbers += ("n_iter", "lambda_haadf", "lambda_chem", "lambda_tv", "haadf_offset")
    each |= dict.fromkeys(numbers, ())
    each |= {f"cost.{term}": (len(iterations),) for term in TERMS}
    for name, own in each.items():
        entry = later.entry(name, (*measurement.navigation_shape, *own))
        node, _, term = name.rpartition(".")
        (record[node] if node else record)[term] = entry
    return record


# --- tasks -> signals -----------------------------------------------------------


def fused_now(
    tasks: Sequence[Task],
    conclude: Conclusion,
    measurement: Measurement,
    options: Options,
    execution: ExecutionOptions,
) -> list[ElementalMap]:
    """Solve tasks, make signals of the solutions, and tell notes and warnings."""
    with Progress.of(tasks, options, show=execution.show_progressbar) as progress:
        solutions = solve_now(tasks, progress, execution.num_workers)
    record, notes, messages = conclude(solutions)
    arrays = assemble(solutions, tasks, measurement.maps.shape, conclude.arrays)
    fused = as_signals(measurement, arrays, record)
    tell(notes, messages)
    return fused


def as_signals(
    measurement: Measurement, arrays: dict[str, Any], record: dict[str, Any]
) -> list[ElementalMap]:
    """Turn fused arrays into signals, with axes and metadata of the measured images.

    Arrays have the shape ``navigation + (n_elements, y, x)``: "maps" in the units of
    the signals, and perhaps "variance"; "replicas" have their number in front of the
    elements. `record` goes to ``metadata.Multimodal_fusion``.
    """
    signals = []
    titles = [title_of(image) for image in measurement.images]
    for i, (image, element) in enumerate(
        zip(measurement.images, measurement.elements, strict=True)
    ):
        data = {name: _contiguous(a[..., i, :, :]) for name, a in arrays.items()}
        signal = new_signal(image, data["maps"], signal_type="elemental_map")
        name_element(signal, element)
        own = titles[i]
        wrong = element_in(own) not in (element, None)
        if not own or wrong or titles.count(own) > 1:
            signal.metadata.General.title = element
        forget(signal)  # an earlier fusion, and the signals of a series
        if members_of(signal):
            del signal.original_metadata.stack_elements
        _add_record(signal.metadata, record)
        if "fraction_sum" in record:  # that of amounts is not known
            data.pop("variance", None)
        for name, node in (("variance", UNCERTAINTY), ("unshared", UNSHARED)):
            if name in data:
                attached = attached_signal(signal, data[name], node)
                signal.metadata.set_item(node, attached)
        if "replicas" in data:
            replicas = np.moveaxis(data["replicas"], -3, 0)
            signal.metadata.set_item(REPLICAS, replicas)
        signals.append(signal)
    return signals


def _add_record(metadata: DictionaryTreeBrowser, record: dict[str, Any]) -> None:
    """Store a record, and say what maps are that were fused from fractions."""
    metadata.add_dictionary({"Multimodal_fusion": dict(record)})
    if "fraction_sum" in record:
        metadata.set_item("Signal.quantity", "Amount (relative)")


def update(old: ElementalMap, new: ElementalMap) -> None:
    """Give a fused map values and record of another one, in place; its views follow."""
    old.data[...] = new.data
    forget(old)
    _add_record(old.metadata, new.metadata.Multimodal_fusion.as_dictionary())
    for node in ATTACHED:
        if new.metadata.has_item(node):
            old.metadata.set_item(node, new.metadata.get_item(node))
    old.events.data_changed.trigger(obj=old)


def _contiguous(array: Any) -> Any:
    return array if is_lazy(array) else np.ascontiguousarray(array)


def tell(notes: Sequence[str], messages: Sequence[str]) -> None:
    """Log notes, and raise warnings in the caller of the fusion."""
    for note in notes:
        _logger.info(note)
    for message in messages:
        warn(message)


def restack(stack_of_maps: ElementalMap, fused: list[ElementalMap]) -> ElementalMap:
    """Stack fused maps in the same way as the stack that was fused.

    The last navigation axis of `stack_of_maps` runs over the elements; each part of
    the result has the metadata of its map.
    """
    data = stack([signal.data for signal in fused], axis=0)
    result = new_signal(stack_of_maps, data, signal_type="elemental_map")
    remove(result.metadata, "_HyperSpy.Stacking_history")
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
        for metadata in all_metadata(signal)
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
        for metadata in all_metadata(signal):
            if metadata.get_item("Multimodal_fusion.pending") is one:
                nodes = *ATTACHED, REPLICAS, FLAGGED
                attached = {node: metadata.get_item(node) for node in nodes}
                del metadata.Multimodal_fusion
                _add_record(metadata, record)
                for node, value in attached.items():
                    if value is not None:
                        metadata.set_item(node, value)
        tell(notes, messages)


# --- records that no longer apply ------------------------------------------------


def forget(signal: BaseSignal) -> None:
    """Remove the record of a fusion from a signal, and from the members of a stack."""
    for metadata in all_metadata(signal):
        remove(metadata, "Multimodal_fusion")
