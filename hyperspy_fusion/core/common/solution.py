"""The result of every method: maps, costs and why it stopped."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from typing import Any

import numpy as np

from .messages import map_names

_FEW = 10  # pixels above the lowest value
_LIKE = 1e-4  # spread of an image, beyond rounding
LARGEST = 1e14  # its square, and sums of squares, fit float32


class Status(str, Enum):
    """Why a solver stopped: a message with cause and remedy."""

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
    """Terms of the objective, each of shape ``(n_values,)``.

    `total` is the weighted sum of `haadf`, `chemical` and `tv`, which are not weighted;
    they are those after the `iterations`, numbers from 1 on.
    """

    total: np.ndarray
    haadf: np.ndarray
    chemical: np.ndarray
    tv: np.ndarray
    iterations: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Result of a solver.

    Attributes
    ----------
    maps : numpy.ndarray
        Fused maps in the units of the measured ones, float32.
    costs : CostHistory
        Terms of the objective.
    n_iter : int
        Number of iterations.
    status : str
        Why the solver stopped, and what is remarkable.
    converged : bool
        Whether the tolerance was met.
    record : dict
        Numbers and float64 arrays for the record of the fusion, by their names there.
    sums : numpy.ndarray or None
        Sums of the maps of a tile, if the flux of all tiles is locked together; shape
        ``(2, n_elements)`` with those of the `unshared` ones, if there are any.
    variance : numpy.ndarray or None
        Variance of the maps, if it was asked for.
    replicas : numpy.ndarray or None
        Maps with simulated errors, as in a bootstrap, if they were asked for, shape
        ``(n_replicas, n_elements, y, x)``.
    unshared : numpy.ndarray or None
        The maps before pixels that look alike shared their counts, if they may.
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
    replicas: np.ndarray | None = None
    unshared: np.ndarray | None = None
    notes: tuple = ()
    warnings: tuple = ()


def check_magnitude(
    name: str, values: Any, *, least: float | None = None, largest: float = LARGEST
) -> None:
    """Raise a ValueError if float32 cannot hold powers of the values.

    The largest of them is to lie between `least`, by default the inverse of `largest`,
    and `largest`; `values` may be None.
    """
    if values is None or np.asarray(values).dtype.kind == "b":
        return
    found = float(np.nanmax(np.abs(values), initial=0))
    least = 1 / largest if least is None else least
    if found > 0 and not least <= found <= largest:
        raise ValueError(
            f"the values of the {name} go up to {found:.3g}: expected "
            f"{least:g} to {largest:g}, whose powers float32 can hold; "
            "multiply the signal by a number, and its noise variance by its square"
        )


def check_elastic(haadf: np.ndarray, elastic: Any, names: Sequence[str]) -> None:
    """Raise a ValueError if further elastic images cannot be fused.

    Float32 has to hold powers of them, and no two, or the HAADF image, may be one image
    in other units: its noise would count as that of two measurements.
    """
    given = {"HAADF image": haadf}
    for name, image in zip(names, elastic, strict=True):
        check_magnitude(f"elastic image {name}", image)
        given[f"elastic image {name}"] = image
    for (one, first), (other, second) in combinations(given.items(), 2):
        known = np.isfinite(first) & np.isfinite(second)
        pair = [np.asarray(image[known], np.float64) for image in (first, second)]
        if known.sum() > _FEW and _of_other_units(*pair):
            raise ValueError(
                f"the {one} and the {other} are the same but for a factor and an "
                "offset: expected a measurement of its own for each"
            )


def _of_other_units(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether values are those of another array but for a factor and an offset.

    Medians, since a hot pixel alone could make any two arrays alike.
    """
    one, other = one - one.mean(), other - other.mean()
    spread = np.median(np.abs(other - np.median(other)))
    factor = one @ other / max(one @ one, 1e-300)
    apart = np.median(np.abs(other - factor * one))
    return bool(spread > 0 and apart < _LIKE * spread)


def check_finite(values: Any, what: str, remedy: str) -> None:
    """Raise a FloatingPointError if a value is NaN or infinite.

    `what` names the values and `remedy` says what the user can do.
    """
    if not np.all(np.isfinite(values)):
        raise FloatingPointError(f"{what} not finite: {remedy}")


def check_different(
    maps: np.ndarray,
    haadf: np.ndarray,
    elements: Sequence[str] = (),
    elastic: Any = (),
    elastic_names: Sequence[str] = (),
) -> None:
    """Raise a ValueError if the same data were given twice."""
    names = map_names(elements, len(maps))
    names += ["HAADF image", *(f"elastic image {name}" for name in elastic_names)]
    given = zip(names, [*maps, haadf, *elastic], strict=True)
    for (one, first), (other, second) in combinations(given, 2):
        pairs = (first[::32], second[::32]), (first, second)  # a few rows first
        equal = all(np.array_equal(*pair, equal_nan=True) for pair in pairs)
        # those of nearly nothing may be equal, as in an empty frame
        known = first[np.isfinite(first)] if equal else first[:0]
        if known.size and np.count_nonzero(known > known.min()) > _FEW:
            raise ValueError(
                f"the {one} and the {other} hold the same values in every pixel: "
                "expected a measurement of its own for each; was one read twice?"
            )
