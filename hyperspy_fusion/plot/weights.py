"""The choice of the weights of a fusion."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from hyperspy.signals import BaseSignal
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..derived import complete_record, first_of, maps_of_fusion, of_spectra, record_of
from ..execution.arrays import computed
from ..fusion import fuse_multimodal, fuse_published
from ..inputs.images import as_images, haadf_of
from ..inputs.stacks import split
from ..provenance import check_as_fused, options_of
from ..results import pending
from .panels import (
    STEPS,
    add_caption,
    add_colorbar,
    at_position,
    figure_with,
    grid_of_images,
    plain_images,
    range_of,
    show_images,
)

if TYPE_CHECKING:
    from ..inputs.measurement import Image, Maps

_RING = {"ms": 16, "mfc": "none", "mec": "crimson", "mew": 2, "ls": "none"}
_MARKERS = "osD^vPX"
_LARGEST, _SMALLEST = 9.0, 4.5  # points, of the marker of the first and the last curve
_FACTOR = 4.0  # between λ that is too low, right and too high


def plot_weights(
    fused: Any,
    maps: Maps | None = None,
    haadf: Image | None = None,
    *,
    images: bool = False,
    inav: Any = None,
    fig: Figure | None = None,
    cmap: str | Colormap = "inferno",
    scalebar: bool = True,
    axes_decor: str | None = None,
    **measurement: Any,
) -> list[Axes]:
    """Show the cross-validation that chose the weights, or what λ_TV does to the maps.

    Each line is one weight of the HAADF term; where the line at 0 is the lowest, the
    image does not help. Each further elastic image that was tried has a panel with the
    least error of all trials with some weight of this image. With `images`, fused maps
    are shown instead, with a quarter of λ_TV, with λ_TV, and with four times as much.

    Parameters
    ----------
    fused : ElementalMap or list of ElementalMap
        A fused map, or all of them: they share their weights.
    maps, haadf : optional
        As they were given to the fusion; only for `images`.
    images : bool, default False
        Whether to show maps, which are fused two times more. Works for both methods.
    inav, fig, cmap, scalebar, axes_decor
        As for :func:`plot_fusion`; the last three only for `images`.
    **measurement
        Data that were given to the fusion beside maps and image: ``background``,
        ``mask``, ``elastic``; only for `images`.

    Returns
    -------
    list of matplotlib.axes.Axes
        One with the held-out error against λ_TV, the weights that were chosen without
        further images ringed: λ_TV may lie between the tried values, at the vertex of a
        parabola. Then one for each further image that was tried. Or those of the
        images, with low, chosen and high λ_TV.

    Raises
    ------
    TypeError
        If there are other options without `images`, or unknown ones.
    ValueError
        If a map does not come from a fusion, if no weights were chosen, if maps and
        image are missing for `images`, or if it is a series and `inav` is missing.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    >>> axes = hyperspy_fusion.plot_weights(fused)
    >>> axes = hyperspy_fusion.plot_weights(fused, maps, haadf, images=True)
    >>> len(axes)
    9
    """
    if images:
        style = {"cmap": cmap, "scalebar": scalebar, "axes_decor": axes_decor}
        return _plot_images(fused, maps, haadf, measurement, inav, fig, style)
    if measurement:
        raise TypeError(
            f"plot_weights got {', '.join(measurement)}: expected what was given to "
            "the fusion only together with images=True"
        )
    fused = maps_of_fusion(fused)
    further = _further_weights(fused, inav)
    if pending(first_of(fused)):
        raise ValueError("the maps are not computed yet: call compute() of each")
    known = first_of(fused).metadata.get_item("Multimodal_fusion.weights_tried")
    alone = [] if further and known is None else [_weights(fused, inav)]
    n_panels = len(alone) + len(further)
    _, (panels,) = figure_with(1, n_panels, (7.5 + 3 * (n_panels - 1), 4.5), fig)
    panels = panels.tolist()
    for panel, (tried, chosen) in zip(panels, alone, strict=False):
        _show_tried(panel, tried, chosen, [one for one in further if one.weight > 0])
    for panel, one in zip(panels[len(alone) :], further, strict=True):
        _show_further(panel, one)
    return panels


def _show_tried(
    axes: Axes, tried: np.ndarray, chosen: np.ndarray, used: Sequence[_Tried]
) -> None:
    """Held-out error against λ_TV, a line for each weight of the HAADF term.

    What was chosen is ringed, unless further images that are used changed it.
    """
    lambda_tv, lambda_haadf = chosen
    lambdas, weights, errors = tried.T
    errors = 100 * (errors / errors.min() - 1)
    every = np.unique(weights)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(every)))
    sizes = np.linspace(_LARGEST, _SMALLEST, len(every))
    # A curve on top of another one has smaller markers and a thinner line: both show.
    for weight, colour, size, marker in zip(
        every, colours, sizes, _MARKERS * len(every), strict=False
    ):
        x, y = lambdas[weights == weight], errors[weights == weight]
        label = f"{weight:.3g}" if weight > 0 else "0, without the image"
        style = {"color": colour, "marker": marker, "ms": size, "lw": size / 2.5}
        axes.plot(x, y, label=label, **style)
        if weight == lambda_haadf:
            # on the line as it is drawn
            height = _square(np.interp(np.log(lambda_tv), np.log(x), _root(y)))
    if used:
        names = ", ".join(one.name for one in used)
        axes.set_title(
            f"HAADF alone. With {names}: λ$_{{TV}}$ = {lambda_tv:.3g}, "
            f"λ$_{{HAADF}}$ = {lambda_haadf:.3g}",
            fontsize="medium",
        )
    else:
        label = f"chosen, λ$_{{TV}}$ = {lambda_tv:.3g}"
        axes.plot(lambda_tv, height, "o", label=label, zorder=3, **_RING)
    axes.set_xscale("log")
    axes.set_xticks(np.unique(lambdas), [f"{x:.3g}" for x in np.unique(lambdas)])
    axes.minorticks_off()
    # Curves near the least error are apart, those far above it still on the picture.
    axes.set_yscale("function", functions=(_root, _square))
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=STEPS))
    axes.set_ylim(-0.003 * errors.max(), None)
    axes.set_xlabel("λ$_{TV}$, weight of the total variation")
    axes.set_ylabel("squared error of the prediction\nabove the least (%)")
    axes.grid(alpha=0.3)
    axes.legend(title="λ$_{HAADF}$", loc="center left", bbox_to_anchor=(1, 0.5))


def _show_further(axes: Axes, one: _Tried) -> None:
    """Least held-out error against the weight of a further image."""
    places = np.arange(len(one.weights))  # the weights are 0 and powers of √10
    axes.plot(places, one.errors, "o-", color="0.3")
    ringed = one.weights == one.weight
    axes.plot(places[ringed], one.errors[ringed], "o", **_RING)
    axes.set_xticks(places, [f"{weight:.3g}" for weight in one.weights])
    axes.set_xlabel(f"λ of {one.name}")
    axes.set_ylabel("least squared error above the least (%)")
    used = "used" if one.weight > 0 else "not used"
    axes.set_title(
        f"{one.name}: gain {one.gain:.1f} standard deviations, {used}",
        fontsize="medium",
    )
    axes.grid(alpha=0.3)


def _root(x: np.ndarray) -> np.ndarray:
    """Square root, with the sign."""
    return np.sign(x) * np.sqrt(np.abs(x))


def _square(x: np.ndarray) -> np.ndarray:
    """The inverse of the root."""
    return np.sign(x) * np.square(x)


def _plot_images(
    fused: Any,
    maps: Any,
    haadf: Any,
    measurement: dict[str, Any],
    inav: Any,
    fig: Figure | None,
    style: dict[str, Any],
) -> list[Axes]:
    """Fused maps with low, right and high λ_TV."""
    fused = maps_of_fusion(fused)
    record = record_of(fused[0])
    if of_spectra(record):
        raise ValueError(
            "images=True fuses maps again, and these come from spectra: expected maps "
            "that fuse_multimodal or fuse_published returned; fuse_spectra(..., "
            "lambda_tv=...) gives those of another weight"
        )
    if maps is None or haadf is None:
        raise ValueError(
            "images=True fuses the maps again: expected also the measured maps and the "
            "HAADF image, plot_weights(fused, maps, haadf, images=True)"
        )
    given = {name: measurement.get(name) for name in ("background", "mask")}
    complete = complete_record(fused[0])
    check_as_fused(complete, **given)
    elements = record.elements.split(",")
    right = plain_images(computed([s.data for s in fused]), fused[0], inav)
    maps = [as_images(signal, "map") for signal in split(maps)]
    haadf = haadf_of(haadf, maps[0].data.shape[-2:])
    series = fused[0].data.shape[:-2]
    chosen = _chosen(record, fused[0], series, inav)
    if series:
        maps = [signal.inav[inav] for signal in maps]
        haadf = haadf.inav[inav]
        measurement = {
            name: _part_of(given, fused[0], series, inav)
            for name, given in measurement.items()
        }
    lambda_tv = chosen["lambda_tv"]
    if lambda_tv == 0 or record.get_item("regularize") is False:
        raise ValueError(
            "these maps were fused without total variation: expected a fusion with "
            "lambda_tv above 0"
        )

    def with_weight(weight: float) -> list[BaseSignal]:
        """The maps fused with another λ_TV and whatever else the record holds."""
        options = options_of(complete)
        fuse: Any = fuse_published
        if record.method != "published":
            fuse = fuse_multimodal
            options |= {"uncertainty": False, "n_replicas": None}
            del options["weights"]  # of a series
        options |= {**chosen, "lambda_tv": weight, **measurement}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the fusion gave the same
            again = fuse(maps, haadf, **options, show_progressbar=False)
        return plain_images(computed([s.data for s in again]), again[0])

    lambdas = [lambda_tv / _FACTOR, lambda_tv, lambda_tv * _FACTOR]
    rows = [with_weight(lambdas[0]), right, with_weight(lambdas[2])]
    quantity = fused[0].metadata.get_item("Signal.quantity", "")
    return _draw_images(rows, lambdas, elements, quantity, fig, style)


def _draw_images(
    rows: list[list[BaseSignal]],
    lambdas: Sequence[float],
    elements: list[str],
    quantity: str,
    fig: Figure | None,
    style: dict[str, Any],
) -> list[Axes]:
    """Draw rows of maps with low, right and high λ_TV, in the colours of the second."""
    figure, axes = grid_of_images([row[0] for row in rows], len(elements), fig)
    panels = [panel for row in axes for panel in row]
    ranges = [range_of(image.data) for image in rows[1]]
    limits = [(min(low, 0.0), high) for low, high in ranges]
    words = "under", "right", "over"
    show_images(
        panels,
        [image for row in rows for image in row],
        [f"{element}, {word}" for word in words for element in elements],
        [style["cmap"]],
        limits * len(rows),
        scalebar=[0] if style["scalebar"] else [],
        axes_decor=style["axes_decor"],
    )
    for panel in panels:
        add_colorbar(panel, quantity)
    values = ", ".join(
        f"{word}: λ$_{{TV}}$ = {value:.3g}"
        for word, value in zip(words, lambdas, strict=True)
    )
    add_caption(
        figure,
        f"{values}.\nUnder: noise is left. Over: edges and small parts are lost.",
    )
    return panels


def _chosen(
    record: Any, signal: BaseSignal, series: tuple[int, ...], inav: Any
) -> dict[str, Any]:
    """The weights of a fusion as options; of a series those of one position."""
    found = {}
    for name in ("lambda_tv", "lambda_haadf", "lambda_elastic"):
        weight = np.asarray(record.get_item(name, np.nan))
        if np.isnan(weight).all():
            continue
        if series:
            shape = *series, *weight.shape[len(series) :]
            weight = np.broadcast_to(weight, shape)
            weight = at_position(weight, signal, series, inav)
        found[name] = np.squeeze(weight) if name != "lambda_elastic" else weight
    return found


def _weights(fused: Any, inav: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows (λ_TV, λ_HAADF, error) that were tried, in order, and the chosen pair.

    Of a series those of one position.
    """
    one = first_of(fused)
    record = record_of(one)
    if not record.has_item("weights_tried"):
        raise ValueError(
            "there are no weights that were chosen for this image alone: expected a "
            "map from fuse_multimodal with lambda_tv or lambda_haadf left to 'auto', "
            "and without weights='shared'"
        )
    # After a lazy load the arrays in the metadata are dask arrays.
    rows = np.asarray(record.weights_tried)
    weights = (np.asarray(record[name]) for name in ("lambda_tv", "lambda_haadf"))
    series = rows.shape[:-2]
    chosen = np.stack([np.broadcast_to(weight, series) for weight in weights], axis=-1)
    if series:
        rows, chosen = (
            at_position(array, one, series, inav) for array in (rows, chosen)
        )
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        raise ValueError(
            "the weights of this position were not chosen for it alone: expected the "
            "first position of the series, for which those of all were chosen"
        )
    return rows[np.lexsort(rows.T[:2])], chosen


@dataclass(frozen=True)
class _Tried:
    """A further image that was tried: its weight and gain, and its trials.

    `errors` are the least ones of all trials with the `weights`, in percent above the
    least of them.
    """

    name: str
    weight: float
    gain: float
    weights: np.ndarray
    errors: np.ndarray


def _further_weights(fused: Any, inav: Any) -> list[_Tried]:
    """The further elastic images that were tried; of a series at one position."""
    one = first_of(fused)
    record = record_of(one)
    if not record.has_item("elastic_tried"):
        return []
    names = record.elastic.split("\n")
    keys = "elastic_tried", "lambda_elastic", "elastic_gain"
    rows, chosen, gains = (np.asarray(record[key]) for key in keys)
    series = rows.shape[:-2]
    if series:
        rows, chosen, gains = (
            at_position(array, one, series, inav) for array in (rows, chosen, gains)
        )
    rows = rows[np.isfinite(rows).all(axis=1)]
    found = []
    for k, (name, weight, gain) in enumerate(zip(names, chosen, gains, strict=True)):
        # an image that is not used was compared before the next ones were added
        compared = rows if weight > 0 else rows[~rows[:, k + 3 : -1].any(axis=1)]
        of_image, scores = compared[:, k + 2], compared[:, -1]
        if np.isnan(gain) or not of_image.any():
            continue
        weights = np.unique(of_image)
        errors = np.array([scores[of_image == one].min() for one in weights])
        errors = 100 * (errors / errors.min() - 1)
        found.append(_Tried(name, weight, gain, weights, errors))
    return found


def _part_of(given: Any, signal: BaseSignal, series: tuple[int, ...], inav: Any) -> Any:
    """One position of a background or mask, where it has one for each."""
    if isinstance(given, Mapping):
        return {
            name: _part_of(one, signal, series, inav) for name, one in given.items()
        }
    if isinstance(given, list | tuple):
        return [_part_of(one, signal, series, inav) for one in given]
    if isinstance(given, BaseSignal):
        images = as_images(given, "background or mask")
        own = images.data.shape[-2 - len(series) : -2] == series
        return images.inav[inav] if own else given
    if np.ndim(given) > 2:
        return at_position(np.asarray(given), signal, series, inav)
    return given
