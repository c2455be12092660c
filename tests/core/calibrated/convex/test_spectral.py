import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from problems import make_problem, objective
from test_certificate import random_state

from hyperspy_fusion.core.calibrated.convex.bins import Bins
from hyperspy_fusion.core.calibrated.convex.certificate import certificate
from hyperspy_fusion.core.calibrated.convex.iteration import Iteration, cold_start
from hyperspy_fusion.core.calibrated.convex.problem import coarsen, replace, with_flux
from hyperspy_fusion.core.calibrated.convex.solver import minimise
from hyperspy_fusion.core.common.threads import Workers, workers


def with_spectra(problem, n_bins=12, seed=0, missing=0.0):
    """The problem with spectra in random bins in the place of its counts."""
    rng = np.random.default_rng(seed)
    n_components = len(problem.data)
    mixing = rng.dirichlet(np.full(n_bins, 0.6), n_components).T
    expected = np.tensordot(mixing, problem.data, 1)
    counts = rng.poisson(expected).astype(np.float32)
    counts[:, rng.random(problem.shape) < missing] = np.nan
    sums = problem.data.sum(axis=(1, 2))
    shares = mixing * sums / (mixing @ sums)[:, None]
    data = np.tensordot(shares.T, counts, 1)
    flux = np.nansum(data, axis=(1, 2)) if problem.flux is not None else None
    bins = Bins(counts=counts, mixing=mixing)
    return replace(problem, data=data, bins=bins, flux=flux)


def value_of(problem, maps, slopes):
    """The objective written out again, in float64."""
    counts, mixing = np.float64(problem.bins.counts), problem.bins.mixing
    known = np.isfinite(counts)
    floor = (mixing @ problem.pedestal)[:, None, None]
    measured = np.where(known, counts, 0) + floor
    expected = np.tensordot(mixing, maps, 1) + floor
    deviance = measured * np.log(measured / expected) - measured + expected
    rest = replace(problem, data=np.full(problem.data.shape, np.nan), bins=None)
    return deviance[known].sum() + objective(rest, maps, slopes)


def near_the_optimum(problem, n_iter):
    state = cold_start(problem)
    Iteration(problem, state, Workers()).advance(n_iter, settle=True)
    return state


def test_counts_are_shared_out_as_expected():
    problem = with_spectra(make_problem(n_elements=3), missing=0.1)
    state = random_state(problem, np.random.default_rng(1))
    iteration = Iteration(problem, state, Workers())
    iteration.share()
    maps = np.maximum(state.u, 0) / problem.tv_scale[:, None, None]
    maps += problem.pedestal[:, None, None]
    mixing, counts = problem.bins.mixing, problem.bins.counts
    measured = counts + (mixing @ problem.pedestal)[:, None, None]
    ratio = measured / np.tensordot(mixing, maps, 1)
    known = np.isfinite(problem.data)
    expected = maps * np.tensordot(mixing.T, ratio, 1)
    assert_allclose(iteration.scaled.data[known], expected[known], rtol=1e-5)
    assert (iteration.scaled.data[~known] == -1).all()
    assert 0 < (~known).sum() < known.size


def test_a_bin_for_each_component_is_the_problem_of_maps():
    maps = make_problem((33, 36), n_elements=3)
    counts = maps.data.astype(np.float32)
    spectra = replace(maps, bins=Bins(counts=counts, mixing=np.eye(3)))
    given = {"tolerance": 1e-3, "max_iter": 400}
    one, other = (minimise(p, Workers(), **given) for p in (maps, spectra))
    assert one.n_iter == other.n_iter
    assert_allclose(other.maps, one.maps, atol=1e-4)
    assert_allclose(other.history[-1][1], one.history[-1][1], rtol=1e-5)
    assert_allclose(other.gap, one.gap, rtol=0.05)


def test_neither_blocks_nor_threads_matter():
    problem = with_spectra(make_problem((160, 220), n_elements=4))
    one, other = cold_start(problem), cold_start(problem)
    Iteration(problem, one, Workers()).advance(3)
    with workers(2) as run:
        iteration = Iteration(problem, other, run)
        assert len(iteration.blocks) > 1
        iteration.advance(3)
    assert (one.u == other.u).all()


def test_coarse_pixels_have_the_sums_of_the_bins():
    problem = with_spectra(make_problem((18, 22)))
    coarse = coarsen(problem)
    counts = problem.bins.counts
    assert coarse.bins.counts.shape == (len(counts), 9, 11)
    assert_allclose(coarse.bins.counts.sum(), counts.sum())
    assert coarse.bins.mixing is problem.bins.mixing


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_follows_the_distance_to_the_optimum(seed):
    problem = with_spectra(make_problem(n_elements=3, seed=seed), seed=seed)
    given = {"run": Workers(), "max_iter": 1500}
    best = minimise(problem, tolerance=1e-5, **given)
    lowest = problem.value(best.history[-1][1])
    gaps = []
    for tolerance in (1e-2, 1e-3):
        found = minimise(problem, tolerance=tolerance, **given)
        value = problem.value(found.history[-1][1])
        excess = value - lowest
        gaps.append(found.gap * value)
        assert 0 < excess < gaps[-1] < 200 * excess
    assert 0 <= best.gap * lowest < gaps[1] < gaps[0] / 3
    assert best.gap < 3e-4


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n_iter=st.sampled_from([0, 10, 100]),
    alpha=st.sampled_from([None, 0.5]),
    flux=st.booleans(),
    hidden=st.booleans(),
    missing=st.sampled_from([0.0, 0.1]),
    further=st.sampled_from([(), (0.1,)]),
)
def test_the_bound_is_below_the_objective(
    seed, n_iter, alpha, flux, hidden, missing, further
):
    problem = make_problem(
        (9, 11), n_elements=3, seed=seed, alpha=alpha, flux=flux, further=further
    )
    if hidden:  # as a component that no image shows
        problem = replace(problem, coefficients=problem.coefficients * [1, 0, 1])
    problem = with_spectra(problem, seed=seed, missing=missing)
    if n_iter:
        state = near_the_optimum(problem, n_iter)
    else:
        state = random_state(problem, np.random.default_rng(seed))
    terms, upper, lower = certificate(problem, state)
    maps = with_flux(problem, state.u).astype(float)
    slopes = state.v.astype(float)
    assert_allclose(upper, value_of(problem, maps, slopes), rtol=1e-5)
    assert_allclose(upper, problem.value(terms), rtol=1e-12)
    best = near_the_optimum(problem, 800)
    nearest = value_of(
        problem, with_flux(problem, best.u).astype(float), best.v.astype(float)
    )
    assert lower <= nearest + 1e-5 * abs(nearest)
