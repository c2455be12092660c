"""Errors of fused maps by a parametric bootstrap: their variance, and replicas."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
from scipy.ndimage import gaussian_filter, shift

from ..common.threads import Workers
from .coefficients import fit_coefficients
from .convex.bins import Bins, unmixing
from .convex.problem import Image, Problem
from .convex.solver import minimise
from .guard import prediction
from .prepare import PreparedData

_ITERATIONS = 30  # of a refit
_WIDTH = 2.5  # pixels
# The squared bias counts so many times λ, within these limits. With less the mean
# squared error of simulated specimens is met, but too few pixels are within 2 standard
# deviations: errors at edges have long tails.
_BIAS, _BIAS_LIMITS = 0.6, (2.5, 4.0)
_LEAST_SUM = 1e-3  # of a component of spectra that is drawn anew, over that before


def uncertainty(
    trials: Iterator[PreparedData],
    problems: Sequence[tuple[Callable[[PreparedData], Problem], np.ndarray]],
    maps: np.ndarray,
    run: Workers,
    *,
    lambda_tv: float,
    n_refits: int,
    seed: int,
    keep: bool = False,
    callback: Callable | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    r"""Expected squared error of fused maps x, and replicas of them.

    Data are simulated from the fused maps, calibrated and fused again (B. Efron, R. J.
    Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 10). The variance
    of the refits :math:`y_k` is the effect of the noise, their mean distance
    :math:`β = \bar y - x` from the fused maps that of the regulariser. Fused maps are
    smooth already and lose less than the true ones, so that the bias counts more than
    once. Replicas hold both errors,

    .. math::

        r_k = x + \sqrt{\frac K {K - 1}} (y_k - \bar y) + s_k \sqrt w\, T_k β

    with w = 0.6 λ between 2.5 and 4, since more is lost where maps are smoothed more;
    so the mean square of :math:`f(r_k) - f(x)` is the squared error of any function f
    of the maps, with all correlations. Half of the signs :math:`s_k` are positive, and
    :math:`T_k` displaces the bias by random whole pixels (standard deviation 2.5): the
    true bias has mostly, but not everywhere, the sign of β, and lies near it, but not
    at the same pixels. Signs and displacements are the same in all tiles and images,
    the simulated noise is not.

    Parameters
    ----------
    trials : iterator of PreparedData
        Data simulated from the fused maps, as from :func:`simulations`.
    problems : sequence of tuple
        ``problem_of(prepared)``, the convex problem of data, and of which elements it
        gives the maps, as an array of bool.
    maps : numpy.ndarray
        Fused maps x, shape ``(n_elements, y, x)``, counts or units of the values.
    run : Workers
        The threads.
    lambda_tv : float
        λ of the regularization.
    n_refits : int
        Number K of refits, at least 2.
    seed : int
        Seed of the displacements.
    keep : bool
        Whether replicas are returned.
    callback : callable, optional
        Called by the iteration of each refit.

    Returns
    -------
    variance : numpy.ndarray
        Variance plus w times the squared bias, averaged over a Gaussian of 2.5
        pixels, shape ``(n_elements, y, x)``, counts squared (or units of the values
        squared).
    replicas : numpy.ndarray or None
        Not below 0, shape ``(n_refits, n_elements, y, x)``, float32.
    """
    shape = (n_refits, *maps.shape)
    kept = np.empty(shape, np.float32) if keep else None
    mean, spread = np.zeros_like(maps), np.zeros_like(maps)
    weight = np.clip(_BIAS * lambda_tv, *_BIAS_LIMITS)
    for k, trial in zip(range(n_refits), trials, strict=False):
        refit = np.empty_like(maps)
        for problem_of, those in problems:
            if those.any():
                problem = problem_of(trial)
                found = minimise(
                    problem,
                    run,
                    tolerance=None,
                    max_iter=_ITERATIONS,
                    callback=callback,
                )
                refit[those] = found.maps[those]
        # B. P. Welford, Technometrics 4, 419 (1962)
        change = refit - mean
        mean += change / (k + 1)
        spread += change * (refit - mean)
        if kept is not None:
            kept[k] = refit
    bias = mean - maps
    variance = spread / (n_refits - 1) + weight * bias**2
    variance = gaussian_filter(variance, (0, _WIDTH, _WIDTH))
    if kept is not None:
        kept -= mean
        kept *= np.float32(np.sqrt(n_refits / (n_refits - 1)))
        for k, part in enumerate(_displaced(bias, n_refits, seed)):
            kept[k] += maps + np.float32(np.sqrt(weight)) * part
        np.maximum(kept, 0, out=kept)
    return variance, kept


def _calibrated(
    trial: PreparedData,
    net: np.ndarray,
    maps: np.ndarray,
    prior: np.ndarray,
    further: Sequence[np.ndarray],
) -> PreparedData:
    """Simulated data with the coefficients and offsets that are found from them."""
    n = len(net)  # not the components of spectra that no image shows

    def fitted(
        image: np.ndarray, precision: np.ndarray, expected: np.ndarray
    ) -> tuple[np.ndarray, float]:
        coefficients = np.zeros(len(maps))
        coefficients[:n], offset = fit_coefficients(
            maps[:n], net, image, precision, expected[:n]
        )
        return coefficients, offset

    coefficients, offset = fitted(trial.haadf, trial.precision, prior)
    elastic = []
    for image, expected in zip(trial.elastic, further, strict=True):
        found, rest = fitted(image.values, image.precision, expected)
        values = image.values - np.float32(rest)
        elastic.append(replace(image, values=values, coefficients=found))
    return replace(
        trial, coefficients=coefficients, offset=offset, elastic=tuple(elastic)
    )


def random_numbers(data: np.ndarray, seed: int) -> np.random.Generator:
    """Random numbers for the simulation of data, other ones for other data.

    Images of a series and tiles would have the same noise if it did not depend on them.
    """
    return np.random.default_rng([seed, crc32(np.ascontiguousarray(data).data)])


def simulations(
    prepared: PreparedData,
    prior: np.ndarray,
    maps: np.ndarray,
    seed: int,
    further: Sequence[np.ndarray] = (),
) -> Iterator[PreparedData]:
    """Simulate measurements of maps without end, each calibrated by itself.

    Parameters
    ----------
    prepared : PreparedData
        The data, with coefficients and offset of the HAADF model, and with the further
        elastic images that are used.
    prior : numpy.ndarray
        Expected c_i in any common unit, shape ``(n_elements,)``.
    maps : numpy.ndarray
        Fused maps x, shape ``(n_elements, y, x)``, counts or units of the values.
    seed : int
        Seed of the simulation; the data are a part of it.
    further : sequence of numpy.ndarray
        Expected c_i of each further elastic image.
    """
    rng = random_numbers(prepared.data, seed)
    missing = np.isnan(prepared.data)
    noise = prepared.noise_variance(maps)
    model = prediction(prepared, maps)
    while True:
        if prepared.bins is not None:
            trial, net = _redrawn(prepared, prepared.bins, maps, rng)
        else:
            if prepared.variance is None:
                data = rng.poisson(noise).astype(float)
            else:
                data = rng.normal(maps, np.sqrt(noise))
            trial = replace(prepared, data=np.where(missing, np.nan, data))
            net = trial.net()
        haadf = rng.normal(model, prepared.sigma)
        elastic = tuple(_drawn(image, maps, rng) for image in prepared.elastic)
        trial = replace(trial, haadf=haadf, elastic=elastic)
        # with the maps without background, or the elements unmixed from spectra
        yield _calibrated(trial, net, maps, prior, further)


def _redrawn(
    prepared: PreparedData, bins: Bins, maps: np.ndarray, rng: np.random.Generator
) -> tuple[PreparedData, np.ndarray]:
    """Counts of the bins drawn anew from maps, and the elements unmixed from them.

    The sums that are kept are those of the unmixed components.
    """
    sums: Any = np.nansum(prepared.data, axis=(1, 2), dtype=np.float64)
    counts = rng.poisson(np.tensordot(bins.mixing, maps, 1)).astype(np.float32)
    counts[np.isnan(bins.counts)] = np.nan
    drawn = bins.with_counts(counts)
    unmixed = np.tensordot(unmixing(bins.mixing, sums), counts, 1)
    found = np.nansum(unmixed, axis=(1, 2), dtype=np.float64)
    data = drawn.of_sums(np.maximum(found, _LEAST_SUM * sums))
    return replace(prepared, data=data, bins=drawn), unmixed[: bins.n_elements]


def _drawn(image: Image, maps: np.ndarray, rng: np.random.Generator) -> Image:
    """A further elastic image of the maps, with noise where it is used."""
    sigma = 1 / np.sqrt(np.where(image.precision > 0, image.precision, np.inf))
    model = np.tensordot(image.coefficients, maps, 1)
    return replace(image, values=rng.normal(model, sigma))


def _displaced(bias: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    """A bias n times, each sign with the same random displacements by whole pixels."""
    half = -(-n // 2)
    places = np.random.default_rng(seed).normal(0, _WIDTH, (half, 2)).round()
    for k in range(n):
        sign = 1 if k < half else -1
        yield sign * shift(bias, (0, *places[k % half]), order=0, mode="nearest")
