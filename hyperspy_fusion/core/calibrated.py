"""The calibrated method: calibrate, choose the weights, solve, say what to trust."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from . import primal_dual
from .calibration import (
    fit_coefficients,
    haadf_noise,
    initial_coefficients,
    signal_scale,
)
from .primal_dual import Problem
from .selection import block_scores, choose_weights, folds

_CALIBRATION_PASSES = 4
_CALIBRATION_LAMBDA = 4.0
_PEDESTAL = 0.2  # of the mean count
_ALPHA = 0.25  # pixels
_TRIAL_ITERATIONS = 60


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything of a problem but its weights.

    Attributes
    ----------
    data : numpy.ndarray
        b, shape ``(n_elements, y, x)``; NaN where missing.
    background : numpy.ndarray
        β, shape ``(n_elements, 1, 1)`` or that of the data.
    variance : numpy.ndarray or None
        Of data with Gaussian noise; None for counts.
    scale : numpy.ndarray
        s_i, noise variance where the element is, shape ``(n_elements,)``; of counts
        that is their mean.
    level : numpy.ndarray
        Mean of the maps where the element is, shape ``(n_elements,)``.
    haadf : numpy.ndarray
        h, shape ``(y, x)``.
    sigma : numpy.ndarray
        σ_h, noise and model error, shape ``(y, x)``.
    trusted : numpy.ndarray
        1 where the HAADF image may be used, else 0, shape ``(y, x)``.
    coefficients : numpy.ndarray
        c_i, shape ``(n_elements,)``.
    offset : float
        o.
    alpha : float or None
        Of TGV; None for TV.
    lock_flux : bool
        Whether the sum of each map is kept.
    """

    data: np.ndarray
    background: np.ndarray
    variance: np.ndarray | None
    scale: np.ndarray
    level: np.ndarray
    haadf: np.ndarray
    sigma: np.ndarray
    trusted: np.ndarray
    coefficients: np.ndarray
    offset: float
    alpha: float | None
    lock_flux: bool

    def net(self):
        """Maps without background, NaN where missing."""
        return self.data - self.background

    def share(self, data, share):
        """The setting of a part of the dose."""
        return replace(
            self,
            data=data,
            background=self.background * share,
            scale=self.scale * share,
            level=self.level * share,
            coefficients=self.coefficients / share,
        )

    def problem(self, lambda_tv, lambda_haadf):
        """The convex problem of given weights."""
        strength = lambda_tv / np.sqrt(self.scale)
        missing = np.isnan(self.data).any()
        flux = None
        if self.lock_flux:
            net = self.net()
            # of missing pixels the flux is not known; the mean stands for them
            flux = np.nanmean(net, axis=(1, 2)) * net[0].size if missing else net.sum(axis=(1, 2))
            flux = np.maximum(flux, 0)
        return Problem(
            data=self.data,
            background=self.background,
            pedestal=_PEDESTAL * np.nanmean(self.data, axis=(1, 2)),
            variance=self.variance,
            haadf=self.haadf - self.offset,
            haadf_precision=self.trusted / self.sigma**2,
            lambda_haadf=lambda_haadf,
            coefficients=self.coefficients,
            strength=strength,
            typical=float(np.mean(strength * self.level)),
            flux=flux,
            alpha=self.alpha,
        )


def calibrate(setting, run, prior):
    """Find coefficients and offset of the HAADF image, by turns with the maps.

    Parameters
    ----------
    setting : Setting
        Without coefficients.
    run : callable
        From :func:`~hyperspy_fusion.core.kernels.workers`.
    prior : numpy.ndarray
        Expected c_i in any common unit, shape ``(n_elements,)``.

    Returns
    -------
    setting : Setting
        With coefficients and offset.
    maps : numpy.ndarray
        The fused maps of the last pass, shape ``(n_elements, y, x)``.
    """
    net = setting.net()
    filled = np.where(np.isnan(net), np.nanmean(net, axis=(1, 2), keepdims=True), net)
    if setting.variance is None:
        noise = np.nansum(setting.data, axis=(1, 2))
    else:
        noise = np.broadcast_to(setting.variance, net.shape).sum(axis=(1, 2))
    coefficients, offset = initial_coefficients(filled, noise, setting.haadf)
    free = replace(setting, lock_flux=False)
    for _ in range(_CALIBRATION_PASSES):
        free = replace(free, coefficients=coefficients, offset=offset)
        maps = primal_dual.solve(
            free.problem(_CALIBRATION_LAMBDA, 1.0),
            run,
            tolerance=None,
            max_iter=_TRIAL_ITERATIONS,
        ).maps
        # Weights that also count the noise of the maps were tried: worse by 15 % on
        # `janus` at 16 counts.
        coefficients, offset = fit_coefficients(
            maps, net, setting.haadf, setting.trusted / setting.sigma**2, prior
        )
    return replace(setting, coefficients=coefficients, offset=offset), maps


def maps_variance(setting, maps):
    """Noise variance of the measured maps, by the fused ones."""
    if setting.variance is None:
        return maps + setting.background
    return np.broadcast_to(setting.variance, maps.shape)


def weigh(setting, run, *, seed, lambda_tv=None, lambda_haadf=None):
    """Choose the weights by cross-validation."""
    counts = setting.variance is None and bool(
        np.all(np.mod(np.nan_to_num(setting.data), 1) == 0)
    )
    parts = folds(setting.data, seed, counts=counts)
    if setting.variance is None:
        norm = np.nanmean(setting.data, axis=(1, 2), keepdims=True)
    else:
        norm = np.broadcast_to(setting.variance, setting.data.shape)
        norm = norm.mean(axis=(1, 2), keepdims=True)
    norm = np.where(norm > 0, norm, 1)

    def score(lambda_tv, lambda_haadf):
        errors = 0
        for part in parts:
            trial = setting.share(part.data, part.share)
            maps = primal_dual.solve(
                trial.problem(lambda_tv, lambda_haadf),
                run,
                tolerance=None,
                max_iter=_TRIAL_ITERATIONS,
            ).maps
            squares = (part.target - maps - trial.background) ** 2 / norm
            errors = errors + np.nansum(squares, axis=0)
        return block_scores(errors)

    return choose_weights(score, lambda_tv, lambda_haadf)
