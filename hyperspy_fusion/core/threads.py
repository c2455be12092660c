"""How kernels are compiled, and how threads share out their work."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import llvmlite.binding
import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = [
    "Workers",
    "compilers",
    "give_back",
    "most_at_once",
    "new_tickets",
    "next_task",
    "workers",
]

# Pixels times elements times iterations that threads do without Python, some 20 ms;
# then the progress is told, and Ctrl-C is heard.
_AT_ONCE = 1 << 23


def compilers(fastmath):
    """Decorators for kernels and for their parts, which are inlined.

    What the compiler leaves as a call is another function when it comes from Numba's
    cache on disk, with another rounding: parts leave it no choice.

    Parameters
    ----------
    fastmath : bool or set of str
        What the compiler may change in the arithmetic.

    Returns
    -------
    kernel, part : callable
    """
    # Python's error model would look for zeros in front of each division: a loop that
    # can raise is not vectorised.
    options = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    return numba.njit(cache=True, **options), numba.njit(forceinline=True, **options)


_, _part = compilers(fastmath=False)


def most_at_once(size):
    """Iterations on maps of so many numbers that one call of a kernel should do."""
    return max(_AT_ONCE // size, 1)


class Workers:
    """Threads that work on one problem together, or on several at once.

    Parameters
    ----------
    pool : concurrent.futures.ThreadPoolExecutor or None
        Threads that help the calling one; None if it works alone.
    num_workers : int
        Number of threads, the calling one included.
    """

    def __init__(self, pool=None, num_workers=1):
        self._pool, self._num_workers = pool, num_workers

    def __call__(self, kernel, blocks, *arguments):
        """Call ``kernel(*arguments, start, stop)`` for each block of rows."""
        self._share(blocks, lambda block: kernel(*arguments, *block))

    def together(self, kernel, *arguments, most):
        """Call ``kernel(*arguments, tickets)`` on all threads at once, at most `most`.

        They share out the work by the tickets (:func:`next_task`), and wait for each
        other without Python.
        """
        tickets = new_tickets()
        n_helpers = min(self._num_workers, most) - 1
        helpers = [
            self._pool.submit(kernel, *arguments, tickets) for _ in range(n_helpers)
        ]
        try:
            kernel(*arguments, tickets)
        finally:
            for helper in helpers:
                helper.cancel() or helper.result()

    def each(self, function, items):
        """List ``function(item, run)`` of all items; each works on one thread alone."""
        results = [None] * len(items)

        def fill_in(task):
            i, item = task
            results[i] = function(item, Workers())

        self._share(list(enumerate(items)), fill_in)
        return results

    def _share(self, tasks, function):
        queue = iter(tasks)

        def work():
            for task in queue:
                function(task)

        # The calling thread works too, which spares waking another one.
        n_helpers = min(self._num_workers, len(tasks)) - 1
        helpers = [self._pool.submit(work) for _ in range(n_helpers)]
        try:
            work()
        finally:
            for _ in queue:  # what is left after an error
                pass
            for helper in helpers:
                helper.result()


@contextmanager
def workers(num_workers=None):
    """Threads for the kernels.

    Parameters
    ----------
    num_workers : int, optional
        Number of threads; by default Numba's own setting (``NUMBA_NUM_THREADS``, or
        the number of cores).

    Yields
    ------
    Workers

    Raises
    ------
    ValueError
        If `num_workers` is below 1.
    """
    if num_workers is None:
        num_workers = numba.config.NUMBA_NUM_THREADS
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}: expected at least 1")
    if num_workers == 1:
        yield Workers()
        return
    with ThreadPoolExecutor(num_workers - 1) as pool:
        yield Workers(pool, num_workers)


# Tickets: how threads share out the tasks of a kernel among themselves. Tasks come in
# phases, each of which needs all of those before it, and have numbers: one thread takes
# a number, and gives it back when the task is done. Handing tasks out in Python takes
# 0.1 ms in each phase, as long as an iteration of a small image; and threads that sleep
# are slow to wake.


def new_tickets():
    """Numbers taken and numbers given back, in cache lines of their own."""
    return np.zeros((2, 8), np.int64)


# How often a thread looks whether the others are done before it sleeps for a moment:
# some 0.1 ms, about as long as a task of a small image. Where there are more threads
# than cores, or other work is done, threads that never sleep keep those that they wait
# for from a core.
_PATIENCE = 300_000
_NAP = np.uint32(20)  # µs


def _napping():
    """The operating system's function that lets others have the core."""
    if os.name == "nt":  # whose clock is too coarse to sleep; takes no argument
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).usleep
    name = "hyperspy_fusion_nap"
    llvmlite.binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    return types.ExternalFunction(name, types.int32(types.uint32))


_nap = _napping()


def _pointer(context, builder, array_type, array, line):
    array = context.make_array(array_type)(context, builder, array)
    column = context.get_constant(types.intp, 0)
    return cgutils.get_item_pointer(context, builder, array_type, array, [line, column])


@intrinsic
def _count(typing_context, tickets, line):  # noqa: ARG001
    """Add one to a counter, and return what it was, as one operation."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        one = context.get_constant(types.int64, 1)
        return builder.atomic_rmw("add", pointer, one, "seq_cst")

    return types.int64(tickets, types.intp), generate


@intrinsic
def _counted(typing_context, tickets, line):  # noqa: ARG001
    """A counter, and all that threads wrote before they added to it."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(pointer, "seq_cst", align=8)

    return types.int64(tickets, types.intp), generate


@_part
def next_task(tickets, n_phases, n_tasks):
    """Take a task, as soon as all of the phases before its own are done.

    Parameters
    ----------
    tickets : numpy.ndarray
        From :func:`new_tickets`, the same for all threads.
    n_phases, n_tasks : int
        Number of phases, and of tasks in each.

    Returns
    -------
    phase, task : int
        From 0; `n_phases` or more when everything is done.
    """
    ticket = _count(tickets, 0)
    phase = ticket // n_tasks
    patience = _PATIENCE
    while _counted(tickets, 1) < min(phase, n_phases) * n_tasks:
        if patience > 0:
            patience -= 1
        else:
            _nap(_NAP)
    return phase, ticket % n_tasks


@_part
def give_back(tickets):
    """Say that a task is done."""
    _count(tickets, 1)
