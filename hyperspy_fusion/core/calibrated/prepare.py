"""Kind, units and noise scales of the data: what the problem is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.missing import fill, missing_notes, missing_pixels
from ..common.solution import check_magnitude
from ..common.threads import ALONE, Workers
from .bad_pixels import set_aside
from .composition import normalised
from .convex.bins import Bins
from .convex.problem import Image, Problem, towards_bright
from .correlation import Kernel
from .flux import FluxLock, judge
from .given import Pixels
from .noise import (
    NoiseLine,
    above_zero,
    haadf_noise_line,
    signal_scale,
    whole_numbers,
)
from .reading import Units, goes_below_zero, recognise
from .rows import levelled
from .sample import TILE, TILES, mosaic, representative_tiles

if TYPE_CHECKING:
    from .options import CalibratedOptions

PEDESTAL = 0.2  # fraction of the mean count
_ALPHA = 0.25  # pixels
_PER_PIXEL = "data", "background", "variance", "haadf", "sigma", "trusted"


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """All of a problem but its weights.

    Attributes
    ----------
    data : numpy.ndarray
        b, shape ``(n_elements, y, x)``; NaN where missing.
    background : numpy.ndarray
        β, shape ``(n_elements, 1, 1)`` or that of the data.
    variance : numpy.ndarray or None
        Of data with Gaussian noise; None for counts.
    scale : numpy.ndarray
        s_i, noise variance where the element is, shape ``(n_elements,)``; for counts
        their mean.
    level : numpy.ndarray
        Mean of the maps where the element is, shape ``(n_elements,)``.
    pedestal : numpy.ndarray
        δ, counts, shape ``(n_elements,)``.
    haadf : numpy.ndarray
        h, shape ``(y, x)``.
    sigma : numpy.ndarray
        σ_h from noise and model error, shape ``(y, x)``.
    error : float
        Model error contained in σ_h, units of the image.
    contrast : float
        Standard deviation of the image.
    trusted : numpy.ndarray
        1 where the HAADF image is used, else 0, shape ``(y, x)``.
    coefficients : numpy.ndarray
        c_i, shape ``(n_elements,)``.
    offset : float
        o.
    alpha : float or None
        Of TGV; None for TV.
    lock : FluxLock
        Which sums of the maps are kept.
    pixels : int
        Number of pixels of the whole image, also if this is a tile of it.
    apart : tuple of bool
        Elements whose TGV has a norm of its own; empty if none has.
    kernels : tuple of Kernel or None
        Filters that the noise of the maps went through; empty if it is white.
    elastic : tuple of Image
        Further elastic images, calibrated, with their weights.
    bins : Bins or None
        Spectra in bins; `data` are then a first estimate of their components.
    directions : tuple of int
        Directions of rows and columns in which problems are solved; see
        :class:`~hyperspy_fusion.core.calibrated.convex.problem.Problem`.
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
    lock: FluxLock
    pixels: int
    apart: tuple[bool, ...] = ()
    kernels: tuple[Kernel | None, ...] = ()
    elastic: tuple[Image, ...] = ()
    bins: Bins | None = None
    directions: tuple[int, int] = (1, 1)

    @property
    def correlated(self) -> bool:
        """Whether the noise of neighbouring pixels is correlated."""
        return any(kernel is not None for kernel in self.kernels)

    @property
    def precision(self) -> np.ndarray:
        """1 / σ_h² where the HAADF image is used, else 0, shape ``(y, x)``."""
        return self.trusted / self.sigma**2

    @property
    def sampled(self) -> bool:
        """Whether the pixels are those of a part of the image, as tiles of it."""
        return self.pixels != self.haadf.size

    def net(self) -> np.ndarray:
        """Maps without background, NaN where missing."""
        return self.data - self.background

    @cached_property
    def flux(self) -> np.ndarray | None:
        """Sums of the net maps over measured pixels, at least 0, shape ``(n,)``.

        Infinite where they are not kept; None if none is.
        """
        if not self.lock.kept.any():
            return None
        known = np.isfinite(self.data)
        flux = self.net().sum(axis=(1, 2), dtype=np.float64, where=known)
        return np.where(self.lock.kept, np.maximum(flux, 0), np.inf)

    def noise_variance(self, maps: np.ndarray) -> np.ndarray:
        """Noise variance of the measured maps if `maps` are the true ones."""
        if self.variance is None:
            return maps + self.background
        return np.broadcast_to(self.variance, maps.shape)

    def with_error(self, error: float) -> PreparedData:
        """The same data, with a model error added to σ_h."""
        sigma = np.hypot(self.sigma, np.float32(error))
        return replace(self, sigma=sigma, error=error)

    def numbers(self) -> PreparedData:
        """The data without its pixels."""
        nothing: dict[str, Any] = dict.fromkeys(_PER_PIXEL)
        return replace(self, elastic=(), bins=None, **nothing)

    def with_numbers(self, other: PreparedData) -> PreparedData:
        """These pixels, with the coefficients, scales and settings of other data."""
        pixels = {name: getattr(self, name) for name in (*_PER_PIXEL, "elastic")}
        return replace(other, **pixels)

    def take(self, tiles: Any) -> PreparedData:
        """The tiles with these corners, put together as one image."""
        return self.cut(lambda array: mosaic(array, tiles))

    def rows(self, rows: slice) -> PreparedData:
        """Some rows of the image."""
        return self.cut(lambda array: array[..., rows, :])

    def cut(self, part: Callable) -> PreparedData:
        """Apply a function to each array of pixels."""
        arrays = {name: getattr(self, name) for name in _PER_PIXEL}
        elastic = tuple(
            replace(image, values=part(image.values), precision=part(image.precision))
            for image in self.elastic
        )
        bins = self.bins and self.bins.with_counts(part(self.bins.counts))
        return replace(
            self,
            elastic=elastic,
            bins=bins,
            **{
                name: part(array)
                for name, array in arrays.items()
                if array is not None and array.shape[-2:] != (1, 1)
            },
        )

    def on_large_pixels(self, factor: int) -> PreparedData:
        """Sums over `factor` x `factor` pixels, from data that hold their means."""
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

    def at_dose(self, data: np.ndarray, share: float) -> PreparedData:
        """The same measurement at a fraction of the dose."""
        return replace(
            self,
            data=data,
            background=self.background * share,
            scale=self.scale * share,
            level=self.level * share,
            pedestal=self.pedestal * share,
            coefficients=self.coefficients / share,
            elastic=tuple(
                replace(image, coefficients=image.coefficients / share)
                for image in self.elastic
            ),
        )

    def weighted(self, weights: Sequence[float]) -> PreparedData:
        """The same data with these weights of the further images."""
        pairs = zip(self.elastic, weights, strict=True)
        elastic = tuple(replace(image, weight=weight) for image, weight in pairs)
        return replace(self, elastic=elastic)

    def problem(self, lambda_tv: float, lambda_haadf: float) -> Problem:
        """The convex problem with these weights; images without one are left out."""
        tv_scale = lambda_tv / np.sqrt(self.scale, dtype=np.float64)
        return Problem(
            data=self.data,
            background=self.background,
            pedestal=self.pedestal,
            variance=self.variance,
            haadf=self.haadf - np.float32(self.offset),
            haadf_precision=self.precision,
            lambda_haadf=lambda_haadf,
            coefficients=self.coefficients,
            tv_scale=tv_scale,
            typical=float(np.mean(tv_scale * self.level)),
            flux=self.flux,
            alpha=self.alpha,
            apart=self.apart,
            elastic=tuple(image for image in self.elastic if image.weight > 0),
            bins=self.bins,
            directions=self.directions,
        )


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Prepared data without coefficients, and how they were found.

    Attributes
    ----------
    prepared : PreparedData
        In the units of the mathematics.
    units : Units
        Kind and units of the measured data.
    tiles : list of list of tuple or None
        From :func:`~hyperspy_fusion.core.calibrated.sample.representative_tiles`.
    notes : tuple of str
        What was assumed, for the user.
    elements : tuple of str
        Symbols, for the messages.
    background_known : bool
        Whether the background was given, or need not be known.
    lock_flux : bool
        Whether sums that are known are kept.
    """

    prepared: PreparedData
    units: Units
    tiles: list | None
    notes: tuple
    elements: tuple[str, ...]
    background_known: bool
    lock_flux: bool

    def locked(self, vacuum: int = 0) -> Preparation:
        """The same with the sums locked that are known.

        `vacuum` is the number of pixels from which the background was found.
        """
        if not self.lock_flux or self.units.total is not None:
            return self
        lock = judge(self.prepared, self.elements, vacuum)
        return replace(self, prepared=replace(self.prepared, lock=lock))


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Facts of a whole image that a sample of its tiles does not show.

    Attributes
    ----------
    mean : numpy.ndarray
        Mean of each map, in its units, shape ``(n_elements,)``.
    negative : bool
        Whether a map goes below 0.
    pixels : int
        Number of pixels of a map.
    directions : tuple of int
        As of :class:`PreparedData`.
    """

    mean: np.ndarray
    negative: bool
    pixels: int
    directions: tuple[int, int]

    @classmethod
    def of(cls, maps: np.ndarray, haadf: np.ndarray) -> Totals:
        """Of filled maps, shape ``(n_elements, y, x)``, and of the image."""
        return cls(
            mean=maps.mean(axis=(1, 2), dtype=np.float64),
            negative=goes_below_zero(float(maps.min()), float(maps.max())),
            pixels=maps[0].size,
            directions=towards_bright(haadf),
        )


def prepare(
    pixels: Pixels,
    options: CalibratedOptions,
    *,
    totals: Totals | None = None,
    units: Units | None = None,
    elements: Sequence[str] = (),
    bad_known: bool = False,
    level_rows: bool = True,
    run: Workers = ALONE,
) -> Preparation:
    """Recognise the kind of the data and convert them to the units of the mathematics.

    Maps with the same sum in all pixels that are not empty are fractions; whole numbers
    not below zero are counts, unless their noise is that of an export; maps with empty
    pixels, or noise that vanishes with the signal, are scaled counts; all others, and
    those with a given variance, have Gaussian noise. See :mod:`.reading`.

    Parameters
    ----------
    pixels : Pixels
        The measurement.
    options : CalibratedOptions
        The options.
    totals : Totals, optional
        Of the whole image, if this is a sample of it.
    units : Units, optional
        Of the whole image, if this is a part of it; by default they are found.
    elements : sequence of str
        Symbols, for the messages.
    bad_known : bool
        Whether bad pixels are NaN already; no notes are made of them, and of missing
        ones.
    level_rows : bool
        Whether scan-line noise of the HAADF image is sought, and removed.
    run : Workers
        Threads that look at a map each.

    Returns
    -------
    Preparation

    Raises
    ------
    ValueError
        If the variance of a map is nowhere a number above 0, fractions have a
        background, the numbers are too large or too small for float32, or a map has
        both signs.
    """
    is_part = units is not None
    if not is_part:
        _check_magnitudes(pixels)
    maps, haadf = np.asarray(pixels.maps, dtype=np.float32), pixels.haadf
    n_elements = len(maps)
    variance = _without_gaps(pixels.variance, maps.shape, is_part=is_part)
    notes = []
    of_counts = units.counts if units is not None else _is_of_counts(maps, variance)
    if variance is not None and of_counts:
        variance = None
        notes.append(
            "the noise variance of the maps is that of their counts: these were fused "
            "as counts, by the Poisson likelihood"
        )
    background = _background_of(pixels.background, maps.shape)
    background_known = pixels.background is not None
    if not (is_part or bad_known):
        notes += missing_notes(**missing_pixels(maps, haadf))
    if not bad_known:
        maps, haadf, found = set_aside(maps, haadf, elements, is_part=is_part, run=run)
        notes += found
    missing = np.isnan(maps)
    seen = np.isfinite(haadf)
    filled = fill(maps)
    totals = totals or Totals.of(filled, haadf)
    if units is None:
        units = recognise(
            filled, missing, variance, elements, negative=totals.negative, run=run
        )
        units = _warned_of_offset(units, options)
    notes += units.notes
    maps, filled, background, variance = _converted(
        maps, filled, background, variance, units
    )
    tiles = representative_tiles(filled)
    if tiles is not None:
        notes.append(
            f"noise, coefficients and weights were found from {TILES**2} tiles of "
            f"{TILE} x {TILE} pixels"
        )
    image, units = _image_in(
        units,
        haadf,
        (maps, filled),
        tiles,
        sampled=totals.pixels != seen.size,
        level=level_rows and not is_part,
    )
    noise: Any = units.noise  # is known now
    prepared = PreparedData(
        data=maps,
        background=background,
        variance=variance,
        scale=np.ones(n_elements),
        level=np.ones(n_elements),
        pedestal=PEDESTAL * totals.mean / units.count_value,
        **as_measured(image, noise, seen, n_elements),
        alpha=_ALPHA if options.regularizer == "tgv" else None,
        lock=FluxLock.free(n_elements),
        pixels=totals.pixels,
        kernels=units.kernels,
        directions=totals.directions,
    )
    if not is_part:
        scale, level = scales(prepared.take(tiles))
        prepared = replace(prepared, scale=scale, level=level)
    preparation = Preparation(
        prepared=prepared,
        units=units,
        tiles=tiles,
        notes=tuple(notes),
        elements=tuple(elements),
        background_known=background_known or not units.counts or is_part,
        lock_flux=options.lock_flux,
    )
    return preparation if is_part else preparation.locked()


def _check_magnitudes(pixels: Pixels) -> None:
    """Raise a ValueError if float32 cannot hold the numbers, or those made of them."""
    check_magnitude("maps", pixels.maps)
    check_magnitude("HAADF image", pixels.haadf)
    check_magnitude("background", pixels.background, least=0)
    variance = pixels.variance
    if variance is not None:
        known = np.where(np.isfinite(variance), variance, np.nan)
        check_magnitude("noise variance", known, least=0, largest=1e28)


def _background_of(background: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Background in the shape of the maps, or ``(n_elements, 1, 1)``; 0 if unknown."""
    known = np.asarray(0 if background is None else background, np.float32)
    known = np.broadcast_to(known, shape)
    if all(np.ptp(image) == 0 for image in known):
        return known[:, :1, :1]
    return known


def _image_in(
    units: Units,
    haadf: np.ndarray,
    maps: tuple[np.ndarray, np.ndarray],
    tiles: Any,
    *,
    sampled: bool,
    level: bool,
) -> tuple[np.ndarray, Units]:
    """The HAADF image, filled and, to `level` its rows, without their noise; its units.

    `maps` are as measured, and filled. The image is of tiles if it is `sampled`.
    """
    seen = np.isfinite(haadf)
    image, base, noise = shifted_image(haadf, seen, units.base, units.noise, tiles)
    units = replace(units, base=base, noise=noise)
    if units.rows is not None or (level and units.total is None):
        measured, filled = maps
        known = seen & np.isfinite(measured).all(axis=0)
        tile = TILE if sampled and level else None
        image, rows = levelled(image, known, filled, units, tile)
        if rows is not units.rows:
            noise = haadf_noise_line(mosaic(image, tiles), mosaic(seen, tiles))
            units = replace(units, noise=noise, rows=rows)
    return image, units


def _warned_of_offset(units: Units, options: CalibratedOptions) -> Units:
    """The units, with a warning of a given offset that is of no use."""
    if units.total is not None or options.haadf_offset is None:
        return units
    unused = (
        "haadf_offset was not used: the maps are no fractions, so that the offset of "
        "the HAADF image is found from them"
    )
    return replace(units, warnings=(*units.warnings, unused))


def _converted(
    maps: np.ndarray,
    filled: np.ndarray,
    background: np.ndarray,
    variance: np.ndarray | None,
    units: Units,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Maps, filled maps, background and variance in the units of the mathematics."""
    if units.total is not None:
        if background.any():
            raise ValueError(
                "the maps are fractions and a background was given: expected none, "
                "since it is known of counts only; leave it out, or pass the counts"
            )
        maps = normalised(maps)
        return maps, maps, background, None  # not filled: the tiles are to hold matter
    if not units.counts:
        if variance is None:
            pairs = zip(units.variances or (), filled, strict=True)
            variance = np.stack([line.variance(image) for line, image in pairs])
        # the Gaussian term has no background of its own
        maps, filled = maps - background, filled - background
        variance = above_zero(np.broadcast_to(variance, maps.shape))
        return maps, filled, np.zeros((len(maps), 1, 1), np.float32), variance
    if (units.count_value != 1).any():
        per_count = np.float32(1 / units.count_value)[:, None, None]
        maps, background, filled = (
            array * per_count for array in (maps, background, filled)
        )
        for i in np.flatnonzero(units.exact):
            maps[i], filled[i] = np.rint(maps[i]), np.rint(filled[i])
    return maps, filled, background, variance


def _is_of_counts(maps: np.ndarray, variance: np.ndarray | None) -> bool:
    """Whether a variance is the counts themselves, as HyperSpy estimates it."""
    if variance is None or not whole_numbers(maps):
        return False
    return bool((maps == variance)[~np.isnan(maps)].all())


def _without_gaps(
    variance: np.ndarray | None, shape: tuple[int, ...], *, is_part: bool
) -> np.ndarray | None:
    """Variance in the shape of the maps, filled where it is unknown; or None."""
    if variance is None:
        return None
    variance = np.broadcast_to(np.asarray(variance, dtype=np.float32), shape)
    variance = np.where(np.isfinite(variance), variance, np.float32(np.nan))
    without = np.flatnonzero(~(variance > 0).any(axis=(1, 2))).tolist()
    if without and not is_part:
        raise ValueError(
            f"the noise variance is nowhere a number above 0 in the maps {without} "
            "(counted from 0): correct it with set_noise_variance, or remove it with "
            "set_noise_variance(None) to have it estimated"
        )
    return fill(variance)


def shifted_image(
    haadf: np.ndarray,
    seen: np.ndarray,
    base: float,
    noise: NoiseLine | None,
    tiles: Any,
) -> tuple[np.ndarray, float, NoiseLine]:
    """Subtract the lowest value of an elastic image, so that float32 keeps the noise.

    Returns the image, float32 and filled; `base`, which was subtracted; and its noise.
    Both are found if there is no `noise`.
    """
    image = np.asarray(haadf, np.float64)
    if noise is None and seen.any():
        base = float(np.min(image, where=seen, initial=np.inf))
    image = fill((image - base).astype(np.float32)[None])[0]
    if noise is None:
        noise = haadf_noise_line(mosaic(image, tiles), mosaic(seen, tiles))
    return image, base, noise


def as_measured(
    image: np.ndarray, noise: NoiseLine, seen: np.ndarray, n_elements: int
) -> dict[str, Any]:
    """Entries of `PreparedData` about an image that is not calibrated yet."""
    return {
        "haadf": image,
        "sigma": np.sqrt(noise.variance(image)),
        "error": 0.0,
        "contrast": float(np.std(image, where=seen)) if seen.any() else 0.0,
        "trusted": seen.astype(np.float32),
        "coefficients": np.zeros(n_elements),
        "offset": 0.0,
    }


def scales(prepared: PreparedData) -> tuple[np.ndarray, np.ndarray]:
    """Noise variance and mean of each map where the element is, shape ``(n,)``."""
    filled = fill(prepared.data)
    level = signal_scale(filled, prepared.background)
    if prepared.variance is None:
        return level, level
    weight = np.maximum(filled - prepared.background, 0, dtype=np.float64) + 1e-300
    total = weight.sum(axis=(1, 2))
    return (
        (weight * prepared.variance).sum(axis=(1, 2)) / total,
        (weight * weight).sum(axis=(1, 2)) / total,
    )
