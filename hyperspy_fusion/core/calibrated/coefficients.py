"""Coefficients and offset of the HAADF image."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import lsq_linear, nnls

from ..common.missing import fill
from ..common.operators import products
from ..common.threads import ALONE, Workers
from .convex.solver import WarmStart
from .flux import FluxLock
from .prepare import PreparedData
from .split import normal, one_of, split

_SMOOTHING = 1.5  # pixels, of the first maps
_LEAST_SHARE = 0.1  # fraction of a Gaussian on known pixels
_BAND = 16384  # pixels summed at a time, which stay in the cache
_OF_IMAGE = 2**31  # seed of the noise of images, beside those of the splits
PRIOR_WIDTH = 1.0  # relative standard deviation of the prior of the c_i
# Iterations of the solver in each pass, which starts from the maps of the pass before.
# More passes bring the coefficients nearer to their limit than more iterations.
_FIRST, _AGAIN = (10, 10, 10), (10, 10)
CALIBRATION_LAMBDA = 4.0


class CrossFit:
    """Calibration by cross-fitting, warm started where it is repeated.

    The data are split into two independent measurements, and the maps fused from one
    are instruments for the counts of the other: their noise is independent, while that
    of maps fused from the same counts is not. It would bias the coefficient of a rare
    element, whose background has thousands of counts, by as much as itself.

    Parameters
    ----------
    callback : callable, optional
        ``callback(0, inf)`` is called before each pass.
    """

    def __init__(self, callback: Callable | None = None) -> None:
        self.callback = callback
        self.warm = WarmStart(ALONE), WarmStart(ALONE)

    def calibrate(
        self, prepared: PreparedData, prior: np.ndarray, run: Workers
    ) -> tuple[PreparedData, np.ndarray]:
        """Find coefficients and offset of the HAADF image in turn with the maps.

        Returns the data with coefficients and offset, and the last maps.
        """
        iterations: tuple[int, ...] = _AGAIN
        coefficients, offset = prepared.coefficients, prepared.offset
        if self.warm[0].last is None:
            iterations = _FIRST
            net = prepared.net()
            coefficients, offset = initial_coefficients(
                net, prepared.noise_variance(net), prepared.haadf
            )
        # The flux is free, but the multipliers of the locked problem stay: without
        # them, half a count a pixel leaves the fused maps 1 % worse.
        free = replace(prepared, lock=FluxLock.free(len(prior)))
        share, parts = halves(free)
        # Weights that include the noise of the maps make `janus` at 16 counts 15 %
        # worse.
        weight = prepared.precision
        others = parts[::-1]
        counts = np.concatenate([part.net() for part in others], axis=-1) / share
        image = np.concatenate([part.haadf for part in others], axis=-1)
        for n_iter in iterations:
            if self.callback is not None:
                self.callback(0, np.inf)

            def fused(task: tuple, _: Workers, n_iter: int = n_iter) -> np.ndarray:
                warm, part = task
                problem = part.problem(CALIBRATION_LAMBDA, 1.0)
                return warm.solve(problem, n_iter) / np.float32(share)

            parts = [
                replace(part, coefficients=coefficients / share, offset=offset)
                for part in parts
            ]
            found = run.each(fused, list(zip(self.warm, parts, strict=True)))
            maps = (found[0] + found[1]) / 2
            variance = prepared.noise_variance(maps)
            spread = np.tensordot(coefficients**2, variance, axes=1)
            coefficients, offset = fit_coefficients(
                np.concatenate(found, axis=-1),
                counts,
                image,
                np.concatenate([weight, weight], axis=-1),
                prior,
                inflation=1 + np.mean(weight * spread),
            )
        return replace(prepared, coefficients=coefficients, offset=offset), maps


def halves(prepared: PreparedData) -> tuple[float, list[PreparedData]]:
    """Split a measurement into two independent ones; returns their dose, and them.

    Noise of the same size is added to one half of the image, and subtracted from the
    other, as :func:`~hyperspy_fusion.core.calibrated.split.split` does with the maps.
    Values are not split: where their variance is larger than their noise, halves are
    too noisy to calibrate from.
    """
    if prepared.variance is not None:
        return 1.0, [prepared, prepared]
    sigma = prepared.sigma
    noise = sigma * normal(one_of(prepared.data), 0, _OF_IMAGE)
    share, parts = split(prepared, 0)
    return share, [
        replace(part, haadf=haadf, sigma=sigma * np.float32(np.sqrt(2)))
        for part, haadf in zip(
            parts, (prepared.haadf + noise, prepared.haadf - noise), strict=True
        )
    ]


def initial_coefficients(
    net: np.ndarray, variance: np.ndarray, haadf: np.ndarray
) -> tuple[np.ndarray, float]:
    """HAADF coefficients and offset by least squares on smoothed net maps.

    The noise of the maps, which would bias the coefficients towards zero, is subtracted
    from the normal matrix. `variance` is that of the maps.
    """
    smooth, noise = _smoothed(net, variance, _SMOOTHING)
    smooth = smooth.reshape(len(net), -1)
    image = gaussian_filter(haadf, _SMOOTHING).ravel()
    # without their means, which belong to the offset
    mean = smooth.mean(axis=1, keepdims=True, dtype=np.float64)
    columns = smooth - mean
    normal = products(columns, columns)
    spread = np.diag(normal)
    normal = normal - np.diag(np.minimum(noise, 0.9 * spread))
    right = products(columns, (image - image.mean())[None])[:, 0]
    solution = non_negative(normal, right)
    return solution, float(image.mean() - solution @ smooth.mean(axis=1))


def non_negative(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Least squares with solutions of at least 0, from the normal equations."""
    spread = np.diag(normal)
    empty = spread == 0  # constant maps, whose coefficient is 0
    scale = np.where(empty, 0, 1 / np.sqrt(np.where(empty, 1, spread)))
    right = right * scale
    values, vectors = np.linalg.eigh(normal * scale[:, None] * scale)
    roots = np.sqrt(np.maximum(values, 1e-6 * max(values.max(), 1e-300)))
    solution, _ = nnls(
        (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T @ right
    )
    return solution * scale


def _smoothed(
    net: np.ndarray, variance: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Maps after a Gaussian, and the noise variance of each, summed over its pixels."""
    point = np.zeros((65, 65))
    point[32, 32] = 1
    power = (gaussian_filter(point, sigma) ** 2).sum()
    known = np.isfinite(net)
    if known.all():
        smooth = gaussian_filter(net, (0, sigma, sigma))
        return smooth, power * variance.sum(axis=(1, 2), dtype=np.float64)
    # Normalised, since the noise of filled pixels is not known.
    share = gaussian_filter(known.astype(np.float64), (0, sigma, sigma))
    share[share < _LEAST_SHARE] = np.nan
    smooth = gaussian_filter(np.where(known, net, 0), (0, sigma, sigma)) / share
    # the square of a Gaussian is a Gaussian, narrower by √2
    narrow = (0, sigma / np.sqrt(2), sigma / np.sqrt(2))
    noise = power * gaussian_filter(np.where(known, variance, 0), narrow) / share**2
    return fill(smooth), np.nansum(noise, axis=(1, 2))


def fit_coefficients(
    instrument: np.ndarray,
    net: np.ndarray,
    haadf: np.ndarray,
    weight: np.ndarray,
    prior: np.ndarray,
    inflation: float = 1.0,
) -> tuple[np.ndarray, float]:
    """HAADF coefficients and offset with the fused maps as instrumental variables.

    The equations (x, 1)' W (net, 1) (c, o) = (x, 1)' W h hold up to their noise, whose
    covariance is (x, 1)' W (x, 1) times `inflation`, and are solved by generalised
    least squares. The noise of the measured maps is nearly independent of the fused
    ones, so that it does not bias the result, as it would in least squares on the
    measured maps. Each c_i has a normal prior of mean a p_i and standard deviation
    PRIOR_WIDTH a p_i, with a common to all elements: it decides where the data do not.

    Parameters
    ----------
    instrument : numpy.ndarray
        Fused maps x, shape ``(n_elements, y, x)``.
    net : numpy.ndarray
        Measured maps without background, same shape; NaN where missing.
    haadf : numpy.ndarray
        h, shape ``(y, x)``.
    weight : numpy.ndarray
        W, inverse noise variance of h, shape ``(y, x)``.
    prior : numpy.ndarray
        p_i > 0, in any common unit, shape ``(n_elements,)``.
    inflation : float
        Ratio of the variance of h - Σ c_i (b_i - β_i), with the noise of the maps, to 1
        / W.
    """
    n_elements, n_y, n_x = net.shape
    moments: Any = 0.0
    height = max(_BAND // n_x, 1)
    for rows in (slice(y, y + height) for y in range(0, n_y, height)):
        known = np.isfinite(net[:, rows]).all(axis=0)
        one = np.ones((1, *known.shape))
        left = np.concatenate([instrument[:, rows], one])
        right = np.concatenate(
            [np.nan_to_num(net[:, rows]), one, left, haadf[None, rows]]
        ) * np.where(known, weight[rows], 0)
        moments += products(left, right)
    matrix, covariance = np.hsplit(moments[:, :-1], 2)
    vector = moments[:, -1]

    combined = np.zeros((2, n_elements + 1))
    combined[0, :-1], combined[1, -1] = prior, 1
    common = _solve(combined @ matrix @ combined.T, combined @ vector)[0]

    whiten = _inverse_root(covariance)
    matrix, vector = whiten @ matrix, whiten @ vector
    if common > 0:
        width = PRIOR_WIDTH * common * prior
        rows = np.sqrt(inflation) * np.eye(n_elements, n_elements + 1)
        matrix = np.concatenate([matrix, rows / width[:, None]])
        vector = np.append(
            vector, np.full(n_elements, np.sqrt(inflation) / PRIOR_WIDTH)
        )
    scale = np.linalg.norm(matrix, axis=0)
    scale = np.where(scale > 0, scale, 1)
    lowest = np.append(np.zeros(n_elements), -np.inf)
    solution = lsq_linear(matrix / scale, vector, (lowest, np.inf), method="bvls").x
    solution /= scale
    return solution[:-1], float(solution[-1])


def _inverse_root(covariance: np.ndarray) -> np.ndarray:
    """Inverse square root of a covariance, without the directions in which it is 0."""
    scale = np.sqrt(np.diag(covariance))
    scale = np.where(scale > 0, scale, 1)
    values, vectors = np.linalg.eigh(covariance / scale / scale[:, None])
    there = values > 1e-10 * values.max()
    return vectors.T[there] / np.sqrt(values[there])[:, None] / scale


def _solve(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Least-squares solution of linear equations in any units."""
    rows = abs(matrix).max(axis=1)
    rows = np.where(rows > 0, rows, 1)
    matrix = matrix / rows[:, None]
    columns = abs(matrix).max(axis=0)
    columns = np.where(columns > 0, columns, 1)
    return np.linalg.lstsq(matrix / columns, vector / rows, rcond=1e-12)[0] / columns
