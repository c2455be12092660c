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
from .flux import FluxLock
from .groups import Groups, LocalChemistry, Looks, neighbours
from .multinomial import Fractions
from .noise import cumulant_of_mean
from .options import CalibratedOptions
from .prepare import PreparedData
from .sample import at_places, busiest_of_quarters
from .split import split
from .unmixed import unmixed, with_counts
from .weights import Weights, significance

_GROUPS = 16, 32, 64, 128  # neighbours
_FACTORS = 0.025, 0.05, 0.1, 0.2, 0.4, 0.8  # of λ
_LAMBDA_HAADF = 0.0, 0.003, 0.01, 0.03, 0.1, 0.3
_FIRST = 64, 0.1, 0.01
_HALF_ITERATIONS, _TRIAL_ITERATIONS = 60, 30
_ALONE_ITERATIONS = 40  # of halves of fractions without the image
# Pixels a side of the part of larger images, of four squares, on which is decided.
_WINDOW = 128
_SIDE_BY_SIDE = 2**18  # pixels up to which both halves are fused at once
_STREAM = 7, 8  # of the random numbers of the two splits
# Standard deviations of the held-out gain on each split, and of an element on both.
# With gains of 0 to 1 single elements were up to 1.27 times worse, with more 1.03. Of
# fractions, which depend on each other, no element may lose so much.
_LEAST_GAIN, _LEAST_OF_ELEMENT, _LEAST_OF_FRACTIONS = 3.0, 1.0, -1.0
# Standard deviations of chemistry in groups and around them. Of fractions the contents
# of columns of DyScO3 vary by more than their noise: with wider limits these are lost.
_COUNTS, _VALUES, _FRACTIONS = (3.0, 5.0), (1.5, 2.5), (1.0, 1.5)
# Where the data contradict the second stage: standard deviations of the misfit, and
# more than that of the first; pixels of the Gaussians.
_MEAN_WIDTH, _LEAST_MEAN = 12.0, 0.1  # pixels, and fraction of the mean of a map
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
    lower : float
        How much lower the squared errors of held-out data are on the last of these
        splits, noise included, as a fraction.
    by_element : tuple of float
        The gain of each element, on both together; NaN if it was not tried.
    together : bool
        Whether all elements share or none, as fractions do.
    choice : tuple
        Number of neighbours, factor of λ, and μ.
    size : float
        Mean size of a group; NaN if not accepted, or for all tiles of an image.
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
    lower: float = np.nan
    by_element: tuple[float, ...] = ()
    together: bool = False
    choice: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    size: float = np.nan
    returned: float = 0.0
    obstacle: str = ""
    problem_of: Callable[[PreparedData], Problem] | None = None

    @property
    def shared(self) -> np.ndarray:
        """Whose maps are those of shared counts; others do not gain enough by it."""
        least = -np.inf if self.together else _LEAST_OF_ELEMENT
        return np.array([self.accepted and z >= least for z in self.by_element])

    def shared_of(self, n: int) -> np.ndarray:
        """As :attr:`shared`, of n maps: other components of spectra share always."""
        others = np.full(n - self.shared.size, self.accepted)
        return np.concatenate([self.shared, others])

    @property
    def note(self) -> str:
        """What was done, for the user."""
        if self.obstacle:
            return f"pixels that look alike do not share their counts: {self.obstacle}"
        one, other = self.gains
        worst = min(self.by_element)
        values, splits = f"{one:.1f} and {other:.1f}", "two splits"
        if np.isnan(other):
            values, splits = f"{one:.1f}", "a split"
        predicted = (
            f"the gain in the prediction of held-out data is {values} standard "
            f"deviations on {splits} ({worst:.2f} for the worst element; their squared "
            f"errors are {100 * self.lower:.2g} % lower)"
        )
        if not self.accepted:
            limit = f"{_LEAST_OF_ELEMENT:g} for one of the elements"
            if self.together:
                limit = f"{_LEAST_OF_FRACTIONS:g} for each element"
            return (
                f"pixels that look alike do not share their counts: {predicted}, and "
                f"{_LEAST_GAIN:g} are required, and {limit}"
            )
        kept = ""
        n = np.count_nonzero(~self.shared)
        if n:
            kept = (
                f". {n} of {self.shared.size} elements gain less than "
                f"{_LEAST_OF_ELEMENT:g} and keep their maps"
            )
        if self.returned > 0:
            kept += (
                f". In {100 * self.returned:.2g} % of the pixels the measured counts "
                "contradict that, and each pixel has its own"
            )
        size = "" if np.isnan(self.size) else f", {self.size:.0f} in the mean"
        return (
            f"pixels that look alike share their counts{size}: "
            f"{predicted}{kept}. The maps are no proof that such pixels are equal"
        )

    def record(self) -> dict[str, Any]:
        """Entries of the record of the fusion."""
        k, factor, lambda_haadf = self.choice
        return {
            "sharing": float(self.accepted),
            "sharing_gain": np.array(self.gains),
            "sharing_lower": self.lower,
            "sharing_elements": self.shared.astype(np.float64),
            "sharing_neighbours": float(k),
            "sharing_factor": factor,
            "sharing_lambda_haadf": lambda_haadf,
            "sharing_size": self.size,
            "sharing_returned": self.returned,
            "sharing_tiles": 1.0,  # of the image
        }


@dataclass(kw_only=True)
class _Side:
    """Data with their first stage, and what their groups are made of.

    Attributes
    ----------
    prepared : PreparedData
        The data.
    maps : numpy.ndarray
        First stage of these data alone, maps of the elements.
    noise : numpy.ndarray
        Maps whose variance is that of the noise of `maps`.
    target : PreparedData or None
        What has to be predicted, of the same dose, :func:`unmixed`.
    near : numpy.ndarray or None
        Neighbours of its pixels, once they were sought.
    fractions : bool
        Whether the data are pseudo-counts of fractions: their sum in a pixel is none
        that was measured.
    known : dict
        Shared data, by the number of neighbours.
    """

    prepared: PreparedData
    maps: np.ndarray
    noise: np.ndarray
    target: PreparedData | None = None
    near: np.ndarray | None = None
    fractions: bool = False
    known: dict[int, PreparedData] = field(default_factory=dict)

    def nearest(self, k: int, run: Workers, seed: int) -> np.ndarray:
        """The k most alike of each pixel."""
        prepared = self.prepared
        spread = np.sqrt((self.noise**2).mean(axis=(1, 2)))
        image = fill(prepared.haadf[None])[0]
        looks = Looks.of(image, prepared.sigma, self.maps, spread, run, seed)
        return neighbours(looks, k, run, seed)

    def groups(self, near: np.ndarray, run: Workers) -> Groups:
        """Groups of the nearest, an array that becomes theirs."""
        limits = _COUNTS if self.prepared.variance is None else _VALUES
        if self.fractions:
            limits = _FRACTIONS
        chemistry = LocalChemistry.of(self.maps, self.noise, limits)
        return Groups.of(near, chemistry, run)

    def share(self, k: int, run: Workers, seed: int) -> None:
        """Average the data over groups of k pixels, once."""
        if self.near is None:  # as many as are ever needed
            self.near = self.nearest(_GROUPS[-1], run, seed)
        if k not in self.known:
            groups = self.groups(np.array(self.near[..., :k], order="C"), run)
            self.known[k] = _means(groups, self.prepared, run)

    def errors(self, maps: np.ndarray) -> np.ndarray:
        """Squared errors of the prediction in units of its noise, by element."""
        wanted: Any = self.target
        target, variance = wanted.data, wanted.variance
        norm = np.nanmean(target, axis=(1, 2), keepdims=True)
        if variance is not None:
            variance = np.broadcast_to(variance, target.shape)
            norm = variance.mean(axis=(1, 2), keepdims=True)
        if self.fractions:
            maps = maps * (target.sum(axis=0) / maps.sum(axis=0))
        squares = (target - maps - wanted.background) ** 2
        return np.nan_to_num(squares / np.where(norm > 0, norm, 1))


class _Split:
    """Two halves of the data, each of which has to predict the other."""

    def __init__(
        self,
        image: PreparedData | Fractions,
        weights: Sequence[float],
        run: Workers,
        seed: Any,
    ) -> None:
        self.weights, self.run, self.seed = weights, run, seed[0]

        def first(half: PreparedData, run: Workers) -> tuple:
            problem = half.problem(*weights)
            optimum = minimise(problem, run, tolerance=None, max_iter=_HALF_ITERATIONS)
            return half, optimum.maps[: problem.n_elements]

        def amounts(half: Fractions, run: Workers) -> tuple:
            return half.fused(weights, run, _ALONE_ITERATIONS, _HALF_ITERATIONS)

        fit: Callable = first
        halves: Sequence[PreparedData | Fractions]
        if isinstance(image, Fractions):
            dose, halves, fit = 0.5, image.halves(*seed), amounts
        else:
            dose, halves = split(image, *seed)
        # one after another where the memory of both solvers would matter
        small = _pixels_of(image).haadf.size <= _SIDE_BY_SIDE
        both = run.each(fit, halves) if small else [fit(half, run) for half in halves]
        difference = both[0][1] - both[1][1]
        # of the fit of all the data; twice the dose, or half the variance
        self.noise = difference if dose < 1 else difference / 2
        noise = difference / np.sqrt(2)
        self.sides = [
            _Side(
                prepared=half,
                maps=maps,
                noise=noise,
                target=unmixed(target),
                fractions=isinstance(image, Fractions),
            )
            for (half, maps), (target, _) in zip(both, both[::-1], strict=True)
        ]

    @property
    def errors(self) -> float:
        """Squared errors of the first stage."""
        return float(sum(side.errors(side.maps).sum() for side in self.sides))

    def gain(self, k: int, factor: float, lambda_haadf: float) -> np.ndarray:
        """How much lower the errors are than those of the first stage, by element."""
        for side in self.sides:
            side.share(k, self.run, self.seed)
        weights = factor * self.weights[0], lambda_haadf

        def gain(side: _Side, run: Workers) -> np.ndarray:
            problem = _of_shared(side.prepared, side.known[k], *weights)
            maps = minimise(
                problem, run, tolerance=None, max_iter=_TRIAL_ITERATIONS
            ).maps[: problem.n_elements]
            return side.errors(side.maps) - side.errors(maps)

        return np.sum(self.run.each(gain, self.sides), axis=0)


def judge_sharing(
    image: PreparedData | Fractions,
    weights: Weights,
    run: Workers,
    options: CalibratedOptions,
    *,
    callback: Callable | None = None,
) -> Sharing:
    """Choose groups and weights, and find whether they predict held-out data better.

    Parameters
    ----------
    image : PreparedData or Fractions
        The data, with coefficients.
    weights : Weights
        Of the first stage.
    run : Workers
        The threads.
    options : CalibratedOptions
        Its `seed`.
    callback : callable, optional
        ``callback(n, inf)`` before each trial.
    """
    prepared = _pixels_of(image)
    if prepared.correlated:
        return Sharing(
            obstacle="it is not made for maps that were filtered",
            by_element=(np.nan,) * len(prepared.data),
        )
    seed, before = options.seed, (weights.lambda_tv, weights.lambda_haadf)
    if prepared.haadf.size > 2 * _WINDOW**2:
        places = busiest_of_quarters(prepared.net(), _WINDOW // 2)
        image = image.cut(lambda array: at_places(array, places))
    one = _Split(image, before, run, (seed, _STREAM[0]))
    tried = count()
    gains: dict[tuple, np.ndarray] = {}

    def total(*choice: Any) -> float:
        if choice not in gains:
            if callback is not None:
                callback(next(tried), np.inf)
            gains[choice] = one.gain(*choice)
        return gains[choice].sum()

    choice = _climb(total)
    last, each = one, [gains[choice]]
    if _gain_of_all(each[0]) >= _LEAST_GAIN:
        last = _Split(image, before, run, (seed, _STREAM[1]))
        each.append(last.gain(*choice))
    z = [*map(_gain_of_all, each), np.nan]
    by_element = [significance(block_sums(gain)) for gain in np.sum(each, axis=0)]
    together = isinstance(image, Fractions)
    least = _LEAST_OF_FRACTIONS if together else _LEAST_OF_ELEMENT
    enough = (min if together else max)(by_element) >= least
    return Sharing(
        accepted=bool(min(z[:2]) >= _LEAST_GAIN and enough),
        gains=(z[0], z[1]),
        lower=float(each[-1].sum() / last.errors),
        by_element=tuple(by_element),
        together=together,
        choice=choice,
    )


def share_counts(
    image: PreparedData | Fractions,
    optimum: Optimum,
    weights: Weights,
    run: Workers,
    options: CalibratedOptions,
    *,
    judged: Sharing | None = None,
    callback: Callable | None = None,
) -> tuple[Sharing, Optimum, Weights]:
    """Fuse with shared counts if that predicts held-out data better.

    Parameters
    ----------
    image : PreparedData or Fractions
        The data, with coefficients.
    optimum : Optimum
        The first stage, of spectra with the maps of all components.
    weights : Weights
        Its weights.
    run : Workers
        The threads.
    options : CalibratedOptions
        Its `seed`, `tolerance` and `max_iter`.
    judged : Sharing, optional
        What was found for all tiles of an image, of which this is one. Its maps then
        keep the sums of the first stage.
    callback : callable, optional
        ``callback(n, inf)`` before each trial, and as that of the solver.

    Returns
    -------
    Sharing
        What was found.
    Optimum
        Of the second stage, with the maps of the first where the data contradict it,
        and of elements that do not gain; the first stage if that is not accepted.
    Weights
        With the λ and μ of that stage.
    """
    is_tile = judged is not None
    if judged is None:
        judged = judge_sharing(image, weights, run, options, callback=callback)
    if not judged.accepted:
        return judged, optimum, weights
    first, before = optimum.maps, (weights.lambda_tv, weights.lambda_haadf)
    k, factor, lambda_haadf = judged.choice
    weights = replace(
        weights, lambda_tv=factor * weights.lambda_tv, lambda_haadf=lambda_haadf
    )
    n = len(judged.by_element)  # other components of spectra follow
    groups = groups_of(image, first[:n], before, int(k), run, options.seed)
    if isinstance(image, Fractions):
        prepared = image.with_counts(first.sum(axis=0))
        prepared = replace(prepared, lock=FluxLock.of_all(len(first)))
    else:
        prepared = image
    known = np.isfinite(prepared.data)
    problem_of = partial(_in_groups, groups, weights, run)
    problem = problem_of(prepared)
    judged = replace(
        judged, size=groups.size, problem_of=problem_of if options.n_refits else None
    )
    del groups, problem_of  # large, and perhaps not needed any more
    if is_tile and problem.flux is not None:
        sums = first.sum(axis=(1, 2), dtype=np.float64, where=known)
        problem = replace(problem, flux=np.where(prepared.lock.kept, sums, np.inf))
    optimum = minimise(
        problem,
        run,
        tolerance=options.tolerance,
        max_iter=options.max_iter,
        callback=callback,
        early=True,
    )
    seen = unmixed(prepared)
    second = with_local_means(seen, optimum.maps[:n])
    second = np.where(judged.shared[:, None, None], second, first[:n])
    back = share_of_first(seen, first[:n], second)
    second = np.concatenate([second, optimum.maps[n:]])
    maps = second + back * (first - second)
    if problem.flux is not None:
        sums = maps.sum(axis=(1, 2), dtype=np.float64, where=known)
        kept = prepared.lock.kept & (sums > 0)
        ratio = np.where(kept, problem.flux / np.where(kept, sums, 1), 1)
        maps *= ratio.astype(np.float32)[:, None, None]
    sharing = replace(judged, returned=float(np.mean(back > 0.5)))
    return sharing, replace(optimum, maps=maps), weights


def _pixels_of(image: PreparedData | Fractions) -> PreparedData:
    return image.prepared if isinstance(image, Fractions) else image


def groups_of(
    image: PreparedData | Fractions,
    first: np.ndarray,
    weights: Sequence[float],
    k: int,
    run: Workers,
    seed: int,
) -> Groups:
    """The groups of a fusion, from its first stage and the λ and μ of that."""
    side = _Side(
        prepared=_pixels_of(image),
        maps=first,
        noise=_Split(image, weights, run, (seed, _STREAM[0])).noise,
        fractions=isinstance(image, Fractions),
    )
    return side.groups(side.nearest(k, run, seed), run)


def _means(groups: Groups, prepared: PreparedData, run: Workers) -> PreparedData:
    """The data of pixels that share their counts."""
    bins = prepared.bins
    counts = prepared.data if bins is None else bins.counts
    return with_counts(prepared, groups.mean(counts, run))


def _in_groups(
    groups: Groups, weights: Weights, run: Workers, prepared: PreparedData
) -> Problem:
    """The problem of data that are shared in groups."""
    means = _means(groups, prepared, run)
    return _of_shared(prepared, means, weights.lambda_tv, weights.lambda_haadf)


def _of_shared(
    prepared: PreparedData, means: PreparedData, lambda_tv: float, lambda_haadf: float
) -> Problem:
    """The problem of shared data, with the flux of the measured ones."""
    problem = prepared.problem(lambda_tv, lambda_haadf)
    return replace(problem, data=means.data, bins=means.bins)


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


def with_local_means(prepared: PreparedData, maps: np.ndarray) -> np.ndarray:
    """Maps whose local means follow the measured data, as far as these tell them.

    Pixels far apart that look alike share their counts, so that a gradient which the
    image does not show is lost. Means over 12 pixels are measured well: each map is
    multiplied by the ratio of these of the data and of the map, shrunk towards 1 by its
    noise (empirical Bayes: W. James and C. Stein, Proc. 4th Berkeley Symp. 1, 361
    (1961)).
    """
    found = np.empty_like(maps)
    width = _MEAN_WIDTH
    variances = prepared.noise_variance(np.maximum(maps, 0))
    for i, (net, x) in enumerate(zip(prepared.net(), maps, strict=True)):
        known = np.isfinite(net)
        variance = np.where(known, variances[i], 0)
        measured, model = (
            gaussian_filter(np.where(known, part, 0), width, mode="constant")
            for part in (net, x)
        )
        least = _LEAST_MEAN * model.mean(dtype=np.float64) + 1e-300
        ratio = (measured - model) / np.maximum(model, least)
        noise = cumulant_of_mean(variance, width, mode="constant")
        noise = noise / np.maximum(model, least) ** 2
        # each place counts by what it holds
        weight = model / max(model.sum(dtype=np.float64), 1e-300)
        real = max(float(np.sum(weight * (ratio**2 - noise))), 0.0)
        found[i] = x * (1 + ratio * real / (real + noise + 1e-300))
    return np.maximum(found, 0)


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
    noise = cumulant_of_mean(variance, _MISFIT_WIDTH, mode="constant")
    noise += 1e-14 * variance.mean(axis=(1, 2), keepdims=True) + 1e-300
    return np.abs(mean / np.sqrt(noise)).max(axis=0)
