"""The signals that HyperSpy sees: elemental maps and HAADF images.

Signals translate, arrays compute: the methods here hand on.
"""

from collections.abc import Sequence
from typing import Any

import hyperspy.api as hs
from hyperspy.signals import BaseSignal, LazySignal2D, Signal1D, Signal2D

from .execution.arrays import compute, is_lazy
from .fusion import fuse_multimodal, fuse_published
from .inputs.stacks import VARIANCE, members_of
from .results import complete, cost_history, pending, restack

__all__ = ["ElementalMap", "HAADFImage", "LazyElementalMap", "LazyHAADFImage"]


class ElementalMap(Signal2D):
    """A map of one element, a series of such maps, or a stack over elements.

    The element stands in ``metadata.Sample.elements``; a map that came out of a
    fusion carries the record of it in ``metadata.Multimodal_fusion``.
    """

    _signal_type = "elemental_map"
    _signal_type_aliases = ("ElementalMap", "elemental map")

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
        <ElementalMap, title: Stack of Co, dimensions: (3|32, 32)>
        """
        self._check_is_stack("fuse_multimodal")
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
        <ElementalMap, title: Stack of Co, dimensions: (3|32, 32)>
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
            Shape ``navigation + (4, n_iter)``: the navigation axis ``term`` runs
            over total, haadf, chemical and tv (``metadata.Multimodal_fusion.cost``),
            the signal axis over the iterations, from 1.

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
        later = pending(self)
        if later:
            shown = hs.preferences.General.show_progressbar
            found = compute([one.found for one in later], show_progressbar=shown)
            complete(self, later, found)
        return super().save(*args, **kwargs)


class LazyElementalMap(LazySignal2D, ElementalMap):
    """Lazy twin of :class:`ElementalMap`.

    A lazy map that comes from a fusion is solved when it is computed or saved, all
    elements at a time. What was solved is kept in a temporary folder, so that the maps
    of the other elements need not solve again.
    """

    _lazy = True
    data: Any

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
        members = [member.metadata for member in members_of(self)]
        for metadata in (self.metadata, *members):  # before the file is closed
            variance = metadata.get_item(VARIANCE)
            # HyperSpy loads them as signals that do not say that they are lazy.
            if is_lazy(getattr(variance, "data", None)):
                (variance.data,) = compute([variance.data], **kwargs)
                variance._lazy = False  # noqa: SLF001
                variance._assign_subclass()  # noqa: SLF001
        super().compute(close_file, show_progressbar=show_progressbar, **kwargs)


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
