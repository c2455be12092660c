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

__all__ = [
    "published_step_rows",
    "row_blocks",
    "tv_prox_rows",
    "workers",
]

# Bytes of scratch a block of rows should stay below, to live in the L2 cache.
_BLOCK_BYTES = 1 << 20

_jit = numba.njit(nogil=True, cache=True, fastmath=True)


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
    # Below four halos a block would spend more time on its surroundings than on itself.
    height = max(_BLOCK_BYTES // bytes_per_row - 2 * halo, 4 * halo, 1)
    n_blocks = -(-n_rows // height)
    edges = [n_rows * i // n_blocks for i in range(n_blocks + 1)]
    return list(pairwise(edges))


@contextmanager
def workers(num_workers=None):
    """Threads that run a kernel over blocks of rows.

    Parameters
    ----------
    num_workers : int, optional
        Number of threads; by default Numba's own setting (``NUMBA_NUM_THREADS``, or
        the number of cores).

    Yields
    ------
    callable
        ``run(kernel, blocks, *arguments)`` calls ``kernel(*arguments, start, stop)``
        for each block and returns when all are done.

    Raises
    ------
    ValueError
        If `num_workers` is below 1.
    """
    if num_workers is None:
        num_workers = numba.config.NUMBA_NUM_THREADS
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}: expected at least 1")

    def serial(kernel, blocks, *arguments):
        for start, stop in blocks:
            kernel(*arguments, start, stop)

    if num_workers == 1:
        yield serial
        return
    with ThreadPoolExecutor(num_workers) as pool:

        def threaded(kernel, blocks, *arguments):
            tasks = [pool.submit(kernel, *arguments, *block) for block in blocks]
            for task in tasks:
                task.result()

        yield threaded


@_jit
def _primal_row(values, q_y, q_x, weight, y, x_row):
    """One row of P_C(v - λ grad* q); the entry behind the end repeats the last."""
    n_x = values.shape[1]
    if y > 0:
        for x in range(n_x):
            adjoint = q_y[y - 1, x] - q_y[y, x] + q_x[y, x] - q_x[y, x + 1]
            x_row[x] = max(values[y, x] - weight * adjoint, np.float32(0))
    else:
        for x in range(n_x):
            adjoint = -q_y[y, x] + q_x[y, x] - q_x[y, x + 1]
            x_row[x] = max(values[y, x] - weight * adjoint, np.float32(0))
    x_row[n_x] = x_row[n_x - 1]


@_jit
def _tv_prox(values, weight, n_iter, fast, start, stop, out):
    """Rows `start` to `stop` of the TV prox of `values`, written to `out` from row 0.

    Gradient projection on the dual p, with momentum (q is the extrapolated dual) where
    `fast`. Column x of q_x stands at x + 1, behind a column of zeros.
    """
    n_y, n_x = values.shape
    step = np.float32(1) / (np.float32(8) * weight)
    one = np.float32(1)
    p_y = np.zeros((n_y, n_x), np.float32)
    p_x = np.zeros((n_y, n_x + 1), np.float32)
    q_y = np.zeros((n_y, n_x), np.float32)
    q_x = np.zeros((n_y, n_x + 1), np.float32)
    here = np.empty(n_x + 1, np.float32)
    below = np.empty(n_x + 1, np.float32)
    t = 1.0
    for _ in range(n_iter):
        t_next = (1.0 + np.sqrt(1.0 + 4.0 * t * t)) / 2.0
        momentum = np.float32((t - 1.0) / t_next if fast else 0.0)
        t = t_next
        _primal_row(values, q_y, q_x, weight, 0, below)
        for y in range(n_y):
            here, below = below, here
            if y + 1 < n_y:
                _primal_row(values, q_y, q_x, weight, y + 1, below)
            else:
                below[:] = here  # no difference across the far edge
            for x in range(n_x):
                new_y = q_y[y, x] + step * (below[x] - here[x])
                new_x = q_x[y, x + 1] + step * (here[x + 1] - here[x])
                scale = one / max(one, np.sqrt(new_y * new_y + new_x * new_x))
                new_y *= scale
                new_x *= scale
                q_y[y, x] = new_y + momentum * (new_y - p_y[y, x])
                q_x[y, x + 1] = new_x + momentum * (new_x - p_x[y, x + 1])
                p_y[y, x] = new_y
                p_x[y, x + 1] = new_x
    for y in range(start, stop):
        _primal_row(values, p_y, p_x, weight, y, here)
        out[y - start] = here[:n_x]


@_jit
def tv_prox_rows(values, weight, n_iter, fast, out, start, stop):
    """Write rows `start` to `stop` of the TV prox of an image to `out`.

    Parameters
    ----------
    values : numpy.ndarray
        The image, shape ``(y, x)``, float32.
    weight : numpy.float32
        λ > 0, in the units of the image.
    n_iter : int
        Steps, each of which reaches one row further.
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


@_jit
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
    exponent = gamma - np.float32(1)
    powers = np.empty((n_elements, high - low, n_x), np.float32)  # x^(γ-1)
    misfit = haadf[low:high].copy()
    for i in range(n_elements):
        weight = weights[i]
        for y in range(low, high):
            for x in range(n_x):
                power = maps[i, y, x] ** exponent
                powers[i, y - low, x] = power
                misfit[y - low, x] -= weight * power * maps[i, y, x]

    for y in range(start, stop):
        haadf_sum = 0.0
        for x in range(n_x):
            haadf_sum += np.float64(misfit[y - low, x]) ** 2
        chemical_sum = 0.0
        tv_sum = 0.0
        below = min(y + 1, n_y - 1)
        for i in range(n_elements):
            for x in range(n_x):
                here = maps[i, y, x]
                chemical_sum += here - measured[i, y, x] * np.log(here + background)
                right = min(x + 1, n_x - 1)
                down = maps[i, below, x] - here
                across = maps[i, y, right] - here
                tv_sum += np.sqrt(down * down + across * across)
        row_terms[0, y] = 0.5 * haadf_sum
        row_terms[1, y] = chemical_sum
        row_terms[2, y] = tv_sum

    stepped = np.empty((high - low, n_x), np.float32)
    for i in range(n_elements):
        slope = lambda_haadf * gamma * weights[i]
        for y in range(low, high):
            for x in range(n_x):
                value = (
                    maps[i, y, x]
                    + slope * powers[i, y - low, x] * misfit[y - low, x]
                    - lambda_chem
                    + lambda_chem * measured[i, y, x] / (maps[i, y, x] + background)
                )
                stepped[y - low, x] = max(value, np.float32(0))
        if n_iter_tv > 0:
            _tv_prox(
                stepped,
                lambda_tv,
                n_iter_tv,
                fast,
                start - low,
                stop - low,
                out[i, start:stop],
            )
        else:
            out[i, start:stop] = stepped
