"""The fused kernels of the published method: float32 state, float64 sums.

They go through memory once. What they do at a time is a tile, for which they read as
many pixels more around it as their steps reach, so that tiles are independent of each
other: the number of threads leaves no trace in the result.
"""

from itertools import pairwise

import numba
import numpy as np

from .threads import compilers, give_back, next_task

__all__ = ["iterate_published", "published_tiles", "tv_prox_rows", "tv_schedule"]

# Bytes of what the steps of the TV prox hand on, which should live in the L2 cache.
_TILE_BYTES = 3 << 18
# Pixels times elements that are worth a thread's while.
_LEAST_TILE = 12288

# Floats in a cache line: rows of scratch start on one, with one before them as margin.
_MARGIN = 16

_ONE = np.uintp(1)  # columns count without sign: no index may be one from the end

# Powers of what is not above are taken for those of 0.
_TINY = np.float32(1e-30)


_kernel, _part = compilers(fastmath=True)


@_part
def _aligned(n):
    """Length of a row of scratch for `n` floats."""
    return -(-n // _MARGIN) * _MARGIN


def published_tiles(shape, n_iter_tv):
    """Cut maps into tiles for :func:`iterate_published`.

    Parameters
    ----------
    shape : tuple of int
        ``(n_elements, y, x)``.
    n_iter_tv : int
        Steps of the TV prox, each of which reaches one pixel further.

    Returns
    -------
    numpy.ndarray
        First and last rows and columns of each tile, and the columns that it has to
        know for them; shape ``(n_tiles, 6)``.
    """
    n_elements, n_y, n_x = shape
    # Smaller tiles would spend too much on their surroundings.
    least = 16 * max(n_iter_tv, 1)
    # image, two sides of the dual and x of each step
    n_bytes = 4 * 6 * n_elements * (n_iter_tv + 2)
    columns = _edges(n_x, n_x // max(_TILE_BYTES // n_bytes, least))
    # As many rows for each thread, if there is enough to do for more than one.
    n_threads = numba.config.NUMBA_NUM_THREADS
    n_blocks = n_threads * max(min(n_y // (2 * n_threads * least), 4), 1)
    most = n_y // (2 * n_iter_tv + 1), n_elements * n_y * n_x // _LEAST_TILE
    rows = _edges(n_y, min(n_blocks, *most))
    return np.array(
        [
            (top, bottom, left, right, max(left - n_iter_tv, 0), end)
            for top, bottom in pairwise(rows)
            for left, right in pairwise(columns)
            for end in [min(right + n_iter_tv, n_x)]
        ]
    )


def _edges(size, n_parts):
    """Edges of at least one part, of about the same size."""
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


def tv_schedule(weight, n_iter, *, fast):
    """Numbers of the steps of the TV prox, as the kernels take them.

    Parameters
    ----------
    weight : float
        λ > 0, in the units of the image.
    n_iter : int
        Steps, at least 1.
    fast : bool
        Momentum (FGP) or none (GP).

    Returns
    -------
    numpy.ndarray
        For the start of each step and for the end λ(1 + m), of each step 1 / 8λ(1 + m),
        (1 + m)^-2, and m / (1 + m) of the next, with its momentum m; float32, shape
        ``(n_iter + 1, 4)``.
    """
    growth = np.ones(n_iter + 2)
    if fast:
        t = (1 + np.sqrt(5)) / 2
        for k in range(2, n_iter):  # the last dual is not extrapolated
            t_next = (1 + np.sqrt(1 + 4 * t * t)) / 2
            growth[k] = 1 + (t - 1) / t_next
            t = t_next
    now, following = growth[:-1], growth[1:]
    columns = weight * now, 1 / (8 * weight * now), now**-2, 1 - 1 / following
    return np.stack(columns, axis=1).astype(np.float32)


# The loops of the steps are written out: with more of them in parts of their own, they
# are not vectorised everywhere.


@_part
def _projected(along_y, along_x, least):
    """A vector scaled down to unit length, or to the root of `least`'s inverse."""
    scale = np.float32(1) / np.sqrt(max(least, along_y * along_y + along_x * along_x))
    return along_y * scale, along_x * scale


@_part
def _tv_first_row(values, steps, q, over, row, primal, here, below, n):
    """As :func:`_tv_row` for the first step, which starts from q = 0."""
    zero, one = np.float32(0), np.float32(1)
    step_y, step_x = steps
    for x in range(n):
        u = max(values[row, x], zero)
        primal[below, x] = u
        along_y = step_y * (u - primal[here, x])
        along_x = step_x * (primal[here, x + 1] - primal[here, x])
        along_y, along_x = _projected(along_y, along_x, one)
        q[over, 1, 0, x + _MARGIN] = along_y
        q[over, 1, 1, x + _MARGIN] = along_x


@_part
def _tv_row(
    values, scaled, steps, least, ratio, q, side, over, row, primal, here, below, n
):
    """Row of x = P_C(v - λ grad* q), and the row above of p = P(q + s grad x).

    p takes the place of q, and on the other side the q to come, p - m / (1 + m)
    p_before, that of p_before.
    """
    zero = np.float32(0)
    step_y, step_x = steps
    other = 1 - side
    for x in range(n):
        adjoint = (
            q[over, side, 0, x + _MARGIN]
            - q[row, side, 0, x + _MARGIN]
            + q[row, side, 1, x + _MARGIN - 1]
            - q[row, side, 1, x + _MARGIN]
        )
        u = max(values[row, x] - scaled * adjoint, zero)
        primal[below, x] = u
        along_y = step_y * (u - primal[here, x])
        along_x = step_x * (primal[here, x + 1] - primal[here, x])
        along_y += q[over, side, 0, x + _MARGIN]
        along_x += q[over, side, 1, x + _MARGIN]
        along_y, along_x = _projected(along_y, along_x, least)
        q[over, side, 0, x + _MARGIN] = along_y
        q[over, side, 1, x + _MARGIN] = along_x
        along_y -= ratio * q[over, other, 0, x + _MARGIN]
        along_x -= ratio * q[over, other, 1, x + _MARGIN]
        q[over, other, 0, x + _MARGIN] = along_y
        q[over, other, 1, x + _MARGIN] = along_x


@_part
def _tv_second_row(
    values, scaled, steps, least, ratio, q, over, row, primal, here, below, n
):
    """As :func:`_tv_row` for the second step, for which p_before is q."""
    zero = np.float32(0)
    step_y, step_x = steps
    for x in range(n):
        before_y, before_x = q[over, 1, 0, x + _MARGIN], q[over, 1, 1, x + _MARGIN]
        adjoint = (
            before_y
            - q[row, 1, 0, x + _MARGIN]
            + q[row, 1, 1, x + _MARGIN - 1]
            - q[row, 1, 1, x + _MARGIN]
        )
        u = max(values[row, x] - scaled * adjoint, zero)
        primal[below, x] = u
        along_y = before_y + step_y * (u - primal[here, x])
        along_x = before_x + step_x * (primal[here, x + 1] - primal[here, x])
        along_y, along_x = _projected(along_y, along_x, least)
        q[over, 1, 0, x + _MARGIN] = along_y
        q[over, 1, 1, x + _MARGIN] = along_x
        q[over, 0, 0, x + _MARGIN] = along_y - ratio * before_y
        q[over, 0, 1, x + _MARGIN] = along_x - ratio * before_x


@_part
def _tv_final_row(
    values, scaled, steps, least, q, side, over, row, primal, here, below, n
):
    """As :func:`_tv_row` for the last step, whose p is all that is needed."""
    zero = np.float32(0)
    step_y, step_x = steps
    other = 1 - side
    for x in range(n):
        adjoint = (
            q[over, side, 0, x + _MARGIN]
            - q[row, side, 0, x + _MARGIN]
            + q[row, side, 1, x + _MARGIN - 1]
            - q[row, side, 1, x + _MARGIN]
        )
        u = max(values[row, x] - scaled * adjoint, zero)
        primal[below, x] = u
        along_y = step_y * (u - primal[here, x])
        along_x = step_x * (primal[here, x + 1] - primal[here, x])
        along_y += q[over, side, 0, x + _MARGIN]
        along_x += q[over, side, 1, x + _MARGIN]
        along_y, along_x = _projected(along_y, along_x, least)
        q[over, other, 0, x + _MARGIN] = along_y
        q[over, other, 1, x + _MARGIN] = along_x


@_part
def _tv_last_row(values, scaled, q, side, over, row, place, n, out, i, y, left):
    """Row of P_C(v - λ grad* q), from a place in it on, written to a map."""
    zero = np.float32(0)
    here = np.uintp(place + _MARGIN)
    place, left = np.uintp(place), np.uintp(left)
    for x in range(np.uintp(n)):
        adjoint = (
            q[over, side, 0, here + x]
            - q[row, side, 0, here + x]
            + q[row, side, 1, here + x - _ONE]
            - q[row, side, 1, here + x]
        )
        out[i, y, left + x] = max(values[row, place + x] - scaled * adjoint, zero)


@_part
def _tv_scratch(schedule, n_elements, n_columns):
    """Rows that the steps of the TV prox hand on, of all elements side by side.

    Of the images, of the dual, and of x for each step, with a spare one.
    """
    n_iter = schedule.shape[0] - 1
    width = _aligned(n_elements * (n_columns + 1)) + 2 * _MARGIN
    values = np.zeros((n_iter + 2, width), np.float32)
    dual = np.zeros((n_iter + 2, 2, 2, width), np.float32)
    primal = np.zeros((n_iter + 1, width), np.float32)
    return values, dual, primal, np.arange(n_iter + 1)


@_part
def _tv_begin(dual, n):
    """Forget the tile before: no dual above the image, and none beside it."""
    last = dual.shape[0] - 1
    for side in range(2):
        for direction in range(2):
            for x in range(n):
                dual[last, side, direction, x + _MARGIN] = 0


@_part
def _tv_front(
    values, schedule, dual, primal, slots, n_elements, n_y, tile, low, high, front, out
):
    """Let all steps of the TV prox go down by one row, after row `front` of `values`.

    Each step is one row behind the one before it, so that the images are read once
    and what the steps hand on stays in the cache. The elements are side by side, with
    a column between them. Steps are those of gradient projection on the dual p, with
    momentum: q is the extrapolated dual, kept divided by 1 + momentum, which is one
    operation instead of two, and written over p_before: p and q change sides in each
    step.
    """
    top, bottom, left, right, begin, end = tile
    n_iter = schedule.shape[0] - 1
    depth = dual.shape[0]
    zero = np.float32(0)
    width = end - begin + 1
    n = _aligned(n_elements * width)
    least_k = max(front - high, 0)
    row = (front - least_k) % depth
    for k in range(least_k, min(n_iter, front - low) + 1):
        y = front - k
        over = row - 1 if row > 0 else depth - 1
        # as far around the rows to write as the steps to come will reach
        first = max(top - (n_iter - k), 0)
        last = min(bottom + (n_iter - k), n_y)
        scaled, step = schedule[k, 0], schedule[k, 1]
        side = k % 2
        inside = first <= y < last
        if k < n_iter and (inside or y == last == n_y):
            below, here = slots[n_iter], slots[k]
            # no dual row ends above the first row, none looks across the far edge
            steps = step if first < y < n_y else zero, step if first < y else zero
            if k == 0:
                _tv_first_row(values, steps, dual, over, row, primal, here, below, n)
            elif k == n_iter - 1:
                _tv_final_row(
                    values,
                    scaled,
                    steps,
                    schedule[k, 2],
                    dual,
                    side,
                    over,
                    row,
                    primal,
                    here,
                    below,
                    n,
                )
            elif k == 1:
                _tv_second_row(
                    values,
                    scaled,
                    steps,
                    schedule[k, 2],
                    schedule[k, 3],
                    dual,
                    over,
                    row,
                    primal,
                    here,
                    below,
                    n,
                )
            else:
                _tv_row(
                    values,
                    scaled,
                    steps,
                    schedule[k, 2],
                    schedule[k, 3],
                    dual,
                    side,
                    over,
                    row,
                    primal,
                    here,
                    below,
                    n,
                )
            for i in range(n_elements):
                edge = (i + 1) * width - 1
                primal[below, edge] = primal[below, edge - 1]
                dual[over, 0, 1, edge + _MARGIN] = zero
                dual[over, 1, 1, edge + _MARGIN] = zero
            slots[k], slots[n_iter] = below, here
        elif inside:
            for i in range(n_elements):
                place = i * width + left - begin
                _tv_last_row(
                    values,
                    scaled,
                    dual,
                    side,
                    over,
                    row,
                    place,
                    right - left,
                    out,
                    i,
                    y,
                    left,
                )
        row = over


@_kernel
def tv_prox_rows(images, schedule, out):
    """Write the TV prox of images to `out`.

    Parameters
    ----------
    images : numpy.ndarray
        Shape ``(n_images, y, x)``, float32.
    schedule : numpy.ndarray
        From :func:`tv_schedule`.
    out : numpy.ndarray
        Shape ``(n_images, y, x)``, float32.
    """
    n_images, n_y, n_x = images.shape
    n_iter = schedule.shape[0] - 1
    values, dual, primal, slots = _tv_scratch(schedule, n_images, n_x)
    tile = 0, n_y, 0, n_x, 0, n_x
    for front in range(n_y + n_iter + 1):
        if front < n_y:
            for i in range(n_images):
                for x in range(n_x):
                    values[front % dual.shape[0], i * (n_x + 1) + x] = images[
                        i, front, x
                    ]
        _tv_front(
            values,
            schedule,
            dual,
            primal,
            slots,
            n_images,
            n_y,
            tile,
            0,
            n_y,
            front,
            out,
        )


@_part
def _power_row(maps, i, y, begin, exponent, weight, powers, misfit):
    """Write x^(γ-1) and subtract w_i x^γ from the misfit."""
    zero = np.float32(0)
    at_zero = np.float32(1) if exponent == zero else zero
    begin, n = np.uintp(begin), np.uintp(misfit.size)
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
def _descended_row(
    maps,
    measured,
    i,
    y,
    begin,
    powers,
    misfit,
    slope,
    lambda_chem,
    background,
    out,
    out_row,
    place,
):
    """One row of an element after the gradient step on both data terms."""
    zero = np.float32(0)
    one = np.float32(1)
    begin, place = np.uintp(begin), np.uintp(place)
    for x in range(np.uintp(misfit.size)):
        here = maps[i, y, begin + x]
        value = (
            here
            + slope * powers[i, x] * misfit[x]
            - lambda_chem * (one - measured[i, y, begin + x] / (here + background))
        )
        out[out_row, place + x] = max(value, zero)


@_part
def _add_terms(maps, measured, i, y, left, background, chemical, tv):
    """Add x - b log(x + ε) and the lengths of the gradients to rows of terms."""
    log_of_2 = np.float32(0.6931472)
    below = min(y + 1, maps.shape[1] - 1)
    size = np.uintp(chemical.size)
    n = np.uintp(min(chemical.size, maps.shape[2] - 1 - left))
    left = np.uintp(left)
    for x in range(n):
        here = maps[i, y, left + x]
        log = log_of_2 * _log2(here + background)
        chemical[x] += here - measured[i, y, left + x] * log
        down = maps[i, below, left + x] - here
        across = maps[i, y, left + x + _ONE] - here
        tv[x] += np.sqrt(down * down + across * across)
    for x in range(n, size):  # nothing is beyond the far edge
        here = maps[i, y, left + x]
        log = log_of_2 * _log2(here + background)
        chemical[x] += here - measured[i, y, left + x] * log
        tv[x] += abs(maps[i, below, left + x] - here)


@_part
def _published_row(
    maps,
    measured,
    haadf,
    weights,
    gamma,
    lambda_haadf,
    lambda_chem,
    background,
    tile,
    y,
    powers,
    misfits,
    terms,
    values,
    row,
    row_terms,
):
    """Gradient step on both data terms in a row of all elements, and its cost terms."""
    n_elements = maps.shape[0]
    top, bottom, left, right, begin, end = tile
    misfit = misfits[: end - begin]
    inner = right - left
    for x in range(misfit.size):  # faster than a copy of slices
        misfit[x] = haadf[y, np.uintp(begin) + np.uintp(x)]
    exponent = gamma - np.float32(1)
    for i in range(n_elements):
        _power_row(maps, i, y, begin, exponent, weights[i], powers, misfit)
    for i in range(n_elements):
        _descended_row(
            maps,
            measured,
            i,
            y,
            begin,
            powers,
            misfit,
            lambda_haadf * gamma * weights[i],
            lambda_chem,
            background,
            values,
            row,
            i * (end - begin + 1),
        )
    if top <= y < bottom:
        chemical, tv = terms[0, :inner], terms[1, :inner]
        for x in range(inner):
            chemical[x] = 0
            tv[x] = 0
        for i in range(n_elements):
            _add_terms(maps, measured, i, y, left, background, chemical, tv)
        sums = 0.0, 0.0, 0.0  # in float64
        skipped = np.uintp(left - begin)
        for x in range(np.uintp(inner)):
            square = misfit[skipped + x] * misfit[skipped + x]
            sums = sums[0] + square, sums[1] + chemical[x], sums[2] + tv[x]
        row_terms[0, y] = 0.5 * sums[0]
        row_terms[1, y] = sums[1]
        row_terms[2, y] = sums[2]


@_kernel
def iterate_published(
    maps,
    others,
    measured,
    haadf,
    weights,
    gamma,
    lambda_haadf,
    lambda_chem,
    background,
    schedule,
    tiles,
    row_terms,
    tickets,
):
    """Iterations of the published method, by all threads that call it.

    Each is the gradient step on both data terms, then the TV prox of each element; on
    the way the cost terms of the maps that came in.

    Parameters
    ----------
    maps, others : numpy.ndarray
        x, shape ``(n_elements, y, x)``, float32: iterations go from the first to the
        second, and back.
    measured : numpy.ndarray
        b, shape ``(n_elements, y, x)``, float32.
    haadf : numpy.ndarray
        b_H, shape ``(y, x)``, float32.
    weights : numpy.ndarray
        w_i, shape ``(n_elements,)``, float32.
    gamma, lambda_haadf, lambda_chem, background : numpy.float32
        As in :class:`~hyperspy_fusion.core.objective.PublishedObjective`.
    schedule : numpy.ndarray
        Of the TV prox, from :func:`tv_schedule`; a single row leaves it out.
    tiles : numpy.ndarray
        From :func:`published_tiles`.
    row_terms : numpy.ndarray
        Row sums of the terms (haadf, chemical, tv) of the maps that each iteration
        starts from, shape ``(n_iter, n_tiles, 3, y)``, float64, written where the
        rows are of the tile.
    tickets : numpy.ndarray
        From :func:`~hyperspy_fusion.core.threads.new_tickets`.
    """
    n_elements, n_y, _ = maps.shape
    n_iter_tv = schedule.shape[0] - 1
    n_tiles = tiles.shape[0]
    n_columns = 0
    for k in range(n_tiles):
        n_columns = max(n_columns, tiles[k, 5] - tiles[k, 4])
    values, dual, primal, slots = _tv_scratch(schedule, n_elements, n_columns)
    depth = values.shape[0]
    powers = np.empty((n_elements, _aligned(n_columns)), np.float32)  # x^(γ-1)
    misfits = np.empty(n_columns, np.float32)
    terms = np.empty((2, n_columns), np.float32)
    n_iter = row_terms.shape[0]
    while True:
        iteration, k = next_task(tickets, n_iter, n_tiles)
        if iteration >= n_iter:
            break
        before, after = (maps, others) if iteration % 2 == 0 else (others, maps)
        top, bottom = tiles[k, 0], tiles[k, 1]
        tile = top, bottom, tiles[k, 2], tiles[k, 3], tiles[k, 4], tiles[k, 5]
        low, high = max(top - n_iter_tv, 0), min(bottom + n_iter_tv, n_y)
        _tv_begin(dual, dual.shape[3] - _MARGIN)
        for front in range(low, high + n_iter_tv + 1):
            if front < high:
                _published_row(
                    before,
                    measured,
                    haadf,
                    weights,
                    gamma,
                    lambda_haadf,
                    lambda_chem,
                    background,
                    tile,
                    front,
                    powers,
                    misfits,
                    terms,
                    values,
                    front % depth,
                    row_terms[iteration, k],
                )
            _tv_front(
                values,
                schedule,
                dual,
                primal,
                slots,
                n_elements,
                n_y,
                tile,
                low,
                high,
                front,
                after,
            )
        give_back(tickets)
