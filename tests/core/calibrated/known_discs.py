"""A measurement of known truth and coefficients, which several tests share."""

import numpy as np
from scipy.ndimage import gaussian_filter

from hyperspy_fusion.core.calibrated.flux import FluxLock
from hyperspy_fusion.core.calibrated.noise import signal_scale
from hyperspy_fusion.core.calibrated.prepare import PreparedData

COEFFICIENTS = np.array([300.0, 100.0])
OFFSET = 500.0
NOISE = 40.0
PRIOR = np.array([3.0, 1.0])


def discs(n=64):
    """Two elements in overlapping discs on an empty ground, counts."""
    y, x = np.mgrid[:n, :n]
    one = 4.0 * (np.hypot(y - 0.35 * n, x - 0.4 * n) < 0.2 * n)
    two = 4.0 * (np.hypot(y - 0.6 * n, x - 0.6 * n) < 0.25 * n)
    return gaussian_filter(np.stack([one, two]) + 0.05, (0, 1, 1))


def measured(truth, *, seed=0, extra=0.0):
    """The prepared of a measurement of known truth and coefficients."""
    rng = np.random.default_rng(seed)
    background = np.full((2, 1, 1), 0.02)
    data = rng.poisson(truth + background).astype(float)
    clean = OFFSET + np.tensordot(COEFFICIENTS, truth, axes=1) + extra
    scale = signal_scale(data, background)
    shape = truth.shape[1:]
    return PreparedData(
        data=data,
        background=background,
        variance=None,
        scale=scale,
        level=scale,
        pedestal=0.2 * data.mean(axis=(1, 2)),
        haadf=rng.normal(clean, NOISE),
        sigma=np.full(shape, NOISE),
        error=0.0,
        contrast=0.0,
        trusted=np.ones(shape),
        coefficients=COEFFICIENTS,
        offset=OFFSET,
        alpha=0.25,
        lock=FluxLock(kept=np.ones(2, bool)),
        pixels=data[0].size,
    )
