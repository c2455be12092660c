"""Threads share out work so that nothing is left out, done twice or done too early."""

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hyperspy_fusion.core import threads


@numba.njit(nogil=True)
def count_in_turns(n_phases, n_tasks, seen, tickets):
    """Each task looks at how many were done in the phases before."""
    while True:
        phase, task = threads.next_task(tickets, n_phases, n_tasks)
        if phase >= n_phases:
            break
        seen[phase, task] = (seen[:phase] >= 0).sum()
        threads.give_back(tickets)


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_tasks_wait_for_those_that_they_need(num_workers):
    seen = np.full((300, 7), -1)
    with threads.workers(num_workers) as run:
        run.together(count_in_turns, *seen.shape, seen, most=num_workers)
    assert_array_equal(seen, np.repeat(7 * np.arange(300)[:, None], 7, axis=1))


def test_workers_raise_what_a_kernel_raises():
    def fail(_start, stop):
        if stop == 3:
            raise ArithmeticError("block 3")

    with threads.workers(2) as run, pytest.raises(ArithmeticError, match="block 3"):
        run(fail, [(0, 1), (1, 2), (2, 3)])


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_each_item_has_its_result_and_works_alone(num_workers):
    def square(item, run):
        seen = []
        run(lambda start, stop: seen.append((start, stop)), [(0, 1), (1, item)])
        assert seen == [(0, 1), (1, item)]
        return item**2

    with threads.workers(num_workers) as run:
        assert run.each(square, [3, 1, 2, 5]) == [9, 1, 4, 25]
        assert run.each(square, []) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_ends_the_work(num_workers):
    started = []

    def fail(item, run):  # noqa: ARG001
        started.append(item)
        raise ArithmeticError(item)

    with threads.workers(num_workers) as run, pytest.raises(ArithmeticError):
        run.each(fail, range(100))
    assert len(started) <= num_workers
