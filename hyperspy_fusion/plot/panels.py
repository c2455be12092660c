"""What the pictures share: panels of images, colour bars, scale bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import ceil, log, sqrt
from typing import Any

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
from hyperspy.signals import BaseSignal, Signal2D
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ..inputs.images import axes_of

MARGINS = {"w_pad": 0.08, "h_pad": 0.08}  # inches
STEPS = (1, 2, 5, 10)  # between ticks
MARK = "#ff4d00"  # seen on grey by nearly all
OUTLINE = [withStroke(linewidth=2.5, foreground="black")]
_SHOWN_NUMBERS = (  # of the record, in captions and titles
    "lambda_haadf",
    "flagged",
    "haadf_gain",
    "haadf_slow",
    "haadf_row_noise",
    "n_iter",
    "lambda_elastic",
    "elastic_flagged",
    "elastic_slow",
)
SHOWN = (0.2, 99.8)  # percentiles at the ends of the colours

_PANEL = 2.4  # inches, the side of a square image
_BESIDE, _ABOVE = 0.8, 0.35  # inches, for a colour bar and a title
_BAR = 0.12  # inches, the width of a colour bar
_NARROWEST = 1.1  # inches, for a title
_WIDEST, _TALLEST = 15.0, 12.0  # inches, of a figure
_LETTER = 0.07  # inches, of a label
_SCREEN = 1.6  # width over height
_NARROW = 3.0  # height over width
_MOST_OBLONG = 10.0  # HyperSpy stretches images that are more oblong


def figure_with(
    n_rows: int, n_columns: int, size: Any, fig: Any = None, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of some size in inches, or a given one, with rows of axes.

    Returns the figure and an array of axes ``(n_rows, n_columns)``.
    """
    if fig is None:
        fig = plt.figure(figsize=size)
    if not isinstance(fig, FigureBase):
        raise TypeError(
            f"fig is of type {type(fig).__name__}: expected a figure of Matplotlib"
        )
    if fig.get_layout_engine() is None:
        fig.canvas.figure.set_layout_engine("constrained", **MARGINS)  # of subfigures
    return fig, fig.subplots(n_rows, n_columns, squeeze=False, **options)


def grid_of_images(
    images: Sequence, n_columns: int, fig: Any, *, wrap: bool = True
) -> tuple[Figure, list[list[Axes]]]:
    """Figure and axes for rows of images, all as large as the first of their row.

    Columns that do not fit on a screen are continued below, if they may `wrap`.
    """
    ratios = [height_over_width(image) for image in images]
    width = _PANEL / sqrt(ratios[0])
    width = min(width, (_TALLEST - len(images) * _ABOVE) / sum(ratios))
    heights = [width * ratio + _ABOVE for ratio in ratios]
    width = max(width, _NARROWEST) + _BESIDE

    def distance_from_screen(length: int) -> float:
        size = length * width, ceil(n_columns / length) * sum(heights)
        return abs(log(size[0] / size[1] / _SCREEN))

    length = n_columns
    if wrap:
        length = min(range(1, n_columns + 1), key=distance_from_screen)
    n_blocks = ceil(n_columns / length)
    length = ceil(n_columns / n_blocks)  # blocks of equal length
    size = np.array([length * width, n_blocks * sum(heights)])
    figure, axes = figure_with(
        n_blocks * len(images),
        length,
        size * min(1, _WIDEST / size[0]),
        fig,
        height_ratios=heights * n_blocks,
    )
    axes = axes.reshape(n_blocks, len(images), length).swapaxes(0, 1)
    axes = axes.reshape(len(images), n_blocks * length)
    for unused in axes[:, n_columns:].flat:
        unused.remove()
    return figure, axes[:, :n_columns].tolist()


def show_images(
    panels: list[Axes],
    images: Sequence[BaseSignal],
    titles: Sequence[str | None],
    cmaps: Sequence[Any] = ("gray",),
    limits: Sequence[tuple[float, float]] | None = None,
    *,
    scalebar: Sequence[int],
    axes_decor: str | None,
) -> None:
    """Show images with their titles, and a scale bar in some, if they have units.

    Parameters
    ----------
    panels : list of Axes
        One for each image.
    images : sequence of Signal2D
        Numbers, or colours, whose `limits` are not used.
    titles : sequence of str or None
        None leaves the title of a panel as it is.
    cmaps : sequence of str or Colormap
        Colormaps, one for each image or one for all.
    limits : sequence of tuple of float, optional
        Values at the ends of the colours of each image.
    scalebar : sequence of int
        The images with a scale bar.
    axes_decor : str or None
        As for :func:`hyperspy.api.plot.plot_images`; None shows no ticks.
    """
    before = [panel.get_title() for panel in panels]
    low, high = np.transpose(limits).tolist() if limits else (None, None)
    hs.plot.plot_images(
        list(images),
        ax=panels,
        label=[old if t is None else t for t, old in zip(titles, before, strict=True)],
        vmin=low,
        vmax=high,
        cmap=list(cmaps),
        colorbar=None,
        scalebar=list(scalebar) if units_of(images[0]) and scalebar else None,
        axes_decor=axes_decor,
    )
    for panel, cmap in zip(panels, list(cmaps) * len(panels), strict=False):
        if axes_decor is None:
            panel.set(xticks=[], yticks=[])
        if isinstance(cmap, Colormap):  # HyperSpy takes the name, which may be unknown
            panel.images[-1].set_cmap(cmap)
        if hasattr(panel, "scalebar"):
            _outline(panel.scalebar)


def _outline(scalebar: Any) -> None:
    """Make a scale bar legible on any image; on a flat one its text is beside it."""
    text, line = scalebar.text, scalebar.line
    text.set(va="bottom", size="small", path_effects=OUTLINE)
    line.set_path_effects(OUTLINE)
    figure, axes = text.figure, scalebar.ax
    height = axes.get_window_extent().height * 72 / figure.dpi
    (left, right), (y, _) = line.get_data()
    if height < 3 * text.get_size():
        text.set(position=(right, y), ha="left", text=f" {text.get_text()}")
    elif height > _NARROW * axes.get_window_extent().width * 72 / figure.dpi:
        text.set(x=left, ha="left")  # as it may be longer than the bar


def add_colorbar(panel: Axes, label: str) -> None:
    """Add a colour bar as high as the image, pointed where values lie beyond it."""
    picture = panel.images[0]
    values, (low, high) = picture.get_array(), picture.get_clim()
    beyond = values.min() < low, values.max() > high
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[beyond]
    width, height = _size_of_image(panel)
    bar = panel.figure.colorbar(
        picture,
        cax=panel.inset_axes((1 + 0.1 / width, 0, _BAR / width, 1)),
        extend=extend,
        ticks=MaxNLocator(max(min(4, int(4 * height)), 1), steps=STEPS),
    )
    if len(label) * _LETTER > height:  # it would not fit beside the bar
        bar.ax.set_title(label, loc="right", size="small")
    else:
        bar.set_label(label, size="small")
    bar.formatter.set_useMathText(True)
    bar.ax.tick_params(labelsize="small")
    bar.ax.yaxis.offsetText.set_size("small")


def _size_of_image(panel: Axes) -> tuple[float, float]:
    """Width and height in inches that the image of a panel of the grid will have."""
    figure, place = panel.figure, panel.get_subplotspec()
    grid = place.get_gridspec()
    parts = grid.get_height_ratios()
    height = figure.bbox.height / figure.dpi * parts[place.rowspan.start] / sum(parts)
    width = figure.bbox.width / figure.dpi / grid.ncols - _BESIDE
    n_y, n_x = panel.images[0].get_array().shape
    ratio = float(np.clip(n_y / n_x, 1 / _MOST_OBLONG, _MOST_OBLONG))
    width = max(min(width, (height - _ABOVE) / ratio), _BAR)
    return width, width * ratio


def add_caption(figure: Figure, caption: str) -> None:
    """Write below all panels, in letters small enough for the width of the figure."""
    text = figure.supxlabel(caption, fontsize="small")
    width = text.get_window_extent().width
    room = figure.bbox.width - 2 * MARGINS["w_pad"] * figure.dpi
    text.set_fontsize(text.get_fontsize() * min(1, room / width))


def frame(panel: Axes, image: BaseSignal) -> None:
    """Draw the outline of a region of the image into the panel."""
    left, right, bottom, top = extent_of(image)
    panel.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            edgecolor="white",
            path_effects=OUTLINE,
        )
    )


def outline(panel: Axes, where: BaseSignal) -> None:
    """Draw a line around the pixels of an image that are True."""
    left, right, bottom, top = extent_of(where)
    n_y, n_x = where.data.shape
    # one more pixel all around, so that a region at an edge is closed
    x, y = (
        np.linspace(a - step / 2, b + step / 2, n + 2)
        for a, b, n, step in (
            (left, right, n_x, (right - left) / n_x),
            (top, bottom, n_y, (bottom - top) / n_y),
        )
    )
    limits = panel.get_xlim(), panel.get_ylim()
    panel.contour(x, y, np.pad(where.data, 1), [0.5], colors=[MARK])
    panel.set(xlim=limits[0], ylim=limits[1])


def plain_images(
    arrays: Sequence[np.ndarray], like: BaseSignal, inav: Any = None
) -> list[Signal2D]:
    """Arrays as images on the axes of a signal; of a series those of one position."""
    images = [Signal2D(array, axes=axes_of(like)) for array in arrays]
    series = like.data.shape[:-2]
    if not series:
        return images
    return [taken(image, series, inav) for image in images]


def taken(signal: BaseSignal, series: tuple[int, ...], inav: Any) -> Any:
    """One position of a signal of a series; a ValueError if `inav` is none."""
    if inav is None:
        raise ValueError(choose_position(series))
    part = None
    if not isinstance(inav, bool | slice):
        with suppress(IndexError, TypeError, ValueError):
            part = signal.inav[inav]
    if part is None or part.axes_manager.navigation_size > 1:
        raise ValueError(
            f"inav is {inav!r}: expected the position of one image of a series of "
            f"shape {series}, as for signal.inav[...]"
        )
    return part


def at_position(
    array: np.ndarray, signal: BaseSignal, series: tuple[int, ...], inav: Any
) -> np.ndarray:
    """Value of an array of the record at one position of a series of this shape."""
    axes = signal.axes_manager.navigation_axes[::-1]
    if tuple(axis.size for axis in axes) != series:
        raise ValueError(
            f"{signal!r} is a part of a series of shape {series}: take a map of the "
            "whole series and choose the position with inav="
        )
    axes = [axis.get_axis_dictionary() for axis in axes]
    axes += [{"size": size, "navigate": False} for size in array.shape[len(series) :]]
    return taken(hs.signals.BaseSignal(array, axes=axes), series, inav).data


def record_at(record: Mapping[str, Any], signal: BaseSignal, inav: Any) -> dict:
    """A record with the numbers of pictures at one position of a series."""
    series = np.shape(record["haadf_coefficients"])[:-1]
    if not series:
        return dict(record)
    known = {
        name: np.asarray(record[name]) for name in _SHOWN_NUMBERS if name in record
    }
    return dict(record) | {
        name: at_position(
            np.broadcast_to(array, (*series, *array.shape[len(series) :])),
            signal,
            series,
            inav,
        ).reshape(array.shape[len(series) :])
        for name, array in known.items()
    }


def choose_position(series: tuple[int, ...]) -> str:
    """The message that a position of a series has to be chosen."""
    return (
        f"these are series of shape {series}: choose one position with inav=, as for "
        "signal.inav[...]"
    )


def range_of(array: np.ndarray) -> tuple[float, float]:
    """Ends of the values, without outliers and missing ones."""
    low, high = np.nanpercentile(array, SHOWN).tolist()
    return low, high if high > low else low + 1


def extent_of(image: BaseSignal) -> tuple[float, float, float, float]:
    """Left, right, bottom and top edge of an image in the units of its axes."""
    x, y = image.axes_manager.signal_axes
    left, top = (axis.offset - axis.scale / 2 for axis in (x, y))
    return left, left + x.size * x.scale, top + y.size * y.scale, top


def height_over_width(image: BaseSignal) -> float:
    """Of an image as HyperSpy shows it, pixel by pixel."""
    x, y = image.axes_manager.signal_axes
    return float(np.clip(y.size / x.size, 1 / _MOST_OBLONG, _MOST_OBLONG))


def units_of(image: BaseSignal) -> str:
    """Units of the axes, empty where they are not calibrated."""
    units = image.axes_manager.signal_axes[0].units
    return units if isinstance(units, str) else ""
