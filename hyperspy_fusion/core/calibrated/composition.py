r"""Maps of fractions: how they are recognised, their noise, and counts instead of them.

Counts n_i of amounts x_i have the means x_i / k_i, and the fraction measured in a pixel
is f_i = k_i n_i / Σ_j k_j n_j. To first order in the noise of the counts

.. math::

    \operatorname{var} f_i = \frac{t}{S} \sum_j k_j f_j (δ_{ij} - f_i)^2,
    \qquad S = \sum_j x_j, \qquad t = N \operatorname{E}[1 / n \mid n \ge 1]

with the sum n of the counts and its mean N = S Σ f_j / k_j. The fractions of a thin
place are noisier, which tells where the HAADF image h = o + Σ c_i x_i stands for no
matter at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import convolve, gaussian_filter, minimum_filter
from scipy.optimize import minimize_scalar, nnls
from scipy.special import expi

from ..common.missing import fill
from .noise import noise_residual, whole_numbers

if TYPE_CHECKING:
    from .prepare import PreparedData

# Spread of the sum of fractions due to rounding, relative: of any sum, and of 1 or 100.
_SPREAD, _SPREAD_OF_USUAL = 1e-3, 1e-2
_USUAL = 1.0, 100.0

_FEWEST = 4  # pixels that hold anything, of fractions
_BINS, _LEAST_PIXELS = 16, 30  # of the HAADF intensity, and of a bin
_SMOOTHING = 1.5  # pixels, of the fractions from which their noise is computed
_LEAST_WHOLE = 500  # pixels whose neighbours are all known, for the mask of the noise
_LEAST_SHARE_WHOLE = 0.3  # of the pixels in regions with counts
_NEIGHBOURS = 3  # known ones, of a pixel that is compared with their mean
_VACUUM_WIDTH = 3.0  # pixels, of the Gaussian that tells regions with counts
_EMPTY, _FULL = 0.1, 0.5  # share of pixels with counts in vacuum, and in matter
_LEAST_VACUUM = 100  # pixels
_DARK = 0.05  # quantile of the intensity of matter below which vacuum is
_LEAST_SUM = 3e-3  # of the range of the image, so that no bin is without matter
_LEAST_VARIANCE = 0.1  # of the mean
_LEAST_VALUE = 0.05  # value of a count over the largest one
_PRIOR_WIDTH = 0.25  # relative standard deviation of the prior of the values
_PASSES, _FIRST_MISFIT = 8, 0.5  # between value of a count, t and misfit
_MANY = 40.0  # counts from which on the expansion of t is exact to 1e-4
_TRACE = 1e-6  # amount of each element that is added, so that their sum is not 0
_RANGE = 0.002, 0.998  # quantiles of the image
# Dark levels that are tried: how far below the darkest pixel, over the range.
_DEPTHS = np.append(0, np.geomspace(0.01, 30, 16))
_LARGEST_MISFIT, _LEAST_RATIO = 0.5, 1.2  # of a dark level that is certain


def sum_of_fractions(maps: np.ndarray) -> float | None:
    """Sum of fractions in a pixel, if maps without gaps hold fractions; else None.

    It is the same in all pixels that hold anything.
    """
    if len(maps) < 2:
        return None
    sums = maps.sum(axis=0, dtype=np.float64)
    sums = sums[sums > 0]
    if not sums.size:
        return None
    level = float(sums.mean())
    usual = any(abs(level - value) < _SPREAD_OF_USUAL * value for value in _USUAL)
    if sums.std() >= (_SPREAD_OF_USUAL if usual else _SPREAD) * level:
        return None
    if usual:
        level = min(_USUAL, key=lambda value: abs(level - value))
    if sums.size < maps[0].size:  # counts may have the same sum where there are any
        whole = whole_numbers(maps)
        single = level == 1 and whole  # no two of them in one pixel
        few = sums.size < (_LEAST_PIXELS if whole or not usual else _FEWEST)
        if single or few:
            return None
    return level


def normalised(maps: np.ndarray) -> np.ndarray:
    """Fractions with the sum 1; NaN where a map is missing or all are 0."""
    total = maps.sum(axis=0)
    held = total > 0  # False for NaN
    return np.where(held, maps / np.where(held, total, 1), np.float32(np.nan))


def in_vacuum(known: np.ndarray) -> np.ndarray:
    """Where hardly any pixel around has counts; `known` is True where one has."""
    return density(known) < _EMPTY


def density(known: np.ndarray) -> np.ndarray:
    """Share of the pixels around that have counts."""
    return gaussian_filter(known.astype(np.float64), _VACUUM_WIDTH)


@dataclass(frozen=True, kw_only=True)
class NoiseLaw:
    """Noise of fractions, and the HAADF image of the amounts that they stand for.

    Amounts x_i are relative: their sum is 1 on average where there is matter.

    Attributes
    ----------
    offset : float
        o, HAADF intensity of no matter.
    coefficients : numpy.ndarray
        c_i, HAADF intensity of one unit of the amount, shape ``(n_elements,)``.
    count_value : numpy.ndarray
        k_i, amount that one count stands for, shape ``(n_elements,)``.
    counts : float
        Mean number of counts of a pixel with matter.
    misfit : float
        Relative misfit of the noise.
    ratio : float
        Sum of the amounts in bright places over that in dark ones.
    source : {"vacuum", "noise", "given"}
        From what the offset is known.
    """

    offset: float
    coefficients: np.ndarray
    count_value: np.ndarray
    counts: float
    misfit: float
    ratio: float
    source: str

    @property
    def message(self) -> str:
        """The warning of a dark level that is not certain; else empty."""
        if self.source != "noise" or (
            self.misfit <= _LARGEST_MISFIT and self.ratio >= _LEAST_RATIO
        ):
            return ""
        return (
            "the dark level of the HAADF image is not certain, since the noise of the "
            "fractions hardly tells it: give haadf_offset=, the intensity where there "
            "is no matter"
        )

    def total(self, haadf: np.ndarray, proportions: np.ndarray) -> np.ndarray:
        """S by the image, the sum of the amounts if they have these proportions."""
        per_sum = np.tensordot(self.coefficients, proportions, axes=1)
        return np.maximum(haadf - self.offset, 0) / per_sum

    def expected_counts(self, haadf: np.ndarray, proportions: np.ndarray) -> np.ndarray:
        """N by the image, the counts of all elements in each pixel."""
        return self.total(haadf, proportions) * self.counts_per_sum(proportions)

    def counts_per_sum(self, proportions: np.ndarray) -> np.ndarray:
        """N / S of these proportions."""
        return np.tensordot(1 / self.count_value, proportions, axes=1)

    def shares(self, fractions: np.ndarray) -> np.ndarray:
        """Shares of the counts, which have the sum 1."""
        counts = fractions / self.count_value[:, None, None]
        return counts / counts.sum(axis=0)

    def variance(self, proportions: np.ndarray) -> np.ndarray:
        """Variance of measured fractions times S / t, shape of the maps."""
        value = (self.count_value * proportions.T).T
        # Σ_j k_j f_j (δ_ij - f_i)², multiplied out
        return value * (1 - 2 * proportions) + proportions**2 * value.sum(axis=0)

    def precision(self, proportions: np.ndarray, total: np.ndarray) -> np.ndarray:
        """S / t, shape ``(y, x)``."""
        return total / few_counts(total * self.counts_per_sum(proportions))

    def pseudo_counts(self, prepared: PreparedData, counts: np.ndarray) -> PreparedData:
        """Counts with the measured fractions, from data that hold these.

        Their sum in each pixel is `counts`. log Σ y ≤ log N + Σ y / N - 1 turns the
        multinomial likelihood of the fractions into the Poisson likelihood of these
        counts, with equality where Σ y = N.
        """
        data = self.shares(prepared.data) * counts
        return replace(prepared, data=data.astype(np.float32))

    def proportions(self, maps: np.ndarray) -> np.ndarray:
        """Fractions of maps in counts."""
        amounts = maps * self.count_value.astype(np.float32)[:, None, None]
        amounts += np.float32(_TRACE)
        return amounts / amounts.sum(axis=0)


def few_counts(mean: np.ndarray) -> np.ndarray:
    """Return t = N E[1 / n | n ≥ 1] of Poisson numbers n of the means N."""
    mean = np.maximum(mean, 1e-3)
    low = np.minimum(mean, _MANY)
    exact = low * (expi(low) - np.log(low) - np.euler_gamma) / np.expm1(low)
    return np.where(mean < _MANY, exact, 1 + 1 / mean + 2 / mean**2)


def noise_law(
    fractions: np.ndarray,
    haadf: np.ndarray,
    seen: np.ndarray,
    prior: np.ndarray,
    offset: float | None = None,
) -> NoiseLaw:
    """Find the noise law of fractions, and the dark level of the HAADF image.

    Parameters
    ----------
    fractions : numpy.ndarray
        f_i with the sum 1, shape ``(n_elements, y, x)``; NaN where there is nothing.
    haadf : numpy.ndarray
        h, shape ``(y, x)``.
    seen : numpy.ndarray of bool
        Where the image is known, shape ``(y, x)``.
    prior : numpy.ndarray
        Expected c_i in any common unit.
    offset : float, optional
        o, if it is known. By default it is the median of the image in vacuum, and
        without vacuum that with which the law fits the noise best.
    """
    known = np.isfinite(fractions).all(axis=0)
    source = "given"
    if offset is None:
        offset, source = _vacuum_level(haadf, known, seen), "vacuum"
    bins = _Bins.of(fractions, haadf, known, seen, prior)
    if offset is None:
        offset, source = _level_by_noise(bins, haadf[seen]), "noise"
    return bins.fit(offset, source)


def _level_by_noise(bins: _Bins, intensity: np.ndarray) -> float:
    """Dark level with which the law fits the noise best."""
    low, high = np.quantile(intensity, _RANGE)

    def level(depth: float) -> float:
        return float(low - depth * (high - low))

    def misfit(depth: float) -> float:
        return bins.fit(level(depth), "noise").misfit

    misfits = [misfit(depth) for depth in _DEPTHS]
    best = int(np.argmin(misfits))
    around = _DEPTHS[max(best - 1, 0)], _DEPTHS[min(best + 1, len(_DEPTHS) - 1)]
    found = minimize_scalar(misfit, bounds=around, method="bounded")
    return level(found.x if found.fun < misfits[best] else _DEPTHS[best])


def _vacuum_level(
    haadf: np.ndarray, known: np.ndarray, seen: np.ndarray
) -> float | None:
    """Median of the image in vacuum; None if there is too little of it.

    A region of missing pixels is no vacuum if it is not darker than matter.
    """
    share = density(known)
    vacuum, matter = seen & (share < _EMPTY), seen & (share > _FULL)
    if vacuum.sum() <= _LEAST_VACUUM:
        return None
    level = float(np.median(haadf[vacuum]))
    if matter.any() and level > np.quantile(haadf[matter], _DARK):
        return None
    return level


@dataclass(frozen=True, kw_only=True)
class _Bins:
    """Means over pixels of about the same HAADF intensity.

    Attributes
    ----------
    intensity : numpy.ndarray
        Of the image, shape ``(n_bins,)``.
    fractions, variances : numpy.ndarray
        Fractions and the variance of their noise, shape ``(n_elements, n_bins)``.
    slopes : numpy.ndarray
        f_j (δ_ij - f_i)², shape ``(n_elements, n_elements, n_bins)``.
    prior : numpy.ndarray
        Expected c_i in any common unit, shape ``(n_elements,)``.
    least : float
        Smallest intensity above the dark level that is possible.
    """

    intensity: np.ndarray
    fractions: np.ndarray
    variances: np.ndarray
    slopes: np.ndarray
    prior: np.ndarray
    least: float

    @classmethod
    def of(
        cls,
        fractions: np.ndarray,
        haadf: np.ndarray,
        known: np.ndarray,
        seen: np.ndarray,
        prior: np.ndarray,
    ) -> _Bins:
        """Measure the noise of fractions."""
        squares, chosen = _squared_noise(fractions, known)
        chosen &= seen
        if chosen.sum() < _LEAST_PIXELS:
            raise ValueError(
                f"{chosen.sum()} pixels hold fractions and have neighbours that do: "
                f"expected at least {_LEAST_PIXELS}, from which the noise is found"
            )
        intensity = haadf[chosen].astype(np.float64)
        n_bins = int(np.clip(intensity.size // (2 * _LEAST_PIXELS), 1, _BINS))
        order = np.argsort(intensity, kind="stable")
        edges = np.linspace(0, len(order), n_bins + 1).astype(int)
        parts = [order[start:stop] for start, stop in pairwise(edges)]

        def means(values: np.ndarray) -> np.ndarray:
            return np.stack([values[..., part].mean(axis=-1) for part in parts], -1)

        variances = means(squares[:, chosen])
        least = _LEAST_VARIANCE * variances.mean(axis=1, keepdims=True)
        # Smooth fractions for the products, since noise has squares; but their means
        # are those of the measured ones, since columns of atoms are narrow.
        mean = means(fractions[:, chosen].astype(np.float64))
        f = gaussian_filter(fill(fractions), (0, _SMOOTHING, _SMOOTHING))[:, chosen]
        for part, shift in zip(parts, (mean - means(f)).T, strict=True):
            f[:, part] += shift[:, None]
        f = np.maximum(f, 0)
        return cls(
            intensity=means(intensity),
            fractions=mean,
            variances=np.maximum(variances, least),
            slopes=means((np.eye(len(f))[..., None] - f[:, None]) ** 2 * f),
            prior=prior,
            least=_LEAST_SUM * float(np.ptp(haadf[seen])),
        )

    def fit(self, offset: float, source: str) -> NoiseLaw:
        """The law for a dark level."""
        bright = np.maximum(self.intensity - offset, self.least)
        total = bright / (self.prior @ self.fractions)
        unit = total.mean()
        total = total / unit
        there = self.variances.mean(axis=1) > 0  # an element that is nowhere has none
        # derivatives of var f_i by k_j, over the variance, shape (i, j, bin)
        slopes = self.slopes[there] / (total * self.variances[there, None])
        factor, misfit = np.ones_like(total), _FIRST_MISFIT
        n_elements = len(self.prior)
        for _ in range(_PASSES):
            matrix = np.moveaxis(slopes * factor, 1, -1).reshape(-1, n_elements)
            # a normal prior around one value for all decides where the noise does not
            sums = matrix.sum(axis=1)
            weight = misfit / _PRIOR_WIDTH
            common = sums.sum() / (sums @ sums)
            value, _ = nnls(
                np.concatenate([matrix, np.eye(n_elements) * (weight / common)]),
                np.append(np.ones(len(matrix)), np.full(n_elements, weight)),
            )
            value = np.maximum(value, _LEAST_VALUE * value.max())
            misfit = float(np.sqrt(np.mean((matrix @ value - 1) ** 2)))
            counts = total * (self.fractions / value[:, None]).sum(axis=0)
            factor = few_counts(counts)
        return NoiseLaw(
            offset=offset,
            coefficients=self.prior * unit,
            count_value=value,
            counts=float(counts.mean()),
            misfit=misfit,
            ratio=float(total.max() / total.min()),
            source=source,
        )


def _squared_noise(
    fractions: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared noise of fractions, right on average; and where it is known."""
    filled = np.where(known, fractions, 0).astype(np.float64)
    whole = minimum_filter(known, 3)
    matter = density(known) > _FULL
    if whole.sum() > max(_LEAST_WHOLE, _LEAST_SHARE_WHOLE * matter.sum()):
        found = [noise_residual(image, known) for image in filled]
        return np.stack([residual**2 for residual, _ in found]), found[0][1]
    # few counts: the difference from the mean of those around
    ring = np.ones((3, 3))
    ring[1, 1] = 0
    n_known = convolve(known.astype(np.float64), ring, mode="constant")
    divisor = np.maximum(n_known, 1)
    around = np.stack([convolve(image, ring, mode="constant") for image in filled])
    squares = (filled - around / divisor) ** 2 / (1 + 1 / divisor)
    chosen = known & (n_known >= _NEIGHBOURS) & ~in_vacuum(known)
    if chosen.sum() < _LEAST_VACUUM:
        chosen = known & (n_known > 0)
    return squares, chosen
