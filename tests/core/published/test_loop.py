import numpy as np
import pytest

from hyperspy_fusion.core.common.solution import Status
from hyperspy_fusion.core.published.method import iterate


def run(costs, **options):
    """Iterate with steps that return one of the costs after the other."""
    remaining = iter(costs)

    def steps(n):
        return [(next(remaining),) for _ in range(n)]

    return iterate(steps, lambda: steps(1)[0], lambda terms: terms[0], **options)


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_runs_all_iterations_and_drops_the_cost_of_the_start(at_once):
    terms, status = run([9.0, 5.0, 4.0, 3.0], n_iter=3, at_once=at_once)
    assert terms == [(5.0,), (4.0,), (3.0,)]
    assert status is Status.FINISHED


def test_stops_when_the_cost_stands_still():
    terms, status = run(
        [9.0, 5.0, 4.0, 4.0, 1.0, 0.5], n_iter=5, tolerance=1e-3, at_once=4
    )
    assert terms == [(5.0,), (4.0,), (4.0,), (1.0,)]
    assert status is Status.CONVERGED


def test_says_when_the_tolerance_was_not_met():
    _, status = run([9.0, 5.0, 4.0, 3.0], n_iter=3, tolerance=1e-3)
    assert status is Status.N_ITER
    assert "raise n_iter" in str(status)


@pytest.mark.parametrize("costs", [[9.0, np.nan], [9.0, 5.0, np.inf]])
def test_a_cost_that_is_not_finite_is_caught(costs):
    with pytest.raises(FloatingPointError, match=f"after {len(costs) - 1} iterations"):
        run(costs, n_iter=2)
