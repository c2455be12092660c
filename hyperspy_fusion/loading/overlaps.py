"""X-ray lines that the detector does not separate."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import sqrt

from hyperspy.signals import BaseSignal

from ..inputs.foreign import elements_of_exspy
from ..inputs.velox import is_integrated, line_of
from .candidates import title_of

# Of the elements that are not mapped, and of the other lines of those that are, only
# lines that have this fraction of the intensity of the strongest line of their shell.
_LEAST_WEIGHT = 0.1
_RESOLUTION = 130.0  # eV at Mn_Ka, where a file has none; the default of eXSpy
_MN_KA = 5898.7  # eV


def fwhm(energy: float, resolution: float) -> float:
    """Width in keV of a line at an energy in keV, after Fiori and Newbury (1978).

    `resolution` is that of the detector for Mn_Ka, in eV.
    """
    return sqrt(max(resolution**2 + 2.5 * (1000 * energy - _MN_KA), 0)) / 1000


def resolution_of(signal: BaseSignal) -> float:
    """Energy resolution of the detector of a signal for Mn_Ka, in eV."""
    found = _RESOLUTION
    for mode in ("SEM", "TEM"):
        place = f"Acquisition_instrument.{mode}.Detector.EDS.energy_resolution_MnKa"
        found = signal.metadata.get_item(place, found)
    return float(found)


@cache
def _lines_of(element: str) -> dict[str, tuple[float, float]]:
    """Energy in keV and relative weight of the X-ray lines of an element."""
    table = elements_of_exspy()
    if element not in table:
        return {}
    known = table[element].Atomic_properties.get_item("Xray_lines")
    return {
        f"{element}_{name}": (values["energy (keV)"], values["weight"])
        for name, values in (known.as_dictionary() if known else {}).items()
    }


def overlaps(
    windows: Mapping[str, Sequence[float]],
    elements: Iterable[str],
    resolution: float,
) -> list[str]:
    """Say in one warning, if any, which lines in the windows are of other elements.

    Parameters
    ----------
    windows : dict
        Window of each line that is mapped, ``[start, stop]`` in keV; it counts as at
        least one FWHM to each side of the line.
    elements : iterable of str
        Elements of the sample, whose strong lines are looked for beside those mapped.
    resolution : float
        Energy resolution of the detector for Mn_Ka, in eV.
    """
    strong = {
        line: energy
        for element in elements
        for line, (energy, weight) in _lines_of(element).items()
        if weight >= _LEAST_WEIGHT
    }
    strong |= {line: _lines_of(_element(line))[line][0] for line in windows}
    # by the elements, each pair once: the mapped lines, else the strongest
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    ordered = [*windows, *sorted(strong.keys() - windows.keys(), key=_by_weight)]
    for line, (start, stop) in windows.items():
        width = fwhm(strong[line], resolution)
        low, high = min(start, strong[line] - width), max(stop, strong[line] + width)
        for other in ordered:
            both = frozenset((_element(line), _element(other)))
            if len(both) > 1 and low <= strong[other] <= high:
                pairs.setdefault(both, (line, other))
    if not pairs:
        return []
    listed = "; ".join(
        f"{line} ({strong[line]:.3f} keV) and {other} ({strong[other]:.3f} keV), "
        f"resolution {fwhm(strong[line], resolution):.3f} keV"
        for line, other in pairs.values()
    )
    message = (
        f"X-ray lines overlap: {listed}. The map of the one shows counts of the other: "
        "choose another line with lines=, or fit a model with eXSpy and fuse the "
        "intensities that it finds"
    )
    return [message]


def overlaps_of_maps(maps: Sequence[BaseSignal]) -> list[str]:
    """As `overlaps`, for ready-made maps whose lines are known: no others are."""
    lines = {line: signal for signal in maps if (line := _known_line(signal))}
    windows = {line: [_lines_of(_element(line))[line][0]] * 2 for line in lines}
    resolution = max(map(resolution_of, lines.values()), default=_RESOLUTION)
    return overlaps(windows, (), resolution)


def _known_line(signal: BaseSignal) -> str | None:
    """Line whose counts a ready-made map shows, by its title or its file, or None.

    Not of maps of a fit, which separates the lines.
    """
    title = title_of(signal)
    if title in _lines_of(_element(title)):
        return title
    line = line_of(signal) if is_integrated(signal) else None
    return line if line in _lines_of(_element(str(line))) else None


def _element(line: str) -> str:
    return line.partition("_")[0]


def _by_weight(line: str) -> tuple[float, str]:
    return -_lines_of(_element(line))[line][1], line
