r"""The calibrated method: a convex problem in counts, solved to a certified gap.

.. math::

    \min_{x ≥ 0} \sum_i \sum_r [x_i - (b_i + δ_i) \log(x_i + β_i + δ_i)]
    + \sum_j \tfrac12 \sum_r w_j (h_j - o_j - \sum_i c_{ji} x_i)^2
    + TGV_α^2(L_i x_i) \quad \text{subject to } \sum_r x_i = F_i

with w_j = μ_j / σ_j² and L_i = λ / √s_i, over all elastic images j, the first of which
is HAADF. Poisson term and constraint are over measured pixels; where F_i is infinite
the flux is free. The unknowns of the solver are u_i = L_i x_i. Of spectra in bins k,
the Poisson term is Σ_k [(M x)_k - n_k log (M (x + δ))_k] with n = b + M δ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .bins import Bins
from .sweep import Scaled

_ALL = slice(None)
_EVEN = 1e-9  # of the moments: a smaller one of all is rounding


def for_kernels(array: np.ndarray) -> np.ndarray:
    """The array as kernels take it, copied if need be: float32, in C order, writeable.

    For any other type, order or flag a kernel would be compiled again.
    """
    return np.require(array, np.float32, ["C", "W"])


def is_for_kernels(array: np.ndarray) -> bool:
    """Whether kernels take the array as it is; see :func:`for_kernels`."""
    return array.dtype == np.float32 and array.flags.carray


def stacked(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays of one shape as kernels take them; one alone is not copied if need not."""
    if len(arrays) == 1:
        return for_kernels(arrays[0])[None]
    return np.stack([for_kernels(array) for array in arrays])


@dataclass(frozen=True, kw_only=True)
class Image:
    """The term of one elastic image.

    Attributes
    ----------
    values : numpy.ndarray
        h - o: the image without offset, shape ``(y, x)``.
    precision : numpy.ndarray
        1 / σ², shape ``(y, x)``; 0 where the image is not used.
    weight : float
        μ.
    coefficients : numpy.ndarray
        c_i ≥ 0, intensity per count, shape ``(n_elements,)``.
    """

    values: np.ndarray
    precision: np.ndarray
    weight: float
    coefficients: np.ndarray

    @cached_property
    def unit(self) -> float:
        """Unit of the image in the kernels: its median σ / √μ."""
        weight = self.weight * self.precision
        used = weight > 0
        return 1 / np.sqrt(np.median(weight[used])) if used.any() else 1.0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The convex problem, with all that calibration and choice of weights have found.

    Attributes
    ----------
    data : numpy.ndarray
        Counts b, or values with Gaussian noise, shape ``(n_elements, y, x)``; NaN
        where missing.
    background : numpy.ndarray
        β, known background counts a pixel, shape ``(n_elements, 1, 1)`` or that of
        the data. Values have none.
    pedestal : numpy.ndarray
        δ, counts, shape ``(n_elements,)``; not used for values.
    variance : numpy.ndarray or None
        Variance of values, shape of the data or ``(n_elements, 1, 1)``; None for
        counts.
    haadf : numpy.ndarray
        h - o: the image without offset, shape ``(y, x)``.
    haadf_precision : numpy.ndarray
        1 / σ_h², shape ``(y, x)``; 0 where the image is not used.
    lambda_haadf : float
        μ.
    coefficients : numpy.ndarray
        c_i ≥ 0, HAADF intensity per count, shape ``(n_elements,)``.
    tv_scale : numpy.ndarray
        L_i = λ / √s_i, shape ``(n_elements,)``, 1 / counts.
    typical : float
        A typical value of u, for the step sizes; dimensionless.
    flux : numpy.ndarray or None
        F_i, sums over the measured pixels, counts, shape ``(n_elements,)``; infinite
        where the flux is free. None leaves it free everywhere.
    flux_multiplier : numpy.ndarray or None
        ν_i of the flux lock of a larger image, shape ``(n_elements,)``, whose term
        Σ ν_i x_i is added if the flux is free. None is 0.
    alpha : float or None
        Weight of the second order of TGV, pixels; None for TV.
    apart : tuple of bool
        The elements whose TGV has a norm of its own; the others share one, so that
        their edges coincide. Empty if all share one.
    elastic : tuple of Image
        Further elastic images.
    bins : Bins or None
        Spectra in bins, of which the Poisson term is; `data` are then a first estimate
        of the maps of the components, and there is no background.
    directions : tuple of int
        Directions of rows and columns, 1 or -1, in which it is solved. TGV takes its
        differences forward and along one of the diagonals, and flipped data are to
        give flipped maps; see :func:`towards_bright`.
    """

    data: np.ndarray
    background: np.ndarray
    pedestal: np.ndarray
    variance: np.ndarray | None
    haadf: np.ndarray
    haadf_precision: np.ndarray
    lambda_haadf: float
    coefficients: np.ndarray
    tv_scale: np.ndarray
    typical: float
    flux: np.ndarray | None
    flux_multiplier: np.ndarray | None = None
    alpha: float | None = 0.5
    apart: tuple[bool, ...] = ()
    elastic: tuple[Image, ...] = ()
    bins: Bins | None = None
    directions: tuple[int, int] = (1, 1)

    @property
    def poisson(self) -> bool:
        """Whether the data are counts."""
        return self.variance is None

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels ``(y, x)``."""
        return self.haadf.shape

    @property
    def n_elements(self) -> int:
        """Number of elements of the specimen, whose maps come first."""
        n = None if self.bins is None else self.bins.n_elements
        return len(self.data) if n is None else n

    @property
    def noise(self) -> float:
        """A typical standard deviation of u, dimensionless."""
        if self.poisson:  # typical = λ ⟨√s⟩ and tv_scale = λ / √s give λ
            return np.sqrt(self.typical / np.mean(1 / self.tv_scale))
        variance = np.nanmean(np.asarray(self.variance), axis=(1, 2))
        return np.sqrt(np.mean(self.tv_scale**2 * variance))

    @cached_property
    def images(self) -> tuple[Image, ...]:
        """All elastic images, HAADF first."""
        haadf = Image(
            values=self.haadf,
            precision=self.haadf_precision,
            weight=self.lambda_haadf,
            coefficients=self.coefficients,
        )
        return haadf, *self.elastic

    @property
    def scaled_coefficients(self) -> np.ndarray:
        """k_ji, of scaled maps and of images in their units, ``(n_images, n)``."""
        return np.stack(
            [image.coefficients / (self.tv_scale * image.unit) for image in self.images]
        )

    def value(self, terms: Sequence[float]) -> float:
        """The sum of the terms of the objective, as from :func:`certificate`."""
        haadf, chemical, tv, *others = terms
        value = self.lambda_haadf * haadf + chemical + tv
        for image, term in zip(self.elastic, others, strict=True):
            value += image.weight * term
        return value

    @property
    def scaled_flux_multiplier(self) -> np.ndarray:
        """Multipliers of the flux of u, shape ``(n_elements,)``."""
        if self.flux_multiplier is None:
            return np.zeros(len(self.data))
        return self.flux_multiplier / self.tv_scale

    @property
    def norm_groups(self) -> tuple[np.ndarray, np.ndarray]:
        """Order of the elements, that with a shared norm first; where a norm ends."""
        apart = np.array(self.apart or [False] * len(self.data))
        ends = np.sort(apart)
        ends[(~apart).sum() - 1] = True
        return np.argsort(apart, kind="stable").astype(np.uintp), ends

    @property
    def flux_locked(self) -> np.ndarray:
        """Whether the flux of each element is kept, shape ``(n_elements,)``."""
        if self.flux is None:
            return np.zeros(len(self.data), bool)
        return np.isfinite(self.flux)

    def measured(self, rows: slice = _ALL, columns: slice = _ALL) -> np.ndarray:
        """Where the maps were measured, shape ``(n_elements, y, x)``."""
        return np.isfinite(self.data[:, rows, columns])

    def probe(self) -> list[float]:
        """Numbers that are finite if the problem is; missing data (NaN) may be."""
        flux = None if self.flux is None else self.flux[~np.isinf(self.flux)]
        optional = [self.variance, flux, self.flux_multiplier]
        arrays = [
            self.background,
            self.pedestal,
            self.tv_scale,
            *(array for array in optional if array is not None),
        ]
        for image in self.images:
            arrays += [image.values, image.precision, image.coefficients]
            arrays.append(np.array(image.weight))
        if self.bins is not None:
            arrays += [np.nan_to_num(self.bins.counts, posinf=np.inf), self.bins.mixing]
        largest = np.inf if np.isinf(self.data).any() else self.typical
        return [largest, *(float(np.sum(array)) for array in arrays)]

    def scaled(self) -> Scaled:
        """The problem in u = L x and h in its unit, as the kernels take it."""
        data = np.empty(self.data.shape, np.float32)
        precision = np.zeros((1, 1, 1) if self.poisson else data.shape, np.float32)
        for i, (image, tv_scale) in enumerate(
            zip(self.data, self.tv_scale, strict=True)
        ):
            if self.poisson:
                data[i] = image + self.pedestal[i]
            else:
                data[i] = image * tv_scale
                precision[i] = 1 / (np.asarray(self.variance)[i] * tv_scale**2)
            missing = np.isnan(image)
            data[i][missing] = -1 if self.poisson else 0
            if not self.poisson:
                precision[i][missing] = 0
        offset = self.background + self.pedestal[:, None, None]
        offset = offset * self.tv_scale[:, None, None]
        return Scaled(
            data=data,
            precision=precision,
            poisson=self.poisson,
            rate=(1 / self.tv_scale).astype(np.float32),
            offset=for_kernels(offset),
            haadf=stacked([image.values / image.unit for image in self.images]),
            haadf_weight=stacked(
                [
                    image.weight * image.unit**2 * image.precision
                    for image in self.images
                ]
            ),
            coefficients=self.scaled_coefficients.astype(np.float32),
        )


def towards_bright(image: np.ndarray) -> tuple[int, int]:
    """Directions of rows and columns that lead to where an image is brighter.

    Of an image in any unit, shape ``(y, x)``; pixels that are NaN are left out. Each is
    1 or -1; 1 where both halves are alike to rounding.
    """
    known = np.isfinite(image)
    bright = np.where(known, image, 0).astype(np.float64)
    bright = np.where(known, bright - bright.sum() / max(known.sum(), 1), 0)
    directions = [1, 1]
    for axis in range(2):
        size = image.shape[axis]
        place = np.arange(size) - (size - 1) / 2
        moments = place * bright.sum(axis=1 - axis)
        if moments.sum() < -_EVEN * np.abs(moments).sum():
            directions[axis] = -1
    return directions[0], directions[1]


def upright(problem: Problem) -> Problem:
    """The problem with rows and columns in the order in which it is solved."""
    y, x = problem.directions

    def turned(array: Any) -> Any:
        return None if array is None else array[..., ::y, ::x]

    return replace(
        problem,
        data=turned(problem.data),
        background=turned(problem.background),
        variance=turned(problem.variance),
        haadf=turned(problem.haadf),
        haadf_precision=turned(problem.haadf_precision),
        elastic=tuple(
            replace(
                image, values=turned(image.values), precision=turned(image.precision)
            )
            for image in problem.elastic
        ),
        bins=problem.bins and problem.bins.with_counts(turned(problem.bins.counts)),
        directions=(1, 1),
    )


def coarsen(problem: Problem) -> Problem:
    """The problem on pixels twice as large; its u is twice that on the fine ones."""
    n_y, n_x = (size // 2 * 2 for size in problem.shape)

    def total(array: np.ndarray) -> np.ndarray:
        if array.shape[-2:] != problem.shape:
            return 4 * array  # one number for all pixels
        rows = array[..., 0:n_y:2, :n_x] + array[..., 1:n_y:2, :n_x]
        return rows[..., 0::2] + rows[..., 1::2]

    def present(array: np.ndarray) -> np.ndarray:
        missing = np.isnan(array)
        if not missing.any():
            return total(array)
        count = 4 - total(missing.astype(array.dtype))
        sums = 4 * total(np.where(missing, 0, array))
        with np.errstate(invalid="ignore"):  # NaN where all are missing
            return sums / count

    return replace(
        problem,
        data=present(problem.data),
        background=total(problem.background),
        pedestal=4 * problem.pedestal,
        variance=None if problem.variance is None else total(problem.variance),
        haadf=total(problem.haadf) / 4,
        # the noise of four pixels averages; four terms become one
        haadf_precision=total(problem.haadf_precision),
        coefficients=problem.coefficients / 4,
        tv_scale=problem.tv_scale / 2,
        typical=2 * problem.typical,
        alpha=None if problem.alpha is None else problem.alpha / 2,
        elastic=tuple(
            replace(
                image,
                values=total(image.values) / 4,
                precision=total(image.precision),
                coefficients=image.coefficients / 4,
            )
            for image in problem.elastic
        ),
        bins=problem.bins and problem.bins.with_counts(present(problem.bins.counts)),
    )


def flux_correction(
    problem: Problem, sums: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and summand, ``(n_elements,)``, that make u meet the flux lock exactly.

    `sums` are those of u over the measured pixels. 1 and 0 where the flux is free; an
    empty map is filled evenly.
    """
    if problem.flux is None:
        return np.ones(len(sums)), np.zeros(len(sums))
    wanted = np.where(problem.flux_locked, problem.flux * problem.tv_scale, sums)
    empty = sums <= 0
    factor = np.where(empty, wanted <= 0, wanted / np.where(empty, 1, sums))
    if not empty.any():
        return factor, np.zeros(len(sums))
    n_measured = np.maximum(problem.measured().sum(axis=(1, 2)), 1)
    return factor, np.where(empty, wanted / n_measured, 0)


def with_flux(problem: Problem, u: np.ndarray) -> np.ndarray:
    """Maps in counts that meet the flux lock, from u."""
    maps = np.maximum(u, 0)
    sums = maps.sum(axis=(1, 2), dtype=np.float64, where=problem.measured())
    factor, summand = flux_correction(problem, sums)
    maps *= (factor / problem.tv_scale).astype(np.float32)[:, None, None]
    maps += (summand / problem.tv_scale).astype(np.float32)[:, None, None]
    return maps
