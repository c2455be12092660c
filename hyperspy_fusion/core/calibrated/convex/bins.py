r"""Counts of the bins of spectra, shared out among the components before each sweep.

The expected counts of bin k are :math:`v_k = \sum_i M_{ki} (x_i + δ_i)`, and those
measured, with the pedestal, :math:`n_k = b_k + \sum_i M_{ki} δ_i`. With

.. math:: a_i = (x_i + δ_i) \sum_k M_{ki} n_k / v_k

at the present maps, :math:`\sum_i [x_i - a_i \log(x_i + δ_i)]` is an upper bound of
:math:`\sum_k [(Mx)_k - n_k \log v_k]` but for a constant, by Jensen's inequality, and
touches it there (L. A. Shepp and Y. Vardi, IEEE Trans. Med. Imaging 1, 113 (1982)): the
sweep lowers it as if the a_i were the counts of separate maps.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from ...common.compilation import compilers, index
from ...common.missing import fill

_SMOOTHING = 2.0  # pixels, of the expected counts that give the variance
_LEVEL = 0.05  # of their mean, added to them
_CHUNK = index(1024)  # columns at a time, so that their scratch stays in the cache

_kernel, _ = compilers(fastmath=True)


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Spectra in a few bins, and what a count of each component adds to them.

    Attributes
    ----------
    counts : numpy.ndarray
        b, shape ``(n_bins, y, x)``, float32; NaN where a pixel is missing.
    mixing : numpy.ndarray
        M, shape ``(n_bins, n_components)``; its columns sum to 1.
    n_elements : int or None
        The components of the specimen, which come first; None for all.
    """

    counts: np.ndarray
    mixing: np.ndarray
    n_elements: int | None = None

    def with_counts(self, counts: np.ndarray) -> "Bins":
        """The same bins with other counts."""
        return replace(self, counts=counts)

    def at_mean(self, sums: np.ndarray) -> np.ndarray:
        """Counts shared out as in the mean spectrum, shape ``(n_components, y, x)``.

        `sums` are the counts of the components there, in any unit.
        """
        mean = np.maximum(self.mixing @ sums, 1e-300)
        shares = self.mixing * sums / mean[:, None]
        return np.tensordot(shares.T, self.counts, 1)

    def of_sums(self, sums: np.ndarray) -> np.ndarray:
        """As :meth:`at_mean`, float32, with these counts of each component in all.

        A component stays 0 if it has none in any bin with counts.
        """
        maps = self.at_mean(sums)
        total = np.nansum(maps, axis=(1, 2), dtype=np.float64)
        maps *= (sums / np.where(total > 0, total, 1))[:, None, None]
        return maps.astype(np.float32)


def information(mixing: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Fisher information of the components, shape ``(n_components, n_components)``."""
    mean = np.maximum(mixing @ sums, 1e-300)
    return mixing.T @ (mixing / mean[:, None])


def unmixing(mixing: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Matrix of weighted least squares, that turns bins into components.

    The weights are those of the mean spectrum; shape ``(n_components, n_bins)``.
    """
    weighted = mixing / np.maximum(mixing @ sums, 1e-300)[:, None]
    return np.linalg.solve(information(mixing, sums), weighted.T)


def variance_of(matrix: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Noise variance of maps that a matrix makes of the counts of bins, float32.

    It is that of smooth expected counts: the counts of a pixel itself would give a
    pixel with few of them too large a weight.
    """
    counts = fill(counts)
    mean = counts.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    expected = gaussian_filter(counts, (0, _SMOOTHING, _SMOOTHING)) + _LEVEL * mean
    return np.tensordot(matrix**2, expected, 1).astype(np.float32)


@_kernel
def share_bins(u, counts, mixing, scale, pedestal, floor, data, start, stop):
    """Share out the counts of rows `start` to `stop` at the present maps.

    Parameters
    ----------
    u : numpy.ndarray
        Scaled maps, shape ``(n_components, y, x)``; below 0 taken for 0.
    counts, mixing : numpy.ndarray
        As in :class:`Bins`, finite and float32.
    scale : numpy.ndarray
        Counts of a component for u = 1, shape ``(n_components,)``.
    pedestal, floor : numpy.ndarray
        δ of the components and M δ of the bins.
    data : numpy.ndarray
        The a_i, written; below 0 where missing, which stays.
    start, stop : int
        The rows.
    """
    n_components, _, n_x = u.shape
    n_bins = counts.shape[0]
    columns = index(n_x)
    zero = np.float32(0)
    maps = np.empty((n_components, _CHUNK), np.float32)
    total = np.empty((n_components, _CHUNK), np.float32)
    ratio = np.empty(_CHUNK, np.float32)
    for y in range(start, stop):
        for a in range(index(0), columns, _CHUNK):
            n = min(_CHUNK, columns - a)
            for i in range(n_components):
                for x in range(n):
                    maps[i, x] = max(u[i, y, a + x], zero) * scale[i] + pedestal[i]
                    total[i, x] = zero
            for k in range(n_bins):
                for x in range(n):
                    ratio[x] = zero
                for i in range(n_components):
                    if mixing[k, i] > zero:
                        for x in range(n):
                            ratio[x] += mixing[k, i] * maps[i, x]
                for x in range(n):
                    ratio[x] = (counts[k, y, a + x] + floor[k]) / ratio[x]
                for i in range(n_components):
                    if mixing[k, i] > zero:
                        for x in range(n):
                            total[i, x] += mixing[k, i] * ratio[x]
            for i in range(n_components):
                for x in range(n):
                    known = data[i, y, a + x] >= zero
                    data[i, y, a + x] = maps[i, x] * total[i, x] if known else -1
