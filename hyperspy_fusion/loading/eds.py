"""Maps of X-ray lines, and their background, from EDS spectra."""

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
from hyperspy.axes import UniformDataAxis
from hyperspy.misc.utils import DictionaryTreeBrowser
from hyperspy.signals import BaseSignal

from ..execution.arrays import is_masked
from ..inputs.elements import element_of, sample_entries
from ..inputs.images import axes_of, new_signal, with_data
from ..inputs.microscope import mend_numbers, no_numbers
from .lines import (
    LOWEST,
    PER_KEV,
    beam_energy_of,
    lines_of,
    resolution_of,
)
from .maps import Mapped, background_signal, elemental_map
from .overlaps import overlaps
from .smoothing import map_filled, smooth_counts
from .spectra import (
    check_spectra,
    elements_of,
    energy_axis,
    is_auto,
    one_line_message,
    sum_channels,
    window_rows,
)


def plan_eds(
    spectra: BaseSignal,
    chosen: dict[str, str | None],
    background: Any,
    integration: Any,
) -> Callable[[], Mapped]:
    """Check lines and windows for EDS spectra; return a function that makes the maps.

    The spectra, counts of shape ``navigation + (y, x, energy)``, are not modified.
    `chosen` holds elements and lines as from `lines_by_element`; `background` and
    `integration` are the windows as given to :func:`hyperspy_fusion.load_multimodal`.
    The function warns of lines that overlap; it returns no backgrounds without
    background windows.
    """
    # a private copy except for the data: eXSpy slices it, see `new_signal`
    check_spectra(spectra)
    messages = no_numbers(spectra)
    spectra = with_data(spectra, spectra.data)
    mend_numbers(spectra)
    lines = choose_lines(spectra, chosen)
    axis = energy_axis(spectra)
    if integration is None:
        integration = spectra.estimate_integration_windows(xray_lines=lines)
    elif isinstance(integration, Real) and not isinstance(integration, bool):
        integration = spectra.estimate_integration_windows(integration, lines)
    unit = PER_KEV[axis.units]
    if is_auto(background):
        background = spectra.estimate_background_windows(xray_lines=lines)
        messages += _leave_out_noise(background, lines, LOWEST * unit)
    integration = window_rows("integration_windows", integration, lines, 2, axis)
    _check_channels("integration_windows", integration, lines, axis)
    if background is not None:
        background = window_rows("background_windows", background, lines, 4, axis)
        _check_channels("background_windows", background, lines, axis)
    windows = {
        line: [energy / unit for energy in row]
        for line, row in zip(lines, integration, strict=True)
    }
    present = {element_of(line) for line in lines}
    present |= set(sample_entries(spectra, "elements"))
    messages += overlaps(windows, present, resolution_of(spectra))
    return partial(_map_lines, spectra, lines, integration, background, messages)


def plan_spectra(
    spectra: BaseSignal,
    chosen: dict[str, str | None],
    background: Any,  # noqa: ARG001 - spectra need no windows
    integration: Any,  # noqa: ARG001
) -> Callable[[], Mapped]:
    """As :func:`plan_eds`, for spectra that are fused as they are.

    The function returns them in place of maps, their metadata with elements and lines.
    """
    lines = choose_lines(spectra, chosen)
    result = with_data(spectra, spectra.data)
    elements = [element_of(line) for line in lines]
    result.metadata.set_item("Sample.elements", elements)
    result.metadata.set_item("Sample.xray_lines", lines)
    return lambda: Mapped([result], None, [])


def choose_lines(spectra: BaseSignal, chosen: dict[str, str | None]) -> list[str]:
    """Return the line of each element; eXSpy fills in its defaults."""
    check_spectra(spectra)
    axis = energy_axis(spectra)
    wanted = list(chosen) or elements_of(spectra)
    without = [element for element in wanted if not lines_of(element)]
    if without:
        raise ValueError(f"{without[0]} has no known X-ray lines: leave it out")
    given = [line for line in chosen.values() if line]
    left = {element for element in wanted if not chosen.get(element)}
    named = sample_entries(spectra, "xray_lines")
    given += [line for line in named if element_of(line) in left]
    beam = beam_energy_of(spectra)
    high = min(axis.high_value, PER_KEV[axis.units] * beam)
    span = f"{axis.low_value:.5g} to {high:.5g} {axis.units}"
    if high < axis.high_value:
        span += ", the energy of the beam"
    _check_range(given, axis, high, span)

    # with the metadata that eXSpy looks at, and no others: files hold anything
    known = {"Acquisition_instrument": {"TEM": {"beam_energy": beam}}}
    probe: Any = new_signal(
        spectra,
        np.zeros(axis.size),
        axes=axes_of(spectra)[-1:],
        metadata=DictionaryTreeBrowser(known if np.isfinite(beam) else {}),
        original_metadata=DictionaryTreeBrowser(),
        signal_type="EDS_TEM",
    )
    probe.set_elements(wanted)
    probe.set_lines(given)
    by_element: dict[str, list[str]] = {element: [] for element in wanted}
    for line in probe.metadata.Sample.xray_lines:
        by_element[element_of(line)].append(line)
    for element, lines in by_element.items():
        if not lines:
            raise ValueError(
                f"{element} has no α line in the measured range, {span}: leave it "
                "out, or choose another line with lines="
            )
        if len(lines) > 1:
            raise ValueError(one_line_message(element, lines))
    return [line for lines in by_element.values() for line in lines]


def _check_range(
    lines: Sequence[str], axis: UniformDataAxis, high: float, span: str
) -> None:
    """Raise a ValueError if lines do not exist or were not measured.

    eXSpy would only warn of the latter. To catch a warning is not safe in threads.
    """
    for line in lines:
        known = lines_of(element_of(line))
        if line not in known:
            raise ValueError(
                f"{line} is not a line of {element_of(line)}: expected one of "
                f"{', '.join(sorted(known))}"
            )
        energy = PER_KEV[axis.units] * known[line][0]
        if not axis.low_value < energy < high:
            raise ValueError(
                f"{line} is at {energy:.5g} {axis.units}, outside the measured {span}: "
                "choose another line"
            )


def _leave_out_noise(
    windows: np.ndarray, lines: Sequence[str], lowest: float
) -> list[str]:
    """Replace windows that hold noise of the detector by halves of those above a line.

    In place. Returns a warning if there are any.
    """
    low = windows[:, 0] < lowest
    windows[low, 0] = windows[low, 2]
    windows[low, 1:3] = windows[low, 2:].mean(axis=1, keepdims=True)
    if not low.any():
        return []
    named = ", ".join(line for line, one in zip(lines, low, strict=True) if one)
    message = (
        f"the background of {named} was estimated from the channels above only, since "
        "those below hold noise of the detector, and its zero peak: give "
        "background_windows= for others"
    )
    return [message]


def _check_channels(
    argument: str,
    rows: list[list[float]],
    lines: Sequence[str],
    axis: UniformDataAxis,
) -> None:
    """Raise a ValueError if the windows of a line hold no channel."""
    for line, row in zip(lines, rows, strict=True):
        if not np.diff(axis.value2index(np.array(row)))[::2].any():
            raise ValueError(
                f"{argument} of {line} is {np.round(row, 4).tolist()} {axis.units}, "
                f"too narrow for channels of {axis.scale:.4g} {axis.units}: expected "
                "at least one channel"
            )


def _map_lines(
    spectra: BaseSignal,
    lines: list[str],
    integration: list[list[float]],
    background: list[list[float]] | None,
    messages: list[str],
) -> Mapped:
    """Sum the windows of the lines; estimate the background from those beside them."""
    axis = spectra.axes_manager.signal_axes[0]
    intensities = spectra.get_lines_intensity(lines, integration_windows=integration)
    if is_masked(spectra.data):  # eXSpy takes a masked channel for 0
        for intensity, inside in zip(intensities, integration, strict=True):
            window = axis.value2index(np.array(inside))
            intensity.data = sum_channels(spectra, *window)
    maps = [
        elemental_map(intensity, element_of(line))
        for intensity, line in zip(intensities, lines, strict=True)
    ]
    if background is None:
        return Mapped(maps, None, messages)
    backgrounds = []
    for signal, inside, beside in zip(maps, integration, background, strict=True):
        start, stop = axis.value2index(np.array(inside))
        left, left_stop, right, right_stop = axis.value2index(np.array(beside))
        counts = sum_channels(spectra, left, left_stop)
        counts = counts + sum_channels(spectra, right, right_stop)
        # the mean per channel times the channels of the line, as in eXSpy
        ratio = (stop - start) / (left_stop - left + right_stop - right)
        smooth = ratio * map_filled(smooth_counts, counts)
        backgrounds.append(background_signal(signal, smooth))
    return Mapped(maps, backgrounds, messages)
