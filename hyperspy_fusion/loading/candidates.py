"""The signals of a file, sorted by their possible use in a fusion."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hyperspy.signals import BaseSignal

from ..execution.arrays import computed
from ..inputs.elements import infer_element, title_of
from ..inputs.foreign import load_file
from ..inputs.images import as_images, describe, may_be_haadf
from ..inputs.stacks import of_several_elements, split
from .arrays import holds_arrays, read_arrays

Source: TypeAlias = str | Path | BaseSignal | Sequence[str | Path | BaseSignal]

# The spectra of which maps can be made, by the first part of their signal type.
_SPECTRUM_KINDS = "EDS", "EELS"


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The signals of a file, sorted by their possible use; ``str()`` lists them.

    Attributes
    ----------
    maps : tuple of BaseSignal
        Images whose metadata or title name an element.
    haadf : tuple of BaseSignal
        Images that may be the HAADF image by their signal type or title.
    spectrum_images : tuple of BaseSignal
        EDS and EELS spectra with two or more navigation axes.
    others : tuple of BaseSignal
        All other signals: survey images, single spectra, line scans.
    """

    maps: tuple[BaseSignal, ...] = ()
    haadf: tuple[BaseSignal, ...] = ()
    spectrum_images: tuple[BaseSignal, ...] = ()
    others: tuple[BaseSignal, ...] = ()

    def __str__(self) -> str:
        sections = {
            "maps": map(_describe_map, self.maps),
            "HAADF candidates": map(describe, self.haadf),
            "spectrum images": map(describe_spectra, self.spectrum_images),
            "others": [describe(s) if is_image(s) else repr(s) for s in self.others],
        }
        lines = []
        for title, entries in sections.items():
            counted = Counter(entries)
            lines.append(f"{title}:" if counted else f"{title}: none")
            for entry, n in counted.items():
                lines.append(f"  {n} x {entry}" if n > 1 else f"  {entry}")
        return "\n".join(lines)


def find_candidates(
    source: Source,
    *,
    lazy: bool = False,
    **kwargs: object,
) -> Candidates:
    """Sort the signals of a file by their possible use in a fusion.

    A stack of maps of several elements, as :func:`hyperspy.api.stack` makes it, counts
    as its maps.

    Parameters
    ----------
    source : str, pathlib.Path, BaseSignal or list of these
        Files that RosettaSciIO reads, or signals that are loaded already.
    lazy : bool
        Leave the data of the files on disk.
    **kwargs
        For :func:`hyperspy.api.load`; or `pixel_size` in nm, of a file of named arrays.

    Returns
    -------
    Candidates
        The signals themselves, not copies; of a stack the maps in it.

    Raises
    ------
    TypeError
        If `source` is neither a path nor signals, or if options for reading a file
        are given with signals.

    See Also
    --------
    load_multimodal : load maps, HAADF image and background.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> specimen = hyperspy_fusion.data.core_shell(size=32)
    >>> print(hyperspy_fusion.find_candidates([*specimen.maps, specimen.haadf]))
    maps:
      Co: 'Co' (32 x 32, 2 nm/px)
      Mn: 'Mn' (32 x 32, 2 nm/px)
      O: 'O' (32 x 32, 2 nm/px)
    HAADF candidates:
      'HAADF' (32 x 32, 2 nm/px)
    spectrum images: none
    others: none
    """
    parts: dict[str, list[BaseSignal]] = defaultdict(list)
    for signal in read(source, lazy=lazy, **kwargs):
        parts[_part(signal)].append(signal)
    return Candidates(**{part: tuple(signals) for part, signals in parts.items()})


def as_list(source: Source) -> list:
    """List what a source is made of."""
    return list(source) if isinstance(source, list | tuple) else [source]


def read(source: Source, *, lazy: bool, **kwargs: object) -> list[BaseSignal]:
    """List the signals of a source; of a stack of maps of several elements its maps."""
    entries = as_list(source)
    if (lazy or kwargs) and not any(isinstance(one, str | Path) for one in entries):
        given = ["lazy"] * lazy + list(kwargs)
        raise TypeError(
            f"found {', '.join(given)} together with signals that are loaded already: "
            "these are options for reading a file, leave them out or give the path of "
            "a file"
        )
    signals: list[BaseSignal] = []
    for entry in entries:
        if isinstance(entry, str | Path):
            signals += _read_file(entry, lazy=lazy, **kwargs)
        elif isinstance(entry, BaseSignal):
            signals.append(entry)
        else:
            raise TypeError(
                f"the source holds an object of type {type(entry).__name__}: expected "
                "the path of a file, a HyperSpy signal or a list of these"
            )
    return [
        part
        for signal in signals
        for part in (split(signal) if _is_stack(signal) else [signal])
    ]


def _read_file(path: str | Path, *, lazy: bool, **kwargs: Any) -> list[BaseSignal]:
    """List the signals of a file, or the images of one of named arrays.

    A single signal without a title gets the name of the file.
    """
    if holds_arrays(path):
        others = ", ".join(sorted(kwargs.keys() - {"pixel_size"}))
        if others:
            raise TypeError(
                f"{others} is given for {path}, a file of named arrays: leave it out, "
                "the only option for such files is pixel_size"
            )
        signals = read_arrays(path, **kwargs)
        return [signal.as_lazy() for signal in signals] if lazy else signals
    if "pixel_size" in kwargs:
        raise ValueError(
            f"pixel_size is given for {path}, which is no .npz or .h5 file of named "
            "arrays: leave it out, the file has its own calibration"
        )
    signals = load_file(path, lazy=lazy, **kwargs)
    if len(signals) == 1 and not title_of(signals[0]):  # as of a .tif
        signals[0].metadata.set_item("General.title", Path(path).stem)
    return signals


def _is_stack(signal: BaseSignal) -> bool:
    return is_image(signal) and of_several_elements(as_images(signal, "stack of maps"))


def _part(signal: BaseSignal) -> str:
    """Name the attribute of `Candidates` to which a signal belongs."""
    if is_image(signal):
        if may_be_haadf(signal):
            return "haadf"
        return "others" if infer_element(signal) is None else "maps"
    several = signal.axes_manager.navigation_dimension > 1
    if several and spectrum_kind(signal) in _SPECTRUM_KINDS:
        return "spectrum_images"
    return "others"


def is_image(signal: BaseSignal) -> bool:
    """Whether `as_images` accepts it: an image of real numbers, or a series of them."""
    manager = signal.axes_manager
    on_navigation = manager.signal_dimension == 0 and manager.navigation_dimension > 1
    two_dimensional = manager.signal_dimension == 2 or on_navigation
    return two_dimensional and signal.data.dtype.kind in "biuf"


def spectrum_kind(spectra: BaseSignal) -> str:
    """First part of the signal type: ``"EDS"`` of EDS_TEM and EDS_SEM, ``"EELS"``."""
    # The metadata may hold an alias of the signal type.
    return spectra._signal_type.split("_")[0]  # noqa: SLF001


def are_empty(maps: Sequence[BaseSignal]) -> list[bool]:
    """Whether each of some maps is zero everywhere."""
    return [not filled for filled in computed([signal.data.any() for signal in maps])]


def _describe_map(signal: BaseSignal) -> str:
    text = f"{infer_element(signal)}: {describe(signal)}"
    return text + ", zero everywhere" * are_empty([signal])[0]


def describe_spectra(spectra: BaseSignal) -> str:
    """Describe a spectrum image in a line: kind, size, range of energies."""
    axis = spectra.axes_manager.signal_axes[0]
    measured = f"{axis.low_value:.5g} to {axis.high_value:.5g} {axis.units}"
    return f"{spectrum_kind(spectra)}: {describe(spectra)}, {measured}"
