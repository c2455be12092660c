r"""Fusion of spectra: counts of all channels, merged into a few bins.

The likelihood knows a channel only by the direction of its row of the matrix S of the
expected counts of a channel per count of each component. Channels of nearly the same
direction are merged, whatever their energies; what is lost is measured by the Fisher
information :math:`S^T diag(1 / S x) S` of the components.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..common.missing import missing_notes, missing_pixels
from ..common.solution import (
    Solution,
    check_different,
    check_elastic,
    check_magnitude,
)
from ..common.threads import workers
from .bad_pixels import set_aside
from .convex.bins import Bins, information, unmixing, variance_of
from .elastic import EXPONENT, Further
from .flux import FluxLock
from .given import Pixels
from .method import conclude, decide, stage_callbacks
from .options import CalibratedOptions
from .prepare import PEDESTAL, Preparation, PreparedData, prepare

N_BINS = 24
_ROUNDS = 50  # of the search for bins
_DOMINATED = 0.9  # share of the leading element in a spectrum of one
_ALIKE = 1e-12  # share of the squares, of a loss that is rounding
_LEAST_EXPECTED = 1e-9  # share of the counts, of a channel that is of use
_NO_PRIOR = 1e-3  # of the coefficient of a component that the image does not show
# Of the sums of a frame of a series: most iterations, and the change at which they end,
# over all counts.
_SUM_ITERATIONS, _SUM_TOLERANCE = 10000, 1e-7
_KNOWN = 1 / 3  # largest error of a sum that is kept, over the sum
# Entries of the record with a number for each component.
_EACH = (
    "haadf_coefficients",
    "elastic_coefficients",
    "count_value",
    "vacuum_background",
    "own_norm",
    "sum_kept",
)


# --- bins ------------------------------------------------------------------------


def merge(shapes: np.ndarray, sums: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Merge channels into bins that keep what they tell about the components.

    By k-means of the score vectors of the channels, whitened and weighted by their
    expected counts, at the mean spectrum and at spectra of mostly one component each.

    Parameters
    ----------
    shapes : numpy.ndarray
        S, shape ``(n_channels, n_components)``; its columns sum to 1.
    sums : numpy.ndarray
        Counts of each component in the mean spectrum, shape ``(n_components,)``.
    n_bins : int
        Largest number of bins.

    Returns
    -------
    numpy.ndarray of int
        The bin of each channel; -1 where no counts are expected.
    """
    mean = shapes @ sums
    used = mean > _LEAST_EXPECTED * mean.sum()
    shapes, mean = shapes[used], mean[used]
    features = []
    for leading in (None, *range(len(sums))):
        x = sums / sums.sum()
        if leading is not None:
            x = (1 - _DOMINATED) * x
            x[leading] += _DOMINATED
        expected = shapes @ x
        scores = shapes / expected[:, None]
        values, vectors = np.linalg.eigh(shapes.T @ scores)
        values = np.maximum(values, 1e-9 * values[-1])
        scores = scores @ (vectors / np.sqrt(values))
        features.append(scores * np.sqrt(expected / mean)[:, None])
    found = np.full(len(used), -1)
    found[used] = _clusters(np.concatenate(features, axis=1), mean, n_bins)
    return found


def _clusters(points: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:
    """Lloyd's clusters of weighted points, from centres that are far from each other.

    Each first centre is the point that the others leave with the largest loss.
    """
    first = np.average(points, axis=0, weights=weights)
    away = ((points - first) ** 2).sum(axis=1)
    chosen: list[int] = []
    least = _ALIKE * (weights * (points**2).sum(axis=1)).sum()
    while len(chosen) < n and (weights * away).max() > least:
        chosen.append(int((weights * away).argmax()))
        away = np.minimum(away, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    centres = points[chosen] if chosen else first[None]
    labels = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        square = (centres**2).sum(axis=1) - 2 * points @ centres.T
        new = square.argmin(axis=1)
        if (new == labels).all():
            break
        labels = new
        inside = np.eye(len(centres))[labels] * weights[:, None]
        total = inside.sum(axis=0)
        centres = np.where(
            total[:, None] > 0,
            inside.T @ points / np.maximum(total, 1e-300)[:, None],
            centres,
        )
    return np.unique(labels, return_inverse=True)[1].reshape(len(points))


def mixing_of(shapes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """M of bins: sums of the rows of S, shape ``(n_bins, n_components)``."""
    mixing = np.zeros((labels.max() + 1, shapes.shape[1]))
    used = labels >= 0
    np.add.at(mixing, labels[used], shapes[used])
    return mixing / mixing.sum(axis=0)


def efficiency(shapes: np.ndarray, mixing: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Variance of each component from all channels over that from the bins."""
    every, few = (
        np.diag(np.linalg.inv(information(matrix, sums))) for matrix in (shapes, mixing)
    )
    return every / few


# --- fusion ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Spectra:
    """Spectra in bins, and what is known of their components.

    Attributes
    ----------
    bins : Bins
        Counts and matrix; of the components those of the specimen come first.
    sums : numpy.ndarray
        X, counts of each component in all pixels, shape ``(n_components,)``, above 0.
    errors : numpy.ndarray
        Their standard deviations, same shape.
    names : tuple of str
        Of the components, for the messages.
    shares : numpy.ndarray
        Counts of the line that stands for each element over those of all its lines,
        shape ``(n_elements,)``.
    """

    bins: Bins
    sums: np.ndarray
    errors: np.ndarray
    names: tuple[str, ...]
    shares: np.ndarray

    def unmixed(self) -> tuple[np.ndarray, np.ndarray]:
        """Maps of the components by least squares, and their noise variance."""
        matrix = unmixing(self.bins.mixing, self.sums)
        maps = np.tensordot(matrix, self.bins.counts, 1).astype(np.float32)
        return maps, variance_of(matrix, self.bins.counts)

    def of_frame(self, counts: np.ndarray) -> Spectra:
        """The spectra of one frame, shape ``(n_bins, y, x)``, with sums of their own.

        Those of the highest Poisson likelihood of all its counts together, with errors
        by the Fisher information (L. A. Shepp and Y. Vardi, IEEE Trans. Med. Imaging 1,
        113 (1982)).
        """
        bins = self.bins.with_counts(counts)
        mixing = bins.mixing
        measured = np.nansum(counts, axis=(1, 2), dtype=np.float64)
        sums = self.sums * (measured.sum() / self.sums.sum())
        for _ in range(_SUM_ITERATIONS):
            expected = np.maximum(mixing @ sums, 1e-300)
            sums, before = sums * (mixing.T @ (measured / expected)), sums
            if np.abs(sums - before).max() <= _SUM_TOLERANCE * max(sums.sum(), 1):
                break
        sums = np.maximum(sums, 1)
        errors = np.sqrt(np.diag(np.linalg.inv(information(mixing, sums))))
        return replace(self, bins=bins, sums=sums, errors=errors)

    def maps(self) -> np.ndarray:
        """Counts of the lines, shared out as in the mean spectrum; float32."""
        found = self.bins.at_mean(self.sums)[: len(self.shares)]
        return (found * self.shares[:, None, None]).astype(np.float32)

    def prepared(self, calibrated: PreparedData) -> PreparedData:
        """The data of the fusion, with what unmixed maps have shown."""
        n_elements = len(self.shares)
        missing = np.isnan(calibrated.data).any(axis=0)
        counts = np.where(missing, np.float32(np.nan), self.bins.counts)
        mixing, sums = self.bins.mixing, self.sums
        first = np.where(missing, np.float32(np.nan), self.bins.of_sums(sums))
        seen = np.arange(len(sums)) < n_elements
        return replace(
            calibrated,
            data=first,
            background=np.zeros((len(sums), 1, 1), np.float32),
            variance=None,
            pedestal=PEDESTAL * sums / (~missing).sum(),
            coefficients=np.where(seen, calibrated.coefficients, 0),
            elastic=tuple(
                replace(image, coefficients=np.where(seen, image.coefficients, 0))
                for image in calibrated.elastic
            ),
            lock=FluxLock(kept=self.errors < _KNOWN * sums),
            bins=Bins(counts=counts, mixing=mixing, n_elements=n_elements),
        )


def prepare_unmixed(
    haadf: np.ndarray, spectra: Spectra, options: CalibratedOptions
) -> tuple[Preparation, dict[str, int], tuple[str, ...]]:
    """Linearly unmixed maps, prepared; numbers of missing pixels, notes of bad ones."""
    check_magnitude("HAADF image", haadf)
    maps, variance = spectra.unmixed()
    # Of unmixed maps single counts in the tail of their noise look like bad pixels.
    total = spectra.bins.counts.sum(axis=0)[None]
    missing = missing_pixels(total, haadf)
    total, haadf, bad = set_aside(total, haadf, ("total",))
    maps = np.where(np.isnan(total), np.float32(np.nan), maps)
    preparation = prepare(
        Pixels(maps=maps, haadf=haadf, variance=variance),
        replace(options, lock_flux=False),  # it has its own rule for spectra
        elements=spectra.names,
        bad_known=True,
    )
    units = replace(preparation.units, total=None)  # spectra are no fractions
    return replace(preparation, units=units), missing, tuple(bad)


def solve(
    haadf: np.ndarray,
    spectra: Spectra,
    atomic_numbers: Sequence[int],
    options: CalibratedOptions,
    *,
    elastic: np.ndarray | None = None,
    elastic_names: Sequence[str] = (),
    num_workers: int | None = None,
    callback: Callable | None = None,
) -> Solution:
    """Fuse the spectra of one field of view with an image.

    Coefficients, shift, trust and noise scales are those of linearly unmixed maps; the
    weights, and the solution, those of the spectra.

    Parameters
    ----------
    haadf : numpy.ndarray
        The image, in any units; NaN where missing.
    spectra : Spectra
        Counts in bins.
    atomic_numbers : sequence of int
        Z of the elements of the specimen.
    options : CalibratedOptions
        The options.
    elastic, elastic_names, num_workers, callback
        As for :func:`~hyperspy_fusion.core.calibrated.method.solve`.

    Returns
    -------
    Solution
        Maps of the counts of the lines that stand for the elements, shape
        ``(n_elements, y, x)``.
    """
    n_elements, n_components = len(spectra.shares), len(spectra.names)
    given = () if elastic is None else elastic
    check_different(spectra.bins.counts[:0], haadf, (), given, elastic_names)
    check_elastic(haadf, given, elastic_names)
    preparation, missing, bad = prepare_unmixed(haadf, spectra, options)

    def expected(exponent: float) -> np.ndarray:
        prior = np.full(n_components, _NO_PRIOR)
        prior[:n_elements] = np.asarray(atomic_numbers, np.float64) ** exponent
        return prior

    prior = expected(options.gamma)
    callback_for = stage_callbacks(callback)
    further = None
    if elastic is not None:
        further = Further(tuple(elastic_names), elastic, expected(EXPONENT))

    def fused_as(prepared: PreparedData) -> PreparedData:
        prepared = spectra.prepared(prepared)
        if options.lock_flux:
            return prepared
        return replace(prepared, lock=FluxLock.free(n_components))

    with workers(num_workers) as run:
        decision, prepared = decide(
            preparation, prior, options, run, callback_for, further, fused_as
        )
        notes = (*missing_notes(**missing), *bad, *preparation.notes)
        decision = replace(decision, notes=notes)
        solution = conclude(
            decision,
            decision.problem(prepared),
            prepared if options.n_refits or options.share else None,
            prior,
            options,
            run,
            callback_for,
            missing,
        )
    return _of_lines(solution, spectra)


def _of_lines(solution: Solution, spectra: Spectra) -> Solution:
    """The solution of the elements of the specimen, in counts of one line each."""
    shares = spectra.shares
    n_elements = len(shares)
    record: dict[str, Any] = dict(solution.record)
    for name in _EACH:
        if name in record:
            record[name] = np.asarray(record[name], np.float64)[..., :n_elements]
    for name in ("haadf_coefficients", "elastic_coefficients"):
        if name in record:
            record[name] = record[name] / shares
    record["kind"] = "spectra"
    factor = shares.astype(np.float32)[:, None, None]
    maps: Any = solution.maps
    variance, replicas = solution.variance, solution.replicas
    unshared = solution.unshared
    if unshared is not None:
        unshared = unshared[:n_elements] * factor
    if variance is not None:
        variance = variance[:n_elements] * factor**2
    if replicas is not None:
        replicas = replicas[:, :n_elements] * factor
    return replace(
        solution,
        maps=maps[:n_elements] * factor,
        variance=variance,
        replicas=replicas,
        unshared=unshared,
        record=record,
    )
