from dataclasses import replace

import numpy as np
from known_discs import PRIOR, discs, measured
from numpy.testing import assert_array_equal

from hyperspy_fusion.core.calibrated.coefficients import CrossFit
from hyperspy_fusion.core.calibrated.convex.solver import minimise
from hyperspy_fusion.core.calibrated.noise import haadf_noise
from hyperspy_fusion.core.calibrated.uncertainty import uncertainty


def test_uncertainty_covers_the_error(run):
    truth = discs()
    prepared, _ = CrossFit().calibrate(measured(truth), PRIOR, run)
    weights = 3.0, 0.1
    maps = minimise(prepared.problem(*weights), run, tolerance=1e-3, max_iter=400).maps
    variance = uncertainty(prepared, PRIOR, weights, maps, run, seed=0)
    assert variance.shape == maps.shape
    assert (variance > 0).all()
    on_object = truth > 0.4
    covered = np.abs(maps - truth) <= 2 * np.sqrt(variance)
    assert covered[on_object].mean() > 0.85
    # but not by being useless
    assert np.sqrt(variance[on_object].mean()) < 0.3 * truth.max()
    again = uncertainty(prepared, PRIOR, weights, maps, run, seed=0)
    assert_array_equal(again, variance)


def test_uncertainty_of_values_and_missing_pixels(run):
    truth = discs(32)
    rng = np.random.default_rng(2)
    variance = np.full((2, 1, 1), 0.25)
    data = rng.normal(truth, 0.5)
    data[0, 4:8, 4:8] = np.nan
    prepared = replace(
        measured(truth),
        data=data,
        background=np.zeros((2, 1, 1)),
        variance=variance,
        scale=np.full(2, 0.25),
        sigma=haadf_noise(measured(truth).haadf),
    )
    maps = minimise(prepared.problem(2.0, 0.1), run, tolerance=None, max_iter=60).maps
    found = uncertainty(prepared, PRIOR, (2.0, 0.1), maps, run, seed=0)
    assert np.isfinite(found).all()
    # smoothing beats the raw data
    assert found.mean() < 0.25
