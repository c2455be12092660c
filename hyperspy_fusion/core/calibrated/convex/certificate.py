"""Certificate of the solution: bounds of the optimum by duality, in float64."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...common.compilation import compilers, index
from ...common.threads import ALONE
from .duals import (
    MOST,
    ROUNDING,
    image_rows,
    improve,
    largest,
    slope_rows,
    slopes_beside,
    value_of_images,
)
from .problem import Problem, flux_correction, for_kernels, is_for_kernels
from .rows import deviance_of, pull_of
from .spectral import deviance_rows, spectral_dual_rows

# NaN and infinity have to be respected.
_kernel, _part = compilers(fastmath={"reassoc", "contract", "nsz"})

_ROUNDS = 3  # through the duals of several images
_HELD = 1e300  # no slope: other terms bound these pixels


class _Measured(NamedTuple):
    """The problem as these kernels take it; float32 pixels, float64 numbers."""

    top: int  # first row of the pixels
    data: np.ndarray
    background: np.ndarray
    variance: np.ndarray
    pedestal: np.ndarray
    poisson: bool
    tv_scale: np.ndarray
    haadf: np.ndarray  # of all elastic images
    haadf_precision: np.ndarray
    haadf_factor: np.ndarray  # to the unit of each image in the kernels
    weight_factor: np.ndarray  # and to its weight there
    coefficients: np.ndarray  # k_ji, of scaled maps and of images in their units

    @classmethod
    def of(cls, problem: Problem) -> "_Measured":
        images = problem.images
        variance = np.zeros((1, 1, 1)) if problem.variance is None else problem.variance
        return cls(
            top=0,
            data=problem.data,
            background=_numbers_or_pixels(problem.background),
            variance=_numbers_or_pixels(variance),
            pedestal=problem.pedestal.astype(np.float64),
            poisson=problem.poisson,
            tv_scale=problem.tv_scale.astype(np.float64),
            haadf=_together([image.values for image in images]),
            haadf_precision=_together([image.precision for image in images]),
            haadf_factor=np.array([1 / float(image.unit) for image in images]),
            weight_factor=np.array(
                [float(image.weight * image.unit**2) for image in images]
            ),
            coefficients=problem.scaled_coefficients.astype(np.float64),
        )

    def rows(self, start: int, stop: int) -> "_Measured":
        """Some rows, or all if they need not be copied for the kernels."""
        pixels = {name: getattr(self, name) for name in _PIXELS}
        if all(is_for_kernels(array) for array in pixels.values()):
            return self
        some: Any = {
            name: _rows_of(array, slice(start, stop)) for name, array in pixels.items()
        }
        return self._replace(top=start, **some)


_PIXELS = "data", "background", "variance", "haadf", "haadf_precision"


def _together(images: list[np.ndarray]) -> np.ndarray:
    """Images in one array; one alone is not copied."""
    return images[0][None] if len(images) == 1 else np.stack(images)


def _numbers_or_pixels(array: np.ndarray) -> np.ndarray:
    """Numbers for all pixels as kernels take them; pixels as they are."""
    return for_kernels(array) if array.shape[1] == 1 else array


def _rows_of(array: np.ndarray, rows: slice) -> np.ndarray:
    """Some rows of pixels as kernels take them, or the numbers for all."""
    return for_kernels(array if array.shape[1] == 1 else array[:, rows])


def _on_rows(kernel: Callable, problem: Problem) -> Callable:
    """A kernel that gets the pixels of its rows.

    Where these have to be copied, as in an image that is solved from its last row on,
    few are at a time.
    """
    measured = _Measured.of(problem)

    def run_rows(*arguments: Any) -> None:
        start, stop = arguments[-2:]
        kernel(measured.rows(start, stop), *arguments)

    return run_rows


def terms_at(problem, state, run, window):
    """Terms of the objective as from :func:`certificate`.

    Of a window, rows and columns, the maps are not corrected for the flux, so that the
    terms of adjacent ones add up.
    """
    if window is None:
        return _whole_terms(problem, state, _sums(problem, state, run), run)[0]
    one = np.ones(len(state.u))
    return _primal_terms(problem, state, one, 0 * one, run, *window)[0]


def _spectra(problem):
    """Counts and mixing of the bins as the kernels take them; empty without bins."""
    if problem.bins is None:
        return ()
    return for_kernels(problem.bins.counts), problem.bins.mixing


def _whole_terms(problem, state, sums, run):
    """As :func:`_primal_terms` of all pixels at the maps of the sums to keep."""
    correction = flux_correction(problem, sums)
    terms, *bounds = _primal_terms(problem, state, *correction, run)
    spectra = _spectra(problem)
    if spectra:
        row_values = np.empty(len(problem.haadf))
        fixed = state.u, *correction, *spectra, row_values
        run(_on_rows(deviance_rows, problem), run.blocks(state.u.shape), *fixed)
        terms = terms[0], float(row_values.sum()), *terms[2:]
    return terms, *bounds


def _sums(problem, state, run):
    """Sums of max(u, 0) over the measured pixels, shape ``(n_elements,)``."""
    row_sums = np.empty(state.u.shape[:2])
    blocks = run.blocks(state.u.shape)
    run(_on_rows(sum_rows, problem), blocks, state.u, row_sums)
    return row_sums.sum(axis=1)


def _primal_terms(problem, state, factor, summand, run, rows=None, columns=None):
    """Terms of the objective, and bounds that scale the dual point."""
    n_elements, n_y, n_x = state.u.shape
    second_order = problem.alpha is not None
    row_terms = np.zeros((2 + len(problem.images), n_y))
    row_excess = np.zeros(n_y)
    row_least = np.empty((n_elements, n_y))
    rows = rows or slice(0, n_y)
    columns = columns or slice(0, n_x)
    blocks = [
        (max(start, rows.start), min(stop, rows.stop))
        for start, stop in run.blocks(state.u.shape)
        if start < rows.stop and stop > rows.start
    ]
    run(
        _on_rows(primal_rows, problem),
        blocks,
        state.u,
        state.v,
        state.q if second_order else state.p,
        factor,
        summand,
        float(problem.alpha or 1),
        second_order,
        *problem.norm_groups,
        columns.start,
        columns.stop,
        row_terms,
        row_excess,
        row_least,
    )
    chemical, tv, *misfits = row_terms.sum(axis=1).tolist()
    haadf, *others = (
        misfit * image.unit**2
        for misfit, image in zip(misfits, problem.images, strict=True)
    )
    return (haadf, chemical, tv, *others), row_excess, row_least


def certificate(problem, state, run=ALONE):
    """Primal and dual value of the objective: rigorous bounds of the optimum.

    The primal value is that of maps that meet all constraints. The dual point is
    p = E* q, scaled down until ‖p‖ ≤ 1 and ‖q‖ ≤ α hold everywhere, with the duals of
    the images optimised in each pixel; any such point bounds the optimum from below.

    Returns
    -------
    terms : tuple of float
        HAADF term without its weight, chemical (half the deviance) and TGV term at
        the maps; then the terms of further images, without their weights.
    upper, lower : float
        The objective at the maps, and a lower bound for all maps.
    """
    sums = _sums(problem, state, run)
    terms, row_excess, row_least = _whole_terms(problem, state, sums, run)
    upper = problem.value(terms)
    flux_multiplier = problem.scaled_flux_multiplier  # 0 where the flux is locked
    upper += float(flux_multiplier @ sums)

    shrink = 1 / max(1.0, np.sqrt(row_excess.max()))
    locked = problem.flux_locked
    most = np.where(locked, 0, MOST * sums)
    if locked.any():
        most[locked] = (problem.flux * problem.tv_scale)[locked]
    multipliers = np.where(locked, shrink * state.flux_dual, flux_multiplier)
    # Where no other term bounds a pixel, its slope must not be negative: the slopes of
    # all measured pixels are raised by that, which costs that times the sum of u.
    scale = 1 / np.asarray(problem.tv_scale, np.float64)
    slope = shrink * row_least.min(axis=1) + multipliers
    slope += scale if problem.poisson else 0
    # not below the rate if there is no such pixel
    slope = slope.clip(max=scale)
    lift = (ROUNDING * (scale + abs(slope)) - slope).clip(0)
    row_values = np.empty(len(problem.haadf))
    spectra = _spectra(problem)
    second_order = problem.alpha is not None
    run(
        _on_rows(spectral_dual_rows if spectra else dual_rows, problem),
        run.blocks(state.u.shape),
        state.q if second_order else state.p,
        state.haadf_dual,
        shrink,
        multipliers,
        lift,
        state.u,
        second_order,
        *spectra,
        row_values,
    )
    # the multipliers of a free flux belong to the objective
    lower = float(row_values.sum() - (multipliers * locked + lift) @ most)
    return terms, upper, lower


@_kernel
def sum_rows(measured, u, row_sums, start, stop):
    """Row sums of max(u, 0) over the measured pixels, shape ``(n_elements, y)``."""
    data = measured.data
    n_elements, _, n_x = u.shape
    zero = np.float32(0)
    for y in range(start, stop):
        row = y - measured.top
        for i in range(n_elements):
            total = 0.0
            for x in range(n_x):
                total += zero if np.isnan(data[i, row, x]) else max(u[i, y, x], zero)
            row_sums[i, y] = total


@_kernel
def primal_rows(
    measured,
    u,
    v,
    dual,
    factor,
    summand,
    alpha,
    second_order,
    order,
    ends,
    first,
    last,
    row_terms,
    row_excess,
    row_least,
    start,
    stop,
):
    """Terms of the objective, and bounds that scale the dual point, row by row.

    Parameters
    ----------
    measured : _Measured
        The problem, at least these rows of it.
    u, v : numpy.ndarray
        As in :class:`State`.
    dual : numpy.ndarray
        q, or p without second order.
    factor, summand : numpy.ndarray
        From :func:`flux_correction`.
    alpha : float
        Largest norm of q.
    second_order : bool
        TGV or TV.
    order, ends : numpy.ndarray
        From :attr:`Problem.norm_groups`.
    first, last : int
        The columns whose terms count.
    row_terms : numpy.ndarray
        Chemical and TGV term, and that of each image (in its unit), shape
        ``(2 + n_images, y)``, written.
    row_excess : numpy.ndarray
        Square of the largest norm of the dual point over its bound, shape ``(y,)``.
    row_least : numpy.ndarray
        Smallest slope from the dual point at measured pixels that no other term bounds;
        shape ``(n_elements, y)``, 1e300 where there is none.
    start, stop : int
        The rows.
    """
    data, background, variance = measured.data, measured.background, measured.variance
    pedestal, poisson, tv_scale = measured.pedestal, measured.poisson, measured.tv_scale
    haadf, haadf_precision = measured.haadf, measured.haadf_precision
    haadf_factor, weight_factor = measured.haadf_factor, measured.weight_factor
    coefficients = measured.coefficients
    n_images = coefficients.shape[0]
    n_elements, n_y, n_x = u.shape
    first, last = index(first), index(last)
    each_background = background.size > n_elements
    each_variance = variance.size > n_elements
    model, norm_p, norm_q = np.empty((n_images, n_x)), np.empty(n_x), np.empty(n_x)
    held = np.empty(n_x, np.bool_)
    slope, bend = np.empty(n_x), np.empty(n_x)
    above, along_y, along_x = np.empty(n_x), np.empty(n_x), np.empty(n_x)
    fall = np.empty(n_x)
    pull, here, below = np.empty(n_x), np.empty(n_x + 1), np.empty(n_x)
    for y in range(start, stop):
        model[:] = 0
        norm_p[:] = 0
        norm_q[:] = 0
        slope[:] = 0
        bend[:] = 0
        chemical = tv = excess = 0.0
        row = y - measured.top
        next_y = min(y + 1, n_y - 1)
        from_above = 1.0 if y > 0 else 0.0
        for group in range(n_elements):
            i = order[group]
            pull_of(dual, second_order, i, y, above, along_y, along_x, pull)
            scale = 1 / tv_scale[i]
            held[:] = False
            for j in range(n_images):
                if coefficients[j, i] > 0:
                    for x in range(n_x):
                        weight = np.float64(haadf_precision[j, row, x])
                        held[x] = held[x] or weight_factor[j] * weight > 0
            for x in range(n_x):
                value = factor[i] * max(u[i, y, x], np.float32(0)) + summand[i]
                here[x] = value
                below[x] = factor[i] * max(u[i, next_y, x], np.float32(0)) + summand[i]
                norm_p[x] += along_y[x] ** 2 + along_x[x] ** 2
                missing = np.isnan(data[i, row, x])
                bounded = held[x] or missing or not poisson
                fall[x] = -_HELD if bounded else -pull[x]
            for j in range(n_images):
                for x in range(n_x):
                    model[j, x] += coefficients[j, i] * here[x]
            here[n_x] = here[n_x - 1]
            row_least[i, y] = -largest(fall)
            for x in range(first, last):
                b = np.float64(data[i, row, x])
                maps = here[x] * scale
                if poisson:
                    offset = pedestal[i] + (
                        background[i, row, x]
                        if each_background
                        else background[i, 0, 0]
                    )
                    term = deviance_of(b + pedestal[i], maps + offset)
                else:
                    spread = np.float64(
                        variance[i, row, x] if each_variance else variance[i, 0, 0]
                    )
                    term = (maps - b) ** 2 / (2 * spread)
                chemical += 0.0 if np.isnan(b) else term
            if second_order:
                for x in range(n_x):
                    v_y, v_x = np.float64(v[0, i, y, x]), np.float64(v[1, i, y, x])
                    slope[x] += (below[x] - here[x] - v_y) ** 2
                    slope[x] += (here[x + 1] - here[x] - v_x) ** 2
                    # along y, then along x, from here on
                    above[x] = v_y - from_above * v[0, i, y - 1, x]
                    along_y[x] = from_above * (v_x - v[1, i, y - 1, x])
                    along_x[x] = v_x
                    norm_q[x] += (
                        np.float64(dual[0, i, y, x]) ** 2
                        + np.float64(dual[1, i, y, x]) ** 2
                        + 2 * np.float64(dual[2, i, y, x]) ** 2
                    )
                for x in range(1, n_x):
                    along_x[x] -= v[1, i, y, x - 1]
                    along_y[x] += np.float64(v[0, i, y, x]) - v[0, i, y, x - 1]
                for x in range(n_x):
                    bend[x] += above[x] ** 2 + along_x[x] ** 2 + along_y[x] ** 2 / 2
            else:
                for x in range(n_x):
                    slope[x] += (below[x] - here[x]) ** 2 + (here[x + 1] - here[x]) ** 2
            if ends[group]:
                for x in range(first, last):
                    tv += np.sqrt(slope[x]) + alpha * np.sqrt(bend[x])
                excess = max(excess, largest(norm_p), largest(norm_q) / alpha**2)
                norm_p[:] = 0
                norm_q[:] = 0
                slope[:] = 0
                bend[:] = 0
        for j in range(n_images):
            misfit = 0.0
            for x in range(first, last):
                away = haadf_factor[j] * np.float64(haadf[j, row, x]) - model[j, x]
                misfit += np.float64(haadf_precision[j, row, x]) * away**2 / 2
            row_terms[2 + j, y] = misfit
        row_terms[0, y] = chemical
        row_terms[1, y] = tv
        row_excess[y] = excess


@_kernel
def dual_rows(
    measured,
    dual,
    haadf_dual,
    shrink,
    multipliers,
    lift,
    found,
    second_order,
    row_values,
    start,
    stop,
):
    r"""Lower bound of the minimum of data terms plus a linear one, row by row.

    .. math::

        \min_{u ≥ 0} D(u) + \sum_j \tfrac{w_j}2 (h_j - k_j u)^2 + ⟨g, u⟩
        = \max_s -\sum_j \Bigl( \tfrac{s_j^2}{2 w_j} + s_j h_j \Bigr)
        + \min_{u ≥ 0} D(u) + ⟨g + \sum_j k_j s_j, u⟩

    Any s gives a bound, so that a few Newton steps from the iteration's `haadf_dual`
    are enough, for one image after the other.

    Parameters
    ----------
    measured : _Measured
        The problem, at least these rows of it.
    dual : numpy.ndarray
        q, or p without second order.
    haadf_dual : numpy.ndarray
        A first s, shape ``(n_images, y, x)``.
    shrink : float
        Factor of the dual point.
    multipliers : numpy.ndarray
        Of the flux, added to g at measured pixels, shape ``(n_elements,)``.
    lift : numpy.ndarray
        Added to g at measured pixels, for those that no other term bounds, shape
        ``(n_elements,)``.
    found : numpy.ndarray
        Maps u of the iteration: twice that bounds missing pixels that no term does.
    second_order : bool
        TGV or TV.
    row_values : numpy.ndarray
        The bound of each row, shape ``(y,)``, written.
    start, stop : int
        The rows.
    """
    data, background, variance = measured.data, measured.background, measured.variance
    pedestal, poisson, tv_scale = measured.pedestal, measured.poisson, measured.tv_scale
    coefficients = measured.coefficients
    n_elements, _, n_x = data.shape
    each_background = background.size > n_elements
    each_variance = variance.size > n_elements
    n_images = coefficients.shape[0]
    above, along_y, along_x = np.empty(n_x), np.empty(n_x), np.empty(n_x)
    rows = above, along_y, along_x, np.empty(n_x), np.empty(n_x, np.bool_)
    point = dual, second_order, shrink, multipliers, lift
    image, weight = np.empty((n_images, n_x)), np.empty((n_images, n_x))
    s = np.empty((n_images, n_x))
    scratch = np.empty(n_x), np.empty(n_x), np.empty(n_x)
    model = scratch[1]
    slopes, others = np.empty((n_elements, n_x)), np.empty((n_elements, n_x))
    # of counts: b and the offset; of values: the value and its variance
    first, second = np.empty((n_elements, n_x)), np.empty((n_elements, n_x))
    for y in range(start, stop):
        total = 0.0
        row = y - measured.top
        image_rows(measured, haadf_dual, y, image, weight, s)
        total -= slope_rows(point, y, found, measured, weight, rows, slopes)
        for i in range(n_elements):
            for x in range(n_x):
                b = np.float64(data[i, row, x])
                missing = np.isnan(b)
                if poisson:
                    offset = pedestal[i] + (
                        background[i, row, x]
                        if each_background
                        else background[i, 0, 0]
                    )
                    first[i, x] = 0.0 if missing else b + pedestal[i]
                    second[i, x] = 0.0 if missing else offset * tv_scale[i]
                else:
                    spread = np.float64(
                        variance[i, row, x] if each_variance else variance[i, 0, 0]
                    )
                    first[i, x] = 0.0 if missing else b * tv_scale[i]
                    second[i, x] = 0.0 if missing else spread * tv_scale[i] ** 2
        for _ in range(1 if n_images == 1 else _ROUNDS):
            for j in range(n_images):
                slopes_beside(j, slopes, coefficients, s, others)
                known = data[:, row]
                improve(
                    j, known, measured, others, first, second, image, weight, s, scratch
                )
        for i in range(n_elements):
            scale = 1 / tv_scale[i]
            for j in range(n_images):
                for x in range(n_x):
                    slopes[i, x] += coefficients[j, i] * s[j, x]
            for x in range(n_x):
                slope = slopes[i, x]
                if poisson:
                    u = max(first[i, x] / slope - second[i, x], 0.0)
                    model[x] = (u + second[i, x]) * scale
                else:
                    u = max(first[i, x] - second[i, x] * slope, 0.0)
                    model[x] = u
                total += slope * u
            for x in range(n_x):
                if poisson:
                    term = deviance_of(first[i, x], model[x])
                    term -= model[x] - second[i, x] * scale
                else:
                    term = (model[x] - first[i, x]) ** 2 / (2 * second[i, x])
                total += 0.0 if np.isnan(data[i, row, x]) else term
        row_values[y] = total + value_of_images(image, weight, s)
