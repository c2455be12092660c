"""The only room that knows dask: positions of a series, tiles with a halo.

What is to be solved is listed as :class:`Task`s, each of which cuts its arrays out of
lazy or plain ones. :func:`solve_now` runs them all, :func:`solve_later` makes lazy maps
of them, of which none is solved twice.
"""

import pickle
import shutil
import tempfile
import threading
import uuid
import warnings
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import dask
import dask.array as da
import numba
import numpy as np
from dask.callbacks import Callback
from dask.diagnostics import ProgressBar

from .core import calibrated
from .core.calibration import fill
from .core.setting import Totals, representative_tiles, tile_at

__all__ = [
    "HALOS",
    "Pending",
    "Task",
    "assemble",
    "compute",
    "computed",
    "cut",
    "decide",
    "is_lazy",
    "solve_later",
    "solve_now",
    "stack",
    "tiles_of",
]

# Pixels around a tile, by regulariser. What is carried further is about 1e-3 of the
# 99th percentile of a map. With 32 pixels TGV leaves seams of 3e-3 where the weight is
# large, and TV, whose plateaus are wide, of 5e-2.
HALOS = {"tgv": 64, "tv": 128}
LARGEST = 4096  # pixels a side, above which an image is solved by tiles
TILE = 2048  # pixels a side of a tile then
_SMALLEST = 256  # pixels a side of the chunks that are taken for tiles
_LEAST = 32  # pixels a side of a tile that is asked for
_OVERVIEW = 2048  # pixels a side of the overview at most
_LARGEST_FACTOR = 16  # so that the tiles of the sample are whole numbers of its pixels
_SPREAD = 8  # tiles a side of the sample that holds as much vacuum as the image
_SPREAD_TILE = 128  # pixels a side of each


def is_lazy(*arrays):
    """Whether any of some arrays is a dask array."""
    return any(map(dask.is_dask_collection, arrays))


def computed(arrays):
    """The same list or dict of arrays, with NumPy arrays, computed together."""
    return dask.compute(arrays)[0]


def stack(arrays, axis):
    """Stack arrays; lazy if any of them is."""
    return (da if is_lazy(*arrays) else np).stack(arrays, axis=axis)


def cut(array, position, rows=slice(None), columns=slice(None)):
    """The part of an array that one task needs, lazy if the array is."""
    if array is None or array.shape[-2:] == (1, 1):
        return array if array is None else array[position]
    return array[position][..., rows, columns]


# --- tiles ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A tile of an image, and the pixels around it that are solved with it.

    Attributes
    ----------
    rows, columns : slice
        The tile, pixels of the image.
    outer : tuple of slice
        Rows and columns with the halo.
    """

    rows: slice
    columns: slice
    outer: tuple

    @classmethod
    def of(cls, rows, columns, sizes, halo):
        """With its halo, as far as an image of these sizes goes."""
        outer = tuple(
            slice(max(span.start - halo, 0), min(span.stop + halo, size))
            for span, size in zip((rows, columns), sizes, strict=True)
        )
        return cls(rows=rows, columns=columns, outer=outer)

    @property
    def inner(self):
        """Rows and columns of the tile within what is solved."""
        return tuple(
            slice(own.start - outer.start, own.stop - outer.start)
            for own, outer in zip((self.rows, self.columns), self.outer, strict=True)
        )


def tiles_of(array, tile_size=None, halo=HALOS["tgv"]):
    """Cut an image into tiles.

    Parameters
    ----------
    array : numpy.ndarray or dask.array.Array
        Whose last two axes are the image.
    tile_size : int, optional
        Pixels a side. By default the chunks of the image, of which small ones are put
        together; an image of one chunk is one tile, unless it is larger than 4096
        pixels a side.
    halo : int
        Pixels around each tile.

    Returns
    -------
    list of list of Tile, or None
        Row by row; None if the image is solved as a whole.

    Raises
    ------
    ValueError
        If `tile_size` is below 32.
    """
    sizes = array.shape[-2:]
    if tile_size is not None:
        if tile_size < _LEAST:
            raise ValueError(
                f"tile_size is {tile_size}: expected at least {_LEAST} pixels, since "
                f"{halo} around each tile are solved in addition"
            )
        edges = [[*range(0, size, tile_size), size] for size in sizes]
    else:
        chunks = array.chunks[-2:] if is_lazy(array) else [(size,) for size in sizes]
        edges = [_edges(sizes) for sizes in chunks]
    if all(len(along) == 2 for along in edges):
        return None

    return [
        [
            Tile.of(slice(*rows), slice(*columns), sizes, halo)
            for columns in pairwise(edges[1])
        ]
        for rows in pairwise(edges[0])
    ]


def _edges(chunks):
    """Edges of tiles along one axis: those of chunks, neither too small nor large."""
    size = sum(chunks)
    edges = [0]
    for edge in np.cumsum(chunks).tolist():
        if edge - edges[-1] >= _SMALLEST or edge == size:
            edges.append(edge)
    if len(edges) > 2 and edges[-1] - edges[-2] < _SMALLEST:
        del edges[-2]
    if len(edges) == 2 and size <= LARGEST:
        return edges
    fine = [0]
    for start, stop in pairwise(edges):
        n = -(-(stop - start) // TILE)
        fine += [start + (stop - start) * (k + 1) // n for k in range(n)]
    return fine


# --- what is global about a tiled image -----------------------------------------


def decide(inputs, position, options, *, check=None, **chemistry):
    """Find out all that the tiles of an image have in common.

    Parameters
    ----------
    inputs : dict
        Arrays by the names that the core has for them, each of shape ``navigation +
        (..., y, x)``, or None.
    position : tuple of int
        Of the image in the series.
    options : CalibratedOptions
        The options.
    check : callable, optional
        ``check([*maps, haadf])`` of their means over large pixels raises an error if
        these are no images.
    **chemistry
        `atomic_numbers` and `sensitivities`, as for the core.

    Returns
    -------
    decision : Decision
        From a sample of the image.
    prior : numpy.ndarray
        Expected coefficients.
    flux : numpy.ndarray or None
        What the maps of all tiles sum up to, in their units, shape ``(n_elements,)``;
        None if that is not locked.
    """
    arrays = {
        name: None if array is None else da.asarray(cut(array, position))
        for name, array in inputs.items()
    }
    maps = arrays["maps"]
    size = np.array(maps.shape[-2:])
    factor = 2
    while max(size) > factor * _OVERVIEW and factor < _LARGEST_FACTOR:
        factor *= 2
    means = {name: _means(array, factor) for name, array in arrays.items()}
    found, lowest, infinite = dask.compute(
        means, da.nanmin(maps), [da.isinf(arrays[n]).sum() for n in ("maps", "haadf")]
    )
    for name, n in zip(("maps", "HAADF image"), infinite, strict=True):
        if n:
            raise ValueError(
                f"{n} pixels of the {name} are infinite: expected finite values, or "
                "NaN where they are missing"
            )
    if check is not None:
        check([*found["maps"], found["haadf"]])
    # as many pixels of the image in each of the large ones, but at its far edges
    shares = [np.minimum(factor, n - factor * np.arange(-(-n // factor))) for n in size]
    area = np.outer(*shares)
    filled = fill(found["maps"])
    totals = Totals(
        mean=(filled * area).sum(axis=(1, 2)) / area.sum(),
        negative=bool(lowest < 0),
        pixels=int(area.sum()),
    )
    # whole large pixels only: a tile must not reach beyond the image
    whole = [slice(n // factor) for n in size]
    corners = representative_tiles(found["maps"][(slice(None), *whole)], factor)
    sample = computed({name: _mosaic(a, corners) for name, a in arrays.items()})
    decision, prior = calibrated.decide_on_sample(
        **sample, totals=totals, options=options, **chemistry
    )
    if not options.lock_flux:
        return decision, prior, None
    coarse = calibrated.overview(
        **found, factor=factor, decision=decision, options=options
    )
    net = (filled - found["background"]) * area
    flux = np.maximum(net.sum(axis=(1, 2)), 0)
    sample = _spread(size.tolist(), HALOS[options.regularizer])
    sums = sum(_integral(coarse, factor, tile) for tile in sample)
    parts = [
        {name: cut(a, (), *tile.outer) for name, a in arrays.items()} for tile in sample
    ]
    price = calibrated.flux_price(
        computed(parts), [tile.inner for tile in sample], sums, decision, options
    )
    return replace(decision, price=price), prior, flux


def _spread(sizes, halo):
    """Tiles that are spread evenly over an image; all of it if it is small."""
    spans = []
    for size in sizes:
        tile = min(_SPREAD_TILE, size)
        starts = np.linspace(0, size - tile, min(_SPREAD, -(-size // tile)))
        spans.append([slice(y, y + tile) for y in starts.astype(int).tolist()])
    rows, columns = spans
    return [Tile.of(r, c, sizes, halo) for r in rows for c in columns]


def _integral(coarse, factor, tile):
    """Sum of the maps in a tile, from their means over large pixels."""
    weights = []
    for span, n in zip((tile.rows, tile.columns), coarse.shape[1:], strict=True):
        start = factor * np.arange(n)
        stop = np.minimum(span.stop, start + factor)
        weights.append(np.clip(stop - np.maximum(span.start, start), 0, None))
    return np.einsum("iyx,y,x->i", coarse, *weights, dtype=np.float64)


def _means(array, factor):
    """Means over squares of pixels, without the missing ones; lazy."""
    if array is None or array.shape[-2:] == (1, 1):
        return array
    missing = [(0, 0)] * (array.ndim - 2) + [(0, -n % factor) for n in array.shape[-2:]]
    array = da.pad(array.astype(np.float32), missing, constant_values=np.nan)
    axes = {array.ndim - 2: factor, array.ndim - 1: factor}
    return da.coarsen(_known_mean, array, axes)


def _known_mean(block, axis=None):
    known = np.isfinite(block)
    with np.errstate(invalid="ignore"):  # NaN where nothing is known
        return np.where(known, block, 0).sum(axis=axis, dtype=np.float64) / known.sum(
            axis=axis
        )


def _mosaic(array, corners):
    if array is None or corners is None or array.shape[-2:] == (1, 1):
        return array
    rows = [
        da.concatenate([tile_at(array, corner) for corner in row], -1)
        for row in corners
    ]
    return da.concatenate(rows, axis=-2)


# --- solving --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task:
    """One solve: an image of a series, or a tile of one.

    Attributes
    ----------
    position : tuple of int
        Of the image in the series.
    tile : Tile or None
        Of the image; None for all of it.
    solve : callable
        ``solve(**inputs, num_workers=..., callback=...)`` returns a
        :class:`~hyperspy_fusion.core.solver.Solution`.
    inputs : dict
        Arrays that it takes, each lazy, plain or None.
    flux : numpy.ndarray or None
        What the maps of all tiles of the image are to sum up to, shape
        ``(n_elements,)``.
    """

    position: tuple
    tile: Tile | None
    solve: object
    inputs: dict
    flux: np.ndarray | None = None

    @classmethod
    def of(cls, solve, arrays, position, tile=None, flux=None):
        """Cut what a task takes out of arrays of shape ``navigation + (..., y, x)``."""
        outer = () if tile is None else tile.outer
        inputs = {name: cut(a, position, *outer) for name, a in arrays.items()}
        return cls(position=position, tile=tile, solve=solve, inputs=inputs, flux=flux)

    @property
    def pixels(self):
        """Number of pixels that come out."""
        if self.tile is None:
            return self.inputs["haadf"].size
        rows, columns = self.tile.rows, self.tile.columns
        return (rows.stop - rows.start) * (columns.stop - columns.start)


def _client():
    """The client of dask.distributed that is active, if any."""
    try:
        from distributed import default_client  # noqa: PLC0415 - optional
    except ImportError:
        return None
    try:
        return default_client()
    except ValueError:
        return None


def _threads_each(n_tasks, num_workers=None):
    """Threads of each of some tasks that run side by side."""
    if num_workers is None:
        num_workers = numba.config.NUMBA_NUM_THREADS
    return max(num_workers // n_tasks, 1)


def _solve(solve, names, arrays, options):
    return solve(**dict(zip(names, arrays, strict=True)), **options)


def _delayed(task, function, *extra, **options):
    """The task for dask, whose arrays travel as such."""
    arrays = [
        array.rechunk(array.shape).to_delayed().item() if is_lazy(array) else array
        for array in task.inputs.values()
    ]
    call = dask.delayed(function, pure=False, traverse=False)
    names = tuple(task.inputs)
    return call(*extra, task.solve, names, arrays, options)


def solve_now(tasks, progress, num_workers=None):
    """Solve all tasks: a single one with all threads, several side by side.

    Where a client of dask.distributed is active, its workers solve them.

    Parameters
    ----------
    tasks : list of Task
        What to solve.
    progress : Progress
        Told of each that is done.
    num_workers : int, optional
        Number of threads in all; by default Numba's setting. A
        ``dask.distributed`` client has its own.

    Returns
    -------
    list of Solution
    """
    client = _client()
    if len(tasks) == 1 and not is_lazy(*tasks[0].inputs.values()):
        task = tasks[0]
        found = task.solve(**task.inputs, num_workers=num_workers, callback=progress)
        progress.next_image()
        return [found]
    if client is not None:
        from distributed import as_completed  # noqa: PLC0415 - optional

        futures = client.compute(
            [_delayed(task, _solve, num_workers=1) for task in tasks]
        )
        for _ in as_completed(futures):
            progress.next_image()
        return client.gather(futures)
    threads = num_workers or numba.config.NUMBA_NUM_THREADS
    stop = threading.Event()

    def callback(*_):
        if stop.is_set():
            raise KeyboardInterrupt

    options = {"num_workers": _threads_each(len(tasks), threads)}
    if dask.config.get("scheduler", None) is None:  # threads, which share the event
        options["callback"] = callback

    def told(key, *_):
        if str(key).startswith(_solve.__name__):
            progress.next_image()

    with Callback(posttask=told):
        try:
            delayed = [_delayed(task, _solve, **options) for task in tasks]
            return dask.compute(*delayed, num_workers=threads)
        except BaseException:
            stop.set()  # threads that are at work end with their iteration
            raise


# --- solving later ---------------------------------------------------------------


class Spool:
    """A temporary folder of solutions, so that no map makes dask solve again.

    Dask forgets what it computed: three maps that are saved one by one would each
    solve everything. The folder is in dask's ``temporary-directory``, and goes with
    the last lazy array that needs it.
    """

    def __init__(self):
        folder = dask.config.get("temporary-directory", None)
        self.path = Path(tempfile.mkdtemp(prefix="hyperspy_fusion-", dir=folder))
        # not of a copy, which a worker has
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def __deepcopy__(self, _):
        return self

    def load(self, key):
        """The solution of a key, with maps that are read when they are looked at."""
        numbers = self.path / f"{key}.pickle"
        if not numbers.exists():
            return None
        solution = pickle.loads(numbers.read_bytes())  # noqa: S301 - our own
        arrays = {
            name: np.asarray(np.load(path, mmap_mode="r"))
            for name in ("maps", "variance")
            if (path := self.path / f"{key}-{name}.npy").exists()
        }
        return replace(solution, **arrays)

    def save(self, key, solution):
        """Keep a solution."""
        if not self.path.is_dir():
            _warn(
                f"a worker does not see the folder {self.path} that keeps what was "
                "solved: maps that are computed or saved one by one are solved anew "
                "each time. Set dask's temporary-directory to a folder that all "
                "workers share, or save hs.stack(maps) at once"
            )
            return
        for name in ("maps", "variance"):
            if getattr(solution, name) is not None:
                np.save(self.path / f"{key}-{name}.npy", getattr(solution, name))
        part = self.path / f"{key}-{uuid.uuid4().hex}.part"
        part.write_bytes(pickle.dumps(replace(solution, maps=None, variance=None)))
        part.replace(self.path / f"{key}.pickle")  # last: the arrays are complete


def _warn(message):
    """Warn the user, who may be at another machine."""
    try:
        from distributed import get_worker, warn  # noqa: PLC0415 - optional

        get_worker()
    except (ImportError, ValueError):
        warnings.warn(message, UserWarning, stacklevel=2)
    else:
        warn(message)


def _solve_once(spool, key, *arguments):
    solution = spool.load(key)
    if solution is None:
        solution = _solve(*arguments)
        spool.save(key, solution)
        # not in memory any more, unless there is no folder
        solution = spool.load(key) or solution
    return solution


class Pending(bytes):
    """What will be known of a fusion once its maps are computed.

    It stands in metadata. All files take bytes: also with a signal that is no longer
    an elemental map, which does not know how to complete its record.

    Attributes
    ----------
    found : dask.array.Array
        All that is to be known, one object. An array like the maps: dask shares no
        work with what is none.
    shape : tuple of int
        Of each of the maps.
    """

    @classmethod
    def of(cls, found, shape):
        """What an array will hold, of maps of a shape."""
        self = cls(b"known once the maps are computed")
        self.found, self.shape = found, tuple(shape)
        return self

    def __str__(self):
        return self.decode()

    __repr__ = __str__

    def __deepcopy__(self, _):
        return self

    def entry(self, name, shape):
        """A lazy array of a number that is to be known, filled up with NaN."""
        box = self.found.to_delayed().item()
        array = dask.delayed(_filled_up, pure=True)(box, name, shape)
        return da.from_delayed(array, shape, dtype=np.float64)


def _filled_up(box, name, shape):
    value, *_ = box.item()
    for part in name.split("."):
        value = value.get(part, np.nan)
    out = np.full(shape, np.nan)
    out[tuple(map(slice, np.shape(value)))] = value
    return out


def solve_later(tasks, shape, conclude, names):
    """Lazy maps of tasks that are solved when they are needed, and only once.

    Parameters
    ----------
    tasks : list of Task
        What to solve: of each position all tiles, row by row.
    shape : tuple of int
        Of the maps of all elements, ``navigation + (n_elements, y, x)``.
    conclude : callable
        ``conclude(solutions)`` says what is to be known, from solutions without maps.
    names : tuple of str
        Of ``"maps"`` and ``"variance"`` those that are wanted.

    Returns
    -------
    arrays : dict of str to dask.array.Array
        Of that shape.
    pending : Pending
        What `conclude` will say.
    """
    spool = Spool()
    n = _threads_each(len(tasks))
    solved = [
        _delayed(task, _solve_once, spool, f"{k}", num_workers=n)
        for k, task in enumerate(tasks)
    ]
    numbers = [dask.delayed(_without_maps, pure=True)(solution) for solution in solved]
    factors = _by_position(dask.delayed(_factor, pure=True), tasks, numbers)
    arrays = {
        name: _assemble(
            [
                da.from_delayed(
                    dask.delayed(_array, pure=True)(solution, name, factor),
                    _shape_of(task, shape),
                    dtype=np.float32,
                )
                for task, solution, factor in zip(tasks, solved, factors, strict=True)
            ],
            tasks,
            shape,
            da.block,
        )
        for name in names
    }
    found = dask.delayed(_boxed, pure=True)(conclude, numbers)
    found = da.from_delayed(found, (), dtype=object, meta=np.empty((), object))
    return arrays, Pending.of(found, (*shape[:-3], *shape[-2:]))


def _boxed(conclude, numbers):
    box = np.empty((), dtype=object)
    box[()] = conclude(numbers)
    return box


def _without_maps(solution):
    return replace(solution, maps=None, variance=None)


def _by_position(function, tasks, solutions):
    """``function(flux, solutions)`` of all tiles of an image, for each of its tasks.

    None for those without a flux.
    """
    images = {}
    for task, solution in zip(tasks, solutions, strict=True):
        images.setdefault(task.position, []).append(solution)
    fluxes = {task.position: task.flux for task in tasks}
    known = {
        position: None if flux is None else function(flux, images[position])
        for position, flux in fluxes.items()
    }
    return [known[task.position] for task in tasks]


def _factor(flux, solutions):
    """What makes the maps of all tiles sum up to the flux of the image."""
    total = np.sum([solution.sums for solution in solutions], axis=0)
    return np.where(total > 0, flux / np.where(total > 0, total, 1), 1)


def _array(solution, name, factor):
    """An array of a solution, the maps with the factor of their image."""
    array = getattr(solution, name)
    if factor is None or name != "maps":
        return array
    return array * factor.astype(np.float32)[:, None, None]


def _shape_of(task, shape):
    if task.tile is None:
        return shape[-3:]
    rows, columns = task.tile.rows, task.tile.columns
    return shape[-3], rows.stop - rows.start, columns.stop - columns.start


def assemble(solutions, tasks, shape, names):
    """Put what was solved together.

    Parameters
    ----------
    solutions : list of Solution
        Of the tasks.
    tasks, shape, names
        As for :func:`solve_later`.

    Returns
    -------
    dict of str to numpy.ndarray
    """
    factors = _by_position(_factor, tasks, solutions)
    return {
        name: _assemble(
            [_array(s, name, f) for s, f in zip(solutions, factors, strict=True)],
            tasks,
            shape,
            np.block,
        )
        for name in names
    }


def _assemble(arrays, tasks, shape, block):
    if len(arrays) == 1:  # no copy
        return arrays[0].reshape(shape)
    images = {}
    for array, task in zip(arrays, tasks, strict=True):
        row = 0 if task.tile is None else task.tile.rows.start
        images.setdefault(task.position, {}).setdefault(row, []).append(array)
    images = [block([list(row) for row in rows.values()]) for rows in images.values()]
    if len(shape) == len(images[0].shape):
        return images[0]
    return (da if is_lazy(*images) else np).stack(images).reshape(shape)


def compute(arrays, show_progressbar=None, **kwargs):
    """Compute lazy arrays, and what is pending, together; with a progress bar.

    Parameters
    ----------
    arrays : list
        Of dask collections.
    show_progressbar : bool
        Whether there is a bar.
    **kwargs
        For :func:`dask.compute`.

    Returns
    -------
    list
        Of what they are.
    """
    client = _client() if "scheduler" not in kwargs else None
    if client is None:
        with ProgressBar() if show_progressbar else nullcontext():
            return list(dask.compute(*arrays, **kwargs))
    from distributed import progress  # noqa: PLC0415 - optional

    futures = client.compute(arrays)
    if show_progressbar:
        progress(futures, notebook=False)
        print()  # noqa: T201 - ends the line of the bar
    return client.gather(futures)
