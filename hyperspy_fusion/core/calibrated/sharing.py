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
from .groups import POOL, Chemistry, features, neighbours, shared
from .prepare import PreparedData
from .sample import busiest
from .split import split
from .weights import Weights, significance

_GROUPS = 16, 32, 64, 128  # neighbours
_FACTORS = 0.025, 0.05, 0.1, 0.2, 0.4, 0.8  # of λ
_LAMBDA_HAADF = 0.0, 0.003, 0.01, 0.03, 0.1, 0.3
_FIRST = 64, 0.1, 0.01
_HALF_ITERATIONS, _TRIAL_ITERATIONS = 60, 30
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
        split by which `choice` was chosen and on a fresh one.
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
    """

    accepted: bool = False
    gains: tuple[float, float] = (np.nan, np.nan)
    element: float = np.nan
    choice: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    size: float = np.nan
    returned: float = 0.0
    obstacle: str = ""

    @property
    def note(self) -> str:
        """What was done, for the user."""
        if self.obstacle:
            return f"pixels that look alike do not share their counts: {self.obstacle}"
        one, other = self.gains
        predicted = (
            f"the gain in the prediction of held-out data is {one:.1f} and {other:.1f} "
            f"standard deviations on two splits ({self.element:.1f} for the worst "
            "element)"
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
    """

    prepared: PreparedData
    maps: np.ndarray
    noise: np.ndarray
    target: Any = None
    near: np.ndarray | None = None
    known: dict[int, tuple[np.ndarray, float]] = field(default_factory=dict)

    def prepare(self, k: int, run: Workers, seed: int) -> None:
        """Average the data over groups of at most k pixels, once."""
        if k in self.known:
            return
        prepared = self.prepared
        if self.near is None or self.near.shape[1] < min(k, self.near.shape[0]):
            spread = np.sqrt((self.noise**2).mean(axis=(1, 2)))
            image = fill(prepared.haadf[None])[0]
            points = features(image, prepared.sigma, self.maps, spread, seed)
            self.near = neighbours(points, k, run, seed)
        limits = _LIMITS[prepared.variance is not None]
        chemistry = Chemistry.of(self.maps, self.noise, limits)
        self.known[k] = shared(prepared.data, self.near, k, chemistry, run)

    def problem(self, k: int, lambda_tv: float, lambda_haadf: float) -> Problem:
        """The problem of shared data, with the flux of the measured ones."""
        problem = self.prepared.problem(lambda_tv, lambda_haadf)
        return replace(problem, data=self.known[k][0])

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

    def cut(self, window: tuple[slice, slice]) -> "_Split":
        """A window of it, of which the groups are made, too."""
        rows, columns = window

        def part(array: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(array[..., rows, columns])

        for side in self.sides:
            side.prepared = side.prepared.cut(part)
            side.maps, side.noise = part(side.maps), part(side.noise)
            side.target = part(side.target)
        return self

    def gain(self, k: int, factor: float, lambda_haadf: float) -> np.ndarray:
        """How much lower the errors are than those of the first stage, by element."""
        for side in self.sides:
            side.prepare(k, self.run, self.seed)
        weights = factor * self.weights[0], lambda_haadf

        def gain(side: _Side, run: Workers) -> np.ndarray:
            problem = side.problem(k, *weights)
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
    window = None
    if prepared.haadf.size > 2 * POOL:
        window = busiest(prepared.net(), int(POOL**0.5))
    tried = count()

    def split_of(stream: int) -> _Split:
        found = _Split(prepared, before, run, (seed, stream))
        noise.append(found.noise)
        return found if window is None else found.cut(window)

    noise: list[np.ndarray] = []
    one = split_of(_STREAM[0])
    gains: dict[tuple, np.ndarray] = {}

    def total(*choice: Any) -> float:
        if choice not in gains:
            if callback is not None:
                callback(next(tried), np.inf)
            gains[choice] = one.gain(*choice)
        return gains[choice].sum()

    choice = _climb(total)
    other = split_of(_STREAM[1]).gain(*choice)
    both = gains[choice], other
    z = [significance(block_sums(gain.sum(axis=0))) for gain in both]
    by_element = [significance(block_sums(gain)) for gain in np.add(*both)]
    accepted = min(z) >= _LEAST_GAIN and min(by_element) >= _LEAST_OF_ELEMENT
    sharing = Sharing(
        accepted=accepted, gains=(z[0], z[1]), element=min(by_element), choice=choice
    )
    if not accepted:
        return sharing, optimum, weights
    k, factor, lambda_haadf = choice
    weights = replace(
        weights, lambda_tv=factor * weights.lambda_tv, lambda_haadf=lambda_haadf
    )
    side = _Side(prepared=prepared, maps=first, noise=noise[0])
    side.prepare(k, run, seed)
    optimum = minimise(
        side.problem(k, weights.lambda_tv, lambda_haadf),
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
        sharing, size=side.known[k][1], returned=float(np.mean(back > 0.5))
    )
    return sharing, replace(optimum, maps=maps), weights


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
