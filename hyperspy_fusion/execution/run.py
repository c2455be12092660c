"""Plan -> solutions: tasks are solved now, side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import dask
import numba
from dask.callbacks import Callback

from ..core.common.solution import Solution
from .arrays import active_client, gathered, is_lazy
from .plan import Task

if TYPE_CHECKING:
    from ..progress import Progress


def threads_each(n_tasks: int, num_workers: int | None = None) -> int:
    """Threads for each of some tasks that run side by side."""
    return max((num_workers or numba.config.NUMBA_NUM_THREADS) // n_tasks, 1)


def solve_task(
    solve: Callable, names: Sequence[str], arrays: Sequence, options: dict[str, Any]
) -> Solution:
    """Solve a task whose arrays dask has computed."""
    return solve(**dict(zip(names, arrays, strict=True)), **options)


def delayed_task(task: Task, function: Callable, *extra: Any, **options: Any) -> Any:
    """A task for dask: ``function(*extra, solve, names, arrays, options)``."""
    arrays = [
        array.rechunk(array.shape).to_delayed().item() if is_lazy(array) else array
        for array in task.inputs.values()
    ]
    call = dask.delayed(function, pure=False, traverse=False)
    return call(*extra, task.solve, tuple(task.inputs), arrays, options)


def solve_now(
    tasks: Sequence[Task], progress: Progress, num_workers: int | None = None
) -> Sequence[Solution]:
    """Solve all tasks: a single one with all threads, several side by side.

    The workers of an active client of ``dask.distributed`` solve them if there is one,
    with its own number of threads. `progress` is called when a task is done.
    """
    if len(tasks) == 1 and not is_lazy(*tasks[0].inputs.values()):
        task = tasks[0]
        found = task.solve(**task.inputs, num_workers=num_workers, callback=progress)
        progress.next_image()
        return [found]
    client = active_client()
    if client is None:
        return _solve_on_threads(tasks, progress, num_workers)
    delayed = [delayed_task(task, solve_task, num_workers=1) for task in tasks]
    return gathered(client, client.compute(delayed), progress.next_image)


def _solve_on_threads(
    tasks: Sequence[Task], progress: Progress, num_workers: int | None
) -> Sequence[Solution]:
    stop = threading.Event()

    def end_when_stopped(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    def count_task(key: Any, *_: Any) -> None:
        if str(key).startswith(solve_task.__name__):
            progress.next_image()

    options: dict[str, Any] = {"num_workers": threads_each(len(tasks), num_workers)}
    if dask.config.get("scheduler", None) is None:  # threads share the event
        options["callback"] = end_when_stopped
    delayed = [delayed_task(task, solve_task, **options) for task in tasks]
    with Callback(posttask=count_task):
        try:
            n_threads = num_workers or numba.config.NUMBA_NUM_THREADS
            return dask.compute(*delayed, num_workers=n_threads)
        except BaseException:
            stop.set()  # threads end after their iteration
            raise
