"""Fused multi-modal electron microscopy for HyperSpy."""

import importlib.metadata

import lazy_loader

__version__ = importlib.metadata.version("hyperspy-fusion")

# The stub beside this file names what is public; nothing is imported before use.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
