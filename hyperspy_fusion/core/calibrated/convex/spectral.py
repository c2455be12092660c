r"""The certificate of spectra in bins: their Poisson term, and its lower bound.

For any t with :math:`\sum_k M_{ki} t_k \le 1 + g_i` for all i, where the g_i are the
slopes of all other terms,

.. math::

    \sum_k [(Mx)_k - n_k \log v_k] + ⟨g, x⟩
    \ge \sum_k [n_k - n_k \log(n_k / t_k) - t_k (M δ)_k],

since :math:`\sum_i x_i (1 + g_i - (M^T t)_i) \ge 0` and
:math:`t v - n \log v \ge n - n \log(n / t)`.
"""

import numpy as np

from ...common.compilation import compilers
from .duals import image_rows, improve, slope_rows, slopes_beside, value_of_images
from .rows import deviance_of, log_of

# Rounds of shared counts, duals of the images and maps in each pixel.
_ROUNDS = 6
_RELAXATION = 1.8  # of the maps, but in the last two rounds; below 2

# NaN and infinity have to be respected.
_kernel, _part = compilers(fastmath={"reassoc", "contract", "nsz"})


@_part
def _ratios(counts, mixing, y, u, second, tv_scale, ratio):
    """Set n / v of all bins along a row at scaled maps u."""
    n_components, n_x = u.shape
    for k in range(mixing.shape[0]):
        floor = 0.0
        for x in range(n_x):
            ratio[k, x] = 0.0
        for i in range(n_components):
            part = mixing[k, i] / tv_scale[i]
            if part > 0:
                floor += part * second[i]
                for x in range(n_x):
                    ratio[k, x] += part * (u[i, x] + second[i])
        for x in range(n_x):
            ratio[k, x] = (counts[k, y, x] + floor) / ratio[k, x]


@_part
def _back(mixing, i, ratio, total):
    """Set the sum of M_ki n_k / v_k along a row."""
    for x in range(total.size):
        total[x] = 0.0
    for k in range(mixing.shape[0]):
        if mixing[k, i] > 0:
            for x in range(total.size):
                total[x] += mixing[k, i] * ratio[k, x]


@_kernel
def deviance_rows(measured, u, factor, summand, counts, mixing, row_terms, start, stop):
    """Half the deviance of the bins, row by row.

    Parameters
    ----------
    measured, u, factor, summand
        As for :func:`primal_rows`.
    counts, mixing : numpy.ndarray
        As in :class:`Bins`.
    row_terms : numpy.ndarray
        Shape ``(y,)``, written.
    start, stop : int
        The rows.
    """
    data, pedestal, tv_scale = measured.data, measured.pedestal, measured.tv_scale
    n_components, _, n_x = u.shape
    expected = np.empty(n_x)
    for y in range(start, stop):
        total = 0.0
        row = y - measured.top
        for k in range(mixing.shape[0]):
            floor = 0.0
            expected[:] = 0
            for i in range(n_components):
                part = mixing[k, i]
                floor += part * pedestal[i]
                for x in range(n_x):
                    value = factor[i] * max(u[i, y, x], np.float32(0)) + summand[i]
                    expected[x] += part * (value / tv_scale[i] + pedestal[i])
            for x in range(n_x):
                term = deviance_of(counts[k, y, x] + floor, expected[x])
                total += 0.0 if np.isnan(data[0, row, x]) else term
        row_terms[y] = total


@_kernel
def spectral_dual_rows(
    measured,
    dual,
    haadf_dual,
    shrink,
    multipliers,
    lift,
    found,
    second_order,
    counts,
    mixing,
    row_values,
    start,
    stop,
):
    """Lower bound of the data terms of spectra plus a linear one, row by row.

    In each pixel, counts that are shared out as in :func:`share_bins` give duals of the
    images and maps, by turns, and t is n / v at the last maps times the factor that
    meets the bounds.

    Parameters
    ----------
    measured, dual, haadf_dual, shrink, multipliers, lift, found, second_order
        As for :func:`dual_rows`.
    counts, mixing : numpy.ndarray
        As in :class:`Bins`.
    row_values : numpy.ndarray
        The bound of each row, shape ``(y,)``, written.
    start, stop : int
        The rows.
    """
    data, tv_scale = measured.data, measured.tv_scale
    coefficients = measured.coefficients
    n_components, _, n_x = data.shape
    n_bins, n_images = mixing.shape[0], coefficients.shape[0]
    above, along_y, along_x = np.empty(n_x), np.empty(n_x), np.empty(n_x)
    rows = above, along_y, along_x, np.empty(n_x), np.empty(n_x, np.bool_)
    point = dual, second_order, shrink, multipliers, lift
    image, weight = np.empty((n_images, n_x)), np.empty((n_images, n_x))
    s = np.empty((n_images, n_x))
    scratch = np.empty(n_x), np.empty(n_x), np.empty(n_x)
    slopes, others = np.empty((n_components, n_x)), np.empty((n_components, n_x))
    first, second = np.empty((n_components, n_x)), np.empty((n_components, n_x))
    u, offset = np.empty((n_components, n_x)), measured.pedestal * tv_scale
    ratio, total = np.empty((n_bins, n_x)), np.empty(n_x)
    theta, observed, at_floor = np.empty(n_x), np.empty(n_x), np.empty(n_x)
    for y in range(start, stop):
        value = 0.0
        row = data[:, y - measured.top]
        image_rows(measured, haadf_dual, y, image, weight, s)
        value -= slope_rows(point, y, found, measured, weight, rows, slopes)
        for i in range(n_components):
            for x in range(n_x):
                second[i, x] = 0.0 if np.isnan(row[i, x]) else offset[i]
                u[i, x] = max(found[i, y, x], np.float32(0))
        for n in range(_ROUNDS):
            relaxation = _RELAXATION if n < _ROUNDS - 2 else 1.0
            _ratios(counts, mixing, y, u, offset, tv_scale, ratio)
            for i in range(n_components):
                _back(mixing, i, ratio, total)
                for x in range(n_x):
                    shared = (u[i, x] + offset[i]) / tv_scale[i] * total[x]
                    first[i, x] = 0.0 if np.isnan(row[i, x]) else shared
            for j in range(n_images):
                slopes_beside(j, slopes, coefficients, s, others)
                improve(
                    j, row, measured, others, first, second, image, weight, s, scratch
                )
            for i in range(n_components):
                for x in range(n_x):
                    slope = slopes[i, x]
                    for j in range(n_images):
                        slope += coefficients[j, i] * s[j, x]
                    new = max(first[i, x] / slope - second[i, x], 0.0)
                    u[i, x] = max(u[i, x] + relaxation * (new - u[i, x]), 0.0)
        _ratios(counts, mixing, y, u, offset, tv_scale, ratio)
        theta[:] = np.inf
        for i in range(n_components):
            _back(mixing, i, ratio, total)
            for x in range(n_x):
                slope = slopes[i, x]
                for j in range(n_images):
                    slope += coefficients[j, i] * s[j, x]
                theta[x] = min(theta[x], slope * tv_scale[i] / total[x])
        observed[:] = 0
        at_floor[:] = 0
        for k in range(n_bins):
            floor = 0.0
            for i in range(n_components):
                floor += mixing[k, i] * measured.pedestal[i]
            for x in range(n_x):
                observed[x] += counts[k, y, x] + floor
                at_floor[x] += floor * ratio[k, x]
        for x in range(n_x):
            theta[x] = min(theta[x], observed[x] / at_floor[x])
        for k in range(n_bins):
            floor = 0.0
            for i in range(n_components):
                floor += mixing[k, i] * measured.pedestal[i]
            for x in range(n_x):
                t = theta[x] * ratio[k, x]
                term = (counts[k, y, x] + floor) * log_of(max(t, 1e-300))
                term -= (t - 1) * floor
                value += 0.0 if np.isnan(row[0, x]) else term
        row_values[y] = value + value_of_images(image, weight, s)
