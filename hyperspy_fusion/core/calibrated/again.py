"""What a finished fusion did, found again from its data and its record."""

from dataclasses import replace
from typing import Any

import numpy as np

from ..common.threads import workers
from .composition import NoiseLaw
from .flux import FluxLock
from .given import Pixels
from .groups import Groups
from .guard import local_z
from .multinomial import Fractions
from .options import CalibratedOptions
from .prepare import Preparation, PreparedData, prepare
from .sharing import groups_of
from .shift import Shift, aligned
from .slow import without_slow
from .spectra import Spectra, prepare_unmixed

_ASKED = "seed", "regularizer", "lock_flux"


def _prepared_again(
    pixels: Pixels, record: Any, options: CalibratedOptions
) -> tuple[PreparedData, np.ndarray]:
    """The data with what was found about them, and the value of a count in them."""
    if pixels.background is None:
        found = np.asarray(record["vacuum_background"])[:, None, None]
        pixels = replace(pixels, background=found)
    preparation = prepare(
        pixels,
        options,
        level_rows=bool(record.get("haadf_row_noise")),
    )
    # That of these data: that of a sample may differ.
    count_value = preparation.units.count_value
    if _of_fractions(record):
        count_value = np.asarray(record["count_value"])
    coefficients = np.asarray(record["haadf_coefficients"]) * count_value
    return _calibrated_again(preparation, coefficients, record), count_value


def _calibrated_again(
    preparation: Preparation, coefficients: np.ndarray, record: Any
) -> PreparedData:
    """Prepared data with what was found about the HAADF image."""
    y, x = np.asarray(record["shift"])
    prepared = replace(
        aligned(preparation.prepared, Shift(y=float(y), x=float(x))),
        coefficients=coefficients,
        offset=float(record["haadf_offset"]) - preparation.units.base,
    )
    if record.get("haadf_slow"):
        prepared = without_slow(prepared)
    return prepared.with_error(float(record["haadf_model_error"]))


def _of_fractions(record: Any) -> bool:
    """Whether fractions were fused; a series may have them at some positions only."""
    return bool(np.isfinite(record.get("fraction_sum", np.nan)))


def _fractions_again(prepared: PreparedData, record: Any) -> Fractions:
    """The fractions of a finished fusion, with their noise law."""
    total, value = record["fraction_sum"], np.asarray(record["count_value"])
    law = NoiseLaw(
        offset=prepared.offset,
        coefficients=np.asarray(record["haadf_coefficients"]) * total,
        count_value=value / total,
        counts=float(record["counts_per_pixel"]),
        misfit=float(record["noise_misfit"]),
        ratio=np.nan,  # not needed, nor is the source
        source="given",
    )
    return Fractions.with_law(prepared, law)


def local_z_again(pixels: Pixels, fused: np.ndarray, record: Any) -> np.ndarray:
    """The :func:`~.guard.local_z` of a finished fusion, shape ``(y, x)``.

    The arguments are those of :func:`groups_again`, with the `fused` maps in the units
    of those measured.
    """
    prepared, count_value = _prepared_again(pixels, record, CalibratedOptions())
    seen = np.where(prepared.trusted > 0, prepared.haadf, np.nan)
    return local_z(replace(prepared, haadf=seen), fused / count_value[:, None, None])


def groups_again(
    pixels: Pixels, first: np.ndarray, record: Any, trusted: np.ndarray
) -> Groups:
    """The groups of pixels that shared their counts in a finished fusion.

    Parameters
    ----------
    pixels : Pixels
        The measurement, as it was given.
    first : numpy.ndarray
        The maps that were fused before pixels shared their counts, in the units of
        those measured.
    record : mapping
        What :func:`~hyperspy_fusion.core.calibrated.method.solve` recorded, and the
        options `seed`, `regularizer` and `lock_flux`.
    trusted : numpy.ndarray
        Where the HAADF image was used, shape ``(y, x)``, bool.
    """
    asked: dict[str, Any] = {name: record[name] for name in _ASKED}
    options = CalibratedOptions(**asked)
    prepared, count_value = _prepared_again(pixels, record, options)
    prepared = replace(
        prepared,
        apart=tuple(map(bool, record["own_norm"])),
        trusted=prepared.trusted * trusted,
    )
    image: PreparedData | Fractions = prepared
    if _of_fractions(record):
        image = _fractions_again(prepared, record)
    return _groups_of(image, first / count_value[:, None, None], record)


def groups_of_spectra_again(
    haadf: np.ndarray,
    spectra: Spectra,
    first: np.ndarray,
    record: Any,
    trusted: np.ndarray,
) -> Groups:
    """As :func:`groups_again`, of spectra in bins.

    `first` are counts of the lines that stand for the elements.
    """
    asked: dict[str, Any] = {name: record[name] for name in _ASKED}
    options = CalibratedOptions(**asked)
    preparation, *_ = prepare_unmixed(haadf, spectra, options)
    shares = spectra.shares
    others = len(spectra.names) - len(shares)
    coefficients = np.asarray(record["haadf_coefficients"]) * shares
    coefficients = np.pad(coefficients, (0, others))
    prepared = spectra.prepared(_calibrated_again(preparation, coefficients, record))
    prepared = replace(
        prepared,
        apart=(*map(bool, record["own_norm"]), *[False] * others),
        trusted=prepared.trusted * trusted,
    )
    if not options.lock_flux:
        prepared = replace(prepared, lock=FluxLock.free(len(coefficients)))
    return _groups_of(prepared, first / shares[:, None, None], record)


def _groups_of(
    image: PreparedData | Fractions, first: np.ndarray, record: Any
) -> Groups:
    """The groups of an image, from first maps in its units, as they were recorded."""
    with workers() as run:
        return groups_of(
            image,
            first.astype(np.float32),
            (float(record["lambda_tv"]), float(record["lambda_haadf"])),
            int(record["sharing_neighbours"]),
            run,
            int(record["seed"]),
        )
