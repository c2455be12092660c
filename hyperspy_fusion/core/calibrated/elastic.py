"""Further elastic images of the scan: each calibrated by itself, and used if it helps.

An image of any detector, or a phase, is taken for o + Σ c_i x_i as HAADF is. Noise,
displacement, coefficients, model error and the pixels to trust are found for each image
alone, so that a bad one does not spoil another. Then the images are tried one after the
other, and each stays if held-out data are predicted better with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..common.operators import block_sums, products
from ..common.threads import Workers
from .bad_pixels import image_without_bad
from .coefficients import non_negative
from .convex.problem import Image
from .convex.solver import WarmStart
from .examine import counts_alone, examine
from .guard import GuardReport
from .prepare import Preparation, PreparedData, shifted_image
from .shift import Shift
from .weights import (
    LAMBDA_HAADF,
    LAMBDA_TV,
    LEAST_GAIN,
    LOWEST,
    Search,
    Trials,
    Weights,
    significance,
)

EXPONENT = 1.0  # of Z in the prior of c_i: a phase has less, annular dark field more
_MOST_FLAGGED = 0.5  # fraction of the pixels; an image beyond it is not tried
_INVERTED = 2.0  # standard deviations by which an inverted image fits better
# With 20 iterations, which do for HAADF alone, the trials favour large weights.
_TRIAL_ITERATIONS = 40
_ROUNDS = 2  # of changes to the weights after an image was added
_WEIGHTS = (*LOWEST[::-1], *LAMBDA_HAADF[1:])


@dataclass(frozen=True)
class Further:
    """Elastic images besides HAADF, as they were measured.

    Attributes
    ----------
    names : tuple of str
        Their names, for messages.
    images : numpy.ndarray
        Shape ``(n_images, y, x)``, in any units; NaN where missing.
    prior : numpy.ndarray
        Expected c_i in any common unit, shape ``(n_elements,)``.
    """

    names: tuple[str, ...]
    images: Any
    prior: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found about a further image.

    Attributes
    ----------
    name : str
        Of the image.
    coefficients, offset : numpy.ndarray and float
        Of the model o + Σ c_i x_i of the image as it was measured; all c_i ≤ 0 if its
        contrast is inverted. Intensity per count of the mathematics, shape ``(n,)``.
    error : float
        Model error, in units of the image.
    inverted : bool
        Whether the image is dark where the maps are bright.
    shift : Shift
        Displacement against the maps.
    report : GuardReport
        Where it contradicts the maps.
    weight, gain : float
        μ, 0 where it is not used; how much better held-out data are predicted with it,
        in standard deviations, NaN where it was not tried.
    notes : tuple of str
        About its pixels.
    barred : str
        Why it may not be used, whatever it shows; empty if it may.
    """

    name: str
    coefficients: np.ndarray
    offset: float
    error: float
    inverted: bool
    shift: Shift
    report: GuardReport
    weight: float = 0.0
    gain: float = np.nan
    notes: tuple[str, ...] = ()
    barred: str = ""

    @property
    def title(self) -> str:
        """What the image is called in messages."""
        return f"the image {self.name}"

    @property
    def obstacle(self) -> str:
        """Why the image is not to be tried; empty if it is."""
        if self.barred:
            return self.barred
        if self.report.flagged > _MOST_FLAGGED:
            return (
                f"it contradicts the maps in {100 * self.report.flagged:.0f} % of the "
                "pixels"
            )
        if not np.any(self.coefficients):
            return "it shows none of the elements that were mapped"
        return ""

    @property
    def told(self) -> tuple[str, ...]:
        """What was done with the image, for the user."""
        found = []
        if self.inverted:
            found.append(
                f"{self.title} has inverted contrast, as a bright-field image: it was "
                "turned over"
            )
        if self.weight > 0:
            found.append(
                f"{self.title} was used; its weight {self.weight:.3g} was chosen: with "
                f"it, held-out data are predicted better by {self.gain:.1f} standard "
                "deviations"
            )
        else:
            why = self.obstacle or (
                "it does not improve the prediction of the maps "
                f"({self.gain:.1f} standard deviations, at least {LEAST_GAIN:g} are "
                "required)"
            )
            found.append(f"{self.title} was not used: {why}")
        return (*self.notes, *found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user has to know of an image that is used."""
        if self.weight == 0:
            return ()
        flagged = replace(self.report, correlation=0.0, judged=True)
        found = self.shift.message_of(self.title), flagged.message_of(self.title)
        return tuple(filter(None, found))


def barred_for_fractions(further: Further) -> list[Found]:
    """The images, none of which is used: the maps are fractions.

    Their noise is tied by their sum, so that any image seems to predict hidden pixels.
    """
    nothing = np.full(len(further.prior), np.nan)
    return [
        Found(
            name=name,
            coefficients=nothing,
            offset=np.nan,
            error=np.nan,
            inverted=False,
            shift=Shift(),
            report=GuardReport(largest=np.nan, flagged=0.0, brighter=False),
            barred="the maps are fractions, which are fused with HAADF alone",
        )
        for name in further.names
    ]


def record_of(images: Sequence[Found], gain: np.ndarray) -> dict[str, Any]:
    """Entries of the record of the fusion; `gain` is the value of a count."""
    return {
        "lambda_elastic": np.array([image.weight for image in images]),
        "elastic_gain": np.array([image.gain for image in images]),
        "elastic_coefficients": np.array(
            [image.coefficients / gain for image in images]
        ),
        "elastic_offset": np.array([image.offset for image in images]),
        "elastic_model_error": np.array([image.error for image in images]),
        "elastic_shift": np.array([[i.shift.y, i.shift.x] for i in images]),
        "elastic_guard": np.array([image.report.largest for image in images]),
        "elastic_flagged": np.array([image.report.flagged for image in images]),
    }


def examine_further(
    preparation: Preparation,
    prepared: PreparedData,
    further: Further,
    run: Workers,
    callback_for: Callable[[str], Callable | None],
) -> tuple[list[Found], PreparedData]:
    """Calibrate each image by itself; `prepared` are the data that HAADF left.

    Returns what was found, and the data with the images.
    """
    part = prepared.take(preparation.tiles)
    alone = counts_alone(part, WarmStart(run, callback_for("calibration")))
    found, images = [], []
    for name, values in zip(further.names, further.images, strict=True):
        seen, notes = image_without_bad(prepared.data, values, f"the image {name}")
        known = np.isfinite(seen)
        image, units, noise = shifted_image(
            seen, known, replace(preparation.units, noise=None), preparation.tiles
        )
        own = replace(
            prepared,
            haadf=image,
            sigma=np.sqrt(noise.variance(image)),
            error=0.0,
            contrast=float(np.std(image, where=known)) if known.any() else 0.0,
            trusted=known.astype(np.float32),
            coefficients=np.zeros(len(prepared.data)),
            offset=0.0,
        )
        inverted = is_inverted(own.take(preparation.tiles), alone)
        top, sign = float(image.max()), 1
        if inverted:
            own, sign = replace(own, haadf=np.float32(top) - image), -1
        examined = examine(
            replace(preparation, prepared=own, background_known=True),
            further.prior,
            run,
            callback_for,
            alone,
        )
        own = examined.prepared
        offset = top - own.offset if inverted else own.offset
        found.append(
            Found(
                name=name,
                coefficients=sign * own.coefficients,
                offset=offset + units.base,
                error=own.error,
                inverted=inverted,
                shift=examined.shift,
                report=examined.report,
                notes=tuple(notes),
            )
        )
        images.append(
            Image(
                values=own.haadf - np.float32(own.offset),
                precision=own.trusted / own.sigma**2,
                weight=0.0,
                coefficients=own.coefficients,
            )
        )
    return found, replace(prepared, elastic=tuple(images))


def is_inverted(prepared: PreparedData, maps: np.ndarray) -> bool:
    """Whether the image is fitted better upside down, with coefficients of at least 0.

    `maps` are fused without any image. By two standard deviations of the scatter
    between blocks of pixels.
    """
    weight = prepared.trusted / prepared.sigma**2
    left = [
        _squares(sign * prepared.haadf, weight, maps) for sign in (np.float32(1), -1)
    ]
    return significance(block_sums(left[0] - left[1])) > _INVERTED


def _squares(image: np.ndarray, weight: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Weighted squares that an offset and c_i ≥ 0 leave of an image, by pixels."""
    total = weight.sum(dtype=np.float64)
    if total == 0:
        return np.zeros(image.shape)
    image = image - float(np.vdot(weight, image)) / total
    mean = np.tensordot(maps, weight, 2) / total
    columns = maps - mean[:, None, None]
    weighted = columns * weight
    normal = products(weighted, columns)
    right = products(weighted, image[None])[:, 0]
    model = np.tensordot(non_negative(normal, right), columns, 1)
    return weight * (image - model) ** 2


def choose_further(
    found: Sequence[Found],
    prepared: PreparedData,
    tiles: Any,
    weights: Weights,
    run: Workers,
    *,
    seed: int,
    lambda_tv: float | None = None,
    lambda_haadf: float | None = None,
    callback: Callable | None = None,
) -> tuple[list[Found], PreparedData, Weights]:
    """Choose the weights of further images, beginning with those without them.

    Weights that are given stay, and elements that have a norm of their own. If no image
    helps, all is as it was.
    """
    part = prepared.take(tiles)
    trials = Trials([part], run, seed=seed, n_iter=_TRIAL_ITERATIONS, callback=callback)
    allowed = [k for k, image in enumerate(found) if not image.obstacle]
    search = Search(
        lambda lambda_tv, mus: trials(
            lambda_tv, mus[0], apart=weights.apart, elastic=mus[1:]
        )[0],
        LAMBDA_TV if lambda_tv is None else (lambda_tv,),
    )
    position, mus, gains = select(
        search, weights, len(found), allowed, free=lambda_haadf is None
    )
    found = [
        replace(image, weight=mu, gain=gain)
        for image, mu, gain in zip(found, mus[1:], gains, strict=True)
    ]
    if not any(mus[1:]):
        return found, replace(prepared, elastic=()), weights
    prepared = prepared.weighted(mus[1:])
    lambda_tv = search.refined(position, mus)
    weights = replace(weights, lambda_tv=lambda_tv, lambda_haadf=mus[0])
    return found, prepared, weights


def select(
    search: Search,
    weights: Weights,
    n_images: int,
    allowed: Sequence[int],
    *,
    free: bool,
) -> tuple[int, tuple[float, ...], list[float]]:
    """Forward selection of further images, in their order.

    An image stays if held-out data are predicted better by two standard deviations.
    Then all weights are changed by steps of their grid, one by one and together: their
    best values lie along a diagonal valley.

    Parameters
    ----------
    search : Search
        Scores of λ and the tuple of μ, that of HAADF first.
    weights : Weights
        Those without further images.
    n_images : int
        Number of further images.
    allowed : sequence of int
        Those to be tried.
    free : bool
        Whether the weight of HAADF may change.

    Returns
    -------
    position : int
        Index of λ in the grid.
    mus : tuple of float
        μ of all images, that of HAADF first.
    gains : list of float
        Of each further image, standard deviations; NaN where it was not tried.
    """
    away = [abs(np.log(value / weights.lambda_tv)) for value in search.grid]
    mus = (weights.lambda_haadf, *(0.0,) * n_images)
    gains = [np.nan] * n_images
    position = search.climb(mus, int(np.argmin(away)))
    for k in allowed:
        trial = _Steps(k + 1, mus)
        at = position if any(mus) else search.climb(trial(LAMBDA_HAADF[2]), position)
        new = trial(search.best(at, LAMBDA_HAADF[1:], trial))
        at = search.climb(new, at)
        gains[k] = search.gain((at, new), (position, mus))
        if gains[k] < LEAST_GAIN:
            continue
        position, mus = at, new
        movable = [j for j, mu in enumerate(mus) if mu > 0 and (free or j > 0)]
        moves = [*([j] for j in movable), movable]
        for _ in range(_ROUNDS):
            before = mus
            for move in moves:
                others = [_moved(mus, move, step) for step in (-1, 1)]
                best = min(others, key=lambda mus: search.total(position, mus))
                if search.total(position, best) < search.total(position, mus):
                    position, mus = search.climb(best, position), best
            if mus == before:
                break
    return position, mus, gains


@dataclass(frozen=True)
class _Steps:
    """The weights of all images with another one for image `j`."""

    j: int
    mus: tuple[float, ...]

    def __call__(self, mu: float) -> tuple[float, ...]:
        return (*self.mus[: self.j], mu, *self.mus[self.j + 1 :])


def _moved(mus: Sequence[float], which: Sequence[int], step: int) -> tuple[float, ...]:
    """The weights with some of them a step up or down their grid."""
    moved = list(mus)
    for j in which:
        nearest = int(np.argmin(np.abs(np.log(np.divide(_WEIGHTS, mus[j])))))
        moved[j] = _WEIGHTS[int(np.clip(nearest + step, 0, len(_WEIGHTS) - 1))]
    return tuple(moved)
