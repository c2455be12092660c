"""From files, or signals read from them, to the arguments of a fusion.

RosettaSciIO reads the files, eXSpy knows X-ray lines and edges. This room decides which
signals of a file belong together, and makes maps and their background from spectra.
"""

from .candidates import Candidates, find_candidates
from .load import MultimodalData, load_multimodal
from .sum_spectrum import SumSpectrum, fit_sum_spectrum

__all__ = [
    "Candidates",
    "MultimodalData",
    "SumSpectrum",
    "find_candidates",
    "fit_sum_spectrum",
    "load_multimodal",
]
