"""X-ray lines that the detector does not separate."""

from collections.abc import Iterable, Mapping, Sequence

from hyperspy.signals import BaseSignal

from ..inputs.elements import element_of, title_of
from ..inputs.velox import is_integrated, line_of
from .lines import RESOLUTION, fwhm, lines_of, resolution_of

# Of the elements that are not mapped, and of the other lines of those that are, only
# lines that have this fraction of the intensity of the strongest line of their shell.
_LEAST_WEIGHT = 0.1


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
        for line, (energy, weight) in lines_of(element).items()
        if weight >= _LEAST_WEIGHT
    }
    strong |= {line: lines_of(element_of(line))[line][0] for line in windows}
    # by the elements, each pair once: the mapped lines, else the strongest
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    ordered = [*windows, *sorted(strong.keys() - windows.keys(), key=_by_weight)]
    for line, (start, stop) in windows.items():
        width = fwhm(strong[line], resolution)
        low, high = min(start, strong[line] - width), max(stop, strong[line] + width)
        for other in ordered:
            both = frozenset((element_of(line), element_of(other)))
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
        f"X-ray lines overlap: {listed}. The map of the one shows counts of the other; "
        "fit_sum_spectrum tells how many. Choose another line with lines=, or fuse the "
        "spectra themselves with fuse_spectra, which tells the lines apart"
    )
    return [message]


def overlaps_of_maps(maps: Sequence[BaseSignal]) -> list[str]:
    """As `overlaps`, for ready-made maps whose lines are known: no others are."""
    lines = {line: signal for signal in maps if (line := _known_line(signal))}
    windows = {line: [lines_of(element_of(line))[line][0]] * 2 for line in lines}
    resolution = max(map(resolution_of, lines.values()), default=RESOLUTION)
    return overlaps(windows, (), resolution)


def _known_line(signal: BaseSignal) -> str | None:
    """Line whose counts a ready-made map shows, by its title or its file, or None.

    Not of maps of a fit, which separates the lines.
    """
    title = title_of(signal)
    if title in lines_of(element_of(title)):
        return title
    line = line_of(signal) if is_integrated(signal) else None
    return line if line in lines_of(element_of(str(line))) else None


def _by_weight(line: str) -> tuple[float, str]:
    return -lines_of(element_of(line))[line][1], line
