"""Maps before and after the fusion, and the HAADF image and its model."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from numbers import Real
from typing import TYPE_CHECKING, Any

import hyperspy.api as hs
import numpy as np
from hyperspy.signals import BaseSignal
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from ..derived import (
    complete_record,
    flagged_pixels,
    get_haadf_model,
    is_spectrum_image,
    maps_of_fusion,
    measured_as,
    net_maps,
    record_of,
)
from ..execution.arrays import computed
from ..summary import caption_of
from .panels import (
    SHOWN,
    add_caption,
    add_colorbar,
    extent_of,
    frame,
    grid_of_images,
    outline,
    plain_images,
    range_of,
    record_at,
    show_images,
    units_of,
)

if TYPE_CHECKING:
    from ..inputs.further import Elastic
    from ..inputs.measurement import Background, Image, Maps, Mask


def plot_fusion(
    maps: Maps,
    fused: Any,
    haadf: Image,
    background: Background | None = None,
    *,
    mask: Mask = None,
    elastic: Elastic = None,
    zoom: Any = None,
    inav: Any = None,
    fig: Figure | None = None,
    cmap: str | Colormap = "inferno",
    scalebar: bool = True,
    axes_decor: str | None = None,
) -> list[Axes]:
    """Show the maps above the fused maps, and the elastic images above their models.

    Measured maps are shown without their background, in the colours of the fused ones,
    which span the fused map and the smoothed measured one. Single counts may lie
    beyond: the colour bar is then pointed. Where the HAADF image contradicts the maps
    and was not used, it is outlined. A caption of two lines tells what was done;
    :func:`hyperspy_fusion.summarize` tells more.

    Parameters
    ----------
    maps : list of BaseSignal, or BaseSignal
        The measured maps, as :func:`hyperspy_fusion.fuse_multimodal` takes them. Of
        maps that were fused from spectra, these: the counts in a window around each
        line are shown, with the continuum and other lines in them; or any measured
        maps of the same lines, as ``load_multimodal(..., maps="windows")`` gives them.
    fused : list of ElementalMap, or ElementalMap
        All fused maps, or a stack of them.
    haadf : BaseSignal, or list of BaseSignal
        The HAADF image.
    background, mask, elastic : optional
        As they were given to :func:`hyperspy_fusion.fuse_multimodal`.
    zoom : hyperspy.api.roi.RectangularROI or tuple of float, optional
        A region ``(left, top, right, bottom)`` in the units of the axes, which is
        framed and shown enlarged below.
    inav : int, float or tuple, optional
        The position of a series to show, as ``signal.inav[...]`` takes it.
    fig : matplotlib.figure.Figure, optional
        Where to draw; by default a new figure.
    cmap : str or Colormap, default "inferno"
        Of the maps; the elastic images and their models are grey.
    scalebar : bool, default True
        Whether there is a scale bar, if the axes have units.
    axes_decor : {None, "all", "ticks", "off"}
        As for :func:`hyperspy.api.plot.plot_images`; None shows no ticks.

    Returns
    -------
    list of matplotlib.axes.Axes
        Those of the images: HAADF image, other elastic images and measured maps, then
        their models and the fused maps, then the same of the zoom.

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
    >>> axes = hyperspy_fusion.plot_fusion(maps, fused, haadf, zoom=(30, 20, 50, 40))
    >>> axes[1].get_title(), axes[5].get_title()
    ('Co', 'Co fused')
    """
    fused = maps_of_fusion(fused)
    elements = record_of(fused[0]).elements.split(",")
    measured, modelled, outlined = _images(
        maps, fused, haadf, background=background, mask=mask, elastic=elastic, inav=inav
    )
    n_images = len(measured) - len(elements)
    shown = elements
    if is_spectrum_image(maps):
        shown = [f"{line} window" for line in record_of(fused[0]).lines.split(",")]
    limits = [range_of(image.data) for image in measured[:n_images]]
    limits += map(_map_limits, measured[n_images:], modelled[n_images:])
    record = record_at(complete_record(fused[0]), fused[0], inav)
    used = record["lambda_haadf"] != 0 and record.get("flagged", 0) < 1
    how = "fused" if used else "without HAADF"
    models = [image.metadata.General.title for image in modelled[:n_images]]
    images = [model.removesuffix(" model") for model in models]
    rows = [
        ([*images, *shown], measured),
        ([*models, *(f"{element} {how}" for element in elements)], modelled),
    ]
    if zoom is not None:
        region = _as_region(zoom, measured[0])
        rows += [(titles, list(map(region, images))) for titles, images in rows]

    n_columns = len(measured)
    figure, axes = grid_of_images([images[0] for _, images in rows], n_columns, fig)
    panels = [panel for row in axes for panel in row]
    show_images(
        panels,
        [image for _, images in rows for image in images],
        [title for titles, _ in rows for title in titles],
        [*["gray"] * n_images, *[cmap] * len(elements)] * len(rows),
        limits * len(rows),
        scalebar=range(0, len(panels), 2 * n_columns) if scalebar else (),
        axes_decor=axes_decor,
    )
    labels = [_unit_of_image(haadf), *[_unit_of_image(None)] * (n_images - 1)]
    units = [_unit_of_maps(fused[0])] * 2  # of measured and of fused maps
    if "fraction_sum" in record:
        units[0] = "fractions"
    for row, unit in zip(axes, cycle(units), strict=False):
        for panel, label in zip(row, [*labels, *[unit] * len(elements)], strict=True):
            add_colorbar(panel, label)
        if outlined is not None:
            outline(row[0], outlined)
    for row, (_, regions) in zip(axes, rows[2:], strict=False):
        for panel, image in zip(row, regions, strict=True):
            frame(panel, image)
    add_caption(figure, caption_of(record, outlined=outlined is not None))
    return panels


def _unit_of_image(haadf: Any) -> str:
    """What the numbers of a HAADF image are: its quantity, or arbitrary units."""
    one = haadf[0] if isinstance(haadf, list | tuple) and len(haadf) == 1 else haadf
    quantity = ""
    if isinstance(one, BaseSignal):
        quantity = one.metadata.get_item("Signal.quantity", "")
    return quantity or "intensity (arb. units)"


def _unit_of_maps(fused: BaseSignal) -> str:
    """What the numbers of a fused map are."""
    quantity = fused.metadata.get_item("Signal.quantity", "")
    kind = record_of(fused).get_item("kind", "")
    return quantity or ("counts" if kind in ("counts", "spectra") else "")


def _images(
    maps: Maps,
    fused: list,
    haadf: Image,
    *,
    background: Any,
    mask: Any,
    elastic: Any,
    inav: Any,
) -> tuple[list, list, Any]:
    """The images before and after the fusion, elastic images first; and flagged ones.

    Plain images of one field of view, computed together, so that lazy fused maps are
    solved once. The last is True where the guard flagged a pixel, or None.
    """
    model = get_haadf_model(fused)
    record = record_of(fused[0])
    measurement = measured_as(record, maps, haadf, background, mask, elastic)
    names = measurement.elastic_names
    models = [get_haadf_model(fused, name) for name in names]
    net = net_maps(measurement, record)
    if model.data.shape != measurement.haadf.shape:
        raise ValueError(
            f"the fused maps give a HAADF model of shape {model.data.shape} and the "
            f"HAADF image is {measurement.haadf.shape}: expected the maps of one "
            "fusion; of a series pass all positions and choose one with inav="
        )
    arrays = computed(
        [
            measurement.haadf,
            *(measurement.elastic[..., k, :, :] for k in range(len(names))),
            *np.moveaxis(net, -3, 0),
            *(signal.data for signal in (model, *models)),
            *(signal.data for signal in fused),
        ]
    )
    flagged = flagged_pixels(fused)
    *images, outlined = plain_images([*arrays, flagged], model, inav)
    half = len(images) // 2
    for image, title in zip(images[half:], ("HAADF", *names), strict=False):
        image.metadata.General.title = f"{title} model"
    any_flagged = outlined.data.any() and not outlined.data.all()
    return images[:half], images[half:], outlined if any_flagged else None


def _as_region(zoom: Any, image: BaseSignal) -> Any:
    """The region that a user asks for, checked to be inside the image."""
    names = ("left", "top", "right", "bottom")
    if isinstance(zoom, hs.roi.RectangularROI):
        edges = [getattr(zoom, name) for name in names]
    else:
        edges = list(zoom) if isinstance(zoom, Iterable) else [zoom]
    x_low, x_high, y_high, y_low = extent_of(image)
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
            f"{y_high:g} {units_of(image)}"
        )
    return hs.roi.RectangularROI(*edges)


def _map_limits(measured: BaseSignal, modelled: Any) -> tuple[float, float]:
    """Range of values of a map and its fused map, without noise and outliers."""
    known = np.isfinite(measured.data)
    share = gaussian_filter(known.astype(float), 2)
    smooth = gaussian_filter(np.where(known, measured.data, 0.0), 2)
    smooth = smooth / np.maximum(share, 1e-3)
    ends = np.percentile([smooth, modelled.data], SHOWN, axis=(1, 2))
    low, high = min(ends[0].min(), 0.0), ends[1].max()
    return low, high if high > low else low + 1
