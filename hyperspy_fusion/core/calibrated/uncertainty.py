"""Variance of fused maps by a parametric bootstrap."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter

from ..common.threads import Workers
from .coefficients import fit_coefficients
from .convex.solver import minimise
from .guard import prediction
from .prepare import PreparedData

_REFITS = 10
_REFIT_ITERATIONS = 30
_REFIT_SMOOTHING = 1.5  # pixels


def uncertainty(
    prepared: PreparedData,
    prior: np.ndarray,
    weights: tuple[float, float],
    maps: np.ndarray,
    run: Workers,
    seed: int,
    callback: Callable | None = None,
) -> np.ndarray:
    """Expected squared error of fused maps, by a parametric bootstrap.

    Data are simulated from the fused maps, calibrated and fused again (B. Efron, R. J.
    Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 10). The variance
    of the refits is the effect of the noise, their mean distance from the fused maps
    that of the regulariser. Fused maps are smooth already and lose less than the true
    ones: with twice the squared distance the error of simulated specimens is met within
    about 15 %.

    Parameters
    ----------
    prepared : PreparedData
        With coefficients and offset.
    prior : numpy.ndarray
        Expected c_i in any common unit.
    weights : tuple of float
        λ_tv and λ_haadf.
    maps : numpy.ndarray
        Fused maps x.
    run : Workers
        The threads.
    seed : int
        Of the simulation.
    callback : callable, optional
        Of each refit.

    Returns
    -------
    numpy.ndarray
        Variance plus twice the squared bias, averaged over a Gaussian of 1.5 pixels,
        shape ``(n_elements, y, x)``, counts squared (or units of the values squared).
    """
    rng = np.random.default_rng(seed)
    missing = np.isnan(prepared.data)
    noise = prepared.noise_variance(maps)
    model = prediction(prepared, maps)
    mean = np.zeros_like(maps)
    spread = np.zeros_like(maps)
    for k in range(_REFITS):
        if prepared.variance is None:
            data = rng.poisson(noise).astype(float)
        else:
            data = rng.normal(maps, np.sqrt(noise))
        trial = replace(
            prepared,
            data=np.where(missing, np.nan, data),
            haadf=rng.normal(model, prepared.sigma),
        )
        coefficients, offset = fit_coefficients(
            maps, trial.net(), trial.haadf, trial.trusted / trial.sigma**2, prior
        )
        trial = replace(trial, coefficients=coefficients, offset=offset)
        refit = minimise(
            trial.problem(*weights),
            run,
            tolerance=None,
            max_iter=_REFIT_ITERATIONS,
            callback=callback,
        ).maps
        # B. P. Welford, Technometrics 4, 419 (1962)
        change = refit - mean
        mean += change / (k + 1)
        spread += change * (refit - mean)
    total = spread / (_REFITS - 1) + 2 * (mean - maps) ** 2
    return gaussian_filter(total, (0, _REFIT_SMOOTHING, _REFIT_SMOOTHING))
