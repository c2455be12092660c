"""Stacks of maps: signals whose last navigation axis runs over the elements."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hyperspy.misc.utils import DictionaryTreeBrowser
from hyperspy.signals import BaseSignal

from ..core.common.spans import cropped
from ..execution.arrays import stack as stack_arrays
from .elements import infer_element, name_element, sample_entries
from .images import as_images, axes_of, check_signal, new_signal

_logger = logging.getLogger(__name__)

# Where HyperSpy keeps the variance of the noise.
VARIANCE = "Signal.Noise_properties.variance"

_NOT_KNOWN = np.array([np.nan])

# Where a fusion does: a line profile would take it from the other place as its own.
UNCERTAINTY = "Multimodal_fusion.variance"

# The map before pixels that look alike shared their counts.
UNSHARED = "Multimodal_fusion.unshared"

# Signals of the shape of a fused map, in its metadata.
ATTACHED = UNCERTAINTY, UNSHARED

# An array, its first axis that of the replicas, the others those of the map.
REPLICAS = "Multimodal_fusion.replicas"

# Pixels whose image was not used, as spans of rows; left out if there are none.
FLAGGED = "Multimodal_fusion.flagged_spans"

_VARIANCE_OF, _TITLES = "Variance of {}", {UNSHARED: "{} without sharing"}


def split(
    maps: Sequence[BaseSignal] | Mapping[str, BaseSignal] | BaseSignal,
) -> list[BaseSignal]:
    """List one signal per element of a list, a dict, a stack or a single map.

    Maps of a stack that :func:`hyperspy.api.stack` did not make have no title and no
    ``Sample``, since those of the stack are not true of each element.
    """
    if isinstance(maps, Mapping):
        maps = list(maps.values())
    if isinstance(maps, list | tuple):
        for i, signal in enumerate(maps):
            check_signal(signal, f"map number {i}")
        return list(maps)
    stack = as_images(maps, "stack of maps")
    if stack.axes_manager.navigation_dimension == 0:
        return [stack]
    members = members_along(stack)
    variance = stack.get_noise_variance()
    if isinstance(variance, BaseSignal) and (found := _side_by_side(stack, variance)):
        variance = attached_signal(stack, stack_arrays(found, axis=0))
    fits = isinstance(variance, BaseSignal) and variance.data.shape == stack.data.shape
    parts = []
    for i in range(len(stack.data)):
        member = members[i] if members else None
        part = _part(stack, i, member)
        own = _part(variance, i) if fits else variance
        if member is None:
            part.metadata.General.title = ""
            part.metadata.set_item("Sample.elements", [])
            part.metadata.set_item("Sample.xray_lines", [])
        elif isinstance(variance, BaseSignal) and not fits:
            given = member.metadata.get_item(UNCERTAINTY)
            own = member.metadata.get_item(VARIANCE, given)
        if own is not None:
            part.metadata.set_item(VARIANCE, own)  # its pixels are checked later
        parts.append(part)
    return parts


def _part(stack: BaseSignal, i: int, member: Any = None) -> BaseSignal:
    """Map `i` of a stack, without its variance."""
    return new_signal(
        stack,
        stack.data[i],
        axes=axes_of(stack)[1:],
        metadata=None if member is None else member.metadata,
        original_metadata=None if member is None else member.original_metadata,
        signal_type=stack.metadata.Signal.signal_type,
    )


def members_of(stack: BaseSignal) -> list:
    """List the metadata that :func:`hyperspy.api.stack` kept of the signals it stacked.

    Trees with ``metadata`` and ``original_metadata``; empty for other signals.
    """
    members = stack.original_metadata.get_item("stack_elements", {})
    return [members[f"element{i}"] for i in range(len(members))]


def all_metadata(signal: BaseSignal) -> list[DictionaryTreeBrowser]:
    """The metadata of a signal, and of the members if it is a stack."""
    return [signal.metadata, *(member.metadata for member in members_of(signal))]


def members_along(stack: BaseSignal) -> list:
    """The members of a stack, in the order of its last navigation axis.

    Empty if their order is not known.
    """
    members = members_of(stack)
    sizes = stack.metadata.get_item("_HyperSpy.Stacking_history.step_sizes", 1)
    if not stack.axes_manager.navigation_dimension or np.size(sizes) > 1:
        return []  # no navigation axis is that of the members
    axis = stack.axes_manager.navigation_axes[-1]
    places = _places(axis, len(members))
    if places:
        return [members[i] for i in places]
    return members if len(members) == axis.size else []


def _places(axis: Any, n: int) -> list[int]:
    """Which of n members an axis counts; empty if it does not count them.

    The axis that HyperSpy makes counts the members, also when it is sliced.
    """
    places = np.rint(axis.axis).astype(int)
    counts = np.array_equal(places, axis.axis) and set(places) <= set(range(n))
    return places.tolist() if counts else []


def of_several_elements(stack: BaseSignal) -> bool:
    """Whether it is known that each map of a stack shows another element."""
    found = [infer_element(member) for member in members_along(stack)]
    return len(found) > 1 and None not in found and len(set(found)) == len(found)


def settle(stack: BaseSignal) -> None:
    """Make elements and variance of a stack, in place, those of all its maps.

    HyperSpy gives a stack the elements of the first map, and puts the variances of the
    maps side by side. Of any signal, variance and replicas of other pixels are removed.
    """
    members = members_of(stack)
    named = sample_entries(stack, "elements")
    if (
        members
        and named == sample_entries(members[0], "elements")
        and len(set(map(infer_element, members))) > 1
    ):
        _name_after(stack, members)
    along = members_along(stack)
    for node in ATTACHED:
        if along and all(member.metadata.has_item(node) for member in along):
            each = [member.metadata.get_item(node).data for member in along]
            _replace_attached(stack, node, each)
            for member in along:
                remove(member.metadata, node)
    _settle_replicas(stack, along)
    for node in (VARIANCE, *ATTACHED):
        variance = stack.metadata.get_item(node)
        if not isinstance(variance, BaseSignal):
            continue
        dimension = stack.axes_manager.navigation_dimension
        if variance.data.shape != stack.data.shape:
            _replace_attached(stack, node, _side_by_side(stack, variance))
        elif variance.axes_manager.navigation_dimension != dimension:  # a .nxs
            _replace_attached(stack, node, list(variance.data))


def _settle_replicas(stack: BaseSignal, along: Sequence[Any]) -> None:
    """Make the replicas of a stack, in place, those of all its maps, its members."""
    each = [member.metadata.get_item(REPLICAS) for member in along]
    if each and all(replicas is not None for replicas in each):
        if len({replicas.shape for replicas in each}) == 1:
            stack.metadata.set_item(REPLICAS, stack_arrays(each, axis=1))
        for member in along:
            remove(member.metadata, REPLICAS)
    replicas = stack.metadata.get_item(REPLICAS)
    if replicas is not None and replicas.shape[1:] != stack.data.shape:
        remove(stack.metadata, REPLICAS)


def replicas_at(signal: BaseSignal, places: Sequence[Any]) -> Any:
    """Replicas of the part of a signal at these places of its array, or None."""
    replicas = signal.metadata.get_item(REPLICAS)
    index: tuple[Any, ...] = slice(None), *places
    return None if replicas is None else replicas[index]


def crop_flagged(part: BaseSignal, shape: Sequence[int], places: Sequence[Any]) -> None:
    """Make the flagged pixels of a part, in place, those of its rows and columns.

    `shape` is that of the images of which it is a part, `places` where it is in them.
    """
    if not all(isinstance(place, slice) for place in places):
        lose_flagged(part)
        return
    spans = [place.indices(n) for place, n in zip(places, shape, strict=True)]
    if all(span == (0, n, 1) for span, n in zip(spans, shape, strict=True)):
        return
    if any(step != 1 for *_, step in spans):
        lose_flagged(part)
        return
    rows, columns = (slice(start, stop) for start, stop, _ in spans)
    for metadata in all_metadata(part):
        flagged = metadata.get_item(FLAGGED)
        if flagged is not None and np.size(flagged) > 1:
            found = cropped(np.asarray(flagged), rows, columns)
            if np.isfinite(found).any():
                metadata.set_item(FLAGGED, found)
            else:
                remove(metadata, FLAGGED)
        elif metadata.has_item("Multimodal_fusion.pending"):
            metadata.set_item(FLAGGED, _NOT_KNOWN)


def lose_flagged(signal: BaseSignal) -> None:
    """Say of a signal, in place, that it is not known where its flagged pixels are."""
    for metadata in all_metadata(signal):
        pending = metadata.has_item("Multimodal_fusion.pending")
        if pending or metadata.has_item(FLAGGED):
            metadata.set_item(FLAGGED, _NOT_KNOWN)


def _name_after(stack: BaseSignal, members: Sequence[Any]) -> None:
    """Give a stack, in place, the elements, X-ray lines and title of its members."""
    elements = list(dict.fromkeys(infer_element(member) for member in members))
    lines = [sample_entries(member, "xray_lines") for member in members]
    if None in elements or not all(lines):
        lines = []
    sample: dict[str, list] = {
        "elements": [] if None in elements else elements,
        "xray_lines": list(dict.fromkeys(line for own in lines for line in own)),
    }
    for name, entries in sample.items():
        if entries or stack.metadata.has_item(f"Sample.{name}"):
            stack.metadata.set_item(f"Sample.{name}", entries)
    general = stack.metadata.General
    if sample["elements"] and general.title.startswith("Stack of "):
        general.title = f"Stack of {', '.join(sample['elements'])}"


def _side_by_side(stack: BaseSignal, variance: BaseSignal) -> list:
    """Arrays of the variances that HyperSpy put side by side; empty if it did not."""
    n, *one_map = stack.data.shape
    data = variance.data
    if data.shape != (*one_map[:-1], n * one_map[-1]):
        return []
    return [data[..., i * one_map[-1] : (i + 1) * one_map[-1]] for i in range(n)]


def _replace_attached(stack: BaseSignal, node: str, parts: list) -> None:
    """Put a stack of arrays in the place of a signal in metadata, or remove it."""
    if parts and all(part.shape == stack.data.shape[1:] for part in parts):
        variance = attached_signal(stack, stack_arrays(parts, axis=0), node)
        stack.metadata.set_item(node, variance)
    elif stack.metadata.has_item(node):
        name = _TITLES.get(node, _VARIANCE_OF).format(f"{stack!r}")
        _logger.info("%s is removed: it is that of other pixels", name)
        remove(stack.metadata, node)


def remove(tree: Any, *nodes: str) -> None:
    """Remove nodes from metadata, if they are there."""
    for node in nodes:
        if tree.has_item(node):
            parent, _, name = node.rpartition(".")
            delattr(tree.get_item(parent) if parent else tree, name)


def attached_signal(signal: BaseSignal, data: Any, node: str = VARIANCE) -> BaseSignal:
    """An array of the shape of a signal, as the signal at a node of its metadata."""
    attached = new_signal(
        signal,
        data,
        # that of a file, within the metadata, some formats cannot write
        original_metadata=DictionaryTreeBrowser(),
        signal_type="elemental_map",
    )
    attached.tmp_parameters = DictionaryTreeBrowser()  # not the path of the map
    remove(attached.metadata, "Multimodal_fusion")
    title = _TITLES.get(node, _VARIANCE_OF)
    attached.metadata.General.title = title.format(signal.metadata.General.title)
    return attached


def gather(stack: BaseSignal, members: Sequence[Any]) -> None:
    """Make signals, or members of another stack, those of a stack, in place."""
    axis = stack.axes_manager.navigation_axes[-1]
    if _places(axis, max(len(members), len(members_of(stack)))):
        axis.offset, axis.scale = 0, 1  # it counts them
    stack.original_metadata.stack_elements = {
        f"element{i}": {
            "metadata": member.metadata.deepcopy(),
            "original_metadata": member.original_metadata.deepcopy(),
        }
        for i, member in enumerate(members)
    }
    if any(map(infer_element, members)):
        _name_after(stack, members)
    settle(stack)


def take_part(part: BaseSignal, stack: BaseSignal, place: int | slice) -> None:
    """Give a part of a stack, in place, the metadata of its maps.

    `place` is where the part was along the last navigation axis of the stack.
    """
    members = members_along(stack)
    if isinstance(place, slice):
        gather(part, members[place])
    else:
        nodes = VARIANCE, *ATTACHED, REPLICAS
        attached = {node: part.metadata.get_item(node) for node in nodes}
        signal_type = part.metadata.Signal.signal_type
        part._metadata = members[place].metadata.deepcopy()  # noqa: SLF001
        part._original_metadata = members[place].original_metadata.deepcopy()  # noqa: SLF001
        part.set_signal_type(signal_type)
        remove(part.metadata, VARIANCE)
        for node, value in attached.items():
            if value is not None:
                part.metadata.set_item(node, value)
        settle(part)
    element = infer_element(stack)
    if element is not None:  # the same for all, perhaps by the user's word
        name_element(part, element)
