"""Measurement -> plan: a list of tasks, one for each image or tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..core.calibrated import method as calibrated
from ..core.calibrated import parts, series
from ..core.calibrated.given import Chemistry, Pixels
from ..core.calibrated.preview import Preview
from ..core.common.options import Options, choice, flag, whole_number
from ..core.common.solution import Solution
from ..core.published import method as published
from .arrays import computed
from .overview import decide_for_tiles, images_moved_back
from .tiles import HALOS, SMALLEST_TILE, Tile, cut, tiles_of

if TYPE_CHECKING:
    from ..inputs.measurement import Measurement

_SHARING = 3  # images of a series from which common weights are chosen


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(Options):
    """Options of the execution; :func:`~hyperspy_fusion.fuse_multimodal` has them."""

    weights: str = choice("per position", Literal["per position", "shared"])
    tile_size: int | None = whole_number(
        None,
        least=SMALLEST_TILE,
        instead="None",
        remark="the pixels around each tile are solved in addition",
    )
    lazy_output: bool | None = flag(None, instead="None")
    show_progressbar: bool | None = flag(None, instead="None")
    num_workers: int | None = whole_number(None, least=1, instead="None")
    interactive: bool = flag(False)  # noqa: FBT003 - the default


@dataclass(frozen=True, kw_only=True)
class Task:
    """One image of a series to solve, or one tile of it.

    Attributes
    ----------
    position : tuple of int
        Of the image in the series.
    tile : Tile or None
        Of the image; None for all of it.
    solve : callable
        ``solve(**inputs, num_workers=..., callback=...)`` returns a
        :class:`~hyperspy_fusion.core.common.solution.Solution`.
    inputs : dict
        Its arrays, lazy or not, or None.
    flux : numpy.ndarray or None
        Sums of the maps over all measured pixels of the image, in their units, infinite
        where they are not kept, shape ``(n_elements,)``; None if none is.
    """

    position: tuple[int, ...]
    tile: Tile | None
    solve: Callable
    inputs: dict[str, Any]
    flux: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        solve: Callable,
        arrays: dict[str, Any],
        place: tuple[int, ...],
        tile: Tile | None = None,
        flux: np.ndarray | None = None,
        position: tuple[int, ...] | None = None,
    ) -> Task:
        """Cut the inputs at a place of arrays of shape ``navigation + (..., y, x)``.

        That is the position in the series, unless the arrays are those of one position.
        """
        inputs = _inputs_at(arrays, place, tile)
        position = place if position is None else position
        return cls(position=position, tile=tile, solve=solve, inputs=inputs, flux=flux)

    @property
    def size(self) -> tuple[int, int]:
        """Pixels ``(y, x)`` of the result."""
        if self.tile is None:
            return self.inputs["haadf"].shape
        rows, columns = self.tile.rows, self.tile.columns
        return rows.stop - rows.start, columns.stop - columns.start

    @property
    def origin(self) -> tuple[int, int]:
        """First row and column of the result in its image."""
        if self.tile is None:
            return 0, 0
        return self.tile.rows.start, self.tile.columns.start

    @property
    def pixels(self) -> int:
        """Number of pixels of the result."""
        return self.size[0] * self.size[1]


def _inputs_at(
    arrays: dict[str, Any], position: tuple[int, ...], tile: Tile | None = None
) -> dict[str, Any]:
    outer = () if tile is None else tile.outer
    return {name: cut(array, position, *outer) for name, array in arrays.items()}


def plan_published(
    measurement: Measurement,
    options: published.PublishedOptions,
    execution: ExecutionOptions,  # noqa: ARG001 - each image is solved as a whole
) -> list[Task]:
    """Tasks of the published method: each image as a whole."""
    solve = partial(
        _solve_published,
        measurement.elements,
        atomic_numbers=measurement.atomic_numbers,
        options=options,
    )
    arrays = {"maps": measurement.maps, "haadf": measurement.haadf}
    return _image_tasks(arrays, measurement, solve)


def plan_calibrated(
    measurement: Measurement,
    options: calibrated.CalibratedOptions,
    execution: ExecutionOptions,
) -> list[Task]:
    """Tasks of the calibrated method: each image, or each of its tiles.

    What the tiles of an image, or images with shared weights, have in common is found
    here.
    """
    chemistry = _chemistry(measurement)
    halo = HALOS[options.regularizer]
    tiles = tiles_of(measurement.maps, execution.tile_size, halo)
    shared = execution.weights == "shared"
    options.elastic_weights(measurement.elastic_names)  # an error if they do not fit
    if tiles is not None:
        return _tile_tasks(
            measurement, tiles, chemistry, options, execution.num_workers, shared=shared
        )
    messages: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if shared:
        options, messages, notes = _with_shared_weights(
            measurement, chemistry, options, execution.num_workers
        )
    solve = partial(calibrated.solve, chemistry=chemistry, options=options)
    solve = partial(_solve_pixels, solve)
    if messages or notes:
        solve = partial(_solve_with, messages, notes, solve)
    return _image_tasks(_arrays(measurement), measurement, solve)


def check_preview(
    measurement: Measurement,
    options: calibrated.CalibratedOptions,
    execution: ExecutionOptions,
) -> None:
    """Raise a ValueError if there can be no preview, before anything is fused."""
    tiles = tiles_of(measurement.maps, execution.tile_size, HALOS[options.regularizer])
    if measurement.lazy or execution.lazy_output or tiles is not None:
        raise ValueError(
            "interactive is True for lazy or tiled data: expected maps in memory, of "
            "at most 4096 pixels a side. Choose the weights on a part of them, as "
            "[m.isig[:1024, :1024] for m in maps], after compute() if they are lazy, "
            "and fuse all with lambda_tv and lambda_haadf"
        )


def preview(
    measurement: Measurement,
    options: calibrated.CalibratedOptions,
    execution: ExecutionOptions,
) -> Preview:
    """A part of the first image, calibrated with all of that image."""
    first = _inputs_at(_arrays(measurement), (0,) * len(measurement.navigation_shape))
    chemistry = _chemistry(measurement)
    return Preview.of(Pixels(**first), chemistry, options, execution.num_workers)


def _chemistry(measurement: Measurement) -> Chemistry:
    return Chemistry(
        atomic_numbers=measurement.atomic_numbers,
        sensitivities=measurement.sensitivities,
        elements=measurement.elements,
        elastic_names=measurement.elastic_names,
    )


def _solve_pixels(
    solve: Callable,
    *,
    num_workers: int | None = None,
    callback: Callable | None = None,
    **arrays: Any,
) -> Solution:
    """Solve by a function that takes the arrays of a task together."""
    return solve(Pixels(**arrays), num_workers=num_workers, callback=callback)


def _solve_published(
    elements: Sequence[str], maps: np.ndarray, *arguments: Any, **others: Any
) -> Solution:
    """Solve, and warn of negative pixels: the minimum of a map becomes its zero."""
    solution = published.solve(maps, *arguments, **others)
    negative = [e for e, image in zip(elements, maps, strict=True) if (image < 0).any()]
    if not negative:
        return solution
    message = (
        f"negative values in the maps of {', '.join(negative)}, as a background "
        "subtraction leaves them: the published method uses the minimum of each map "
        "as its zero. Better pass the maps without subtraction, or clip them at zero"
    )
    return replace(solution, warnings=(*solution.warnings, message))


def _solve_with(
    messages: tuple[str, ...],
    notes: tuple[str, ...],
    solve: Callable,
    *arguments: Any,
    **others: Any,
) -> Solution:
    """Solve, and tell what was found beforehand."""
    solution = solve(*arguments, **others)
    return replace(
        solution,
        warnings=(*solution.warnings, *messages),
        notes=(*notes, *solution.notes),
    )


def _arrays(measurement: Measurement) -> dict[str, Any]:
    further = {"elastic": measurement.elastic} if measurement.elastic_names else {}
    return {
        "maps": measurement.maps,
        "haadf": measurement.haadf,
        "background": measurement.background,
        "variance": measurement.variance,
        **further,
    }


def _positions(measurement: Measurement) -> list[tuple[int, ...]]:
    return list(np.ndindex(measurement.navigation_shape))


def _image_tasks(
    arrays: dict[str, Any], measurement: Measurement, solve: Callable
) -> list[Task]:
    if measurement.check is not None:
        solve = partial(_check_and_solve, measurement.check, solve)
    return [Task.of(solve, arrays, place) for place in _positions(measurement)]


def _check_and_solve(
    check: Callable, solve: Callable, *, maps: Any, haadf: Any, **others: Any
) -> Solution:
    """Check the values of lazy signals, which are known now, and solve."""
    messages = _checked(check, maps, haadf, **others)
    return _solve_with(messages, (), solve, maps=maps, haadf=haadf, **others)


def _checked(
    check: Callable,
    maps: Any,
    haadf: Any,
    background: Any = None,
    elastic: Any = None,
    **_: Any,
) -> tuple[str, ...]:
    """Check the values of one image, and return the warnings."""
    images = [*maps, haadf, *(() if elastic is None else elastic)]
    return tuple(check(images, background))


def _tile_tasks(
    measurement: Measurement,
    tiles: Sequence[Sequence[Tile]],
    chemistry: Chemistry,
    options: calibrated.CalibratedOptions,
    num_workers: int | None,
    *,
    shared: bool,
) -> list[Task]:
    arrays, tasks = _arrays(measurement), []
    for position in _positions(measurement):
        own = _inputs_at(arrays, position)
        decision, prior, flux, own["background"] = decide_for_tiles(
            own, chemistry, options, check=measurement.check, num_workers=num_workers
        )
        own |= images_moved_back(own, decision.undone_of_all)
        if shared:  # chosen on the first image
            options = _with_weights(options, decision.weights, decision.elastic)
        for tile in (tile for row in tiles for tile in row):
            solve = partial(
                parts.solve_part,
                decision=decision,
                options=options,
                prior=prior,
                inner=tile.inner,
            )
            solve = partial(_solve_pixels, solve)
            tasks.append(Task.of(solve, own, (), tile, flux, position))
    return tasks


def _with_shared_weights(
    measurement: Measurement,
    chemistry: Chemistry,
    options: calibrated.CalibratedOptions,
    num_workers: int | None,
) -> tuple[calibrated.CalibratedOptions, tuple[str, ...], tuple[str, ...]]:
    """The options with weights chosen from images spread over the series.

    With warnings and notes of the choice: the images know of given weights only.
    """
    arrays, places = _arrays(measurement), _positions(measurement)
    chosen = np.linspace(0, len(places) - 1, min(_SHARING, len(places)))
    images = computed(
        [_inputs_at(arrays, places[k]) for k in np.unique(chosen.round().astype(int))]
    )
    if measurement.check is not None:  # lazy images have not been looked at
        for own in images:
            _checked(measurement.check, **own)
    weights, elastic = series.shared_weights(
        [Pixels(**own) for own in images], chemistry, options, num_workers
    )
    notes = tuple(text for image in elastic for text in image.told)
    return _with_weights(options, weights, elastic), weights.warnings, notes


def _with_weights(
    options: calibrated.CalibratedOptions,
    weights: calibrated.Weights,
    elastic: Sequence[calibrated.Found],
) -> calibrated.CalibratedOptions:
    """The options with these weights given."""
    return replace(
        options,
        lambda_tv=weights.lambda_tv,
        lambda_haadf=weights.lambda_haadf,
        lambda_elastic=[image.weight for image in elastic] if elastic else None,
    )
