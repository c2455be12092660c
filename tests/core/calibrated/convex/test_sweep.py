from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from problems import each_problem, least, make_problem, norm_groups, pixel_terms

from hyperspy_fusion.core.calibrated.convex import iteration as iterations
from hyperspy_fusion.core.calibrated.convex.iteration import Iteration, cold_start
from hyperspy_fusion.core.calibrated.convex.sweep import (
    State,
    Steps,
    empty_seams,
    iterate,
)
from hyperspy_fusion.core.common.operators import (
    gradient,
    gradient_adjoint,
    inner,
    joint_norm,
    symmetrised_gradient,
    symmetrised_gradient_adjoint,
)
from hyperspy_fusion.core.common.threads import Workers, workers

ARRAYS = ("u", "v", "p", "q", "haadf_dual", "flux_dual")


class InBlocks(Workers):
    """Workers that cut all maps into blocks of so many rows."""

    height = 1

    def blocks(self, shape, each=None):  # noqa: ARG002
        return list(pairwise([*range(0, shape[1], self.height), shape[1]]))


# The proximal map


def pure_prox(problem, start, tau, flux_dual=0.0):
    """The primal step without p, q and relaxation, from `start` (scaled)."""
    state = cold_start(replace(problem, alpha=None))
    state.u[:] = start
    n_elements, n_y, n_x = start.shape
    zero = np.float32(0)
    steps = Steps(
        u=np.float32(tau),
        v=zero,
        p=zero,
        q=zero,
        alpha=np.float32(1),
        second_order=False,
        order=np.arange(n_elements, dtype=np.uintp),
        ends=np.arange(1, n_elements + 1) == n_elements,
        flux=np.zeros(n_elements),
        flux_dual=np.zeros(n_elements),
    )
    state.flux_dual[:] = flux_dual
    iterate(
        state,
        problem.scaled(),
        steps,
        np.float32(1),
        np.float32(1),
        1,
        np.array([0, n_y]),
        np.empty((n_elements, n_y)),
        empty_seams(1, n_elements, n_x),
        0,
        1,
    )
    return state.u


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    n_elements=st.integers(1, 4),
    poisson=st.booleans(),
    lambda_haadf=st.sampled_from([0.0, 0.03, 1.0]),
    counts=st.sampled_from([0.1, 3.0, 100.0]),
    tau=st.sampled_from([0.03, 1.0, 30.0]),
    further=st.sampled_from([(), (0.1,), (0.03, 1.0, 0.3)]),
)
def test_prox_against_brute_force(
    seed, n_elements, poisson, lambda_haadf, counts, tau, further
):
    problem = make_problem(
        (1, 3),
        n_elements,
        counts=counts,
        poisson=poisson,
        missing=0.2,
        seed=seed,
        lambda_haadf=lambda_haadf,
        further=further,
    )
    rng = np.random.default_rng(seed)
    start = problem.typical * rng.normal(1, 2, (n_elements, 1, 3))
    start = start.astype(np.float32).astype(float)
    found = pure_prox(problem, start, tau).astype(float)
    assert found.min() >= 0
    for x in range(3):
        terms, near = pixel_terms(problem, 0, x), start[:, 0, x]

        def moreau(u, terms=terms, near=near):
            total, slope = terms(u)
            away = (u - near) / tau
            return total + tau * np.sum(away**2) / 2, slope + away

        expected, _ = least(moreau, np.maximum(near, 0.1))
        size = 1 + np.abs(near).max() + expected.max()
        assert_allclose(found[:, 0, x], expected, atol=2e-4 * size)


def test_prox_of_known_numbers():
    # One element of unit tv_scale without HAADF image; a missing pixel stays
    problem = make_problem(
        (1, 3),
        1,
        lambda_haadf=0.0,
        data=np.array([[[5.0, np.nan, 0.0]]]),
        pedestal=np.ones(1),
        tv_scale=np.ones(1),
    )
    found = pure_prox(problem, np.array([[[4.0, 7.0, -9.0]]]), 1.0)
    # u - 4 + 1 - 6 / (u + 1) = 0
    assert_allclose(found[0, 0], [1 + np.sqrt(10), 7, 0], rtol=1e-6)
    gaussian = replace(problem, variance=np.full((1, 1, 3), 0.5))
    found = pure_prox(gaussian, np.array([[[4.0, 7.0, -9.0]]]), 1.0)
    assert_allclose(found[0, 0], [(4 + 2 * 5) / 3, 7, 0], rtol=1e-6)


# The whole iteration


def advanced(problem, n_iter, run=Workers()):  # noqa: B008
    state = cold_start(problem)
    Iteration(problem, state, run).advance(n_iter)
    return state


def written_out(problem, iteration, state, relaxation):
    """One iteration by the operators, in float64; the data prox is the kernel's."""
    u, v, p, q = (getattr(state, name).astype(float) for name in "uvpq")
    flux_dual = state.flux_dual
    tau, sigma = iteration.tau, iteration.sigma
    moved = u - tau * gradient_adjoint(p)
    new_u = pure_prox(problem, moved.astype(np.float32), tau, flux_dual)
    bar_u = 2 * new_u - u
    new_p = p + sigma * gradient(bar_u)
    out = {"u": u + relaxation * (new_u - u)}
    if problem.alpha is not None:
        tau_v = tau * iterations._SLOPE_STEP
        change = -tau_v * (inner(symmetrised_gradient_adjoint(q)) - p)
        bar_v = v + 2 * change
        new_p -= sigma * bar_v
        sigma_q = sigma * iterations._SLOPE_DUAL_STEP
        new_q = q + sigma_q * symmetrised_gradient(bar_v)
        for g in norm_groups(problem):
            norm = np.maximum(problem.alpha, joint_norm(new_q[:, g]))
            new_q[:, g] *= problem.alpha / norm
        out |= {"v": v + relaxation * change, "q": q + relaxation * (new_q - q)}
    for g in norm_groups(problem):
        new_p[:, g] /= np.maximum(1, joint_norm(new_p[:, g]))
    out["p"] = p + relaxation * (new_p - p)
    if problem.flux is not None:
        sums = bar_u.sum(axis=(1, 2), where=np.isfinite(problem.data))
        step = sigma * iteration.flux_factor
        locked = problem.flux_locked
        wanted = np.where(locked, problem.flux * problem.tv_scale, sums)
        new = flux_dual + step * (sums - wanted)
        out["flux_dual"] = flux_dual + relaxation * (new - flux_dual)
    return out


@each_problem
@pytest.mark.parametrize("relaxation", [1.0, 1.9])
def test_one_iteration_by_the_operators(options, relaxation):
    problem = make_problem(**options)
    state = advanced(problem, 7)
    run = InBlocks()
    run.height = 5
    iteration = Iteration(problem, state, run)
    expected = written_out(problem, iteration, state, relaxation)
    iteration.advance(relaxation=relaxation)
    for name, array in expected.items():
        size = 1e-3 + abs(array).max()
        # the HAADF dual is exact to 1 %, the maps are corrected by their slopes in it
        assert_allclose(getattr(state, name), array, atol=3e-4 * size, err_msg=name)


def test_step_without_relaxation_meets_all_constraints():
    problem = make_problem(counts=0.5)
    state = advanced(problem, 5)
    state.u[:] -= 9
    state.p[:] *= 3
    state.q[:] += 1
    with workers(1) as run:
        Iteration(problem, state, run).advance(settle=True)
    assert state.u.min() >= 0
    assert joint_norm(state.p).max() <= 1 + 1e-6
    assert joint_norm(state.q).max() <= problem.alpha * (1 + 1e-6)


@each_problem
def test_result_does_not_depend_on_threads_and_blocks(options):
    problem = make_problem(**{"shape": (33, 47), **options})
    states = [advanced(problem, 12)]
    for num_workers, height in ((1, 33), (1, 32), (2, 9), (3, 1)):
        with workers(num_workers) as run:
            several = InBlocks(run._pool, num_workers)
            several.height = height
            states.append(advanced(problem, 12, several))
    for other in states[1:]:
        for name in ARRAYS:
            assert_array_equal(
                getattr(other, name), getattr(states[0], name), err_msg=name
            )


@pytest.mark.parametrize("alpha", [0.5, None])
def test_rows_longer_than_a_chunk(alpha):
    # the same columns, chunk by chunk and from the far end
    problem = make_problem((5, 530), alpha=alpha, flux=False)
    turned = {
        name: np.ascontiguousarray(np.swapaxes(getattr(problem, name), -1, -2))
        for name in ("data", "haadf", "haadf_precision")
    }
    upright = advanced(replace(problem, **turned), 40)
    assert_allclose(
        advanced(problem, 40).u, np.swapaxes(upright.u, 1, 2), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("alpha", [0.5, None])
def test_no_subnormal_numbers(alpha):
    data = np.zeros((2, 64, 64))
    data[:, 30:33, 30:33] = 20
    problem = make_problem((64, 64), alpha=alpha, data=data, flux=False)
    state = advanced(problem, 60)
    for name in "uvpq" if alpha else "up":
        sizes = abs(getattr(state, name))
        assert sizes[sizes > 0].min() > 1e-20
        assert sizes.max() > 1e-3
    assert set(ARRAYS) == set(State._fields)
