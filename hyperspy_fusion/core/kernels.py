"""The fused Numba kernels: float32 state, float64 sums, one pass over memory.

Each kernel works on a block of rows ``start`` to ``stop`` and reads as many rows more
on either side as its steps reach, so that blocks are independent of each other: their
size and the number of threads leave no trace in the result.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

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
    "published_step_rows",
    "row_blocks",
    "take_ticket",
    "tv_prox_rows",
    "wait_for",
    "workers",
]

# Bytes of scratch a block of rows should stay below, to live in the L2 cache.
_BLOCK_BYTES = 1 << 21

# Floats in a cache line: rows of scratch start on one, with one before them as margin.
_MARGIN = 16

# Pixels times elements times iterations that threads do without Python, some 20 ms: then
# the progress is told, and Ctrl-C is heard.
_AT_ONCE = 1 << 23

# Powers of what is not above are taken for those of 0.
_TINY = np.float32(1e-30)


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


_kernel, _part = compilers(fastmath=True)


@_part
def _aligned(n):
    """Length of a row of scratch for `n` floats."""
    return -(-n // _MARGIN) * _MARGIN


def row_blocks(n_rows, halo, bytes_per_row):
    """Cut the rows of an image into blocks whose scratch fits the cache.

    Parameters
    ----------
    n_rows : int
        Rows of the image.
    halo : int
        Rows a kernel computes again on either side of its block.
    bytes_per_row : int
        Scratch memory of the kernel for one row.

    Returns
    -------
    list of tuple of int
        ``(start, stop)`` of each block.
    """
    # Below sixteen halos a block would spend too much on its surroundings.
    height = max(_BLOCK_BYTES // bytes_per_row, 16 * halo, 1)
    # As many blocks for each thread, if there is enough to do for more than one.
    n_threads = numba.config.NUMBA_NUM_THREADS
    n_blocks = max(n_rows // (height * n_threads), 1) * n_threads
    most = min(
        n_rows // (2 * halo + 1), n_rows * bytes_per_row // max(_BLOCK_BYTES // 8, 1)
    )
    n_blocks = max(min(n_blocks, most), 1)
    edges = [n_rows * i // n_blocks for i in range(n_blocks + 1)]
    return list(pairwise(edges))


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

        They share out the work by the tickets (:func:`take_ticket`), and wait for each
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


# Tickets: how threads share out the tasks of a kernel among themselves. The tasks have
# numbers, each of which one thread takes; a task that needs what others do waits until
# as many have been given back. Handing tasks out in Python takes 0.1 ms each time that
# all have to be done before the next begin, which is as long as an iteration of a small
# image; and threads that sleep are slow to wake.


def new_tickets():
    """Numbers taken and numbers given back, in cache lines of their own."""
    return np.zeros((2, 8), np.int64)


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
def take_ticket(tickets):
    """Number of the next task."""
    return _count(tickets, 0)


@_part
def give_back(tickets):
    """Say that a task is done."""
    _count(tickets, 1)


@_part
def wait_for(tickets, n):
    """Wait until `n` tickets have been given back."""
    while _counted(tickets, 1) < n:
        pass


@_part
def _log2(x):
    """log2 of a positive number, to one in the last place of float32.

    Unlike the library's, this one is vectorised: exponent by the bits of x, mantissa in
    [sqrt(1/2), sqrt(2)) by a polynomial with the least relative error.
    """
    bits = np.float32(x).view(np.int32)
    exponent = np.int32(np.int32(bits - np.int32(0x3F3504F3)) >> np.int32(23))
    mantissa = np.int32(bits - np.int32(exponent << np.int32(23))).view(np.float32)
    r = mantissa - np.float32(1)
    p = np.float32(0.12583698)
    p = p * r + np.float32(-0.20726973)
    p = p * r + np.float32(0.21571562)
    p = p * r + np.float32(-0.23894483)
    p = p * r + np.float32(0.28791624)
    p = p * r + np.float32(-0.36070368)
    p = p * r + np.float32(0.48091063)
    p = p * r + np.float32(-0.72134733)
    p = p * r + np.float32(1.442695)
    return np.float32(exponent) + r * p


@_part
def _exp2(x):
    """2 to the power of x, in float32, at least the smallest normal number."""
    x = min(max(x, np.float32(-126)), np.float32(127))
    whole = np.int32(np.int32(x + np.float32(128.5)) - np.int32(128))
    f = x - np.float32(whole)
    p = np.float32(0.00015345812)
    p = p * f + np.float32(0.001339993)
    p = p * f + np.float32(0.009618489)
    p = p * f + np.float32(0.055503286)
    p = p * f + np.float32(0.24022646)
    p = p * f + np.float32(0.6931472)
    p = p * f + np.float32(1)
    return p * np.int32(np.int32(whole + np.int32(127)) << np.int32(23)).view(
        np.float32
    )


@_part
def _tv_primal_row(values, y, weight, q, side, over, row, n_x, out, out_row):
    """Row `y` of P_C(v - λ grad* q); rows y - 1 and y of q are `over` and `row`."""
    zero = np.float32(0)
    for x in range(n_x):
        adjoint = (
            q[side, 0, over, x + _MARGIN]
            - q[side, 0, row, x + _MARGIN]
            + q[side, 1, row, x + _MARGIN - 1]
            - q[side, 1, row, x + _MARGIN]
        )
        out[out_row, x] = max(values[y, x] - weight * adjoint, zero)


@_part
def _tv_dual_row(primal, here, below, step, least, ratio, q, side, row, n_x):
    """One row of p = P(q + s grad x), in the place of q, and of the q to come.

    That is p - ratio p_before, in the place of p_before, on the other side.
    """
    one = np.float32(1)
    other = 1 - side
    for x in range(n_x):
        new_y = q[side, 0, row, x + _MARGIN] + step * (
            primal[below, x] - primal[here, x]
        )
        new_x = q[side, 1, row, x + _MARGIN] + step * (
            primal[here, x + 1] - primal[here, x]
        )
        scale = one / np.sqrt(max(least, new_y * new_y + new_x * new_x))
        new_y *= scale
        new_x *= scale
        q[side, 0, row, x + _MARGIN] = new_y
        q[side, 1, row, x + _MARGIN] = new_x
        q[other, 0, row, x + _MARGIN] = new_y - ratio * q[other, 0, row, x + _MARGIN]
        q[other, 1, row, x + _MARGIN] = new_x - ratio * q[other, 1, row, x + _MARGIN]


@_part
def _tv_prox(values, weight, n_iter, fast, start, stop, out):
    """Rows `start` to `stop` of the TV prox of `values`, written to `out` from row 0.

    Gradient projection on the dual p, with momentum (q is the extrapolated dual) where
    `fast`. All steps go down the rows together, each one row behind the one before it,
    so that the image is read once and what the steps hand on stays in the cache: some
    rows of the dual, and one row of x for each step. q is kept divided by
    1 + momentum, as p - momentum / (1 + momentum) p_before, which is one operation
    instead of two, and is written over p_before: p and q change sides in each step.
    """
    n_y, n_x = values.shape[0], out.shape[1]
    one = np.float32(1)
    growth = np.ones(n_iter + 1, np.float32)  # 1 + momentum of what a step starts from
    if fast:
        t = (1.0 + np.sqrt(5.0)) / 2.0
        for k in range(2, n_iter):  # the last dual is not extrapolated
            t_next = (1.0 + np.sqrt(1.0 + 4.0 * t * t)) / 2.0
            growth[k] = 1.0 + (t - 1.0) / t_next
            t = t_next
    depth = min(n_iter, n_y) + 2
    width = _aligned(n_x + 1) + _MARGIN
    dual = np.zeros((2, 2, depth, width), np.float32)
    primal = np.empty((n_iter + 1, width), np.float32)
    slots = np.arange(n_iter + 1)  # the row of `primal` of each step, and a spare one
    for front in range(max(start - n_iter, 0), n_y + n_iter + 1):
        if front < n_y:
            for direction in range(2):
                for x in range(n_x):
                    dual[0, direction, front % depth, x + _MARGIN] = 0
        for k in range(max(front - n_y, 0), min(n_iter, front) + 1):
            y = front - k
            # as far around the rows to write as the steps to come will reach
            first = max(start - (n_iter - k), 0)
            last = min(stop + (n_iter - k), n_y)
            if y < first or y > last or (y == last and (last < n_y or k == n_iter)):
                continue
            side, over, row = k % 2, (y - 1) % depth, y % depth
            scaled = weight * growth[k]
            if k == n_iter:
                _tv_primal_row(
                    values, y, scaled, dual, side, over, row, n_x, out, y - start
                )
                continue
            here, below = slots[k], slots[n_iter]
            if y < n_y:
                _tv_primal_row(
                    values, y, scaled, dual, side, over, row, n_x, primal, below
                )
                primal[below, n_x] = primal[below, n_x - 1]
                slots[k], slots[n_iter] = below, here
            else:
                below = here  # no difference across the far edge
            if y > first:
                _tv_dual_row(
                    primal,
                    here,
                    below,
                    one / (np.float32(8) * scaled),
                    one / growth[k] ** 2,
                    one - one / growth[k + 1],
                    dual,
                    side,
                    over,
                    n_x,
                )


@_kernel
def tv_prox_rows(values, weight, n_iter, fast, out, start, stop):
    """Write rows `start` to `stop` of the TV prox of an image to `out`.

    Parameters
    ----------
    values : numpy.ndarray
        The image, shape ``(y, x)``, float32.
    weight : numpy.float32
        λ > 0, in the units of the image.
    n_iter : int
        Steps, at least 1, each of which reaches one row further.
    fast : bool
        Momentum (FGP) or none (GP).
    out : numpy.ndarray
        Shape ``(y, x)``, float32.
    start, stop : int
        The rows to write.
    """
    low = max(start - n_iter, 0)
    high = min(stop + n_iter, values.shape[0])
    _tv_prox(
        values[low:high], weight, n_iter, fast, start - low, stop - low, out[start:stop]
    )


@_part
def _power_row(maps, i, y, exponent, weight, powers, misfit):
    """Write x^(γ-1) and subtract w_i x^γ from the misfit."""
    n_x = misfit.size
    zero = np.float32(0)
    at_zero = np.float32(1) if exponent == zero else zero
    for x in range(n_x):
        value = maps[i, y, x]
        power = _exp2(exponent * _log2(value))
        power = power if value > _TINY else at_zero
        powers[i, x] = power
        misfit[x] -= weight * power * value


@_part
def _descended_row(
    maps, measured, i, y, powers, misfit, slope, lambda_chem, background, out, out_row
):
    """One row of an element after the gradient step on both data terms."""
    n_x = misfit.size
    zero = np.float32(0)
    one = np.float32(1)
    for x in range(n_x):
        here = maps[i, y, x]
        value = (
            here
            + slope * powers[i, x] * misfit[x]
            - lambda_chem * (one - measured[i, y, x] / (here + background))
        )
        out[i, out_row, x] = max(value, zero)


@_part
def _add_chemical_row(maps, measured, i, y, background, terms):
    """Add x - b log(x + ε) to a row of terms."""
    log_of_2 = np.float32(0.6931472)
    for x in range(terms.size):
        here = maps[i, y, x]
        terms[x] += here - measured[i, y, x] * (log_of_2 * _log2(here + background))


@_part
def _add_tv_row(maps, i, y, terms):
    """Add the lengths of the gradients to a row of terms."""
    n_x = terms.size
    below = min(y + 1, maps.shape[1] - 1)
    for x in range(n_x - 1):
        down = maps[i, below, x] - maps[i, y, x]
        across = maps[i, y, x + 1] - maps[i, y, x]
        terms[x] += np.sqrt(down * down + across * across)
    terms[n_x - 1] += abs(maps[i, below, n_x - 1] - maps[i, y, n_x - 1])


@_part
def _sum_row(terms):
    """Sum in float64."""
    total = 0.0
    for x in range(terms.size):
        total += terms[x]
    return total


@_kernel
def published_step_rows(
    maps,
    measured,
    haadf,
    weights,
    gamma,
    lambda_haadf,
    lambda_chem,
    background,
    lambda_tv,
    n_iter_tv,
    fast,
    out,
    row_terms,
    start,
    stop,
):
    """One iteration of the published method on rows `start` to `stop`.

    The gradient step on both data terms, then the TV prox of each element; on the way
    the cost terms of the maps that came in.

    Parameters
    ----------
    maps, measured : numpy.ndarray
        x and b, shape ``(n_elements, y, x)``, float32.
    haadf : numpy.ndarray
        b_H, shape ``(y, x)``, float32.
    weights : numpy.ndarray
        w_i, shape ``(n_elements,)``, float32.
    gamma, lambda_haadf, lambda_chem, background, lambda_tv : numpy.float32
        As in :class:`~hyperspy_fusion.core.objective.PublishedObjective`.
    n_iter_tv : int
        Steps of the TV prox; 0 leaves it out.
    fast : bool
        FGP or GP.
    out : numpy.ndarray
        The new maps, shape ``(n_elements, y, x)``, float32.
    row_terms : numpy.ndarray
        Row sums of the terms (haadf, chemical, tv) of `maps`, shape ``(3, y)``,
        float64.
    start, stop : int
        The rows to write.
    """
    n_elements, n_y, n_x = maps.shape
    low = max(start - n_iter_tv, 0)
    high = min(stop + n_iter_tv, n_y)
    powers = np.empty((n_elements, _aligned(n_x)), np.float32)  # x^(γ-1)
    misfit = np.empty(n_x, np.float32)
    chemical_terms = np.empty(n_x, np.float32)
    tv_terms = np.empty(n_x, np.float32)
    stepped = np.empty((n_elements, high - low, _aligned(n_x)), np.float32)
    for y in range(low, high):
        for x in range(n_x):  # faster than a copy of slices
            misfit[x] = haadf[y, x]
            chemical_terms[x] = 0
            tv_terms[x] = 0
        for i in range(n_elements):
            _power_row(maps, i, y, gamma - np.float32(1), weights[i], powers, misfit)
        for i in range(n_elements):
            _descended_row(
                maps,
                measured,
                i,
                y,
                powers,
                misfit,
                lambda_haadf * gamma * weights[i],
                lambda_chem,
                background,
                stepped,
                y - low,
            )
        if start <= y < stop:
            for i in range(n_elements):
                _add_chemical_row(maps, measured, i, y, background, chemical_terms)
                _add_tv_row(maps, i, y, tv_terms)
            for x in range(n_x):
                misfit[x] *= misfit[x]
            row_terms[0, y] = 0.5 * _sum_row(misfit)
            row_terms[1, y] = _sum_row(chemical_terms)
            row_terms[2, y] = _sum_row(tv_terms)
    for i in range(n_elements):
        if n_iter_tv > 0:
            _tv_prox(
                stepped[i],
                lambda_tv,
                n_iter_tv,
                fast,
                start - low,
                stop - low,
                out[i, start:stop],
            )
        else:
            for y in range(start, stop):  # compiled sooner than a copy of slices
                for x in range(n_x):
                    out[i, y, x] = stepped[i, y - low, x]
