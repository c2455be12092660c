"""The signals that HyperSpy sees: elemental maps and HAADF images.

Signals translate, arrays compute: the methods here hand on.
"""

import hyperspy.api as hs
import numpy as np
from hyperspy.signals import LazySignal2D, Signal2D

from .fusion import complete, cost_history, fuse_multimodal, fuse_stack, pending
from .pairing import (
    BACKGROUND,
    VARIANCE,
    carried_background,
    change_background,
    drop_background,
    lose_background,
    members_of,
)
from .tiling import compute, is_lazy

__all__ = ["ElementalMap", "HAADFImage", "LazyElementalMap", "LazyHAADFImage"]


class ElementalMap(Signal2D):
    """A map of one element, a series of such maps, or a stack over elements.

    The element stands in ``metadata.Sample.elements``; a map that came out of a
    fusion carries the record of it in ``metadata.Multimodal_fusion``.

    A map of raw counts may carry its background, a signal of the same pixels, in
    ``metadata.Elemental_map.background``, where :func:`hyperspy_fusion.load_multimodal`
    leaves it and :func:`hyperspy_fusion.fuse_multimodal` finds it. It follows the map
    through ``inav``, ``isig``, ``rebin``, copies and files. What changes only the map,
    such as arithmetic or ``map``, loses it, and a fusion then asks for it.
    """

    _signal_type = "elemental_map"
    _signal_type_aliases = ("ElementalMap", "elemental map")

    def fuse_multimodal(self, haadf, **options):
        """Fuse a stack of elemental maps with a HAADF image.

        Parameters
        ----------
        haadf : Signal2D
            HAADF image of the same pixels, shape ``navigation + (y, x)``.
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
            and for all that :func:`hyperspy_fusion.fuse_multimodal` refuses.

        Examples
        --------
        >>> import hyperspy.api as hs
        >>> import hyperspy_fusion
        >>> specimen = hyperspy_fusion.data.core_shell(size=32)
        >>> stack = hs.stack(specimen.maps)
        >>> stack.fuse_multimodal(specimen.haadf)
        <ElementalMap, title: Stack of Co, dimensions: (3|32, 32)>
        """
        return fuse_stack(self, haadf, **options)

    def get_cost_history(self):
        """Return the terms of the cost, iteration by iteration.

        Returns
        -------
        Signal1D
            Shape ``navigation + (4, n_iter)``: the navigation axis ``term`` runs
            over total, haadf, chemical and tv (``metadata.Multimodal_fusion.cost``),
            the signal axis over the iterations, from 1.

        Raises
        ------
        ValueError
            If the map does not come from a fusion.
        """
        return cost_history(self)

    def get_net_map(self):
        """Return the map without the background that it carries.

        Returns
        -------
        ElementalMap
            The map less ``metadata.Elemental_map.background``, in the same units,
            below 0 where noise makes the background the larger part. For looking and
            for quantification; a fusion does better with the map itself.

        Raises
        ------
        ValueError
            If the map carries no background, or lost it when it was changed.

        Examples
        --------
        >>> import hyperspy_fusion
        >>> specimen = hyperspy_fusion.data.core_shell(size=32)
        >>> cobalt = specimen.maps[0]
        >>> cobalt.metadata.set_item("Elemental_map.background", cobalt.deepcopy() / 4)
        >>> net = cobalt.get_net_map()
        >>> print(net.data.sum() / cobalt.data.sum())
        0.75
        """
        background = carried_background(self)
        if background is None:
            raise ValueError(
                f"{self!r} carries no background in metadata.Elemental_map.background: "
                "expected a map that load_multimodal made from spectra, with "
                "background_windows if they are EDS"
            )
        net = self._deepcopy_with_new_data(self.data - background.data)
        drop_background(net.metadata)
        return net

    def save(self, *args, **kwargs):
        """Save the map, with the record of its fusion complete.

        As ``save`` of any signal, with the same arguments. What is still to be solved
        is solved first, tile by tile or position by position: of a part of a series all
        of it, since the record is that of the whole.
        """
        later = pending(self)
        if later:
            found = compute([one.found for one in later], _shown(None))
            complete(self, later, found)
        return super().save(*args, **kwargs)

    # HyperSpy takes the variance of the noise along by the same ways. A background
    # among its `_additional_slicing_targets` would break the slices of `hs.stack`,
    # which leaves that of the first map in the metadata of the stack.

    def _slicer(self, slices, isNavigation=None, out=None):  # noqa: N803
        sliced = super()._slicer(slices, isNavigation, out=out)
        change_background(
            self,
            out if sliced is None else sliced,
            lambda b: b._slicer(slices, isNavigation),  # noqa: SLF001
        )
        return sliced

    def rebin(self, *args, out=None, **kwargs):
        """Rebin the map, and the background that it carries.

        As ``rebin`` of any signal, with the same arguments.
        """
        rebinned = super().rebin(*args, out=out, **kwargs)
        change_background(
            self,
            out if rebinned is None else rebinned,
            lambda b: b.rebin(*args, **kwargs),
        )
        return rebinned

    def map(
        self,
        function,
        show_progressbar=None,
        num_workers=None,
        inplace=True,  # noqa: FBT002
        *args,
        **kwargs,
    ):
        """Apply a function to each image; the map loses the background it carries.

        As ``map`` of any signal, with the same arguments.
        """
        mapped = super().map(
            function, show_progressbar, num_workers, inplace, *args, **kwargs
        )
        if inplace:
            lose_background(self)
        return mapped

    def transpose(self, signal_axes=None, navigation_axes=None, optimize=False):  # noqa: FBT002
        """Transpose the map, which loses its background if its axes change their order.

        As ``transpose`` of any signal, with the same arguments.
        """
        transposed = super().transpose(signal_axes, navigation_axes, optimize)
        manager = self.axes_manager
        if signal_axes is None and navigation_axes is None:  # exchanged
            kept = manager.navigation_dimension == 0
        else:  # a number leaves the order as it is
            kept = all(
                not np.iterable(chosen) or [manager[axis] for axis in chosen] == [*own]
                for chosen, own in (
                    (signal_axes, manager.signal_axes),
                    (navigation_axes, manager.navigation_axes),
                )
            )
        if not kept:
            lose_background(transposed)
        return transposed

    def _deepcopy_with_new_data(self, data=None, copy_variance=False, **kwargs):  # noqa: FBT002
        copied = super()._deepcopy_with_new_data(data, copy_variance, **kwargs)
        if not copy_variance:
            lose_background(copied)
        return copied

    def _binary_operator_ruler(self, other, op_name):
        result = super()._binary_operator_ruler(other, op_name)
        if result is self:  # in place
            lose_background(self)
        return result


class LazyElementalMap(LazySignal2D, ElementalMap):
    """Lazy twin of :class:`ElementalMap`.

    A lazy map that comes from a fusion is solved when it is computed or saved, all
    elements at a time. What was solved is kept in a temporary folder, so that the maps
    of the other elements need not solve again.
    """

    _lazy = True

    def compute(self, close_file=False, show_progressbar=None, **kwargs):  # noqa: FBT002
        """Compute the map, its variance and background, and the record of its fusion.

        As ``compute`` of any lazy signal, with the same arguments. The record of a
        part of a series stays lazy, since it is that of the whole.
        """
        shape = self.data.shape
        later = [one for one in pending(self) if shape[-len(one.shape) :] == one.shape]
        if later:
            arrays = [self.data, *(one.found for one in later)]
            data, *found = compute(arrays, _shown(show_progressbar), **kwargs)
            complete(self, later, found)
            self.data = data
            show_progressbar = False
        members = [member.metadata for member in members_of(self)]
        for metadata in (self.metadata, *members):  # before the file is closed
            for node in (VARIANCE, BACKGROUND):
                beside = metadata.get_item(node)
                # HyperSpy loads them as signals that do not say that they are lazy.
                if is_lazy(getattr(beside, "data", None)):
                    (beside.data,) = compute([beside.data], **kwargs)
                    beside._lazy = False  # noqa: SLF001
                    beside._assign_subclass()  # noqa: SLF001
        super().compute(close_file, show_progressbar=show_progressbar, **kwargs)


def _shown(show_progressbar):
    """Whether HyperSpy shows progress bars, unless that is said."""
    if show_progressbar is None:
        return hs.preferences.General.show_progressbar
    return show_progressbar


class HAADFImage(Signal2D):
    """A high-angle annular dark-field image, or a series of them."""

    _signal_type = "HAADF"
    _signal_type_aliases = ("HAADFImage", "high-angle annular dark field")

    def fuse_multimodal(self, maps, **options):
        """Fuse elemental maps with this HAADF image.

        Parameters
        ----------
        maps : list of BaseSignal
            One map per element, as for :func:`hyperspy_fusion.fuse_multimodal`.
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
        return fuse_multimodal(maps, self, **options)


class LazyHAADFImage(LazySignal2D, HAADFImage):
    """Lazy twin of :class:`HAADFImage`."""

    _lazy = True
