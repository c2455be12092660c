"""Files -> elemental maps and HAADF image.

RosettaSciIO reads, eXSpy knows lines and edges; decided here is which of the many
signals of a file are meant, and how an EELS edge becomes a map.
"""

import logging
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from numbers import Integral, Real
from pathlib import Path

import dask
import dask.array as da
import hyperspy.api as hs
import numpy as np
from dask import is_dask_collection
from scipy.ndimage import gaussian_filter

from .core.calibration import fill, map_noise
from .pairing import (
    BACKGROUND,
    as_images,
    atomic_number,
    change_background,
    choose_haadf,
    describe,
    infer_element,
    may_be_haadf,
    series_shape,
)

__all__ = ["Candidates", "find_candidates", "load_multimodal"]

_logger = logging.getLogger(__name__)

# The windows of an EELS edge, unless the user gives them; the docstring of
# load_multimodal explains them.
_LOWEST_ONSET = 100.0  # eV
_BACKGROUND_START = 0.85  # of the onset
_INTEGRATION_STOP = 1.1  # of the onset
_GAP, _LEAST_GAP = 0.01, 2.0  # of the onset; eV
_DECAY = 30.0  # eV, from an edge to where the next background may start
_LEAST_WIDTH = 10.0  # eV
_EXPONENTS = 0.0, 10.0  # physical ones of a background
_SMALL = 1e-6
_LEAST_SIZE = 5  # pixels, of an image whose noise can be estimated
# What makes RosettaSciIO read single frames, by the suffix of the file. Other formats
# have no such options, or no images of the frames.
_FRAME_OPTIONS = {".emd": {"load_SI_image_stack": True, "sum_frames": False}}
_N_FRAMES = "Acquisition_instrument.TEM.Detector.EDS.number_of_frames"
# Standard deviations of the Gaussians from which `_smooth` chooses, pixels; infinity
# is the mean over the image.
_WIDTHS = 0.0, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 8.0, np.inf


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """What a file offers for a fusion; ``str()`` lists it.

    Attributes
    ----------
    maps : tuple of BaseSignal
        Images that show an element by their metadata or title.
    haadf : tuple of BaseSignal
        Images that may be the HAADF image by their signal type or title.
    spectrum_images : tuple of BaseSignal
        EDS and EELS spectra with two or more navigation axes.
    others : tuple of BaseSignal
        All the rest: survey images, single spectra, line scans.
    """

    maps: tuple = ()
    haadf: tuple = ()
    spectrum_images: tuple = ()
    others: tuple = ()

    def __str__(self):
        sections = {
            "maps": map(_describe_map, self.maps),
            "HAADF candidates": map(describe, self.haadf),
            "spectrum images": map(_describe_spectra, self.spectrum_images),
            "others": [describe(s) if _is_image(s) else repr(s) for s in self.others],
        }
        lines = []
        for title, entries in sections.items():
            counted = Counter(entries)
            lines.append(f"{title}:" if counted else f"{title}: none")
            for entry, n in counted.items():
                lines.append(f"  {n} x {entry}" if n > 1 else f"  {entry}")
        return "\n".join(lines)


def find_candidates(source, *, lazy=False, **kwargs):
    """Sort what a file holds by its part in a fusion.

    Parameters
    ----------
    source : str, pathlib.Path, BaseSignal or list of BaseSignal
        A file that RosettaSciIO reads, or what was read from it.
    lazy : bool
        Leave the data of the file on disk.
    **kwargs
        For :func:`hyperspy.api.load`.

    Returns
    -------
    Candidates

    Raises
    ------
    TypeError
        If `source` is neither a path nor signals, or options of reading come with
        signals.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> from hyperspy_fusion.loading import find_candidates
    >>> specimen = hyperspy_fusion.data.core_shell(size=32)
    >>> print(find_candidates([*specimen.maps, specimen.haadf]))
    maps:
      Co: 'Co' (32 x 32, 2 nm/px)
      Mn: 'Mn' (32 x 32, 2 nm/px)
      O: 'O' (32 x 32, 2 nm/px)
    HAADF candidates:
      'HAADF' (32 x 32, 2 nm/px)
    spectrum images: none
    others: none
    """
    parts = {"maps": [], "haadf": [], "spectrum_images": [], "others": []}
    for signal in _read(source, lazy=lazy, **kwargs):
        parts[_part(signal)].append(signal)
    return Candidates(**{part: tuple(signals) for part, signals in parts.items()})


def _read(source, *, lazy, **kwargs):
    """List the signals of a source."""
    if isinstance(source, str | Path):
        if Path(source).exists():  # a str with brackets may be the name of another file
            source = Path(source)
        source = hs.load(source, lazy=lazy, **kwargs)
    elif lazy or kwargs:
        given = ["lazy"] * lazy + list(kwargs)
        raise TypeError(
            f"{', '.join(given)}: options of reading a file, and the signals handed "
            "over have been read already; hand over a path, or leave the options out"
        )
    signals = list(source) if isinstance(source, list | tuple) else [source]
    for signal in signals:
        if not isinstance(signal, hs.signals.BaseSignal):
            raise TypeError(
                f"the source holds a {type(signal).__name__}: expected the path of a "
                "file, a HyperSpy signal or a list of HyperSpy signals"
            )
    return signals


def _part(signal):
    """Name the attribute of `Candidates` to which a signal belongs."""
    if _is_image(signal):
        if may_be_haadf(signal):
            return "haadf"
        return "others" if infer_element(signal) is None else "maps"
    manager = signal.axes_manager
    if manager.navigation_dimension > 1 and _kind(signal) in _PLANS:
        return "spectrum_images"
    return "others"


def _is_image(signal):
    """Whether `as_images` accepts it: an image of real numbers, or a series of them."""
    manager = signal.axes_manager
    on_navigation = manager.signal_dimension == 0 and manager.navigation_dimension > 1
    shaped = manager.signal_dimension == 2 or on_navigation
    return shaped and signal.data.dtype.kind in "biuf"


def _kind(spectra):
    # The metadata may hold an alias of the signal type.
    return spectra._signal_type.split("_")[0]  # noqa: SLF001


def _describe_map(signal):
    text = f"{infer_element(signal)}: {describe(signal)}"
    if not signal._lazy and not signal.data.any():  # noqa: SLF001
        text += ", zero everywhere"
    return text


def _describe_spectra(spectra):
    axis = spectra.axes_manager.signal_axes[0]
    measured = f"{axis.low_value:.5g} to {axis.high_value:.5g} {axis.units}"
    return f"{_kind(spectra)}: {describe(spectra)}, {measured}"


def load_multimodal(
    source,
    elements=None,
    lines=None,
    *,
    haadf=None,
    background_windows=None,
    integration_windows=None,
    frames=None,
    lazy=False,
    **kwargs,
):
    r"""Load elemental maps and the HAADF image that goes with them.

    Ready-made maps, as Velox writes them, are taken as they are. Where there are none,
    or `lines`, `background_windows` or `integration_windows` ask for it, the maps are
    made from an EDS, else an EELS spectrum image. If there are several, it is the one
    that measured all the lines and, of these, the one of the size of the HAADF image.
    Nothing is guessed: where a choice is left, the error lists it. Signals that are
    handed over are not modified.

    Parameters
    ----------
    source : str, pathlib.Path, BaseSignal or list of BaseSignal
        A file that RosettaSciIO reads, or signals that have been loaded from one or
        several files.
    elements : list of str, optional
        What to map, in this order: titles of ready-made maps (``"Fe-EELS"``) or
        symbols (``"Fe"``); a title is looked for first. By default all ready-made
        maps, or ``metadata.Sample.elements`` of the spectrum image, by rising Z.
    lines : list of str, optional
        X-ray lines (``"Fe_Ka"``) or EELS edges (``"Fe_L3"``) to map from a spectrum
        image, one per element. By default, for EDS, those of
        ``metadata.Sample.xray_lines`` or, per element, the line that eXSpy prefers:
        the α line of highest energy below half the beam energy. For EELS the lowest
        major edge above 100 eV with room for both windows.
    haadf : str, pathlib.Path or Signal2D, optional
        The HAADF image: title of an image of the source, path of another file, or a
        signal. By default the only image that fits by its title and its size.
    background_windows : list of list of float, or "auto", optional
        For EDS, in the units of the energy axis, a row ``[left start, left stop,
        right start, right stop]`` for each map; ``"auto"`` takes those of eXSpy's
        ``estimate_background_windows``, None knows of no background. For EELS, in
        eV, a row ``[start, stop]`` for each map; None and ``"auto"`` are the
        default of the notes.
    integration_windows : float or list of list of float, optional
        A row ``[start, stop]`` for each map, in the units above, or one number: for
        EDS the width in units of the FWHM of the line (default 2, as in eXSpy), for
        EELS the width in eV, counted from the onset.
    frames : slice, list of int or list of bool, optional
        Which frames to keep of spectra, or maps, that are a stack of them: those of a
        slice, the numbers from 0 (negative ones count from the end), or those that
        are True. The kept frames of the spectra are summed, so that counts stay
        counts, and a HAADF stack of the same frames is averaged, so that it stays in
        the units of one frame. Frames of a Velox ``.emd`` file are read as such; the
        maps in it, sums of all frames, are not taken then. By default nothing is
        summed.
    lazy : bool
        Leave the data of the file on disk: the maps and the HAADF image are lazy.
    **kwargs
        For :func:`hyperspy.api.load`, such as ``file_format`` or ``sum_frames``.

    Returns
    -------
    maps : list of ElementalMap
        One per element, shape ``navigation + (y, x)``, in the order of `elements`, or
        of `lines`, or of the file. ``metadata.Sample.elements`` holds the symbol;
        ready-made maps keep their units, those of spectra are in counts (or whatever
        the spectra hold). The latter are raw, with their background: its estimate, a
        signal of the same pixels and units, stands in
        ``metadata.Elemental_map.background``, where :func:`fuse_multimodal` finds it.
        :meth:`ElementalMap.get_net_map` subtracts it.
    haadf : HAADFImage
        Shape ``navigation + (y, x)``, in the units of the detector.

    Raises
    ------
    ValueError
        If something is missing or ambiguous; the message lists what there is. If
        there are no frames, not those of `frames`, or `frames` keeps none.
    TypeError
        If `source` or `haadf` is no signal and no path, a name is no string, or
        `frames` is no slice and no list of integers or booleans.

    See Also
    --------
    find_candidates : what a file holds.
    fuse_multimodal : fuse what was loaded.

    Notes
    -----
    Maps keep the background because subtracting it would spoil their statistics: a
    difference of counts is not Poisson distributed, and a fusion that knows the
    background of raw counts uses all that they say.

    An EELS edge at the energy E is mapped by the sum of its window. Its background is
    the power law :math:`A E^{-r}` that the two-area method [1]_ finds in each pixel:
    with the counts :math:`I_1, I_2` of the two parts :math:`[E_1, E_2]`, :math:`[E_2,
    E_3]` of the background window, :math:`E_2 = \sqrt{E_1 E_3}`, the window
    :math:`[E_4, E_5]` holds

    .. math::

        (I_1 + I_2) \frac{E_5^k - E_4^k}{E_3^k - E_1^k}, \quad
        k = 1 - r, \quad
        r = 2 \ln\frac{I_1 (E_3 - E_2)}{I_2 (E_2 - E_1)} \Big/ \ln\frac{E_3}{E_1}

    counts of background. r is kept between 0 and 10. That of an X-ray line is the mean
    of its two windows, times the ratio of the widths, as in eXSpy.

    In single pixels these estimates are noisy, and a fusion takes the background for
    known. So :math:`I_1 + I_2` and :math:`I_1 / (I_1 + I_2)`, or the sum of the X-ray
    windows, are first smoothed by a Gaussian in the image plane. Of ten widths from 0
    to 8 pixels and infinity, that one is taken whose expected squared error by Stein's
    unbiased estimate is the smallest: few counts are smoothed as far as the specimen
    allows it, many counts stay as sharp as they are.

    The windows of an edge are chosen thus: by default the background window runs from 0.85 E
    to 0.99 E and the sum from there to 1.1 E, but at least 2 eV are left before the
    onset. Both stay within the measured range, the background starts at least 30 eV
    after the previous major edge of the elements (of those mapped and those in
    ``metadata.Sample.elements``), and the sum stops short of the next one. If less
    than 10 eV remain for the background or after the onset, there is no room: give
    the windows or, for edges that overlap, fit a model with eXSpy and hand over its
    maps. The windows used are logged (level INFO).

    Without `frames` RosettaSciIO sums the frames of the spectra of a Velox file, and
    takes the first HAADF image of the stack. Single frames are read as a sparse array,
    and only the maps of their sum are computed: the memory needed grows with the counts
    in the file, not with frames times channels. A HAADF image without frames is taken
    as it is, if it is named with `haadf`.

    References
    ----------
    .. [1] R. F. Egerton, Electron Energy-Loss Spectroscopy in the Electron
       Microscope, 3rd ed. (Springer, 2011), section 4.4.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> specimen = hyperspy_fusion.data.core_shell(size=32)
    >>> signals = [*specimen.maps, specimen.haadf]
    >>> maps, haadf = hyperspy_fusion.load_multimodal(signals, ["O", "Co"])
    >>> maps
    [<ElementalMap, title: O, dimensions: (|32, 32)>, <ElementalMap, title: Co, dimensions: (|32, 32)>]

    From the spectra of a file:

    >>> maps, haadf = hyperspy_fusion.load_multimodal(
    ...     "spectrum image.emd", lines=["C_Ka", "Cu_Ka"], background_windows="auto"
    ... )  # doctest: +SKIP

    Of frames, without the ten in which the specimen drifted still:

    >>> maps, haadf = hyperspy_fusion.load_multimodal(
    ...     "spectrum image.emd", ["C", "Cu"], frames=slice(10, None)
    ... )  # doctest: +SKIP
    """  # noqa: E501 - what doctest compares with
    elements, lines = _as_list("elements", elements), _as_list("lines", lines)
    compute = False
    if frames is not None:
        frames = _as_index(frames)
        if isinstance(source, str | Path):
            kwargs = {**_FRAME_OPTIONS.get(Path(source).suffix.lower(), {}), **kwargs}
            lazy, compute = True, not lazy  # not before the frames are summed
    found = candidates = find_candidates(source, lazy=lazy, **kwargs)
    windows = background_windows, integration_windows
    ready_made = all(choice is None for choice in (lines, *windows))
    try:
        if frames is not None:
            n_frames, kept = _kept_frames(candidates, frames)
            candidates = _sum_frames(candidates, kept)
        images = _haadf_images(haadf, candidates, lazy=lazy)
        if candidates.maps and ready_made:
            maps = _choose_maps(candidates.maps, elements)
        else:
            shapes = _shapes(candidates.haadf if haadf is None else images)
            chosen = _lines_by_element(elements, lines)
            maps = _map_spectra(candidates.spectrum_images, chosen, windows, shapes)
        image = _pick_haadf(images, maps[0].data.shape[-2:], named=haadf is not None)
        if frames is not None:
            image = _average_frames(image, n_frames, kept, named=haadf is not None)
    except ValueError as error:
        raise ValueError(f"{error}\nThere are\n{found}") from error
    image = as_images(image, "HAADF image").deepcopy()
    image.set_signal_type("HAADF")
    if compute:
        _compute_together([*maps, image])
    return maps, image


# Frames


def _as_index(frames):
    """Check the type of `frames`; return what indexes an array of frame numbers."""
    if isinstance(frames, slice):
        limits = frames.start, frames.stop, frames.step
        if all(n is None or isinstance(n, Integral) for n in limits):
            return frames
    else:
        with suppress(ValueError):  # of a list of unequal lists
            index = np.asarray(frames)
            if index.ndim == 1 and (index.dtype.kind in "biu" or not index.size):
                return index if index.dtype.kind == "b" else index.astype(int)
    raise TypeError(
        f"frames is {frames!r}: expected a slice, a list of frame numbers such as "
        "[0, 1, 4], or a list of booleans, one for each frame"
    )


def _frames_of(signal):
    """Return the number of frames of a stack, None if it is a single image or more."""
    shape = series_shape(signal)
    return shape[0] if len(shape) == 1 else None


def _kept_frames(candidates, index):
    """Return how many frames there are, and the numbers of those to keep."""
    stacks = [*candidates.maps, *candidates.spectrum_images]
    numbers = {_frames_of(signal) for signal in stacks} - {None}
    if not numbers:
        raise ValueError(
            "frames is given, and neither spectra nor maps have frames: expected EDS "
            "spectra of a Velox file, or signals with one navigation axis besides "
            "those of the image. Leave frames out or, of other formats, let hs.load "
            "read frames, with sum_frames=False if they are of JEOL"
        )
    if len(numbers) > 1:
        raise ValueError(
            f"frames is given, and there are stacks of {sorted(numbers)} frames: "
            "expected stacks of the same frames, hand over a list of those that are "
            "meant"
        )
    (n,) = numbers
    try:
        kept = np.unique(np.arange(n)[index])
    except IndexError:
        given = f"{index.size} booleans"
        if index.dtype.kind != "b":
            wrong = index[(index < -n) | (index >= n)].tolist()
            given = ", ".join(map(str, wrong))
        raise ValueError(
            f"frames has {given}, and the stack has the size {n}: expected numbers "
            f"from 0 to {n - 1} ({-n} to -1 count from the end), or {n} booleans"
        ) from None
    if not kept.size:
        raise ValueError(
            f"frames keeps none of the numbers 0 to {n - 1}: expected one at least"
        )
    return n, kept


def _combine(signal, kept, combine):
    """Combine frames of a stack into an image, or spectrum image, by a function."""
    combined = signal.inav[..., 0]
    combined.data = combine(signal.data[kept])
    if combined.metadata.has_item("Signal.Noise_properties"):
        del combined.metadata.Signal.Noise_properties  # they were those of a frame
    return combined


def _sum_stack(signal, kept):
    """Sum frames of a stack, also of the background that it carries."""
    total = _combine(signal, kept, partial(np.sum, axis=0))
    change_background(signal, total, lambda background: _sum_stack(background, kept))
    if total.metadata.has_item(_N_FRAMES):
        total.metadata.set_item(_N_FRAMES, len(kept))
    return total


def _sum_frames(candidates, kept):
    """Sum frames of the spectra and maps that have them, and leave the others out."""

    def summed(signals):
        return tuple(_sum_stack(s, kept) for s in signals if _frames_of(s))

    return replace(
        candidates,
        maps=summed(candidates.maps),
        spectrum_images=summed(candidates.spectrum_images),
    )


def _average_frames(image, n_frames, kept, *, named):
    """Average frames of a HAADF stack; a single image is taken if it was named."""
    if _frames_of(image) == n_frames:
        return _combine(image, kept, partial(np.mean, axis=0, dtype=float))
    if not series_shape(image) and (named or n_frames == 1):
        return image
    raise ValueError(
        f"the spectra or maps have {n_frames} frames, and the HAADF image is "
        f"{describe(image)}: expected an image of each frame, or a single one that "
        "goes with the frames that are kept, named with haadf="
    )


def _compute_together(signals):
    """Compute lazy signals and the backgrounds they carry, all in one pass."""
    backgrounds = [signal.metadata.get_item(BACKGROUND) for signal in signals]
    # first, since a map computes its own again
    signals = [*(b for b in backgrounds if b is not None), *signals]
    arrays = dask.persist(*(signal.data for signal in signals))
    for signal, array in zip(signals, arrays, strict=True):
        if is_dask_collection(array):
            signal.data = array
            signal.compute(show_progressbar=False)


def _as_list(name, entries):
    if entries is None:
        return None
    entries = [entries] if isinstance(entries, str) else list(entries)
    if not entries:
        raise ValueError(f"{name} is empty: expected one entry at least, or None")
    strange = [entry for entry in entries if not isinstance(entry, str)]
    if strange:
        raise TypeError(f"{name} has {strange[0]!r}: expected names, as strings")
    return entries


def _shapes(images):
    return {image.data.shape[-2:] for image in images}


def _haadf_images(haadf, candidates, *, lazy):
    """List the images that `haadf` allows."""
    if haadf is not None and not isinstance(haadf, str | Path):
        return [as_images(haadf, "HAADF image")]
    images = _images(candidates)
    titled = [image for image in images if _title(image) == haadf]
    if titled:
        return titled
    if haadf is not None:
        if not Path(haadf).exists():
            raise ValueError(
                f"haadf={str(haadf)!r} is neither the title of an image nor an "
                "existing file: expected one of the two, or a signal"
            )
        images = _images(find_candidates(haadf, lazy=lazy))
    if not images:
        raise ValueError(
            f"there is no HAADF image in {haadf or 'the source'}: give one with "
            "haadf=, the path of another file or a signal"
        )
    return images


def _images(candidates):
    return [*candidates.haadf, *filter(_is_image, candidates.others)]


def _pick_haadf(images, shape, *, named):
    """Pick the HAADF image of maps of a shape; one that was named may be of another."""
    if named:
        fitting = [image for image in images if image.data.shape[-2:] == shape]
        if 1 in (len(images), len(fitting)):
            return (fitting or images)[0]
    return choose_haadf(images, shape)


def _title(signal):
    return signal.metadata.General.title.strip()


def _elemental_map(signal, element):
    """Copy a signal into the map of an element."""
    image = as_images(signal, f"map of {element}").deepcopy()
    image.set_signal_type("elemental_map")
    image.metadata.set_item("Sample.elements", [element])
    return image


def _carry_background(elemental_map, data):
    """Give a map of raw counts its background, an array of the same shape."""
    background = elemental_map._deepcopy_with_new_data(data)  # noqa: SLF001
    background.set_signal_type("")
    title = f"Background of {_title(elemental_map)}"
    background.metadata.General.title = title
    elemental_map.metadata.set_item(BACKGROUND, background)


# Ready-made maps


def _choose_maps(maps, elements):
    """Take the maps that are wanted, one per element, all of one size."""
    if elements is not None:
        maps = [_find_map(maps, entry) for entry in elements]
    by_element = {}
    for signal in maps:
        by_element.setdefault(infer_element(signal), []).append(signal)
    doubles = [
        f"{element} is shown by {' and '.join(map(describe, signals))}"
        for element, signals in by_element.items()
        if len(signals) > 1
    ]
    if doubles:
        raise ValueError(
            f"{'; '.join(doubles)}: expected one map per element, choose them by their "
            f"titles with elements=['{_title(maps[0])}', ...], or hand over a list of "
            "the signals that are meant"
        )
    if len(_shapes(maps)) > 1:
        raise ValueError(
            f"the maps {', '.join(map(describe, maps))} differ in size: expected maps "
            f"of the same pixels, choose them with elements=['{_title(maps[0])}', ...]"
        )
    return [_elemental_map(*pair) for pair in zip(maps, by_element, strict=True)]


def _find_map(maps, entry):
    titled = [signal for signal in maps if _title(signal) == entry]
    found = titled or [signal for signal in maps if infer_element(signal) == entry]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{entry!r} is shown by {' and '.join(map(describe, found))}: choose by "
            "the title, or hand over a list of the signals that are meant"
        )
    raise ValueError(
        f"there is no map of {entry!r}: expected the title or the element of a map; to "
        "map a spectrum image instead, give lines= or a window"
    )


# Spectrum images


def _lines_by_element(elements, lines):
    """Give each wanted element its line, or None where it is left to the default."""
    chosen = {}
    for line in lines or ():
        element = line.split("_")[0]
        atomic_number(element)
        if element in chosen:
            raise ValueError(_one_line(element, [chosen[element], line]))
        chosen[element] = line
    if elements is None:
        return chosen
    for element in elements:
        atomic_number(element)
    if len(set(elements)) < len(elements) or chosen.keys() - set(elements):
        raise ValueError(
            f"elements={elements!r} and lines={lines!r} do not fit: expected each "
            "element once, and lines of these elements only"
        )
    return {element: chosen.get(element) for element in elements}


def _one_line(element, lines):
    return (
        f"{' and '.join(lines)} are lines of {element}: expected one line per element, "
        "choose with lines=['Fe_Ka', ...]"
    )


def _map_spectra(spectrum_images, chosen, windows, shapes):
    """Make maps from the only spectrum image that can give them."""
    plans, refusals = [], []
    for kind, plan in _PLANS.items():
        for spectra in spectrum_images:
            if _kind(spectra) != kind:
                continue
            try:
                plans.append((spectra, plan(spectra, chosen, *windows)))
            except ValueError as refusal:
                refusals.append(f"  {_describe_spectra(spectra)}: {refusal}")
        if plans:
            break
    else:
        reasons = "\n".join(refusals) or (
            "  there is none with two navigation axes; spectra that are neither EDS "
            "nor EELS need signal.set_signal_type('EDS_TEM') or 'EELS'"
        )
        raise ValueError(f"no spectrum image can be mapped:\n{reasons}")
    if len(plans) > 1:
        fitting = [
            p for p in plans if p[0].axes_manager.navigation_shape[1::-1] in shapes
        ]
        if len(fitting) != 1:
            listed = "\n".join(f"  {_describe_spectra(s)}" for s, _ in fitting or plans)
            raise ValueError(
                f"several spectrum images can be mapped:\n{listed}\nHand over a list "
                "of the one that is meant and the HAADF image"
            )
        plans = fitting
    return plans[0][1]()


def _sample(spectra, node):
    """List ``metadata.Sample.elements`` or ``xray_lines``."""
    entries = spectra.metadata.get_item(f"Sample.{node}", [])
    # .nxs makes a string of a list of one.
    return [entries] if isinstance(entries, str) else list(entries)


def _elements_of(spectra):
    elements = _sample(spectra, "elements")
    if not elements:
        raise ValueError(
            "nothing says which elements to map, name them with elements=['Fe', ...]"
        )
    # eXSpy and RosettaSciIO keep them in sets: their order is nobody's choice.
    return sorted(elements, key=atomic_number)


def _window_rows(name, windows, lines, width, axis):
    """Check that windows have a row for each line, inside the measured range."""
    try:
        rows = np.asarray(windows, dtype=float)
    except (TypeError, ValueError):
        rows = np.empty(0)
    if rows.shape != (len(lines), width):
        raise ValueError(
            f"{name} is {windows!r}: expected a row of {width} energies for each of "
            f"{', '.join(lines)}"
        )
    low, high = axis.low_value, axis.high_value
    for line, row in zip(lines, rows.tolist(), strict=True):
        if not (low <= row[0] and row[-1] <= high and np.all(np.diff(row) >= 0)):
            raise ValueError(
                f"{name} of {line} is {np.round(row, 4).tolist()}: expected energies "
                f"that rise, within the measured {low:.5g} to {high:.5g} {axis.units}"
            )
    return rows.tolist()


def _is_auto(windows):
    return isinstance(windows, str) and windows == "auto"


def _plan_eds(spectra, chosen, background, integration):
    """Check what is asked of EDS spectra; return the function that does it."""
    lines = _eds_lines(spectra, chosen)
    if integration is None:
        integration = spectra.estimate_integration_windows(xray_lines=lines)
    elif isinstance(integration, Real):
        integration = spectra.estimate_integration_windows(integration, lines)
    if _is_auto(background):
        background = spectra.estimate_background_windows(xray_lines=lines)
    axis = spectra.axes_manager.signal_axes[0]
    integration = _window_rows("integration_windows", integration, lines, 2, axis)
    if background is not None:
        background = _window_rows("background_windows", background, lines, 4, axis)
    return partial(_map_lines, spectra, lines, integration, background)


def _eds_lines(spectra, chosen):
    """Return the line of each element; eXSpy checks them and fills in its defaults."""
    wanted = list(chosen) or _elements_of(spectra)
    given = [line for line in chosen.values() if line]
    left = {element for element in wanted if not chosen.get(element)}
    known = _sample(spectra, "xray_lines")
    given += [line for line in known if line.split("_")[0] in left]

    probe = spectra.inav[(0,) * spectra.axes_manager.navigation_dimension]
    probe.set_elements(wanted)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", message=".* energy range")
        probe.set_lines(given)
    if caught:
        raise ValueError(" ".join({str(warning.message): 0 for warning in caught}))
    by_element = {element: [] for element in wanted}
    for line in probe.metadata.Sample.xray_lines:
        by_element[line.split("_")[0]].append(line)
    for element, lines in by_element.items():
        if not lines:
            raise ValueError(f"{element} has no α line in the measured range")
        if len(lines) > 1:
            raise ValueError(_one_line(element, lines))
    return [line for lines in by_element.values() for line in lines]


def _map_lines(spectra, lines, integration, background):
    maps = [
        _elemental_map(intensity, line.split("_")[0])
        for intensity, line in zip(
            spectra.get_lines_intensity(lines, integration_windows=integration),
            lines,
            strict=True,
        )
    ]
    if background is None:
        return maps
    subtracted = spectra.get_lines_intensity(
        lines, integration_windows=integration, background_windows=background
    )
    axis = spectra.axes_manager.signal_axes[0]
    for i, (raw, net) in enumerate(zip(maps, subtracted, strict=True)):
        counted = raw.data - as_images(net, "net map").data
        left, left_stop, right, right_stop = axis.value2index(np.array(background[i]))
        start, stop = axis.value2index(np.array(integration[i]))
        # what eXSpy multiplies the counts of the background windows with
        share = (stop - start) / (left_stop - left + right_stop - right)
        smooth = _for_each_image(partial(_smooth_counts, count=share), counted)
        _carry_background(raw, smooth)
    return maps


# The background in the image plane


def _for_each_image(function, *arrays):
    """Call a function of images for each position of a series, lazily if they are."""
    if any(map(is_dask_collection, arrays)):
        arrays = [array.rechunk({-2: -1, -1: -1}) for array in arrays]
        return da.map_blocks(
            partial(_for_each_image, function),
            *arrays,
            dtype=float,
            meta=np.empty((0,) * arrays[0].ndim),
        )
    out = np.empty(arrays[0].shape)
    for position in np.ndindex(out.shape[:-2]):
        images = (array[position] for array in arrays)
        # the background has to be a number also where the spectrum is missing
        known = [np.where(np.isfinite(image), image, np.nan) for image in images]
        out[position] = function(*(fill(image[np.newaxis])[0] for image in known))
    return out


def _smooth_counts(image, count=1.0):
    """Smooth an image of counts, each of a value, as far as its noise asks for it."""
    counts = np.maximum(image, 0) / count
    return count * _smooth(counts, np.ones_like(counts), _count_value(counts) * counts)


def _count_value(image):
    """Variance over mean of the noise: 1 for counts."""
    if not image.any() or np.allclose(image, np.rint(image), rtol=0, atol=1e-3):
        return 1.0
    if min(image.shape) < _LEAST_SIZE:
        return 0.0
    return map_noise(image).sum() / image.sum()


def _smooth(counts, exposure, variance):
    r"""Smooth a quotient of images, by the width of least expected error.

    Parameters
    ----------
    counts : numpy.ndarray
        Shape ``(y, x)``.
    exposure : numpy.ndarray
        What the counts are expected to be proportional to, without noise of its own;
        shape ``(y, x)``.
    variance : numpy.ndarray
        Of the noise of the counts, shape ``(y, x)``.

    Returns
    -------
    numpy.ndarray
        G * counts / G * exposure with the Gaussian G of `_WIDTHS` for which Stein's
        unbiased estimate of the squared error is the smallest.
    """
    if not (counts.any() and exposure.any()):
        return np.zeros(counts.shape)
    if not variance.any():
        return np.divide(
            counts, exposure, out=np.zeros(counts.shape), where=exposure > 0
        )
    mean = counts.mean() / exposure.mean()
    few = _SMALL * exposure.mean()  # so that 0 / 0 is the mean
    # Errors count as they compare with the noise.
    weight = 1 / (gaussian_filter(variance, 2) + variance.mean() / 10)
    best = np.inf, None
    for width in _WIDTHS:
        if np.isinf(width):
            quotient, centre = np.full(counts.shape, mean), 1 / counts.size
            expected = exposure.mean()
        elif 4 * width > min(counts.shape):
            continue
        else:
            expected = gaussian_filter(exposure, width) + few
            quotient = (gaussian_filter(counts, width) + few * mean) / expected
            point = np.zeros(2 * int(4 * width + 1) + 1)
            point[point.size // 2] = 1
            centre = gaussian_filter(point, width).max() ** 2
        # how much of its own noise a pixel keeps
        kept = centre * exposure / expected
        squares = (counts - exposure * quotient) ** 2 + 2 * kept * variance
        error = np.sum(weight * squares)
        if error < best[0]:
            best = error, quotient
    return best[1]


# EELS edges


def _plan_eels(spectra, chosen, background, integration):
    """Check what is asked of EELS spectra; return the function that does it."""
    axis = spectra.axes_manager.signal_axes[0]
    if axis.units != "eV" or not axis.is_uniform:
        raise ValueError(
            f"the {'' if axis.is_uniform else 'non-uniform '}energy axis is in "
            f"{axis.units}: expected equal channels in eV, see axis.convert_to_units "
            "and signal.interpolate_on_axis"
        )
    chosen = chosen or dict.fromkeys(_elements_of(spectra))
    names = [line or element for element, line in chosen.items()]
    backgrounds = integrations = [None] * len(names)
    if not (background is None or _is_auto(background)):
        backgrounds = _window_rows("background_windows", background, names, 2, axis)
    if isinstance(integration, Real):
        integrations = [integration] * len(names)
    elif integration is not None:
        integrations = _window_rows("integration_windows", integration, names, 2, axis)

    edges = {}
    for (element, line), *given in zip(
        chosen.items(), backgrounds, integrations, strict=True
    ):
        rivals = _major_onsets({*chosen, *_sample(spectra, "elements")} - {element})
        edge, windows = _choose_edge(element, line, rivals, axis, *given)
        edges[edge] = windows
    return partial(_map_edges, spectra, edges)


@cache
def _binding_energies(element):
    """Onset in eV and relevance of each edge of an element."""
    from exspy.material import elements  # noqa: PLC0415 - slow to import

    shells = elements[element].Atomic_properties.get_item("Binding_energies")
    return {
        f"{element}_{shell}": (values["onset_energy (eV)"], values["relevance"])
        for shell, values in (shells.as_dictionary() if shells else {}).items()
        if not shell.endswith("a")  # the fine structure of carbon
    }


def _major_onsets(elements):
    return [
        onset
        for element in elements
        for onset, relevance in _binding_energies(element).values()
        if relevance == "Major"
    ]


def _choose_edge(element, line, rivals, axis, background, integration):
    """Find the edge of an element that has room for its windows.

    Parameters
    ----------
    element : str
        Symbol.
    line : str or None
        The edge that is asked for.
    rivals : list of float
        Onsets of the major edges of the other elements, eV.
    axis : UniformDataAxis
        Energy axis, eV.
    background : list of float or None
        Window that is asked for, ``[start, stop]`` in eV.
    integration : list of float, float or None
        Window, or width after the onset, that is asked for, eV.

    Returns
    -------
    edge : str
    windows : tuple of list of float
        Background and integration window, eV.
    """
    known = _binding_energies(element)
    if line is None:
        majors = [
            edge
            for edge, (onset, relevance) in known.items()
            if relevance == "Major" and onset >= _LOWEST_ONSET
        ]
        majors.sort(reverse=True)  # of two at one energy the stronger first: M5, M4
        shells = {}
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
            windows = _edge_windows(edge, onset, rivals, axis, background, integration)
        except ValueError as refusal:
            refusals.append(str(refusal))
        else:
            text = "%s: background %.5g to %.5g eV, sum %.5g to %.5g eV"
            _logger.info(text, edge, *windows[0], *windows[1])
            return edge, windows
    raise ValueError("; ".join(refusals))


def _gap(onset):
    return max(_LEAST_GAP, _GAP * onset)


def _edge_windows(edge, onset, rivals, axis, background, integration):
    """Complete the windows of an edge; arguments as for `_choose_edge`."""
    low, high = axis.low_value, axis.high_value
    if not low < onset < high:
        raise ValueError(f"{edge} is at {onset:g} eV, outside the measured range")
    if isinstance(integration, Real):
        before = -np.inf if background is None else background[1]
        integration = [max(onset - _gap(onset), before), onset + integration]
    room = [_LEAST_WIDTH]
    if background is None:
        edges = _major_onsets([edge.split("_")[0]]) + rivals
        stop = min([onset - _gap(onset), *(integration or ())])
        start = max(
            [low, _BACKGROUND_START * onset, *(e + _DECAY for e in edges if e < onset)]
        )
        background = [start, stop]
        room.append(stop - start)
    if integration is None:
        start = max(onset - _gap(onset), background[1])
        stop = min(
            [
                high,
                _INTEGRATION_STOP * onset,
                *(e - _gap(e) for e in rivals if e >= onset),
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


def _map_edges(spectra, edges):
    maps = []
    for edge, windows in edges.items():
        image = spectra.isig[0]
        image.data, background = _edge_counts(spectra, *windows)
        image.metadata.General.title = edge
        if image.metadata.has_item("Signal.Noise_properties"):
            del image.metadata.Signal.Noise_properties  # they were those of spectra
        maps.append(_elemental_map(image, edge.split("_")[0]))
        _carry_background(maps[-1], background)
    return maps


def _edge_counts(spectra, background, integration):
    """Sum a window, and the power law of another; see the notes of load_multimodal.

    Parameters
    ----------
    spectra : EELSSpectrum
        Shape ``navigation + (energy,)``, counts.
    background, integration : list of float
        Windows ``[start, stop]``, eV.

    Returns
    -------
    raw, background : numpy.ndarray or dask.array.Array
        Shape ``navigation``, counts.
    """
    axis = spectra.axes_manager.signal_axes[0]
    middle = np.sqrt(background[0] * background[1])
    energies = np.array([background[0], middle, background[1], *integration])
    channels = axis.value2index(energies)
    if not np.all(np.diff(channels)[[0, 1, 3]] > 0):
        raise ValueError(
            f"background window {background} eV and integration window {integration} "
            f"eV are too narrow for channels of {axis.scale:.4g} eV: expected two "
            "channels of background and one of the edge at least"
        )
    # A channel begins half a channel below its energy.
    bounds = axis.offset + (channels - 0.5) * axis.scale

    def counts(first, last):
        return spectra.data[..., first:last].sum(axis=-1, dtype=float)

    c1, c2, c3, c4, c5 = channels
    extrapolate = partial(_power_law, bounds=bounds)
    return (
        counts(c4, c5),
        _for_each_image(extrapolate, counts(c1, c2), counts(c2, c3)),
    )


def _power_law(i1, i2, bounds):
    """Background of an edge from the images of the two parts of its window.

    The symbols are those of load_multimodal.
    """
    e1, e2, e3, e4, e5 = bounds
    i1, i2 = np.maximum(i1, 0), np.maximum(i2, 0)
    both = i1 + i2
    if not both.any():
        return both
    count = _count_value(both)
    level = _smooth(both, np.ones_like(both), count * both)
    # Of the counts of a pixel, its part in the first window is binomial.
    share = i1.sum() / both.sum()
    part = _smooth(i1, both, count * share * (1 - share) * both)
    part = np.clip(part, _SMALL, 1 - _SMALL)
    r = 2 * np.log(part / (1 - part) * (e3 - e2) / (e2 - e1)) / np.log(e3 / e1)
    k = 1 - np.clip(r, *_EXPONENTS)
    k = np.where(np.abs(k) < _SMALL, _SMALL, k)  # 0 / 0 has a limit, near enough
    return level * (e5**k - e4**k) / (e3**k - e1**k)


_PLANS = {"EDS": _plan_eds, "EELS": _plan_eels}
