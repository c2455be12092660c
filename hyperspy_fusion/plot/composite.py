"""All elements in one picture: hue by composition, brightness by thickness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import hyperspy.api as hs
import numpy as np
from hyperspy.signals import BaseSignal
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like, to_hex, to_rgb
from matplotlib.patches import Patch

from ..execution.arrays import computed
from ..inputs.elements import infer_element
from ..inputs.images import as_images, axes_of, haadf_of
from ..inputs.stacks import split
from .panels import (
    figure_with,
    height_over_width,
    plain_images,
    range_of,
    show_images,
)

if TYPE_CHECKING:
    from ..inputs.measurement import Image, Maps

# Any two differ by at least 0.1 in OKLab, also for people with colour vision deficiency
# (tests/test_plot_composite.py). Blue against yellow is seen by nearly all.
COLOURS = ("#4d7dff", "#ffee20", "#ff4d00", "#4dffff", "#b04090", "#ffa0c0")
_NOTHING = np.full(3, 0.5)  # grey, where none of the elements is
_LEAST = 0.05**2  # square of a scaled map, from which on the hue is that of the element
_LIFT = 0.7  # power of the brightness, by which thin parts are seen
_SIDE = 4.0  # inches, of a square image
_ENTRY, _LINE = 1.25, 0.3  # inches, of a colour in the legend
_FLAT = 0.5  # height over width below which the legend is above the image


def plot_composite(
    fused: Maps,
    haadf: Image | None = None,
    *,
    colors: Sequence[Any] | Mapping[str, Any] | None = None,
    inav: Any = None,
    ax: Axes | None = None,
    scalebar: bool = True,
    axes_decor: str | None = None,
) -> Axes:
    """Show all elements in one picture of colours.

    The hue tells the composition, the brightness how much there is. Each map is scaled
    by the value that 99.8 % of its pixels do not exceed; colours are mixed as light, by
    the squares of the scaled maps, so that the main element stands out; the HAADF
    image, or the sum of the scaled maps, makes pixels bright or dark. Where the image
    is bright and no element is, the picture is grey.

    Parameters
    ----------
    fused : list of BaseSignal, or BaseSignal
        Fused maps, measured maps or maps of fractions, up to six; or a stack of them.
    haadf : BaseSignal, or list of BaseSignal, optional
        HAADF image of the same pixels, or :func:`get_haadf_model`, for the brightness.
    colors : list of color, or dict of str to color, optional
        Colours of Matplotlib for each map, or by element; by default six that people
        with colour vision deficiency can tell apart.
    inav
        As for :func:`plot_fusion`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure. The legend is beside it: a figure
        with ``layout="constrained"`` leaves room for that.
    scalebar, axes_decor
        As for :func:`plot_fusion`.

    Returns
    -------
    matplotlib.axes.Axes
        With a legend beside the image, which says to which value each colour goes.

    Raises
    ------
    TypeError, ValueError
        If maps and image are no images of the same pixels, if there are more maps than
        colours, or it is a series and `inav` is missing.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    >>> ax = hyperspy_fusion.plot_composite(fused, haadf)
    >>> [text.get_text().split()[0] for text in ax.get_legend().get_texts()]
    ['Co', 'Mn', 'O']
    """
    maps = [as_images(signal, "map") for signal in split(fused)]
    names = [infer_element(m) or m.metadata.General.title or "?" for m in maps]
    palette = _palette(names, colors)
    signals = list(maps)
    if haadf is not None:
        signals.append(haadf_of(haadf, maps[0].data.shape[-2:]))
    _check_same_shape(signals, names)
    arrays = computed([signal.data for signal in signals])
    images = plain_images(arrays, maps[0], inav)
    planes = np.stack([image.data for image in images[: len(maps)]])
    brightness = None if haadf is None else images[-1].data
    picture = _as_colours(images[0], composite(planes, palette, brightness))

    flat = height_over_width(picture) < _FLAT
    if ax is None:
        ax = _own_axes(height_over_width(picture), len(maps))
    show_images(
        [ax],
        [picture],
        [None],
        scalebar=[0] if scalebar else [],
        axes_decor=axes_decor,
    )
    tops = [top_of(plane) for plane in planes]
    _add_legend(ax, maps, names, palette, tops, above=flat)
    return ax


def _own_axes(ratio: float, n: int) -> Axes:
    """Axes of a new figure with room for an image and the legend of `n` colours."""
    width, height = _SIDE / sqrt(ratio), _SIDE * sqrt(ratio)
    flat = ratio < _FLAT
    if flat:
        height += 0.4 + _LINE * ceil(n / _columns(width))
    else:
        width += _ENTRY + 0.5
    _, ((ax,),) = figure_with(1, 1, (width, max(height, _LINE * n)))
    ax.set_anchor("C" if flat else "W")
    return ax


def _columns(width: float) -> int:
    """Colours side by side in a legend of some inches."""
    return max(int(width / _ENTRY), 1)


def composite(
    maps: np.ndarray, palette: Sequence[Any], brightness: np.ndarray | None = None
) -> np.ndarray:
    """Colours of a composite picture.

    Parameters
    ----------
    maps : numpy.ndarray
        Shape ``(n_elements, y, x)``, any units; NaN where nothing is known, and
        negative values, count as 0.
    palette : sequence of color
        A colour for each.
    brightness : numpy.ndarray, optional
        Shape ``(y, x)``, any units; by default the sum of the scaled maps.

    Returns
    -------
    numpy.ndarray
        RGB from 0 to 1, shape ``(y, x, 3)``.
    """
    tops = np.array([top_of(plane) for plane in maps])
    amounts = np.clip(np.nan_to_num(maps) / tops[:, None, None], 0, 1)
    total = amounts.sum(axis=0)
    if brightness is None:
        light = np.clip(total / top_of(total), 0, 1)
    else:
        low, high = range_of(brightness)
        light = np.clip((np.nan_to_num(brightness, nan=low) - low) / (high - low), 0, 1)
    # Light is added, not the numbers of a file, which are about its square root.
    linear = _linear(np.array([to_rgb(colour) for colour in palette]))
    shares = amounts**2
    mixed = np.tensordot(shares, linear, axes=(0, 0)) + _LEAST * _linear(_NOTHING)
    mixed /= (shares.sum(axis=0) + _LEAST)[..., None]
    return _encoded(mixed) * light[..., None] ** _LIFT


def top_of(image: np.ndarray) -> float:
    """The value at the bright end of the colours, above 0."""
    _, high = range_of(np.maximum(np.nan_to_num(image), 0))
    return high


def _linear(colours: np.ndarray) -> np.ndarray:
    """Light of sRGB colours."""
    bright = ((colours + 0.055) / 1.055) ** 2.4
    return np.where(colours <= 0.04045, colours / 12.92, bright)


def _encoded(light: np.ndarray) -> np.ndarray:
    """The sRGB colours of light."""
    bright = 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, light * 12.92, bright)


def _palette(names: Sequence[str], colours: Any) -> list[str]:
    """Colours of the maps, as they were asked for."""
    if isinstance(colours, Mapping):
        missing = [name for name in names if name not in colours]
        if missing:
            raise ValueError(
                f"colors has no colour of {', '.join(missing)}: expected one of each "
                f"of {', '.join(names)}"
            )
        colours = [colours[name] for name in names]
    no_list = isinstance(colours, str) or not isinstance(colours, Iterable)
    if colours is not None and no_list:
        raise TypeError(
            f"colors is {colours!r}: expected a list of colours, one for each map, or "
            "a dict of them"
        )
    given = COLOURS if colours is None else list(colours)
    if not names:
        raise ValueError("there are no maps: expected at least one fused map")
    if len(names) > len(given):
        remedy = "pass a list of colors, one for each" if colours is None else ""
        raise ValueError(
            f"there are {len(names)} maps and {len(given)} colours: expected at most "
            f"as many maps; choose some of them{remedy and f', or {remedy}'}"
        )
    wrong = [colour for colour in given if not is_color_like(colour)]
    if wrong:
        raise ValueError(
            f"colors has {wrong[0]!r}: expected colours of Matplotlib, as 'red' or "
            "'#ff0000'"
        )
    return [to_hex(colour) for colour in given[: len(names)]]


def _check_same_shape(signals: Sequence[BaseSignal], names: Sequence[str]) -> None:
    """Raise a ValueError if not all signals have the pixels of the first."""
    for signal, name in zip(signals, [*names, "HAADF image"], strict=False):
        if signal.data.shape != signals[0].data.shape:
            raise ValueError(
                f"the shape of {name} is {signal.data.shape} and that of {names[0]} "
                f"{signals[0].data.shape}: expected images of the same pixels. Maps "
                "that were fused with match= fit get_haadf_model(fused)"
            )


def _as_colours(image: BaseSignal, colours: np.ndarray) -> BaseSignal:
    """An image of colours on the axes of another one."""
    axes = axes_of(image)
    for axis in axes:
        axis["navigate"] = True
    channels = np.rint(255 * colours).astype(np.uint8)
    signal = hs.signals.Signal1D(channels, axes=[*axes, {"size": 3, "navigate": False}])
    signal.change_dtype("rgb8")
    return signal.transpose(signal_axes=(0, 1))


def _add_legend(
    ax: Axes,
    maps: Sequence[BaseSignal],
    names: Sequence[str],
    palette: Sequence[str],
    tops: Sequence[float],
    *,
    above: bool,
) -> None:
    """Name the colours, and the values to which they go, beside the image."""
    handles = [
        Patch(facecolor=colour, edgecolor="black", linewidth=0.5) for colour in palette
    ]
    labels = [f"{name}  to {top:.3g}" for name, top in zip(names, tops, strict=True)]
    quantities = {m.metadata.get_item("Signal.quantity", "") for m in maps}
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "ncols": 1}
    if above:
        width = ax.get_window_extent().width / ax.figure.dpi
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1)}
        place["ncols"] = _columns(width)
    ax.legend(
        handles,
        labels,
        title=quantities.pop() if len(quantities) == 1 else None,
        frameon=False,
        handlelength=1,
        handleheight=1,
        **place,
    )
