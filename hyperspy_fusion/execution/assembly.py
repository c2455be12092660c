"""Arrays of tiles and positions, put together."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.common.solution import Solution
from .arrays import stack
from .plan import Task


def assemble(
    solutions: Sequence[Solution],
    tasks: Sequence[Task],
    shape: tuple[int, ...],
    names: dict[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """Arrays of all solutions, by their `names`, as "maps" or "replicas".

    Each is of `shape`, with the shape of `names` in front of the elements. Tasks come
    position by position, and tiles row by row.
    """
    factors = by_position(flux_factor, tasks, solutions)
    return {
        name: put_together(
            [array_of(s, name, f) for s, f in zip(solutions, factors, strict=True)],
            tasks,
            (*shape[:-3], *first, *shape[-3:]),
            np.block,
        )
        for name, first in names.items()
    }


def by_position(
    function: Callable, tasks: Sequence[Task], solutions: Sequence[Any]
) -> list:
    """``function(flux, solutions)`` of all tiles of an image, for each of its tasks.

    None for images without a locked flux.
    """
    images: dict[tuple[int, ...], list] = {}
    for task, solution in zip(tasks, solutions, strict=True):
        images.setdefault(task.position, []).append(solution)
    fluxes = {task.position: task.flux for task in tasks}
    known = {
        position: None if flux is None else function(flux, images[position])
        for position, flux in fluxes.items()
    }
    return [known[task.position] for task in tasks]


def flux_factor(flux: np.ndarray, solutions: Sequence[Solution]) -> np.ndarray:
    """Factor with which the maps of all tiles sum up to the flux of the image.

    In a second row that of the unshared maps, if there are any.
    """
    total = np.sum([np.asarray(s.sums) for s in solutions], axis=0)
    known = (total > 0) & np.isfinite(flux)
    return np.where(known, flux, 1) / np.where(known, total, 1)


def array_of(solution: Solution, name: str, factor: np.ndarray | None) -> Any:
    """An array of a solution, maps and replicas times the factors of their image."""
    array = getattr(solution, name)
    if factor is None or name == "variance":
        return array
    if factor.ndim > 1:
        factor = factor[int(name == "unshared")]
    return array * factor.astype(np.float32)[:, None, None]


def put_together(
    arrays: Sequence[Any], tasks: Sequence[Task], shape: tuple[int, ...], block: Any
) -> Any:
    """Arrays of tasks as one array; `block` joins tiles, as :func:`numpy.block`."""
    if len(arrays) == 1:  # no copy
        return arrays[0].reshape(shape)
    images: dict[tuple[int, ...], dict[int, list]] = {}
    for array, task in zip(arrays, tasks, strict=True):
        row = 0 if task.tile is None else task.tile.rows.start
        images.setdefault(task.position, {}).setdefault(row, []).append(array)
    joined = [block([list(row) for row in rows.values()]) for rows in images.values()]
    if len(shape) == len(joined[0].shape):
        return joined[0]
    return stack(joined, axis=0).reshape(shape)
