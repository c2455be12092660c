from dataclasses import replace

import numpy as np
import pytest
from known_discs import PRIOR, discs, measured
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion.core.calibrated.coefficients import CrossFit
from hyperspy_fusion.core.calibrated.convex.solver import minimise
from hyperspy_fusion.core.calibrated.noise import haadf_noise
from hyperspy_fusion.core.calibrated.uncertainty import (
    _displaced,
    simulations,
    uncertainty,
)

WEIGHTS = 3.0, 0.1


def found(prepared, maps, run, *, n_refits=10, seed=0, weights=WEIGHTS, **options):
    return uncertainty(
        simulations(prepared, PRIOR, maps, seed),
        [(lambda data: data.problem(*weights), np.ones(len(maps), dtype=bool))],
        maps,
        run,
        n_refits=n_refits,
        seed=seed,
        **{"lambda_tv": weights[0]} | options,
    )


@pytest.fixture(scope="module")
def fused(run):
    """Truth, calibrated data, their fused maps, and variance and replicas of them."""
    truth = discs()
    prepared, _ = CrossFit().calibrate(measured(truth), PRIOR, run)
    problem = prepared.problem(*WEIGHTS)
    maps = minimise(problem, run, tolerance=1e-3, max_iter=400).maps
    return truth, prepared, maps, *found(prepared, maps, run, n_refits=20, keep=True)


def test_uncertainty_covers_the_error(fused, run):
    truth, prepared, maps, _, _ = fused
    variance, replicas = found(prepared, maps, run)
    assert replicas is None  # not asked for
    assert variance.shape == maps.shape
    assert (variance > 0).all()
    on_object = truth > 0.4
    covered = np.abs(maps - truth) <= 2 * np.sqrt(variance)
    assert covered[on_object].mean() > 0.9
    # but not by being useless
    assert np.sqrt(variance[on_object].mean()) < 0.3 * truth.max()
    assert_array_equal(found(prepared, maps, run)[0], variance)


def test_the_bias_counts_more_where_maps_are_smoothed_more(fused, run):
    """0.6 λ times, but 2.5 times at least and 4 times at most."""
    _, prepared, maps, _, _ = fused
    least, two, three, most, beyond = (
        found(prepared, maps, run, n_refits=3, lambda_tv=lambda_tv)[0]
        for lambda_tv in (1.0, 2.5 / 0.6, 5.0, 4 / 0.6, 20.0)
    )
    assert_array_equal(least, two)
    assert_array_equal(most, beyond)
    assert (most > least).all()
    assert_allclose(three - least, (most - least) / 3, rtol=1e-3)


def test_replicas_hold_the_variance(fused):
    _, _, maps, variance, replicas = fused
    assert replicas.shape == (20, *maps.shape)
    assert replicas.dtype == np.float32
    assert replicas.min() >= 0
    squares = ((replicas - maps) ** 2).mean(axis=0)
    bright = maps > 0.1 * maps.max()
    assert_allclose(squares[bright].mean(), variance[bright].mean(), rtol=0.1)


def test_replicas_hold_the_correlations_of_the_error(fused):
    truth, _, maps, variance, replicas = fused

    def blocks(images):
        n = images.shape[-1] // 8
        cut = images[..., : 8 * n, : 8 * n]
        return cut.reshape(*images.shape[:-2], n, 8, n, 8).mean(axis=(-3, -1))

    on_object = blocks(truth) > 0.4
    error = np.abs(blocks(maps) - blocks(truth))[on_object]
    spread = np.sqrt(((blocks(replicas) - blocks(maps)) ** 2).mean(axis=0))[on_object]
    naive = np.sqrt(blocks(variance) / 64)[on_object]  # as if pixels were independent
    assert (error <= 2 * spread).mean() > 0.9
    assert (error <= 2 * naive).mean() < 0.8
    assert spread.max() < 0.2 * truth.max()


def test_replicas_of_an_odd_number_are_around_the_maps(fused, run):
    _, prepared, maps, _, _ = fused
    _, replicas = found(prepared, maps, run, n_refits=3, keep=True)
    inner = maps > 0.5 * maps.max()
    assert abs((replicas.mean(axis=0) - maps)[inner].mean()) < 0.05 * maps.max()


def test_other_data_have_other_noise(fused, run):
    _, prepared, maps, variance, _ = fused
    other = prepared.data.copy()
    other[0, 0, 0] += 1
    changed, _ = found(replace(prepared, data=other), maps, run, n_refits=20)
    assert not np.allclose(changed, variance, rtol=1e-2)
    assert_allclose(changed.mean(), variance.mean(), rtol=0.2)


def test_displaced_bias_has_both_signs():
    bias = np.zeros((1, 32, 32))
    bias[0, 16, 16] = 1.0
    each = np.array(list(_displaced(bias, 6, seed=0)))
    assert_array_equal(each[:3], -each[3:])
    assert_array_equal(np.abs(each).sum(axis=(1, 2, 3)), 1)
    places = np.argwhere(each[:3, 0] == 1)[:, 1:]
    assert len(np.unique(places, axis=0)) > 1
    assert np.abs(places - 16).max() < 8


def test_uncertainty_of_values_and_missing_pixels(run):
    truth = discs(32)
    rng = np.random.default_rng(2)
    data = rng.normal(truth, 0.5)
    data[0, 4:8, 4:8] = np.nan
    prepared = replace(
        measured(truth),
        data=data,
        background=np.zeros((2, 1, 1)),
        variance=np.full((2, 1, 1), 0.25),
        scale=np.full(2, 0.25),
        sigma=haadf_noise(measured(truth).haadf),
    )
    weights = 2.0, 0.1
    maps = minimise(prepared.problem(*weights), run, tolerance=None, max_iter=60).maps
    variance, replicas = found(prepared, maps, run, weights=weights, keep=True)
    assert np.isfinite(variance).all()
    assert np.isfinite(replicas).all()
    # smoothing beats the raw data
    assert variance.mean() < 0.25
