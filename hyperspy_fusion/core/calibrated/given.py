"""What the calibrated method is given: pixels, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """What was measured in one field of view, or in a part of it.

    Attributes
    ----------
    maps : numpy.ndarray
        In any units, shape ``(n_elements, y, x)``; NaN where missing.
    haadf : numpy.ndarray
        In any units, shape ``(y, x)``; NaN where missing.
    background : numpy.ndarray, float or None
        Of the maps, in their units; it broadcasts against them. None where nothing is
        known.
    variance : numpy.ndarray or None
        Noise variance of the maps; it broadcasts against them. NaN where unknown.
    elastic : numpy.ndarray or None
        Further elastic images, in any units, shape ``(n_images, y, x)``; NaN where
        missing.
    """

    maps: np.ndarray
    haadf: np.ndarray
    background: Any = None
    variance: np.ndarray | None = None
    elastic: np.ndarray | None = None

    @property
    def images(self) -> list[np.ndarray]:
        """All elastic images, HAADF first."""
        return [self.haadf, *(() if self.elastic is None else self.elastic)]


@dataclass(frozen=True, kw_only=True)
class Chemistry:
    """What is known of the elements, and of the images, of all fields of view.

    Attributes
    ----------
    atomic_numbers : sequence of int
        Z_i.
    sensitivities : sequence of float or None
        Relative sensitivity factors.
    elements : sequence of str
        Symbols, for the messages.
    elastic_names : sequence of str
        Names of the further elastic images.
    """

    atomic_numbers: Sequence[int]
    sensitivities: Sequence[float] | None = None
    elements: Sequence[str] = ()
    elastic_names: Sequence[str] = ()

    def coefficients(
        self, exponent: float, count_value: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """Expected c_i of an image: a power of Z over the sensitivity, per count."""
        expected = np.asarray(self.atomic_numbers, dtype=np.float64) ** exponent
        expected = expected * count_value
        if self.sensitivities is None:
            return expected
        return expected / self.sensitivities
