"""Checks of the values of maps, elastic images and backgrounds."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def check_background(background: np.ndarray) -> None:
    """Raise a ValueError if a background is not finite, or below 0."""
    if not (np.isfinite(background).all() and np.all(background >= 0)):
        raise ValueError(
            "background has values below 0, NaN or infinite: expected the known "
            "background of the maps, finite and at least 0"
        )


def check_values(
    elements: Sequence[str],
    arrays: Sequence[np.ndarray],
    background: Any = None,
    *,
    allow_missing: bool,
    further: Sequence[str] = (),
) -> list[str]:
    """Check that maps and elastic images hold finite numbers, not all the same.

    `arrays` are the maps of these elements, the HAADF image and the `further` images of
    these names, or series of them; the background is finite and at least 0. Returns the
    warnings.
    """
    if background is not None:
        check_background(background)
    labels = [*(f"map of {name}" for name in elements), "HAADF image"]
    labels += [f"elastic image {name}" for name in further]
    ranges = [
        _finite_range(label, array, allow_missing=allow_missing)
        for label, array in zip(labels, arrays, strict=True)
    ]
    n_maps = len(elements)
    remedies = ["choose another image with haadf=", *["leave it out"] * len(further)]
    _check_frames(arrays[:n_maps])
    for label, image, remedy in zip(
        labels[n_maps:], arrays[n_maps:], remedies, strict=True
    ):
        _check_not_constant(label, image, remedy)
    return _check_contrast(labels[:n_maps], ranges[:n_maps])


def _check_frames(maps: Sequence[np.ndarray]) -> None:
    """Raise an error for a position of a series where all maps are flat, but not 0."""
    if maps[0].ndim < 3:
        return  # it is checked with all others
    low, high = np.stack([_limits(image) for image in maps], axis=1)
    flat = (low == high).all(axis=0) & (high != 0).any(axis=0)
    for position in map(tuple, np.argwhere(flat).tolist()):
        raise ValueError(
            f"no map has any contrast at the position {position} of the series: they "
            "are saturated, or no maps; leave that position out"
        )


def _check_not_constant(label: str, image: np.ndarray, remedy: str) -> None:
    """Raise an error for an elastic image without contrast, or one of a series."""
    low, high = _limits(image)
    for position in map(tuple, np.argwhere(low == high).tolist()):
        where = f" at the position {position} of the series" if position else ""
        what = "choose others, or leave that position out" if position else remedy
        raise ValueError(
            f"the {label} is constant ({high[position]}){where}: it has no information "
            f"on the specimen, {what}"
        )


def _limits(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest known value of each image."""
    axes = (-2, -1)
    return np.fmin.reduce(images, axis=axes), np.fmax.reduce(images, axis=axes)


def _finite_range(
    label: str, array: np.ndarray, *, allow_missing: bool
) -> tuple[float, float]:
    """Smallest and largest value of an array; an error if a value is not finite."""
    limits = array.min(), array.max()  # NaN if any pixel is
    if np.all(np.isfinite(limits)):
        return limits
    missing = np.isnan(array)
    if allow_missing and missing.all(axis=(-2, -1)).any():
        out = "leave its element out" if label.startswith("map") else "choose another"
        series = ", or leave that position of the series out" * (array.ndim > 2)
        raise ValueError(f"the {label} has nothing but missing pixels: {out}{series}")
    bad = np.count_nonzero(np.isinf(array) if allow_missing else ~np.isfinite(array))
    if bad:
        raise ValueError(
            f"the {label} has {bad} pixels that are "
            f"{'infinite' if allow_missing else 'NaN or infinite'}: expected finite "
            "values; fill them, for example with np.nan_to_num(signal.data), or crop "
            "them away with .isig"
        )
    return np.nanmin(array), np.nanmax(array)


def _check_contrast(
    labels: Sequence[str], ranges: Sequence[tuple[float, float]]
) -> list[str]:
    flat = [
        f"{label} ({high} everywhere)"
        for label, (low, high) in zip(labels, ranges, strict=True)
        if low == high
    ]
    if len(flat) == len(ranges):
        raise ValueError(
            f"no map has any contrast: {', '.join(flat)}. Expected at least one that "
            "shows its element; in a file with several sets of maps choose another set"
        )
    message = (
        f"without any contrast: {', '.join(flat)}. Such a map comes back as it was; "
        "leave it out of the fusion if its element is not in the specimen"
    )
    return [message] if flat else []
