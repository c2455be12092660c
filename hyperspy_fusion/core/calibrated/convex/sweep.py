r"""One primal-dual iteration of joint TGV or TV in a single sweep down the rows.

A sweep makes the primal step of row y. As soon as its extrapolated maps are known, it
makes the dual steps that need no further row: of p in the row above, which takes
differences downward, and of q in row y, which takes them upward. Extrapolated rows
live in scratch memory only, so that each array is read and written once an iteration.

Blocks of rows are swept independently. The dual rows with differences across the
border of two blocks follow when all blocks are done (:func:`join`), so that the result
depends neither on the blocks nor on the threads.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...common.compilation import compilers, index, section
from .prox import prox_of_one, prox_of_several, seen

# Columns at a time, so that their scratch stays in the cache and Newton's method ends
# early where it can. With 256, long rows take 20 % longer.
_CHUNK = index(1024)
_ONE = index(1)
# Smaller numbers are treated as 0: their squares would be subnormal, and slow.
_TINY = np.float32(1e-18)

_kernel, _part = compilers(fastmath=True, make_arrays=False)
_section = section(fastmath=True)


class State(NamedTuple):
    """Variables of the iteration, updated in place; float32 but for the flux.

    Attributes
    ----------
    u : numpy.ndarray
        Scaled maps, shape ``(n_elements, y, x)``.
    v : numpy.ndarray
        Slopes, shape ``(2, n_elements, y, x)``.
    p, q : numpy.ndarray
        Duals of gradient and symmetrised gradient, shapes ``(2, n_elements, y, x)``
        and ``(3, n_elements, y, x)``.
    haadf_dual : numpy.ndarray
        Dual s of the term of each elastic image, that of HAADF first; of the image in
        its unit, shape ``(n_images, y, x)``.
    flux_dual : numpy.ndarray
        Multiplier of the flux lock, shape ``(n_elements,)``, float64.
    """

    u: np.ndarray
    v: np.ndarray
    p: np.ndarray
    q: np.ndarray
    haadf_dual: np.ndarray
    flux_dual: np.ndarray


class Scaled(NamedTuple):
    """A problem in u, the scaled maps; float32.

    Attributes
    ----------
    data : numpy.ndarray
        Counts with pedestal (below zero where missing), or scaled values, shape
        ``(n_elements, y, x)``.
    precision : numpy.ndarray
        Inverse variance of scaled values; only read for the Gaussian term.
    poisson : bool
        Poisson or Gaussian data term.
    rate : numpy.ndarray
        Slope of the Poisson term, shape ``(n_elements,)``.
    offset : numpy.ndarray
        e, background and pedestal, shape ``(n_elements, 1, 1)`` or that of the maps.
    haadf, haadf_weight : numpy.ndarray
        h of each elastic image without offset, that of HAADF first, and its weight w,
        shape ``(n_images, y, x)``; in a unit that makes s of the order of 1.
    coefficients : numpy.ndarray
        k_ji >= 0, shape ``(n_images, n_elements)``.
    """

    data: np.ndarray
    precision: np.ndarray
    poisson: bool
    rate: np.ndarray
    offset: np.ndarray
    haadf: np.ndarray
    haadf_weight: np.ndarray
    coefficients: np.ndarray


class Steps(NamedTuple):
    """Steps of the iteration, and bounds of its duals.

    Attributes
    ----------
    u, v, p, q : numpy.float32
        Steps of the arrays of these names.
    alpha : numpy.float32
        Largest norm of q.
    second_order : bool
        TGV; with TV `v` and `q` are not touched.
    order, ends : numpy.ndarray
        Elements in the order of their norms, and whether a norm ends with each, shape
        ``(n_elements,)``.
    flux : numpy.ndarray
        Sums of u to keep, shape ``(n_elements,)``, float64.
    flux_dual : numpy.ndarray
        Dual steps of the flux lock, 0 where the flux is free, shape ``(n_elements,)``,
        float64.
    """

    u: np.float32
    v: np.float32
    p: np.float32
    q: np.float32
    alpha: np.float32
    second_order: bool
    order: np.ndarray
    ends: np.ndarray
    flux: np.ndarray
    flux_dual: np.ndarray


class _Scratch(NamedTuple):
    """Rows of numbers that the steps of a sweep share."""

    offset: np.ndarray  # of each element
    target: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    dual: np.ndarray  # of each image
    change: np.ndarray
    model: np.ndarray
    response: np.ndarray  # of each two images
    matrix: np.ndarray
    combined: np.ndarray  # of one row
    norm: np.ndarray
    padded: np.ndarray
    new: np.ndarray  # of three components
    bars: np.ndarray  # two rows of extrapolated u, v_y and v_x, with a margin


def empty_seams(n_blocks: int, n_elements: int, n_x: int) -> np.ndarray:
    """Memory for the extrapolated rows on either side of each border of blocks.

    Shape ``(n_blocks, 2, 3, n_elements, x + 2)``: the first and the last row of each
    block, of u, v_y and v_x.
    """
    return np.zeros((n_blocks, 2, 3, n_elements, n_x + 2), np.float32)


@_part
def _flushed(number):
    return number if abs(number) > _TINY else np.float32(0)


@_part
def _targets(u, p, i, y, a, n, tau, padded, target):
    """Row of u - τ grad* p; p_y[-1], above the first row, is 0."""
    padded[0] = p[1, i, y, a - _ONE] if a > 0 else np.float32(0)
    for x in range(n):
        padded[x + _ONE] = p[1, i, y, a + x]
    for x in range(n):
        adjoint = p[0, i, y - 1, a + x] - p[0, i, y, a + x]
        adjoint += padded[x] - padded[x + _ONE]
        target[i, x] = u[i, y, a + x] - tau * adjoint


@_part
def _finish_maps(u, scaled, i, y, a, n, relaxation, scratch, bars):
    """Extrapolate and relax; returns the sum of the extrapolated measured pixels."""
    value, two = scratch.value, np.float32(2)
    for x in range(n):
        old, new = u[i, y, a + x], value[i, x]
        bars[0, i, a + x + _ONE] = two * new - old
        u[i, y, a + x] = _flushed(old + relaxation * (new - old))
    data, precision, zero = scaled.data, scaled.precision, np.float32(0)
    total = 0.0  # float64
    if scaled.poisson:
        for x in range(n):
            total += bars[0, i, a + x + _ONE] if data[i, y, a + x] >= zero else zero
    else:
        for x in range(n):
            measured = precision[i, y, a + x] > zero
            total += bars[0, i, a + x + _ONE] if measured else zero
    return total


@_part
def _step_slopes(v, p, q, i, y, a, n, tau, relaxation, padded, bars):
    """Primal step v - τ (E* q - p), zero where the gradient takes no difference."""
    n_x = index(p.shape[3])
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    b = a + n
    first, last = y == 0, y + 1 == p.shape[2]
    below = y if last else y + 1
    from_here = zero if first else one
    from_below = zero if last else one
    for x in range(n):
        padded[x] = q[2, i, y, a + x]
    padded[n] = q[2, i, y, b] if b < n_x else zero
    if a == 0:
        padded[0] = zero
    for x in range(n):
        field = q[0, i, y, a + x] - q[0, i, below, a + x] - p[0, i, y, a + x]
        field += padded[x] - padded[x + _ONE]
        old = v[0, i, y, a + x]
        change = -tau * from_below * field
        bars[1, i, a + x + _ONE] = old + two * change
        v[0, i, y, a + x] = _flushed(old + relaxation * change)
    for x in range(n):
        padded[x] = q[1, i, y, a + x]
    padded[n] = q[1, i, y, b] if b < n_x else zero
    for x in range(n):
        field = padded[x] - padded[x + _ONE] - p[1, i, y, a + x]
        field += from_here * q[2, i, y, a + x] - from_below * q[2, i, below, a + x]
        old = v[1, i, y, a + x]
        change = -tau * field
        bars[2, i, a + x + _ONE] = old + two * change
        v[1, i, y, a + x] = _flushed(old + relaxation * change)
    if b == n_x:
        bars[2, i, b] = zero
        v[1, i, y, b - _ONE] = zero


@_part
def _gradient_norm(p, i, y, a, n, here, below, sigma, new, norm):
    for x in range(n):
        c = a + x + _ONE
        u = here[0, i, c]
        along_y = p[0, i, y, a + x] + sigma * (below[0, i, c] - u - here[1, i, c])
        along_x = p[1, i, y, a + x] + sigma * (here[0, i, c + _ONE] - u - here[2, i, c])
        new[0, i, x] = along_y
        new[1, i, x] = along_x
        norm[x] += along_y * along_y + along_x * along_x


@_part
def _bend_norm(q, i, y, a, n, from_above, above, here, sigma, new, norm):
    half, two = np.float32(0.5), np.float32(2)
    for x in range(n):
        c = a + x + _ONE
        v_y, v_x = here[1, i, c], here[2, i, c]
        y_y = q[0, i, y, a + x] + sigma * (v_y - from_above * above[1, i, c])
        x_x = q[1, i, y, a + x] + sigma * (v_x - here[2, i, c - _ONE])
        mixed = v_y - here[1, i, c - _ONE] + from_above * (v_x - above[2, i, c])
        mixed = q[2, i, y, a + x] + half * sigma * mixed
        new[0, i, x] = y_y
        new[1, i, x] = x_x
        new[2, i, x] = mixed
        norm[x] += y_y * y_y + x_x * x_x + two * mixed * mixed


@_part
def _project(dual, order, begin, end, y, a, n, largest, relaxation, new, norm):
    """Scale vectors of some elements down to the largest norm allowed, and relax."""
    for x in range(n):
        norm[x] = largest / np.sqrt(max(largest * largest, norm[x]))
    for k in range(dual.shape[0]):
        for m in range(begin, end):
            i = order[m]
            for x in range(n):
                old = dual[k, i, y, a + x]
                change = new[k, i, x] * norm[x] - old
                dual[k, i, y, a + x] = _flushed(old + relaxation * change)
    for x in range(n):
        norm[x] = np.float32(0)


@_part
def _step_gradient_dual(p, y, a, n, here, below, steps, relaxation, scratch):
    """Dual step of p in row y, from the extrapolated rows."""
    new, norm, order = scratch.new, scratch.norm, steps.order
    begin = index(0)
    for k in range(order.size):
        _gradient_norm(p, order[k], y, a, n, here, below, steps.p, new, norm)
        if steps.ends[k]:
            end = index(k + 1)
            _project(
                p, order, begin, end, y, a, n, np.float32(1), relaxation, new, norm
            )
            begin = end


@_part
def _step_bend_dual(q, y, a, n, above, here, steps, relaxation, scratch):
    """Dual step of q in row y, from the extrapolated rows."""
    new, norm, order = scratch.new, scratch.norm, steps.order
    from_above = np.float32(1 if y > 0 else 0)
    begin = index(0)
    for k in range(order.size):
        _bend_norm(q, order[k], y, a, n, from_above, above, here, steps.q, new, norm)
        if steps.ends[k]:
            end = index(k + 1)
            _project(q, order, begin, end, y, a, n, steps.alpha, relaxation, new, norm)
            begin = end


@_part
def _copy_row(bars, seam):
    """Copy the extrapolated row, number by number.

    An assignment of arrays takes Numba seconds to compile, with its error handling.
    """
    for k in range(bars.shape[0]):
        for i in range(bars.shape[1]):
            for x in range(bars.shape[2]):
                seam[k, i, x] = bars[k, i, x]


@_section
def _sweep(several, state, scaled, steps, relaxation, row_sums, seam, rows, scratch):
    """One iteration on a block of rows, in place, without its seams."""
    start, stop = rows
    u, v, p, q = state.u, state.v, state.p, state.q
    n_elements, n_y, n_x = u.shape
    columns = index(n_x)
    offset, own_offset = scaled.offset, scratch.offset
    padded, target = scratch.padded, scratch.target
    mapped = offset.size > n_elements
    pulled = seen(scaled.coefficients, 0)
    for i in range(1, n_elements):
        pulled = pulled or seen(scaled.coefficients, i)
    for y in range(start, stop):
        first = y == start
        here, above = scratch.bars[y % 2], scratch.bars[1 - y % 2]
        for i in range(n_elements):
            row_sums[i, y] = 0
        for a in range(index(0), columns, _CHUNK):
            n = min(_CHUNK, columns - a)
            for i in range(n_elements):
                _targets(u, p, i, y, a, n, steps.u, padded, target)
                if mapped:
                    for x in range(n):
                        own_offset[i, x] = offset[i, y, a + x]
            if several:
                prox_of_several(state, scaled, steps, pulled, y, a, n, scratch)
            else:
                prox_of_one(state, scaled, steps, pulled, y, a, n, scratch)
            for i in range(n_elements):
                row_sums[i, y] += _finish_maps(
                    u, scaled, i, y, a, n, relaxation, scratch, here
                )
                # zeros beyond both ends of a row
                here[0, i, n_x + 1] = here[0, i, n_x]
                if steps.second_order:
                    _step_slopes(v, p, q, i, y, a, n, steps.v, relaxation, padded, here)
                    here[1, i, 0] = here[1, i, 1]
            if not first:
                _step_gradient_dual(
                    p, y - 1, a, n, above, here, steps, relaxation, scratch
                )
            if steps.second_order and (not first or y == 0):
                _step_bend_dual(q, y, a, n, above, here, steps, relaxation, scratch)
        if y == n_y - 1:
            for a in range(index(0), columns, _CHUNK):
                n = min(_CHUNK, columns - a)
                _step_gradient_dual(p, y, a, n, here, here, steps, relaxation, scratch)
        if first:
            _copy_row(here, seam[0])
        if y == stop - 1:
            _copy_row(here, seam[1])


@_part
def _join(state, steps, relaxation, edges, row_sums, seams, scratch):
    """Dual rows with differences across the borders of blocks, and the flux lock."""
    columns = index(state.u.shape[2])
    for block in range(1, edges.size - 1):
        y = edges[block]
        above, here = seams[block - 1, 1], seams[block, 0]
        for a in range(index(0), columns, _CHUNK):
            n = min(_CHUNK, columns - a)
            _step_gradient_dual(
                state.p, y - 1, a, n, above, here, steps, relaxation, scratch
            )
            if steps.second_order:
                _step_bend_dual(
                    state.q, y, a, n, above, here, steps, relaxation, scratch
                )
    for i in range(state.flux_dual.size):
        total = 0.0
        for y in range(row_sums.shape[1]):
            total += row_sums[i, y]
        excess = total - steps.flux[i]
        state.flux_dual[i] += relaxation * steps.flux_dual[i] * excess


@_section
def _scratch(n_elements, n_images, n_x):
    """Scratch of a sweep over rows of `n_x` pixels."""
    chunk, images = (n_elements, _CHUNK), (n_images, _CHUNK)
    return _Scratch(
        np.empty(chunk, np.float32),
        np.empty(chunk, np.float32),
        np.empty(chunk, np.float32),
        np.empty(chunk, np.float32),
        np.zeros(images, np.float32),
        np.zeros(images, np.float32),
        np.zeros(images, np.float32),
        np.zeros((n_images, n_images, _CHUNK), np.float32),
        np.empty((n_images, n_images, _CHUNK), np.float32),
        np.empty((1, _CHUNK), np.float32),
        np.zeros(_CHUNK, np.float32),
        np.empty(_CHUNK + _ONE, np.float32),
        np.empty((3, n_elements, _CHUNK), np.float32),
        np.zeros((2, 3, n_elements, n_x + 2), np.float32),
    )


@_section
def _scratch_of(state, scaled):
    """Scratch of an iteration, with the offsets that are the same in all pixels."""
    n_elements, _, n_x = state.u.shape
    scratch = _scratch(n_elements, state.haadf_dual.shape[0], n_x)
    for i in range(n_elements):
        scratch.offset[i] = scaled.offset[i, 0, 0]
    return scratch


def _advance(*, several: bool) -> Callable:
    """Part of the kernels of :func:`iterate` that does all but make its scratch."""

    @_part
    def advance(
        scratch,
        state,
        scaled,
        steps,
        relaxation,
        last_relaxation,
        n_iter,
        edges,
        row_sums,
        seams,
        first,
        last,
    ):
        for k in range(n_iter):
            now = last_relaxation if k == n_iter - 1 else relaxation
            for block in range(first, last):
                rows, seam = (edges[block], edges[block + 1]), seams[block]
                _sweep(
                    several, state, scaled, steps, now, row_sums, seam, rows, scratch
                )
            if last - first == edges.size - 1:
                _join(state, steps, now, edges, row_sums, seams, scratch)

    return advance


_advance_one, _advance_several = _advance(several=False), _advance(several=True)


# Not from a factory: Numba cannot find a kernel in its cache whose closure has a part.
@_kernel
def _iterate_one(state, scaled, *task):
    _advance_one(_scratch_of(state, scaled), state, scaled, *task)


@_kernel
def _iterate_several(state, scaled, *task):
    _advance_several(_scratch_of(state, scaled), state, scaled, *task)


def iterate(state: State, *arguments: Any) -> None:
    """Iterations on all blocks of rows, or the sweep of one iteration on some blocks.

    Each of the two kernels is compiled when it is needed.

    Parameters
    ----------
    state, scaled, steps : State, Scaled and Steps
        Variables, updated in place, and the problem.
    relaxation, last_relaxation : numpy.float32
        Over-relaxation, and that of the last iteration.
    n_iter : int
        Number of iterations.
    edges : numpy.ndarray
        First row of each block, and the number of rows.
    row_sums : numpy.ndarray
        Row sums of the extrapolated u over measured pixels, shape ``(n_elements, y)``,
        float64, written.
    seams : numpy.ndarray
        From :func:`empty_seams`, written.
    first, last : int
        The blocks to sweep. If these are not all, `n_iter` must be 1, and :func:`join`
        has to follow when all blocks are done.
    """
    kernel = _iterate_one if len(state.haadf_dual) == 1 else _iterate_several
    kernel(state, *arguments)


@_kernel
def join(state, steps, relaxation, edges, row_sums, seams):
    """End an iteration whose blocks were swept one by one; see :func:`iterate`."""
    scratch = _scratch(state.u.shape[0], 1, 1)
    _join(state, steps, relaxation, edges, row_sums, seams, scratch)
