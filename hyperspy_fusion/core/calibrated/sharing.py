r"""Second stage: pixels that look alike share their counts.

Crystals repeat and particles have plateaus. Pixels whose surroundings look alike in the
HAADF image and in the fused maps are put in groups, the measured data are averaged over
each, and the same convex problem is solved again with weaker weights, if held-out
counts of two splits say that this predicts them better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from ..common.missing import fill
from ..common.operators import block_sums
from ..common.threads import Workers
from .convex.problem import Problem
from .convex.solver import Optimum, minimise
from .groups import Chemistry, Groups, Looks, neighbours
from .prepare import PreparedData
from .sample import at_places, busiest_of_quarters
from .split import split
from .weights import Weights, significance

_GROUPS = 16, 32, 64, 128  # neighbours
_FACTORS = 0.025, 0.05, 0.1, 0.2, 0.4, 0.8  # of λ
_LAMBDA_HAADF = 0.0, 0.003, 0.01, 0.03, 0.1, 0.3
_FIRST = 64, 0.1, 0.01
_HALF_ITERATIONS, _TRIAL_ITERATIONS = 60, 30
# Pixels a side of the part of larger images, of four squares, on which is decided.
_WINDOW = 128
_STREAM = 7, 8  # of the random numbers of the two splits
# Standard deviations of the held-out gain on each split, and least one of an element.
_LEAST_GAIN, _LEAST_OF_ELEMENT = 3.0, -1.0
# Standard deviations of chemistry in groups and around them: for counts, for values.
_LIMITS = (3.0, 5.0), (1.5, 2.5)
# Where the data contradict the second stage: standard deviations of the misfit, and
# more than that of the first; pixels of the Gaussians.
_MISFIT, _MORE, _MISFIT_WIDTH, _EDGE_WIDTH = 4.5, 0.5, 2.0, 2.0


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What the second stage found.

    Attributes
    ----------
    accepted : bool
        Whether its maps are those of the fusion.
    gains : tuple of float
        How much better held-out data are predicted, in standard deviations, on the
        split by which `choice` was chosen and on a fresh one; NaN if that was not
        needed to reject it.
    element : float
        The same of the element that gains least, on both together.
    choice : tuple
        Number of neighbours, factor of λ, and μ.
    size : float
        Mean size of a group; NaN if not accepted.
    returned : float
        Fraction of the pixels where the data contradict the second stage, so that the
        first is kept there.
    obstacle : str
        Why it was not tried; empty if it was.
    problem_of : callable or None
        ``problem_of(prepared)`` is the problem of other data of the same pixels, in the
        same groups; None if not accepted, or there are no errors to estimate.
    """

    accepted: bool = False
    gains: tuple[float, float] = (np.nan, np.nan)
    element: float = np.nan
    choice: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    size: float = np.nan
    returned: float = 0.0
    obstacle: str = ""
    problem_of: Callable[[PreparedData], Problem] | None = None

    @property
    def note(self) -> str:
        """What was done, for the user."""
        if self.obstacle:
            return f"pixels that look alike do not share their counts: {self.obstacle}"
        one, other = self.gains
        values, splits = f"{one:.1f} and {other:.1f}", "two splits"
        if np.isnan(other):
            values, splits = f"{one:.1f}", "a split"
        predicted = (
            f"the gain in the prediction of held-out data is {values} standard "
            f"deviations on {splits} ({self.element:.1f} for the worst element)"
        )
        if not self.accepted:
            return (
                f"pixels that look alike do not share their counts: {predicted}, and "
                f"{_LEAST_GAIN:g} are required, {_LEAST_OF_ELEMENT:g} for each element"
            )
        kept = ""
        if self.returned > 0:
            kept = (
                f". In {100 * self.returned:.2g} % of the pixels the measured counts "
                "contradict that, and each pixel has its own"
            )
        return (
            f"pixels that look alike share their counts, {self.size:.0f} in the mean: "
            f"{predicted}{kept}. The maps are no proof that such pixels are equal"
        )

    def record(self) -> dict[str, Any]:
        """Entries of the record of the fusion."""
        k, factor, lambda_haadf = self.choice
        return {
            "sharing": float(self.accepted),
            "sharing_gain": np.array(self.gains),
            "sharing_neighbours": float(k),
            "sharing_factor": factor,
            "sharing_lambda_haadf": lambda_haadf,
            "sharing_size": self.size,
            "sharing_returned": self.returned,
        }


@dataclass(kw_only=True)
class _Side:
    """Data with their first stage, and what their groups are made of.

    Attributes
    ----------
    prepared : PreparedData
        The data.
    maps : numpy.ndarray
        First stage of these data alone.
    noise : numpy.ndarray
        Maps whose variance is that of the noise of `maps`.
    target : numpy.ndarray or None
        What has to be predicted, of the same dose.
    near : numpy.ndarray or None
        Neighbours of its pixels, once they were sought.
    known : dict
        Shared data, by the number of neighbours.
    """

    prepared: PreparedData
    maps: np.ndarray
    noise: np.ndarray
    target: Any = None
    near: np.ndarray | None = None
    known: dict[int, np.ndarray] = field(default_factory=dict)

    def groups(self, k: int, most: int, run: Workers, seed: int) -> Groups:
        """Groups of k of the `most` nearest pixels, which are sought once."""
        prepared = self.prepared
        if self.near is None:
            spread = np.sqrt((self.noise**2).mean(axis=(1, 2)))
            image = fill(prepared.haadf[None])[0]
            looks = Looks.of(image, prepared.sigma, self.maps, spread, run, seed)
            self.near = neighbours(looks, most, run, seed)
        limits = _LIMITS[prepared.variance is not None]
        chemistry = Chemistry.of(self.maps, self.noise, limits)
        return Groups.of(self.near, k, chemistry, run)

    def share(self, k: int, run: Workers, seed: int) -> None:
        """Average the data over groups of k pixels, once."""
        if k not in self.known:
            groups = self.groups(k, _GROUPS[-1], run, seed)
            self.known[k] = groups.mean(self.prepared.data, run)

    def errors(self, maps: np.ndarray) -> np.ndarray:
        """Squared errors of the prediction in units of its noise, by element."""
        target: Any = self.target
        norm = np.nanmean(target, axis=(1, 2), keepdims=True)
        if self.prepared.variance is not None:
            variance = np.broadcast_to(self.prepared.variance, target.shape)
            norm = variance.mean(axis=(1, 2), keepdims=True)
        squares = (target - maps - self.prepared.background) ** 2
        return np.nan_to_num(squares / np.where(norm > 0, norm, 1))


class _Split:
    """Two halves of the data, each of which has to predict the other."""

    def __init__(
        self, prepared: PreparedData, weights: Sequence[float], run: Workers, seed: Any
    ) -> None:
        self.weights, self.run, self.seed = weights, run, seed[0]
        dose, (one, other) = split(prepared, *seed)

        def first(half: PreparedData, run: Workers) -> np.ndarray:
            problem = half.problem(*weights)
            return minimise(
                problem, run, tolerance=None, max_iter=_HALF_ITERATIONS
            ).maps

        maps = run.each(first, (one, other))
        difference = maps[0] - maps[1]
        # of the fit of all the data; twice the dose, or half the variance
        self.noise = difference if dose < 1 else difference / 2
        noise = difference / np.sqrt(2)
        self.sides = [
            _Side(prepared=half, maps=x, noise=noise, target=target.data)
            for half, x, target in zip((one, other), maps, (other, one), strict=True)
        ]

    def gain(self, k: int, factor: float, lambda_haadf: float) -> np.ndarray:
        """How much lower the errors are than those of the first stage, by element."""
        for side in self.sides:
            side.share(k, self.run, self.seed)
        weights = factor * self.weights[0], lambda_haadf

        def gain(side: _Side, run: Workers) -> np.ndarray:
            problem = _of_shared(side.prepared, side.known[k], *weights)
            maps = minimise(
                problem, run, tolerance=None, max_iter=_TRIAL_ITERATIONS
            ).maps
            return side.errors(side.maps) - side.errors(maps)

        return np.sum(self.run.each(gain, self.sides), axis=0)


def share_counts(
    prepared: PreparedData,
    optimum: Optimum,
    weights: Weights,
    run: Workers,
    options: Any,
    *,
    fractions: bool = False,
    callback: Callable | None = None,
) -> tuple[Sharing, Optimum, Weights]:
    """Choose groups and weights, and fuse with shared counts if that predicts better.

    Parameters
    ----------
    prepared : PreparedData
        The data, with coefficients.
    optimum : Optimum
        The first stage.
    weights : Weights
        Its weights.
    run : Workers
        The threads.
    options : CalibratedOptions
        Its `seed`, `tolerance` and `max_iter`.
    fractions : bool
        Whether the data are rounds of a composition map; then it is not tried.
    callback : callable, optional
        ``callback(n, inf)`` before each trial, and as that of the solver.

    Returns
    -------
    Sharing
        What was found.
    Optimum
        Of the second stage, with the maps of the first where the data contradict it;
        the first stage if that is not accepted.
    Weights
        With the λ and μ of that stage.
    """
    if fractions or prepared.correlated:
        why = "maps of fractions" if fractions else "maps that were filtered"
        return Sharing(obstacle=f"it is not made for {why}"), optimum, weights
    seed, first = options.seed, optimum.maps
    before = weights.lambda_tv, weights.lambda_haadf
    seen = prepared
    if prepared.haadf.size > 2 * _WINDOW**2:
        places = busiest_of_quarters(prepared.net(), _WINDOW // 2)
        seen = prepared.cut(lambda array: at_places(array, places))
    one = _Split(seen, before, run, (seed, _STREAM[0]))
    tried = count()
    gains: dict[tuple, np.ndarray] = {}

    def total(*choice: Any) -> float:
        if choice not in gains:
            if callback is not None:
                callback(next(tried), np.inf)
            gains[choice] = one.gain(*choice)
        return gains[choice].sum()

    choice = _climb(total)
    each = [gains[choice]]
    if _gain_of_all(each[0]) >= _LEAST_GAIN:
        each.append(_Split(seen, before, run, (seed, _STREAM[1])).gain(*choice))
    z = [*map(_gain_of_all, each), np.nan]
    by_element = [significance(block_sums(gain)) for gain in np.sum(each, axis=0)]
    sharing = Sharing(gains=(z[0], z[1]), element=min(by_element), choice=choice)
    if not (min(z[:2]) >= _LEAST_GAIN and min(by_element) >= _LEAST_OF_ELEMENT):
        return sharing, optimum, weights
    k, factor, lambda_haadf = choice
    weights = replace(
        weights, lambda_tv=factor * weights.lambda_tv, lambda_haadf=lambda_haadf
    )
    groups = groups_of(prepared, first, before, k, run, seed)

    def problem_of(data: PreparedData) -> Problem:
        means = groups.mean(data.data, run)
        return _of_shared(data, means, weights.lambda_tv, lambda_haadf)

    optimum = minimise(
        problem_of(prepared),
        run,
        tolerance=options.tolerance,
        max_iter=options.max_iter,
        callback=callback,
        early=True,
    )
    back = share_of_first(prepared, first, optimum.maps)
    maps = optimum.maps + back * (first - optimum.maps)
    if prepared.flux is not None and back.any():
        known = np.isfinite(prepared.data)
        sums = maps.sum(axis=(1, 2), dtype=np.float64, where=known)
        kept = prepared.lock.kept & (sums > 0)
        ratio = np.where(kept, prepared.flux / np.where(kept, sums, 1), 1)
        maps *= ratio.astype(np.float32)[:, None, None]
    sharing = replace(
        sharing,
        accepted=True,
        size=groups.size,
        returned=float(np.mean(back > 0.5)),
        problem_of=problem_of if options.n_refits else None,
    )
    return sharing, replace(optimum, maps=maps), weights


def groups_of(
    prepared: PreparedData,
    first: np.ndarray,
    weights: Sequence[float],
    k: int,
    run: Workers,
    seed: int,
) -> Groups:
    """The groups of a fusion, from its first stage and the λ and μ of that."""
    noise = _Split(prepared, weights, run, (seed, _STREAM[0])).noise
    return _Side(prepared=prepared, maps=first, noise=noise).groups(k, k, run, seed)


def _of_shared(
    prepared: PreparedData, data: np.ndarray, lambda_tv: float, lambda_haadf: float
) -> Problem:
    """The problem of shared data, with the flux of the measured ones."""
    return replace(prepared.problem(lambda_tv, lambda_haadf), data=data)


def _gain_of_all(gain: np.ndarray) -> float:
    """Gain of all elements together, in standard deviations."""
    return significance(block_sums(gain.sum(axis=0)))


def _climb(total: Callable) -> tuple[int, float, float]:
    """Neighbours, factor of λ and μ of the highest gain near the usual ones."""
    grids = _GROUPS, _FACTORS, _LAMBDA_HAADF
    place = [grid.index(value) for grid, value in zip(grids, _FIRST, strict=True)]

    def at(axis: int, i: int) -> tuple:
        where = [*place]
        where[axis] = i
        return tuple(grid[j] for grid, j in zip(grids, where, strict=True))

    for _ in range(2):
        before = tuple(place)
        for axis in (1, 2, 0):
            while True:
                i = place[axis]
                near = [j for j in (i, i - 1, i + 1) if 0 <= j < len(grids[axis])]
                place[axis] = max(near, key=lambda j: total(*at(axis, j)))
                if place[axis] == i:
                    break
        if tuple(place) == before:
            break
    return at(0, place[0])


def share_of_first(
    prepared: PreparedData, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Share of the first stage in each pixel, 0 to 1, shape ``(y, x)``, float32.

    1 where the measured data contradict the second stage by more than 4.5 standard
    deviations, in the mean over 2 pixels, and the first one less.
    """
    largest = partial(_largest_misfit, prepared)
    z = largest(second)
    bad = (z > _MISFIT) & (z > largest(first) + _MORE)
    share = gaussian_filter(bad.astype(np.float32), _EDGE_WIDTH)
    return np.clip(3 * share, 0, 1)


def _largest_misfit(prepared: PreparedData, maps: np.ndarray) -> np.ndarray:
    """Largest misfit of all elements, in standard deviations of its local mean."""
    width = 0, _MISFIT_WIDTH, _MISFIT_WIDTH
    known = np.isfinite(prepared.data)
    residual = np.where(known, prepared.net() - maps, 0)
    variance = np.where(known, prepared.noise_variance(maps), 0)
    mean = gaussian_filter(residual, width, mode="constant")
    # the square of a Gaussian is a narrower one
    narrow = gaussian_filter(variance, np.divide(width, 2**0.5), mode="constant")
    spread = np.sqrt(narrow / (4 * np.pi * _MISFIT_WIDTH**2) + 1e-12)
    return np.abs(mean / spread).max(axis=0)
