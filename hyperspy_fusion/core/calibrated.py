"""The calibrated method: calibrate, choose the weights, solve, say what to trust."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import count, pairwise
from typing import Literal, get_args

import numpy as np

from . import primal_dual
from .calibration import (
    count_gain,
    fill,
    fit_coefficients,
    haadf_noise,
    initial_coefficients,
    map_noise,
    signal_scale,
)
from .diagnostics import (
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
from .selection import block_scores, choose_weights, folds
from .solver import CostHistory, Solution, Status

__all__ = [
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

    def share(self, data, share):
        """The setting of a part of the dose."""
        return replace(
            self,
            data=data,
            background=self.background * share,
            scale=self.scale * share,
            level=self.level * share,
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
            pedestal=_PEDESTAL * np.nanmean(self.data, axis=(1, 2)),
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


def representative_tiles(maps):
    """Tiles that stand for a large image: of each cell of it the one with most counts.

    Parameters
    ----------
    maps : numpy.ndarray
        Shape ``(n_elements, y, x)``; NaN where missing.

    Returns
    -------
    list of list of tuple or None
        Corners ``(y, x)`` of the tiles, row by row; None if the image is small.
    """
    size = maps.shape[1:]
    if np.prod(size) < LARGE or min(size) < _TILES * _TILE:
        return None
    half = _TILE // 2
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
            row.append((int(low_y + y) * half, int(low_x + x) * half))
        tiles.append(row)
    return tiles


def mosaic(array, tiles):
    """Put tiles of an array together to one image; all of it if there are none."""
    if tiles is None:
        return array
    return np.block(
        [[array[..., y : y + _TILE, x : x + _TILE] for y, x in row] for row in tiles]
    )


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
        offset=float(record["haadf_offset"]) - prepared.base,
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


def weigh(setting, run, *, seed, lambda_tv=None, lambda_haadf=None, callback=None):
    """Choose the weights by cross-validation."""
    if lambda_tv is not None and lambda_haadf is not None:
        return choose_weights(None, lambda_tv, lambda_haadf)
    counts = setting.variance is None and whole_numbers(setting.data)
    parts = folds(setting.data, seed, counts=counts)
    if setting.variance is None:
        norm = np.nanmean(setting.data, axis=(1, 2), keepdims=True)
    else:
        norm = np.broadcast_to(setting.variance, setting.data.shape)
        norm = norm.mean(axis=(1, 2), keepdims=True)
    norm = np.where(norm > 0, norm, 1)

    trials = [(setting.share(part.data, part.share), part.target) for part in parts]
    tried = count()

    def score(lambda_tv, lambda_haadf):
        def errors(trial_and_target, run):
            trial, target = trial_and_target
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
        return block_scores(sum(run.each(errors, trials)))

    return choose_weights(score, lambda_tv, lambda_haadf)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Data in the units of the mathematics.

    Attributes
    ----------
    setting : Setting
        Without coefficients.
    base : float
        Value of the HAADF image that is 0 in the setting.
    tiles : list of list of tuple or None
        From :func:`representative_tiles`.
    gain : numpy.ndarray
        Units of the maps a count, shape ``(n_elements,)``; 1 for counts and for data
        with Gaussian noise.
    notes, warnings : tuple of str
        What was taken for what, and what a user has to know of it.
    """

    setting: Setting
    base: float
    tiles: list | None
    gain: np.ndarray
    notes: tuple
    warnings: tuple


def prepare(maps, haadf, options, *, background=0.0, variance=None):
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

    Returns
    -------
    Prepared
    """
    maps = np.asarray(maps, dtype=np.float32)
    n_elements = len(maps)
    background = np.broadcast_to(np.asarray(background, np.float32), maps.shape)
    if all(np.ptp(image) == 0 for image in background):
        background = background[:, :1, :1]
    gain = np.ones(n_elements)
    notes, warnings = [], []
    missing = np.isnan(maps)
    if missing.any():
        notes.append(
            f"{missing.sum()} missing pixels of the maps are filled by the model"
        )
    filled = fill(maps)
    total = filled.sum(axis=0)[~missing.any(axis=0)]
    if (
        n_elements > 1
        and total.size
        and np.std(total, dtype=np.float64) < _FRACTION_SPREAD * np.mean(total)
    ):
        warnings.append(
            "the maps sum to the same in every pixel, so they are fractions: the HAADF "
            "image is not linear in them, and their noise has to be estimated; better "
            "hand over counts"
        )
        variance = map_variances(filled, missing) if variance is None else variance
    elif variance is None and (filled < 0).any():
        notes.append(
            "negative pixels: Gaussian noise is assumed and its variance estimated; "
            "counts before background subtraction with background= are better"
        )
        variance = map_variances(filled, missing)
    elif variance is None and not whole_numbers(maps):
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
            counts = np.float32(1 / gain)[:, None, None]
            maps, background, filled = (
                array * counts for array in (maps, background, filled)
            )
        else:
            notes.append(
                "no counts: Gaussian noise is assumed and its variance estimated"
            )
            variance = map_variances(filled, missing)
    if variance is not None:
        # the Gaussian term is that of values without background
        maps, filled = maps - background, filled - background
        background = np.zeros((n_elements, 1, 1), np.float32)
        variance = np.array(np.broadcast_to(variance, maps.shape), dtype=np.float32)
        variance = np.maximum(variance, 1e-6 * variance[variance > 0].mean())
    tiles = representative_tiles(filled)
    seen = np.isfinite(haadf)
    if not seen.all():
        notes.append(f"{np.sum(~seen)} missing pixels of the HAADF image are not used")
    # without its lowest value, which float32 might not see the noise of
    image = np.asarray(haadf, np.float64)
    base = float(np.min(image, where=seen, initial=np.inf)) if seen.any() else 0.0
    image = fill((image - base).astype(np.float32)[None])[0]
    if tiles is not None:
        notes.append(
            f"noise, coefficients and weights were found from {_TILES**2} tiles of "
            f"{_TILE} x {_TILE} pixels"
        )
    setting = Setting(
        data=maps,
        background=background,
        variance=variance,
        scale=np.ones(n_elements),
        level=np.ones(n_elements),
        haadf=image,
        sigma=haadf_noise(image, mosaic(image, tiles)),
        error=0.0,
        contrast=float(np.std(image, where=seen)) if seen.any() else 0.0,
        trusted=seen.astype(np.float32),
        coefficients=np.zeros(n_elements),
        offset=0.0,
        alpha=_ALPHA if options.regularizer == "tgv" else None,
        lock_flux=options.lock_flux,
    )
    scale, level = scales(setting.take(tiles))
    return Prepared(
        setting=replace(setting, scale=scale, level=level),
        base=base,
        tiles=tiles,
        gain=gain,
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def whole_numbers(maps):
    """Whether all values that are not missing are whole numbers."""
    return all(((image == np.rint(image)) | np.isnan(image)).all() for image in maps)


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


def map_variances(maps, missing):
    """Noise variance of maps, from the maps alone."""
    return np.stack(
        [map_noise(image, ~lost) for image, lost in zip(maps, missing, strict=True)]
    )


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
    setting, tiles = prepared.setting, prepared.tiles
    prepared = replace(prepared, setting=None)  # which changes, and goes in the end
    prior = np.asarray(atomic_numbers, dtype=np.float64) ** options.gamma
    prior = prior * prepared.gain
    if sensitivities is not None:
        prior = prior / np.asarray(sensitivities)

    def told(stage):
        return None if callback is None else partial(callback, stage)

    with workers(num_workers) as run:
        path = Path(run, told("calibration"))
        coarse = Path(run)  # of a large image

        def recalibrate(setting):
            part, fused = calibrate(setting.take(tiles), path, prior)
            setting = replace(
                setting, coefficients=part.coefficients, offset=part.offset
            )
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
        setting, report = guard(
            setting, fused if tiles is None else rough_maps(setting, coarse), with_maps
        )
        del part, fused
        weights = weigh(
            setting.take(tiles),
            run,
            seed=options.seed,
            lambda_tv=options.lambda_tv,
            lambda_haadf=options.lambda_haadf,
            callback=told("weights"),
        )
        problem = setting.problem(weights.lambda_tv, weights.lambda_haadf)
        path.clear()
        coarse.clear()
        coefficients, offset = setting.coefficients, setting.offset
        if not options.uncertainty:
            del setting
        # Not from the calibration: it may take long to forget its weights.
        optimum = primal_dual.solve(
            problem,
            run,
            tolerance=options.tolerance,
            max_iter=options.max_iter,
            callback=told("solution"),
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
            variance = variance * prepared.gain[:, None, None] ** 2
    optimum.maps[:] *= prepared.gain.astype(np.float32)[:, None, None]
    converged = optimum.gap <= options.tolerance
    return Solution(
        maps=optimum.maps,
        costs=cost_history(optimum, weights),
        status=str(Status.CONVERGED if converged else Status.MAX_ITER),
        converged=converged,
        record={
            "lambda_haadf": weights.lambda_haadf,
            "lambda_chem": 1.0,
            "lambda_tv": weights.lambda_tv,
            "haadf_coefficients": coefficients / prepared.gain,
            "haadf_offset": offset + prepared.base,
            "gap": float(optimum.gap),
            "haadf_gain": weights.gain,
            "haadf_model_error": error,
            "shift": np.array([shift.y, shift.x]) * shift.significant,
            "guard": report.largest,
            "flagged": report.flagged,
            "count_value": prepared.gain,
            **({"weights_tried": weights.tried} if len(weights.tried) else {}),
        },
        variance=variance,
        notes=prepared.notes,
        warnings=tuple(filter(None, (*prepared.warnings, shift.words, report.words))),
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
