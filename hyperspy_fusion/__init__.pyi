from . import data as data
from .fusion import fuse_multimodal as fuse_multimodal
from .fusion import get_haadf_model as get_haadf_model
from .fusion import get_misfit as get_misfit
from .loading import load_multimodal as load_multimodal
from .plot import plot_convergence as plot_convergence
from .plot import plot_fusion as plot_fusion
from .plot import plot_weights as plot_weights
from .signals import ElementalMap as ElementalMap
from .signals import HAADFImage as HAADFImage
from .signals import LazyElementalMap as LazyElementalMap
from .signals import LazyHAADFImage as LazyHAADFImage

__version__: str
