"""The sum spectrum, and what was fitted to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .panels import add_caption, figure_with

if TYPE_CHECKING:
    from ..loading.sum_spectrum import SumSpectrum

_SIZE = 9.0, 5.4  # inches
_LOWEST = 0.5  # counts, the end of the logarithmic axis
_LEAST_COUNTS = 0.1  # whose noise is that of a channel, at least
_LABELLED = 0.01  # fraction of the largest family, of one that is named
_BAND = 3.0  # standard deviations


def plot_sum_spectrum(
    spectrum: SumSpectrum,
    windows: Sequence[tuple[float, float]] = (),
    *,
    fig: Figure | None = None,
) -> list[Axes]:
    """Show a sum spectrum with the lines and the continuum that were fitted to it.

    Parameters
    ----------
    spectrum : SumSpectrum
        As :func:`fit_sum_spectrum` returns it.
    windows : sequence of tuple of float, optional
        Windows ``(start, stop)`` in keV, which are shaded; those of the lines whose
        maps are fused, for example.
    fig : matplotlib.figure.Figure, optional
        Where to draw; by default a new figure.

    Returns
    -------
    list of matplotlib.axes.Axes
        Counts in a channel: measured, fitted, and of each component; residuals in
        standard deviations of the Poisson noise.

    See Also
    --------
    fit_sum_spectrum

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.janus(size=32)
    >>> lines = ["Au_La", "Fe_Ka", "O_Ka"]
    >>> spectra = hyperspy_fusion.data.xray_spectra(truth, lines)
    >>> found = hyperspy_fusion.fit_sum_spectrum(spectra, ["Au", "Fe", "O"])
    >>> axes = hyperspy_fusion.plot_sum_spectrum(found, [(6.3, 6.5)])
    >>> axes[0].get_ylabel()
    'counts in a channel'
    """
    if not hasattr(spectrum, "energies"):
        raise TypeError(
            f"spectrum is of type {type(spectrum).__name__}: expected what "
            "fit_sum_spectrum returned"
        )
    energies, model = spectrum.energies, spectrum.model
    figure, panels = figure_with(
        2, 1, _SIZE, fig, sharex=True, height_ratios=[3, 1], gridspec_kw={"hspace": 0}
    )
    counts, residual = panels[:, 0]
    counts.step(energies, spectrum.counts, where="mid", color="0.6", label="measured")
    for k, (name, values) in enumerate(spectrum.components.items()):
        colour = f"C{k}" if name in spectrum.elements else "black"
        alpha = 0.4 if name in spectrum.elements else 0.1
        counts.fill_between(energies, values, color=colour, alpha=alpha, label=name)
    counts.plot(energies, model, color="black", linewidth=1, label="fitted")
    most = max(spectrum.counts.max(), 1)
    counts.set(yscale="log", ylim=(_LOWEST, 8 * most), ylabel="counts in a channel")
    counts.legend(ncols=2, fontsize="small", loc="upper right")
    least = _LABELLED * max(spectrum.sums.values())
    for family, sum_of_family in spectrum.sums.items():
        if sum_of_family > least:
            energy = spectrum.lines[family][0]
            height = np.interp(energy, energies, np.maximum(model, 1))
            label = family.replace("_", " ")
            counts.text(
                energy, 1.3 * height, label, ha="center", rotation=90, fontsize="small"
            )
    noise = np.sqrt(np.maximum(model, _LEAST_COUNTS))
    residual.axhspan(-_BAND, _BAND, color="0.9")
    residual.step(energies, (spectrum.counts - model) / noise, where="mid", color="C0")
    residual.set(xlabel="energy (keV)", ylabel="residual / noise")
    residual.set_xlim(energies[0], energies[-1])
    for start, stop in windows:
        for panel in (counts, residual):
            panel.axvspan(start, stop, color="gold", alpha=0.3, linewidth=0, zorder=0)
    add_caption(figure, _sentences(spectrum))
    return [counts, residual]


def _sentences(spectrum: SumSpectrum) -> str:
    """How good the fit is."""
    n = len(spectrum.warnings)
    return (
        f"Reduced χ² {spectrum.chi2:.3g}; energies {1000 * spectrum.offset:+.1f} eV "
        f"and x {spectrum.scale:.4f}, resolution {spectrum.resolution:.0f} eV at Mn Kα;"
        f" {n} warning{'s' * (n != 1)}."
    )
