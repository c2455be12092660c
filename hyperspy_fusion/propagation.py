"""Errors of what is computed from fused maps: profiles, means, compositions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from hyperspy.signals import BaseSignal

from .execution.arrays import is_lazy
from .inputs.images import describe, with_data
from .inputs.stacks import (
    ATTACHED,
    REPLICAS,
    members_along,
    members_of,
    remove,
    settle,
)
from .results import forget, pending

if TYPE_CHECKING:
    from .signals import ElementalMap

__all__ = ["Propagated", "propagate"]


class Propagated(NamedTuple):
    """A value that was computed from fused maps, and its standard deviation.

    Attributes
    ----------
    value : BaseSignal, numpy.ndarray, float, or list or tuple of them
        What the function returned for the fused maps.
    std : as `value`
        Its standard deviation: signals with the same axes, arrays or numbers.
    """

    value: Any
    std: Any


def propagate(
    function: Callable[[list[ElementalMap]], Any],
    fused: Sequence[ElementalMap] | ElementalMap,
) -> Propagated:
    r"""Apply a function to fused maps, and find the standard deviation of its result.

    The function is applied to the fused maps x and to each of their K replicas
    :math:`r_k`, as in a bootstrap: maps that differ from x by simulated noise and by
    the smoothing of the fusion, with the correlations that these have between pixels
    and elements. The standard deviation is

    .. math:: \sqrt{\frac 1 K \sum_k [f(r_k) - f(x)]^2}

    It includes noise and smoothing, but not the errors of what is assumed: the HAADF
    model, the background, the factors of a quantification. It is not reliable for a
    ratio whose denominator is near 0.

    Parameters
    ----------
    function : callable
        ``function(maps)`` of a list of maps, in the order of `fused`, returns a signal,
        an array, a number, or a list or tuple of these, always of the same shapes. It
        gets copies with their record, but without variance and replicas.
    fused : list of ElementalMap, or ElementalMap
        Maps that a fusion with ``n_replicas=20`` returned, parts of them (`isig`,
        `inav`), one of them, or a stack. In a series, each image has its own
        replicas.

    Returns
    -------
    Propagated
        Named tuple ``(value, std)`` of what the function returns. The deviation is that
        of the replicas for which a value is not NaN, if these are more than half of
        them; else it is NaN.

    Raises
    ------
    TypeError
        If the function returns something else.
    ValueError
        If maps have no replicas, different numbers of them, or are lazy, or the
        function returns other shapes for the replicas.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf, n_replicas=20)
    >>> def ratio(maps):
    ...     return maps[0].data.sum() / maps[1].data.sum()
    >>> value, std = hyperspy_fusion.propagate(ratio, fused)
    >>> bool(0.01 < std / value < 0.2)
    True
    """
    if not callable(function):
        raise TypeError(
            f"function is of type {type(function).__name__}: expected a function of a "
            "list of maps, as in propagate(lambda maps: maps[0].data.sum(), fused)"
        )
    maps = _listed(fused)
    replicas = [_replicas_of(signal) for signal in maps]
    found = {len(each) for each in replicas}
    if len(found) != 1:
        raise ValueError(
            f"the maps have {' and '.join(map(str, sorted(found)))} replicas: expected "
            "maps of one fusion, or of several with the same n_replicas"
        )
    plain = [with_data(signal, signal.data) for signal in maps]
    for signal in plain:
        remove(signal.metadata, *ATTACHED, REPLICAS)

    def apply(arrays: Sequence[np.ndarray]) -> Any:
        pairs = zip(plain, arrays, strict=True)
        return function([with_data(signal, array.copy()) for signal, array in pairs])

    value = apply([signal.data for signal in maps])
    wanted = _arrays(value)
    squares = [np.zeros(array.shape) for array in wanted]
    numbers = [np.zeros(array.shape) for array in wanted]
    (n_replicas,) = found
    for k in range(n_replicas):
        each = _arrays(apply([array[k] for array in replicas]))
        if [a.shape for a in each] != [a.shape for a in wanted]:
            raise ValueError(
                f"the function returned shapes {[a.shape for a in each]} for a replica "
                f"and {[a.shape for a in wanted]} for the maps: expected the same, "
                "whatever the values of the maps are"
            )
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            for i, (one, centre) in enumerate(zip(each, wanted, strict=True)):
                square = (one - centre) ** 2
                numbers[i] += ~np.isnan(square)
                squares[i] += np.where(np.isnan(square), 0, square)
    deviations = iter(
        [
            np.sqrt(total / np.where(n > n_replicas / 2, n, np.nan))
            for total, n in zip(squares, numbers, strict=True)
        ]
    )
    return Propagated(value, _like(value, deviations))


def _listed(fused: Any) -> list:
    """Maps of a list or of a stack, each with its replicas."""
    if not isinstance(fused, BaseSignal):
        fused = list(fused) if isinstance(fused, Iterable) else [fused]
        if not fused:
            raise ValueError("fused is an empty list: expected the maps of one fusion")
        return fused
    return fused.split() if members_along(fused) else [fused]


def _replicas_of(signal: Any) -> np.ndarray:
    """Replicas of a map, the first axis theirs; a ValueError if there are none."""
    if not isinstance(signal, BaseSignal):
        raise TypeError(
            f"one of the fused maps is a {type(signal).__name__}: expected maps that "
            "fuse_multimodal returned"
        )
    if is_lazy(signal.data) or pending(signal):
        raise ValueError(
            f"the map {describe(signal)} is not computed yet: call compute() of each"
        )
    if members_of(signal):
        settle(signal)
    replicas = signal.metadata.get_item(REPLICAS)
    if replicas is None or replicas.shape[1:] != signal.data.shape:
        raise ValueError(
            f"the map {describe(signal)} has no replicas: expected maps that "
            "a fusion with n_replicas=20 returned, or parts of them. Sums, "
            "arithmetic, rebin and transposition lose them: do these in the function"
        )
    return np.asarray(replicas)


def _arrays(result: Any) -> list[np.ndarray]:
    """Arrays of what a function returned, float64."""
    if isinstance(result, list | tuple):
        return [array for one in result for array in _arrays(one)]
    data = result.data if isinstance(result, BaseSignal) else result
    array = np.asarray(data)
    if array.dtype.kind not in "buif":
        raise TypeError(
            f"the function returned {type(result).__name__}: expected a signal, an "
            "array or a number, or a list of these"
        )
    return [array.astype(float)]


def _like(result: Any, arrays: Any) -> Any:
    """Arrays in the form of a result."""
    if isinstance(result, list | tuple):
        found = [_like(one, arrays) for one in result]
        return tuple(found) if isinstance(result, tuple) else found
    array = next(arrays)
    if isinstance(result, BaseSignal):
        std = with_data(result, array)
        forget(std)
        title = result.metadata.General.title
        std.metadata.General.title = f"Standard deviation of {title}"
        return std
    return array if isinstance(result, np.ndarray) else float(array)
