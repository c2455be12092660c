"""The signals that HyperSpy sees: elemental maps and HAADF images.

Signals translate, arrays compute: the methods here hand on.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hyperspy.api as hs
import numpy as np
from hyperspy.signals import BaseSignal, LazySignal2D, Signal1D, Signal2D

from .derived import cost_history
from .execution.arrays import compute, files_read, is_lazy
from .fusion import fuse_multimodal, fuse_published
from .inputs.stacks import (
    ATTACHED,
    FLAGGED,
    REPLICAS,
    UNCERTAINTY,
    UNSHARED,
    VARIANCE,
    attached_signal,
    crop_flagged,
    lose_flagged,
    members_along,
    members_of,
    remove,
    replicas_at,
    settle,
    take_part,
)
from .results import complete, forget, pending, restack

__all__ = ["ElementalMap", "HAADFImage", "LazyElementalMap", "LazyHAADFImage"]


class ElementalMap(Signal2D):
    """A map of one element, a series of such maps, or a stack over elements.

    The element stands in ``metadata.Sample.elements``; a map that came out of a
    fusion carries the record of it in ``metadata.Multimodal_fusion``. Of a stack these
    are the elements of all its maps; each of them, as ``inav``, ``split`` and iteration
    return it, has its own metadata.

    The record is that of the values of the fusion: parts, copies and transposed maps
    keep it, and what is computed from them is without it. So it is with the variance of
    each pixel and the replicas of :func:`hyperspy_fusion.propagate`, but transposed
    maps are without these, too. Fused maps whose ``data`` are replaced by other values
    become images.
    """

    _signal_type = "elemental_map"
    _signal_type_aliases = ("ElementalMap", "elemental map")

    _additional_slicing_targets = tuple(f"metadata.{n}" for n in (VARIANCE, *ATTACHED))

    @property
    def data(self) -> Any:
        """The array; a fused map whose array is replaced by another is an image."""
        return BaseSignal.data.fget(self)

    @data.setter
    def data(self, array: Any) -> None:
        old = getattr(self, "_data", None)
        BaseSignal.data.fset(self, array)
        if self.metadata.has_item("Multimodal_fusion") and _differ(old, self.data):
            forget(self)
            for one in (self, *members_of(self)):
                one.metadata.Signal.signal_type = ""
            self._assign_subclass()
        elif _of_other_pixels(old, self.data):  # it was cropped
            lose_flagged(self)

    def get_noise_variance(self) -> Any:
        """Return the variance of each pixel, if it is known.

        That which was set, or of fused maps that of ``uncertainty=True``.
        """
        estimated = self.metadata.get_item(UNCERTAINTY)
        return self.metadata.get_item(VARIANCE, estimated)

    def get_unshared(self) -> "ElementalMap":
        """Return the map before pixels that look alike shared their counts.

        Of maps of ``fuse_multimodal(..., share=True)``, or ``fuse_spectra``; the map
        itself where sharing was not accepted.

        Returns
        -------
        ElementalMap
            On the axes of the map, in its units.

        Raises
        ------
        ValueError
            If the map does not come from such a fusion.

        Examples
        --------
        >>> import hyperspy_fusion
        >>> maps, haadf, truth = hyperspy_fusion.data.lattice(size=64)
        >>> fused = hyperspy_fusion.fuse_multimodal(maps, haadf, 0.02, share=True)
        >>> fused[0].get_unshared()
        <ElementalMap, title: Dy without sharing, dimensions: (|64, 64)>
        """
        settle(self)
        found = self.metadata.get_item(UNSHARED)
        if found is None:
            raise ValueError(
                f"{self!r} has no map without sharing: expected a map that "
                "fuse_multimodal(..., share=True) returned, or a part of it. Sums, "
                "arithmetic, rebin and transposition lose it"
            )
        return found

    def _deepcopy_with_new_data(
        self,
        data: Any = None,
        copy_variance: bool = False,  # noqa: FBT001, FBT002 - as HyperSpy's
        *args: Any,
        **kwargs: Any,
    ) -> "ElementalMap":
        """As HyperSpy's, by which all its functions make their results.

        They copy the variance for parts and for the same values in another order; those
        that rebin give the data later.
        """
        settle(self)
        copy = super()._deepcopy_with_new_data(data, copy_variance, *args, **kwargs)
        if data is self.data:
            return copy
        if data is None or not copy_variance:
            forget(copy)
        elif data.size == self.data.size:  # their order is not known
            remove(copy.metadata, *ATTACHED, REPLICAS)
            lose_flagged(copy)
        return copy

    def _binary_operator_ruler(self, other: Any, op_name: str) -> Any:
        """As HyperSpy's: maps that arithmetic changes in place have no record."""
        result = super()._binary_operator_ruler(other, op_name)
        if result is self:
            forget(self)
        return result

    def map(self, *args: Any, **kwargs: Any) -> Any:
        """Apply a function at each position.

        As ``map`` of any signal, with the same arguments.
        """
        result = super().map(*args, **kwargs)
        if result is None:  # in place
            forget(self)
        return result

    def _slicer(self, slices: Any, *args: Any, **kwargs: Any) -> Any:
        """As HyperSpy's, for `inav` and `isig`: a part of a stack knows its maps."""
        part = super()._slicer(slices, *args, **kwargs)
        if part is None:  # there is an output signal
            return None
        places = self._get_array_slices(slices, *args)
        replicas = replicas_at(self, places)
        if replicas is not None:
            part.metadata.set_item(REPLICAS, replicas)
        if members_along(self):
            axis = self.axes_manager.navigation_axes[-1]
            take_part(part, self, places[axis.index_in_array])
        crop_flagged(part, self.data.shape[-2:], places[-2:])
        if not isinstance(part, ElementalMap):
            variance = part.metadata.get_item(UNCERTAINTY)
            if variance is not None:
                part.set_noise_variance(variance)  # where other signals have it
            remove(part.metadata, UNSHARED, REPLICAS, FLAGGED)
        return part

    def _remove_axis(self, axes: Any) -> None:
        """As HyperSpy's: without its axis of the maps a signal is no stack of them."""
        axis = self.axes_manager.navigation_axes[-1] if members_along(self) else None
        super()._remove_axis(axes)
        if axis is not None and axis not in self.axes_manager.navigation_axes:
            del self.original_metadata.stack_elements

    def get_current_signal(self, *args: Any, **kwargs: Any) -> "ElementalMap":
        """Return the map at the current indices, also when iterating over the signal.

        As ``get_current_signal`` of any signal, with the same arguments; the map has
        the metadata and the variance of its own.
        """
        settle(self)
        current = super().get_current_signal(*args, **kwargs)
        indices = self.axes_manager.indices
        for node in (VARIANCE, *ATTACHED):
            variance = self.metadata.get_item(node)
            if indices and isinstance(variance, BaseSignal):
                here = variance.data[indices[::-1]]
                current.metadata.set_item(node, attached_signal(current, here, node))
        replicas = replicas_at(self, indices[::-1])
        if replicas is not None:
            current.metadata.set_item(REPLICAS, replicas)
        if members_along(self):
            title = current.metadata.General.title
            added = title.removeprefix(self.metadata.General.title)
            take_part(current, self, indices[-1])
            current.metadata.General.title += added
        return current

    def split(self, *args: Any, **kwargs: Any) -> list["ElementalMap"]:
        """Split a stack into its maps.

        As ``split`` of any signal, with the same arguments. By default each map has the
        metadata and the variance of its own.
        """
        n = len(members_along(self))
        if n and not args and not kwargs:
            return [self.inav[..., i] for i in range(n)]
        parts = super().split(*args, **kwargs)
        for part in parts:
            settle(part)
        return parts

    def fuse_multimodal(
        self, haadf: BaseSignal, background: Any = None, **options: Any
    ) -> "ElementalMap":
        """Fuse a stack of elemental maps with a HAADF image.

        Parameters
        ----------
        haadf : Signal2D
            HAADF image of the same pixels, shape ``navigation + (y, x)``.
        background : optional
            As for :func:`hyperspy_fusion.fuse_multimodal`.
        **options
            As for :func:`hyperspy_fusion.fuse_multimodal`.

        Returns
        -------
        ElementalMap
            The fused maps, stacked as the signal itself: the last navigation axis
            runs over the elements, as :func:`hyperspy.api.stack` makes it.

        Raises
        ------
        ValueError
            If the signal has no navigation axis that could run over the elements,
            and as from :func:`hyperspy_fusion.fuse_multimodal`.

        Examples
        --------
        >>> import hyperspy.api as hs
        >>> import hyperspy_fusion
        >>> specimen = hyperspy_fusion.data.core_shell(size=32)
        >>> stack = hs.stack(specimen.maps)
        >>> stack.fuse_multimodal(specimen.haadf)
        <ElementalMap, title: Stack of Co, Mn, O, dimensions: (3|32, 32)>
        """
        self._check_is_stack("fuse_multimodal")
        if options.get("interactive"):
            raise ValueError(
                "interactive is True for a stack: its fused maps could not be changed "
                "in place. Call hyperspy_fusion.fuse_multimodal(stack, haadf, "
                "interactive=True), and hs.stack the maps that it returns"
            )
        return restack(self, fuse_multimodal(self, haadf, background, **options))

    def fuse_published(self, haadf: BaseSignal, **options: Any) -> "ElementalMap":
        """Fuse a stack of elemental maps with a HAADF image by the published method.

        Parameters
        ----------
        haadf : Signal2D
            HAADF image of the same pixels, shape ``navigation + (y, x)``.
        **options
            As for :func:`hyperspy_fusion.fuse_published`.

        Returns
        -------
        ElementalMap
            As from :meth:`fuse_multimodal`.

        Raises
        ------
        ValueError
            If the signal has no navigation axis that could run over the elements,
            and as from :func:`hyperspy_fusion.fuse_published`.

        Examples
        --------
        >>> import hyperspy.api as hs
        >>> import hyperspy_fusion
        >>> specimen = hyperspy_fusion.data.core_shell(size=32)
        >>> hs.stack(specimen.maps).fuse_published(specimen.haadf)
        <ElementalMap, title: Stack of Co, Mn, O, dimensions: (3|32, 32)>
        """
        self._check_is_stack("fuse_published")
        return restack(self, fuse_published(self, haadf, **options))

    def _check_is_stack(self, function: str) -> None:
        if self.axes_manager.navigation_dimension == 0:
            raise ValueError(
                "this signal is one map: expected a stack whose last navigation axis "
                "runs over the elements, as hs.stack(maps) makes it; to fuse one map "
                f"call hyperspy_fusion.{function}([map], haadf)"
            )

    def get_cost_history(self) -> Signal1D:
        """Return the terms of the cost, iteration by iteration.

        Returns
        -------
        Signal1D
            Shape ``navigation + (4, n_values)``: the navigation axis ``term`` runs
            over total, haadf, chemical and tv (``metadata.Multimodal_fusion.cost``),
            the signal axis over the iterations, from 1; of the calibrated method it
            is not uniform: 1, 2, 4, 8, 16, then each 25th and the last.

        Raises
        ------
        ValueError
            If the map does not come from a fusion.
        """
        return cost_history(self)

    def save(self, *args: Any, **kwargs: Any) -> Any:
        """Save the map, with the record of its fusion complete.

        As ``save`` of any signal, with the same arguments. What is still to be solved
        is solved first, tile by tile or position by position: of a part of a series all
        of it, since the record is that of the whole.
        """
        self._check_is_no_source(*args, **kwargs)
        settle(self)
        later = pending(self)
        if later:
            shown = hs.preferences.General.show_progressbar
            found = compute([one.found for one in later], show_progressbar=shown)
            complete(self, later, found)
        return super().save(*args, **kwargs)

    def _check_is_no_source(
        self,
        filename: Any = None,
        overwrite: Any = None,
        extension: Any = None,
        file_format: Any = None,
        **_: Any,
    ) -> None:
        """Raise a ValueError if `save` would replace a file that this map reads."""
        if not self._lazy or overwrite is False:
            return
        known = self.tmp_parameters
        if filename is None:
            folder, name = (known.get_item(n, "") for n in ("folder", "filename"))
            if not name:
                return  # HyperSpy says that there is none
            filename = Path(folder, name)
        path = Path(filename)
        if extension or not path.suffix:
            kind = extension or file_format or known.get_item("extension", "hspy")
            path = path.with_suffix(f".{str(kind).lower().lstrip('.')}")
        if os.path.realpath(path) in files_read(self.data):
            raise ValueError(
                f"{path} is read by this lazy map, and would be lost: expected another "
                "name; or load what is fused without lazy=True"
            )


class LazyElementalMap(LazySignal2D, ElementalMap):
    """Lazy twin of :class:`ElementalMap`.

    A lazy map that comes from a fusion is solved when it is computed or saved, all
    elements at a time. What was solved is kept in a temporary folder, so that the maps
    of the other elements need not solve again.
    """

    _lazy = True

    def compute(
        self,
        close_file: bool = False,  # noqa: FBT001, FBT002 - as HyperSpy's
        show_progressbar: bool | None = None,  # noqa: FBT001
        **kwargs: Any,
    ) -> None:
        """Compute the map, its variance, and the record of its fusion.

        As ``compute`` of any lazy signal, with the same arguments. The record of a
        part of a series stays lazy, since it is that of the whole.
        """
        settle(self)
        shape: tuple[int, ...] = self.data.shape
        later = [one for one in pending(self) if shape[-len(one.shape) :] == one.shape]
        if later:
            arrays = [self.data, *(one.found for one in later)]
            if show_progressbar is None:
                show_progressbar = hs.preferences.General.show_progressbar
            data, *found = compute(arrays, show_progressbar=show_progressbar, **kwargs)
            complete(self, later, found)
            self.data = data
            show_progressbar = False
        for node in (VARIANCE, *ATTACHED):  # before the file is closed
            variance = self.metadata.get_item(node)
            # HyperSpy loads them as signals that do not say that they are lazy.
            if is_lazy(getattr(variance, "data", None)):
                (variance.data,) = compute([variance.data], **kwargs)
                variance._lazy = False  # noqa: SLF001
                variance._assign_subclass()  # noqa: SLF001
        replicas = self.metadata.get_item(REPLICAS)
        if is_lazy(replicas):
            (replicas,) = compute([replicas], **kwargs)
            self.metadata.set_item(REPLICAS, replicas)
        super().compute(close_file, show_progressbar=show_progressbar, **kwargs)


def _differ(old: Any, new: Any) -> bool:
    """Whether an array was replaced by one of other values.

    HyperSpy sets the data for a moment to None, and to the same data in another order.
    """
    arrays = isinstance(old, np.ndarray) and isinstance(new, np.ndarray)
    if not arrays or old.shape != new.shape or old.dtype == object:
        return False
    known = ~np.isnan(new)  # a region of interest is NaN outside
    return not np.array_equal(old[known], new[known])


def _of_other_pixels(old: Any, new: Any) -> bool:
    """Whether an array was replaced by one with images of another size."""
    if old is None or new is None or object in (old.dtype, new.dtype):
        return False
    return old.shape[-2:] != new.shape[-2:]


class HAADFImage(Signal2D):
    """A high-angle annular dark-field image, or a series of them."""

    _signal_type = "HAADF"
    _signal_type_aliases = ("HAADFImage", "high-angle annular dark field")

    def fuse_multimodal(
        self,
        maps: Sequence[BaseSignal] | BaseSignal,
        background: Any = None,
        **options: Any,
    ) -> list[ElementalMap]:
        """Fuse elemental maps with this HAADF image.

        Parameters
        ----------
        maps : list of BaseSignal
            One map per element, as for :func:`hyperspy_fusion.fuse_multimodal`.
        background : optional
            As for :func:`hyperspy_fusion.fuse_multimodal`.
        **options
            As for :func:`hyperspy_fusion.fuse_multimodal`.

        Returns
        -------
        list of ElementalMap
            The fused maps, in the order of `maps`.

        Examples
        --------
        >>> import hyperspy_fusion
        >>> specimen = hyperspy_fusion.data.core_shell(size=32)
        >>> specimen.haadf.fuse_multimodal(specimen.maps)[0]
        <ElementalMap, title: Co, dimensions: (|32, 32)>
        """
        return fuse_multimodal(maps, self, background, **options)

    def fuse_published(
        self, maps: Sequence[BaseSignal] | BaseSignal, **options: Any
    ) -> list[ElementalMap]:
        """Fuse elemental maps with this HAADF image by the published method.

        Parameters
        ----------
        maps : list of BaseSignal
            One map per element, as for :func:`hyperspy_fusion.fuse_published`.
        **options
            As for :func:`hyperspy_fusion.fuse_published`.

        Returns
        -------
        list of ElementalMap
            The fused maps, in the order of `maps`.

        Examples
        --------
        >>> import hyperspy_fusion
        >>> specimen = hyperspy_fusion.data.core_shell(size=32)
        >>> specimen.haadf.fuse_published(specimen.maps)[0]
        <ElementalMap, title: Co, dimensions: (|32, 32)>
        """
        return fuse_published(maps, self, **options)


class LazyHAADFImage(LazySignal2D, HAADFImage):
    """Lazy twin of :class:`HAADFImage`."""

    _lazy = True
