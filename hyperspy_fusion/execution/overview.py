"""What the tiles of an image share, from samples of the image."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import dask
import dask.array as da
import numpy as np

from ..core.calibrated import parts
from ..core.calibrated.convex.problem import towards_bright
from ..core.calibrated.flux import vacuum_note
from ..core.calibrated.given import Chemistry, Pixels
from ..core.calibrated.method import Decision
from ..core.calibrated.options import CalibratedOptions
from ..core.calibrated.prepare import Totals
from ..core.calibrated.reading import goes_below_zero
from ..core.calibrated.sample import representative_tiles, tile_at
from ..core.calibrated.shift import Shift
from ..core.common.missing import fill
from ..core.common.solution import LARGEST
from .arrays import computed, stack
from .tiles import HALOS, Tile, cut

_OVERVIEW = 2048  # pixels a side of the overview at most
_LARGEST_FACTOR = 16  # the tiles of the sample are multiples of its pixels
_SPREAD = 8  # tiles a side of the sample that holds as much vacuum as the image
_SPREAD_TILE = 128  # pixels a side of each
_CALLED = {
    "maps": "maps",
    "haadf": "HAADF image",
    "elastic": "further elastic images",
}


def decide_for_tiles(
    inputs: dict[str, Any],
    chemistry: Chemistry,
    options: CalibratedOptions,
    *,
    check: Callable | None = None,
    num_workers: int | None = None,
) -> tuple[Decision, np.ndarray, np.ndarray | None, Any]:
    """Find what the tiles of an image share.

    Parameters
    ----------
    inputs : dict
        Arrays of one image, by their names in
        :class:`~hyperspy_fusion.core.calibrated.given.Pixels`, lazy or not, or None.
    chemistry : Chemistry
        What is known of its elements and images.
    options : CalibratedOptions
        The options.
    check : callable, optional
        ``check([*maps, haadf, *elastic], background)`` of their means over large pixels
        and the limits of the background raises an error if these are no images, and
        returns warnings.
    num_workers : int, optional
        Number of threads; by default Numba's setting.

    Returns
    -------
    decision : Decision
        Calibration and weights, from a sample of the image, which is displaced by
        ``decision.undone`` before it is cut into tiles.
    prior : numpy.ndarray
        Expected coefficients.
    flux : numpy.ndarray or None
        Sums of the maps over the measured pixels, in their units, infinite where they
        are not kept, shape ``(n_elements,)``; None if none is.
    background : array or None
        That of the maps, or of the vacuum if it was not known.
    """
    arrays: dict[str, Any] = {
        name: None if array is None else da.asarray(array)
        for name, array in inputs.items()
    }
    maps = arrays["maps"]
    size = np.array(maps.shape[-2:])
    factor = 2
    while max(size) > factor * _OVERVIEW and factor < _LARGEST_FACTOR:
        factor *= 2
    found, share, lowest, messages = _seen_coarsely(arrays, factor, check)
    # pixels per large pixel, fewer at the far edges
    shares = [np.minimum(factor, n - factor * np.arange(-(-n // factor))) for n in size]
    area = np.outer(*shares)
    filled = fill(found["maps"])
    totals = Totals(
        mean=(filled * area).sum(axis=(1, 2)) / area.sum(),
        negative=goes_below_zero(float(lowest), float(filled.max())),
        pixels=int(area.sum()),
        directions=towards_bright(found["haadf"]),
    )
    shared: dict[str, Any] = {"options": options, "num_workers": num_workers}
    undone = parts.rough_shifts(Pixels(**found), chemistry, options, factor=factor)
    arrays |= images_moved_back(arrays, undone)
    found |= images_moved_back(found, undone, factor)
    # whole large pixels only: tiles must stay within the image
    rows, columns = (slice(n // factor) for n in size)
    corners = representative_tiles(found["maps"][:, rows, columns], factor)
    sample = computed({name: _mosaic(a, corners) for name, a in arrays.items()})
    decision, prior = parts.decide_on_sample(
        Pixels(**sample), chemistry, totals=totals, **shared
    )
    if arrays["background"] is None:
        background, note = parts.background_of_vacuum(
            Pixels(**found), decision, factor=factor, **shared
        )
        if background is None:
            decision = replace(decision, background_note=note)
        else:
            for each in (arrays, found, sample):
                each["background"] = background
            decision, prior = parts.decide_on_sample(
                Pixels(**sample), chemistry, totals=totals, **shared
            )
            note = vacuum_note(background[:, 0, 0], chemistry.elements)
            decision = replace(
                decision,
                background=background[:, 0, 0] / decision.units.count_value,
                background_note=note,
            )
    units = decision.units
    units = replace(units, warnings=(*messages, *units.warnings))
    decision = replace(decision, units=units)
    background = arrays["background"]
    decision = decision.moved_back(undone)
    if not options.lock_flux or decision.amounts is not None:
        return decision, prior, None, background
    net = maps if background is None else maps - background
    flux = da.nansum(net, axis=(-2, -1), dtype=np.float64).compute()
    coarse, decision = parts.overview(
        Pixels(**found),
        decision,
        factor=factor,
        elements=chemistry.elements,
        **shared,
    )
    flux = np.where(decision.numbers.lock.kept, np.maximum(flux, 0), np.inf)
    coarse *= share
    sample = _spread(size.tolist(), HALOS[options.regularizer])
    sums = np.sum([_integral(coarse, factor, tile) for tile in sample], axis=0)
    surroundings = [
        {name: cut(a, (), *tile.outer) for name, a in arrays.items()} for tile in sample
    ]
    tiles = [Pixels(**own) for own in computed(surroundings)]
    insides = [tile.inner for tile in sample]
    flux_multiplier = parts.common_multipliers(tiles, insides, sums, decision, **shared)
    decision = replace(decision, flux_multiplier=flux_multiplier)
    return decision, prior, flux, background


def _seen_coarsely(
    arrays: dict[str, Any], factor: int, check: Callable | None
) -> tuple[dict[str, Any], np.ndarray, float, list[str]]:
    """Means of an image over large pixels, and what is known from all of its pixels.

    Returns the means, the share of known pixels of the maps, the lowest value of the
    maps that is not above 0, and the warnings of `check`.
    """
    means = {name: _means(array, factor) for name, array in arrays.items()}
    maps = arrays["maps"]
    share = _means(da.isfinite(maps), factor)
    known = arrays["background"]
    limits = [] if known is None else [known.min(), known.max()]  # NaN if any pixel is
    found, share, limits, lowest, infinite = dask.compute(
        means,
        share,
        limits,
        da.where(maps < 0, maps, 0).min(),  # da.nanmin warns now and then in threads
        {n: (abs(arrays[n]) > LARGEST).sum() for n in _CALLED if n in arrays},
    )
    for name, n in infinite.items():
        if n:
            raise ValueError(
                f"{n} pixels of the {_CALLED[name]} are infinite, or above "
                f"{LARGEST:g}: expected smaller values, or NaN where they are missing"
            )
    messages = []
    if check is not None:
        images = *found["maps"], found["haadf"], *found.get("elastic", ())
        messages = check(images, np.array(limits))
    return found, share, lowest, messages


def images_moved_back(
    inputs: dict[str, Any], shifts: Sequence[Shift], factor: int = 1
) -> dict[str, Any]:
    """The elastic images among the inputs, HAADF first, without their displacements."""
    found = {"haadf": moved_back(inputs["haadf"], shifts[0], factor)}
    if "elastic" in inputs:
        moved = [
            moved_back(image, shift, factor)
            for image, shift in zip(inputs["elastic"], shifts[1:], strict=True)
        ]
        found["elastic"] = stack(moved, axis=0)
    return found


def moved_back(image: Any, shift: Shift, factor: int = 1) -> Any:
    """An image without a displacement by whole pixels, NaN where none is left.

    Lazy if the image is; `factor` is the number of pixels in one of its own.
    """
    if not shift.significant:
        return image
    places = [round(k / factor) for k in (shift.y, shift.x)]
    rows, columns = (
        slice(max(k, 0), n + min(k, 0))
        for n, k in zip(image.shape, places, strict=True)
    )
    lost = [(max(-k, 0), max(k, 0)) for k in places]
    return np.pad(image[rows, columns].astype(float), lost, constant_values=np.nan)


def _spread(sizes: Sequence[int], halo: int) -> list[Tile]:
    """Tiles spread evenly over an image; all of it if it is small."""
    spans = []
    for size in sizes:
        tile = min(_SPREAD_TILE, size)
        starts = np.linspace(0, size - tile, min(_SPREAD, -(-size // tile)))
        spans.append([slice(y, y + tile) for y in starts.astype(int).tolist()])
    rows, columns = spans
    return [Tile.of(r, c, sizes, halo) for r in rows for c in columns]


def _integral(coarse: np.ndarray, factor: int, tile: Tile) -> np.ndarray:
    """Sum of the maps in a tile, from their means over large pixels."""
    weights = []
    for span, n in zip((tile.rows, tile.columns), coarse.shape[1:], strict=True):
        start = factor * np.arange(n)
        stop = np.minimum(span.stop, start + factor)
        weights.append(np.clip(stop - np.maximum(span.start, start), 0, None))
    return np.einsum("iyx,y,x->i", coarse, *weights, dtype=np.float64)


def _means(array: Any, factor: int) -> Any:
    """Means over squares of pixels, without missing ones; lazy."""
    if array is None or array.shape[-2:] == (1, 1):
        return array
    missing = [(0, 0)] * (array.ndim - 2) + [(0, -n % factor) for n in array.shape[-2:]]
    array = da.pad(array.astype(np.float32), missing, constant_values=np.nan)
    axes = {array.ndim - 2: factor, array.ndim - 1: factor}
    return da.coarsen(_known_mean, array, axes)


def _known_mean(block: np.ndarray, axis: Any = None) -> np.ndarray:
    known = np.isfinite(block)
    with np.errstate(invalid="ignore"):  # NaN where all are missing
        return np.where(known, block, 0).sum(axis=axis, dtype=np.float64) / known.sum(
            axis=axis
        )


def _mosaic(array: Any, corners: Any) -> Any:
    if array is None or corners is None or array.shape[-2:] == (1, 1):
        return array
    rows = [
        da.concatenate([tile_at(array, corner) for corner in row], -1)
        for row in corners
    ]
    return da.concatenate(rows, axis=-2)
