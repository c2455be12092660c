"""Plan -> lazy maps: tasks are solved when their maps are computed, and only once."""

import errno
import logging
import os
import pickle
import shutil
import tempfile
import threading
import uuid
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np

from ..core.common.solution import Solution
from .assembly import array_of, by_position, flux_factor, put_together
from .plan import Task
from .run import delayed_task, solve_task, threads_each

_logger = logging.getLogger(__name__)
_ARRAYS = "maps", "variance", "replicas", "unshared"
# Locks of all spools of a process by folder and key: copies of a spool share them.
_locks: dict[Path, threading.Lock] = {}
if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads that would release them.
    os.register_at_fork(after_in_child=_locks.clear)


class Spool:
    """A temporary folder of solutions, so that each task is solved only once.

    Dask forgets what it computed: three maps that are saved one by one would each
    solve everything. The folder is in dask's ``temporary-directory``, and is removed
    with the last lazy array that needs it.

    Files are written beside their final name and renamed, so that none is read half
    written, and none changes while another thread or process has it mapped.
    """

    def __init__(self) -> None:
        folder = dask.config.get("temporary-directory", None)
        self.path = Path(tempfile.mkdtemp(prefix="hyperspy_fusion-", dir=folder))
        # but not with a copy at a worker
        weakref.finalize(self, _remove, self.path, os.getpid())

    def __deepcopy__(self, _: Any) -> "Spool":
        return self

    def lock(self, key: str) -> threading.Lock:
        """The lock of a key, shared by all copies of the spool in a process."""
        return _locks.setdefault(self.path / key, threading.Lock())

    def load(self, key: str) -> Solution | None:
        """The solution of a key, its maps memory-mapped; None if missing or damaged."""
        try:
            numbers = (self.path / f"{key}.pickle").read_bytes()
            solution, names = pickle.loads(numbers)  # noqa: S301 - our own
            arrays = {
                name: np.asarray(np.load(self.path / f"{key}-{name}.npy", "r"))
                for name in names
            }
        except FileNotFoundError:
            return None
        except Exception:  # noqa: BLE001 - unpickling damaged files raises anything
            _logger.info("the solution %s is damaged: it is solved again", key)
            return None
        return replace(solution, **arrays)

    def save(self, key: str, solution: Solution) -> None:
        """Keep a solution; warn if the folder is missing or the disk is full."""
        if not self.path.is_dir():
            _warn(
                f"a worker has no access to the folder {self.path} for solutions: maps "
                "that are computed or saved one by one are solved again each time. Set "
                "dask's temporary-directory to a folder that all workers share, or "
                "save hs.stack(maps) at once"
            )
            return
        arrays = {n: a for n in _ARRAYS if (a := getattr(solution, n)) is not None}
        numbers = _without_maps(solution)
        try:
            for name, array in arrays.items():
                self._write(f"{key}-{name}.npy", lambda f, a=array: np.save(f, a))
            # last: its presence says that the arrays are complete
            content = pickle.dumps((numbers, tuple(arrays)))
            self._write(f"{key}.pickle", lambda file: file.write(content))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            _warn(
                f"the folder {self.path} for solutions is full: maps that are "
                "computed or saved one by one are solved again each time. Free some "
                "space, set dask's temporary-directory to another folder before the "
                "fusion, or save hs.stack(maps) at once"
            )

    def _write(self, name: str, write: Callable) -> None:
        part = self.path / f"{name}-{uuid.uuid4().hex}.part"
        try:
            with part.open("wb") as file:
                write(file)
            part.replace(self.path / name)
        except PermissionError:
            # Windows cannot replace a mapped file; that one holds the same.
            if not (self.path / name).exists():
                raise
        finally:
            part.unlink(missing_ok=True)


def _remove(path: Path, owner: int) -> None:
    """Remove a folder with its locks, unless this is a forked child."""
    if os.getpid() != owner:
        return
    shutil.rmtree(path, ignore_errors=True)
    for known in list(_locks):  # a copy: other threads may add some
        if known.parent == path:
            _locks.pop(known, None)


def _warn(message: str) -> None:
    """Warn the user, who may be at another machine."""
    try:
        from distributed import get_worker, warn  # noqa: PLC0415 - optional

        get_worker()
    except (ImportError, ValueError):
        warnings.warn(message, UserWarning, stacklevel=2)
    else:
        warn(message)


def _solve_once(spool: Spool, key: str, *arguments: Any) -> Solution:
    with spool.lock(key):
        solution = spool.load(key)
        if solution is None:
            solution = solve_task(*arguments)
            spool.save(key, solution)
            # memory-mapped, which frees the memory
            solution = spool.load(key) or solution
    return solution


class Pending(bytes):
    """The record of a fusion that is not computed yet, as an item of metadata.

    As bytes it can be saved in all formats, also from a signal that is no longer an
    elemental map and cannot complete its record.

    Attributes
    ----------
    found : dask.array.Array
        The record, one object; an array of the maps' graph, so that dask shares the
        work.
    shape : tuple of int
        Of each of the maps.
    """

    found: Any
    shape: tuple[int, ...]

    @classmethod
    def of(cls, found: Any, shape: Sequence[int]) -> "Pending":
        """For maps of a shape."""
        self = cls(b"known once the maps are computed")
        self.found, self.shape = found, tuple(shape)
        return self

    def __str__(self) -> str:
        return self.decode()

    __repr__ = __str__

    def __deepcopy__(self, _: Any) -> "Pending":
        return self

    def entry(self, name: str, shape: tuple[int, ...]) -> Any:
        """A lazy array of a number of the record, padded with NaN."""
        box = self.found.to_delayed().item()
        array = dask.delayed(_filled_up, pure=True)(box, name, shape)
        return da.from_delayed(array, shape, dtype=np.float64)


def _filled_up(box: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    value, *_ = box.item()
    for part in name.split("."):
        value = value.get(part, np.nan)
    out = np.full(shape, np.nan)
    out[tuple(map(slice, np.shape(value)))] = value
    return out


def solve_later(
    tasks: Sequence[Task],
    shape: tuple[int, ...],
    conclude: Callable,
    names: dict[str, tuple[int, ...]],
    num_workers: int | None = None,
) -> tuple[dict[str, Any], Pending]:
    """Lazy arrays of tasks, solved when they are computed, and only once.

    Parameters
    ----------
    tasks : list of Task
        All tiles of each position, row by row.
    shape : tuple of int
        Of the maps of all elements, ``navigation + (n_elements, y, x)``.
    conclude : callable
        ``conclude(solutions)`` makes the record, from solutions without maps.
    names : dict of str to tuple of int
        The arrays, "maps", "variance", "replicas", and the shape that is put in front
        of the elements in each.
    num_workers : int, optional
        Threads of all tasks together; by default Numba's setting.

    Returns
    -------
    arrays : dict of str to dask.array.Array
        By their names, of the shapes that :func:`assemble` gives them.
    pending : Pending
        What `conclude` will return.
    """
    spool = Spool()
    n = threads_each(len(tasks), num_workers)
    solved = [
        delayed_task(task, _solve_once, spool, f"{k}", num_workers=n)
        for k, task in enumerate(tasks)
    ]
    numbers = [dask.delayed(_without_maps, pure=True)(solution) for solution in solved]
    factors = by_position(dask.delayed(flux_factor, pure=True), tasks, numbers)

    def lazy_array(task: Task, solution: Any, factor: Any, name: str) -> Any:
        array = dask.delayed(array_of, pure=True)(solution, name, factor)
        own = *names[name], shape[-3], *task.size
        return da.from_delayed(array, own, dtype=np.float32)

    arrays = {
        name: put_together(
            [
                lazy_array(*each, name)
                for each in zip(tasks, solved, factors, strict=True)
            ],
            tasks,
            (*shape[:-3], *first, *shape[-3:]),
            da.block,
        )
        for name, first in names.items()
    }
    found = dask.delayed(_boxed, pure=True)(conclude, numbers)
    found = da.from_delayed(found, (), dtype=object, meta=np.empty((), object))
    return arrays, Pending.of(found, (*shape[:-3], *shape[-2:]))


def _boxed(conclude: Callable, numbers: Sequence[Solution]) -> np.ndarray:
    box = np.empty((), dtype=object)
    box[()] = conclude(numbers)
    return box


def _without_maps(solution: Solution) -> Solution:
    nothing: dict[str, Any] = dict.fromkeys(_ARRAYS)
    return replace(solution, **nothing)
