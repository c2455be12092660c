"""Maps, HAADF image and background of a fusion, from a file or from signals."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from hyperspy.signals import BaseSignal

from ..core.common.messages import warn
from ..execution.arrays import computed, is_lazy
from ..inputs.elements import element_of, sample_entries, title_of
from ..inputs.images import as_images, choose_haadf, describe
from ..inputs.velox import filter_of, line_of, same_scan
from ..signals import ElementalMap, HAADFImage
from .candidates import (
    Candidates,
    Source,
    as_list,
    describe_spectra,
    find_candidates,
    is_image,
    spectrum_kind,
)
from .eds import plan_eds, plan_spectra
from .eels import plan_eels
from .frames import (
    as_index,
    average_frames,
    kept_frames,
    read_frames,
    sum_frames,
)
from .maps import Mapped, choose_maps, image_shapes
from .overlaps import overlaps_of_maps
from .spectra import as_names, lines_by_element

# In the order of preference.
_PLANS: dict[str, Callable] = {"EDS": plan_eds, "EELS": plan_eels}
_WHOLE: dict[str, Callable] = {"EDS": plan_spectra}
Kind: TypeAlias = Literal["spectra", "windows", "ready-made"]


class _Data(NamedTuple):
    """What `MultimodalData` unpacks to."""

    maps: list[ElementalMap] | BaseSignal
    haadf: HAADFImage
    background: list[BaseSignal] | None


class MultimodalData(_Data):
    """Maps, HAADF image and background, as :func:`fuse_multimodal` takes them.

    Attributes
    ----------
    maps : list of ElementalMap
        One per element, shape ``navigation + (y, x)``; or, if asked for, the spectra.
    haadf : HAADFImage
        Shape ``navigation + (y, x)``, in the units of the detector.
    background : list of Signal2D or None
        Estimated background of each map, in the same pixels and units; None if it is
        not known.
    elastic : tuple of Signal2D
        The further images that were asked for. The data unpack to the other three:
        ``fuse_multimodal(*data, elastic=data.elastic)`` takes all.
    """

    elastic: tuple[BaseSignal, ...]

    def __new__(  # noqa: PYI034 - Self is of Python 3.11
        cls,
        maps: list[ElementalMap] | BaseSignal,
        haadf: HAADFImage,
        background: list[BaseSignal] | None = None,
        elastic: Sequence[BaseSignal] = (),
    ) -> "MultimodalData":
        """Three fields, and one beside them: `fuse_multimodal` takes three by place."""
        data = super().__new__(cls, maps, haadf, background)
        data.elastic = tuple(elastic)
        return data


def load_multimodal(
    source: Source,
    elements: str | Sequence[str] | None = None,
    lines: str | Sequence[str] | None = None,
    *,
    maps: Kind | None = None,
    haadf: str | Path | BaseSignal | None = None,
    elastic: str | Path | BaseSignal | Sequence[str | Path | BaseSignal] | None = None,
    background_windows: (
        Sequence[Sequence[float]] | np.ndarray | Literal["auto"] | None
    ) = None,
    integration_windows: (float | Sequence[Sequence[float]] | np.ndarray | None) = None,
    frames: slice | Sequence[int] | Sequence[bool] | np.ndarray | None = None,
    lazy: bool = False,
    **kwargs: object,
) -> MultimodalData:
    r"""Load elemental maps, their HAADF image and, where it is known, their background.

    Ready-made maps, as Velox writes them, are taken as they are, but maps that Velox
    filtered are made anew from their spectra, if these are there. If there are no maps,
    or if `lines`, `background_windows` or `integration_windows` is given, the maps are
    made from an EDS spectrum image, else from an EELS spectrum image. Of several
    spectrum images the one is taken that has measured all the lines and, if there are
    several of these, the one of the size of the HAADF image. Nothing is guessed: if
    more than one choice is left, the error lists them. Signals that are given are not
    modified.

    Parameters
    ----------
    source : str, pathlib.Path, BaseSignal or list of these
        A file that RosettaSciIO reads, or several that belong together, or signals
        that have been loaded from them.
    elements : list of str, optional
        What to map, in this order: titles of ready-made maps (``"Fe-EELS"``) or
        symbols (``"Fe"``); titles take precedence. By default all ready-made maps, or
        ``metadata.Sample.elements`` of the spectrum image, by rising Z.
    lines : list of str, optional
        X-ray lines (``"Fe_Ka"``) or EELS edges (``"Fe_L3"``) to map from a spectrum
        image, one per element. By default, for EDS, those of
        ``metadata.Sample.xray_lines`` or, per element, the line that eXSpy prefers:
        the α line of highest energy below half the beam energy. For EELS the lowest
        major edge above 100 eV with room for both windows.
    maps : {"spectra", "windows", "ready-made"}, optional
        What to take: the X-ray spectra themselves, for :func:`fuse_spectra`; windows
        of spectra, also where there are ready-made maps; or ready-made maps, as they
        are. By default the choice is that above.
    haadf : str, pathlib.Path or Signal2D, optional
        The HAADF image: title of an image of the source, path of another file, or a
        signal. By default the only image that fits by its title and its size.
    elastic : str, pathlib.Path, Signal2D, or list of these, optional
        Further elastic images, named in the same way, such as ``["DF-I", "BF"]``.
    background_windows : list of list of float, or "auto", optional
        For EDS, in the units of the energy axis, a row ``[left start, left stop,
        right start, right stop]`` for each map; ``"auto"`` takes those of eXSpy's
        ``estimate_background_windows``, None leaves the background unknown. For EELS,
        in eV, a row ``[start, stop]`` for each map; None and ``"auto"`` are the
        default of the notes.
    integration_windows : float or list of list of float, optional
        A row ``[start, stop]`` for each map, in the units above, or one number: for
        EDS the width in units of the FWHM of the line (default 2, as in eXSpy), for
        EELS the width in eV, counted from the onset.
    frames : slice, list of int or list of bool, optional
        Which frames to keep of spectra, or maps, that are a stack of frames: a slice,
        frame numbers from 0 (negative ones count from the end), or True for each
        frame to keep. The kept frames of the spectra are summed, so that counts stay
        counts, and a HAADF stack of the same frames is averaged, so that it stays in
        the units of one frame. Single frames are read from a Velox ``.emd`` file; the
        ready-made maps in it, which are sums of all frames, are not taken then. By
        default nothing is summed.
    lazy : bool
        Leave the data of the file on disk: maps, HAADF image and background are lazy.
    **kwargs
        For :func:`hyperspy.api.load`, such as ``file_format`` or ``sum_frames``. Of a
        ``.npz`` or ``.h5`` file of arrays that are named by elements, and HAADF,
        `pixel_size` in nm.

    Returns
    -------
    maps : list of ElementalMap
        One per element, shape ``navigation + (y, x)``, in the order of `elements`, or
        of `lines`, or of the file. ``metadata.Sample.elements`` holds the symbol.
        Ready-made maps keep their units, maps of spectra are in counts (or the units
        of the spectra). The latter are raw: they include their background. With
        ``maps="spectra"`` the spectrum image, of shape
        ``navigation + (y, x, energy)``; its metadata name the elements and lines that
        were asked for.
    haadf : HAADFImage
        Shape ``navigation + (y, x)``, in the units of the detector.
    background : list of Signal2D or None
        Estimated background of each map, in the same pixels and units, titled
        "Background of" and the title of the map. None if it is not known: of
        ready-made maps, and of EDS spectra without `background_windows`.

        The three are fields of a named tuple, in the order of the arguments of
        :func:`fuse_multimodal`; it has the further images as its attribute `elastic`.

    Raises
    ------
    ValueError
        If something is missing or ambiguous; the message lists what there is. If `maps`
        is none of the above or goes not with what else is asked for. If
        there are no frames, not those of `frames`, or `frames` keeps none.
    TypeError
        If `source`, `haadf` or `elastic` is no signal and no path, a name is no
        string, or `frames` is no slice and no list of integers or booleans.

    Warns
    -----
    UserWarning
        If a map shows counts of another element because the detector does not separate
        their X-ray lines, if ready-made maps were filtered, and if maps are left out
        because they are zero everywhere.

    See Also
    --------
    find_candidates : the signals of a file, sorted by their possible use.
    fuse_multimodal, fuse_spectra : fuse what was loaded.

    Notes
    -----
    Maps include the background because subtraction would spoil their statistics: a
    difference of counts is not Poisson distributed, and a fusion that knows the
    background of raw counts uses all their information.

    An EELS edge at the energy E is mapped by the sum of its window. Its background is
    the power law :math:`A E^{-r}` that the two-area method [1]_ finds in each pixel:
    with the counts :math:`I_1, I_2` of the two parts :math:`[E_1, E_2]`, :math:`[E_2,
    E_3]` of the background window, :math:`E_2 = \sqrt{E_1 E_3}`, the window
    :math:`[E_4, E_5]` holds

    .. math::

        (I_1 + I_2) \frac{E_5^k - E_4^k}{E_3^k - E_1^k}, \quad
        k = 1 - r, \quad
        r = 2 \ln\frac{I_1 (E_3 - E_2)}{I_2 (E_2 - E_1)} \Big/ \ln\frac{E_3}{E_1}

    counts of background. r is limited to 0 to 10. The background of an X-ray line is
    the mean of its two windows, times the ratio of the widths, as in eXSpy.

    In single pixels these estimates are noisy, and a fusion takes the background as
    exact. So :math:`I_1 + I_2` and :math:`I_1 / (I_1 + I_2)`, or the sum of the X-ray
    windows, are first smoothed by a Gaussian in the image plane. Of ten widths from 0
    to 8 pixels and infinity, the one is taken that has the lowest expected squared
    error by Stein's unbiased risk estimate [2]_: few counts are smoothed as far as the
    specimen allows, many counts stay sharp.

    By default the background window of an edge runs from 0.85 E to 0.99 E and the
    integration window from there to 1.1 E, but at least 2 eV are left before the onset.
    Both stay within the measured range, the background starts at least 30 eV after the
    previous major edge of the elements (those mapped and those in
    ``metadata.Sample.elements``), and the integration stops before the next one. If
    less than 10 eV remain for the background or after the onset, there is no room: give
    the windows or, for edges that overlap, fit a model with eXSpy and load its maps.
    The windows used are logged (level INFO).

    X-ray lines overlap if a line of another element lies in the window of a map, or
    within one FWHM of its line at the energy resolution in the metadata. The elements
    are those mapped and those in ``metadata.Sample.elements``; besides the mapped lines
    those count that have at least a tenth of the intensity of the strongest line of
    their shell in the table of eXSpy. Of ready-made maps the lines are compared with
    each other, if they are titles of the maps or known from a Velox file, and unless
    Velox fitted the spectra.

    A filter in Velox averages neighbouring pixels, whose noise is then no longer
    independent, as a fusion assumes. The maps that replace filtered ones are raw counts
    of the same lines.

    Without `frames` RosettaSciIO sums the frames of the spectra of a Velox file, and
    the HAADF image is the first of the stack. Single frames are read as a sparse array,
    and only the maps of their sum are computed: the memory needed grows with the counts
    in the file, not with frames times channels. A HAADF image without frames is taken
    as it is if it is named with `haadf`.

    References
    ----------
    .. [1] R. F. Egerton, Electron Energy-Loss Spectroscopy in the Electron
       Microscope, 3rd ed. (Springer, 2011), section 4.4.
    .. [2] C. M. Stein, Estimation of the mean of a multivariate normal distribution,
       Ann. Statist. 9, 1135 (1981).

    Examples
    --------
    >>> import hyperspy_fusion
    >>> specimen = hyperspy_fusion.data.core_shell(size=32)
    >>> signals = [*specimen.maps, specimen.haadf]
    >>> data = hyperspy_fusion.load_multimodal(signals, ["O", "Co"])
    >>> data.maps
    [<ElementalMap, title: O, dimensions: (|32, 32)>, <ElementalMap, title: Co, dimensions: (|32, 32)>]
    >>> fused = hyperspy_fusion.fuse_multimodal(*data)

    From the spectra of a file:

    >>> maps, haadf, background = hyperspy_fusion.load_multimodal(
    ...     "spectrum image.emd", lines=["C_Ka", "Cu_Ka"], background_windows="auto"
    ... )  # doctest: +SKIP

    Without the first ten frames, in which the specimen still drifted:

    >>> maps, haadf, background = hyperspy_fusion.load_multimodal(
    ...     "spectrum image.emd", ["C", "Cu"], frames=slice(10, None)
    ... )  # doctest: +SKIP
    """  # noqa: E501 - what doctest compares with
    elements, lines = as_names("elements", elements), as_names("lines", lines)
    compute = False
    options: dict[str, Any] = {"lazy": lazy, **kwargs}
    if frames is not None:
        frames = as_index(frames)
        if any(isinstance(entry, str | Path) for entry in as_list(source)):
            source, options = read_frames(source, **kwargs), {}
            lazy, compute = True, not lazy  # not before the frames are summed
    found = candidates = find_candidates(source, **options)
    windows = background_windows, integration_windows
    _check_kind(maps, lines, windows)
    as_they_are = all(choice is None for choice in (lines, *windows))
    try:
        if frames is not None:
            n_frames, kept = kept_frames(candidates, frames)
            candidates = sum_frames(candidates, kept)
        images = _haadf_images(haadf, candidates, lazy=lazy)
        if maps == "ready-made":
            mapped = _ready_made(candidates, elements)
        elif maps is None and candidates.maps and as_they_are:
            mapped = _take_maps(candidates, elements)
        else:
            shapes = image_shapes(candidates.haadf if haadf is None else images)
            chosen = lines_by_element(elements, lines)
            plans = _WHOLE if maps == "spectra" else _PLANS
            mapped = _map_spectra(
                candidates.spectrum_images, chosen, windows, shapes, plans
            )
        found_maps, background, messages = mapped
        shape = found_maps[0].data.shape
        shape = shape[-3:-1] if maps == "spectra" else shape[-2:]
        image = _pick_haadf(images, shape, named=haadf is not None)
        further = _further_images(elastic, candidates, image, shape, lazy=lazy)
        if frames is not None:
            image = average_frames(image, n_frames, kept, named=haadf is not None)
            further = [
                average_frames(other, n_frames, kept, named=True) for other in further
            ]
    except ValueError as error:
        raise ValueError(f"{error}\nThere are\n{found}") from error
    image = as_images(image, "HAADF image").deepcopy()
    image.set_signal_type("HAADF")
    if compute:
        compute_together([*found_maps, image, *further, *(background or ())])
    for message in messages:
        warn(message)
    further = [as_images(other, "elastic image") for other in further]
    result = found_maps[0] if maps == "spectra" else found_maps
    return MultimodalData(result, image, background, further)


def _check_kind(maps: Any, lines: Any, windows: tuple[Any, Any]) -> None:
    """Raise a ValueError if `maps` is unknown, or does not go with other options."""
    if maps is not None and maps not in get_args(Kind):
        raise ValueError(
            f"maps is {maps!r}: expected None or one of {', '.join(get_args(Kind))}"
        )
    given = {"background_windows": windows[0], "integration_windows": windows[1]}
    if maps == "ready-made":
        given["lines"] = lines
    wrong = [name for name, value in given.items() if value is not None]
    if wrong and maps in ("spectra", "ready-made"):
        raise ValueError(
            f"{' and '.join(wrong)} is given with maps={maps!r}, which has no use for "
            "it: leave one of them out"
        )


def _haadf_images(
    haadf: str | Path | BaseSignal | None,
    candidates: Candidates,
    *,
    lazy: bool,
    option: str = "haadf",
) -> list[BaseSignal]:
    """List the images that `haadf`, or an entry of another option, allows."""
    if haadf is not None and not isinstance(haadf, str | Path):
        return [as_images(haadf, "HAADF image" if option == "haadf" else option)]
    images = _images(candidates)
    titled = [image for image in images if title_of(image) == haadf]
    if titled:
        return titled
    if haadf is not None:
        if not Path(haadf).exists():
            raise ValueError(
                f"{option}={str(haadf)!r} is neither the title of an image nor an "
                "existing file: expected one of the two, or a signal"
            )
        images = _images(find_candidates(haadf, lazy=lazy))
    if not images and option != "haadf":
        raise ValueError(f"{option}: there is no image in {haadf}")
    if not images:
        raise ValueError(
            f"there is no HAADF image in {haadf or 'the source'}: give one with "
            "haadf=, the path of another file or a signal"
        )
    return images


def _images(candidates: Candidates) -> list[BaseSignal]:
    return [*candidates.haadf, *filter(is_image, candidates.others)]


def _pick_haadf(
    images: list[BaseSignal], shape: tuple[int, ...], *, named: bool
) -> BaseSignal:
    """Pick the HAADF image of maps of a shape; a named one may have another shape."""
    if named:
        fitting = [image for image in images if image.data.shape[-2:] == shape]
        if 1 in (len(images), len(fitting)):
            return (fitting or images)[0]
    return choose_haadf(images, shape)


def _further_images(
    elastic: Any,
    candidates: Candidates,
    haadf: BaseSignal,
    shape: tuple[int, ...],
    *,
    lazy: bool,
) -> list[BaseSignal]:
    """Copies of the further elastic images that were named."""
    names = [] if elastic is None else as_list(elastic)
    return [
        _further_image(name, candidates, haadf, shape, lazy=lazy).deepcopy()
        for name in names
    ]


def _further_image(
    name: Any,
    candidates: Candidates,
    haadf: BaseSignal,
    shape: tuple[int, ...],
    *,
    lazy: bool,
) -> BaseSignal:
    """The elastic image of a title, of another file, or that was given."""
    images = _haadf_images(name, candidates, lazy=lazy, option="elastic")
    shapes = haadf.data.shape[-2:], shape
    fitting = [image for image in images if image.data.shape[-2:] in shapes]
    fitting = fitting or images
    if len(fitting) > 1:
        listed = "\n".join(f"  {describe(image)}" for image in fitting)
        raise ValueError(
            f"elastic={str(name)!r} fits several images:\n{listed}\nGive the signal of "
            "one of them"
        )
    if fitting[0] is haadf:
        raise ValueError(
            f"elastic={str(name)!r} is the HAADF image itself: expected another image"
        )
    return fitting[0]


def _ready_made(candidates: Candidates, elements: list[str] | None) -> Mapped:
    """Take ready-made maps as they are."""
    if not candidates.maps:
        raise ValueError(
            "there are no ready-made maps: expected maps='windows', which makes them "
            "from spectra, or None"
        )
    maps, messages = choose_maps(candidates.maps, elements)
    filtered = [signal for signal in maps if filter_of(signal)]
    if filtered:
        filtering = _about_filter(filtered)
        messages.append(
            f"{filtering}, which a fusion takes for independent: they are kept, as "
            "maps='ready-made' asks for"
        )
    return Mapped(maps, None, [*messages, *overlaps_of_maps(maps)])


def _about_filter(filtered: Sequence[BaseSignal]) -> str:
    """Which maps were filtered, the beginning of a warning."""
    return (
        f"the maps {', '.join(map(title_of, filtered))} were filtered by Velox "
        f"({filter_of(filtered[0])}), so that neighbouring pixels share their noise"
    )


def _take_maps(candidates: Candidates, elements: list[str] | None) -> Mapped:
    """Take ready-made maps, or those of their raw spectra if they were filtered."""
    maps, messages = choose_maps(candidates.maps, elements)
    filtered = [signal for signal in maps if filter_of(signal)]
    if not filtered:
        return Mapped(maps, None, [*messages, *overlaps_of_maps(maps)])
    message = _about_filter(filtered)
    raw, refusal = _unfiltered(filtered, candidates.spectrum_images)
    if raw is None:
        message += (
            ", which a fusion takes for independent. They are kept, because "
            f"{refusal}. Export the maps without a filter, or keep the spectrum image "
            "in the file"
        )
        return Mapped(maps, None, [*messages, message, *overlaps_of_maps(maps)])
    made = {signal.metadata.Sample.elements[0]: signal for signal in raw.maps}
    lines = ", ".join(signal.metadata.Sample.xray_lines[0] for signal in raw.maps)
    message += f": maps of {lines} are made from the spectra of the file instead"
    maps = [made.get(s.metadata.Sample.elements[0], s) for s in maps]
    return Mapped(maps, None, [*messages, message, *raw.warnings])


def _unfiltered(
    filtered: Sequence[ElementalMap], spectrum_images: Sequence[BaseSignal]
) -> tuple[Mapped | None, str]:
    """Map the raw spectra of filtered maps; or None, and why that is not possible.

    The lines are those that the metadata of the spectra name, else those of Velox.
    """
    spectra = [
        s
        for s in spectrum_images
        if all(same_scan(s, one) for one in filtered)
        and s.data.shape[:-1] == filtered[0].data.shape
    ]
    if not spectra:
        return None, "there are no spectra of these maps"
    named = {element_of(entry) for entry in sample_entries(spectra[0], "xray_lines")}
    chosen = {}
    for signal in filtered:
        element = signal.metadata.Sample.elements[0]
        chosen[element] = None if element in named else line_of(signal)
    try:
        return _map_spectra(spectra, chosen, (None, None), set()), ""
    except ValueError as error:
        return None, str(error)


def _map_spectra(
    spectrum_images: Sequence[BaseSignal],
    chosen: dict[str, str | None],
    windows: tuple[Any, Any],
    shapes: set[tuple[int, ...]],
    kinds: dict[str, Callable] = _PLANS,
) -> Mapped:
    """Make maps and their background from the only spectrum image that allows it.

    `chosen` holds elements and their lines, `windows` the background windows and
    integration windows as they were given, `shapes` the pixels ``(y, x)`` of the images
    that may be the HAADF image, `kinds` the plans for each kind of spectra.
    """
    possible: dict[str, list] = {kind: [] for kind in kinds}
    refusals = []
    for spectra in spectrum_images:
        kind = spectrum_kind(spectra)
        if kind not in kinds:
            continue
        try:
            plan = kinds[kind](spectra, chosen, *windows)
            possible[kind].append((spectra, plan))
        except ValueError as refusal:
            refusals.append(f"  {describe_spectra(spectra)}: {refusal}")

    def of_an_image(plan: tuple[BaseSignal, Any]) -> bool:
        return plan[0].axes_manager.navigation_shape[1::-1] in shapes

    every = [plans for plans in possible.values() if plans]
    # first those of the scan of an image; of these, those of the first kind
    plans = next((p for p in every if any(map(of_an_image, p))), next(iter(every), []))
    if not plans:
        reasons = "\n".join(refusals) or (
            f"  there is none of {' or '.join(kinds)} with two navigation axes; "
            "spectra without a type need signal.set_signal_type('EDS_TEM') or 'EELS'"
        )
        raise ValueError(f"no spectrum image can be mapped:\n{reasons}")
    if len(plans) > 1:
        fitting = list(filter(of_an_image, plans))
        if len(fitting) != 1:
            listed = "\n".join(f"  {describe_spectra(s)}" for s, _ in fitting or plans)
            raise ValueError(
                f"several spectrum images can be mapped:\n{listed}\nGive a list of the "
                "one to use and the HAADF image. If they are those of several "
                "detectors of one scan, give their sum, as in "
                "load_multimodal([one + other, haadf])"
            )
        plans = fitting
    return plans[0][1]()


def compute_together(signals: Iterable[BaseSignal]) -> None:
    """Compute those of some signals that are lazy, in place, in one pass."""
    lazy = [signal for signal in signals if is_lazy(signal.data)]
    arrays = computed([signal.data for signal in lazy])
    for signal, array in zip(lazy, arrays, strict=True):
        signal.data = array
        signal._lazy = False  # noqa: SLF001
        signal._assign_subclass()  # noqa: SLF001
