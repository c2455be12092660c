"""The choice of the weights of a fusion."""

from __future__ import annotations

from typing import Any

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
from hyperspy.signals import BaseSignal
from matplotlib.axes import Axes

from ..derived import first_of, record_of
from .panels import MARGINS, choose_position

_RING = {"ms": 13, "mfc": "none", "mec": "crimson", "mew": 2, "ls": "none"}


def plot_weights(fused: Any, *, inav: Any = None) -> Axes:
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
    matplotlib.axes.Axes
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
    >>> ax = hyperspy_fusion.plot_weights(fused)
    """
    tried, (lambda_tv, lambda_haadf) = _weights(fused, inav)
    lambdas, weights, errors = tried.T
    errors = 100 * (errors / errors.min() - 1)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(np.unique(weights))))

    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    figure.get_layout_engine().set(**MARGINS)
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
    return axes


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
        raise ValueError(choose_position(series))
    axes = [axis.get_axis_dictionary() for axis in axes]
    axes += [{"size": size, "navigate": False} for size in array.shape[len(series) :]]
    return hs.signals.BaseSignal(array, axes=axes).inav[inav].data
