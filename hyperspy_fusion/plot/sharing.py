"""Which pixels share their counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hyperspy.signals import BaseSignal
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from ..derived import (
    all_maps_of_fusion,
    complete_record,
    groups_at,
    is_spectrum_image,
    measured_as,
    of_spectra,
    record_of,
)
from ..execution.arrays import computed
from ..spectral_fusion import spectra_again
from .panels import (
    MARK,
    OUTLINE,
    add_caption,
    choose_position,
    grid_of_images,
    plain_images,
    range_of,
    show_images,
)

if TYPE_CHECKING:
    from ..inputs.measurement import Background, Image, Maps, Mask

_AREA = 40.0  # square points, of the mark of the pixel that counts most


def plot_sharing(
    maps: Maps,
    fused: Any,
    haadf: Image,
    pixel: tuple[int, int],
    background: Background = None,
    *,
    mask: Mask = None,
    inav: Any = None,
    fig: Figure | None = None,
    cmap: str | Colormap = "gray",
    scalebar: bool = True,
    axes_decor: str | None = None,
) -> list[Axes]:
    """Show the pixels of which a pixel has the mean counts.

    Of a fusion with ``share=True``. The pixels are found again from the data and the
    maps before sharing.

    Parameters
    ----------
    maps, fused, haadf
        As for :func:`get_misfit`, as they were fused; the spectra in the place of maps
        that were fused from them.
    pixel : tuple of int
        Row and column (y, x) of the pixel, counted from 0.
    background, mask
        As for :func:`get_misfit`, as they were fused.
    inav : int or tuple of int, optional
        The position of a series to show, as ``signal.inav[...]`` takes it.
    fig
        As for :func:`plot_fusion`.
    cmap : str or Colormap, default "gray"
        Of the images.
    scalebar, axes_decor
        As for :func:`plot_fusion`.

    Returns
    -------
    list of matplotlib.axes.Axes
        HAADF image, and the maps before sharing. On each a cross marks the pixel, and
        circles those that share their counts with it: the larger, the more often a
        pixel counts in the mean.

    Raises
    ------
    ValueError
        If no pixels share their counts, the signals do not belong together, there is no
        such pixel, or they are series and `inav` is missing or no whole number.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.lattice(size=96, counts=4, seed=2)
    >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf, 0.02, share=True)
    >>> axes = hyperspy_fusion.plot_sharing(maps, fused, haadf, (40, 52), 0.02)
    >>> [ax.get_title() for ax in axes]
    ['HAADF', 'Dy', 'Sc', 'O']
    """
    stack = fused if isinstance(fused, BaseSignal) else None
    fused = all_maps_of_fusion(fused)
    if stack is not None and len(fused) > 1:
        fused = stack.split()  # with the maps before sharing
    record = record_of(fused[0])
    frames: dict[tuple, Any] = {}
    if of_spectra(record) and is_spectrum_image(maps):
        known = complete_record(fused[0])
        measurement, frames = spectra_again(known, maps, haadf, mask)
    else:
        measurement = measured_as(record, maps, haadf, background, mask)
    y, x = _checked(pixel, measurement.haadf.shape[-2:])
    position = _position(inav, measurement.navigation_shape)
    groups = groups_at(measurement, fused, position, frames.get(position))
    places, often = groups.corresponding(y, x)

    unshared = [image.get_unshared().data for image in fused]
    arrays = computed([measurement.haadf, *unshared])
    images = plain_images(arrays, fused[0], inav)
    figure, (panels,) = grid_of_images(images[:1], len(images), fig)
    show_images(
        panels,
        images,
        ["HAADF", *record.elements.split(",")],
        [cmap],
        [range_of(image.data) for image in images],
        scalebar=[0] if scalebar else [],
        axes_decor=axes_decor,
    )
    across, along = images[0].axes_manager.signal_axes
    down, right = along.index2value(places[:, 0]), across.index2value(places[:, 1])
    shared = np.ones(len(fused))
    if "sharing_elements" in record:
        shared = np.asarray(record["sharing_elements"])[position]
    for panel, marked in zip(panels, [True, *(shared > 0)], strict=True):
        limits = panel.get_xlim(), panel.get_ylim()
        if marked:
            panel.scatter(
                right,
                down,
                _AREA * often / often.max(),
                facecolors="none",
                edgecolors=MARK,
                linewidths=0.8,
            )
        else:
            panel.set_title(f"{panel.get_title()} (not shared)")
        panel.plot(
            across.index2value(x),
            along.index2value(y),
            "+",
            color="white",
            markersize=9,
            path_effects=OUTLINE,
        )
        panel.set(xlim=limits[0], ylim=limits[1])
    add_caption(
        figure,
        f"The pixel in row {y} and column {x} (cross) has the mean counts of "
        f"{len(places)} pixels (circles).\nThe maps are those before sharing.",
    )
    return panels


def _checked(pixel: Any, shape: tuple[int, int]) -> tuple[int, int]:
    """Row and column of a pixel; a ValueError if there is no such pixel."""
    index = np.asarray(pixel)
    whole = index.shape == (2,) and index.dtype.kind in "iu"
    if not whole or (index < 0).any() or (index >= shape).any():
        raise ValueError(
            f"pixel is {pixel!r}: expected a row of 0 to {shape[0] - 1} and a column "
            f"of 0 to {shape[1] - 1}, as (y, x)"
        )
    return int(index[0]), int(index[1])


def _position(inav: Any, series: tuple[int, ...]) -> tuple[int, ...]:
    """Indices of the position of a series in its arrays."""
    if not series:
        return ()
    if inav is None:
        raise ValueError(choose_position(series))
    indices = np.atleast_1d(inav)
    whole = indices.shape == (len(series),) and indices.dtype.kind in "iu"
    if not whole or any(
        not -n <= k < n for k, n in zip(indices[::-1], series, strict=True)
    ):
        raise ValueError(
            f"inav is {inav!r}: expected {len(series)} whole numbers, the position of "
            f"one image of a series of shape {series}"
        )
    return tuple(int(n) for n in indices[::-1])
