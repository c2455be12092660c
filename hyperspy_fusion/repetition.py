"""A fusion once more, from its record."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .core.common.messages import warn
from .derived import (
    complete_record,
    first_of,
    is_spectrum_image,
    maps_of_fusion,
    record_of,
)
from .fusion import fuse_multimodal, fuse_published
from .inputs.elements import infer_element
from .inputs.further import Elastic
from .inputs.measurement import Background, Image, Maps, Mask, Measurement, measure
from .provenance import (
    automatic,
    by_package,
    call_of,
    check_given,
    check_same,
    checksums,
    options_of,
    pixels,
    sums_of,
    versions,
)
from .spectral_fusion import fuse_spectra

if TYPE_CHECKING:
    from hyperspy.signals import BaseSignal

    from .signals import ElementalMap

__all__ = ["repeat"]


def repeat(
    fused: Sequence[ElementalMap] | ElementalMap,
    maps: Maps | BaseSignal,
    haadf: Image,
    background: Background = None,
    *,
    mask: Mask = None,
    elastic: Elastic = None,
    show_progressbar: bool | None = None,
    num_workers: int | None = None,
) -> list[ElementalMap]:
    """Repeat a fusion, with the options in its record.

    On the machine that made it, with the same versions of what computed it, all maps
    and numbers are the same to the last bit, whatever the number of threads is.

    Parameters
    ----------
    fused : list of ElementalMap, or ElementalMap
        Maps that :func:`fuse_multimodal`, :func:`fuse_spectra` or
        :func:`fuse_published` returned, from this session or from files.
    maps, haadf, background
        As they were fused; the spectra in the place of maps that were fused from them.
    mask, elastic
        As they were given.
    show_progressbar, num_workers
        As for :func:`fuse_multimodal`.

    Returns
    -------
    list of ElementalMap
        With a record of their own. A warning tells if other versions computed the
        first ones, or if the maps differ from `fused`.

    Raises
    ------
    ValueError
        If the data are not those that were fused, or one of them was not given; or if
        the record does not hold the options: it is that of an earlier version.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    >>> again = hyperspy_fusion.repeat(fused, maps, haadf)
    >>> bool((again[0].data == fused[0].data).all())
    True
    """
    record_of(first_of(fused))
    before = maps_of_fusion(fused)
    record = complete_record(before[0])
    call = call_of(record)
    given: dict[str, Any] = {"background": background, "mask": mask}
    check_given(call["given"], given)
    bars = {"show_progressbar": show_progressbar, "num_workers": num_workers}
    if "spectra" in call:
        given = {"mask": mask, "elastic": elastic}
        check_given(call["given"], given)
        again = _spectra_again(record, call["spectra"], maps, haadf, **given, **bars)
        _compare(before, again)
        return again
    if record["method"] == "published" and elastic is not None:
        raise ValueError("elastic is given: fuse_published takes no further images")
    _check_data(record, maps, haadf, {**given, "elastic": elastic})
    _warn_of_other_versions(record["versions"])
    options = options_of(record) | bars
    if record["method"] == "published":
        again = fuse_published(maps, haadf, **options)
    else:
        again = fuse_multimodal(maps, haadf, **options, elastic=elastic, **given)
    _compare(before, again)
    return again


def _spectra_again(
    record: dict[str, Any],
    options: dict[str, Any],
    spectra: Any,
    haadf: Image,
    **given: Any,
) -> list[ElementalMap]:
    """Fuse spectra again; an error if other ones were given.

    What is compared are the bins, which are known when the spectra have been read.
    """
    if not is_spectrum_image(spectra):
        raise ValueError(
            "the maps were fused from spectra, and what is given are none: expected "
            "these in the place of the maps, repeat(fused, spectra, haadf)"
        )
    _warn_of_other_versions(record["versions"])
    for name in ("lambda_haadf", "lambda_elastic", "lambda_tv"):
        options[name] = automatic(options.get(name))
    if options["energy_range"]:
        options["energy_range"] = tuple(options["energy_range"])
    again = fuse_spectra(spectra, haadf, **options, **given)
    check_same(sums_of(record), sums_of(complete_record(again[0])))
    return again


def _check_data(
    record: dict[str, Any], maps: Maps, haadf: Image, given: dict[str, Any]
) -> None:
    """Raise a ValueError if data have another checksum; warn if that is not known.

    Lazy data are read once for that.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the fusion gives the same ones
        measurement: Measurement = measure(
            maps,
            haadf,
            elements=record["elements"].split(","),
            match=record.get("match"),
            allow_missing=record["method"] != "published",
            lazily=True,
            **given,
        )
    shape = np.shape(record["haadf_coefficients"])[:-1]
    if measurement.navigation_shape != shape:
        raise ValueError(
            f"the maps come from a series of shape {shape}, and the data are of "
            f"{measurement.navigation_shape or 'one image'}: expected all data of the "
            "series; a part of its maps is enough"
        )
    known = sums_of(record)
    if not known:
        warn(
            "the data were lazy when they were fused: it is not known whether these "
            "are the same"
        )
        return
    check_same(known, checksums(pixels(measurement)))


def _warn_of_other_versions(before: str) -> None:
    now = by_package(versions())
    differ = [
        f"{name} {old} (now {now.get(name, 'not known')})"
        for name, old in by_package(before).items()
        if now.get(name) != old
    ]
    if differ:
        warn(
            f"the maps were fused with {', '.join(differ)}: they may differ in their "
            "last digits, or more if the method has changed"
        )


def _compare(before: Sequence[ElementalMap], again: Sequence[ElementalMap]) -> None:
    """Warn if maps differ that are to be the same."""
    largest, named = 0.0, {infer_element(new): new for new in again}
    for old in before:
        new = named.get(infer_element(old))
        if new is None or old.data.shape != new.data.shape:
            return  # parts of the maps, or what is none any more
        apart = np.abs(np.asarray(old.data) - np.asarray(new.data)).max()
        largest = max(largest, float(apart / max(np.abs(new.data).max(), 1e-30)))
    if largest > 0:
        warn(
            f"the repeated maps differ by up to {largest:.1e} of their largest value "
            "from those that were given: these were changed after the fusion, or made "
            "by another processor or other versions"
        )
