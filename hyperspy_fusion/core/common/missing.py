"""Missing pixels: their number, and filling them from their surroundings."""

import numpy as np
from scipy.ndimage import gaussian_filter

_WIDTH = 1.5  # pixels, of the Gaussian
_LEAST_SHARE = 1e-2  # of the Gaussian, on known pixels


def fill(maps: np.ndarray) -> np.ndarray:
    """Fill missing pixels (NaN) with a Gaussian mean of their surroundings.

    The Gaussian is as narrow as the hole allows: 1.5 pixels, twice as wide wherever
    that finds nothing, and so on, on ever larger pixels, so that the size of a hole
    does not matter for the time. Returns `maps` themselves if nothing is missing; 0
    where a whole map is.
    """
    missing = np.isnan(maps)
    if not missing.any():
        return maps
    if maps.shape[1:] == (1, 1):
        return np.where(missing, 0, maps)
    known = (~missing).astype(np.float64)
    values = np.where(missing, 0, maps)
    share = gaussian_filter(known, (0, _WIDTH, _WIDTH))
    smooth = gaussian_filter(known * values, (0, _WIDTH, _WIDTH))
    near = missing & (share > _LEAST_SHARE)
    values[near] = smooth[near] / share[near]
    far = missing & ~near
    if far.any():
        values[far] = _finer(fill(_coarser(maps)), maps.shape)[far]
    return values


def _coarser(maps: np.ndarray) -> np.ndarray:
    """Means over the measured of 2 x 2 pixels; NaN where all are missing."""
    n_elements, n_y, n_x = maps.shape
    padded = np.pad(
        maps, [(0, 0), (0, n_y % 2), (0, n_x % 2)], constant_values=np.nan
    ).reshape(n_elements, -(-n_y // 2), 2, -(-n_x // 2), 2)
    known = np.isfinite(padded)
    n_known = known.sum(axis=(2, 4))
    total = np.where(known, padded, 0).sum(axis=(2, 4), dtype=np.float64)
    return np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan)


def _finer(maps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Linear interpolation on pixels half as large, in a given shape."""
    for axis in (1, 2):
        here = np.arange(shape[axis]) // 2
        beside = here + 2 * (np.arange(shape[axis]) % 2) - 1
        beside = np.clip(beside, 0, maps.shape[axis] - 1)
        maps = 0.75 * maps.take(here, axis) + 0.25 * maps.take(beside, axis)
    return maps


ERRORS_OF_MISSING = (
    "the standard deviations of pixels that were not measured hold the noise of those "
    "around them, but not what the model cannot know of them: inside of a larger gap, "
    "the true errors are up to three times as large"
)


def missing_pixels(maps: np.ndarray, haadf: np.ndarray) -> dict[str, int]:
    """Numbers of missing pixels, by their names in the record."""
    return {
        "missing_pixels": int(np.isnan(maps).sum()),
        "haadf_missing_pixels": int(np.isnan(haadf).sum()),
    }


def missing_notes(*, missing_pixels: int, haadf_missing_pixels: int) -> list[str]:
    """Notes on missing pixels."""
    notes = []
    if missing_pixels:
        notes.append(
            f"{missing_pixels} missing pixels of the maps are filled by the model"
        )
    if haadf_missing_pixels:
        notes.append(
            f"{haadf_missing_pixels} missing pixels of the HAADF image are not used"
        )
    return notes
