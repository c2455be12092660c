"""Fusion of X-ray spectra, from signals to signals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from hyperspy.signals import BaseSignal

from .core.calibrated.convex.bins import Bins, information
from .core.calibrated.options import CalibratedOptions
from .core.calibrated.spectra import (
    N_BINS,
    Spectra,
    efficiency,
    merge,
    mixing_of,
    solve,
)
from .core.common.options import helpful
from .execution.arrays import computed, sums_of_channels, unmasked
from .execution.plan import ExecutionOptions, Task
from .inputs.elements import element_of, entry_of
from .inputs.images import axes_of, describe, new_signal
from .inputs.measurement import Mask, Matching, common_area, mask_array, measure
from .inputs.microscope import no_numbers
from .loading.eds import choose_lines
from .loading.lines import PER_KEV, lines_of
from .loading.spectra import as_names, elements_of, lines_by_element
from .loading.sum_spectrum import (
    CONTINUUM,
    FEWEST,
    SumSpectrum,
    as_range,
    fit_sum_spectrum,
)
from .provenance import call_of, origin, pixels
from .results import Conclusion, fused_now, tell

if TYPE_CHECKING:
    from .core.calibrated.options import Regularizer
    from .inputs.further import Elastic, Weighting
    from .inputs.measurement import Image, Measurement
    from .signals import ElementalMap

_BINS_EACH = 3  # at least, of each component
_ALIKE = 1e-4  # of the information about a component: the least that can be fused
_WEAK = 0.8  # Fisher efficiency of the bins, below which the user is told
_OPTIONS = (
    "lambda_haadf",
    "lambda_elastic",
    "lambda_tv",
    "gamma",
    "regularizer",
    "lock_flux",
    "share",
    "uncertainty",
    "n_replicas",
    "tolerance",
    "max_iter",
    "seed",
)


@helpful
def fuse_spectra(
    spectra: BaseSignal,
    haadf: Image,
    elements: str | Sequence[str] | None = None,
    other_elements: str | Sequence[str] | None = None,
    *,
    lines: str | Sequence[str] | None = None,
    energy_range: tuple[float, float] | None = None,
    mask: Mask = None,
    match: Matching = None,
    elastic: Elastic = None,
    lambda_haadf: float | Literal["auto"] = "auto",
    lambda_elastic: Weighting = "auto",
    lambda_tv: float | Literal["auto"] = "auto",
    gamma: float = 1.7,
    regularizer: Regularizer = "tgv",
    lock_flux: bool = True,
    share: bool = False,
    uncertainty: bool = False,
    n_replicas: int | None = None,
    tolerance: float = 1e-3,
    max_iter: int = 2000,
    seed: int = 0,
    show_progressbar: bool | None = None,
    num_workers: int | None = None,
) -> list[ElementalMap]:
    r"""Fuse X-ray spectra with a HAADF image: all lines, overlapping or not.

    As :func:`fuse_multimodal`, but what the maps :math:`x_i \ge 0` explain is the
    whole spectrum of each pixel instead of maps of windows. Of channels merged into
    some 20 bins k, with the counts :math:`b_k` and the matrix M of what a count of each
    component adds to them, its term is

    .. math::

        \sum_r \sum_k \bigl[ (Mx)_k - (b + Mδ)_k \log (M (x + δ))_k \bigr]

    The components are the elements, with all their lines in the range, other elements,
    and the continuum, as :func:`fit_sum_spectrum` finds them in the sum of all spectra;
    each keeps its counts there. So overlapping lines are told apart, minor lines count,
    and there is no background to subtract.

    Parameters
    ----------
    spectra : exspy.signals.EDSTEMSpectrum or exspy.signals.EDSSEMSpectrum
        Counts, shape ``navigation + (y, x, energy)``; the energy in keV or eV. Lazy
        ones are read twice, chunk by chunk. Frames of a series have the same lines and
        continuum, each with counts of its own.
    haadf : BaseSignal, or list of BaseSignal
        HAADF image of the same pixels, shape ``navigation + (y, x)``, in any units; of
        a list, the one that fits.
    elements : str or list of str, optional
        Symbols of the elements of the specimen; by default those of the metadata that
        are not in `other_elements`.
    other_elements : str or list of str, optional
        Symbols of elements that are in the spectra besides, and not in the image: of
        the grid, the holder, a coating.
    lines : str or list of str, optional
        Lines whose counts the maps have, as "Fe_Ka", so that k-factors of these apply;
        by default those of the metadata, else those that eXSpy prefers.
    energy_range : tuple of float, optional
        Lowest and highest energy in keV. By default from 0.2 keV to the end, or to the
        energy of the beam.
    mask : numpy.ndarray or BaseSignal of bool, optional
        True where spectra are missing or bad: their pixels are filled by the model.
    match : {"axes", "pixels"}, optional
        Bring both to the area that their axes share, or take their pixels for the same.
    elastic : BaseSignal, or list or dict of BaseSignal, optional
        Up to 3 more images of the pixels of the HAADF image, as for
        :func:`fuse_multimodal`.
    lambda_haadf, lambda_elastic, lambda_tv, gamma, regularizer, lock_flux, share
        As for :func:`fuse_multimodal`.
    uncertainty, n_replicas
        As for :func:`fuse_multimodal`: counts of the bins are drawn anew. The spectra
        of the components are taken for exact.
    tolerance, max_iter, seed
        As for :func:`fuse_multimodal`.
    show_progressbar, num_workers
        As for :func:`fuse_multimodal`.

    Returns
    -------
    list of ElementalMap
        Counts of the line of each element, in the order of `elements`, float32.
        ``metadata.Multimodal_fusion`` records what was done.

    Raises
    ------
    TypeError, ValueError
        If an argument is no signal, or an option unknown or of the wrong type; spectra
        are no counts, or not those of one field of view; elements or lines are
        unknown, or have no counts; image or mask do not belong to the spectra.

    See Also
    --------
    fit_sum_spectrum, fuse_multimodal

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.janus(size=32)
    >>> lines = ["Au_La", "Fe_Ka", "O_Ka"]
    >>> spectra = hyperspy_fusion.data.xray_spectra(truth, lines)
    >>> fused = hyperspy_fusion.fuse_spectra(spectra, haadf, ["Au", "Fe", "O"])
    >>> fused[0]
    <ElementalMap, title: Au, dimensions: (|32, 32)>
    """
    options = CalibratedOptions(
        lambda_haadf=lambda_haadf,
        lambda_elastic=lambda_elastic,
        lambda_tv=lambda_tv,
        gamma=gamma,
        regularizer=regularizer,
        lock_flux=lock_flux,
        share=share,
        uncertainty=uncertainty,
        n_replicas=n_replicas,
        tolerance=tolerance,
        max_iter=max_iter,
        seed=seed,
    )
    execution = ExecutionOptions(
        show_progressbar=show_progressbar, num_workers=num_workers
    )
    _check(spectra)
    wanted, others = elements_to_fuse(spectra, elements, other_elements)
    span = as_range(energy_range)
    call: dict[str, Any] = {
        "elements": wanted,
        "other_elements": others,
        "lines": as_names("lines", lines),
        "energy_range": None if span is None else list(span),
        "match": match,
    }
    binned = _Binned.of(spectra, haadf, mask, elastic, **call)
    measurement, frames = binned.measurement, binned.frames
    options.elastic_weights(measurement.elastic_names)  # an error if they do not fit
    tell((), binned.said)
    arrays = {"haadf": measurement.haadf}
    if measurement.elastic is not None:
        arrays["elastic"] = measurement.elastic
    tasks = [
        Task.of(
            partial(
                _solve,
                spectra=frame,
                atomic_numbers=measurement.atomic_numbers,
                options=options,
                elastic_names=measurement.elastic_names,
                facts=binned.facts,
                notes=binned.notes,
            ),
            arrays,
            place,
        )
        for place, frame in frames.items()
    ]
    call |= {name: getattr(options, name) for name in _OPTIONS}
    given = {"mask": mask, "elastic": measurement.elastic_names or None}
    counts = np.stack([frame.bins.counts for frame in frames.values()])
    images = pixels(measurement)
    known = origin(
        {"spectra": call, "given": [n for n, one in given.items() if one is not None]},
        {"spectra": counts, **{n: images[n] for n in images if "image" in n}},
    )
    conclude = Conclusion.of(
        "calibrated", measurement, options, tasks, execution, known
    )
    return fused_now(tasks, conclude, measurement, options, execution)


@dataclass(frozen=True, kw_only=True)
class _Binned:
    """Spectra in bins by their position, the images beside them, and what is known.

    `facts` are for the record; `said` are warnings that were not given yet.
    """

    frames: dict[tuple, Spectra]
    measurement: Measurement
    facts: dict[str, Any]
    notes: Sequence[str]
    said: Sequence[str]

    @classmethod
    def of(
        cls,
        spectra: BaseSignal,
        haadf: Image,
        mask: Mask,
        elastic: Elastic,
        *,
        elements: list[str],
        other_elements: list[str],
        lines: list[str] | None,
        energy_range: Sequence[float] | None,
        match: Matching,
    ) -> _Binned:
        """Read spectra, as :func:`fuse_spectra` takes them."""
        chosen = lines_by_element(elements, lines)
        by_element = {element_of(line): line for line in choose_lines(spectra, chosen)}
        if mask is not None:
            (mask,) = computed([mask_array(mask, spectra.data.shape[:-1])])
        span: Any = energy_range if energy_range is None else tuple(energy_range)
        found = fit_sum_spectrum(
            spectra, elements, other_elements or None, energy_range=span, mask=mask
        )
        frames, facts, notes, said = _in_bins(
            spectra, found, elements, by_element, mask
        )
        signals = _images(spectra, frames, [by_element[e] for e in elements])
        measurement = measure(
            signals, haadf, elements=elements, match=match, elastic=elastic
        )
        if match == "axes":
            area = common_area(signals[0], haadf)
            frames = {
                k: f.of_frame(area.sums(f.bins.counts)) for k, f in frames.items()
            }
        every = *measurement.warnings, *found.warnings, *said
        return cls(
            frames=frames,
            measurement=replace(measurement, warnings=every),
            facts=facts,
            notes=notes,
            said=said,
        )


def spectra_again(
    record: Mapping[str, Any], spectra: BaseSignal, haadf: Image, mask: Mask
) -> tuple[Measurement, dict[tuple, Spectra]]:
    """What was fused, and the spectra of each position in their bins.

    Quietly: the fusion gave the same warnings.
    """
    call = call_of(record)["spectra"]
    names = "elements", "other_elements", "lines", "energy_range", "match"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        binned = _Binned.of(spectra, haadf, mask, None, **{n: call[n] for n in names})
    measurement = binned.measurement
    if mask is not None:
        measurement = replace(measurement, masked=True)
    return measurement, binned.frames


def _check(spectra: Any) -> None:
    """Raise an error if spectra are not those of a field of view, or of a series."""
    if not isinstance(spectra, BaseSignal):
        raise TypeError(
            f"spectra is of type {type(spectra).__name__}: expected one signal, an EDS "
            "spectrum image as hs.load returns it"
        )
    manager = spectra.axes_manager
    if manager.navigation_dimension < 2 or manager.signal_dimension != 1:
        raise ValueError(
            f"spectra has {manager.navigation_dimension} navigation and "
            f"{manager.signal_dimension} signal axes: expected 2 and 1, the spectra of "
            "a field of view, or more navigation axes for a series; maps are fused by "
            "fuse_multimodal"
        )
    kind = entry_of(spectra, "Signal", "signal_type")
    if not isinstance(kind, str):  # metadata of files hold anything
        kind = spectra._signal_type  # noqa: SLF001
    if not kind.startswith("EDS_"):
        raise ValueError(
            f"spectra {describe(spectra)} has the signal type {kind!r}: expected X-ray "
            "spectra, with 'EDS_TEM' or 'EDS_SEM'; set it with spectra.set_signal_type"
        )


def elements_to_fuse(
    spectra: BaseSignal,
    elements: str | Sequence[str] | None,
    other_elements: str | Sequence[str] | None,
) -> tuple[list[str], list[str]]:
    """Elements of the specimen, and others; an error if there are none or twice."""
    others = as_names("other_elements", other_elements, may_be_empty=True) or []
    given = as_names("elements", elements)
    wanted = given or [name for name in elements_of(spectra) if name not in others]
    twice = [name for name in (*wanted, *others) if (*wanted, *others).count(name) > 1]
    if twice:
        raise ValueError(
            f"{' and '.join(dict.fromkeys(twice))} is named twice in elements and "
            "other_elements: expected each element once, those of the specimen in "
            "elements"
        )
    if not wanted:
        raise ValueError(
            f"all elements of the metadata are in other_elements={others}: expected at "
            "least one of the specimen, name those with elements="
        )
    return wanted, others


def _in_bins(
    spectra: BaseSignal,
    found: SumSpectrum,
    wanted: Sequence[str],
    lines: Mapping[str, str],
    mask: Any,
) -> tuple[dict[tuple, Spectra], dict[str, Any], list[str], list[str]]:
    """Spectra of each position in bins; what the record has, notes and warnings."""
    empty = [name for name in wanted if not found.components[name].any()]
    if empty:
        raise ValueError(
            f"the sum spectrum has no counts of {' and '.join(empty)}: leave these out "
            "of elements, see fit_sum_spectrum"
        )
    names = [*wanted, *(n for n in found.components if n not in wanted)]
    without = [n for n in names if not found.components[n].any()]
    names = [n for n in names if n not in without]
    columns: Any = np.stack([found.components[name] for name in names], axis=1)
    sums = columns.sum(axis=0)
    shapes = columns / sums
    _check_apart(names, shapes, sums)
    labels = merge(shapes, sums, max(N_BINS, _BINS_EACH * len(sums)))
    mixing = mixing_of(shapes, labels)
    kept = efficiency(shapes, mixing, sums)
    axis = spectra.axes_manager.signal_axes[0]
    start = PER_KEV[axis.units] * found.energies[0]
    first = int(abs(axis.axis - start).argmin())
    inside = unmasked(spectra.data)[..., first : first + len(labels)]
    indicator = labels[:, None] == np.arange(len(mixing))
    if mask is not None:  # whatever is there
        left_out = np.broadcast_to(mask, inside.shape[:-1])[..., None]
        inside = np.where(left_out, 0, inside)
    counts, lowest = sums_of_channels(inside, indicator)
    if not (counts == np.rint(counts)).all() or lowest < 0:
        raise ValueError(
            f"spectra {describe(spectra)} hold values that are no whole numbers, or "
            "below 0: expected counts, as the detector gives them"
        )
    if mask is not None:
        counts[np.broadcast_to(mask, counts.shape[:-1])] = np.nan
    shares = np.array([_share(found, element, lines[element]) for element in wanted])
    errors = np.array([found.errors.get(name, 0.0) for name in names])
    counts = np.ascontiguousarray(np.moveaxis(counts, -1, -3))
    first, *others = np.ndindex(counts.shape[:-3])
    _check_frames(counts)
    known = Spectra(
        bins=Bins(counts=counts[first], mixing=mixing, n_elements=len(wanted)),
        sums=sums,
        errors=errors,
        names=tuple(names),
        shares=shares,
    )
    frames = {first: known}  # of one field of view: with the sums of the fit
    if others:
        frames = {place: known.of_frame(counts[place]) for place in (first, *others)}
    facts = {
        "lines": ",".join(lines[element] for element in wanted),
        "other_elements": ",".join(n for n in names[len(wanted) :] if n != CONTINUUM),
        "line_shares": shares,
        "energies": np.array([found.energies[0], found.energies[-1]]),
        "n_bins": len(mixing),
        "bins_efficiency": kept[: len(wanted)],
        "sum_spectrum_chi2": found.chi2,
    }
    span = f"{found.energies[0]:.3g} to {found.energies[-1]:.4g} keV"
    least = 100 * kept[: len(wanted)].min()
    parts = [
        f"{lines[element]} ({100 * share:.0f} % of those of {element})"
        for element, share in zip(wanted, shares, strict=True)
    ]
    merged = (
        f"the channels were merged into {len(mixing)} bins, which keep at least "
        f"{least:.1f} % of the information about each element"
    )
    notes = [
        f"the components of the spectra, from {span}, were {', '.join(names)}",
        merged,
        f"the maps are counts of {', '.join(parts)}",
        f"chi2 of the sum spectrum is {found.chi2:.2f}",
    ]
    if without:
        notes.append(
            "left out was what has no counts in the sum spectrum: "
            f"{' and '.join(without)}"
        )
    weak = [n for n, e in zip(wanted, kept, strict=False) if e < _WEAK]
    said = [
        f"the {len(mixing)} bins keep only {100 * kept[names.index(name)]:.0f} % of "
        f"the information about {name}: name fewer elements, or give an energy_range"
        for name in weak
    ]
    return frames, facts, notes, [*said, *no_numbers(spectra)]


def _check_frames(counts: np.ndarray) -> None:
    """Raise a ValueError if a frame of a series has too few counts."""
    total: Any = np.nansum(counts, axis=(-3, -2, -1), dtype=np.float64)
    for position in map(tuple, np.argwhere(total < FEWEST).tolist()):
        if position:  # the sum of all was checked before
            raise ValueError(
                f"the spectra at the position {position} of the series have "
                f"{total[position]:g} counts that are not masked: expected at least "
                f"{FEWEST:g}, leave that position out"
            )


def _check_apart(names: Sequence[str], shapes: np.ndarray, sums: np.ndarray) -> None:
    """Raise a ValueError if two components have the same spectrum."""
    known = information(shapes, sums)
    scale = np.sqrt(np.diag(known))
    alone = known / scale / scale[:, None] + _ALIKE**2 * np.eye(len(names))
    left = 1 / np.diag(np.linalg.inv(alone))
    alike = [name for name, part in zip(names, left, strict=True) if part < _ALIKE]
    if alike:
        raise ValueError(
            f"{' and '.join(alike)} cannot be told apart in these spectra: leave one "
            "of them out, or give an energy_range in which their lines differ"
        )


def _share(found: SumSpectrum, element: str, line: str) -> float:
    """Counts of a line over those of all lines of its element in the range."""
    family = line[: line.index("_") + 2]
    span = f"{found.energies[0]:.3g} to {found.energies[-1]:.4g} keV"
    if not found.sums.get(family):
        raise ValueError(
            f"{line} has no counts in the sum spectrum from {span}: choose another "
            f"line of {element} with lines=, or give another energy_range"
        )
    inside = {
        name: weight
        for name, (energy, weight) in lines_of(element).items()
        if found.energies[0] < energy < found.energies[-1]
    }
    own = sum(weight for name, weight in inside.items() if name.startswith(family))
    if line not in inside:
        raise ValueError(
            f"{line} is outside {span}: choose another line of {element} with lines=, "
            "or give another energy_range"
        )
    total = sum(found.sums[f] for f in found.sums if element_of(f) == element)
    return float(inside[line] / own * found.sums[family] / total)


def _images(
    spectra: BaseSignal, frames: Mapping[tuple, Spectra], lines: Sequence[str]
) -> list[BaseSignal]:
    """The maps of lines as they were measured, with the axes of the spectra."""
    maps = np.stack([frame.maps() for frame in frames.values()], axis=1)
    images = []
    for line, values in zip(lines, maps, strict=True):
        image = image_of(spectra, values.reshape(spectra.data.shape[:-1]))
        image.metadata.General.title = element_of(line)
        image.metadata.set_item("Sample.elements", [element_of(line)])
        image.metadata.set_item("Sample.xray_lines", [line])
        images.append(image)
    return images


def image_of(spectra: BaseSignal, values: Any) -> BaseSignal:
    """An image, or a series, of the pixels of spectra."""
    axes = axes_of(spectra)[:-1]
    for axis in axes[-2:]:
        axis["navigate"] = False
    return new_signal(spectra, values, axes=axes)


def _solve(*, facts: dict[str, Any], notes: Sequence[str], **given: Any) -> Any:
    """Solve, and add to the solution what is known of the spectra."""
    solution = solve(**given)
    return replace(
        solution,
        record={**solution.record, **facts},
        notes=(*notes, *solution.notes),
    )
