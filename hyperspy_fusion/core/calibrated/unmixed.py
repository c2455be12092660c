"""Spectra in bins: with other counts, and what they tell of each element alone."""

from dataclasses import replace
from typing import Any

import numpy as np

from .convex.bins import unmixing, variance_of
from .prepare import PreparedData


def with_counts(prepared: PreparedData, counts: np.ndarray) -> PreparedData:
    """The same data with other counts: of their bins, if they are spectra."""
    if prepared.bins is None:
        return replace(prepared, data=counts)
    sums: Any = np.nansum(prepared.data, axis=(1, 2), dtype=np.float64)
    bins = prepared.bins.with_counts(counts)
    return replace(prepared, data=bins.at_mean(sums).astype(np.float32), bins=bins)


def unmixed(prepared: PreparedData) -> PreparedData:
    """The elements of spectra by least squares, as values with their noise variance.

    Other components are left out. These are unbiased, whatever the fused maps are: what
    a fusion predicts is compared with them. Maps are returned as they are.
    """
    bins = prepared.bins
    if bins is None:
        return prepared
    own = slice(bins.n_elements)
    sums: Any = np.nansum(prepared.data, axis=(1, 2), dtype=np.float64)
    matrix = unmixing(bins.mixing, sums)[own]
    values = np.tensordot(matrix, bins.counts, 1).astype(np.float32)
    return replace(
        prepared,
        data=values,
        background=np.zeros((len(values), 1, 1), np.float32),
        variance=variance_of(matrix, bins.counts),
        scale=prepared.scale[own],
        level=prepared.level[own],
        pedestal=prepared.pedestal[own],
        coefficients=prepared.coefficients[own],
        lock=replace(prepared.lock, kept=prepared.lock.kept[own]),
        apart=prepared.apart[own],
        elastic=tuple(
            replace(image, coefficients=image.coefficients[own])
            for image in prepared.elastic
        ),
        bins=None,
    )
