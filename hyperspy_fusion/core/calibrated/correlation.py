"""Noise that neighbouring pixels share, as after a filter or an interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

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
_LEAST_SIZE = 48  # pixels a side
_GRID = 64  # frequencies a side, of areas of kernels


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
    width : float
        Pixels a side, or standard deviation in pixels.
    """

    name: str
    kind: str
    width: float

    def response(self, shape: tuple[int, int]) -> np.ndarray:
        """Root of the power that it passes at each frequency of an image."""
        f_y, f_x = (np.fft.fftfreq(size) for size in shape)
        return np.outer(self._along(f_y), self._along(f_x))

    def _along(self, f: np.ndarray) -> np.ndarray:
        if self.kind == "box":
            n = int(self.width)
            waves = np.exp(2j * np.pi * np.outer(f, np.arange(n)))
            return abs(waves.mean(axis=1))
        if self.kind == "gaussian":
            x = np.arange(-int(4 * self.width + 1), int(4 * self.width + 1) + 1)
            kernel = np.exp(-((x / self.width) ** 2) / 2)
            return abs(np.cos(2 * np.pi * np.outer(f, x)) @ kernel / kernel.sum())
        # mean over all positions of the power |1 - t + t exp(2 pi i f)|^2
        return np.sqrt(2 / 3 + np.cos(2 * np.pi * f) / 3)

    @property
    def area(self) -> float:
        """Number of pixels that share their noise: (Σ k)² / Σ k²."""
        return float(1 / np.mean(self.response((_GRID, _GRID)) ** 2))

    @property
    def mask_gain(self) -> float:
        """Noise in the residual of the noise mask, over that of unfiltered noise."""
        response = self.response((_GRID, _GRID))
        waves = np.exp(2j * np.pi * np.outer(np.fft.fftfreq(_GRID), [-1, 0, 1]))
        mask = abs(waves @ MASK)
        return float(np.mean((response * np.outer(mask, mask)) ** 2))

    def noise(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Normal noise of variance 1 that went through the filter."""
        white = np.fft.fft2(rng.standard_normal(shape))
        response = self.response(shape) * np.sqrt(self.area)
        return np.fft.ifft2(white * response).real


KERNELS = (
    *(Kernel(f"a mean over {n} x {n} pixels", "box", n) for n in (2, 3, 5, 7)),
    *(
        Kernel(f"a Gaussian filter of {s:g} pixels", "gaussian", s)
        for s in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)
    ),
    Kernel("an interpolation", "linear", 1.0),
)
# The noise of counts that pixels share in parts, as after binning by 1.5 pixels: of
# these Gaussians the one whose area is that of it, 1.44 pixels.
PARTS = Kernel("sharing counts in parts", "gaussian", 0.41)


@cache
def _ring_powers(kernel: Kernel, shape: tuple[int, int]) -> np.ndarray:
    return _medians(kernel.response(shape) ** 2)


def _medians(power: np.ndarray) -> np.ndarray:
    """Median power in each ring, whatever a few Bragg reflections are."""
    q = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in power.shape), indexing="ij"))
    ring = np.digitize(q, _RINGS)
    return np.array([np.median(power[ring == k]) for k in range(1, len(_RINGS))])


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
    image = np.asarray(image, np.float64)
    window = np.outer(*(np.hanning(size + 2)[1:-1] for size in image.shape))
    power = abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    found = _medians(power) / np.log(2)  # median of exponential numbers, to their mean
    lowest, highest = found[_LOW].mean(), found[_HIGH].mean()
    if highest >= (_OF_OTHERS if step is None else _OF_WHOLE) * lowest:
        return None
    total = np.sum(window**2 * abs(image))
    # A filter takes the noise of counts away at high frequencies. Of many counts, the
    # specimen has more power than that noise at low ones.
    if step is not None and highest > _OF_COUNTS * step * total:
        return None
    # What a specimen adds at low frequencies leaves white noise flat at high ones.
    if highest > _STILL_FALLING * found[_MIDDLE].mean():
        return None
    least = 1e-6 * found.max()

    def distance(kernel: Kernel) -> float:
        expected = _ring_powers(kernel, image.shape)
        ratio = np.log(np.maximum(found, least) / found.max())
        ratio -= np.log(np.maximum(expected / expected.max(), 1e-6))
        return float(np.var(ratio))

    kernel = min(KERNELS, key=distance)
    unfiltered = found[_LOW] / _ring_powers(kernel, image.shape)[_LOW]
    return kernel, float(unfiltered.min() / total)
