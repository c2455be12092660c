"""Lazy arrays: recognise them, and compute several together."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask._task_spec import GraphNode
from dask.diagnostics import ProgressBar

_SLAB = 2**22  # values of spectra that are float32 at the same time, in a thread


def is_lazy(*arrays: Any) -> bool:
    """Whether any of the arrays is a dask array."""
    return any(map(dask.is_dask_collection, arrays))


def is_masked(array: Any) -> bool:
    """Whether an array, lazy or not, is one that has a mask."""
    return isinstance(getattr(array, "_meta", array), np.ma.MaskedArray)


def unmasked(array: Any) -> Any:
    """A masked array as floats, NaN where it is masked; other arrays as they are."""
    if is_masked(array):
        filled = da.ma.filled if is_lazy(array) else np.ma.filled
        return filled(array.astype(float), np.nan)
    return array


def computed(arrays: Any) -> Any:
    """The same list or dict, with lazy arrays computed together."""
    return dask.compute(arrays)[0]


def files_read(array: Any) -> set[str]:
    """Paths of the files that a lazy array reads when it is computed."""
    found = set()
    waiting: list[Any] = [dict(array.__dask_graph__())] if is_lazy(array) else []
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += node.values()
        elif isinstance(node, list | tuple):
            waiting += node
        elif isinstance(node, GraphNode):  # a task, or what it is given
            waiting += [getattr(node, n, None) for n in ("args", "kwargs", "value")]
        for names in (("file", "filename"), ("store", "path"), ("filename",)):
            path: Any = node
            for name in names:  # of HDF5, Zarr, and memory maps
                path = getattr(path, name, None)
            if isinstance(path, str):
                found.add(os.path.realpath(path))
    return found


def stack(arrays: Sequence[Any], axis: int) -> Any:
    """Stack arrays; lazy if any of them is."""
    return (da if is_lazy(*arrays) else np).stack(arrays, axis=axis)


def sum_of_spectra(spectra: Any, place: int, left_out: Any = None) -> np.ndarray:
    """Sum of spectra over all pixels but those that are left out, float64.

    `place` is the axis of the channels, `left_out` True for pixels that do not count.
    Lazy spectra are read chunk by chunk.
    """
    others = tuple(k for k in range(spectra.ndim) if k != place)
    if left_out is None:
        total = spectra.sum(axis=others, dtype=np.float64)
    else:
        shape = spectra.shape[:place] + spectra.shape[place + 1 :]
        left_out = np.expand_dims(np.broadcast_to(left_out, shape), place)
        if is_lazy(spectra):
            kept = da.where(left_out, 0, spectra)
            total = kept.sum(axis=others, dtype=np.float64)
        else:
            total = spectra.sum(axis=others, dtype=np.float64, where=~left_out)
    return computed([total])[0]


def sums_of_channels(spectra: Any, matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """``spectra @ matrix`` in float32, and the lowest value of the spectra.

    Lazy spectra are read once, chunk by chunk, and never are in memory as a whole.
    """
    matrix = np.asarray(matrix, dtype=np.float32)
    if not is_lazy(spectra):
        return _products(spectra, matrix)[..., 0, :], float(spectra.min())
    parts = da.from_array(matrix, chunks=(spectra.chunks[-1], -1))
    *places, channel, column = range(spectra.ndim + 1)
    products = da.blockwise(
        _products,
        (*places, channel, column),
        spectra,
        (*places, channel),
        parts,
        (channel, column),
        adjust_chunks={channel: 1},
        meta=np.empty(0, np.float32),
    )
    sums = products.sum(axis=channel, split_every=2)
    sums, lowest = computed([sums, spectra.min()])
    return sums, float(lowest)


def _products(spectra: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``spectra @ matrix`` of a chunk, with an axis for the chunks of channels.

    Some rows at a time: in float32, a chunk may be four times as large as it is.
    """
    *series, height, width, n_channels = spectra.shape
    found = np.empty((*spectra.shape[:-1], 1, matrix.shape[1]), dtype=np.float32)
    step = max(_SLAB // (width * n_channels), 1)
    for place in np.ndindex(*series):
        for y in range(0, height, step):
            rows = spectra[place][y : y + step].astype(np.float32)
            sums = rows.reshape(-1, n_channels) @ matrix
            found[place][y : y + step, :, 0] = sums.reshape(*rows.shape[:-1], -1)
    return found


def active_client() -> Any:
    """The active client of ``dask.distributed``, or None."""
    try:
        from distributed import default_client  # noqa: PLC0415 - optional
    except ImportError:
        return None
    try:
        return default_client()
    except ValueError:
        return None


def gathered(
    client: Any,
    futures: list,
    each: Callable[[], Any] | None = None,
    *,
    show_progressbar: bool | None = False,
) -> Sequence[Any]:
    """Results of futures; an error or Ctrl-C cancels those that are not done.

    ``each()`` is called whenever one is done; `show_progressbar` shows dask's bar.
    """
    from distributed import as_completed, progress  # noqa: PLC0415 - optional

    try:
        if show_progressbar:
            progress(futures, notebook=False)
            print()  # noqa: T201 - ends the line of the bar
        for future in as_completed(futures):
            if future.status == "error":
                future.result()  # raises it; gather would wait for all others
            if each is not None:
                each()
        return client.gather(futures)
    except BaseException:
        with suppress(OSError):  # of a scheduler that is gone
            _cancel(client, futures)
        raise


def _cancel(client: Any, futures: Sequence[Any]) -> None:
    """Cancel futures, once their tasks have arrived at the scheduler."""
    keys = [future.key for future in futures]
    end = time.monotonic() + 10
    while not client.run_on_scheduler(_knows, keys) and time.monotonic() < end:
        time.sleep(0.05)
    client.cancel(futures)


def _knows(keys: Sequence[Any], dask_scheduler: Any) -> bool:
    return all(key in dask_scheduler.tasks for key in keys)


def compute(
    arrays: Sequence[Any], *, show_progressbar: bool | None = None, **kwargs: Any
) -> list:
    """Values of dask collections, computed together by :func:`dask.compute`."""
    client = active_client() if "scheduler" not in kwargs else None
    if client is None:
        with ProgressBar() if show_progressbar else nullcontext():
            return list(dask.compute(*arrays, **kwargs))
    futures = client.compute(list(arrays))
    return list(gathered(client, futures, show_progressbar=show_progressbar))


def map_images(function: Callable, *arrays: Any) -> Any:
    """Apply a function of images at each position of a series.

    It takes an image of shape ``(y, x)`` from each of the arrays, of shape
    ``navigation + (y, x)``, and returns an image of that shape. The result is of float,
    lazy if an array is.
    """
    if is_lazy(*arrays):
        return da.map_blocks(
            partial(map_images, function),
            *(da.asarray(array).rechunk({-2: -1, -1: -1}) for array in arrays),
            dtype=float,
            meta=np.empty((0,) * arrays[0].ndim),
        )
    out = np.empty(arrays[0].shape)
    for position in np.ndindex(out.shape[:-2]):
        out[position] = function(*(array[position] for array in arrays))
    return out
