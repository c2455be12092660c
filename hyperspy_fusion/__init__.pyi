from . import data as data
from .derived import get_fractions as get_fractions
from .derived import get_haadf_model as get_haadf_model
from .derived import get_misfit as get_misfit
from .derived import summarize as summarize
from .fusion import fuse_multimodal as fuse_multimodal
from .fusion import fuse_published as fuse_published
from .loading import Candidates as Candidates
from .loading import MultimodalData as MultimodalData
from .loading import SumSpectrum as SumSpectrum
from .loading import find_candidates as find_candidates
from .loading import fit_sum_spectrum as fit_sum_spectrum
from .loading import load_multimodal as load_multimodal
from .plot import plot_composite as plot_composite
from .plot import plot_convergence as plot_convergence
from .plot import plot_fusion as plot_fusion
from .plot import plot_misfit as plot_misfit
from .plot import plot_sum_spectrum as plot_sum_spectrum
from .plot import plot_weights as plot_weights
from .propagation import Propagated as Propagated
from .propagation import propagate as propagate
from .signals import ElementalMap as ElementalMap
from .signals import HAADFImage as HAADFImage
from .signals import LazyElementalMap as LazyElementalMap
from .signals import LazyHAADFImage as LazyHAADFImage
from .spectral_fusion import fuse_spectra as fuse_spectra

__version__: str
