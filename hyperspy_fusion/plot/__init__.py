"""Pictures of a fusion, drawn by Matplotlib in HyperSpy's manner."""

from .composite import plot_composite
from .convergence import plot_convergence
from .fusion import plot_fusion
from .misfit import plot_misfit
from .sharing import plot_sharing
from .sum_spectrum import plot_sum_spectrum
from .weights import plot_weights

__all__ = [
    "plot_composite",
    "plot_convergence",
    "plot_fusion",
    "plot_misfit",
    "plot_sharing",
    "plot_sum_spectrum",
    "plot_weights",
]
