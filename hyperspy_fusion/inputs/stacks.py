"""Stacks of maps: signals whose last navigation axis runs over the elements."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hyperspy.signals import BaseSignal

from .images import as_images, axes_of, check_signal, new_signal

# Where HyperSpy keeps the variance of the noise.
VARIANCE = "Signal.Noise_properties.variance"


def split(maps: Sequence[BaseSignal] | BaseSignal) -> list[BaseSignal]:
    """List one signal per element of a list, a stack or a single map.

    Maps of a stack that :func:`hyperspy.api.stack` did not make have no title and no
    ``Sample``, since those of the stack are not true of each element.
    """
    if isinstance(maps, list | tuple):
        for i, signal in enumerate(maps):
            check_signal(signal, f"map number {i}")
        return list(maps)
    stack = as_images(maps, "stack of maps")
    if stack.axes_manager.navigation_dimension == 0:
        return [stack]
    members = members_along(stack)
    variance = stack.get_noise_variance()
    parts = []
    for i in range(len(stack.data)):
        member = members[i] if members else None
        part = _part(stack, i, member)
        if member is None:
            part.metadata.General.title = ""
            part.metadata.set_item("Sample.elements", [])
            part.metadata.set_item("Sample.xray_lines", [])
            own = _part(variance, i) if isinstance(variance, BaseSignal) else variance
        else:  # a stack that lost its variance, as by arithmetic, has none of its maps
            own = None if variance is None else member.metadata.get_item(VARIANCE)
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


def members_along(stack: BaseSignal) -> list:
    """The members of a stack, in the order of its last navigation axis.

    Empty if their order is not known.
    """
    members = members_of(stack)
    axis = stack.axes_manager.navigation_axes[-1]
    # The axis that HyperSpy makes counts the members, also when it is sliced.
    places = np.rint(axis.axis).astype(int)
    if np.array_equal(places, axis.axis) and set(places) <= set(range(len(members))):
        return [members[i] for i in places]
    return members if len(members) == axis.size else []
