r"""One primal-dual iteration of joint TGV or TV in a single sweep down the rows.

A sweep takes the primal step of row y and, as soon as its extrapolated maps are known,
the dual step of the rows that need no more than them: of p in the row above, which
looks down, and of q in row y, which looks up. The extrapolated rows live in scratch
memory alone, so that each array is read and written once an iteration.

Blocks of rows are swept independently of each other. The dual rows that look across
the border of two blocks follow when all are done, so that neither the blocks nor the
threads leave a trace in the result.
"""

from itertools import pairwise

import numpy as np

from .threads import compilers, give_back, next_task

__all__ = ["blocks_of", "empty_seams", "iterate", "refine_rows"]

# Columns that are worked on at a time, so that their scratch stays in the cache and
# Newton's method goes on only where it has to. With fewer, long rows take longer: 20 %
# with 256.
_CHUNK = np.uintp(1024)
_ONE = np.uintp(1)  # columns count without sign: no index may be one from the end
# Pixels times elements that are worth a thread's while, and the most blocks.
_LEAST_BLOCK = 12288
_MOST_BLOCKS = 32
# The step of the tension that is small enough for the prox to be linear in it.
_NEWTON = np.float32(1e-2)
_NEWTON_STEPS = 30
# Smaller numbers are taken for 0: their squares would be subnormal, and slow.
_TINY = np.float32(1e-18)
_LEAST_SQUARE = np.float32(1e-30)

_kernel, _part = compilers(fastmath=True)


def blocks_of(shape):
    """Cut maps into blocks of rows, in a way that depends on their shape alone.

    Parameters
    ----------
    shape : tuple of int
        ``(n_elements, y, x)``.

    Returns
    -------
    list of tuple of int
        ``(start, stop)`` of each block: all of the same height but for the last.
    """
    n_elements, n_y, n_x = shape
    wanted = max(n_elements * n_y * n_x // _LEAST_BLOCK, 1)
    n_blocks = min(1 << wanted.bit_length() - 1, _MOST_BLOCKS)
    height = -(-n_y // n_blocks)
    return list(pairwise([*range(0, n_y, height), n_y]))


def empty_seams(blocks, n_elements, n_x):
    """Room for the extrapolated rows on either side of each border of blocks.

    Shape ``(n_blocks, 2, 3, n_elements, x + 2)``: the first and the last row of each
    block, of u, v_y and v_x.
    """
    return np.zeros((len(blocks), 2, 3, n_elements, n_x + 2), np.float32)


@_part
def _flushed(number):
    return number if abs(number) > _TINY else np.float32(0)


@_part
def _targets(u, p, i, y, a, n, tau, flux_dual, padded, target):
    """Row of u - τ (grad* p + flux multiplier); p_y[-1], above the first row, is 0."""
    padded[0] = p[1, i, y, a - _ONE] if a > 0 else np.float32(0)
    for x in range(n):
        padded[x + _ONE] = p[1, i, y, a + x]
    for x in range(n):
        adjoint = p[0, i, y - 1, a + x] - p[0, i, y, a + x]
        adjoint += padded[x] - padded[x + _ONE]
        target[i, x] = u[i, y, a + x] - tau * (flux_dual + adjoint)


@_part
def _poisson_prox(
    target, data, offset, tension, i, y, a, n, tau, rate, pull, value, slope
):
    """Prox of τ (rate u - b log(u + e)) over u >= 0 along a row, and its derivative.

    Data below zero mark a missing pixel, which has no such term.
    """
    zero, half = np.float32(0), np.float32(0.5)
    four_tau = np.float32(4) * tau
    push = tau * rate
    for x in range(n):
        b = data[i, y, a + x]
        t = target[i, x] - (push if b >= zero else zero) - pull * tension[x]
        t += offset[i, x]
        root = np.sqrt(t * t + four_tau * max(b, zero) + _LEAST_SQUARE)
        u = half * (t + root) - offset[i, x]
        value[i, x] = max(u, zero)
        slope[i, x] = half + half * t / root if u > zero else zero


@_part
def _gaussian_prox(
    target, data, precision, tension, i, y, a, n, tau, pull, value, slope
):
    """Prox of τ precision (u - b)^2 / 2 over u >= 0 along a row, and its derivative."""
    zero, one = np.float32(0), np.float32(1)
    for x in range(n):
        weight = tau * precision[i, y, a + x]
        shrink = one / (one + weight)
        u = (target[i, x] - pull * tension[x] + weight * data[i, y, a + x]) * shrink
        value[i, x] = max(u, zero)
        slope[i, x] = shrink if u > zero else zero


@_part
def _add_response(value, slope, i, n, coefficient, pull, model, response):
    for x in range(n):
        model[x] += coefficient * value[i, x]
        response[x] += coefficient * pull * slope[i, x]


@_part
def _newton_step(haadf, weight, y, a, n, model, response, tension, step):
    """Newton step of the tension; returns whether it is small all along the row."""
    zero, one = np.float32(0), np.float32(1)
    # Two loops: one that writes to all of these arrays is not vectorised.
    for x in range(n):
        w = weight[y, a + x]
        pull = tension[x] + w * (haadf[y, a + x] - model[x])
        step[x] = pull / (one + w * response[x])
    excess = zero  # a sum, since a largest one is not vectorised either
    for x in range(n):
        old, change = tension[x], step[x]
        excess += max(abs(change) - _NEWTON * (one + abs(old)), zero)
        tension[x] = old - change
        model[x] = zero
        response[x] = zero
    return excess == zero


@_part
def _finish_maps(u, value, slope, step, i, y, a, n, pull, relaxation, slot, bars):
    """Correct the prox, extrapolate and relax; returns the sum of the extrapolated."""
    zero, two = np.float32(0), np.float32(2)
    for x in range(n):
        old = u[i, y, a + x]
        new = max(value[i, x] + pull * slope[i, x] * step[x], zero)
        bar = two * new - old
        bars[slot, 0, i, a + x + _ONE] = bar
        u[i, y, a + x] = _flushed(old + relaxation * (new - old))
    total = 0.0  # float64
    for x in range(n):
        total += bars[slot, 0, i, a + x + _ONE]
    return total


@_part
def _step_slopes(v, p, q, i, y, a, n, tau, relaxation, padded, slot, bars):
    """Primal step v - τ (E* q - p), zero where the gradient takes no difference."""
    n_x = np.uintp(p.shape[3])
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
        bars[slot, 1, i, a + x + _ONE] = old + two * change
        v[0, i, y, a + x] = _flushed(old + relaxation * change)
    for x in range(n):
        padded[x] = q[1, i, y, a + x]
    padded[n] = q[1, i, y, b] if b < n_x else zero
    for x in range(n):
        field = padded[x] - padded[x + _ONE] - p[1, i, y, a + x]
        field += from_here * q[2, i, y, a + x] - from_below * q[2, i, below, a + x]
        old = v[1, i, y, a + x]
        change = -tau * field
        bars[slot, 2, i, a + x + _ONE] = old + two * change
        v[1, i, y, a + x] = _flushed(old + relaxation * change)
    if b == n_x:
        bars[slot, 2, i, b] = zero
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
def _project(dual, y, a, n, largest, relaxation, new, norm):
    """Scale the norms down to the largest one, relax."""
    for x in range(n):
        norm[x] = largest / np.sqrt(max(largest * largest, norm[x]))
    for k in range(dual.shape[0]):
        for i in range(dual.shape[1]):
            for x in range(n):
                old = dual[k, i, y, a + x]
                change = new[k, i, x] * norm[x] - old
                dual[k, i, y, a + x] = _flushed(old + relaxation * change)
    for x in range(n):
        norm[x] = np.float32(0)


@_part
def _step_gradient_dual(p, y, a, n, here, below, sigma, relaxation, new, norm):
    """Dual step of p in row y, from the extrapolated rows."""
    for i in range(p.shape[1]):
        _gradient_norm(p, i, y, a, n, here, below, sigma, new, norm)
    _project(p, y, a, n, np.float32(1), relaxation, new, norm)


@_part
def _step_bend_dual(q, y, a, n, above, here, sigma, alpha, relaxation, new, norm):
    """Dual step of q in row y, from the extrapolated rows."""
    from_above = np.float32(1 if y > 0 else 0)
    for i in range(q.shape[1]):
        _bend_norm(q, i, y, a, n, from_above, above, here, sigma, new, norm)
    _project(q, y, a, n, alpha, relaxation, new, norm)


@_part
def _copy_row(bars, seam):
    """Copy the extrapolated row, number by number.

    Numba needs seconds to compile an assignment of arrays, with the errors it may meet.
    """
    for k in range(bars.shape[0]):
        for i in range(bars.shape[1]):
            for x in range(bars.shape[2]):
                seam[k, i, x] = bars[k, i, x]


@_part
def _sweep(
    u,
    v,
    p,
    q,
    flux_dual,
    tension,
    data,
    precision,
    poisson,
    rate,
    offset,
    haadf,
    haadf_weight,
    coefficients,
    tau_u,
    tau_v,
    sigma_p,
    sigma_q,
    alpha,
    relaxation,
    second_order,
    row_sums,
    seams,
    block,
    start,
    stop,
    offsets,
    targets,
    values,
    slopes,
    s,
    steps,
    model,
    response,
    padded,
    bars,
    new,
    norm,
):
    """One iteration on a block of rows, in place, but for its seams."""
    n_elements, n_y, n_x = u.shape
    columns = np.uintp(n_x)
    zero = np.float32(0)
    mapped = offset.size > n_elements
    pulled = False
    for i in range(n_elements):
        pulled = pulled or coefficients[i] > zero
    for y in range(start, stop):
        first = y == start
        slot = y % 2
        here, above = bars[slot], bars[1 - slot]
        for i in range(n_elements):
            row_sums[i, y] = 0
        for a in range(np.uintp(0), columns, _CHUNK):
            n = min(_CHUNK, columns - a)
            for i in range(n_elements):
                multiplier = np.float32(flux_dual[i])
                _targets(u, p, i, y, a, n, tau_u, multiplier, padded, targets)
                if mapped:
                    for x in range(n):
                        offsets[i, x] = offset[i, y, a + x]
            if pulled:
                for x in range(n):
                    s[x] = tension[y, a + x]
            for trial in range(_NEWTON_STEPS):
                for i in range(n_elements):
                    pull = tau_u * coefficients[i]
                    if trial > 0 and pull == zero:
                        continue
                    if poisson:
                        _poisson_prox(
                            targets,
                            data,
                            offsets,
                            s,
                            i,
                            y,
                            a,
                            n,
                            tau_u,
                            rate[i],
                            pull,
                            values,
                            slopes,
                        )
                    else:
                        _gaussian_prox(
                            targets,
                            data,
                            precision,
                            s,
                            i,
                            y,
                            a,
                            n,
                            tau_u,
                            pull,
                            values,
                            slopes,
                        )
                    _add_response(
                        values, slopes, i, n, coefficients[i], pull, model, response
                    )
                if not pulled or _newton_step(
                    haadf, haadf_weight, y, a, n, model, response, s, steps
                ):
                    break
            if pulled:
                for x in range(n):
                    tension[y, a + x] = s[x]
            for i in range(n_elements):
                pull = tau_u * coefficients[i]
                row_sums[i, y] += _finish_maps(
                    u, values, slopes, steps, i, y, a, n, pull, relaxation, slot, bars
                )
                # the differences at the edges of a row find nothing beyond it
                bars[slot, 0, i, n_x + 1] = bars[slot, 0, i, n_x]
                if second_order:
                    _step_slopes(
                        v, p, q, i, y, a, n, tau_v, relaxation, padded, slot, bars
                    )
                    bars[slot, 1, i, 0] = bars[slot, 1, i, 1]
            if not first:
                _step_gradient_dual(
                    p, y - 1, a, n, above, here, sigma_p, relaxation, new, norm
                )
            if second_order and (not first or y == 0):
                _step_bend_dual(
                    q, y, a, n, above, here, sigma_q, alpha, relaxation, new, norm
                )
        if y == n_y - 1:
            for a in range(np.uintp(0), columns, _CHUNK):
                n = min(_CHUNK, columns - a)
                _step_gradient_dual(
                    p, y, a, n, here, here, sigma_p, relaxation, new, norm
                )
        if first:
            _copy_row(here, seams[block, 0])
        if y == stop - 1:
            _copy_row(here, seams[block, 1])


@_part
def _step_seam(
    p, q, sigma_p, sigma_q, alpha, relaxation, second_order, seams, block, y, new, norm
):
    """The dual rows on either side of the border above a block that starts at `y`."""
    columns = np.uintp(p.shape[3])
    above, here = seams[block - 1, 1], seams[block, 0]
    for a in range(np.uintp(0), columns, _CHUNK):
        n = min(_CHUNK, columns - a)
        _step_gradient_dual(p, y - 1, a, n, above, here, sigma_p, relaxation, new, norm)
        if second_order:
            _step_bend_dual(
                q, y, a, n, above, here, sigma_q, alpha, relaxation, new, norm
            )


@_part
def _step_flux(flux_dual, row_sums, flux, step):
    """Dual step of the flux lock."""
    for i in range(flux_dual.size):
        total = 0.0
        for y in range(row_sums.shape[1]):
            total += row_sums[i, y]
        flux_dual[i] += step * (total - flux[i])


@_kernel
def iterate(
    u,
    v,
    p,
    q,
    flux_dual,
    tension,
    data,
    precision,
    poisson,
    rate,
    offset,
    haadf,
    haadf_weight,
    coefficients,
    tau_u,
    tau_v,
    sigma_p,
    sigma_q,
    alpha,
    second_order,
    flux,
    flux_step,
    relaxation,
    last_relaxation,
    n_iter,
    edges,
    row_sums,
    seams,
    tickets,
):
    r"""Some iterations, in place, by all threads that call it with the same arguments.

    In each pixel the exact joint prox of the data terms of all elements and of the
    HAADF term :math:`\tfrac{w}{2} (h - \sum_i k_i u_i)^2`: its dual s solves
    :math:`s + w (h - \sum_i k_i u_i(s)) = 0`, whose left side is increasing and
    concave in s, so that Newton's method converges from anywhere.

    Parameters
    ----------
    u, v, p, q : numpy.ndarray
        Scaled maps, slopes, duals of the gradient and of the symmetrised gradient,
        shapes ``(n_elements, y, x)``, and that after 2, 2 and 3; float32.
    flux_dual : numpy.ndarray
        Multiplier of the flux lock in each pixel, shape ``(n_elements,)``, float64.
    tension : numpy.ndarray
        s, shape ``(y, x)``: warm start, updated.
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
        e, shape ``(n_elements, 1, 1)`` or that of the maps.
    haadf, haadf_weight : numpy.ndarray
        h without offset and its weight w, shape ``(y, x)``; in a unit that makes s
        of the order of 1.
    coefficients : numpy.ndarray
        k_i >= 0, shape ``(n_elements,)``.
    tau_u, tau_v, sigma_p, sigma_q : numpy.float32
        Steps.
    alpha : numpy.float32
        Largest norm of q.
    second_order : bool
        TGV; else `v` and `q` are not touched.
    flux : numpy.ndarray
        Sums of u to keep, shape ``(n_elements,)``, float64.
    flux_step : float
        Dual step of the flux lock, 0 without one; float64.
    relaxation, last_relaxation : numpy.float32
        Over-relaxation, and that of the last iteration.
    n_iter : int
        Number of iterations.
    edges : numpy.ndarray
        First rows of the blocks of :func:`blocks_of`, and the number of rows.
    row_sums : numpy.ndarray
        Row sums of the extrapolated u, shape ``(n_elements, y)``, float64, written.
    seams : numpy.ndarray
        From :func:`empty_seams`, written.
    tickets : numpy.ndarray
        From :func:`~hyperspy_fusion.core.threads.new_tickets`.
    """
    n_elements, _, n_x = u.shape
    offsets = np.empty((n_elements, _CHUNK), np.float32)
    for i in range(n_elements):
        offsets[i] = offset[i, 0, 0]
    targets = np.empty((n_elements, _CHUNK), np.float32)
    values = np.empty((n_elements, _CHUNK), np.float32)
    slopes = np.empty((n_elements, _CHUNK), np.float32)
    s = np.zeros(_CHUNK, np.float32)
    steps = np.zeros(_CHUNK, np.float32)
    model = np.zeros(_CHUNK, np.float32)
    response = np.zeros(_CHUNK, np.float32)
    norm = np.zeros(_CHUNK, np.float32)
    padded = np.empty(_CHUNK + _ONE, np.float32)
    new = np.empty((3, n_elements, _CHUNK), np.float32)
    bars = np.zeros((2, 3, n_elements, n_x + 2), np.float32)
    n_blocks = edges.size - 1
    n_phases = 2 * n_iter
    while True:
        # In each iteration first the blocks; then what looks across their borders,
        # and, where there is none, the flux.
        phase, block = next_task(tickets, n_phases, n_blocks)
        if phase >= n_phases:
            break
        now = last_relaxation if phase >= n_phases - 2 else relaxation
        if phase % 2 == 0:
            _sweep(
                u,
                v,
                p,
                q,
                flux_dual,
                tension,
                data,
                precision,
                poisson,
                rate,
                offset,
                haadf,
                haadf_weight,
                coefficients,
                tau_u,
                tau_v,
                sigma_p,
                sigma_q,
                alpha,
                now,
                second_order,
                row_sums,
                seams,
                block,
                edges[block],
                edges[block + 1],
                offsets,
                targets,
                values,
                slopes,
                s,
                steps,
                model,
                response,
                padded,
                bars,
                new,
                norm,
            )
        elif block > 0:
            _step_seam(
                p,
                q,
                sigma_p,
                sigma_q,
                alpha,
                now,
                second_order,
                seams,
                block,
                edges[block],
                new,
                norm,
            )
        elif flux_step > 0:
            _step_flux(flux_dual, row_sums, flux, now * flux_step)
        give_back(tickets)


@_kernel
def refine_rows(coarse, factor, fine, start, stop):
    """Interpolate images linearly on pixels half as large.

    Parameters
    ----------
    coarse : numpy.ndarray
        Shape ``(n_images, y, x)``, float32.
    factor : numpy.float32
        What the values are multiplied with.
    fine : numpy.ndarray
        Shape ``(n_images, 2 y, 2 x)``, or one row or column more; float32.
    start, stop : int
        The rows of `fine` to write.
    """
    near, far = np.float32(0.75) * factor, np.float32(0.25) * factor
    n_images, n_x = fine.shape[0], fine.shape[2]
    m_y, m_x = coarse.shape[1], coarse.shape[2]
    row = np.empty(m_x, np.float32)
    close, distant = np.float32(0.75), np.float32(0.25)
    for i in range(n_images):
        for y in range(start, stop):
            here = min(y // 2, m_y - 1)
            other = min(max(y // 2 + 2 * (y % 2) - 1, 0), m_y - 1)
            for x in range(m_x):
                row[x] = near * coarse[i, here, x] + far * coarse[i, other, x]
            fine[i, y, 0] = row[0]
            for x in range(m_x - 1):
                fine[i, y, 2 * x + 1] = close * row[x] + distant * row[x + 1]
                fine[i, y, 2 * x + 2] = distant * row[x] + close * row[x + 1]
            for x in range(2 * m_x - 1, n_x):
                fine[i, y, x] = row[m_x - 1]
