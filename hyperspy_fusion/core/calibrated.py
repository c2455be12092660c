"""The calibrated method: calibrate, choose the weights, solve, say what to trust."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import count, pairwise
from typing import Literal, get_args

import numpy as np

from . import primal_dual
from .calibration import (
    NoiseLine,
    count_gain,
    fill,
    fit_coefficients,
    haadf_noise_line,
    initial_coefficients,
    map_noise_line,
    signal_scale,
)
from .diagnostics import (
    GuardReport,
    Shift,
    aligned,
    find_shift,
    guard,
    local_z,
    model_error,
    uncertainty,
)
from .kernels import workers
from .primal_dual import CHECK_EVERY, Problem
from .selection import Weights, block_scores, choose_weights, folds
from .solver import CostHistory, Solution, Status

__all__ = [
    "CHECK_EVERY",
    "CalibratedOptions",
    "Setting",
    "calibrate",
    "local_misfit",
    "prepare",
    "solve",
    "weigh",
]

Regularizer = Literal["tgv", "tv"]

_CALIBRATION_ITERATIONS = 30, 15, 15  # of each pass, which goes on from the last one
_CALIBRATION_LAMBDA = 4.0
_PEDESTAL = 0.2  # of the mean count
_ALPHA = 0.25  # pixels
_TRIAL_ITERATIONS = 20
_ROUGH_ITERATIONS = 20
# From so many pixels on, noise, coefficients and weights are found from so many tiles a
# side, of so many pixels a side.
LARGE = 2**18
_TILES = 4
_TILE = 96
_SUM_TOLERANCE = 1e-6  # of the sum of a part; float32 pixels do not move by less
_SUM_PASSES = 50
_PER_PIXEL = "data", "background", "variance", "haadf", "sigma", "trusted"
# Fractions sum to one; this is the spread of the sum that rounding may leave.
_FRACTION_SPREAD = 1e-3


@dataclass(frozen=True, kw_only=True)
class CalibratedOptions:
    """What can be set; by default the data decide.

    Attributes
    ----------
    lambda_haadf, lambda_tv : float or None
        μ and λ; None chooses by cross-validation.
    gamma : float
        Exponent γ of the Z-contrast in what is expected of the coefficients.
    regularizer : {"tgv", "tv"}
        Total generalised variation, or total variation.
    lock_flux : bool
        Keep the sum of each map.
    tolerance : float
        Largest relative distance to the optimum.
    max_iter : int
        Largest number of iterations.
    seed : int
        Of the random split of the counts.
    uncertainty : bool
        Estimate the variance of the maps.

    Raises
    ------
    ValueError
        If a value is outside its range.
    """

    lambda_haadf: float | None = None
    lambda_tv: float | None = None
    gamma: float = 1.7
    regularizer: Regularizer = "tgv"
    lock_flux: bool = True
    tolerance: float = 1e-3
    max_iter: int = 2000
    seed: int = 0
    uncertainty: bool = False

    def __post_init__(self):
        checks = {
            "lambda_haadf": (
                self.lambda_haadf is None or self.lambda_haadf >= 0,
                "at least 0, or 'auto'",
            ),
            "lambda_tv": (
                self.lambda_tv is None or self.lambda_tv > 0,
                "above 0, or 'auto'",
            ),
            "gamma": (self.gamma > 0, "above 0"),
            "regularizer": (
                self.regularizer in get_args(Regularizer),
                "one of " + ", ".join(map(repr, get_args(Regularizer))),
            ),
            "tolerance": (self.tolerance > 0, "above 0"),
            "max_iter": (self.max_iter >= 1, "at least 1"),
        }
        for name, (fits, expected) in checks.items():
            if not fits:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: expected {expected}"
                )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything of a problem but its weights.

    Attributes
    ----------
    data : numpy.ndarray
        b, shape ``(n_elements, y, x)``; NaN where missing.
    background : numpy.ndarray
        β, shape ``(n_elements, 1, 1)`` or that of the data.
    variance : numpy.ndarray or None
        Of data with Gaussian noise; None for counts.
    scale : numpy.ndarray
        s_i, noise variance where the element is, shape ``(n_elements,)``; of counts
        that is their mean.
    level : numpy.ndarray
        Mean of the maps where the element is, shape ``(n_elements,)``.
    pedestal : numpy.ndarray
        δ, counts, shape ``(n_elements,)``.
    haadf : numpy.ndarray
        h, shape ``(y, x)``.
    sigma : numpy.ndarray
        σ_h, noise and model error, shape ``(y, x)``.
    error : float
        The model error in σ_h, units of the image.
    contrast : float
        Standard deviation of the image.
    trusted : numpy.ndarray
        1 where the HAADF image may be used, else 0, shape ``(y, x)``.
    coefficients : numpy.ndarray
        c_i, shape ``(n_elements,)``.
    offset : float
        o.
    alpha : float or None
        Of TGV; None for TV.
    lock_flux : bool
        Whether the sum of each map is kept.
    """

    data: np.ndarray
    background: np.ndarray
    variance: np.ndarray | None
    scale: np.ndarray
    level: np.ndarray
    pedestal: np.ndarray
    haadf: np.ndarray
    sigma: np.ndarray
    error: float
    contrast: float
    trusted: np.ndarray
    coefficients: np.ndarray
    offset: float
    alpha: float | None
    lock_flux: bool

    def net(self):
        """Maps without background, NaN where missing."""
        return self.data - self.background

    def noise_variance(self, maps):
        """Noise variance of the measured maps if x is the truth, shape of the maps."""
        if self.variance is None:
            return maps + self.background
        return np.broadcast_to(self.variance, maps.shape)

    def with_error(self, error):
        """The setting with a model error in σ_h, which was without."""
        sigma = np.hypot(self.sigma, np.float32(error))
        return replace(self, sigma=sigma, error=error)

    def numbers(self):
        """The setting without its pixels."""
        return replace(self, **dict.fromkeys(_PER_PIXEL))

    def with_numbers(self, other):
        """These pixels with all else that another part of the image has."""
        pixels = {name: getattr(self, name) for name in _PER_PIXEL}
        return replace(other, **pixels)

    def take(self, tiles):
        """The setting of some tiles of the image, put together."""
        return self.cut(lambda array: mosaic(array, tiles))

    def rows(self, rows):
        """The setting of some rows of the image, a slice."""
        return self.cut(lambda array: array[..., rows, :])

    def cut(self, part):
        """The setting of a part of the image, cut out of each array of pixels."""
        arrays = {name: getattr(self, name) for name in _PER_PIXEL}
        return replace(
            self,
            **{
                name: part(array)
                for name, array in arrays.items()
                if array is not None and array.shape[-2:] != (1, 1)
            },
        )

    def on_large_pixels(self, factor):
        """The setting of sums over large pixels, from one with means over them."""
        area = factor**2
        return replace(
            self,
            data=self.data * np.float32(area),
            background=self.background * np.float32(area),
            variance=None if self.variance is None else self.variance * area,
            scale=self.scale * area,
            level=self.level * area,
            pedestal=self.pedestal * area,
            sigma=self.sigma / np.float32(factor),
            error=self.error / factor,
            coefficients=self.coefficients / area,
            alpha=None if self.alpha is None else self.alpha / factor,
        )

    def share(self, data, share):
        """The setting of a part of the dose."""
        return replace(
            self,
            data=data,
            background=self.background * share,
            scale=self.scale * share,
            level=self.level * share,
            pedestal=self.pedestal * share,
            coefficients=self.coefficients / share,
        )

    def problem(self, lambda_tv, lambda_haadf):
        """The convex problem of given weights."""
        strength = lambda_tv / np.sqrt(self.scale)
        flux = None
        if self.lock_flux:  # missing pixels count as what is around them
            flux = np.maximum(fill(self.net()).sum(axis=(1, 2)), 0)
        return Problem(
            data=self.data,
            background=self.background,
            pedestal=self.pedestal,
            variance=self.variance,
            haadf=self.haadf - np.float32(self.offset),
            haadf_precision=self.trusted / self.sigma**2,
            lambda_haadf=lambda_haadf,
            coefficients=self.coefficients,
            strength=strength,
            typical=float(np.mean(strength * self.level)),
            flux=flux,
            alpha=self.alpha,
        )


def representative_tiles(maps, factor=1):
    """Tiles that stand for a large image: of each cell of it the one with most counts.

    Parameters
    ----------
    maps : numpy.ndarray
        Shape ``(n_elements, y, x)``; NaN where missing.
    factor : int
        Pixels of the image a side of one of these maps; 1 to 16, a power of 2.

    Returns
    -------
    list of list of tuple or None
        Corners ``(y, x)`` of the tiles, row by row; None if the image is small.
    """
    size = maps.shape[1:]
    if factor**2 * np.prod(size) < LARGE or factor * min(size) < _TILES * _TILE:
        return None
    half = _TILE // 2 // factor
    n_y, n_x = (n // half for n in size)
    blocks = maps[:, : n_y * half, : n_x * half]
    blocks = blocks.reshape(len(maps), n_y, half, n_x, half)
    counts = np.nansum(blocks, axis=(2, 4), dtype=np.float64)
    counts /= np.maximum(counts.sum(axis=(1, 2), keepdims=True), 1e-300)
    counts = counts.sum(axis=0)
    # the sums of all tiles at multiples of half a tile
    counts = counts[:-1, :-1] + counts[1:, :-1] + counts[:-1, 1:] + counts[1:, 1:]
    edges_y, edges_x = (np.arange(_TILES + 1) * (n + 1) // _TILES for n in counts.shape)
    tiles = []
    for low_y, high_y in pairwise(edges_y):
        row = []
        for low_x, high_x in pairwise(edges_x):
            # the next cell's tiles begin one half later, so that none overlap
            cell = counts[low_y : high_y - 1, low_x : high_x - 1]
            y, x = np.unravel_index(cell.argmax(), cell.shape)
            row.append(tuple(int(n) * _TILE // 2 for n in (low_y + y, low_x + x)))
        tiles.append(row)
    return tiles


def mosaic(array, tiles):
    """Put tiles of an array together to one image; all of it if there are none."""
    if tiles is None:
        return array
    return np.block([[tile_at(array, corner) for corner in row] for row in tiles])


def tile_at(array, corner):
    """The tile of an array that begins at a corner ``(y, x)``."""
    y, x = corner
    return array[..., y : y + _TILE, x : x + _TILE]


class Path:
    """Solutions of neighbouring problems, each of which goes on from the last one."""

    def __init__(self, run, callback=None):
        self.run, self.callback = run, callback
        self.clear()

    def clear(self):
        """Forget the last problem."""
        self.problem = self.state = None

    def solve(self, problem, n_iter):
        """Maps after so many iterations more, counts, shape ``(n_elements, y, x)``."""
        if self.problem is not None:
            primal_dual.restart(self.state, self.problem, problem)
        optimum = primal_dual.solve(
            problem,
            self.run,
            tolerance=None,
            max_iter=n_iter,
            start=self.state,
            callback=self.callback,
        )
        self.problem, self.state = problem, optimum.state
        return optimum.maps


def calibrate(setting, path, prior):
    """Find coefficients and offset of the HAADF image, by turns with the maps.

    Parameters
    ----------
    setting : Setting
        Without coefficients.
    path : Path
        Solutions of these data.
    prior : numpy.ndarray
        Expected c_i in any common unit, shape ``(n_elements,)``.

    Returns
    -------
    setting : Setting
        With coefficients and offset.
    maps : numpy.ndarray
        The fused maps of the last pass, shape ``(n_elements, y, x)``.
    """
    net = setting.net()
    variance = setting.noise_variance(net)
    coefficients, offset = initial_coefficients(net, variance, setting.haadf)
    free = replace(setting, lock_flux=False)
    for n_iter in _CALIBRATION_ITERATIONS:
        free = replace(free, coefficients=coefficients, offset=offset)
        maps = path.solve(free.problem(_CALIBRATION_LAMBDA, 1.0), n_iter)
        # Weights that also count the noise of the maps were tried: worse by 15 % on
        # `janus` at 16 counts.
        weight = setting.trusted / setting.sigma**2
        spread = np.tensordot(coefficients**2, setting.noise_variance(maps), axes=1)
        coefficients, offset = fit_coefficients(
            maps,
            net,
            setting.haadf,
            weight,
            prior,
            inflation=1 + np.mean(weight * spread),
        )
    return replace(setting, coefficients=coefficients, offset=offset), maps


def local_misfit(maps, haadf, fused, record, options, *, background=0.0, variance=None):
    """Local misfit of a fusion that was done, see :func:`local_z`.

    Parameters
    ----------
    maps, haadf : numpy.ndarray
        As for :func:`solve`.
    fused : numpy.ndarray
        What came out, shape ``(n_elements, y, x)``, in the units of `maps`.
    record : mapping
        What :func:`solve` recorded of it.
    options : CalibratedOptions
        The options.
    background, variance : numpy.ndarray, optional
        As for :func:`solve`.

    Returns
    -------
    numpy.ndarray
        z, shape ``(y, x)``, dimensionless, on the pixels of the maps.
    """
    prepared = prepare(maps, haadf, options, background=background, variance=variance)
    setting = prepared.setting
    gain = np.asarray(record["count_value"])
    y, x = np.asarray(record["shift"])
    setting = replace(
        aligned(setting, Shift(y=y, x=x, z=np.inf)),
        coefficients=np.asarray(record["haadf_coefficients"]) * gain,
        offset=float(record["haadf_offset"]) - prepared.units.base,
    )
    setting = setting.with_error(float(record["haadf_model_error"]))
    seen = np.where(setting.trusted > 0, setting.haadf, np.nan)
    return local_z(replace(setting, haadf=seen), fused / gain[:, None, None])


def rough_maps(setting, path):
    """Maps that tell the noise of the measured ones, on pixels twice as large."""
    problem = primal_dual.coarsen(setting.problem(_CALIBRATION_LAMBDA, 1.0))
    coarse = path.solve(problem, _ROUGH_ITERATIONS) / 4
    odd = [(0, n % 2) for n in setting.haadf.shape]
    return np.pad(coarse, [(0, 0), *odd], mode="edge")


def counts_alone(setting, path):
    """Maps fused without the HAADF image."""
    return path.solve(setting.problem(_CALIBRATION_LAMBDA, 0.0), _TRIAL_ITERATIONS)


def weigh(settings, run, *, seed, lambda_tv=None, lambda_haadf=None, callback=None):
    """Choose the weights by cross-validation, the same for all settings."""
    if lambda_tv is not None and lambda_haadf is not None:
        return choose_weights(None, lambda_tv, lambda_haadf)
    trials = [trial for setting in settings for trial in held_out(setting, seed)]
    tried = count()

    def score(lambda_tv, lambda_haadf):
        def errors(trial_and_target, run):
            trial, target, norm = trial_and_target
            # Not from the last trial, which would take long to forget its weights.
            maps = primal_dual.solve(
                trial.problem(lambda_tv, lambda_haadf),
                run,
                tolerance=None,
                max_iter=_TRIAL_ITERATIONS,
            ).maps
            squares = (target - maps - trial.background) ** 2 / norm
            return np.nansum(squares, axis=0)

        if callback is not None:  # from this thread only
            callback(next(tried), np.inf)
        found = run.each(errors, trials)
        each = len(found) // len(settings)
        images = [sum(found[i : i + each]) for i in range(0, len(found), each)]
        return np.concatenate(list(map(block_scores, images)))

    return choose_weights(score, lambda_tv, lambda_haadf)


def held_out(setting, seed):
    """List (setting of a part of the data, data to be foretold, unit of squares)."""
    counts = setting.variance is None and whole_numbers(setting.data)
    parts = folds(setting.data, seed, counts=counts)
    if setting.variance is None:
        norm = np.nanmean(setting.data, axis=(1, 2), keepdims=True)
    else:
        norm = np.broadcast_to(setting.variance, setting.data.shape)
        norm = norm.mean(axis=(1, 2), keepdims=True)
    norm = np.where(norm > 0, norm, 1)
    return [(setting.share(part.data, part.share), part.target, norm) for part in parts]


@dataclass(frozen=True, kw_only=True)
class Units:
    """What the numbers of a measurement are; the same in all parts of it.

    Attributes
    ----------
    counts : bool
        Counts or scaled counts; else values with Gaussian noise.
    gain : numpy.ndarray
        Units of the maps a count, shape ``(n_elements,)``; 1 for counts and for data
        with Gaussian noise.
    variances : tuple of NoiseLine or None
        Noise of the maps, where it had to be estimated.
    base : float
        Value of the HAADF image that is taken for 0.
    noise : NoiseLine
        Of the HAADF image.
    notes, warnings : tuple of str
        What was taken for what, and what a user has to know of it.
    """

    counts: bool
    gain: np.ndarray
    variances: tuple | None
    base: float = 0.0
    noise: NoiseLine | None = None
    notes: tuple = ()
    warnings: tuple = ()


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Data in the units of the mathematics.

    Attributes
    ----------
    setting : Setting
        Without coefficients.
    units : Units
        From which they were brought there.
    tiles : list of list of tuple or None
        From :func:`representative_tiles`.
    notes : tuple of str
        What a user may want to know.
    """

    setting: Setting
    units: Units
    tiles: list | None
    notes: tuple


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a sample does not tell of the maps that it was taken from.

    Attributes
    ----------
    mean : numpy.ndarray
        Of each map, in its units, shape ``(n_elements,)``.
    negative : bool
        Whether a map goes below 0.
    """

    mean: np.ndarray
    negative: bool

    @classmethod
    def of(cls, maps):
        """Of maps without gaps, shape ``(n_elements, y, x)``."""
        mean = maps.mean(axis=(1, 2), dtype=np.float64)
        return cls(mean=mean, negative=bool((maps < 0).any()))


def prepare(
    maps, haadf, options, *, background=0.0, variance=None, totals=None, units=None
):
    """Find out what the data are and bring them to the units of the mathematics.

    Whole numbers not below zero are counts; maps with empty pixels are scaled counts;
    all others, and those with a given variance, have Gaussian noise.

    Parameters
    ----------
    maps : numpy.ndarray
        Shape ``(n_elements, y, x)``; NaN where missing.
    haadf : numpy.ndarray
        Shape ``(y, x)``; NaN where missing.
    options : CalibratedOptions
        The options.
    background : numpy.ndarray
        β, known background, of the maps' units, that broadcasts against them.
    variance : numpy.ndarray, optional
        Of the maps, that broadcasts against them.
    totals : Totals, optional
        Of the image that this is a sample of; by default of the image itself.
    units : Units, optional
        Of the image that this is a part of; by default they are found.

    Returns
    -------
    Prepared
    """
    maps = np.asarray(maps, dtype=np.float32)
    n_elements = len(maps)
    background = np.broadcast_to(np.asarray(background, np.float32), maps.shape)
    if all(np.ptp(image) == 0 for image in background):
        background = background[:, :1, :1]
    notes = []
    missing = np.isnan(maps)
    if missing.any():
        notes.append(
            f"{missing.sum()} missing pixels of the maps are filled by the model"
        )
    filled = fill(maps)
    is_part = units is not None
    totals = totals or Totals.of(filled)
    if not is_part:
        units = recognise(filled, missing, variance, totals.negative)
    notes += units.notes
    if not units.counts:
        if variance is None:
            pairs = zip(units.variances, filled, strict=True)
            variance = np.stack([line.variance(image) for line, image in pairs])
        # the Gaussian term is that of values without background
        maps, filled = maps - background, filled - background
        background = np.zeros((n_elements, 1, 1), np.float32)
        variance = np.array(np.broadcast_to(variance, maps.shape), dtype=np.float32)
        variance = np.maximum(variance, 1e-6 * variance[variance > 0].mean())
    elif (units.gain != 1).any():
        per_count = np.float32(1 / units.gain)[:, None, None]
        maps, background, filled = (
            array * per_count for array in (maps, background, filled)
        )
    tiles = representative_tiles(filled)
    if tiles is not None:
        notes.append(
            f"noise, coefficients and weights were found from {_TILES**2} tiles of "
            f"{_TILE} x {_TILE} pixels"
        )
    seen = np.isfinite(haadf)
    if not seen.all():
        notes.append(f"{np.sum(~seen)} missing pixels of the HAADF image are not used")
    image, units = shifted_image(haadf, seen, units, tiles)
    setting = Setting(
        data=maps,
        background=background,
        variance=variance,
        scale=np.ones(n_elements),
        level=np.ones(n_elements),
        pedestal=_PEDESTAL * totals.mean / units.gain,
        haadf=image,
        sigma=np.sqrt(units.noise.variance(image)),
        error=0.0,
        contrast=float(np.std(image, where=seen)) if seen.any() else 0.0,
        trusted=seen.astype(np.float32),
        coefficients=np.zeros(n_elements),
        offset=0.0,
        alpha=_ALPHA if options.regularizer == "tgv" else None,
        lock_flux=options.lock_flux,
    )
    if not is_part:
        scale, level = scales(setting.take(tiles))
        setting = replace(setting, scale=scale, level=level)
    return Prepared(
        setting=setting,
        units=units,
        tiles=tiles,
        notes=tuple(notes),
    )


def shifted_image(haadf, seen, units, tiles):
    """HAADF image without its lowest value, which float32 might not see the noise of.

    Returns the image, float32 and without gaps, and the units with what is found of
    it, unless they have that already.
    """
    image = np.asarray(haadf, np.float64)
    found = units.noise is not None
    if not found and seen.any():
        units = replace(units, base=float(np.min(image, where=seen, initial=np.inf)))
    image = fill((image - units.base).astype(np.float32)[None])[0]
    if not found:
        units = replace(units, noise=haadf_noise_line(mosaic(image, tiles)))
    return image, units


def recognise(filled, missing, variance, negative):
    """What the numbers of the maps are.

    Parameters
    ----------
    filled : numpy.ndarray
        Maps without gaps, shape ``(n_elements, y, x)``.
    missing : numpy.ndarray of bool
        Where they were filled.
    variance : numpy.ndarray or None
        Of the maps, where it is known.
    negative : bool
        Whether they, or the image that they are a sample of, go below 0.

    Returns
    -------
    Units
        Without those of the HAADF image.
    """
    notes, warnings = [], []
    counts, gain = variance is None, np.ones(len(filled))
    total = filled.sum(axis=0)[~missing.any(axis=0)]
    if (
        len(filled) > 1
        and total.size
        and np.std(total, dtype=np.float64) < _FRACTION_SPREAD * np.mean(total)
    ):
        warnings.append(
            "the maps sum to the same in every pixel, so they are fractions: the HAADF "
            "image is not linear in them, and their noise has to be estimated; better "
            "hand over counts"
        )
        counts = False
    elif counts and negative:
        notes.append(
            "negative pixels: Gaussian noise is assumed and its variance estimated; "
            "counts before background subtraction with background= are better"
        )
        counts = False
    elif counts and not whole_numbers(filled, missing):
        gains = [
            count_gain(image, ~lost)
            for image, lost in zip(filled, missing, strict=True)
        ]
        if all(
            found is not None
            for found, image in zip(gains, filled, strict=True)
            if image.any()
        ):
            gain = np.array([1.0 if found is None else found for found in gains])
            notes.append(
                "scaled counts of " + ", ".join(f"{g:.3g}" for g in gain) + " a count"
            )
        else:
            notes.append(
                "no counts: Gaussian noise is assumed and its variance estimated"
            )
            counts = False
    variances = None
    if not counts and variance is None:
        variances = tuple(
            map_noise_line(image, ~lost)
            for image, lost in zip(filled, missing, strict=True)
        )
    return Units(
        counts=counts,
        gain=gain,
        variances=variances,
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def whole_numbers(maps, missing=None):
    """Whether all values that are not missing are whole numbers."""
    missing = np.isnan(maps) if missing is None else missing
    return all(
        ((image == np.rint(image)) | lost).all()
        for image, lost in zip(maps, missing, strict=True)
    )


def scales(setting):
    """Noise variance and mean of each map where the element is, shape ``(n,)``."""
    filled = fill(setting.data)
    level = signal_scale(filled, setting.background)
    if setting.variance is None:
        return level, level
    weight = np.maximum(filled - setting.background, 0, dtype=np.float64) + 1e-300
    total = weight.sum(axis=(1, 2))
    return (
        (weight * setting.variance).sum(axis=(1, 2)) / total,
        (weight * weight).sum(axis=(1, 2)) / total,
    )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was found out about an image before its maps are solved for; no pixels.

    Attributes
    ----------
    units : Units
        What the numbers are.
    numbers : Setting
        Coefficients, model error and scales, without pixels.
    shift : Shift
        Of the HAADF image against the maps.
    weights : Weights
        λ and μ.
    report : GuardReport
        What the guard saw.
    notes : tuple of str
        What a user may want to know.
    """

    units: Units
    numbers: Setting
    shift: Shift
    weights: Weights
    report: GuardReport
    notes: tuple

    def record(self):
        """What the record of the fusion says of it, and of no single pixel."""
        tried = self.weights.tried
        numbers, gain = self.numbers, self.units.gain
        return {
            "lambda_haadf": self.weights.lambda_haadf,
            "lambda_chem": 1.0,
            "lambda_tv": self.weights.lambda_tv,
            "haadf_coefficients": numbers.coefficients / gain,
            "haadf_offset": numbers.offset + self.units.base,
            "haadf_gain": self.weights.gain,
            "haadf_model_error": numbers.error,
            "shift": np.array([self.shift.y, self.shift.x]) * self.shift.significant,
            "count_value": gain,
            **({"weights_tried": tried} if len(tried) else {}),
        }


def decide(prepared, prior, options, run, told=lambda _: None):
    """Calibrate the image, see where it can be trusted, and choose the weights.

    Parameters
    ----------
    prepared : Prepared
        The data.
    prior : numpy.ndarray
        Expected c_i in any common unit, shape ``(n_elements,)``.
    options : CalibratedOptions
        The options.
    run : callable
        From :func:`~hyperspy_fusion.core.kernels.workers`.
    told : callable, optional
        ``told(stage)`` returns the callback of a stage, or None.

    Returns
    -------
    decision : Decision
        All but the pixels.
    setting : Setting
        With the pixels.
    """
    setting, shift, report = examine(prepared, prior, run, told)
    weights = weigh(
        [setting.take(prepared.tiles)],
        run,
        seed=options.seed,
        lambda_tv=options.lambda_tv,
        lambda_haadf=options.lambda_haadf,
        callback=told("weights"),
    )
    decision = Decision(
        units=prepared.units,
        numbers=setting.numbers(),
        shift=shift,
        weights=weights,
        report=report,
        notes=prepared.notes,
    )
    return decision, setting


def examine(prepared, prior, run, told=lambda _: None):
    """Calibrate the image and see where it can be trusted.

    Parameters
    ----------
    prepared, prior, run, told
        As for :func:`decide`.

    Returns
    -------
    setting : Setting
        With coefficients, and `trusted` 0 where the image contradicts the maps.
    shift : Shift
        By which the image was moved back.
    report : GuardReport
        What the guard saw.
    """
    setting, tiles = prepared.setting, prepared.tiles
    path = Path(run, told("calibration"))
    coarse = Path(run)  # of a large image

    def recalibrate(setting):
        part, fused = calibrate(setting.take(tiles), path, prior)
        setting = replace(setting, coefficients=part.coefficients, offset=part.offset)
        return setting, part, fused

    def with_maps(setting):
        setting, _, fused = recalibrate(setting)
        return setting, fused if tiles is None else rough_maps(setting, coarse)

    # before all else: a shift spoils the coefficients and looks like model error
    part = setting.take(tiles)
    shift = find_shift(part, counts_alone(part, path))
    setting, part, fused = recalibrate(aligned(setting, shift))
    error = model_error(part, fused)
    if error > 0:
        setting, part, fused = recalibrate(setting.with_error(error))
    del part
    setting, report = guard(
        setting, fused if tiles is None else rough_maps(setting, coarse), with_maps
    )
    return setting, shift, report


def _teller(callback):
    """The callback of each stage, which :func:`solve` tells of it."""
    return lambda stage: None if callback is None else partial(callback, stage)


def shared_weights(images, options, atomic_numbers, sensitivities=None):
    """Choose weights that are the best for several images together.

    Parameters
    ----------
    images : list of dict
        For each `maps`, `haadf`, `background` and `variance` as for :func:`solve`.
    options, atomic_numbers, sensitivities
        As for :func:`solve`.

    Returns
    -------
    Weights
    """
    settings = []
    with workers() as run:
        for image in images:
            prepared = prepare(**image, options=options)
            prior = expected_coefficients(
                atomic_numbers, options, prepared.units.gain, sensitivities
            )
            setting, *_ = examine(prepared, prior, run)
            settings.append(setting.take(prepared.tiles))
        return weigh(
            settings,
            run,
            seed=options.seed,
            lambda_tv=options.lambda_tv,
            lambda_haadf=options.lambda_haadf,
        )


def expected_coefficients(atomic_numbers, options, gain, sensitivities=None):
    """c_i to expect, in any common unit, shape ``(n_elements,)``: Z^γ, an atom."""
    prior = np.asarray(atomic_numbers, dtype=np.float64) ** options.gamma * gain
    return prior if sensitivities is None else prior / np.asarray(sensitivities)


def solve(
    maps,
    haadf,
    atomic_numbers,
    options,
    *,
    background=0.0,
    variance=None,
    sensitivities=None,
    num_workers=None,
    callback=None,
):
    """Fuse one field of view.

    Parameters
    ----------
    maps : numpy.ndarray
        Measured maps, shape ``(n_elements, y, x)``; NaN where missing.
    haadf : numpy.ndarray
        HAADF image, shape ``(y, x)``, in any units; NaN where missing.
    atomic_numbers : sequence of int
        Z_i, shape ``(n_elements,)``.
    options : CalibratedOptions
        The options.
    background : numpy.ndarray
        Known background of the maps, in their units, that broadcasts against them.
    variance : numpy.ndarray, optional
        Noise variance of the maps, that broadcasts against them.
    sensitivities : numpy.ndarray, optional
        Counts an atom of each element, in any common unit, shape ``(n_elements,)``.
    num_workers : int, optional
        Number of threads; by default Numba's setting.
    callback : callable, optional
        ``callback(stage, n, gap)``: in each iteration of the "solution", with the
        relative gap of the last certificate, infinite before the first; and, with an
        infinite gap, in each iteration of the problems of "calibration" and
        "uncertainty", and at each trial of "weights".

    Returns
    -------
    Solution
        Maps in the units of `maps`.
    """
    prepared = prepare(maps, haadf, options, background=background, variance=variance)
    prior = expected_coefficients(
        atomic_numbers, options, prepared.units.gain, sensitivities
    )
    told = _teller(callback)
    with workers(num_workers) as run:
        decision, setting = decide(prepared, prior, options, run, told)
        del prepared  # pixels as they were before the calibration
        return _conclude(decision, setting, prior, options, run, told)


def decide_on_sample(
    maps,
    haadf,
    atomic_numbers,
    options,
    *,
    totals,
    background=0.0,
    variance=None,
    sensitivities=None,
):
    """Find out what can be known of an image from a sample of it.

    Parameters
    ----------
    maps, haadf, atomic_numbers, options, background, variance, sensitivities
        As for :func:`solve`, of the sample: tiles of :func:`representative_tiles`.
    totals : Totals
        Of the image.

    Returns
    -------
    decision : Decision
        What goes for all its parts.
    prior : numpy.ndarray
        From :func:`expected_coefficients`.
    """
    prepared = prepare(
        maps, haadf, options, background=background, variance=variance, totals=totals
    )
    prior = expected_coefficients(
        atomic_numbers, options, prepared.units.gain, sensitivities
    )
    with workers() as run:
        decision, _ = decide(prepared, prior, options, run)
    return decision, prior


def overview(maps, haadf, factor, decision, options, *, background=0.0, variance=None):
    """Fused maps of a whole image on large pixels, by which its parts share the flux.

    Parameters
    ----------
    maps, haadf : numpy.ndarray
        Means over `factor` x `factor` pixels of what :func:`solve` takes.
    factor : int
        Pixels a side of a large one.
    decision : Decision
        From a sample of the image.
    options : CalibratedOptions
        The options.
    background, variance : numpy.ndarray
        As for :func:`solve`; means, too.

    Returns
    -------
    numpy.ndarray
        Mean over the large pixels, shape ``(n_elements, y, x)``, in the units of the
        maps; their sum is locked.
    """
    with workers() as run:
        setting, *_ = _part(
            maps, haadf, decision, options, run, background, variance, factor
        )
        weights = decision.weights
        optimum = primal_dual.solve(
            setting.problem(weights.lambda_tv, weights.lambda_haadf),
            run,
            tolerance=options.tolerance / 10,  # the parts are held to it
            max_iter=options.max_iter,
        )
    return optimum.maps * np.float32(decision.units.gain / factor**2)[:, None, None]


def solve_part(
    maps,
    haadf,
    decision,
    options,
    *,
    inner,
    prior,
    sums=None,
    background=0.0,
    variance=None,
    num_workers=None,
    callback=None,
):
    """Fuse a part of an image about which all has been decided.

    Parameters
    ----------
    maps, haadf, options, background, variance, num_workers, callback
        As for :func:`solve`, of the part and of some pixels around it.
    decision : Decision
        From a sample of the image.
    inner : tuple of slice
        The part itself, (rows, columns).
    prior : numpy.ndarray
        From :func:`expected_coefficients`.
    sums : numpy.ndarray, optional
        What the maps sum up to, with the pixels around and without them, shape
        ``(2, n_elements)``, in their units; None leaves the flux free.

    Returns
    -------
    Solution
        Of the part itself: maps, and costs to which the other parts' can be added.
    """
    with workers(num_workers) as run:
        setting, report, notes = _part(
            maps, haadf, decision, options, run, background, variance
        )
        decision = replace(decision, report=report, notes=notes)
        return _conclude(
            decision,
            setting,
            prior,
            options,
            run,
            _teller(callback),
            inner=inner,
            sums=sums,
        )


def _part(maps, haadf, decision, options, run, background, variance, factor=1):
    """Setting of a part of an image, what the guard saw there, and notes."""
    prepared = prepare(
        maps,
        haadf,
        options,
        background=background,
        variance=variance,
        units=decision.units,
    )
    setting = prepared.setting.with_error(decision.numbers.error)
    setting = setting.with_numbers(decision.numbers)
    if factor == 1:
        setting = aligned(setting, decision.shift)
    else:
        setting = setting.on_large_pixels(factor)
    report = decision.report
    if decision.weights.lambda_haadf > 0:
        path = Path(run)
        # the coefficients are those of the sample, whatever is found here
        setting, report = guard(
            setting, rough_maps(setting, path), lambda s: (s, rough_maps(s, path))
        )
    return setting, report, prepared.notes


def _conclude(
    decision,
    setting,
    prior,
    options,
    run,
    told=lambda _: None,
    *,
    inner=None,
    sums=None,
):
    """Solve for the maps and say how that went."""
    weights, gain, report = decision.weights, decision.units.gain, decision.report
    problem = setting.problem(weights.lambda_tv, weights.lambda_haadf)
    if inner is not None:
        problem = replace(problem, flux=None if sums is None else sums[0] / gain)
    if not options.uncertainty:
        del setting
    # Not from the calibration: it may take long to forget its weights.
    optimum = primal_dual.solve(
        problem,
        run,
        tolerance=options.tolerance,
        max_iter=options.max_iter,
        callback=told("solution"),
        window=inner,
    )
    variance = None
    if options.uncertainty:
        variance = uncertainty(
            setting,
            prior,
            (weights.lambda_tv, weights.lambda_haadf),
            optimum.maps,
            run,
            options.seed,
            told("uncertainty"),
        )
        variance = variance * gain[:, None, None] ** 2
    maps = optimum.maps
    if inner is not None:
        maps = np.ascontiguousarray(maps[(slice(None), *inner)])
        if sums is not None:
            # What is left to correct is what the pixels around have too much or little.
            # A factor would show, in a tile with little of an element.
            for image, wanted in zip(maps, sums[1] / gain, strict=True):
                bring_to_sum(image, wanted)
        variance = None if variance is None else variance[(slice(None), *inner)]
    maps *= gain.astype(np.float32)[:, None, None]
    converged = optimum.gap <= options.tolerance
    return Solution(
        maps=maps,
        variance=variance,
        costs=cost_history(optimum, weights),
        status=str(Status.CONVERGED if converged else Status.MAX_ITER),
        converged=converged,
        record={
            **decision.record(),
            "gap": float(optimum.gap),
            "guard": report.largest,
            "flagged": report.flagged,
        },
        notes=decision.notes,
        warnings=tuple(
            filter(None, (*decision.units.warnings, decision.shift.words, report.words))
        ),
    )


def bring_to_sum(image, wanted):
    """Change an image to the nearest one without negative pixels that has a sum.

    Parameters
    ----------
    image : numpy.ndarray
        Pixels of at least 0, changed in place.
    wanted : float
        The sum, at least 0.
    """
    if wanted == 0:
        image[:] = 0
        return
    for _ in range(_SUM_PASSES):
        excess = image.sum(dtype=np.float64) - wanted
        if abs(excess) <= _SUM_TOLERANCE * wanted:
            break
        # only pixels above 0 can become less
        shared = np.count_nonzero(image) if excess > 0 else image.size
        where = image > 0 if excess > 0 else True
        np.subtract(image, np.float32(excess / shared), out=image, where=where)
        np.maximum(image, 0, out=image)


def together(solutions, pixels):
    """What is to be said of an image whose parts were solved; without its maps.

    Parameters
    ----------
    solutions : list of Solution
        From :func:`solve_part`, of all parts.
    pixels : list of int
        Number of pixels of each.

    Returns
    -------
    Solution
        The costs are the sums of those of the parts, each of which keeps its last
        value; what the guard saw is the worst of all.
    """
    longest = max(solutions, key=lambda s: s.n_iter)

    def total(term):
        values = [getattr(s.costs, term) for s in solutions]
        size = len(longest.costs.total)
        return sum(np.pad(v, (0, size - len(v)), mode="edge") for v in values)

    terms = {term: total(term) for term in ("total", "haadf", "chemical", "tv")}
    records = [s.record for s in solutions]
    return replace(
        longest,
        maps=None,
        variance=None,
        costs=replace(longest.costs, **terms),
        status=next((s.status for s in solutions if not s.converged), longest.status),
        converged=all(s.converged for s in solutions),
        record={
            **records[0],
            "gap": max(record["gap"] for record in records),
            "guard": max(record["guard"] for record in records),
            "flagged": float(
                np.average([record["flagged"] for record in records], weights=pixels)
            ),
        },
        notes=tuple(dict.fromkeys(note for s in solutions for note in s.notes)),
        warnings=tuple(dict.fromkeys(w for s in solutions for w in s.warnings)),
    )


def cost_history(optimum, weights):
    """The terms of the objective at each certificate.

    The chemical term is half the deviance, which differs from the negative logarithm
    of the likelihood by a constant.
    """
    haadf, chemical, tv = np.array([terms for _, terms in optimum.history]).T
    tv = tv / weights.lambda_tv
    return CostHistory(
        total=weights.lambda_haadf * haadf + chemical + weights.lambda_tv * tv,
        haadf=haadf,
        chemical=chemical,
        tv=tv,
        interval=CHECK_EVERY,
    )
