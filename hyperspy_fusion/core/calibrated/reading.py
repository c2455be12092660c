"""What the numbers of the maps are: counts, scaled counts, or other values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, minimum_filter

from ..common.messages import map_names
from ..common.threads import ALONE, Workers
from .composition import sum_of_fractions
from .correlation import PARTS, Kernel, find_kernel, find_rounded_filter
from .noise import (
    MOST_LEVELS,
    NoiseLine,
    are_jpeg_blocks,
    count_gain,
    count_step,
    map_noise_line,
    noise_line,
)
from .rows import RowNoise

# Variance over mean of counts, below which whole numbers are none.
_LEAST_DISPERSION = 0.6
# And what it is above 1, from which on they are none: in so many pixels a side, in
# fewer more, by chance; if there are not more than so many counts a pixel, of which
# details as sharp as a pixel look like noise.
_EXCESS, _EXCESS_SIZE, _MANY_COUNTS = 0.4, 80, 100
_LEAST_SIZE = 48  # pixels a side, of which it is known well enough
# Noise variance at the value 0 over that at the mean, of scaled counts.
_AT_ZERO = 0.1
_LEAST_PIXELS = 400  # of which the dispersion is known
_MEASURED = 0.95  # fraction of the pixels: filled ones look filtered
_ALL_WHOLE = 2.0**23  # from here on float32 has whole numbers only
_LIMIT = 256  # values of an image of 8 bits
_SHARED = 1.55  # variance over mean, in steps, of parts of counts; of counts 0.9 to 1.4
_NOTES_ON_FRACTIONS = (
    "fractions have no sums that could be kept: lock_flux is not used",
    (
        "fractions are not compared with the HAADF image: an element without a map is "
        "not detected, nor is a displacement by less than 2 pixels"
    ),
)
DENOISED = (
    "the maps hold no whole counts, and their noise was estimated: if they were "
    "denoised (by PCA, a Wiener or bilateral filter, non-local means), this may be why "
    "the HAADF image does not fit them. Pass raw counts"
)
_ROUNDING = 1e-5  # of the largest value, below 0
# Functions of counts in use, with their inverses and the largest value they may have.
_FUNCTIONS = (
    ("square roots", np.square, np.inf),
    ("Anscombe transforms", lambda values: _whole_only(values**2 / 4 - 3 / 8), np.inf),
    ("logarithms", np.expm1, 40),
    ("logarithms", lambda values: 2**values - 1, 40),
    ("logarithms", lambda values: 10**values - 1, 40),
)
_NEARLY_WHOLE = 1e-3
_NEAR_ZERO = 0.2  # of the mean, up to which a value is near 0, or an offset
# Of maps whose values below 0 were cut off: fraction of the value of a count that no
# counts are below, and of the positive values that are.
_LEAST_COUNT, _CLIPPED = 0.2, 0.05
# Pixels, fraction of the pixels where the smoothed map is lowest, and fraction of these
# that are 0 at most.
_SMOOTHING, _LOWEST, _MOST_EMPTY = 3.0, 0.25, 0.8
_LEAST_EMPTY = 0.05  # fraction of empty pixels that only counts have


# What a user has to know of a map, by the first of these attributes that is true.
_WARNINGS = {
    "shared": (
        "the {name} has the noise of counts of {0.count_value:.3g}, and values that "
        "are multiples of less: pixels seem to share counts in parts, as after binning"
        " by a factor that is no whole number, or details are as sharp as a pixel. Bin"
        " by a whole number, or not"
    ),
    "kernel": (
        "the noise of neighbouring pixels of the {name} is correlated, as after "
        "{0.kernel.name}: its noise was taken to be that of one pixel in "
        "{0.kernel.area:.1f}. Maps that were not filtered, interpolated or corrected "
        "for drift come nearer to the truth"
    ),
    "function": (
        "the {name} holds {0.function} of whole numbers: the HAADF image is not linear"
        " in them, nor are their sums conserved. Pass the counts themselves"
    ),
    "compressed": (
        "the {name} was compressed with loss, as in JPEG files: blocks of 8 x 8 pixels"
        " have lost details and a part of their noise, which nothing brings back. Pass"
        " the counts, or an export without loss"
    ),
    "noise": (
        "the {name} holds whole numbers with {0.noise:.1f} times the noise of counts: "
        "those of a background seem to have been subtracted, and values below 0 cut "
        "off. Pass the counts, and background="
    ),
    "clipped": (
        "the {name} has many pixels of 0, and values that reach down to it, as counts "
        "do not: values below 0 seem to have been cut off after a background was "
        "subtracted, which makes the vacuum too bright. Pass the map with its negative"
        " values, or better raw counts and background"
    ),
    "offset": (
        "the {name} seems to have an offset: its noise vanishes at {0.offset:.3g}, "
        "where its lowest values are. Give background={0.offset:.3g} for it, if that "
        "is no signal"
    ),
    "exported": (
        "the {name} holds whole numbers that are no counts, as an 8- or 16-bit export "
        "does: {0.gain}. Better pass the counts"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the numbers of a map were taken for.

    Attributes
    ----------
    count_value : float or None
        Value of a count; None if the map holds no counts.
    kernel : Kernel or None
        The filter that its noise went through; None if it is white.
    exact : bool
        Whether the values are multiples of it.
    exported : bool
        Whether the map holds whole numbers that are no counts.
    shared : bool
        Whether counts were shared by several pixels, in parts.
    compressed : bool
        Whether the map lost a part of its values, as in JPEG.
    clipped : bool
        Whether values below 0 were set to 0.
    noise : float
        Of whole numbers that are no counts, the noise over that of counts, if it is
        larger; else 0.
    offset : float
        Value at which its noise vanishes; 0 if that is 0, or it does not.
    function : str
        What the map holds of whole numbers, as "square roots"; else empty.
    """

    count_value: float | None
    kernel: Kernel | None = None
    exact: bool = False
    exported: bool = False
    shared: bool = False
    compressed: bool = False
    clipped: bool = False
    noise: float = 0.0
    offset: float = 0.0
    function: str = ""

    @property
    def gain(self) -> str:
        """How the value of a count is known, in words."""
        if self.count_value is None:
            return "its noise was estimated"
        return f"a count was found to be {self.count_value:.4g} of them"

    def warning(self, name: str) -> str:
        """What a user has to know of the map of this name; empty if it is nothing."""
        texts = (text for what, text in _WARNINGS.items() if getattr(self, what))
        return next(texts, "").format(self, name=name)


def read_map(filled: np.ndarray, known: np.ndarray, *, negative: bool) -> Reading:
    """Find what the numbers of a map are.

    The value of a count is the number of which all values are multiples, if there is
    one and the noise is not smaller than that of counts; else the variance over the
    mean, if that is the same everywhere.

    Parameters
    ----------
    filled : numpy.ndarray
        The map without gaps, shape ``(y, x)``.
    known : numpy.ndarray of bool
        Where it was measured.
    negative : bool
        Whether the map goes below 0, also beyond these pixels.
    """
    if not np.ptp(filled):
        return Reading(count_value=1.0, exact=True)
    values = filled[known]
    whole = bool((values == np.rint(values)).all()) and values.max() < _ALL_WHOLE
    bytes_ = whole and not negative and values.max() < _LIMIT
    compressed = bytes_ and are_jpeg_blocks(filled)
    step = None if negative else count_step(values)
    found = None if compressed else find_kernel(filled, step)
    if found is not None:
        kernel, count_value = found
        counts = not negative and _scaled(filled, known)
        return Reading(count_value=count_value if counts else None, kernel=kernel)
    if negative or compressed:
        return Reading(count_value=None, compressed=compressed)
    dispersion = count_gain(filled, known)
    if minimum_filter(known, 3).sum() < _LEAST_PIXELS or dispersion is None:
        dispersion = step  # too few pixels with all their neighbours, or only zeros
    if step is not None and not whole and _is_shared(filled, known, step):
        count_value = (dispersion or step) / PARTS.mask_gain
        return Reading(count_value=count_value, kernel=PARTS, shared=True)
    if step is not None and (dispersion or step) > _LEAST_DISPERSION * step:
        noise = (dispersion or step) / step
        size = np.sqrt(values.size)
        most = 1 + _EXCESS * max(1.0, _EXCESS_SIZE / size)
        noisy = whole and size >= _LEAST_SIZE and noise > most
        noisy = noisy and filled.mean() < _MANY_COUNTS * step
        return Reading(
            count_value=dispersion if noisy else step,
            exact=not noisy,
            # An export changes the range; multiples of small numbers do not.
            exported=whole and step > 1,
            noise=noise if noisy else 0.0,
        )
    return _read_values(filled, known, dispersion, whole=whole, step=step)


def _read_values(
    filled: np.ndarray,
    known: np.ndarray,
    dispersion: float | None,
    *,
    whole: bool,
    step: float | None,
) -> Reading:
    """As :func:`read_map`, of values without the noise of counts of the step."""
    function = "" if step is not None else _function(filled[known])
    if function:
        return Reading(count_value=None, function=function)
    if whole and step is not None and dispersion and known.mean() > _MEASURED:
        kernel = find_rounded_filter(filled, dispersion / step)
        if kernel is not None:
            return Reading(count_value=step, kernel=kernel)
    if not _scaled(filled, known):
        offset = _offset(filled, known)
        return Reading(count_value=None, exported=whole and not offset, offset=offset)
    if dispersion is not None and _is_clipped(filled, known, dispersion):
        return Reading(count_value=None, clipped=True)
    return Reading(count_value=dispersion, exported=whole)


def _whole_only(values: np.ndarray) -> np.ndarray:
    """Values that are whole but for rounding; an impossible one if they are not."""
    whole = np.rint(values)
    return whole if abs(values - whole).max() < _NEARLY_WHOLE else np.array([-1.0])


def _function(values: np.ndarray) -> str:
    """What the values of a map are of whole numbers or their multiples, or empty."""
    values = np.unique(values).astype(np.float64)
    if not 1 < values.size <= MOST_LEVELS:
        return ""
    for name, inverse, largest in _FUNCTIONS:
        if values[-1] < largest and count_step(inverse(values)):
            return name
    return ""


def _is_clipped(filled: np.ndarray, known: np.ndarray, dispersion: float) -> bool:
    """Whether many values are 0, and others reach down to it, as counts do not.

    Where there is nothing, half of the noise is cut off; electrons whose pulses vary
    in height leave nearly all pixels empty there.
    """
    values = filled[known]
    small = values[values > 0] < _LEAST_COUNT * dispersion
    if np.mean(values == 0) < _LEAST_EMPTY or small.mean() < _CLIPPED:
        return False
    smooth = gaussian_filter(filled, _SMOOTHING)[known]
    lowest = values[smooth <= np.quantile(smooth, _LOWEST)]
    return bool(np.mean(lowest == 0) < _MOST_EMPTY)


def _offset(filled: np.ndarray, known: np.ndarray) -> float:
    """Lowest value of a map if its noise vanishes there; 0 if it does not."""
    line = noise_line(filled, robust=False, known=known)
    if line.slope == 0 or line.levels.size < 2:
        return 0.0
    zero = line.lowest - line.intercept / line.slope
    typical = np.mean(filled, dtype=np.float64) - zero
    near = abs(float(filled.min()) - zero) < _NEAR_ZERO * typical
    return zero if near and zero > _NEAR_ZERO * typical else 0.0


def _is_shared(filled: np.ndarray, known: np.ndarray, step: float) -> bool:
    """Whether the noise is too large for counts of the value of the step.

    Pixels that share a count have parts of it, which are multiples of a small number.
    """
    line = noise_line(filled, robust=False, known=known)
    return bool(line.variances.sum() > _SHARED * step * line.levels.sum())


def _scaled(filled: np.ndarray, known: np.ndarray) -> bool:
    """Whether the noise of a map is that of scaled counts: none at the value 0."""
    if np.mean(filled[known] == 0) >= _LEAST_EMPTY:
        return True
    line = noise_line(filled, robust=False, known=known)
    at_zero = line.intercept - line.slope * line.lowest
    typical = line.slope * np.mean(filled, dtype=np.float64)
    return bool(abs(at_zero) < _AT_ZERO * typical and line.levels.size > 1)


@dataclass(frozen=True, kw_only=True)
class Units:
    """Kind of the numbers of a measurement, the same in all parts of it.

    Attributes
    ----------
    counts : bool
        Counts or scaled counts; else values with Gaussian noise.
    count_value : numpy.ndarray
        Value of one count in the units of the map, shape ``(n_elements,)``; 1 for
        counts and for data with Gaussian noise.
    variances : tuple of NoiseLine or None
        Noise of the maps, if it was estimated.
    total : float or None
        Sum of fractions in a pixel, 1 or 100; None if the maps are none.
    exact : tuple of bool
        Whether a map holds multiples of its value of a count only, but for rounding.
    kernels : tuple of Kernel or None
        Filters that the noise of the maps went through; empty if it is white.
    base : float
        Value of the HAADF image that is subtracted from it.
    noise : NoiseLine
        Noise of the HAADF image.
    estimated : bool
        Whether there are no whole counts, for no reason that a warning gives.
    rows : RowNoise or None
        Noise that its rows or columns have; None if they have none.
    notes, warnings : tuple of str
        What was assumed, for the user.
    """

    counts: bool
    count_value: np.ndarray
    variances: tuple | None
    total: float | None = None
    exact: tuple[bool, ...] = ()
    kernels: tuple[Kernel | None, ...] = ()
    base: float = 0.0
    noise: NoiseLine | None = None
    estimated: bool = False
    rows: RowNoise | None = None
    notes: tuple = ()
    warnings: tuple = ()

    @property
    def kind(self) -> str:
        """What the maps were taken for."""
        if self.total is not None:
            return "fractions"
        if self.counts:
            return "scaled counts" if (self.count_value != 1).any() else "counts"
        known = "given" if self.variances is None else "estimated"
        return f"values with {known} noise"


def goes_below_zero(lowest: float, highest: float) -> bool:
    """Whether values go below 0 by more than the rounding of a filter."""
    return lowest < -_ROUNDING * max(highest, -lowest)


def recognise(
    filled: np.ndarray,
    missing: np.ndarray,
    variance: np.ndarray | None,
    elements: Sequence[str] = (),
    *,
    negative: bool,
    run: Workers = ALONE,
) -> Units:
    """Kind of the numbers of the maps, as units without those of the HAADF image.

    `filled` are maps without gaps, `missing` is True where they were filled, and
    `negative` tells whether the whole image goes below 0. Threads of `run` read a map
    each.
    """
    warnings = []
    total = sum_of_fractions(filled[:, ~missing.any(axis=0)])
    if total is not None and not negative:
        notes = list(_NOTES_ON_FRACTIONS)
        if variance is not None:
            notes.append(
                "the noise variance of the maps is not used: that of fractions is found"
            )
        return Units(
            counts=False,
            count_value=np.ones(len(filled)),
            variances=None,
            total=total,
            notes=tuple(notes),
        )
    if total is not None:
        warnings.append(
            "the maps sum to the same in every pixel, so they are fractions, and some "
            "are negative: the HAADF image is not linear in them, and their noise has "
            "to be estimated; better pass counts, or clip them at 0"
        )
    elif variance is None:
        maps = list(zip(filled, ~missing, strict=True))
        readings = run.each(lambda one, _: read_map(*one, negative=negative), maps)
        return _units_of(readings, filled, missing, elements, negative=negative)
    variances = None
    if variance is None:
        pairs = zip(filled, missing, strict=True)
        variances = tuple(map_noise_line(image, ~lost) for image, lost in pairs)
    return Units(
        counts=False,
        count_value=np.ones(len(filled)),
        variances=variances,
        warnings=tuple(warnings),
    )


def _units_of(
    readings: Sequence[Reading],
    filled: np.ndarray,
    missing: np.ndarray,
    elements: Sequence[str],
    *,
    negative: bool,
) -> Units:
    """Units of maps by what their numbers were taken for."""
    counts = all(reading.count_value is not None for reading in readings)
    count_value = np.array(
        [reading.count_value if counts else 1.0 for reading in readings]
    )
    kernels = tuple(reading.kernel for reading in readings)
    notes, variances = [], None
    if not counts:
        notes.append(
            "negative pixels: Gaussian noise is assumed and its variance estimated, "
            "which is wrong for maps that were denoised; counts before background "
            "subtraction with background= are better"
            if negative
            else "no counts: Gaussian noise is assumed and its variance estimated, "
            "which is wrong for maps that were denoised; raw counts are better"
        )
        variances = tuple(
            map_noise_line(image, ~lost).times(1 / k.mask_gain if k else 1.0)
            for image, lost, k in zip(filled, missing, kernels, strict=True)
        )
    elif (count_value != 1).any():
        values = ", ".join(f"{g:.3g}" for g in count_value)
        notes.append(f"the maps were taken for scaled counts of {values} a count")
    names = map_names(elements, len(readings))
    warnings = tuple(filter(None, map(Reading.warning, readings, names)))
    return Units(
        counts=counts,
        count_value=count_value,
        exact=tuple(r.kernel is None and r.exact for r in readings),
        kernels=kernels if any(kernels) else (),
        variances=variances,
        notes=tuple(notes),
        warnings=warnings,
        estimated=not (warnings or all(r.exact for r in readings)),
    )
