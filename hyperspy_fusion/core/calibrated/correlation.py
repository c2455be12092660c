"""Noise that neighbouring pixels share, as after a filter or an interpolation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from .noise import MASK

# Rings of spatial frequencies, per pixel, in which white noise has the same power.
# Specimens have little there.
_RINGS = np.array([0.18, 0.25, 0.32, 0.39, 0.46, 0.53, 0.6])
_LOW, _MIDDLE, _HIGH = slice(0, 2), slice(2, 5), slice(5, 6)
# Power of the highest ring over that of the lowest, below which noise is correlated:
# of whole numbers and their multiples, which a filter hardly leaves, and of others.
_OF_WHOLE, _OF_OTHERS = 0.15, 0.4
_OF_COUNTS = 0.5  # power of the highest ring over that of counts of the step
_STILL_FALLING = 0.62  # power of the highest ring over that of the middle ones
# Power at high frequencies along one axis over that along the other, below which the
# noise is correlated along that axis more.
_UNEVEN = 0.45
_LEAST_SIZE = 48  # pixels a side
_GRID, _FINE_GRID = 64, 128  # frequencies a side, of areas and of powers in rings


@dataclass(frozen=True)
class Kernel:
    """A filter that has made the noise of neighbouring pixels the same in part.

    Attributes
    ----------
    name : str
        What it may have been, for messages.
    kind : str
        Mean over pixels ("box"), Gaussian ("gaussian"), or linear interpolation at all
        positions between pixels ("linear").
    widths : tuple of float
        Pixels a side, or standard deviation in pixels, along y and along x; 0 along an
        axis that was not filtered.
    """

    name: str
    kind: str
    widths: tuple[float, float]

    def response(self, shape: tuple[int, int]) -> np.ndarray:
        """Root of the power that it passes at each frequency of an image."""
        each = zip(shape, self.widths, strict=True)
        return np.outer(*(self._along(np.fft.fftfreq(n), width) for n, width in each))

    def _along(self, f: np.ndarray, width: float) -> np.ndarray:
        if not width:
            return np.ones(len(f))
        if self.kind == "box":
            n = int(width)
            waves = np.exp(2j * np.pi * np.outer(f, np.arange(n)))
            return abs(waves.mean(axis=1))
        if self.kind == "gaussian":
            x = np.arange(-int(4 * width + 1), int(4 * width + 1) + 1)
            kernel = np.exp(-((x / width) ** 2) / 2)
            return abs(np.cos(2 * np.pi * np.outer(f, x)) @ kernel / kernel.sum())
        # mean over all positions of the power |1 - t + t exp(2 pi i f)|^2
        return np.sqrt(2 / 3 + np.cos(2 * np.pi * f) / 3)

    @cached_property
    def area(self) -> float:
        """Number of pixels that share their noise: (Σ k)² / Σ k²."""
        return float(1 / np.mean(self.response((_GRID, _GRID)) ** 2))

    @cached_property
    def mask_gain(self) -> float:
        """Noise in the residual of the noise mask, over that of unfiltered noise."""
        response = self.response((_GRID, _GRID))
        waves = np.exp(2j * np.pi * np.outer(np.fft.fftfreq(_GRID), [-1, 0, 1]))
        mask = abs(waves @ MASK)
        return float(np.mean((response * np.outer(mask, mask)) ** 2))

    @cached_property
    def ring_powers(self) -> np.ndarray:
        """Power that it passes in each ring, as from :func:`_medians`."""
        return _medians(self.response((_FINE_GRID, _FINE_GRID)) ** 2)

    def noise(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Normal noise of variance 1 that went through the filter."""
        white = np.fft.fft2(rng.standard_normal(shape))
        response = self.response(shape) * np.sqrt(self.area)
        return np.fft.ifft2(white * response).real


def _medians(power: np.ndarray) -> np.ndarray:
    """Median power in each ring, whatever a few Bragg reflections are.

    Of all frequencies, of those that are higher along y, and of those along x; shape
    ``(3, n_rings)``.
    """
    f_y, f_x = np.meshgrid(*(np.fft.fftfreq(n) for n in power.shape), indexing="ij")
    ring = np.digitize(np.hypot(f_y, f_x), _RINGS)
    all_of_them = np.ones(power.shape, dtype=bool)
    parts = all_of_them, abs(f_y) >= abs(f_x), abs(f_x) >= abs(f_y)
    return np.array(
        [
            [np.median(power[part & (ring == k)]) for k in range(1, len(_RINGS))]
            for part in parts
        ]
    )


_SIDES = (2, 3, 5, 7)
_SIGMAS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)
_GAUSSIANS = tuple(
    Kernel(f"a Gaussian filter of {s:g} pixels", "gaussian", (s, s)) for s in _SIGMAS
)
KERNELS = (
    *(Kernel(f"a mean over {n} x {n} pixels", "box", (n, n)) for n in _SIDES),
    *_GAUSSIANS,
    Kernel("an interpolation", "linear", (1, 1)),
)
# Those that filter along one axis more than along the other.
UNEVEN_KERNELS = (
    *(Kernel(f"a mean over {n} x 1 pixels", "box", (n, 0)) for n in _SIDES),
    *(Kernel(f"a mean over 1 x {n} pixels", "box", (0, n)) for n in _SIDES),
    *(
        Kernel(f"a Gaussian filter of {y:g} x {x:g} pixels", "gaussian", (y, x))
        for y, x in product((0.0, *_SIGMAS), repeat=2)
        if y != x
    ),
    Kernel("an interpolation along y", "linear", (1, 0)),
    Kernel("an interpolation along x", "linear", (0, 1)),
)
# The noise of counts that pixels share in parts, as after binning by 1.5 pixels: of
# these Gaussians the one whose area is that of it, 1.44 pixels.
PARTS = Kernel("sharing counts in parts", "gaussian", (0.41, 0.41))


def find_kernel(image: np.ndarray, step: float | None) -> tuple[Kernel, float] | None:
    """The filter that fits the noise of a map best; None if its noise is white.

    Parameters
    ----------
    image : numpy.ndarray
        A map without gaps, shape ``(y, x)``.
    step : float or None
        The number of which all its values are multiples, if there is one.

    Returns
    -------
    kernel : Kernel
        The filter.
    gain : float
        Variance over mean that the map had before it, if its noise is that of counts:
        the value of a count. From the low frequencies, which a filter changes least.
    """
    if min(image.shape) < _LEAST_SIZE or not np.ptp(image):
        return None
    found, total = _spectrum(image)
    # A filter takes the noise of counts away at high frequencies. Of many counts, the
    # specimen has more power than that noise at low ones.
    most = np.inf if step is None else _OF_COUNTS * step * total
    along = found[1:, _MIDDLE.start :].mean(axis=1)
    if along.min() < min(_UNEVEN * along.max(), most):
        kernels, parts = (*KERNELS, *UNEVEN_KERNELS), slice(1, 3)
    elif _is_falling(found[0], _OF_OTHERS if step is None else _OF_WHOLE, most):
        kernels, parts = KERNELS, slice(0, 1)
    else:
        return None
    least = 1e-6 * found.max()

    def distance(kernel: Kernel) -> float:
        expected = kernel.ring_powers[parts]
        ratio = np.log(np.maximum(found[parts], least) / found.max())
        ratio -= np.log(np.maximum(expected / expected.max(), 1e-6))
        return float(np.var(ratio))

    kernel = min(kernels, key=distance)
    unfiltered = found[0, _LOW] / kernel.ring_powers[0, _LOW]
    return kernel, float(unfiltered.min() / total)


def find_rounded_filter(image: np.ndarray, noise: float) -> Kernel | None:
    """A filter whose result is whole numbers, as a median; None if noise is white.

    The Gaussian that leaves as much of the noise of counts as there is, as a fraction
    in the residual of the noise mask.
    """
    if min(image.shape) < _LEAST_SIZE:
        return None
    (found, *_), _ = _spectrum(image)
    if found[_HIGH].mean() >= _OF_OTHERS * found[_LOW].mean():
        return None
    like = min(_GAUSSIANS, key=lambda kernel: abs(np.log(kernel.mask_gain / noise)))
    return replace(like, name="a median, or another filter with rounding")


def _spectrum(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Power in rings of a map, and that of counts that are whole numbers."""
    image = np.asarray(image, np.float64)
    window = np.outer(*(np.hanning(size + 2)[1:-1] for size in image.shape))
    power = abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    # median of exponential numbers, to their mean
    return _medians(power) / np.log(2), np.sum(window**2 * abs(image))


def _is_falling(found: np.ndarray, least: float, most: float) -> bool:
    """Whether the power in rings falls as that of correlated noise.

    What a specimen adds at low frequencies leaves white noise flat at high ones.
    """
    lowest, highest = found[_LOW].mean(), found[_HIGH].mean()
    flat = highest > _STILL_FALLING * found[_MIDDLE].mean()
    return bool(highest < least * lowest and highest <= most and not flat)
