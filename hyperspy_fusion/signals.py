"""The signals that HyperSpy sees: elemental maps and HAADF images.

Signals translate, arrays compute: the methods here hand on.
"""

from hyperspy.signals import LazySignal2D, Signal2D

from .fusion import cost_history, fuse_multimodal, fuse_stack

__all__ = ["ElementalMap", "HAADFImage", "LazyElementalMap", "LazyHAADFImage"]


class ElementalMap(Signal2D):
    """A map of one element, a series of such maps, or a stack over elements.

    The element stands in ``metadata.Sample.elements``; a map that came out of a
    fusion carries the record of it in ``metadata.Multimodal_fusion``.
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


class LazyElementalMap(LazySignal2D, ElementalMap):
    """Lazy twin of :class:`ElementalMap`."""

    _lazy = True


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
