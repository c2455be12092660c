"""Threads that share the work of a kernel."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numba

# Pixels times elements times iterations that one call of a kernel does, some 20 ms;
# between two calls callbacks run, and Ctrl-C is noticed.
_AT_ONCE = 1 << 23
# Pixels times elements of a phase from which on another thread pays: waking it and
# waiting for it takes 0.1 ms.
_WORTH_A_THREAD = 1 << 16
_BLOCKS_EACH = 4


def most_at_once(size: int) -> int:
    """Iterations on maps of `size` numbers that one call of a kernel should make."""
    return max(_AT_ONCE // size, 1)


class Workers:
    """Threads that work on one problem together, or on several side by side.

    Parameters
    ----------
    pool : concurrent.futures.ThreadPoolExecutor or None
        Threads that help the calling one; None if it works alone.
    num_workers : int
        Number of threads, the calling one included.
    """

    def __init__(
        self, pool: ThreadPoolExecutor | None = None, num_workers: int = 1
    ) -> None:
        self._pool, self.num_workers = pool, num_workers

    def blocks(
        self, shape: tuple[int, ...], each: int = _BLOCKS_EACH
    ) -> list[tuple[int, int]]:
        """Cut maps of shape ``(n_elements, y, x)`` into blocks of rows.

        Returns the first row of each block and the one after its last. A thread has up
        to `each` blocks, so that one delayed by other programs does fewer.
        """
        n_elements, n_y, n_x = shape
        worth = n_elements * n_y * n_x // _WORTH_A_THREAD
        n_threads = max(min(self.num_workers, worth, n_y), 1)
        n_blocks = n_threads
        if n_threads > 1:
            n_blocks *= max(min(worth // n_threads, each, n_y // n_threads), 1)
        edges = [n_y * i // n_blocks for i in range(n_blocks + 1)]
        return list(pairwise(edges))

    def __call__(
        self, kernel: Callable, blocks: Sequence[tuple[int, int]], *arguments: Any
    ) -> None:
        """Call ``kernel(*arguments, start, stop)`` for each block of rows."""
        self._share(blocks, lambda block: kernel(*arguments, *block))

    def each(self, function: Callable, items: Sequence) -> list:
        """List ``function(item, run)`` of all items; each works on one thread alone."""
        results: list = [None] * len(items)

        def fill_in(task: tuple[int, Any]) -> None:
            i, item = task
            results[i] = function(item, ALONE)

        self._share(list(enumerate(items)), fill_in)
        return results

    def _share(self, tasks: Sequence, function: Callable) -> None:
        queue = iter(tasks)

        def work() -> None:
            for task in queue:
                function(task)

        # The calling thread works, too: one less to wake.
        n_helpers = min(self.num_workers, len(tasks)) - 1
        pool: Any = self._pool  # None only if there are no helpers
        helpers = [pool.submit(work) for _ in range(n_helpers)]
        try:
            work()
        finally:
            for _ in queue:  # after an error: nobody starts another block
                pass
            for helper in helpers:
                helper.result()


ALONE = Workers()


@contextmanager
def workers(num_workers: int | None = None) -> Iterator[Workers]:
    """Context manager of threads for the kernels.

    `num_workers` is at least 1; by default Numba's setting (``NUMBA_NUM_THREADS``, or
    the number of cores).
    """
    if num_workers is None:
        num_workers = numba.config.NUMBA_NUM_THREADS
    if num_workers == 1:
        yield ALONE
        return
    with ThreadPoolExecutor(num_workers - 1) as pool:
        yield Workers(pool, num_workers)
