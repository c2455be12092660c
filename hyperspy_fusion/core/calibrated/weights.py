"""Choice of the weights by cross-validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import numpy as np

from ..common.operators import block_sums
from ..common.threads import Workers
from .convex.bins import Bins, unmixing, variance_of
from .convex.solver import minimise
from .noise import whole_numbers
from .prepare import PreparedData
from .split import random_parts, split, thinned
from .unmixed import with_counts

# λ in steps of √2, μ from 0 (no HAADF image) to 1. Below 0.03 the scores of simulated
# images are too flat to decide (`janus` at 1 count: 8 % worse with 0.01), so that the
# lowest μ, which real images may need, have to be significantly better.
LAMBDA_TV = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.2, 16.0, 22.4)
LAMBDA_HAADF = (0.0, 0.03, 0.1, 0.3, 1.0)
LOWEST = (0.01, 0.003)
_FIRST = 4.0, 0.1

# Pixels above which half the folds suffice: of counts, and of hidden pixels.
_MANY_COUNTS, _MANY_VALUES = 2**15, 2**18
_PARTS = 5  # folds of hidden pixels, for data that are no counts

# Standard deviations from which on a held-out gain is significant.
LEAST_GAIN = 2.0
_LEAST_GAIN_APART = 1.0


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One split of the data: `data` are fused, `target` has to be predicted.

    Both have the shape of the maps, NaN where hidden or missing; `share` is the
    fraction of the dose in `data`.
    """

    data: np.ndarray
    share: float
    target: np.ndarray


def folds(data: np.ndarray, seed: int, *, counts: bool) -> list[Fold]:
    """Split data for cross-validation.

    Whole numbers of counts are split by binomial thinning with p = 1/2, which makes two
    independent measurements of half the dose; other data by hiding a fifth of the
    pixels.
    """
    # One draw of a small image may favour wrong weights.
    n_pairs = 2 if data[0].size < (_MANY_COUNTS if counts else _MANY_VALUES) else 1
    if counts:
        parts = []
        for k in range(n_pairs):
            half = thinned(data, seed, k)
            other = data - half
            parts.append(Fold(data=half, share=0.5, target=other))
            parts.append(Fold(data=other, share=0.5, target=half))
        return parts
    # own stream: the user may have hidden pixels with the same seed
    part = np.stack([random_parts(image, _PARTS, seed, 1) for image in data])
    return [
        Fold(
            data=np.where(part == k, np.nan, data),
            share=1.0,
            target=np.where(part == k, data, np.nan),
        )
        for k in range(2 * n_pairs)
    ]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights, and all that were tried.

    Attributes
    ----------
    lambda_tv : float
        λ.
    lambda_haadf : float
        μ; 0 where the HAADF image does not help.
    gain : float
        How much lower the held-out error is with the HAADF image than without, in
        standard deviations; NaN where it was not tried.
    tried : numpy.ndarray
        Rows (λ, μ, score), shape ``(n_tried, 3)``, none if both were given. The score
        is the mean squared error of the prediction in units of the mean count.
    apart : tuple of bool
        Elements whose TGV has a norm of its own, shape ``(n_elements,)``; empty if all
        share one.
    """

    lambda_tv: float
    lambda_haadf: float
    gain: float
    tried: np.ndarray
    apart: tuple[bool, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the choice says about the data; nothing of weights that were given."""
        lambda_tv, lambda_haadf = (len({*column}) > 1 for column in self.tried.T[:2])
        found = []
        if lambda_haadf and self.lambda_haadf == 0:
            found.append(
                "the HAADF image was not used: it does not improve the prediction of "
                f"the maps ({self.gain:.1f} standard deviations, at least "
                f"{LEAST_GAIN:g} are required). The maps are denoised without it"
            )
        ends = {
            LAMBDA_TV[0]: "lower end of its range: perhaps the specimen has detail in "
            "every pixel, a map has bad pixels, or less noise than its values suggest, "
            "as after a filter",
            LAMBDA_TV[-1]: "upper end of its range: perhaps a map shows no structure "
            "above its noise",
        }
        if lambda_tv and self.lambda_tv in ends:
            found.append(
                f"lambda_tv={self.lambda_tv:g} was chosen, the {ends[self.lambda_tv]}; "
                "the cause is not known"
            )
        return tuple(found)


def choose_weights(
    score: Any,
    lambda_tv: float | None = None,
    lambda_haadf: float | None = None,
) -> Weights:
    """Choose the weights of lowest held-out error.

    Searches λ at a middle μ, then μ, then λ again; then λ without the HAADF image, to
    see what that is worth; λ is refined by a parabola. The lowest μ, and any μ at all,
    are chosen only if the gain exceeds two standard deviations.

    Parameters
    ----------
    score : callable
        ``score(lambda_tv, lambda_haadf)`` returns the errors of all blocks, shape
        ``(n_blocks,)``.
    lambda_tv, lambda_haadf : float, optional
        Given weights; the other one is then chosen for them.
    """
    if lambda_tv is not None and lambda_haadf is not None:
        return Weights(
            lambda_tv=lambda_tv,
            lambda_haadf=lambda_haadf,
            gain=np.nan,
            tried=np.empty((0, 3)),
        )
    search = Search(score, LAMBDA_TV if lambda_tv is None else (lambda_tv,))
    grid = search.grid
    start = grid.index(_FIRST[0]) if _FIRST[0] in grid else 0
    if lambda_haadf is not None:
        position = search.climb(lambda_haadf, start)
        return search.weights(position, lambda_haadf, np.nan)
    position = search.climb(_FIRST[1], start)
    mu = search.best(position, LAMBDA_HAADF)
    position = search.climb(mu, position)
    without = search.climb(0.0, position)
    gain = search.gain((position, mu), (without, 0.0))
    if gain < LEAST_GAIN:
        return search.weights(without, 0.0, gain)
    return search.weights(position, mu, gain)


class Search:
    """Scores of the weights that were tried, λ by its index in a grid.

    μ is a number, or one for each of several images.
    """

    def __init__(self, score: Callable, grid: Sequence[float]) -> None:
        self.score, self.grid = score, grid
        self.scores: dict[tuple[float, Any], np.ndarray] = {}

    def blocks(self, position: int, mu: Any) -> np.ndarray:
        """Scores of all blocks."""
        weights = self.grid[position], mu
        if weights not in self.scores:
            self.scores[weights] = self.score(*weights)
        return self.scores[weights]

    def total(self, position: int, mu: Any) -> float:
        """The score."""
        return self.blocks(position, mu).sum()

    def gain(self, one: tuple[int, Any], other: tuple[int, Any]) -> float:
        """Standard deviations by which the score of `one` is lower than of `other`."""
        return significance(self.blocks(*other) - self.blocks(*one))

    def best(
        self,
        position: int,
        mus: Sequence[float],
        with_weight: Callable[[float], Any] = lambda mu: mu,
    ) -> float:
        """Best of some μ of one image, the lowest of all only if better for sure.

        ``with_weight(mu)`` is the μ of all images.
        """
        mu = min(mus, key=lambda mu: self.total(position, with_weight(mu)))
        if mu <= LAMBDA_HAADF[1]:
            for lower in LOWEST:
                one, other = with_weight(lower), with_weight(mu)
                if self.gain((position, one), (position, other)) < LEAST_GAIN:
                    break
                mu = lower
        return mu

    def climb(self, mu: Any, position: int) -> int:
        """Index of the lowest score near a position."""
        near = [i for i in range(position - 1, position + 2) if 0 <= i < len(self.grid)]
        best = min(near, key=lambda i: self.total(i, mu))
        return position if best == position else self.climb(mu, best)

    def refined(self, position: int, mu: Any) -> float:
        """λ, refined by the vertex of a parabola through the best scores, in log λ."""
        grid = self.grid
        if not 0 < position < len(grid) - 1:
            return float(grid[position])
        place, _ = vertex([self.total(position + k, mu) for k in (-1, 0, 1)])
        ratio = np.log(grid[position + 1] / grid[position - 1]) / 2
        return float(grid[position] * np.exp(place * ratio))

    def weights(self, position: int, mu: float, gain: float) -> Weights:
        """The chosen weights, with λ refined."""
        lambda_tv = self.refined(position, mu)
        tried = [(*weights, s.mean()) for weights, s in sorted(self.scores.items())]
        return Weights(
            lambda_tv=lambda_tv, lambda_haadf=mu, gain=gain, tried=np.array(tried)
        )


def vertex(values: Sequence[float]) -> tuple[float, float]:
    """Position of the minimum of a parabola through three neighbours, and its depth."""
    low, middle, high = values
    bend = low - 2 * middle + high
    if not 0 < bend < np.inf:
        return 0.0, 0.0
    place = float(np.clip((low - high) / (2 * bend), -0.5, 0.5))
    return place, bend * place**2 / 2


def significance(gains: np.ndarray) -> float:
    """Sum of the gains of all blocks, in standard deviations of that sum."""
    spread = np.sqrt(gains.size) * gains.std()
    return float(gains.sum() / spread) if spread > 0 else 0.0


TRIAL_ITERATIONS = 20


def weigh(
    images: Sequence[PreparedData],
    run: Workers,
    *,
    seed: int,
    lambda_tv: float | None = None,
    lambda_haadf: float | None = None,
    callback: Callable | None = None,
) -> Weights:
    """Choose the weights by cross-validation, the same for all images.

    Each image counts alike, however often it was split. Weights that are given stay;
    ``callback(n, inf)`` is called before each trial.
    """
    if lambda_tv is not None and lambda_haadf is not None:
        return choose_weights(None, lambda_tv, lambda_haadf)
    scores = Trials(images, run, seed=seed, callback=callback)
    known: dict[tuple[float, ...], np.ndarray] = {}

    def score(*weights: float) -> np.ndarray:
        known[weights] = scores(*weights)
        return known[weights][0]

    found = choose_weights(score, lambda_tv, lambda_haadf)
    n, bins = len(images[0].data), images[0].bins
    n_elements = n if bins is None else bins.n_elements or n
    # components of spectra share the norm
    return with_own_norms(found, scores, known, n_elements, n - n_elements)


def with_own_norms(
    found: Weights, trials: Callable, known: dict, n_elements: int, n_others: int = 0
) -> Weights:
    """The weights with the elements whose TGV has a norm of its own.

    Parameters
    ----------
    found : Weights
        λ and μ.
    trials : callable
        As :class:`Trials`.
    known : dict
        What it returned, by λ and μ.
    n_elements, n_others : int
        Numbers of the elements, and of maps after them that always share the norm.
    """
    # the trial that is nearest to the refined λ
    nearest = min(
        (weights for weights in known if weights[1] == found.lambda_haadf),
        key=lambda weights: abs(np.log(weights[0] / found.lambda_tv)),
    )
    others = (False,) * n_others

    def score_of(apart: tuple[bool, ...]) -> np.ndarray:
        return trials(*nearest, apart=apart + others) if any(apart) else known[nearest]

    apart = choose_apart(score_of, n_elements)
    return replace(found, apart=apart and apart + others)


class HeldOut:
    """Parts of images that are predicted from the rest; each image counts alike.

    Parameters
    ----------
    folds_of : sequence of list
        The folds of each image, however often it was split.
    run : Workers
        The threads.
    callback : callable or None
        ``callback(n, inf)`` is called before each trial.
    """

    def __init__(
        self, folds_of: Sequence[list], run: Workers, callback: Callable | None
    ) -> None:
        self.folds_of, self.run, self.callback = folds_of, run, callback
        self.tried = count()

    def blocks(self, errors: Callable[[Any, Workers], tuple]) -> np.ndarray:
        """Squared errors and deviance of all blocks, shape ``(2, n_blocks)``.

        ``errors(fold, run)`` returns the images of both, of one fold.
        """
        if self.callback is not None:  # not from the helping threads
            self.callback(next(self.tried), np.inf)
        most = max(map(len, self.folds_of))
        every = [fold for folds in self.folds_of for fold in folds]
        found = iter(self.run.each(errors, every))
        blocks = []
        for folds in self.folds_of:
            totals = np.sum(list(islice(found, len(folds))), axis=0)
            totals *= most / len(folds)
            blocks.append([block_sums(total) for total in totals])
        return np.concatenate(blocks, axis=1)


class Trials(HeldOut):
    """Scores of weights, from trial fusions that predict held-out data.

    Parameters
    ----------
    images : sequence of PreparedData
        The data; each image counts alike, however often it was split.
    run : Workers
        The threads.
    seed : int
        Of the splits.
    n_iter : int
        Iterations of a trial.
    callback : callable, optional
        ``callback(n, inf)`` is called before each trial.
    """

    def __init__(
        self,
        images: Sequence[PreparedData],
        run: Workers,
        *,
        seed: int,
        n_iter: int = TRIAL_ITERATIONS,
        callback: Callable | None = None,
    ) -> None:
        super().__init__([held_out(image, seed) for image in images], run, callback)
        self.n_iter = n_iter

    def __call__(
        self,
        *weights: float,
        apart: tuple[bool, ...] = (),
        elastic: Sequence[float] = (),
    ) -> np.ndarray:
        """Squared errors and deviance of all blocks, shape ``(2, n_blocks)``.

        `weights` are λ and μ of the HAADF image, `elastic` those of further images.
        """

        def errors(fold: tuple, run: Workers) -> tuple[np.ndarray, np.ndarray]:
            """Squared errors, and halves of the deviance, of one fold."""
            trial, target, norm = fold
            trial = replace(trial.weighted(elastic), apart=apart)
            # Not from the maps of the last trial, whose weights may be far off.
            maps = minimise(
                trial.problem(*weights), run, tolerance=None, max_iter=self.n_iter
            ).maps
            unit = norm.mean(axis=(1, 2), keepdims=True)
            squares = np.nansum((target - maps - trial.background) ** 2 / unit, axis=0)
            return squares, np.nansum(deviance(trial, maps, target, norm), axis=0)

        return self.blocks(errors)


def choose_apart(score: Callable, n_elements: int) -> tuple[bool, ...]:
    """Choose the elements whose TGV has a norm of its own.

    An edge in the shared norm costs little where another element has one, so that a
    rare element follows all edges of its support. Of the elements that are predicted
    better on their own, by the deviance and not worse by the squares, the best is
    taken, and then the others while they help.

    Parameters
    ----------
    score : callable
        ``score(apart)`` returns squared errors and deviance of all blocks, shape
        ``(2, n_blocks)``.
    n_elements : int
        Number of elements.
    """
    if n_elements < 2:
        return ()

    def better(new: np.ndarray, old: np.ndarray) -> bool:
        by_squares, by_deviance = (
            significance(before - now) for before, now in zip(old, new, strict=True)
        )
        return by_deviance >= _LEAST_GAIN_APART and by_squares >= 0

    def with_element(apart: tuple[bool, ...], i: int) -> tuple[bool, ...]:
        return tuple(one or k == i for k, one in enumerate(apart))

    together = (False,) * n_elements
    best = score(together)
    alone = {i: score(with_element(together, i)) for i in range(n_elements)}
    helpful = [i for i, found in alone.items() if better(found, best)]
    apart = together
    for i in sorted(helpful, key=lambda i: alone[i][1].sum()):
        trial = with_element(apart, i)
        found = alone[i] if apart == together else score(trial)
        if better(found, best):
            apart, best = trial, found
    return apart if any(apart) else ()


def deviance(
    prepared: PreparedData, maps: np.ndarray, target: np.ndarray, norm: np.ndarray
) -> np.ndarray:
    """Half the deviance of data from maps that predict them, NaN where missing.

    `norm` is the noise variance of data that are unmixed from spectra.
    """
    if prepared.bins is not None:  # the data are unmixed
        return (target - maps) ** 2 / (2 * norm)
    if prepared.variance is not None:
        return (target - maps) ** 2 / (2 * prepared.variance)
    pedestal = prepared.pedestal[:, None, None]
    expected = np.maximum(maps + prepared.background + pedestal, 1e-12)
    found = target + pedestal
    return expected - found + found * np.log(np.maximum(found, 1e-12) / expected)


def held_out(prepared: PreparedData, seed: int) -> list[tuple]:
    """List (data to fuse, data to predict, noise variance of these) of all splits.

    The variance is a mean, but that of each pixel for spectra.
    """
    if prepared.bins is not None:
        return _held_out_spectra(prepared, prepared.bins, seed)
    if prepared.variance is None:
        norm = np.nanmean(prepared.data, axis=(1, 2), keepdims=True)
    else:
        norm = np.broadcast_to(prepared.variance, prepared.data.shape)
        norm = norm.mean(axis=(1, 2), keepdims=True)
    norm = np.where(norm > 0, norm, 1)
    if prepared.correlated:  # a hidden pixel would be known from its neighbours
        n_pairs = 2 if prepared.haadf.size < _MANY_COUNTS else 1
        pairs = [split(prepared, seed, k)[1] for k in range(n_pairs)]
        return [
            (one, other.data, norm)
            for pair in pairs
            for one, other in (pair, pair[::-1])
        ]
    counts = prepared.variance is None and whole_numbers(prepared.data)
    parts = folds(prepared.data, seed, counts=counts)
    return [
        (prepared.at_dose(part.data, part.share), part.target, norm) for part in parts
    ]


def _held_out_spectra(prepared: PreparedData, bins: Bins, seed: int) -> list[tuple]:
    """As :func:`held_out`, of spectra: the elements, by least squares, are predicted.

    The bins themselves would tell mostly of the continuum, which is smooth.
    """
    sums: Any = np.nansum(prepared.data, axis=(1, 2), dtype=np.float64)
    matrix = unmixing(bins.mixing, sums)
    norm = variance_of(matrix, bins.counts) / 2
    found = []
    for part in folds(bins.counts, seed, counts=True):
        half = with_counts(prepared, part.data)
        trial = half.at_dose(half.data, part.share)
        target = np.tensordot(matrix, part.target, 1)
        target[bins.n_elements :] = np.nan
        found.append((trial, target, norm))
    return found
