"""Maps of fractions are fused in rounds, each of them the convex problem of counts.

A round has the fractions measured and the sum of the counts of the last round. Its
Poisson likelihood lies below the multinomial likelihood of the fractions and meets it
at the maps of the last round, so that the rounds climb the latter. The image alone
tells the sum: hidden fractions can not choose its weight, which is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

from ..common.missing import fill
from ..common.operators import block_sums
from ..common.threads import Workers
from .composition import NoiseLaw, in_vacuum, noise_law, normalised
from .convex.solver import minimise
from .convex.sweep import State
from .flux import FluxLock
from .prepare import PEDESTAL, Preparation, PreparedData, scales
from .split import thinned
from .weights import Weights, choose_weights, significance

if TYPE_CHECKING:
    from .options import CalibratedOptions

LAMBDA_HAADF = 0.03  # 0.01 to 0.1 give the same amounts within 6 %
_ALONE_ITERATIONS = 60  # of fractions without the image
_TRIAL_ITERATIONS = 20, 10  # of the two rounds
_ALONE_TRIAL_ITERATIONS = 30
_PARTS, _FOLDS = 5, 4
_LEAST_SUM = 0.1  # of its 0.99 quantile; stray counts have fractions, too
_SMOOTHING = 3.0  # pixels, of the fractions from which their noise is computed


@dataclass(frozen=True, kw_only=True)
class Fractions:
    """Fractions of one image with their noise law, ready to be fused.

    Attributes
    ----------
    prepared : PreparedData
        With fractions as data, and scales for the pseudo-counts.
    law : NoiseLaw
        Of the fractions.
    """

    prepared: PreparedData
    law: NoiseLaw

    @classmethod
    def of(
        cls, preparation: Preparation, prior: np.ndarray, options: CalibratedOptions
    ) -> Fractions:
        """Find the law, the coefficients and the scales."""
        prepared = preparation.prepared.take(preparation.tiles)
        offset = options.haadf_offset
        if offset is not None:
            offset -= preparation.units.base
        seen = prepared.trusted > 0
        law = noise_law(prepared.data, prepared.haadf, seen, prior, offset)
        return cls.with_law(prepared, law)

    @classmethod
    def with_law(cls, prepared: PreparedData, law: NoiseLaw) -> Fractions:
        """Find the scales for a noise law."""
        prepared = replace(
            prepared,
            coefficients=law.coefficients * law.count_value,
            offset=law.offset,
            lock=FluxLock.free(len(law.coefficients)),
        )
        counts = law.pseudo_counts(prepared, np.float32(law.counts))
        scale, level = scales(counts)
        pedestal = PEDESTAL * fill(counts.data).mean(axis=(1, 2), dtype=np.float64)
        prepared = replace(prepared, scale=scale, level=level, pedestal=pedestal)
        return cls(prepared=prepared, law=law)

    def with_counts(self, counts: Any) -> PreparedData:
        """Pseudo-counts with these sums in each pixel."""
        return self.law.pseudo_counts(self.prepared, counts)

    def cut(self, part: Callable) -> Fractions:
        """Apply a function to each array of pixels."""
        return replace(self, prepared=self.prepared.cut(part))

    def hidden(self, part: np.ndarray) -> Fractions:
        """The same without the pixels of a part."""
        data = np.where(part, np.float32(np.nan), self.prepared.data)
        return replace(self, prepared=replace(self.prepared, data=data))

    def alone(self, lambda_tv: float, run: Workers, n_iter: int) -> np.ndarray:
        """Fractions fused without the image."""
        problem = self.with_counts(self.law.counts).problem(lambda_tv, 0.0)
        return self.law.proportions(
            minimise(problem, run, tolerance=None, max_iter=n_iter).maps
        )

    def start(self, alone: np.ndarray) -> PreparedData:
        """Pseudo-counts for the first round, from the fractions fused alone."""
        return self.with_counts(self.law.expected_counts(self.prepared.haadf, alone))

    def fused(
        self, weights: Sequence[float], run: Workers, alone: int, rounds: Sequence[int]
    ) -> tuple[PreparedData, np.ndarray]:
        """Pseudo-counts after some rounds, and their maps.

        `alone` and `rounds` are iterations without the image, and of each round.
        """
        if weights[1] == 0:  # nothing tells the sum
            counts, rounds = self.with_counts(self.law.counts), rounds[:1]
        else:
            counts = self.start(self.alone(weights[0], run, alone))
        state = None
        for n_iter in rounds:
            optimum = minimise(
                counts.problem(*weights),
                run,
                tolerance=None,
                max_iter=n_iter,
                start=state,
            )
            maps, state = optimum.maps, optimum.state
            if weights[1] > 0:
                counts = self.with_counts(maps.sum(axis=0))
        return counts, maps

    def trial(self, weights: Sequence[float], run: Workers) -> np.ndarray:
        """Fractions after two short rounds."""
        trial = self.fused(weights, run, _ALONE_TRIAL_ITERATIONS, _TRIAL_ITERATIONS)
        return self.law.proportions(trial[1])

    def halves(self, *seed: int) -> list[Fractions]:
        """Two independent measurements of half the dose."""
        smooth = self._smooth()
        counts = self.law.expected_counts(self.prepared.haadf, smooth)
        data = self.with_counts(counts).data
        half = thinned(data, *seed, of=self.prepared.data)
        law = replace(
            self.law, counts=self.law.counts / 2, count_value=2 * self.law.count_value
        )
        value = law.count_value.astype(np.float32)[:, None, None]
        return [
            Fractions(
                prepared=self.prepared.share(normalised(part * value), 0.5), law=law
            )
            for part in (half, data - half)
        ]

    def score_weight(self) -> np.ndarray:
        """Weight of squared errors, shape ``(n_elements, y, x)``.

        Their inverse noise variance in each pixel, times its mean over the pixels; 0
        where there is hardly anything.
        """
        prepared, law, smooth = self.prepared, self.law, self._smooth()
        total = law.total(prepared.haadf, smooth)
        known = np.isfinite(prepared.data[0])
        used = known & ~in_vacuum(known)
        used &= total > _LEAST_SUM * np.quantile(total, 0.99)
        precision = np.where(used, law.precision(smooth, total), 0)
        unit = law.variance(smooth).mean(axis=(1, 2), where=used[None])
        return precision / np.where(unit > 0, unit, 1)[:, None, None]

    def _smooth(self) -> np.ndarray:
        smooth = gaussian_filter(fill(self.prepared.data), (0, _SMOOTHING, _SMOOTHING))
        return smooth / smooth.sum(axis=0)


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How the fractions of an image are fused, without pixels.

    Attributes
    ----------
    numbers : PreparedData
        Coefficients, offset and scales of the pseudo-counts.
    law : NoiseLaw
        Of the fractions.
    total : float
        Sum of the fractions in a pixel, in the units of the maps.
    """

    numbers: PreparedData
    law: NoiseLaw
    total: float

    @property
    def gain(self) -> np.ndarray:
        """Value of one count in the units of the maps, shape ``(n_elements,)``."""
        return self.law.count_value * self.total

    @property
    def record(self) -> dict[str, float]:
        """Entries of the record of the fusion."""
        return {
            "fraction_sum": self.total,
            "counts_per_pixel": self.law.counts,
            "noise_misfit": self.law.misfit,
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user has to know."""
        source = {
            "vacuum": "found in pixels without counts",
            "noise": "found from the noise of the fractions",
            "given": "given",
        }[self.law.source]
        said = (
            f"the maps are fractions, with a sum of {self.total:g} in every pixel: "
            "their proportions come from the maps, and their sum from the HAADF image, "
            f"whose dark level was {source}. The fused maps are relative amounts; "
            "get_fractions makes fractions of them. Better fuse counts"
        )
        return tuple(filter(None, (said, self.law.message)))

    def first(
        self, prepared: PreparedData, weights: Weights, run: Workers, **options: Any
    ) -> tuple[PreparedData, State | None]:
        """Pseudo-counts for the second round, and the state to start it from.

        `prepared` holds fractions; `options` are those of :func:`minimise`.
        """
        image = Fractions(prepared=prepared, law=self.law)
        if weights.lambda_haadf == 0:  # nothing tells the sum
            return image.with_counts(self.law.counts), None
        alone = image.alone(weights.lambda_tv, run, _ALONE_ITERATIONS)
        problem = image.start(alone).problem(weights.lambda_tv, weights.lambda_haadf)
        optimum = minimise(problem, run, **options)
        return image.with_counts(optimum.maps.sum(axis=0)), optimum.state


def decide_rounds(
    preparation: Preparation,
    prior: np.ndarray,
    options: CalibratedOptions,
    run: Workers,
    callback: Callable | None,
) -> tuple[Rounds, Weights]:
    """Find the noise law of fractions, and choose the weights."""
    image = Fractions.of(preparation, prior, options)
    weights = weigh_fractions(
        [image],
        run,
        seed=options.seed,
        lambda_tv=options.lambda_tv,
        lambda_haadf=options.lambda_haadf,
        callback=callback,
    )
    rounds = Rounds(
        numbers=image.prepared.numbers(),
        law=image.law,
        total=preparation.units.total or 1.0,
    )
    return rounds, weights


def weigh_fractions(
    images: Sequence[Fractions],
    run: Workers,
    *,
    seed: int,
    lambda_tv: float | None = None,
    lambda_haadf: float | None = None,
    callback: Callable | None = None,
) -> Weights:
    """Choose λ by hidden fractions, the same for all images."""
    if lambda_haadf is None:
        lambda_haadf = LAMBDA_HAADF
    if lambda_tv is not None:
        return choose_weights(None, lambda_tv, lambda_haadf)
    trials = _Trials([_folds(image, seed) for image in images], run, callback)
    without = choose_weights(trials.score, None, 0.0)
    if lambda_haadf == 0:
        return without
    chosen = choose_weights(trials.score, None, lambda_haadf)
    gain = significance(
        trials.score(without.lambda_tv, 0.0)
        - trials.score(chosen.lambda_tv, lambda_haadf)
    )
    return replace(
        chosen, gain=gain, tried=np.concatenate([without.tried, chosen.tried])
    )


@dataclass(frozen=True, kw_only=True)
class _Fold:
    """Fractions with hidden pixels, and all of them with the weights of their errors.

    `target` and `weight` have the shape of the maps; the weight is 0 where nothing has
    to be predicted.
    """

    image: Fractions
    target: np.ndarray
    weight: np.ndarray


def _folds(image: Fractions, seed: int) -> list[_Fold]:
    """Hide whole pixels, a different fifth of them in each of four folds."""
    target = image.prepared.data
    # own stream: the user may have hidden pixels with the same seed
    part = np.random.default_rng([seed, 1]).integers(_PARTS, size=target.shape[1:])
    weight = image.score_weight()
    return [
        _Fold(
            image=image.hidden(part == k),
            target=target,
            weight=np.where(part == k, weight, 0),
        )
        for k in range(_FOLDS)
    ]


class _Trials:
    """Scores of weights: squared errors of hidden fractions, in all blocks."""

    def __init__(
        self,
        folds_of: Sequence[list[_Fold]],
        run: Workers,
        callback: Callable | None,
    ) -> None:
        self.folds = [fold for folds in folds_of for fold in folds]
        self.run, self.callback, self.tried = run, callback, count()

    def score(self, lambda_tv: float, lambda_haadf: float) -> np.ndarray:
        """Scores of fractions that are fused with these weights."""
        if self.callback is not None:  # not from the helping threads
            self.callback(next(self.tried), np.inf)

        def errors(fold: _Fold, run: Workers) -> np.ndarray:
            if lambda_haadf == 0:
                found = fold.image.alone(lambda_tv, run, _ALONE_TRIAL_ITERATIONS)
            else:
                found = fold.image.trial((lambda_tv, lambda_haadf), run)
            return np.nansum(fold.weight * (fold.target - found) ** 2, axis=0)

        found = self.run.each(errors, self.folds)
        return np.concatenate(
            [
                block_sums(sum(found[k : k + _FOLDS]))
                for k in range(0, len(found), _FOLDS)
            ]
        )
