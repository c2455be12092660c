"""The published algorithm, step by step.

J. Schwartz et al., npj Comput. Mater. 8, 16 (2022); J. Manassa, M. Shah et al.,
Elemental Microscopy (2024). Maps and HAADF image are scaled to [0, 1]; each iteration
takes a gradient step of unit length on both data terms, clips at zero and denoises
each element by total variation, which together is a proximal-gradient step on

    lambda_haadf Ψ_1 + lambda_chem Ψ_2 + lambda_tv TV.
"""

from dataclasses import dataclass
from functools import partial
from math import inf
from numbers import Integral
from typing import get_args

import numpy as np

from .forward import PowerModel, ZWeighting, element_weights
from .kernels import iterate_published, published_tiles, tv_schedule
from .objective import PublishedObjective
from .solver import CostHistory, Solution, Status, iterate
from .threads import most_at_once, workers
from .total_variation import TVAlgorithm

__all__ = ["PublishedOptions", "published_objective", "scale_to_unit", "solve"]


@dataclass(frozen=True, kw_only=True)
class PublishedOptions:
    """What can be set; the defaults are those of the DyScO3 tutorial.

    Attributes
    ----------
    gamma : float
        Exponent γ of the Z-contrast, at least 1, dimensionless.
    lambda_haadf : float or None
        Weight of the HAADF term; None means 1 / n_elements.
    lambda_chem : float
        Weight of the Poisson term.
    lambda_tv : float
        Weight of the total variation.
    background : float
        ε of the Poisson term, of the maps scaled to [0, 1].
    z_weighting : {"Z", "none", "Z/sum", "Z**gamma", "Z**gamma/sum"}
        See :func:`~hyperspy_fusion.core.forward.element_weights`.
    initial_threshold : float or None
        Start from the scaled maps with all below this set to 0.
    n_iter : int
        Number of iterations.
    n_iter_tv : int
        Steps of the TV prox in each iteration.
    regularize : bool
        False turns the total variation off.
    tv_algorithm : {"FGP", "GP"}
        Fast or plain gradient projection.
    tolerance : float or None
        Stop early when the total cost changes by at most this part of itself in one
        iteration.

    Raises
    ------
    ValueError
        If a value is outside its range.
    """

    gamma: float = 1.6
    lambda_haadf: float | None = None
    lambda_chem: float = 0.08
    lambda_tv: float = 0.15
    background: float = 0.24
    z_weighting: ZWeighting = "Z"
    initial_threshold: float | None = None
    n_iter: int = 30
    n_iter_tv: int = 3
    regularize: bool = True
    tv_algorithm: TVAlgorithm = "FGP"
    tolerance: float | None = None

    def __post_init__(self):
        checks = {
            "gamma": (1 <= self.gamma < inf, "at least 1"),
            "lambda_haadf": (
                self.lambda_haadf is None or 0 <= self.lambda_haadf < inf,
                "at least 0, or None for 1 / n_elements",
            ),
            "lambda_chem": (0 <= self.lambda_chem < inf, "at least 0"),
            "lambda_tv": (0 <= self.lambda_tv < inf, "at least 0"),
            "background": (
                0 < self.background < inf,
                "above 0, since the logarithm of empty pixels is taken",
            ),
            "z_weighting": (
                self.z_weighting in get_args(ZWeighting),
                "one of " + ", ".join(map(repr, get_args(ZWeighting))),
            ),
            "initial_threshold": (
                self.initial_threshold is None or 0 <= self.initial_threshold <= 1,
                "0 to 1, a part of the range of the maps, or None",
            ),
            "n_iter": (_is_count(self.n_iter), "a whole number of at least 1"),
            "n_iter_tv": (
                _is_count(self.n_iter_tv),
                "a whole number of at least 1; regularize=False turns the TV off",
            ),
            "tv_algorithm": (
                self.tv_algorithm in get_args(TVAlgorithm),
                "one of " + ", ".join(map(repr, get_args(TVAlgorithm))),
            ),
            "tolerance": (
                self.tolerance is None or 0 < self.tolerance < inf,
                "above 0, or None to run all iterations",
            ),
        }
        for name, (fits, expected) in checks.items():
            if not fits:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: expected {expected}"
                )


def _is_count(number):
    return isinstance(number, Integral) and number >= 1


def scale_to_unit(image):
    """Scale an image to [0, 1].

    Parameters
    ----------
    image : numpy.ndarray
        Any real image.

    Returns
    -------
    scaled : numpy.ndarray
        Same shape, float32; 0 everywhere where the image is constant.
    low, span : float
        Minimum and range of the image, in its units: ``low + span * scaled`` is the
        image again.
    """
    low = float(image.min())
    span = float(image.max()) - low
    scaled = np.subtract(image, low, dtype=np.float64)
    if span > 0:
        scaled *= 1 / span
    return scaled.astype(np.float32), low, span


def published_objective(measured, haadf, atomic_numbers, options):
    """Scale the data to [0, 1] and state the objective.

    Parameters
    ----------
    measured : numpy.ndarray
        Measured maps, shape ``(n_elements, y, x)``, in any units.
    haadf : numpy.ndarray
        HAADF image, shape ``(y, x)``, in any units.
    atomic_numbers : sequence of int
        Z_i, shape ``(n_elements,)``.
    options : PublishedOptions
        The weights and exponents.

    Returns
    -------
    objective : PublishedObjective
        In terms of the scaled maps.
    scaling : dict
        ``map_offset`` and ``map_range``, shape ``(n_elements,)``: minimum and range
        of each measured map; ``haadf_offset`` and ``haadf_range``: of the image.
    """
    scaled, low, span = zip(*map(scale_to_unit, measured), strict=True)
    scaled_haadf, haadf_low, haadf_span = scale_to_unit(haadf)
    lambda_haadf = options.lambda_haadf
    objective = PublishedObjective(
        measured=np.stack(scaled),
        haadf=scaled_haadf,
        model=PowerModel(
            weights=element_weights(atomic_numbers, options.gamma, options.z_weighting),
            gamma=options.gamma,
        ),
        lambda_haadf=1 / len(scaled) if lambda_haadf is None else lambda_haadf,
        lambda_chem=options.lambda_chem,
        lambda_tv=options.lambda_tv if options.regularize else 0.0,
        background=options.background,
    )
    scaling = {
        "map_offset": np.array(low),
        "map_range": np.array(span),
        "haadf_offset": haadf_low,
        "haadf_range": haadf_span,
    }
    return objective, scaling


def solve(measured, haadf, atomic_numbers, options, *, num_workers=None, callback=None):
    """Run the published algorithm on one field of view.

    Parameters
    ----------
    measured, haadf, atomic_numbers, options
        As for :func:`published_objective`.
    num_workers : int, optional
        Number of threads; by default Numba's setting.
    callback : callable, optional
        ``callback("solution", n_iter, total_cost)`` after some milliseconds of
        iterations.

    Returns
    -------
    Solution
        Maps in the units of `measured`.

    Raises
    ------
    FloatingPointError
        If the iteration diverges.
    """
    objective, scaling = published_objective(measured, haadf, atomic_numbers, options)
    maps, others = objective.measured.copy(), np.empty_like(objective.measured)
    if options.initial_threshold is not None:
        maps[maps < options.initial_threshold] = 0
    n_iter_tv = options.n_iter_tv if objective.lambda_tv > 0 else 0
    schedule = tv_schedule(
        objective.lambda_tv or 1.0, n_iter_tv, fast=options.tv_algorithm == "FGP"
    )
    parameters = np.float32(
        [
            objective.model.gamma,
            objective.lambda_haadf,
            objective.lambda_chem,
            objective.background,
        ]
    )
    weights = objective.model.weights.astype(np.float32)

    with workers(num_workers) as run:

        def advance(n_iter, schedule):
            tiles = published_tiles(objective.measured.shape, len(schedule) - 1)
            row_terms = np.zeros((n_iter, len(tiles), 3, len(objective.haadf)))
            run.together(
                iterate_published,
                maps,
                others,
                objective.measured,
                objective.haadf,
                weights,
                *parameters,
                schedule,
                tiles,
                row_terms,
                most=len(tiles),
            )
            return row_terms.sum(axis=(1, 3))

        def steps(n_iter):
            nonlocal maps, others
            terms = advance(n_iter, schedule)
            if n_iter % 2:
                maps, others = others, maps
            return terms

        terms, status = iterate(
            steps,
            lambda: advance(1, schedule[:1])[0],  # the new maps are not used
            objective.weigh,
            n_iter=options.n_iter,
            at_once=most_at_once(objective.measured.size),
            tolerance=options.tolerance,
            callback=None if callback is None else partial(callback, "solution"),
        )

    by_term = np.array(terms).T
    costs = CostHistory(
        total=objective.weigh(by_term),
        haadf=by_term[0],
        chemical=by_term[1],
        tv=by_term[2],
    )
    shape = (len(maps), 1, 1)
    maps *= scaling["map_range"].astype(np.float32).reshape(shape)
    maps += scaling["map_offset"].astype(np.float32).reshape(shape)
    return Solution(
        maps=maps,
        costs=costs,
        n_iter=len(costs.total),
        status=describe_rises(status, costs),
        converged=status is Status.CONVERGED,
        record={
            "lambda_haadf": objective.lambda_haadf,
            "haadf_coefficients": objective.model.weights,
            **scaling,
        },
    )


def describe_rises(status, costs):
    """Add to a status in how many iterations a cost rose.

    The objective is not convex and the step is not adapted, so a rise is no error, but
    it says that the result depends on when the method stopped.

    Parameters
    ----------
    status : Status
        Why the solver stopped.
    costs : CostHistory
        The costs.

    Returns
    -------
    str
    """
    rises = {
        name: int(np.sum(np.diff(getattr(costs, name)) > 0))
        for name in ("total", "haadf", "chemical", "tv")
    }
    rose = ", ".join(f"{name} in {count}" for name, count in rises.items() if count)
    if not rose:
        return str(status)
    return f"{status}; costs that rose, of {len(costs.total) - 1} steps: {rose}"
