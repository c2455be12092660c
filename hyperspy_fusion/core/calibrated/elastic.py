"""Further elastic images of the scan, each calibrated by itself.

An image of any detector, or a phase, is taken for o + Σ c_i x_i as HAADF is. Noise,
displacement, coefficients, model error and the pixels to trust are found for each image
alone, so that a bad one does not spoil another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..common.operators import block_sums, products
from ..common.threads import Workers
from .bad_pixels import image_without_bad
from .coefficients import non_negative
from .convex.problem import Image
from .convex.solver import WarmStart
from .examine import Examined, counts_alone, examine, guarded
from .guard import GuardReport
from .noise import NoiseLine
from .prepare import Preparation, PreparedData, as_measured, shifted_image
from .shift import Shift, aligned
from .slow import examined_without_slow, slow_message, without_slow
from .weights import LEAST_GAIN, significance

EXPONENT = 1.0  # of Z in the prior of c_i: a phase has less, annular dark field more
_MOST_FLAGGED = 0.5  # fraction of the pixels; an image beyond it is not tried
_INVERTED = 2.0  # standard deviations by which an inverted image fits better
# Fraction of the flagged pixels that a slow part leaves, at most; of HAADF more may be
# left, which is tried with and without it.
_SLOW_LEAVES = 0.2


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
    prior : numpy.ndarray
        Expected c_i in any common unit, shape ``(n_elements,)``.
    coefficients, offset : numpy.ndarray and float
        Of the model o + Σ c_i x_i of the image as it was measured; all c_i ≤ 0 if its
        contrast is inverted. Intensity per count of the mathematics, shape ``(n,)``.
    error : float
        Model error, in units of the image.
    contrast : float
        Standard deviation of the image.
    base, noise : float and NoiseLine or None
        Value that is subtracted from the image, and its noise then.
    inverted : bool
        Whether the image is dark where the maps are bright.
    slow : float
        Fraction of the pixels that contradicted the maps before a slow part of the
        image was subtracted, 1 for a model error all over it; 0 if none was.
    shift : Shift
        Displacement against the maps.
    report : GuardReport
        Where it contradicts the maps.
    weight, gain : float
        μ, 0 where it is not used; how much better held-out data are predicted with it,
        in standard deviations, NaN where it was not tried.
    given : bool
        Whether the weight was given.
    notes : tuple of str
        About its pixels.
    barred : str
        Why it may not be used, whatever it shows; empty if it may.
    undone : Shift
        Displacement that was undone before the image was cut into tiles.
    """

    name: str
    prior: np.ndarray
    coefficients: np.ndarray
    offset: float = np.nan
    error: float = np.nan
    contrast: float = np.nan
    inverted: bool = False
    shift: Shift = Shift()
    report: GuardReport = field(default_factory=GuardReport)
    base: float = 0.0
    noise: NoiseLine | None = None
    weight: float = 0.0
    gain: float = np.nan
    given: bool = False
    notes: tuple[str, ...] = ()
    barred: str = ""
    slow: float = 0.0
    undone: Shift = Shift()

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
        if self.slow:
            found.append(slow_message(self.title, self.slow, self.report.flagged))
        if self.weight > 0 and self.given:
            found.append(f"{self.title} was used with the weight {self.weight:.3g}")
        elif self.weight > 0:
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
            if self.given and not self.barred:
                why = "its weight is 0"
            found.append(f"{self.title} was not used: {why}")
        return (*self.notes, *found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user has to know of an image that is used."""
        if self.weight == 0:
            return ()
        flagged = replace(self.report, correlation=0.0, judged=True)
        shift = self.undone + self.shift
        found = shift.message_of(self.title), flagged.message_of(self.title)
        return tuple(filter(None, found))

    def part(
        self, prepared: PreparedData, values: np.ndarray, run: Workers, factor: int = 1
    ) -> tuple[Image, "Found"]:
        """The image in a part of the pixels: its term, and what was found there.

        Parameters
        ----------
        prepared : PreparedData
            The part; its HAADF image is of no matter.
        values : numpy.ndarray
            The image there, as it was measured.
        run : Workers
            The threads.
        factor : int
            Pixels a side of which `prepared` and `values` are means.
        """
        seen, notes = image_without_bad(prepared.data, values, self.title, is_part=True)
        own, *_ = _in_place_of_haadf(prepared, seen, self.base, self.noise)
        sign = -1 if self.inverted else 1
        own = replace(
            _turned(own, self.inverted).with_error(self.error),
            contrast=self.contrast,
            coefficients=sign * self.coefficients,
            offset=sign * (self.offset - self.base),
        )
        own = aligned(own, self.shift) if factor == 1 else own.on_large_pixels(factor)
        if self.slow:
            own = without_slow(own, factor=factor)
        own, report = guarded(own, self.report, run)
        return _term(own, self.weight), replace(self, report=report, notes=tuple(notes))


def barred_for_fractions(further: Further) -> list[Found]:
    """The images, none of which is used: the maps are fractions.

    Their noise is tied by their sum, so that any image seems to predict hidden pixels.
    """
    return [
        Found(
            name=name,
            prior=further.prior,
            coefficients=np.full(len(further.prior), np.nan),
            barred="the maps are fractions, which are fused with HAADF alone",
        )
        for name in further.names
    ]


def entries_of(images: Sequence[Found], count_value: np.ndarray) -> dict[str, Any]:
    """Entries of the record of the fusion."""
    shifts = [image.undone + image.shift for image in images]
    return {
        "lambda_elastic": np.array([image.weight for image in images]),
        "elastic_gain": np.array([image.gain for image in images]),
        "elastic_coefficients": np.array(
            [image.coefficients / count_value for image in images]
        ),
        "elastic_offset": np.array([image.offset for image in images]),
        "elastic_model_error": np.array([image.error for image in images]),
        "elastic_shift": np.array([[shift.y, shift.x] for shift in shifts]),
        "elastic_slow": np.array([image.slow for image in images]),
        "elastic_guard": np.array([image.report.largest for image in images]),
        "elastic_flagged": np.array([image.report.flagged for image in images]),
    }


def examine_further(
    preparation: Preparation,
    prepared: PreparedData,
    further: Further,
    run: Workers,
    callback_for: Callable[[str], Callable | None] = lambda _: None,
) -> tuple[list[Found], PreparedData]:
    """Calibrate each image by itself; `prepared` are the data that HAADF left.

    Returns what was found, and the data with the images.
    """
    tiles = preparation.tiles
    warm = WarmStart(run, callback_for("calibration"))
    alone = counts_alone(prepared.take(tiles), warm)
    found, images = [], []

    def examined_as(own: PreparedData) -> Examined:
        given = replace(preparation, prepared=own, background_known=True)
        return examine(given, further.prior, run, callback_for, alone)

    for name, values in zip(further.names, further.images, strict=True):
        seen, notes = image_without_bad(prepared.data, values, f"the image {name}")
        own, base, noise = _in_place_of_haadf(prepared, seen, tiles=tiles)
        inverted = fits_inverted(own.take(tiles), alone)
        own = _turned(own, inverted)
        one = examined_as(own)
        slow = examined_without_slow(
            one,
            replace(preparation, prepared=own),
            further.prior,
            run,
            callback_for,
            leaves=_SLOW_LEAVES,
        )
        one = slow or one
        own = one.prepared
        sign = -1 if inverted else 1
        found.append(
            Found(
                name=name,
                prior=further.prior,
                coefficients=sign * own.coefficients,
                offset=sign * own.offset + base,
                error=own.error,
                contrast=own.contrast,
                base=base,
                noise=noise,
                inverted=inverted,
                slow=one.slow,
                shift=one.shift,
                report=one.report,
                notes=tuple(notes),
            )
        )
        images.append(_term(own))
    return found, replace(prepared, elastic=tuple(images))


def _in_place_of_haadf(
    prepared: PreparedData,
    values: np.ndarray,
    base: float = 0.0,
    noise: NoiseLine | None = None,
    tiles: Any = None,
) -> tuple[PreparedData, float, NoiseLine]:
    """The data with another image in the place of HAADF, which is not calibrated.

    `values` are NaN where they are not known. With `base` and `noise` of the image,
    which are found if there is no noise.
    """
    known = np.isfinite(values)
    image, base, noise = shifted_image(values, known, base, noise, tiles)
    own = as_measured(image, noise, known, len(prepared.data))
    return replace(prepared, **own, elastic=()), base, noise


def _turned(prepared: PreparedData, inverted: bool) -> PreparedData:  # noqa: FBT001
    """The data with the image turned over if its contrast is inverted."""
    return replace(prepared, haadf=-prepared.haadf) if inverted else prepared


def _term(own: PreparedData, weight: float = 0.0) -> Image:
    """The term of an image, from data with the image in the place of HAADF."""
    return Image(
        values=own.haadf - np.float32(own.offset),
        precision=own.precision,
        weight=weight,
        coefficients=own.coefficients,
    )


def fits_inverted(prepared: PreparedData, maps: np.ndarray) -> bool:
    """Whether the image is fitted better upside down, with coefficients of at least 0.

    `maps` are fused without any image. By two standard deviations of the scatter
    between blocks of pixels.
    """
    weight = prepared.precision
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
