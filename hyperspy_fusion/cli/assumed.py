"""What ``info`` tells: what would be fused, and what would be assumed."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..core.calibrated.reading import goes_below_zero, recognise
from ..core.common.missing import fill
from ..inputs.elements import title_of
from ..inputs.images import describe
from ..inputs.measurement import Measurement, measure
from ..inputs.velox import filter_of
from ..loading import find_candidates
from ..loading.candidates import is_image
from ..loading.load import MultimodalData
from ..loading.sum_spectrum import fit_sum_spectrum
from ..spectral_fusion import elements_to_fuse, image_of
from .files import symbol_of


def lines_about(signals: list, loaded: MultimodalData, match: Any = None) -> list[str]:
    """Lines about the signals of a file and those of them that would be fused."""
    maps, haadf, background = loaded
    lines = [str(find_candidates(signals))]
    try:
        measurement = measure(
            maps, haadf, background, elastic=loaded.elastic or None, match=match
        )
    except ValueError as error:
        return [*lines, f"Would be refused: {error}"]
    images = ", ".join(map(describe, (haadf, *loaded.elastic)))
    lines.append(f"Would fuse {', '.join(map(symbol_of, maps))} with {images}")
    about = [*_about(loaded, measurement), *_other_images(signals, loaded)]
    return [*lines, *(f"  {line}" for line in about)]


def lines_about_spectra(
    signals: list,
    loaded: MultimodalData,
    names: list[str],
    other_elements: Sequence[str] | None = None,
    energy_range: tuple[float, float] | None = None,
    match: Any = None,
) -> list[str]:
    """Lines about spectra that would be fused as they are, from their sum."""
    spectra: Any = loaded.maps
    names, _ = elements_to_fuse(spectra, names, other_elements)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they are among the lines
        found = fit_sum_spectrum(
            spectra, names, other_elements, energy_range=energy_range
        )
    _check_images(spectra, names[0], loaded, match)
    total = found.counts.sum()
    images = ", ".join(map(describe, (loaded.haadf, *loaded.elastic)))
    lines = [
        str(find_candidates(signals)),
        f"Would fuse the spectra of {', '.join(names)} with {images}",
    ]
    lines.append(
        f"  sum spectrum: {total:.0f} counts from {found.energies[0]:.3g} to "
        f"{found.energies[-1]:.4g} keV, chi2 of its fit {found.chi2:.2f}"
    )
    shares = [f"{e} {100 * v.sum() / total:.2g} %" for e, v in found.components.items()]
    lines.append(f"  counts: {', '.join(shares)}")
    return [*lines, *(f"  warning: {text}" for text in found.warnings)]


def _check_images(
    spectra: Any, element: str, loaded: MultimodalData, match: Any
) -> None:
    """Raise an error if images cannot be fused with spectra, whatever these hold."""
    shape = spectra.data.shape[:-1]
    blank = image_of(spectra, np.arange(np.prod(shape), dtype=float).reshape(shape))
    blank.metadata.General.title = element
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        given = {"elastic": loaded.elastic, "match": match}
        measure([blank], loaded.haadf, elements=[element], **given)


def _other_images(signals: list, loaded: MultimodalData) -> Iterator[str]:
    """The images of the same pixels that could be fused, too."""
    found = find_candidates(signals)
    used = [title_of(signal) for signal in (loaded.haadf, *loaded.elastic)]
    shape = loaded.haadf.data.shape
    others = [
        title_of(signal)
        for signal in (*found.haadf, *filter(is_image, found.others))
        if signal.data.shape == shape and title_of(signal) not in ("", *used)
    ]
    if others:
        yield (
            "other images of the same pixels, for elastic=[...]: "
            f"{', '.join(dict.fromkeys(others))}"
        )


def _about(loaded: MultimodalData, measurement: Measurement) -> Iterator[str]:
    """What the values are, which filters were found, and what would be assumed."""
    series = measurement.navigation_shape
    first = (0,) * len(series)
    maps = np.asarray(measurement.maps[first], dtype=float)
    given = measurement.variance
    missing = np.isnan(maps)
    units = recognise(
        fill(maps),
        missing,
        None if given is None else np.asarray(given[first], dtype=float),
        measurement.elements,
        negative=goes_below_zero(float(np.nanmin(maps)), float(np.nanmax(maps))),
    )
    where = ", in the first image of the series" if series else ""
    yield f"values: {units.kind}{where}; the mean of a pixel is {_means(maps, units)}"
    filters = [
        f"{element}: {found} (says the file)"
        for element, signal in zip(measurement.elements, loaded.maps, strict=True)
        if (found := filter_of(signal))
    ]
    filters += [
        f"{element}: {kernel.name} (by its noise)"
        for element, kernel in zip(measurement.elements, units.kernels, strict=False)
        if kernel is not None
    ]
    yield f"filters: {'; '.join(filters) or 'none found'}"
    if loaded.background is not None:
        yield "background: estimated from the spectra, it is subtracted"
    else:
        yield (
            "background: not known, assumed to be that of the vacuum if there is any, "
            "else 0"
        )
    if missing.any():
        yield f"missing: {int(missing.sum())} pixels of the maps, they are filled"
    for text in (*measurement.notes, *units.notes):
        yield f"assumed: {text}"
    for text in units.warnings:
        yield f"warning: {text}"
    yield "HAADF image: of the same scan; a displacement by whole pixels is looked for"


def _means(maps: np.ndarray, units: Any) -> str:
    """Mean of each map, in counts where that is known."""
    means = np.nanmean(maps, axis=(1, 2)) / (units.count_value if units.counts else 1)
    listed = " + ".join(f"{mean:.3g}" for mean in means)
    return f"{listed} = {means.sum():.3g}{' counts' * bool(units.counts)}"
