"""Maps of fractions are fused as the counts that they stand for.

Of a fraction the number of counts is not known, but the image and the fractions fused
without it tell how many are expected in each pixel. The Poisson likelihood of as many
counts with the measured shares lies below the multinomial likelihood of the fractions,
and meets it where the maps have these sums. It is a convex problem as that of counts,
and the sums of these counts are kept as those of counts are: else the image would be
explained by whatever element costs least, and a rare heavy one does. The image alone
tells the sum of a pixel: hidden fractions can not choose its weight, which is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

from ..common.missing import fill
from ..common.threads import Workers
from .coefficients import CALIBRATION_LAMBDA
from .composition import NoiseLaw, density, in_vacuum, noise_law, normalised
from .convex.solver import minimise
from .flux import FluxLock
from .guard import prediction
from .prepare import PEDESTAL, Preparation, PreparedData, scales
from .shift import Shift, aligned, far_shift, near_shift
from .split import thinned
from .uncertainty import random_numbers
from .weights import (
    TRIAL_ITERATIONS,
    HeldOut,
    Weights,
    choose_weights,
    significance,
    with_own_norms,
)

if TYPE_CHECKING:
    from .options import CalibratedOptions

LAMBDA_HAADF = 0.03  # 0.01 to 0.1 give the same amounts within 6 %
_ALONE_ITERATIONS = 60  # of fractions without the image
_ALONE_TRIAL_ITERATIONS = 30
_PARTS, _FOLDS = 5, 4
_LEAST_SUM = 0.1  # of its 0.99 quantile; stray counts have fractions, too
_LEAST_SHIFT = 2.0  # pixels
_SMOOTHING = 3.0  # pixels, of the fractions from which their noise is computed

ERRORS_OF_PROPORTIONS = (
    "the replicas hold the errors of proportions, as of get_fractions; those of the "
    "amounts, whose sums rest on coefficients that are assumed, are not known"
)


@dataclass(frozen=True, kw_only=True)
class Fractions:
    """Fractions of one image with their noise law, ready to be fused.

    Attributes
    ----------
    prepared : PreparedData
        With fractions as data, and scales for the pseudo-counts.
    law : NoiseLaw
        Of the fractions.
    shift : Shift
        Displacement of the HAADF image against the maps, which is undone.
    """

    prepared: PreparedData
    law: NoiseLaw
    shift: Shift = Shift()

    @classmethod
    def of(
        cls,
        preparation: Preparation,
        prior: np.ndarray,
        options: CalibratedOptions,
        run: Workers,
    ) -> Fractions:
        """Find the displacement, the law, the coefficients and the scales."""
        offset = options.haadf_offset
        if offset is not None:
            offset -= preparation.units.base
        prepared, tiles = preparation.prepared, preparation.tiles
        image = cls._calibrated(prepared.take(tiles), prior, offset)
        shift = image.displacement(prior, run)
        if not shift.significant:
            return image
        moved = aligned(prepared, shift).take(tiles)
        return replace(cls._calibrated(moved, prior, offset), shift=shift)

    @classmethod
    def _calibrated(
        cls, prepared: PreparedData, prior: np.ndarray, offset: float | None
    ) -> Fractions:
        """Find the law, the coefficients and the scales."""
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

    def displacement(self, prior: np.ndarray, run: Workers) -> Shift:
        """Displacement of the image by whole pixels, at least 2.

        The image is not linear in fractions: they fit it better where it is displaced
        by up to a pixel.
        """
        prepared = self.prepared
        maps = self.alone(CALIBRATION_LAMBDA, run, _ALONE_TRIAL_ITERATIONS)
        # none in vacuum, where the thickness is 0
        maps *= density(np.isfinite(prepared.data[0])).astype(np.float32)
        shift = Shift()
        if not prepared.sampled:
            model = np.tensordot(prior, maps, axes=1)
            shift = far_shift(prepared.haadf, prepared.precision, model)
        shift += near_shift(aligned(prepared, shift), maps, whole=True)
        return shift if np.hypot(shift.y, shift.x) >= _LEAST_SHIFT else Shift()

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

    def counts(
        self, weights: Sequence[float], run: Workers, n_alone: int
    ) -> PreparedData:
        """Pseudo-counts for these λ and μ.

        The image tells the sum of a pixel, together with the fractions that are fused
        without it in `n_alone` iterations; nothing does where μ is 0.
        """
        lambda_tv, lambda_haadf = weights
        if lambda_haadf == 0:
            return self.with_counts(self.law.counts)
        alone = self.alone(lambda_tv, run, n_alone)
        return self.with_counts(self.law.expected_counts(self.prepared.haadf, alone))

    def with_norms(self, apart: tuple[bool, ...]) -> Fractions:
        """The same with elements whose TGV has a norm of its own."""
        return replace(self, prepared=replace(self.prepared, apart=apart))

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
                prepared=self.prepared.at_dose(normalised(part * value), 0.5), law=law
            )
            for part in (half, data - half)
        ]

    def fused(
        self, weights: Sequence[float], run: Workers, n_alone: int, n_iter: int
    ) -> tuple[PreparedData, np.ndarray]:
        """Pseudo-counts, and their maps after few iterations with these λ and μ.

        `n_alone` are the iterations without the image before. The sums are free: to
        keep them takes many iterations.
        """
        counts = self.counts(weights, run, n_alone)
        problem = counts.problem(*weights)
        return counts, minimise(problem, run, tolerance=None, max_iter=n_iter).maps

    def trial(self, weights: tuple[float, ...], run: Workers) -> np.ndarray:
        """Fractions after few iterations with these λ and μ."""
        lambda_tv, lambda_haadf = weights
        if lambda_haadf == 0:
            return self.alone(lambda_tv, run, _ALONE_TRIAL_ITERATIONS)
        fused = self.fused(weights, run, _ALONE_TRIAL_ITERATIONS, TRIAL_ITERATIONS)
        return self.law.proportions(fused[1])

    def score_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights of squared errors and of the deviance.

        The inverse noise variance of each element in each pixel, times its mean over
        the pixels, shape ``(n_elements, y, x)``; and the effective number of counts,
        shape ``(y, x)``. 0 where there is hardly anything.
        """
        prepared, law, smooth = self.prepared, self.law, self._smooth()
        total = law.total(prepared.haadf, smooth)
        known = np.isfinite(prepared.data[0])
        used = known & ~in_vacuum(known)
        used &= total > _LEAST_SUM * np.quantile(total, 0.99)
        precision = np.where(used, law.precision(smooth, total), 0)
        unit = law.variance(smooth).mean(axis=(1, 2), where=used[None])
        weight = precision / np.where(unit > 0, unit, 1)[:, None, None]
        return weight, precision * law.counts_per_sum(smooth)

    def _smooth(self) -> np.ndarray:
        smooth = gaussian_filter(fill(self.prepared.data), (0, _SMOOTHING, _SMOOTHING))
        return smooth / smooth.sum(axis=0)


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How amounts are found from the fractions of an image, without pixels.

    Attributes
    ----------
    numbers : PreparedData
        Coefficients, offset and scales of the pseudo-counts.
    law : NoiseLaw
        Of the fractions.
    shift : Shift
        Displacement of the HAADF image against the maps.
    total : float
        Sum of the fractions in a pixel, in the units of the maps.
    """

    numbers: PreparedData
    law: NoiseLaw
    shift: Shift
    total: float

    @property
    def count_value(self) -> np.ndarray:
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

    def counts(
        self, prepared: PreparedData, weights: Weights, run: Workers
    ) -> PreparedData:
        """Pseudo-counts, from data that hold fractions; their sums are kept."""
        image = Fractions(prepared=prepared, law=self.law).with_norms(weights.apart)
        both = weights.lambda_tv, weights.lambda_haadf
        counts = image.counts(both, run, _ALONE_ITERATIONS)
        return replace(counts, lock=FluxLock.of_all(len(counts.data)))

    def simulations(
        self,
        prepared: PreparedData,
        weights: Weights,
        maps: np.ndarray,
        run: Workers,
        seed: int,
    ) -> Iterator[PreparedData]:
        """Pseudo-counts of fractions that are simulated from maps, without end.

        `prepared` holds the measured fractions, `maps` are fused pseudo-counts. Counts
        are drawn, and become fractions again; the law of these is taken for exact.
        """
        rng = random_numbers(prepared.data, seed)
        missing = np.isnan(prepared.data)
        value = self.law.count_value.astype(np.float32)[:, None, None]
        model = prediction(prepared, maps)
        while True:
            drawn = np.where(missing, np.float32(np.nan), rng.poisson(maps) * value)
            haadf = rng.normal(model, prepared.sigma).astype(np.float32)
            trial = replace(prepared, data=normalised(drawn), haadf=haadf)
            yield self.counts(trial, weights, run)


def decide_amounts(
    preparation: Preparation,
    prior: np.ndarray,
    options: CalibratedOptions,
    run: Workers,
    callback: Callable | None,
) -> tuple[Amounts, Weights]:
    """Find displacement and noise law of fractions, and choose the weights."""
    image = Fractions.of(preparation, prior, options, run)
    weights = weigh_fractions(
        [image],
        run,
        seed=options.seed,
        lambda_tv=options.lambda_tv,
        lambda_haadf=options.lambda_haadf,
        callback=callback,
    )
    amounts = Amounts(
        numbers=image.prepared.numbers(),
        law=image.law,
        shift=image.shift,
        total=preparation.units.total or 1.0,
    )
    return amounts, weights


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
    held_out = HeldOut([_folds(image, seed) for image in images], run, callback)

    def trials(*weights: float, apart: tuple[bool, ...] = ()) -> np.ndarray:
        def errors(fold: _Fold, run: Workers) -> tuple[np.ndarray, np.ndarray]:
            return fold.errors(fold.image.with_norms(apart).trial(weights, run))

        return held_out.blocks(errors)

    known: dict[tuple[float, ...], np.ndarray] = {}

    def score(*weights: float) -> np.ndarray:
        known[weights] = trials(*weights)
        return known[weights][0]

    found = without = choose_weights(score, None, 0.0)
    if lambda_haadf > 0:
        found = choose_weights(score, None, lambda_haadf)
        gain = significance(
            score(without.lambda_tv, 0.0) - score(found.lambda_tv, lambda_haadf)
        )
        tried = np.concatenate([without.tried, found.tried])
        found = replace(found, gain=gain, tried=tried)
    return with_own_norms(found, trials, known, len(images[0].prepared.data))


@dataclass(frozen=True, kw_only=True)
class _Fold:
    """Fractions with hidden pixels, and all of them with the weights of their errors.

    `target` and `weight` have the shape of the maps, `counts`, the weight of the
    deviance, that of one; the weights are 0 where nothing has to be predicted.
    """

    image: Fractions
    target: np.ndarray
    weight: np.ndarray
    counts: np.ndarray

    def errors(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Squared errors of predicted fractions, and half their deviance."""
        squares = np.nansum(self.weight * (self.target - found) ** 2, axis=0)
        law = self.image.law
        measured, expected = law.shares(self.target), law.shares(found)
        terms = measured * np.log(np.maximum(measured, 1e-12) / expected)
        return squares, self.counts * np.nansum(terms, axis=0)


def _folds(image: Fractions, seed: int) -> list[_Fold]:
    """Hide whole pixels, a different fifth of them in each of four folds."""
    target = image.prepared.data
    # own stream: the user may have hidden pixels with the same seed
    rng, (y, x) = np.random.default_rng([seed, 1]), image.prepared.directions
    part = rng.integers(_PARTS, size=target.shape[1:])[::y, ::x]  # flipped as the image
    weight, counts = image.score_weights()
    return [
        _Fold(
            image=image.hidden(part == k),
            target=target,
            weight=np.where(part == k, weight, 0),
            counts=np.where(part == k, counts, 0),
        )
        for k in range(_FOLDS)
    ]
