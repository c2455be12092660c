"""Maps of the edges of energy-loss spectra, and their background."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from numbers import Real
from typing import Any

import numpy as np
from hyperspy.axes import UniformDataAxis
from hyperspy.signals import BaseSignal

from ..inputs.elements import element_of, sample_entries
from ..inputs.foreign import elements_of_exspy
from ..inputs.images import axes_of, new_signal
from .maps import Mapped, background_signal, elemental_map
from .smoothing import count_value, map_filled, smooth_ratio
from .spectra import elements_of, is_auto, sum_channels, window_rows

_logger = logging.getLogger(__name__)

# Default windows of an edge; the notes of load_multimodal explain them.
_LOWEST_ONSET = 100.0  # eV
_BACKGROUND_START = 0.85  # fraction of the onset energy
_INTEGRATION_STOP = 1.1  # fraction of the onset energy
_GAP = 0.01  # between background and onset, fraction of the onset energy
_LEAST_GAP = 2.0  # eV
_DECAY = 30.0  # eV, from an edge to the earliest start of the next background
_LEAST_WIDTH = 10.0  # eV
_EXPONENTS = 0.0, 10.0  # physical range of the exponent r of a background
_SMALL = 1e-6  # keeps logarithms and quotients finite


def plan_eels(
    spectra: BaseSignal,
    chosen: dict[str, str | None],
    background: Any,
    integration: Any,
) -> Callable[[], Mapped]:
    """Check edges and windows for EELS spectra; else as `plan_eds`."""
    axis = spectra.axes_manager.signal_axes[0]
    if axis.units != "eV" or not axis.is_uniform:
        raise ValueError(
            f"the {'' if axis.is_uniform else 'non-uniform '}energy axis is in "
            f"{axis.units}: expected equal channels in eV, see axis.convert_to_units "
            "and signal.interpolate_on_axis"
        )
    chosen = chosen or dict.fromkeys(elements_of(spectra))
    names = [line or element for element, line in chosen.items()]
    backgrounds: Sequence = [None] * len(names)
    integrations: Sequence = [None] * len(names)
    if not (background is None or is_auto(background)):
        backgrounds = window_rows("background_windows", background, names, 2, axis)
    if isinstance(integration, Real) and not isinstance(integration, bool):
        integrations = [float(integration)] * len(names)
    elif integration is not None:
        integrations = window_rows("integration_windows", integration, names, 2, axis)

    edges = {}
    for (element, line), *given in zip(
        chosen.items(), backgrounds, integrations, strict=True
    ):
        others = {*chosen, *sample_entries(spectra, "elements")} - {element}
        edge, windows = _choose_edge(element, line, _major_onsets(others), axis, *given)
        edges[edge] = windows
    return partial(_map_edges, spectra, edges)


@cache
def _binding_energies(element: str) -> dict[str, tuple[float, str]]:
    """Onset energy in eV and relevance of each edge of an element."""
    shells = elements_of_exspy()[element].Atomic_properties.get_item("Binding_energies")
    return {
        f"{element}_{shell}": (values["onset_energy (eV)"], values["relevance"])
        for shell, values in (shells.as_dictionary() if shells else {}).items()
        if not shell.endswith("a")  # the fine structure of carbon
    }


def _major_onsets(elements: Iterable[str]) -> list[float]:
    """Onset energies of the major edges of elements, eV."""
    return [
        onset
        for element in elements
        for onset, relevance in _binding_energies(element).values()
        if relevance == "Major"
    ]


def _choose_edge(
    element: str,
    line: str | None,
    other_onsets: list[float],
    axis: UniformDataAxis,
    background: list[float] | None,
    integration: list[float] | float | None,
) -> tuple[str, tuple[list[float], list[float]]]:
    """Find the edge of an element that has room for its windows, and these in eV.

    `line` is the requested edge, `other_onsets` those of the major edges of the other
    elements in eV, `background` a window and `integration` a window or width as given
    by the user; None stands for the default.
    """
    known = _binding_energies(element)
    if line is None:
        majors = [
            edge
            for edge, (onset, relevance) in known.items()
            if relevance == "Major" and onset >= _LOWEST_ONSET
        ]
        majors.sort(reverse=True)  # of two at one energy the stronger first: M5, M4
        shells: dict[str, str] = {}
        for edge in sorted(majors, key=lambda edge: known[edge][0]):
            shells.setdefault(edge.split("_")[1][0], edge)
        edges = list(shells.values())
        expected = f"major edge above {_LOWEST_ONSET:g} eV, choose another"
    else:
        edges = [line] if line in known else []
        expected = f"edge {line}, choose one"
    if not edges:
        raise ValueError(
            f"{element} has no {expected} with lines=: {', '.join(known) or 'none'}"
        )
    refusals = []
    for edge in edges:
        onset, _ = known[edge]
        try:
            windows = _edge_windows(
                edge, onset, other_onsets, axis, background, integration
            )
        except ValueError as refusal:
            refusals.append(str(refusal))
        else:
            message = "%s: background %.5g to %.5g eV, sum %.5g to %.5g eV"
            _logger.info(message, edge, *windows[0], *windows[1])
            return edge, windows
    raise ValueError("; ".join(refusals))


def _gap(onset: float) -> float:
    return max(_LEAST_GAP, _GAP * onset)


def _edge_windows(
    edge: str,
    onset: float,
    other_onsets: list[float],
    axis: UniformDataAxis,
    background: list[float] | None,
    integration: list[float] | float | None,
) -> tuple[list[float], list[float]]:
    """Complete the windows of an edge; arguments as for `_choose_edge`."""
    low, high = axis.low_value, axis.high_value
    if not low < onset < high:
        raise ValueError(
            f"{edge} is at {onset:g} eV, outside the measured {low:.5g} to {high:.5g} "
            "eV"
        )
    if isinstance(integration, float):
        before = -np.inf if background is None else background[1]
        integration = [max(onset - _gap(onset), before), onset + integration]
    room = [_LEAST_WIDTH]
    if background is None:
        onsets = _major_onsets([edge.partition("_")[0]]) + other_onsets
        stop = min([onset - _gap(onset), *(integration or ())])
        start = max(
            [low, _BACKGROUND_START * onset, *(e + _DECAY for e in onsets if e < onset)]
        )
        background = [start, stop]
        room.append(stop - start)
    if integration is None:
        start = max(onset - _gap(onset), background[1])
        stop = min(
            [
                high,
                _INTEGRATION_STOP * onset,
                *(e - _gap(e) for e in other_onsets if e >= onset),
            ]
        )
        integration = [start, stop]
        room.append(stop - onset)
    if min(room) < _LEAST_WIDTH:
        raise ValueError(
            f"{edge} at {onset:g} eV has no room of {_LEAST_WIDTH:g} eV for the "
            "default windows, within the measured range and away from the edges of "
            "the other elements: give background_windows and integration_windows, or "
            "fit a model with eXSpy where edges overlap"
        )
    rising = np.all(np.diff([*background, *integration, high]) >= 0)
    if not (rising and 0 < background[0] < onset < integration[1]):
        raise ValueError(
            f"background window {background} eV and integration window {integration} "
            f"eV do not fit {edge} at {onset:g} eV: expected the background, then the "
            "edge, at energies above 0 and within the measured range"
        )
    return background, integration


def _map_edges(
    spectra: BaseSignal, edges: dict[str, tuple[list[float], list[float]]]
) -> Mapped:
    """Sum the windows of edges; extrapolate the background before them."""
    maps, backgrounds = [], []
    for edge, windows in edges.items():
        raw, background = _edge_counts(spectra, *windows)
        image = new_signal(spectra, raw, axes=axes_of(spectra)[:-1])
        image.metadata.General.title = edge
        maps.append(elemental_map(image, element_of(edge)))
        backgrounds.append(background_signal(maps[-1], background))
    return Mapped(maps, backgrounds, [])


def _edge_counts(
    spectra: BaseSignal, background: list[float], integration: list[float]
) -> tuple[Any, Any]:
    """Sum a window, and the power law of another; see the notes of load_multimodal.

    Of counts of shape ``navigation + (y, x, energy)`` and windows ``[start, stop]`` in
    eV; returns raw counts and background, shape ``navigation + (y, x)``.
    """
    axis = spectra.axes_manager.signal_axes[0]
    middle = np.sqrt(background[0] * background[1])
    energies = np.array([background[0], middle, background[1], *integration])
    channels = axis.value2index(energies)
    if not np.all(np.diff(channels)[[0, 1, 3]] > 0):
        raise ValueError(
            f"background window {background} eV and integration window {integration} "
            f"eV are too narrow for channels of {axis.scale:.4g} eV: expected at least "
            "two channels of background and one of the edge"
        )
    # A channel begins half a channel below its energy.
    bounds = axis.offset + (channels - 0.5) * axis.scale

    c1, c2, c3, c4, c5 = channels
    before = map_filled(
        partial(_power_law, bounds=bounds),
        sum_channels(spectra, c1, c2),
        sum_channels(spectra, c2, c3),
    )
    return sum_channels(spectra, c4, c5), before


def _power_law(i1: np.ndarray, i2: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Counts of background in the window of an edge, by the two-area method.

    `i1`, `i2` are the counts I1 and I2 and `bounds` the energies E1 to E5 of the notes
    of load_multimodal.
    """
    e1, e2, e3, e4, e5 = bounds
    i1, i2 = np.maximum(i1, 0), np.maximum(i2, 0)
    both = i1 + i2
    if not both.any():
        return both
    count = count_value(both)
    level = smooth_ratio(both, np.ones_like(both), count * both)
    # Given the counts of a pixel, those in the first part are binomially distributed.
    p = i1.sum() / both.sum()
    fraction = smooth_ratio(i1, both, count * p * (1 - p) * both)
    fraction = np.clip(fraction, _SMALL, 1 - _SMALL)
    r = 2 * np.log(fraction / (1 - fraction) * (e3 - e2) / (e2 - e1)) / np.log(e3 / e1)
    k = 1 - np.clip(r, *_EXPONENTS)
    # k = 0 would give 0 / 0; the limit is continuous, so a small k comes close to it
    k = np.where(np.abs(k) < _SMALL, _SMALL, k)
    return level * (e5**k - e4**k) / (e3**k - e1**k)
