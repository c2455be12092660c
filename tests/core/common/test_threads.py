"""Threads share out work so that nothing is left out or done twice."""

import pytest

from hyperspy_fusion.core.common import threads


@pytest.mark.parametrize("num_workers", [1, 2, 5, 64])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (3, 128, 128), (2, 1000, 70), (12, 7, 5000), (3, 2048, 2048)],
)
def test_blocks_cover_all_rows(shape, num_workers):
    for each in (1, 4):
        blocks = threads.Workers(None, num_workers).blocks(shape, each)
        assert blocks[0][0] == 0
        assert [start for start, _ in blocks[1:]] == [stop for _, stop in blocks[:-1]]
        assert blocks[-1][1] == shape[1]
        heights = [stop - start for start, stop in blocks]
        assert max(heights) - min(heights) <= 1
        assert len(blocks) <= each * num_workers


def test_small_maps_are_left_to_one_thread():
    run = threads.Workers(None, 4)
    assert run.blocks((3, 64, 64)) == [(0, 64)]
    assert len(run.blocks((3, 256, 256))) > 1


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
