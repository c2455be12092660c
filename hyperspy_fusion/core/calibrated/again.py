"""What a finished fusion did, found again from its data and its record."""

from dataclasses import replace
from typing import Any

import numpy as np

from ..common.threads import workers
from .groups import Groups
from .options import CalibratedOptions
from .prepare import prepare
from .sharing import groups_of
from .shift import Shift, aligned

_ASKED = "seed", "regularizer", "lock_flux"


def groups_again(
    maps: np.ndarray,
    haadf: np.ndarray,
    first: np.ndarray,
    record: Any,
    trusted: np.ndarray,
    *,
    background: Any = None,
    variance: np.ndarray | None = None,
) -> Groups:
    """The groups of pixels that shared their counts in a finished fusion.

    Parameters
    ----------
    maps, haadf : numpy.ndarray
        The measurement, in any units; NaN where missing.
    first : numpy.ndarray
        The maps that were fused before pixels shared their counts, in the units of
        `maps`.
    record : mapping
        What :func:`~hyperspy_fusion.core.calibrated.method.solve` recorded, and the
        options `seed`, `regularizer` and `lock_flux`.
    trusted : numpy.ndarray
        Where the HAADF image was used, shape ``(y, x)``, bool.
    background, variance : numpy.ndarray, optional
        As they were given.
    """
    asked: dict[str, Any] = {name: record[name] for name in _ASKED}
    options = CalibratedOptions(**asked)
    preparation = prepare(
        maps, haadf, options, background=background, variance=variance
    )
    gain = preparation.units.gain
    found = np.asarray(record["vacuum_background"])
    if found.any():
        known = (found / gain).astype(np.float32)[:, None, None]
        prepared = replace(preparation.prepared, background=known)
        preparation = replace(preparation, prepared=prepared).locked()
    y, x = np.asarray(record["shift"])
    prepared = replace(
        aligned(preparation.prepared, Shift(y=float(y), x=float(x))),
        coefficients=np.asarray(record["haadf_coefficients"]) * gain,
        offset=float(record["haadf_offset"]) - preparation.units.base,
        apart=tuple(map(bool, record["own_norm"])),
    ).with_error(float(record["haadf_model_error"]))
    prepared = replace(prepared, trusted=prepared.trusted * trusted)
    with workers() as run:
        return groups_of(
            prepared,
            (first / gain[:, None, None]).astype(np.float32),
            (float(record["lambda_tv"]), float(record["lambda_haadf"])),
            int(record["sharing_neighbours"]),
            run,
            options.seed,
        )
