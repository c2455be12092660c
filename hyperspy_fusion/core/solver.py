"""The one loop that every method runs: step, record, stop."""

from dataclasses import dataclass
from enum import Enum

import numpy as np

__all__ = ["CostHistory", "Solution", "Status", "iterate"]


class Status(str, Enum):
    """Why a solver stopped: a message with its cause and its remedy."""

    CONVERGED = "converged"
    FINISHED = "ran the n_iter iterations that were asked for"
    N_ITER = "n_iter reached before the tolerance: raise n_iter or loosen the tolerance"
    MAX_ITER = (
        "max_iter reached before the tolerance: raise max_iter or loosen the tolerance"
    )

    def __str__(self):
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

    maps: np.ndarray
    costs: CostHistory
    n_iter: int
    status: str
    converged: bool
    record: dict
    sums: np.ndarray | None = None
    variance: np.ndarray | None = None
    notes: tuple = ()
    warnings: tuple = ()


def iterate(
    steps, evaluate, weigh, *, n_iter, at_once=1, tolerance=None, callback=None
):
    """Step until the cost stands still or the iterations are used up.

    Parameters
    ----------
    steps : callable
        ``steps(n)`` advances the state by so many iterations and returns the cost
        terms of the state *before* each of them, which knows them without another
        pass.
    evaluate : callable
        ``evaluate()`` returns the cost terms of the state as it is.
    weigh : callable
        Turns the terms into the total cost.
    n_iter : int
        Largest number of iterations, at least 1.
    at_once : int
        Largest number of iterations to advance by at a time; one by one where there is
        a tolerance.
    tolerance : float, optional
        Stop when the total cost changes by at most this part of itself in one
        iteration. By default all iterations are run.
    callback : callable, optional
        ``callback(n, total)`` is called each time with the number of iterations so
        far, and the last total cost that is known.

    Returns
    -------
    terms : list of tuple
        The terms after each iteration.
    status : Status
        Why the loop ended.

    Raises
    ------
    FloatingPointError
        If the cost is no longer finite.
    """
    terms = []  # of the start, then after each iteration
    totals = []

    def record(found):
        if not np.all(np.isfinite(found)):
            raise FloatingPointError(
                f"the cost is not finite after {len(terms)} iterations: the weights "
                "are too large for the unit step of this method, lower lambda_haadf "
                "or lambda_chem"
            )
        terms.append(found)
        totals.append(weigh(found))

    status = Status.FINISHED if tolerance is None else Status.N_ITER
    n = 0
    while n < n_iter:
        some = min(at_once, n_iter - n) if tolerance is None else 1
        for found in steps(some):
            record(found)
        n += some
        if callback is not None:
            callback(n, totals[-1])
        if (
            tolerance is not None
            and n > 2  # the first total is that of the start
            and abs(totals[-1] - totals[-2]) <= tolerance * abs(totals[-2])
        ):
            status = Status.CONVERGED
            break
    record(evaluate())
    return terms[1:], status
