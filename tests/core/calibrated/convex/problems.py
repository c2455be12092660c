"""Random problems of the calibrated method, and their terms written out again."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from hyperspy_fusion.core.calibrated.convex.problem import Image, Problem
from hyperspy_fusion.core.common.operators import (
    gradient,
    joint_norm,
    total_generalised_variation,
)


def make_problem(
    shape=(18, 23),
    n_elements=2,
    *,
    counts=4.0,
    poisson=True,
    lambda_tv=2.0,
    missing=0.0,
    flux=True,
    seed=0,
    further=(),
    **changes,
):
    """Smooth random specimens, measured; `further` images have these weights."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.uniform(0, 1, (n_elements, *shape)), (0, 2, 2))
    truth *= counts / truth.mean()
    coefficients = rng.uniform(1, 4, n_elements)
    haadf = np.tensordot(coefficients, truth, 1)
    sigma = 0.02 * haadf.mean() * rng.uniform(0.5, 2, shape)
    haadf += sigma * rng.normal(size=shape)
    if poisson:
        variance = None
        data = rng.poisson(truth).astype(float)
        scale = np.maximum(data.mean(axis=(1, 2)), 1e-3)
    else:
        variance = counts * rng.uniform(0.5, 2, truth.shape)
        data = truth + np.sqrt(variance) * rng.normal(size=truth.shape)
        scale = variance.mean(axis=(1, 2))
    data[rng.random(data.shape) < missing] = np.nan
    sums = np.maximum(np.nansum(data, axis=(1, 2)), 0)
    tv_scale = lambda_tv / np.sqrt(scale)
    problem = Problem(
        data=rounded(data),
        background=np.zeros((n_elements, 1, 1)),
        pedestal=0.2 * scale,
        variance=None if variance is None else rounded(variance),
        haadf=rounded(haadf),
        haadf_precision=rounded(1 / sigma**2),
        lambda_haadf=0.1,
        coefficients=coefficients,
        tv_scale=tv_scale,
        typical=float(np.mean(tv_scale * truth.mean(axis=(1, 2)))),
        flux=np.where(flux, sums, np.inf) if np.any(flux) else None,
    )
    rng = np.random.default_rng([seed, 1])
    elastic = tuple(further_image(rng, truth, weight) for weight in further)
    return replace(problem, elastic=elastic, **changes)


def rounded(pixels):
    """Pixels as the kernels take them, whose bounds are of the problem with these."""
    return pixels.astype(np.float32).astype(float)


def further_image(rng, truth, weight):
    """Another elastic image of the specimen, with its own coefficients."""
    coefficients = rng.uniform(0, 3, len(truth))
    values = np.tensordot(coefficients, truth, 1)
    sigma = 0.03 * values.mean() * rng.uniform(0.5, 2, values.shape)
    precision = np.where(rng.random(values.shape) < 0.1, 0, sigma**-2.0)
    return Image(
        values=rounded(values + sigma * rng.normal(size=values.shape)),
        precision=rounded(precision),
        weight=weight,
        coefficients=coefficients,
    )


def objective(problem, maps, slopes):
    """Value at maps in counts and scaled slopes: data terms and total variation."""
    known = np.isfinite(problem.data)
    data = np.where(known, problem.data, 0)
    if problem.poisson:
        pedestal = problem.pedestal[:, None, None]
        expected = maps + problem.background + pedestal
        b = data + pedestal
        ratio = np.where(b > 0, expected / np.where(b > 0, b, 1), 1)
        chemical = expected - b - b * np.log(ratio)
    else:
        chemical = (maps - data) ** 2 / (2 * problem.variance)
    misfit = 0.0
    for image in problem.images:
        away = image.values - np.tensordot(image.coefficients, maps, 1)
        misfit += image.weight * np.sum(image.precision * away**2) / 2
    u = maps * problem.tv_scale[:, None, None]
    variation = 0.0
    for group in norm_groups(problem):
        if problem.alpha is None:
            variation += joint_norm(gradient(u[group])).sum()
        else:
            own = slopes[:, group]
            variation += total_generalised_variation(u[group], own, problem.alpha)
    return chemical[known].sum() + misfit + variation


def norm_groups(problem):
    """List the elements that share a norm, of each norm."""
    apart = np.array(problem.apart or [False] * len(problem.data))
    groups = [np.flatnonzero(~apart), *([i] for i in np.flatnonzero(apart))]
    return [list(group) for group in groups if len(group)]


def pixel_terms(problem, y, x):
    """Data terms of one pixel as a function of scaled u, with gradient."""
    tv_scale = problem.tv_scale
    b = problem.data[:, y, x]
    known = np.isfinite(b)
    b = np.where(known, b, 0)

    def terms(u):
        counts = u / tv_scale
        if problem.poisson:
            offset = problem.background[:, 0, 0] + problem.pedestal
            b_all = b + problem.pedestal
            each = counts - b_all * np.log(counts + offset)
            slope = 1 - b_all / (counts + offset)
        else:
            variance = problem.variance[:, y, x]
            each = (counts - b) ** 2 / (2 * variance)
            slope = (counts - b) / variance
        total, slope = each[known].sum(), np.where(known, slope, 0)
        for image in problem.images:
            weight = image.weight * image.precision[y, x]
            misfit = image.values[y, x] - image.coefficients @ counts
            total += weight * misfit**2 / 2
            slope -= weight * misfit * image.coefficients
        return total, slope / tv_scale

    return terms


def least(function, start):
    """Brute force: minimum over u >= 0 of a function with gradient."""
    best = None
    for method in ("L-BFGS-B", "SLSQP", "L-BFGS-B"):  # neither succeeds always
        found = minimize(
            function,
            start,
            jac=True,
            bounds=[(0, None)] * len(start),
            method=method,
            options={"maxiter": 500, "ftol": 1e-15},
        )
        if best is None or found.fun < best.fun:
            best, start = found, found.x
    return best.x, best.fun


PROBLEMS = {
    "poisson": {},
    "gaussian": {"poisson": False},
    "tv": {"alpha": None},
    "free flux": {"flux": False},
    "flux of one element free": {"flux": (False, True)},
    "one norm each": {"apart": (True, True)},
    "one element apart": {"n_elements": 3, "apart": (False, True, False)},
    "one element apart, tv": {"apart": (True, False), "alpha": None},
    "no haadf": {"lambda_haadf": 0.0},
    "missing": {"missing": 0.2},
    "missing, no haadf": {"missing": 0.2, "lambda_haadf": 0.0},
    "missing, free, no haadf": {"missing": 0.1, "lambda_haadf": 0.0, "flux": False},
    "missing values": {"missing": 0.2, "poisson": False, "lambda_haadf": 0.0},
    "gaussian tv": {"poisson": False, "alpha": None, "flux": False},
    "background": {"background": np.array([[[0.5]], [[2.0]]])},
    "one element": {"n_elements": 1},
    "twelve elements": {"n_elements": 12, "shape": (9, 10)},
    "one row": {"shape": (1, 90)},
    "one column": {"shape": (90, 1)},
    "few counts": {"counts": 0.05},
    "many counts": {"counts": 1e4},
    "no coefficients": {"coefficients": np.zeros(2)},
    "two images": {"further": (0.1,)},
    "two images, values": {"further": (0.3,), "poisson": False, "missing": 0.2},
    "further image alone": {"further": (0.1,), "lambda_haadf": 0.0, "missing": 0.1},
    "four images": {"further": (0.1, 1.0, 0.03), "n_elements": 3, "missing": 0.2},
    "few counts, two images": {"further": (1.0,), "counts": 0.05, "flux": False},
}
each_problem = pytest.mark.parametrize("options", PROBLEMS.values(), ids=PROBLEMS)
