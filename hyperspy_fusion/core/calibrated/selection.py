"""Which further elastic images are used, and with which weights.

They are tried one after the other, and each stays if held-out data are predicted better
with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..common.threads import Workers
from .elastic import Found
from .prepare import PreparedData
from .weights import (
    LAMBDA_HAADF,
    LAMBDA_TV,
    LEAST_GAIN,
    LOWEST,
    Search,
    Trials,
    Weights,
)

# With 20 iterations, which do for HAADF alone, the trials favour large weights.
_TRIAL_ITERATIONS = 40
_ROUNDS = 2  # of changes to the weights after an image was added
_OTHER = 2**31  # added to the seed, for the second split
_WEIGHTS = (*LOWEST[::-1], *LAMBDA_HAADF[1:])


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The weights of all elastic images.

    Attributes
    ----------
    weights : Weights
        λ and the μ of HAADF.
    mus, gains : tuple of float
        μ of each further image; how much better held-out data are predicted with it,
        in standard deviations, NaN where it was not tried.
    given : tuple of bool
        Whether the weight of a further image was given.
    tried : numpy.ndarray
        Rows (λ, μ of HAADF and of each further image, score), shape ``(n_tried,
        n_images + 3)``.
    """

    weights: Weights
    mus: tuple[float, ...]
    gains: tuple[float, ...]
    given: tuple[bool, ...]
    tried: np.ndarray

    def of(
        self, found: Sequence[Found], prepared: PreparedData
    ) -> tuple[tuple[Found, ...], PreparedData]:
        """The images with their weights, and the data with those that are used."""
        found = tuple(
            replace(image, weight=mu, gain=gain, given=given)
            for image, mu, gain, given in zip(
                found, self.mus, self.gains, self.given, strict=True
            )
        )
        every = prepared.weighted(self.mus).elastic
        used = tuple(image for image in every if image.weight > 0)
        return found, replace(prepared, elastic=used)


def choose_further(
    found: Sequence[Found],
    images: Sequence[PreparedData],
    weights: Weights,
    run: Workers,
    *,
    seed: int,
    given: Sequence[float | None],
    lambda_tv: float | None = None,
    lambda_haadf: float | None = None,
    callback: Callable | None = None,
) -> Selection:
    """Choose the weights of further images, beginning with those without them.

    Weights that are given stay, and elements that have a norm of their own. If no image
    helps, all is as it was.

    Parameters
    ----------
    found : sequence of Found
        The further images.
    images : sequence of PreparedData
        The data, with the further images; each counts alike.
    weights : Weights
        Those without further images.
    run : Workers
        The threads.
    seed : int
        Of the splits.
    given : sequence of float or None
        μ of each further image, None where it is to be chosen.
    lambda_tv, lambda_haadf : float, optional
        Given weights.
    callback : callable, optional
        ``callback(n, inf)`` is called before each trial.
    """
    n = len(found)
    free = [k for k, mu in enumerate(given) if mu is None and not found[k].obstacle]
    start = tuple(mu or 0.0 for mu in given)
    unchanged = Selection(
        weights=weights,
        mus=start,
        gains=(np.nan,) * n,
        given=tuple(mu is not None for mu in given),
        tried=np.empty((0, n + 3)),
    )
    fixed = lambda_tv is not None and lambda_haadf is not None
    if not free and (fixed or not any(start)):
        return unchanged
    grid = LAMBDA_TV if lambda_tv is None else (lambda_tv,)

    def search_on(seed: int) -> Search:
        trials = Trials(
            images, run, seed=seed, n_iter=_TRIAL_ITERATIONS, callback=callback
        )
        return Search(
            lambda lambda_tv, mus: trials(
                lambda_tv, mus[0], apart=weights.apart, elastic=mus[1:]
            )[0],
            grid,
        )

    search, other = search_on(seed), search_on(seed + _OTHER)
    position, mus, gains = select(
        search, other, weights, start, free, haadf_free=lambda_haadf is None
    )
    tried = [
        (tv, *images, s.mean()) for (tv, images), s in sorted(search.scores.items())
    ]
    if any(mus[1:]):
        lambda_tv = search.refined(position, mus)
        weights = replace(weights, lambda_tv=lambda_tv, lambda_haadf=mus[0])
    return replace(
        unchanged,
        weights=weights,
        mus=mus[1:],
        gains=tuple(gains),
        tried=np.array(tried),
    )


def select(
    search: Search,
    other: Search,
    weights: Weights,
    start: Sequence[float],
    free: Sequence[int],
    *,
    haadf_free: bool,
) -> tuple[int, tuple[float, ...], list[float]]:
    """Forward selection of further images, in their order.

    An image stays if held-out data are predicted better by two standard deviations, on
    the split of the data that chose its weight and on another one. Then all weights are
    changed by steps of their grid, one by one and together: their best values lie along
    a diagonal valley.

    Parameters
    ----------
    search : Search
        Scores of λ and the tuple of μ, that of HAADF first.
    other : Search
        The same with another split of the data.
    weights : Weights
        Those without further images.
    start : sequence of float
        μ of each further image at first: that which is given, else 0.
    free : sequence of int
        The further images to be tried.
    haadf_free : bool
        Whether the weight of HAADF may change.

    Returns
    -------
    position : int
        Index of λ in the grid.
    mus : tuple of float
        μ of all images, that of HAADF first.
    gains : list of float
        Of each further image, standard deviations, the lower of the two; NaN where it
        was not tried.
    """
    away = [abs(np.log(value / weights.lambda_tv)) for value in search.grid]
    mus = (weights.lambda_haadf, *start)
    gains = [np.nan] * len(start)
    position = search.climb(mus, int(np.argmin(away)))
    may_change = [0] * haadf_free
    if any(start):
        position, mus = _adjusted(search, position, mus, may_change)
    for k in free:
        trial = partial(_with_weight, mus, k + 1)
        at = position if any(mus) else search.climb(trial(LAMBDA_HAADF[2]), position)
        new = trial(search.best(at, LAMBDA_HAADF[1:], trial))
        at = search.climb(new, at)
        pair = (at, new), (position, mus)
        gains[k] = search.gain(*pair)
        if gains[k] >= LEAST_GAIN:
            gains[k] = min(gains[k], other.gain(*pair))
        if gains[k] < LEAST_GAIN:
            continue
        may_change.append(k + 1)
        position, mus = _adjusted(search, at, new, may_change)
    return position, mus, gains


def _adjusted(
    search: Search, position: int, mus: tuple[float, ...], may_change: Sequence[int]
) -> tuple[int, tuple[float, ...]]:
    """Index of λ and all μ, some of them changed step by step, singly and together."""
    movable = [j for j in may_change if mus[j] > 0]
    for _ in range(_ROUNDS):
        before = mus
        for move in (*([j] for j in movable), movable):
            for step in (1, -1):
                new = _moved(mus, move, step)
                if search.gain((position, new), (position, mus)) > _least(new):
                    position, mus = search.climb(new, position), new
                    break
        if mus == before:
            break
    return position, mus


def _least(mus: Sequence[float]) -> float:
    """Gain above which weights are changed to these: the lowest have to be sure."""
    lowest = any(0 < mu < LAMBDA_HAADF[1] for mu in mus)
    return LEAST_GAIN if lowest else 0.0


def _with_weight(mus: tuple[float, ...], j: int, mu: float) -> tuple[float, ...]:
    """The weights of all images with another one for image `j`."""
    return (*mus[:j], mu, *mus[j + 1 :])


def _moved(mus: Sequence[float], which: Sequence[int], step: int) -> tuple[float, ...]:
    """The weights with some of them a step up or down their grid."""
    moved = list(mus)
    for j in which:
        nearest = int(np.argmin(np.abs(np.log(np.divide(_WEIGHTS, mus[j])))))
        moved[j] = _WEIGHTS[int(np.clip(nearest + step, 0, len(_WEIGHTS) - 1))]
    return tuple(moved)
