r"""Exact joint prox of the data terms of all elements and of all elastic images.

.. math::

    \min_{u ≥ 0} \sum_i \Bigl[ D_i(u_i) + \frac{(u_i - t_i)^2}{2 τ} \Bigr]
    + \sum_j \frac{w_j}2 \Bigl( h_j - \sum_i k_{ji} u_i \Bigr)^2

in each pixel, by its dual: one number s_j for each image, with u_i the prox of D_i at
t_i - τ Σ_j k_ji s_j, and s_j + w_j (h_j - Σ_i k_ji u_i(s)) = 0.
"""

from collections.abc import Callable

import numpy as np

from ...common.compilation import compilers, index, section

# Newton's method ends when the duals change by less than this fraction: the prox is
# linear in them within such a step.
_NEWTON = np.float32(1e-2)
_NEWTON_STEPS = 30
_LEAST_SQUARE = np.float32(1e-30)  # the square of a number that is treated as 0
_FIRST = index(0)

_, _part = compilers(fastmath=True, make_arrays=False)
_section = section(fastmath=True)


@_part
def _poisson_prox(scaled, i, y, a, n, tau, pull, dual, flux_dual, scratch):
    """Prox of τ ((rate + ν) u - b log(u + e)) over u >= 0, and its derivative.

    Along a row; ν is the flux multiplier. Data below zero mark a missing pixel, which
    has no such term.
    """
    zero, half = np.float32(0), np.float32(0.5)
    data, offset, target = scaled.data, scratch.offset, scratch.target
    value, slope = scratch.value, scratch.slope
    four_tau = np.float32(4) * tau
    push = tau * (scaled.rate[i] + flux_dual)
    for x in range(n):
        b = data[i, y, a + x]
        t = target[i, x] - (push if b >= zero else zero) - pull * dual[_FIRST, x]
        t += offset[i, x]
        root = np.sqrt(t * t + four_tau * max(b, zero) + _LEAST_SQUARE)
        u = half * (t + root) - offset[i, x]
        value[i, x] = max(u, zero)
        slope[i, x] = half + half * t / root if u > zero else zero


@_part
def _gaussian_prox(scaled, i, y, a, n, tau, pull, dual, flux_dual, scratch):
    """Prox of τ (precision (u - b)² / 2 + ν u) over u >= 0, and its derivative.

    Along a row; ν is the flux multiplier. The precision of a missing pixel is 0.
    """
    zero, one = np.float32(0), np.float32(1)
    data, precision, target = scaled.data, scaled.precision, scratch.target
    value, slope = scratch.value, scratch.slope
    push = tau * flux_dual
    for x in range(n):
        weight = tau * precision[i, y, a + x]
        shrink = one / (one + weight)
        u = target[i, x] - pull * dual[_FIRST, x] - (push if weight > zero else zero)
        u = (u + weight * data[i, y, a + x]) * shrink
        value[i, x] = max(u, zero)
        slope[i, x] = shrink if u > zero else zero


@_part
def _data_prox(scaled, i, y, a, n, tau, pull, dual, flux_dual, scratch):
    """Prox of the term of an element, pulled by the dual of the images."""
    if scaled.poisson:
        _poisson_prox(scaled, i, y, a, n, tau, pull, dual, flux_dual, scratch)
    else:
        _gaussian_prox(scaled, i, y, a, n, tau, pull, dual, flux_dual, scratch)


@_part
def seen(coefficients, i):
    """Whether any image shows an element."""
    found = False
    for j in range(coefficients.shape[0]):
        found = found or coefficients[j, i] > np.float32(0)
    return found


@_part
def combined(coefficients, i, n, rows, total):
    """Sum over the images of rows of theirs times the coefficients of an element."""
    for x in range(n):
        total[_FIRST, x] = coefficients[0, i] * rows[_FIRST, x]
    for j in range(1, coefficients.shape[0]):
        for x in range(n):
            total[_FIRST, x] += coefficients[j, i] * rows[j, x]


@_part
def _add_response(coefficients, i, n, tau, scratch):
    """Add what an element contributes to the image, and to its change with the dual."""
    model, response = scratch.model, scratch.response
    value, slope = scratch.value, scratch.slope
    coefficient = coefficients[_FIRST, i]
    product = coefficient * (tau * coefficient)
    for x in range(n):
        model[_FIRST, x] += coefficient * value[i, x]
        response[_FIRST, _FIRST, x] += product * slope[i, x]


@_part
def _add_responses(coefficients, i, n, tau, scratch):
    """As :func:`_add_response`, to several images.

    The change is a symmetric matrix, of which one half is summed.
    """
    model, response = scratch.model, scratch.response
    value, slope = scratch.value, scratch.slope
    for j in range(coefficients.shape[0]):
        coefficient = coefficients[j, i]
        for x in range(n):
            model[j, x] += coefficient * value[i, x]
        for k in range(j + 1):
            product = coefficient * (tau * coefficients[k, i])
            for x in range(n):
                response[j, k, x] += product * slope[i, x]


@_part
def _newton_step(scaled, y, a, n, scratch):
    """Newton step of the dual of one image; whether it is small all along the row."""
    zero, one = np.float32(0), np.float32(1)
    haadf, weight = scaled.haadf, scaled.haadf_weight
    model, response = scratch.model, scratch.response
    dual, step = scratch.dual, scratch.change
    # Two loops: a single one that writes to all these arrays is not vectorised.
    for x in range(n):
        w = weight[_FIRST, y, a + x]
        pull = dual[_FIRST, x] + w * (haadf[_FIRST, y, a + x] - model[_FIRST, x])
        step[_FIRST, x] = pull / (one + w * response[_FIRST, _FIRST, x])
    excess = zero  # a sum, since a maximum is not vectorised
    for x in range(n):
        old, change = dual[_FIRST, x], step[_FIRST, x]
        excess += max(abs(change) - _NEWTON * (one + abs(old)), zero)
        dual[_FIRST, x] = old - change
        model[_FIRST, x] = zero
        response[_FIRST, _FIRST, x] = zero
    return excess == zero


@_part
def _newton_steps(scaled, y, a, n, scratch):
    """As :func:`_newton_step`, of the duals of several images together.

    The step d solves (1 + W R) d = s + W (h - K u) with the response R. This matrix is
    similar to 1 + W^½ R W^½, so that elimination needs no pivots.
    """
    zero, one = np.float32(0), np.float32(1)
    haadf, weight = scaled.haadf, scaled.haadf_weight
    model, response, matrix = scratch.model, scratch.response, scratch.matrix
    dual, step = scratch.dual, scratch.change
    n_images = haadf.shape[0]
    for j in range(n_images):
        for x in range(n):
            w = weight[j, y, a + x]
            step[j, x] = dual[j, x] + w * (haadf[j, y, a + x] - model[j, x])
        for k in range(n_images):
            most, least = max(j, k), min(j, k)
            own = one if j == k else zero
            for x in range(n):
                matrix[j, k, x] = own + weight[j, y, a + x] * response[most, least, x]
    for j in range(n_images):
        for k in range(j + 1, n_images):
            for x in range(n):
                matrix[k, j, x] /= matrix[j, j, x]
                step[k, x] -= matrix[k, j, x] * step[j, x]
            for m in range(j + 1, n_images):
                for x in range(n):
                    matrix[k, m, x] -= matrix[k, j, x] * matrix[j, m, x]
    for last in range(n_images):
        j = n_images - 1 - last
        for k in range(j + 1, n_images):
            for x in range(n):
                step[j, x] -= matrix[j, k, x] * step[k, x]
        for x in range(n):
            step[j, x] /= matrix[j, j, x]
    excess = zero
    for j in range(n_images):
        for x in range(n):
            old, change = dual[j, x], step[j, x]
            excess += max(abs(change) - _NEWTON * (one + abs(old)), zero)
            dual[j, x] = old - change
            model[j, x] = zero
        for k in range(j + 1):
            for x in range(n):
                response[j, k, x] = zero
    return excess == zero


def _joint_prox(*, several: bool) -> Callable:
    """Part that computes the prox of a part of a row, and writes it to `value`.

    By Newton's method on the duals. That of one image converges from anywhere, since
    the left side of its equation is increasing and concave; several never failed to,
    in random pixels and with images that are alike to 1 %. The flag is a constant for
    the compiler: loops that take either are slower.
    """

    @_section
    def joint_prox(state, scaled, steps, pulled, y, a, n, scratch):
        coefficients, dual, kept = scaled.coefficients, scratch.dual, state.haadf_dual
        change, value, slope = scratch.change, scratch.value, scratch.slope
        n_elements = coefficients.shape[1]
        n_images = coefficients.shape[0] if several else 1
        tau, zero = steps.u, np.float32(0)
        if pulled:
            for j in range(n_images):
                for x in range(n):
                    dual[j, x] = kept[j, y, a + x]
        for trial in range(_NEWTON_STEPS):
            for i in range(n_elements):
                if trial > 0 and not seen(coefficients, i):
                    continue
                flux = np.float32(state.flux_dual[i])
                if several:
                    own = scratch.combined
                    combined(coefficients, i, n, dual, own)
                    _data_prox(scaled, i, y, a, n, tau, tau, own, flux, scratch)
                    _add_responses(coefficients, i, n, tau, scratch)
                else:
                    pull = tau * coefficients[_FIRST, i]
                    _data_prox(scaled, i, y, a, n, tau, pull, dual, flux, scratch)
                    _add_response(coefficients, i, n, tau, scratch)
            if not pulled:
                return
            if several:
                small = _newton_steps(scaled, y, a, n, scratch)
            else:
                small = _newton_step(scaled, y, a, n, scratch)
            if small:
                break
        for j in range(n_images):
            for x in range(n):
                kept[j, y, a + x] = dual[j, x]
        for i in range(n_elements):  # the last change of the duals
            if several:
                pull, step = tau, scratch.combined
                combined(coefficients, i, n, change, step)
            else:
                pull, step = tau * coefficients[_FIRST, i], change
            for x in range(n):
                corrected = value[i, x] + pull * slope[i, x] * step[_FIRST, x]
                value[i, x] = max(corrected, zero)

    return joint_prox


prox_of_one, prox_of_several = _joint_prox(several=False), _joint_prox(several=True)
