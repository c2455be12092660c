"""Where the HAADF image and the maps disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from ..derived import (
    complete_record,
    flagged_pixels,
    get_misfit,
    maps_of_fusion,
    measured_as,
    of_spectra,
    record_of,
)
from ..execution.arrays import computed
from .panels import (
    add_caption,
    add_colorbar,
    grid_of_images,
    height_over_width,
    outline,
    plain_images,
    range_of,
    record_at,
    show_images,
)

if TYPE_CHECKING:
    from ..inputs.measurement import Background, Image, Maps, Mask

_FLAT = 0.5  # height over width of images that are one below the other
_LEAST_Z = 4.5  # standard deviations at the ends of the colours, at least: the guard's


def plot_misfit(
    maps: Maps,
    fused: Any,
    haadf: Image,
    background: Background = None,
    *,
    mask: Mask = None,
    image: str | None = None,
    inav: Any = None,
    fig: Figure | None = None,
    cmap: str | Colormap = "PuOr",
    scalebar: bool = True,
    axes_decor: str | None = None,
) -> list[Axes]:
    """Show where an elastic image and the maps disagree.

    Parameters
    ----------
    maps, fused, haadf, background, mask, image
        As for :func:`get_misfit`: `haadf` is the image that `image` names, if it does.
    inav, fig
        As for :func:`plot_fusion`.
    cmap : str or Colormap, default "PuOr"
        Of the misfits, with 0 in its middle.
    scalebar, axes_decor
        As for :func:`plot_fusion`.

    Returns
    -------
    list of matplotlib.axes.Axes
        The image; image minus the model from fused maps, in units of the image; and the
        local misfit of image and measured maps in standard deviations, by which the
        guard of the calibrated method judges. Where the HAADF image was not used
        because of it, it is outlined. The last is left out where it is not defined: for
        the published method, for spectra and for fractions.

    Raises
    ------
    TypeError, ValueError
        If the signals do not belong together, or they are series and `inav` is missing.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(size=32)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf)
    >>> axes = hyperspy_fusion.plot_misfit(maps, fused, haadf)
    >>> [ax.get_title() for ax in axes]
    ['HAADF', 'image − model', 'local misfit']
    """
    fused = maps_of_fusion(fused)
    record = record_at(complete_record(fused[0]), fused[0], inav)
    judged = record["method"] == "calibrated" and "fraction_sum" not in record
    signals = maps, fused, haadf, background
    local = judged and not of_spectra(record_of(fused[0]))
    kinds = (False, True) if local else (False,)
    misfits = [
        get_misfit(*signals, standardised=kind, mask=mask, image=image)
        for kind in kinds
    ]
    measurement = measured_as(record_of(fused[0]), maps, haadf, background, mask)
    arrays = computed([measurement.haadf, *(misfit.data for misfit in misfits)])
    flagged = flagged_pixels(fused)
    if image is not None:  # it is not known where, only how much
        flagged = np.zeros_like(flagged)
    *images, outlined = plain_images([*arrays, flagged], misfits[0], inav)

    flat = height_over_width(images[0]) < _FLAT
    figure, (panels,) = grid_of_images(images[:1], len(images), fig, wrap=flat)
    show_images(
        panels,
        images,
        [image or "HAADF", "image − model", "local misfit"][: len(images)],
        ["gray", *[cmap] * len(misfits)],
        [range_of(images[0].data), *map(_symmetric, images[1:], (0.0, _LEAST_Z))],
        scalebar=[0] if scalebar else [],
        axes_decor=axes_decor,
    )
    seen = bool(outlined.data.any() and not outlined.data.all())
    intensity = "intensity (arb. units)"
    labels = [intensity, intensity, "standard deviations"]
    for panel, label in zip(panels, labels, strict=False):
        add_colorbar(panel, label)
        if seen:
            outline(panel, outlined)
    add_caption(figure, _sentence(record, image, judged=judged, outlined=seen))
    return panels


def _symmetric(image: Any, least: float) -> tuple[float, float]:
    """Range of values with 0 in its middle."""
    end = max(*np.abs(range_of(image.data)), least)
    return -end, end


def _sentence(
    record: dict[str, Any], image: str | None, *, judged: bool, outlined: bool
) -> str:
    """What the guard found."""
    bright = "Positive: the image is brighter than the maps tell"
    if not judged:
        return f"{bright}."
    names = "flagged", "lambda_haadf", "haadf_slow"
    if image is not None:
        names = "elastic_flagged", "lambda_elastic", "elastic_slow"
    numbers = [np.asarray(record.get(name, 0.0), dtype=float) for name in names]
    if image is not None:
        k = record["elastic"].split("\n").index(image)
        numbers = [values[..., k] for values in numbers]
    shares, weights, slow = numbers
    share = float(shares)
    found = "nowhere so much that it was left out"
    if share == 1:
        found = "so much that it was not used at all"
    elif share > 0:
        found = f"so much that it was not used in {100 * share:.2g} % of the pixels"
        found += " (outlined)" * outlined
    if not np.any(weights):
        found += "; its weight is 0"
    without = ["slow part"] * bool(np.any(slow))
    if image is None and np.any(record.get("haadf_row_noise", 0.0)):
        without.append("scan-line noise")
    subject = "The image"
    if without:
        subject = f"The image, without its {' and '.join(without)},"
    return f"{bright}.\n{subject} contradicts the maps {found}."
