"""Duals of the images for the certificate: Newton's method along a row, in float64."""

import numpy as np

from ...common.compilation import compilers, index, section
from .rows import pull_of

ROUNDING = 1e-12
# The bound holds for maps of up to so many times the flux found, where it is free, and
# the values found at missing pixels.
MOST = 2.0
_NEWTON = 1e-5  # largest last change of a dual
_NEWTON_STEPS = 20

# NaN and infinity have to be respected.
_FASTMATH = {"reassoc", "contract", "nsz"}
_, _part = compilers(fastmath=_FASTMATH)
_section = section(fastmath=_FASTMATH)
_, _part_of_finite = compilers(fastmath=True)


@_part_of_finite
def largest(row):
    """Largest of finite numbers, in a loop that can be vectorised."""
    largest = row[0]
    for x in range(row.size):
        largest = max(largest, row[x])
    return largest


@_part
def _positive_root(b, c):
    """The root of t^2 + b t - c, where c >= 0, without cancellation."""
    larger = (np.sqrt(b**2 + 4 * c) + abs(b)) / 2
    return c / max(larger, 1e-300) if b > 0 else larger


@_part
def image_rows(measured, haadf_dual, y, image, weight, s):
    """Row y of h and w of each image in the unit of the kernels, and of a first s."""
    haadf, precision = measured.haadf, measured.haadf_precision
    row = y - measured.top
    for j in range(image.shape[0]):
        for x in range(image.shape[1]):
            image[j, x] = measured.haadf_factor[j] * np.float64(haadf[j, row, x])
            weight[j, x] = measured.weight_factor[j] * np.float64(precision[j, row, x])
            s[j, x] = np.float64(haadf_dual[j, y, x]) if weight[j, x] > 0 else 0.0


@_section
def slope_rows(point, y, found, measured, weight, rows, g):
    """Row y of the slope g of each element from all terms but those of the images.

    It is raised at missing pixels that no other term bounds. Returns what that may
    cost, with maps of :data:`MOST` times those `found`.
    """
    dual, second_order, shrink, multipliers, lift = point
    data, coefficients = measured.data, measured.coefficients
    above, along_y, along_x, pull, held = rows
    n_elements, n_x = g.shape
    row = y - measured.top
    cost = 0.0
    for i in range(index(n_elements)):
        pull_of(dual, second_order, i, y, above, along_y, along_x, pull)
        scale = 1 / measured.tv_scale[i]
        at_measured = multipliers[i] + (scale if measured.poisson else 0.0)
        held[:] = False
        for j in range(coefficients.shape[0]):
            if coefficients[j, i] > 0:
                for x in range(n_x):
                    held[x] = held[x] or weight[j, x] > 0
        for x in range(n_x):
            missing = np.isnan(data[i, row, x])
            slope = shrink * pull[x] + (0.0 if missing else at_measured)
            least = ROUNDING * (scale + abs(slope))
            slope += 0.0 if missing else lift[i]
            raised = slope
            if missing and not held[x]:
                raised = max(slope, least)
            cost += (raised - slope) * MOST * max(found[i, y, x], np.float32(0))
            g[i, x] = raised
    return cost


@_part
def slopes_beside(j, slopes, coefficients, s, others):
    """Slopes of all elements from all but one image."""
    n_elements, n_x = slopes.shape
    for i in range(n_elements):
        for x in range(n_x):
            others[i, x] = slopes[i, x]
        for other in range(s.shape[0]):
            if other != j:
                for x in range(n_x):
                    others[i, x] += coefficients[other, i] * s[other, x]


@_part
def value_of_images(image, weight, s):
    """Sum of -s² / 2 w - s h along a row of each image."""
    value = 0.0
    for j in range(s.shape[0]):
        for x in range(s.shape[1]):
            if weight[j, x] > 0:
                value -= s[j, x] ** 2 / (2 * weight[j, x]) + s[j, x] * image[j, x]
    return value


@_section
def improve(j, data, measured, slopes, first, second, image, weight, s, scratch):
    """Newton steps along a row for the dual of one image, the others being held.

    `slopes` are those from all else. The dual is not below its floor, so that the
    slope of each element that the image shows is positive where it has to be.
    """
    poisson, tv_scale = measured.poisson, measured.tv_scale
    coefficients = measured.coefficients
    n_elements, n_x = slopes.shape
    floor, model, response = scratch
    floor[:] = -np.inf
    for i in range(n_elements):
        k, scale = coefficients[j, i], 1 / tv_scale[i]
        if k <= 0:
            continue
        for x in range(n_x):
            slope = slopes[i, x]
            # This is where g + k s is 0 but for rounding. With element i alone s
            # would come out as alone - slope / k; the others only raise it.
            least = ROUNDING * (scale + abs(slope))
            if poisson or np.isnan(data[i, x]):
                shift = second[i, x] if poisson else 0.0
                middle = weight[j, x] * (image[j, x] + k * shift) - slope / k
                alone = _positive_root(middle, weight[j, x] * first[i, x])
                floor[x] = max(floor[x], max(alone, least / k) - slope / k)
    for x in range(n_x):
        s[j, x] = max(s[j, x], floor[x]) if weight[j, x] > 0 else 0.0
    for _ in range(_NEWTON_STEPS):
        model[:] = 0
        response[:] = 0
        for i in range(n_elements):
            k = coefficients[j, i]
            if k <= 0:
                continue
            if poisson:
                for x in range(n_x):
                    inverse = 1 / (slopes[i, x] + k * s[j, x])
                    u = first[i, x] * inverse - second[i, x]
                    model[x] += k * max(u, 0.0)
                    # a branch that loads a number would not be vectorised
                    seen = inverse if u > 0 else 0.0
                    response[x] += k**2 * first[i, x] * seen**2
            else:
                for x in range(n_x):
                    u = first[i, x] - second[i, x] * (slopes[i, x] + k * s[j, x])
                    model[x] += k * max(u, 0.0)
                    seen = 1.0 if u > 0 else 0.0
                    response[x] += k**2 * second[i, x] * seen
        for x in range(n_x):
            balance = s[j, x] + weight[j, x] * (image[j, x] - model[x])
            new = s[j, x] - balance / (1 + weight[j, x] * response[x])
            new = max(new, floor[x]) if weight[j, x] > 0 else 0.0
            response[x] = abs(new - s[j, x]) - _NEWTON * (1 + abs(s[j, x]))
            s[j, x] = new
        if largest(response) <= 0:
            break
