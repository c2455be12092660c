"""Pictures of a fusion: maps before and after, the cost, the choice of the weights."""

import warnings
from collections.abc import Sequence
from math import ceil, log, sqrt
from numbers import Real
from typing import Any

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
from hyperspy.signals import BaseSignal, Signal2D
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter

from .derived import (
    cost_history,
    first_of,
    get_haadf_model,
    maps_of_fusion,
    record_of,
)
from .execution.arrays import computed
from .inputs.measurement import Background, Image, Maps, measure
from .summary import caption_of

__all__ = ["plot_convergence", "plot_fusion", "plot_weights"]

_PANEL = 2.4  # inches, the side of a square image
_BESIDE, _ABOVE = 0.75, 0.35  # inches, for a colour bar and a title
_BAR = 0.12  # inches, the width of a colour bar
_NARROWEST, _WIDEST = 1.3, 15.0  # inches, of an image and of a figure
_MARGINS = {"w_pad": 0.08, "h_pad": 0.08}  # inches
_SCREEN = 1.6  # width over height
_SHOWN = (0.2, 99.8)  # percentiles at the ends of the colours
_STEPS = (1, 2, 5, 10)  # between ticks
_FEW = 25  # values of a curve, up to which each is marked
_OUTLINE = [withStroke(linewidth=2.5, foreground="black")]
_RING = {"ms": 13, "mfc": "none", "mec": "crimson", "mew": 2, "ls": "none"}
_POISSON = "Chemical (Poisson)", "lambda_chem"  # of the published method


def plot_convergence(fused: Any) -> Figure:
    """Show the terms of the cost against the iterations.

    Parameters
    ----------
    fused : ElementalMap or list of ElementalMap
        A fused map, or all of them: they share one history. Of a series each position
        has a line.

    Returns
    -------
    matplotlib.figure.Figure
        The total cost and its terms without the weights in their titles: after each
        iteration (published method), or at each certificate, every ``cost_interval`` of
        the record (calibrated method).

    Raises
    ------
    ValueError
        If a map does not come from a fusion.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    >>> figure = hyperspy_fusion.plot_convergence(fused)
    """
    one = first_of(fused)
    history = cost_history(one)
    record = one.metadata.Multimodal_fusion
    iterations = history.axes_manager.signal_axes[0].axis
    terms = history.metadata.Multimodal_fusion.terms.split(",")
    # positions x terms x iterations
    costs = history.data.reshape(-1, len(terms), len(iterations))
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(costs)))

    figure, axes = plt.subplots(
        2, 2, sharex=True, figsize=(8, 5.5), layout="constrained"
    )
    figure.get_layout_engine().set(**_MARGINS)
    for axis, term, curves in zip(axes.flat, terms, costs.swapaxes(0, 1), strict=True):
        axis.set_prop_cycle(color=colours)
        axis.plot(iterations, curves.T, marker="." if len(iterations) < _FEW else "")
        axis.set_title(_cost_title(term, record))
        axis.yaxis.set_major_locator(MaxNLocator(6, steps=_STEPS, min_n_ticks=3))
        axis.yaxis.get_major_formatter().set_useMathText(True)
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("iteration")
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS, integer=True))
    if len(costs) > 1:
        figure.suptitle(f"{len(costs)} positions, from dark to light")
    return figure


def _cost_title(term: str, record: Any) -> str:
    """Name of a term of the cost with its weight, of a series with its range."""
    calibrated = record.method == "calibrated"
    second_order = record.get_item("regularizer") == "tgv"
    name, weight = {
        "total": ("Total", None),
        "haadf": ("HAADF", "lambda_haadf"),
        "chemical": ("Chemical", None) if calibrated else _POISSON,
        "tv": (f"Total {'generalised ' * second_order}variation", "lambda_tv"),
    }[term]
    if weight is None:
        return name
    weights = np.asarray(record[weight])
    ends = " to ".join(
        f"{end:.3g}" for end in np.unique([weights.min(), weights.max()])
    )
    return f"{name}, λ = {ends}"


def plot_weights(fused: Any, *, inav: Any = None) -> Figure:
    """Show the cross-validation that chose the weights.

    Each line is one weight of the HAADF term; where the line at 0 is the lowest, the
    image does not help.

    Parameters
    ----------
    fused : ElementalMap or list of ElementalMap
        A fused map, or all of them: they share their weights.
    inav : int, float or tuple, optional
        The position of a series to show, as ``signal.inav[...]`` takes it.

    Returns
    -------
    matplotlib.figure.Figure
        The held-out error against λ_TV. The chosen weights are ringed: λ_TV may lie
        between the tried values, at the vertex of a parabola.

    Raises
    ------
    ValueError
        If a map does not come from a fusion, if no weights were chosen, or if
        it is a series and `inav` is missing.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    >>> figure = hyperspy_fusion.plot_weights(fused)
    """
    tried, (lambda_tv, lambda_haadf) = _weights(fused, inav)
    lambdas, weights, errors = tried.T
    errors = 100 * (errors / errors.min() - 1)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(np.unique(weights))))

    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    figure.get_layout_engine().set(**_MARGINS)
    for weight, colour in zip(np.unique(weights), colours, strict=True):
        x, y = lambdas[weights == weight], errors[weights == weight]
        label = f"{weight:.3g}" if weight > 0 else "0, without the image"
        axes.plot(x, y, "o-", ms=4.5, color=colour, label=label)
        if weight == lambda_haadf:
            height = np.interp(np.log(lambda_tv), np.log(x), y)
    label = f"chosen, λ$_{{TV}}$ = {lambda_tv:.3g}"
    axes.plot(lambda_tv, height, "o", label=label, zorder=3, **_RING)
    axes.set_xscale("log")
    axes.set_xticks(np.unique(lambdas), [f"{x:.3g}" for x in np.unique(lambdas)])
    axes.minorticks_off()
    axes.set_xlabel("λ$_{TV}$, weight of the total variation")
    axes.set_ylabel("squared error of the prediction\nabove the least (%)")
    axes.grid(alpha=0.3)
    axes.legend(title="λ$_{HAADF}$", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _weights(fused: Any, inav: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows (λ_TV, λ_HAADF, error) that were tried, in order, and the chosen pair.

    Of a series those of one position.
    """
    one = first_of(fused)
    record = record_of(one)
    if not record.has_item("weights_tried"):
        raise ValueError(
            "this fusion did not choose its weights: expected a map from "
            "fuse_multimodal with lambda_tv or lambda_haadf left to 'auto'"
        )
    # After a lazy load the arrays in the metadata are dask arrays.
    rows = np.asarray(record.weights_tried)
    weights = (np.asarray(record[name]) for name in ("lambda_tv", "lambda_haadf"))
    series = rows.shape[:-2]
    chosen = np.stack([np.broadcast_to(weight, series) for weight in weights], axis=-1)
    if series:
        rows, chosen = (
            _at_position(array, one, series, inav) for array in (rows, chosen)
        )
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        raise ValueError(
            "the weights of this position were not chosen for it alone: expected the "
            "first position of the series, for which those of all were chosen"
        )
    return rows[np.lexsort(rows.T[:2])], chosen


def _at_position(
    array: np.ndarray, signal: BaseSignal, series: tuple[int, ...], inav: Any
) -> np.ndarray:
    """Value of an array of the record at one position of a series."""
    axes = signal.axes_manager.navigation_axes[::-1]
    if tuple(axis.size for axis in axes) != series:
        raise ValueError(
            f"{signal!r} is a part of a series of shape {series}: take a map of the "
            "whole series and choose the position with inav="
        )
    if inav is None:
        raise ValueError(_choose_position(series))
    axes = [axis.get_axis_dictionary() for axis in axes]
    axes += [{"size": size, "navigate": False} for size in array.shape[len(series) :]]
    return hs.signals.BaseSignal(array, axes=axes).inav[inav].data


def _choose_position(series: tuple[int, ...]) -> str:
    return (
        f"these are series of shape {series}: choose one position with inav=, as for "
        "signal.inav[...]"
    )


def plot_fusion(
    maps: Maps,
    fused: Any,
    haadf: Image,
    background: Background | None = None,
    *,
    zoom: Any = None,
    inav: Any = None,
) -> Figure:
    """Show the maps above the fused maps, and the HAADF image above its model.

    Measured maps are shown without their background, in the colours of the fused ones,
    which span the fused map and the smoothed measured one. Single counts may lie
    beyond: the colour bar is then pointed. A caption of two lines tells what was done;
    :func:`hyperspy_fusion.summarize` tells more.

    Parameters
    ----------
    maps : list of BaseSignal, or BaseSignal
        The measured maps, as :func:`hyperspy_fusion.fuse_multimodal` takes them.
    fused : list of ElementalMap, or ElementalMap
        All fused maps, or a stack of them.
    haadf : BaseSignal, or list of BaseSignal
        The HAADF image.
    background : float, list of float or BaseSignal, or BaseSignal, optional
        As it was given to :func:`hyperspy_fusion.fuse_multimodal`.
    zoom : hyperspy.api.roi.RectangularROI or tuple of float, optional
        A region ``(left, top, right, bottom)`` in the units of the axes, which is
        framed and shown enlarged below.
    inav : int, float or tuple, optional
        The position of a series to show, as ``signal.inav[...]`` takes it.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If maps, fused maps and HAADF image do not belong together, `zoom` is no
        region of them, or they are series and `inav` is missing.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    >>> figure = hyperspy_fusion.plot_fusion(maps, fused, haadf, zoom=(30, 20, 50, 40))
    """
    fused = maps_of_fusion(fused)
    measured, modelled, elements = _images(maps, fused, haadf, inav, background)
    limits = [_haadf_limits(measured[0])]
    limits += map(_map_limits, measured[1:], modelled[1:])
    names = ["HAADF", *elements]
    record = record_of(fused[0])
    used = np.any(np.not_equal(np.asarray(record.lambda_haadf), 0))
    used = used and np.any(np.less(np.asarray(record.get_item("flagged", 0)), 1))
    how = "fused" if used else "without HAADF"
    models = ["HAADF model", *(f"{element} {how}" for element in elements)]
    rows = [(names, measured), (models, modelled)]
    if zoom is not None:
        region = _as_region(zoom, measured[0])
        rows += [(titles, list(map(region, images))) for titles, images in rows]

    figure, axes = _grid([images[0] for _, images in rows], len(names))
    _show(axes, rows, limits)
    quantity = fused[0].metadata.get_item("Signal.quantity", "")
    for panels in axes:
        for panel, label in zip(panels, ["", *[quantity] * len(elements)], strict=True):
            _add_colorbar(panel, label)
    for panels, (_, regions) in zip(axes, rows[2:], strict=False):
        for panel, image in zip(panels, regions, strict=True):
            _frame(panel, image)
    _add_caption(figure, caption_of(_complete(record)))
    return figure


def _complete(record: Any) -> dict[str, Any]:
    """The record, of lazy maps that are not computed yet what it will be."""
    later = record.get_item("pending")
    if later is None:
        return record.as_dictionary()
    (found,) = computed([later.found])
    complete, *_ = found.item()
    return complete


def _add_caption(figure: Figure, caption: str) -> None:
    """Write below all images, in letters small enough for the width of the figure."""
    text = figure.supxlabel(caption, fontsize="small")
    width = text.get_window_extent().width
    room = figure.bbox.width - 2 * _MARGINS["w_pad"] * figure.dpi
    text.set_fontsize(text.get_fontsize() * min(1, room / width))


def _show(axes: Any, rows: Any, limits: Sequence[tuple[float, float]]) -> None:
    """Show images with their titles, and a scale bar for each magnification.

    Each of `rows` holds titles and images, the HAADF image first, two rows a
    magnification; `limits` the ends of the colours of each column.
    """
    panels = [panel for row in axes for panel in row]
    images = [image for _, row in rows for image in row]
    low, high = np.transpose(limits).tolist()
    first = list(range(0, len(images), 2 * len(limits)))
    hs.plot.plot_images(
        images,
        ax=panels,
        label=[title for titles, _ in rows for title in titles],
        vmin=low * len(rows),
        vmax=high * len(rows),
        cmap=["gray", *["inferno"] * (len(limits) - 1)] * len(rows),
        colorbar=None,
        scalebar=first if _units(images[0]) else None,
        axes_decor=None,
    )
    for panel in panels:
        panel.set(xticks=[], yticks=[])
        if hasattr(panel, "scalebar"):
            panel.scalebar.text.set(va="bottom", size="small")
            panel.scalebar.text.set_path_effects(_OUTLINE)
            panel.scalebar.line.set_path_effects(_OUTLINE)


def _add_colorbar(panel: Axes, label: str) -> None:
    """Add a colour bar as high as the image, pointed where values lie beyond it."""
    picture = panel.images[0]
    values, (low, high) = picture.get_array(), picture.get_clim()
    beyond = values.min() < low, values.max() > high
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[beyond]
    width = panel.figure.get_figwidth() / panel.get_gridspec().ncols - _BESIDE
    bar = panel.figure.colorbar(
        picture,
        cax=panel.inset_axes((1 + 0.1 / width, 0, _BAR / width, 1)),
        extend=extend,
        label=label,
        ticks=MaxNLocator(4, steps=_STEPS),
    )
    bar.formatter.set_useMathText(True)
    bar.ax.tick_params(labelsize="small")
    bar.ax.yaxis.offsetText.set_size("small")
    bar.ax.yaxis.label.set_size("small")


def _frame(panel: Axes, image: BaseSignal) -> None:
    """Draw the outline of a region of the image into the panel."""
    left, right, bottom, top = _extent(image)
    panel.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            edgecolor="white",
            path_effects=_OUTLINE,
        )
    )


def _images(
    maps: Maps, fused: Any, haadf: Image, inav: Any, background: Any
) -> tuple[list, list, list[str]]:
    """The images before and after the fusion, the HAADF image first, and their names.

    Plain images of one field of view, computed together, so that lazy fused maps are
    solved once.
    """
    model = get_haadf_model(fused)
    record = record_of(fused[0])
    elements = record.elements.split(",")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the fusion gave the same ones
        match = record.get_item("match")
        measurement = measure(maps, haadf, background, elements=elements, match=match)
    known = measurement.background
    if known is None:  # what was found in the vacuum
        known = np.asarray(record.get_item("vacuum_background", [0.0]))
        known = known[..., np.newaxis, np.newaxis]
    net = measurement.maps - known
    if model.data.shape != measurement.haadf.shape:
        raise ValueError(
            f"the fused maps give a HAADF model of shape {model.data.shape} and the "
            f"HAADF image is {measurement.haadf.shape}: expected the maps of one "
            "fusion; of a series pass all positions and choose one with inav="
        )
    arrays = computed(
        [
            measurement.haadf,
            *np.moveaxis(net, -3, 0),
            model.data,
            *(signal.data for signal in fused),
        ]
    )
    axes = list(model.axes_manager.as_dictionary().values())
    images = [Signal2D(array, axes=axes) for array in arrays]
    if measurement.navigation_shape:
        if inav is None:
            raise ValueError(_choose_position(measurement.navigation_shape))
        images = [image.inav[inav] for image in images]
    half = len(images) // 2
    return images[:half], images[half:], elements


def _as_region(zoom: Any, image: BaseSignal) -> Any:
    """The region that a user asks for, checked to be inside the image."""
    names = ("left", "top", "right", "bottom")
    if isinstance(zoom, hs.roi.RectangularROI):
        edges = [getattr(zoom, name) for name in names]
    else:
        edges = list(zoom)
    x_low, x_high, y_high, y_low = _extent(image)
    x, y = image.axes_manager.signal_axes
    if not (
        len(edges) == len(names)
        and all(isinstance(edge, Real) for edge in edges)
        and x_low <= edges[0] <= edges[2] - 2 * x.scale <= x_high - 2 * x.scale
        and y_low <= edges[1] <= edges[3] - 2 * y.scale <= y_high - 2 * y.scale
    ):
        raise ValueError(
            f"zoom is {tuple(edges)}: expected left, top, right and bottom of at least "
            f"2 x 2 pixels, with x in {x_low:g} to {x_high:g} and y in {y_low:g} to "
            f"{y_high:g} {_units(image)}"
        )
    return hs.roi.RectangularROI(*edges)


def _map_limits(measured: BaseSignal, modelled: Any) -> tuple[float, float]:
    """Range of values of a map and its fused map, without noise and outliers."""
    known = np.isfinite(measured.data)
    share = gaussian_filter(known.astype(float), 2)
    smooth = gaussian_filter(np.where(known, measured.data, 0.0), 2)
    smooth = smooth / np.maximum(share, 1e-3)
    ends = np.percentile([smooth, modelled.data], _SHOWN, axis=(1, 2))
    low, high = min(ends[0].min(), 0.0), ends[1].max()
    return low, high if high > low else low + 1


def _haadf_limits(haadf: BaseSignal) -> tuple[float, float]:
    """Range of values of a HAADF image and its model."""
    return tuple(np.nanpercentile(haadf.data, _SHOWN))


def _grid(images: Sequence, n_columns: int) -> tuple[Figure, list[list[Axes]]]:
    """Figure and axes for rows of images, all as large as the first of their row.

    Columns that do not fit on a screen are continued below.
    """
    ratios = [_height_over_width(image) for image in images]
    width = max(_PANEL / sqrt(ratios[0]), _NARROWEST)
    heights = [width * ratio + _ABOVE for ratio in ratios]
    width += _BESIDE

    def distance_from_screen(wrap: int) -> float:
        size = wrap * width, ceil(n_columns / wrap) * sum(heights)
        return abs(log(size[0] / size[1] / _SCREEN))

    wrap = min(range(1, n_columns + 1), key=distance_from_screen)
    n_blocks = ceil(n_columns / wrap)
    wrap = ceil(n_columns / n_blocks)  # blocks of equal length
    size = np.array([wrap * width, n_blocks * sum(heights)])
    figure, axes = plt.subplots(
        n_blocks * len(images),
        wrap,
        figsize=size * min(1, _WIDEST / size[0]),
        squeeze=False,
        height_ratios=heights * n_blocks,
        layout="constrained",
    )
    figure.get_layout_engine().set(**_MARGINS)
    axes = axes.reshape(n_blocks, len(images), wrap).swapaxes(0, 1)
    axes = axes.reshape(len(images), n_blocks * wrap)
    for unused in axes[:, n_columns:].flat:
        unused.remove()
    return figure, axes[:, :n_columns].tolist()


def _extent(image: BaseSignal) -> tuple[float, float, float, float]:
    """Left, right, bottom and top edge of an image in the units of its axes."""
    x, y = image.axes_manager.signal_axes
    left, top = (axis.offset - axis.scale / 2 for axis in (x, y))
    return left, left + x.size * x.scale, top + y.size * y.scale, top


def _height_over_width(image: BaseSignal) -> float:
    left, right, bottom, top = _extent(image)
    return abs((bottom - top) / (right - left))


def _units(image: BaseSignal) -> str:
    """Units of the axes, empty where they are not calibrated."""
    units = image.axes_manager.signal_axes[0].units
    return units if isinstance(units, str) else ""
