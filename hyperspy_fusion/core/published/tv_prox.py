"""The proximal map of the isotropic total variation, by (fast) gradient projection.

All steps move down the rows together, one row apart, so that an image is read and
written once and the rows between two steps stay in the cache.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..common.compilation import compilers, index

TVAlgorithm = Literal["FGP", "GP"]

# Floats in a cache line: rows of scratch start on one, with one before them as margin.
MARGIN = 16
_ONE = index(1)

_kernel, _part = compilers(fastmath=True)


def total_variation_prox(
    image: np.ndarray, weight: float, n_iter: int, algorithm: TVAlgorithm = "FGP"
) -> np.ndarray:
    r"""Non-negative total-variation denoising by (fast) gradient projection.

    .. math:: \arg\min_{x \ge 0} \tfrac12 ‖x - y‖^2 + λ\,TV(x)

    Parameters
    ----------
    image : numpy.ndarray
        y, shape ``(y, x)``; computed in float32.
    weight : float
        λ, in the units of the image; 0 only clips.
    n_iter : int
        Steps on the dual, each of length 1/(8 λ).
    algorithm : {"FGP", "GP"}
        Fast gradient projection (with momentum), or plain gradient projection.

    Returns
    -------
    numpy.ndarray
        x, shape ``(y, x)``, float32.

    References
    ----------
    A. Beck and M. Teboulle, IEEE Trans. Image Process. 18, 2419 (2009), the
    algorithms GP and FGP of section IV.
    """
    if algorithm not in get_args(TVAlgorithm):
        raise ValueError(f"algorithm is {algorithm!r}: expected 'FGP' or 'GP'")
    image = np.require(image, np.float32, ["C", "W"])
    if weight == 0 or n_iter == 0:
        return np.maximum(image, np.float32(0))
    out = np.empty_like(image)
    schedule = tv_schedule(weight, n_iter, fast=algorithm == "FGP")
    tv_prox_rows(image[np.newaxis], schedule, out[np.newaxis])
    return out


def tv_schedule(weight: float, n_iter: int, *, fast: bool) -> np.ndarray:
    """Constants of the steps of the TV prox, float32, shape ``(n_iter + 1, 4)``.

    With the weight λ, for the start of each step and for the end: λ(1 + m); of each
    step 1 / 8λ(1 + m), (1 + m)^-2, and m / (1 + m) of the next, with its momentum m,
    which is 0 unless `fast`.
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


class Rows(NamedTuple):
    """Rows that the steps of the TV prox share, all elements side by side.

    Attributes
    ----------
    values : numpy.ndarray
        Rows of the images, shape ``(n_iter + 2, width)``.
    dual : numpy.ndarray
        Duals p and q of each row, shape ``(n_iter + 2, 2, 2, width)``.
    primal : numpy.ndarray
        x of each step, and a spare row, shape ``(n_iter + 1, width)``.
    slots : numpy.ndarray
        Row of `primal` that belongs to each step, and the spare one.
    """

    values: np.ndarray
    dual: np.ndarray
    primal: np.ndarray
    slots: np.ndarray


@_part
def aligned(n):
    """Length of a row of scratch for `n` floats."""
    return -(-n // MARGIN) * MARGIN


@_part
def new_rows(schedule, n_elements, n_columns):
    """Scratch for the steps of a schedule, for tiles of up to `n_columns` columns."""
    n_iter = schedule.shape[0] - 1
    width = aligned(n_elements * (n_columns + 1)) + 2 * MARGIN
    return Rows(
        np.zeros((n_iter + 2, width), np.float32),
        np.zeros((n_iter + 2, 2, 2, width), np.float32),
        np.zeros((n_iter + 1, width), np.float32),
        np.arange(n_iter + 1),
    )


@_part
def forget(rows):
    """Clear the last tile: no dual above and beside the image."""
    dual = rows.dual
    last = dual.shape[0] - 1
    for side in range(2):
        for direction in range(2):
            for x in range(dual.shape[3]):
                dual[last, side, direction, x] = 0


@_part
def _projected(along_y, along_x, least):
    """A vector scaled down to unit length, or to the root of `least`'s inverse."""
    scale = np.float32(1) / np.sqrt(max(least, along_y * along_y + along_x * along_x))
    return along_y * scale, along_x * scale


def _row_step(
    *, first: bool = False, second: bool = False, final: bool = False
) -> Callable:
    """Part that makes one step of gradient projection in a row.

    x = P_C(v - λ grad* q) of the row, and p = P(q + s grad x) of the row above, which
    takes the place of q. The q to come, p - m / (1 + m) p_before, takes that of
    p_before, on the other side. The flags are constants for the compiler: the first
    step has q = 0, the second has q as p_before, and of the final one only p is needed.
    """

    @_part
    def step(rows, numbers, gradient_steps, side, over, row, here, below, n):
        values, q, primal = rows.values, rows.dual, rows.primal
        zero, one = np.float32(0), np.float32(1)
        scaled, least, ratio = numbers[0], numbers[2], numbers[3]
        least = one if first else least
        step_y, step_x = gradient_steps
        other = 1 - side
        for x in range(n):
            c = x + MARGIN
            if first:
                u = max(values[row, x], zero)
            else:
                q_y, q_x = q[over, side, 0, c], q[over, side, 1, c]
                adjoint = q_y - q[row, side, 0, c]
                adjoint += q[row, side, 1, c - 1] - q[row, side, 1, c]
                u = max(values[row, x] - scaled * adjoint, zero)
            primal[below, x] = u
            along_y = step_y * (u - primal[here, x])
            along_x = step_x * (primal[here, x + 1] - primal[here, x])
            if not first:
                along_y += q_y
                along_x += q_x
            along_y, along_x = _projected(along_y, along_x, least)
            if not (first or final):
                if not second:
                    q_y, q_x = q[over, other, 0, c], q[over, other, 1, c]
                q[over, side, 0, c] = along_y
                q[over, side, 1, c] = along_x
                along_y -= ratio * q_y
                along_x -= ratio * q_x
            q[over, other, 0, c] = along_y
            q[over, other, 1, c] = along_x

    return step


_first_row, _second_row = _row_step(first=True), _row_step(second=True)
_any_row, _final_row = _row_step(), _row_step(final=True)


@_part
def _write_row(rows, scaled, side, over, row, place, n, out, i, y, left):
    """Row of P_C(v - λ grad* q), from a place in it on, written to a map."""
    values, q = rows.values, rows.dual
    zero = np.float32(0)
    here = index(place + MARGIN)
    place, left = index(place), index(left)
    for x in range(index(n)):
        adjoint = (
            q[over, side, 0, here + x]
            - q[row, side, 0, here + x]
            + q[row, side, 1, here + x - _ONE]
            - q[row, side, 1, here + x]
        )
        out[i, y, left + x] = max(values[row, place + x] - scaled * adjoint, zero)


@_part
def descend(rows, schedule, n_elements, n_y, tile, low, high, front, out):
    """Move all steps of the TV prox down by one row, after row `front` of the images.

    The elements are side by side, with a column between them. The steps are those of
    gradient projection on the dual p, with momentum: q is the extrapolated dual, stored
    divided by 1 + momentum, which saves an operation, in place of the previous p: p and
    q change sides in each step.
    """
    top, bottom, left, right, begin, end = tile
    dual, primal, slots = rows.dual, rows.primal, rows.slots
    n_iter = schedule.shape[0] - 1
    depth = dual.shape[0]
    zero = np.float32(0)
    width = end - begin + 1
    n = aligned(n_elements * width)
    least_k = max(front - high, 0)
    row = (front - least_k) % depth
    for k in range(least_k, min(n_iter, front - low) + 1):
        y = front - k
        over = row - 1 if row > 0 else depth - 1
        # with the margin that the steps to come need
        first = max(top - (n_iter - k), 0)
        last = min(bottom + (n_iter - k), n_y)
        numbers, side = schedule[k], k % 2
        inside = first <= y < last
        if k < n_iter and (inside or y == last == n_y):
            below, here = slots[n_iter], slots[k]
            # no dual row above the first one, and none across the far edge
            step = numbers[1]
            steps = step if first < y < n_y else zero, step if first < y else zero
            if k == 0:
                _first_row(rows, numbers, steps, side, over, row, here, below, n)
            elif k == n_iter - 1:
                _final_row(rows, numbers, steps, side, over, row, here, below, n)
            elif k == 1:
                _second_row(rows, numbers, steps, side, over, row, here, below, n)
            else:
                _any_row(rows, numbers, steps, side, over, row, here, below, n)
            for i in range(n_elements):
                edge = (i + 1) * width - 1
                primal[below, edge] = primal[below, edge - 1]
                dual[over, 0, 1, edge + MARGIN] = zero
                dual[over, 1, 1, edge + MARGIN] = zero
            slots[k], slots[n_iter] = below, here
        elif inside:
            for i in range(n_elements):
                place, n_x, scaled = i * width + left - begin, right - left, numbers[0]
                _write_row(rows, scaled, side, over, row, place, n_x, out, i, y, left)
        row = over


@_kernel
def tv_prox_rows(images, schedule, out):
    """Write the TV prox of images, shape ``(n_images, y, x)``, float32, to `out`."""
    n_images, n_y, n_x = images.shape
    n_iter = schedule.shape[0] - 1
    rows = new_rows(schedule, n_images, n_x)
    values = rows.values
    tile = 0, n_y, 0, n_x, 0, n_x
    for front in range(n_y + n_iter + 1):
        if front < n_y:
            row = front % values.shape[0]
            for i in range(n_images):
                for x in range(n_x):
                    values[row, i * (n_x + 1) + x] = images[i, front, x]
        descend(rows, schedule, n_images, n_y, tile, 0, n_y, front, out)
