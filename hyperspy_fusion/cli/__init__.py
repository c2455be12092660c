"""The command line: ``hyperspy-fusion demo``, ``fuse`` and ``info``."""

from .program import main

__all__ = ["main"]
