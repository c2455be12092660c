"""The cost of a fusion against its iterations."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..derived import complete_record, cost_history, first_of
from ..summary import from_to
from .panels import STEPS, add_caption, figure_with

_FEW = 25  # values of a curve, up to which each is marked
_POISSON = "Chemical (Poisson)", "lambda_chem"  # of the published method


def plot_convergence(fused: Any, *, fig: Figure | None = None) -> list[Axes]:
    """Show the terms of the cost against the iterations.

    A sentence below tells how the iteration ended.

    Parameters
    ----------
    fused : ElementalMap or list of ElementalMap
        A fused map, or all of them: they share one history. Of a series each position
        has a line.
    fig : matplotlib.figure.Figure, optional
        Where to draw; by default a new figure.

    Returns
    -------
    list of matplotlib.axes.Axes
        The total cost and its terms without the weights in their titles, from the
        first iteration on: after each (published method), or after those that are
        ``cost_iterations`` of the record (calibrated method).

    Raises
    ------
    ValueError
        If a map does not come from a fusion.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    >>> axes = hyperspy_fusion.plot_convergence(fused)
    >>> axes[0].get_title()
    'Total cost'
    """
    one = first_of(fused)
    history = cost_history(one)
    record = one.metadata.Multimodal_fusion
    iterations = history.axes_manager.signal_axes[0].axis
    terms = history.metadata.Multimodal_fusion.terms.split(",")
    # positions x terms x iterations
    costs = history.data.reshape(-1, len(terms), len(iterations))
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(costs)))

    few = len(iterations) < _FEW or record.method == "calibrated"

    figure, panels = figure_with(2, 2, (8, 5.8), fig, sharex=True)
    for panel, term, curves in zip(
        panels.flat, terms, costs.swapaxes(0, 1), strict=True
    ):
        panel.set_prop_cycle(color=colours)
        panel.plot(iterations, curves.T, marker="." if few else "")
        panel.set_title(_cost_title(term, record))
        panel.set_ylabel("cost" if term == "total" else "value without λ")
        panel.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS, min_n_ticks=3))
        panel.yaxis.get_major_formatter().set_useMathText(True)
        panel.grid(alpha=0.3)
    for panel in panels[-1]:
        panel.set_xlabel("iteration")
        panel.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True))
    if len(costs) > 1:
        figure.suptitle(f"{len(costs)} positions, from dark to light")
    add_caption(figure, _sentences(complete_record(one), costs))
    return panels.flatten().tolist()


def _sentences(record: dict[str, Any], costs: np.ndarray) -> str:
    """How the iteration ended, and how to read the curves."""
    last = from_to(np.asarray(record["n_iter"], dtype=int), "d")
    end = "Converged" if record["converged"] else "Ended"
    if record["method"] == "calibrated":
        gap = 100 * np.max(np.asarray(record["gap"], dtype=float))
        state = f": the total cost is at most {gap:.2g} % above its minimum"
    else:
        total = costs[:, 0]
        change = np.abs(np.diff(total[:, -2:])) / np.abs(total[:, -1:])
        state = f": the last changed the total cost by {100 * change.max():.2g} %"
    points = ""
    if record["method"] == "calibrated":
        points = " Points show where it was computed."
    if costs.shape[-1] == 1:
        state = ""
    rises = np.count_nonzero(np.diff(costs[:, 0]) > 0)
    ends = "falls"
    if rises:
        ends = f"rises in {rises} of {np.diff(costs[:, 0]).size} steps"
    return (
        f"{end} after {last} iterations{state}.{points}\n"
        f"The total {ends}; a term may rise while the others fall by more."
    )


def _cost_title(term: str, record: Any) -> str:
    """Name of a term of the cost with its weight, of a series with its range."""
    calibrated = record.method == "calibrated"
    second_order = record.get_item("regularizer") == "tgv"
    name, weight = {
        "total": ("Total cost", None),
        "haadf": ("HAADF", "lambda_haadf"),
        "chemical": ("Chemical", None) if calibrated else _POISSON,
        "tv": ("TGV" if second_order else "Total variation", "lambda_tv"),
    }[term]
    if weight is None:
        return name
    return f"{name}, λ = {from_to(np.asarray(record[weight]))}"
