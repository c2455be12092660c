"""What every method hands back: maps, costs and why it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

__all__ = [
    "CostHistory",
    "Solution",
    "Status",
    "check_finite",
]


class Status(str, Enum):
    """Why a solver stopped: a message with its cause and its remedy."""

    CONVERGED = "converged"
    FINISHED = "ran the n_iter iterations that were asked for"
    N_ITER = "n_iter reached before the tolerance: raise n_iter or loosen the tolerance"
    MAX_ITER = (
        "max_iter reached before the tolerance: raise max_iter or loosen the tolerance"
    )

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class CostHistory:
    """The terms of the objective, each of shape ``(n_values,)``.

    Attributes
    ----------
    total : numpy.ndarray
        The weighted sum of the terms.
    haadf, chemical, tv : numpy.ndarray
        The terms, not weighted.
    interval : int
        Iterations from one value to the next; to the last one it may be fewer.
    """

    total: np.ndarray
    haadf: np.ndarray
    chemical: np.ndarray
    tv: np.ndarray
    interval: int = 1


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What a solver hands back.

    Attributes
    ----------
    maps : numpy.ndarray
        The fused maps in the units of the measured ones, shape
        ``(n_elements, y, x)``, float32.
    costs : CostHistory
        The terms of the objective, iteration by iteration.
    n_iter : int
        Number of iterations.
    status : str
        Why the solver stopped, and what was seen on the way.
    converged : bool
        Whether the tolerance was met.
    record : dict
        Numbers and float64 arrays that are needed to understand the maps, by the
        names they have in the record of the fusion.
    sums : numpy.ndarray or None
        Of the maps of a part of an image, shape ``(n_elements,)``, where the flux is
        locked in all parts together.
    variance : numpy.ndarray or None
        Variance of the maps, of their shape, where it was asked for.
    notes, warnings : tuple of str
        What a user may want to know, and what a user has to know.
    """

    maps: np.ndarray | None
    costs: CostHistory
    n_iter: int
    status: str
    converged: bool
    record: dict
    sums: np.ndarray | None = None
    variance: np.ndarray | None = None
    notes: tuple = ()
    warnings: tuple = ()


def check_finite(values: Any, what: str, remedy: str) -> None:
    """Raise an error if a number is not finite.

    Parameters
    ----------
    values : sequence of float
        The numbers, or sums of arrays.
    what : str
        What they are, for the message.
    remedy : str
        What the user can do.

    Raises
    ------
    FloatingPointError
        If any of them is NaN or infinite.
    """
    if not np.all(np.isfinite(values)):
        raise FloatingPointError(f"{what} not finite: {remedy}")
