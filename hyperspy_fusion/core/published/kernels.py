"""The fused kernels of the published method: float32 state, float64 sums.

An iteration passes through memory once. Images are cut into tiles, read with a margin
as wide as the steps of the TV prox reach, so that tiles are independent and the result
does not depend on the number of threads.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..common.compilation import compilers, index
from .tv_prox import aligned, descend, forget, new_rows

# Bytes of the rows between the steps of the TV prox, which should fit the L2 cache.
_TILE_BYTES = 3 << 18
# Pixels times elements from which on another thread pays.
_LEAST_TILE = 12288
_ONE = index(1)
# Values <= _TINY are treated as 0.
_TINY = np.float32(1e-30)

_kernel, _part = compilers(fastmath=True)


class ScaledProblem(NamedTuple):
    """The published problem of images scaled to [0, 1], as the kernels take it.

    Attributes
    ----------
    measured : numpy.ndarray
        b, shape ``(n_elements, y, x)``, float32.
    haadf : numpy.ndarray
        b_H, shape ``(y, x)``, float32.
    weights : numpy.ndarray
        w_i, shape ``(n_elements,)``, float32.
    gamma, lambda_haadf, lambda_chem, epsilon : numpy.float32
        As in :class:`~hyperspy_fusion.core.published.objective.PublishedObjective`.
    """

    measured: np.ndarray
    haadf: np.ndarray
    weights: np.ndarray
    gamma: np.float32
    lambda_haadf: np.float32
    lambda_chem: np.float32
    epsilon: np.float32


class _Scratch(NamedTuple):
    """Scratch of the steps of one row of the images."""

    powers: np.ndarray  # x^(γ-1) of each element
    misfit: np.ndarray
    terms: np.ndarray  # chemical and tv


def published_tiles(
    shape: tuple[int, int, int], n_iter_tv: int, n_threads: int
) -> np.ndarray:
    """Cut maps, ``(n_elements, y, x)``, into tiles for :func:`iterate_published`.

    Each of the `n_iter_tv` steps of the TV prox widens the margin by a pixel. Returns
    first and last rows and columns of each tile, its columns with margin, and its index
    along the columns; shape ``(n_tiles, 7)``.
    """
    n_elements, n_y, n_x = shape
    # Smaller tiles would spend too much on their margins.
    least = 16 * max(n_iter_tv, 1)
    # image, two sides of the dual and x of each step
    n_bytes = 4 * 6 * n_elements * (n_iter_tv + 2)
    columns = _edges(n_x, n_x // max(_TILE_BYTES // n_bytes, least))
    # Equally many rows for each thread, if more than one pays.
    n_blocks = n_threads * max(min(n_y // (2 * n_threads * least), 4), 1)
    most = n_y // (2 * n_iter_tv + 1), n_elements * n_y * n_x // _LEAST_TILE
    rows = _edges(n_y, min(n_blocks, *most))
    return np.array(
        [
            (top, bottom, left, right, max(left - n_iter_tv, 0), end, place)
            for top, bottom in pairwise(rows)
            for place, (left, right) in enumerate(pairwise(columns))
            for end in [min(right + n_iter_tv, n_x)]
        ]
    )


def _edges(size: int, n_parts: int) -> list[int]:
    """Edges of `n_parts` parts of about the same size."""
    n_parts = max(n_parts, 1)
    return [size * i // n_parts for i in range(n_parts + 1)]


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
def _power_row(maps, i, y, begin, exponent, weight, powers, misfit):
    """Write x^(γ-1) and subtract w_i x^γ from the misfit."""
    zero = np.float32(0)
    at_zero = np.float32(1) if exponent == zero else zero
    begin, n = index(begin), index(misfit.size)
    # In two loops, whose chains of operations are short enough to overlap.
    for x in range(n):
        powers[i, x] = exponent * _log2(maps[i, y, begin + x])
    for x in range(n):
        value = maps[i, y, begin + x]
        power = _exp2(powers[i, x])
        power = power if value > _TINY else at_zero
        powers[i, x] = power
        misfit[x] -= weight * power * value


@_part
def _descended_row(maps, problem, i, y, begin, powers, misfit, out, row, place):
    """One row of an element after the gradient step on both data terms."""
    measured, epsilon = problem.measured, problem.epsilon
    lambda_chem = problem.lambda_chem
    slope = problem.lambda_haadf * problem.gamma * problem.weights[i]
    zero, one = np.float32(0), np.float32(1)
    begin, place = index(begin), index(place)
    for x in range(index(misfit.size)):
        here = maps[i, y, begin + x]
        value = (
            here
            + slope * powers[i, x] * misfit[x]
            - lambda_chem * (one - measured[i, y, begin + x] / (here + epsilon))
        )
        out[row, place + x] = max(value, zero)


@_part
def _add_terms(maps, measured, i, y, left, epsilon, chemical, tv):
    """Add x - b log(x + ε) and the lengths of the gradients to rows of terms."""
    log_of_2 = np.float32(0.6931472)
    below = min(y + 1, maps.shape[1] - 1)
    size = index(chemical.size)
    n = index(min(chemical.size, maps.shape[2] - 1 - left))
    left = index(left)
    for x in range(n):
        here = maps[i, y, left + x]
        log = log_of_2 * _log2(here + epsilon)
        chemical[x] += here - measured[i, y, left + x] * log
        down = maps[i, below, left + x] - here
        across = maps[i, y, left + x + _ONE] - here
        tv[x] += np.sqrt(down * down + across * across)
    for x in range(n, size):  # nothing is beyond the far edge
        here = maps[i, y, left + x]
        log = log_of_2 * _log2(here + epsilon)
        chemical[x] += here - measured[i, y, left + x] * log
        tv[x] += abs(maps[i, below, left + x] - here)


@_part
def _published_row(maps, problem, tile, y, scratch, values, row, row_terms):
    """Gradient step on both data terms in a row of all elements, and its cost terms."""
    measured, haadf, epsilon = problem.measured, problem.haadf, problem.epsilon
    powers, terms = scratch.powers, scratch.terms
    n_elements = maps.shape[0]
    top, bottom, left, right, begin, end = tile
    misfit = scratch.misfit[: end - begin]
    inner = right - left
    for x in range(misfit.size):  # faster than a copy of slices
        misfit[x] = haadf[y, index(begin) + index(x)]
    exponent = problem.gamma - np.float32(1)
    for i in range(n_elements):
        _power_row(maps, i, y, begin, exponent, problem.weights[i], powers, misfit)
    for i in range(n_elements):
        place = i * (end - begin + 1)
        _descended_row(maps, problem, i, y, begin, powers, misfit, values, row, place)
    if top <= y < bottom:
        chemical, tv = terms[0, :inner], terms[1, :inner]
        for x in range(inner):
            chemical[x] = 0
            tv[x] = 0
        for i in range(n_elements):
            _add_terms(maps, measured, i, y, left, epsilon, chemical, tv)
        sums = 0.0, 0.0, 0.0  # in float64
        skipped = index(left - begin)
        for x in range(index(inner)):
            square = misfit[skipped + x] * misfit[skipped + x]
            sums = sums[0] + square, sums[1] + chemical[x], sums[2] + tv[x]
        row_terms[0, y] = 0.5 * sums[0]
        row_terms[1, y] = sums[1]
        row_terms[2, y] = sums[2]


@_kernel
def iterate_published(maps, others, problem, schedule, tiles, row_terms, first, last):
    """Iterations of the published method on all tiles, or one iteration on some.

    Each is the gradient step on both data terms, then the TV prox of each element; on
    the way the cost terms of the maps at its start.

    Parameters
    ----------
    maps, others : numpy.ndarray
        x, shape ``(n_elements, y, x)``, float32: iterations go from the first to the
        second, and back.
    problem : ScaledProblem
        The problem.
    schedule : numpy.ndarray
        From :func:`~hyperspy_fusion.core.published.tv_prox.tv_schedule`; a single row
        leaves the TV prox out.
    tiles : numpy.ndarray
        From :func:`published_tiles`.
    row_terms : numpy.ndarray
        Row sums of the terms (haadf, chemical, tv), shape ``(n_iter, n_columns, 3,
        y)``, float64, with tiles that are side by side on the second axis.
    first, last : int
        The tiles to work on. If these are not all, only one iteration can be made.
    """
    n_elements, n_y, _ = maps.shape
    n_iter_tv = schedule.shape[0] - 1
    n_columns = 0
    for k in range(first, last):
        n_columns = max(n_columns, tiles[k, 5] - tiles[k, 4])
    rows = new_rows(schedule, n_elements, n_columns)
    values = rows.values
    depth = values.shape[0]
    scratch = _Scratch(
        np.empty((n_elements, aligned(n_columns)), np.float32),
        np.empty(n_columns, np.float32),
        np.empty((2, n_columns), np.float32),
    )
    for n in range(row_terms.shape[0]):
        before, after = (maps, others) if n % 2 == 0 else (others, maps)
        for k in range(first, last):
            top, bottom = tiles[k, 0], tiles[k, 1]
            tile = top, bottom, tiles[k, 2], tiles[k, 3], tiles[k, 4], tiles[k, 5]
            low, high = max(top - n_iter_tv, 0), min(bottom + n_iter_tv, n_y)
            sums = row_terms[n, tiles[k, 6]]
            forget(rows)
            for front in range(low, high + n_iter_tv + 1):
                row = front % depth
                if front < high:
                    _published_row(
                        before, problem, tile, front, scratch, values, row, sums
                    )
                descend(rows, schedule, n_elements, n_y, tile, low, high, front, after)
