"""What Velox says of its ready-made EDS maps: their filter and their X-ray lines.

RosettaSciIO keeps the settings of the whole file in the original metadata of each of
its signals, in the form that Velox has written since version 11 of its files. Maps that
were made from the spectra of the file have them, too, so ready-made maps are told apart
by their detector: all segments together, of no number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hyperspy.signals import BaseSignal

from .elements import atomic_number, infer_element

# The settings of the filters of spectra and of maps: where Velox names them, and the
# names of kind and size in them.
_FILTERS = (
    ("spectralFiltersettings", "type", "size"),
    ("quantificationKernelFilterSettings", "filter", "kernelSize"),
)
_BOXES = "Mean", "TopHat"
# The shell from which an electron falls when the α line is emitted.
_ALPHA = {"K": "L3", "L": "M5", "M": "N7"}


@dataclass(frozen=True)
class Filter:
    """A filter that was applied to a map: its neighbouring pixels share their noise.

    Attributes
    ----------
    name : str
        As in the file, such as ``"Mean"``.
    size : int or None
        Pixels along each side of the kernel; None if the kernel has no sharp end or is
        not known.
    """

    name: str
    size: int | None = None

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.size} x {self.size} pixels" if self.size else self.name
        )


def filter_of(signal: BaseSignal) -> Filter | None:
    """Filter of a ready-made EDS map by its original metadata; None if there is none.

    Of two filters, of the spectra and of the maps, the names and the kernel of both.
    """
    found = []
    for entry, kind, size in _FILTERS:
        settings = _settings(signal, _eds_of_map(signal).get(entry))
        if settings.get("enabled") not in (True, "true"):
            continue
        name = str(settings.get(kind))
        if name in _BOXES:
            found.append(Filter(name, int(settings.get(size, 0)) or None))
        elif name == "Gaussian":
            found.append(Filter(f"Gaussian, sigma {settings.get('sigma')} pixels"))
        else:
            found.append(Filter(name))
    if not found:
        return None
    sizes = [one.size for one in found if one.size]
    whole = sum(sizes) - len(sizes) + 1 if len(sizes) == len(found) else None
    return Filter(" and ".join(one.name for one in found), whole)


def line_of(signal: BaseSignal) -> str | None:
    """X-ray line whose counts a ready-made EDS map shows, as ``"Cu_Ka"``, or None.

    None as well if the line is not known, or no α line.
    """
    element = infer_element(signal)
    settings = _settings(signal, _eds_of_map(signal).get("quantificationSettings"))
    for node in _nodes(settings):
        family = node.get("atomicShellFamily")
        if element is None or node.get("element") != atomic_number(element):
            continue
        shells = {transition.get("from") for transition in _nodes(node)} - {None}
        if family in _ALPHA and (not shells or _ALPHA[family] in shells):
            return f"{element}_{family}a"
    return None


def is_integrated(signal: BaseSignal) -> bool:
    """Whether a ready-made EDS map is the sum of a window, not the result of a fit."""
    return _feature_of_map(signal).get("quantificationMode") == "Integration"


def same_scan(one: BaseSignal, other: BaseSignal) -> bool:
    """Whether two signals are of the same scan of a Velox file."""
    return bool(_features(one).keys() & _features(other).keys())


def _features(signal: BaseSignal) -> dict[str, Any]:
    """Spectrum images of the file of a signal, by their identifiers."""
    features = signal.original_metadata.get_item("Features.SIFeature")
    return features.as_dictionary() if features else {}


def _feature_of_map(signal: BaseSignal) -> dict[str, Any]:
    """Spectrum image from which Velox made a map; empty if it is no such map."""
    result = signal.original_metadata.get_item("BinaryResult")
    if result is None or "DetectorIndex" in result:
        return {}
    for feature in _features(signal).values():
        detectors = {
            node.get("physicalDetector") for node in _nodes(feature.get("eds"))
        }
        if result.get_item("Detector") in detectors - {None}:
            return feature
    return {}


def _eds_of_map(signal: BaseSignal) -> dict[str, Any]:
    return _feature_of_map(signal).get("eds", {})


def _settings(signal: BaseSignal, path: str | None) -> dict[str, Any]:
    """Settings of a file at the path that Velox names."""
    place = str(path).strip("/").replace("/", ".")
    found = signal.original_metadata.get_item(place)
    return found.as_dictionary() if found else {}


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All dictionaries in a tree of dictionaries and lists; .nxs keeps no lists."""
    if isinstance(tree, dict):
        yield tree
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return
    for branch in tree:
        yield from _nodes(branch)
