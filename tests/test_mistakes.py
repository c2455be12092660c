"""The mistakes that users make first, and what they are told: enough to act on."""

import re
import warnings
from typing import NamedTuple

import exspy
import hyperspy.api as hs
import numpy as np
import pytest

import hyperspy_fusion
from hyperspy_fusion import fuse_multimodal, fuse_published


class Specimen(NamedTuple):
    """Maps that a fusion takes, and their HAADF image."""

    maps: list
    haadf: object


@pytest.fixture(scope="module")
def specimen():
    maps, haadf, _ = hyperspy_fusion.data.core_shell(size=32)
    return Specimen(maps, haadf)


def of_other_pixels(haadf, factor):
    other = haadf.deepcopy()
    for axis in other.axes_manager.signal_axes:
        axis.scale *= factor
    return other


def fractions(maps):
    total = sum(signal.data for signal in maps) + 1e-9
    return [signal._deepcopy_with_new_data(signal.data / total) for signal in maps]


def untitled(maps):
    return [hs.signals.Signal2D(signal.data) for signal in maps]


def spectra(maps):
    counts = np.ones((*maps[0].data.shape, 64))
    return exspy.signals.EDSTEMSpectrum(counts)


# What is done, and type and words of what is said: what was found, and what to do.
# Warnings are raised by what can be done after all.
MISTAKES = {
    "swapped": (
        lambda s: fuse_multimodal(s.haadf, s.maps),
        (ValueError, "are swapped", "'HAADF'", "fuse_multimodal(maps, haadf)"),
    ),
    "swapped, one map": (
        lambda s: fuse_multimodal([s.haadf], s.maps[0]),
        (ValueError, "are swapped", "'Co'", "fuse_multimodal(maps, haadf)"),
    ),
    "arrays": (
        lambda s: fuse_multimodal([one.data for one in s.maps], s.haadf),
        (TypeError, "map number 0 is of type ndarray", "hs.signals.Signal2D(array)"),
    ),
    "array for an image": (
        lambda s: fuse_multimodal(s.maps, s.haadf.data),
        (TypeError, "HAADF image is of type ndarray", "hs.signals.Signal2D(array)"),
    ),
    "dict with wrong names": (
        lambda s: fuse_multimodal({"cobalt": s.maps[0]}, s.haadf),
        (ValueError, "'cobalt' is not the symbol of an element", "mean 'Co'?"),
    ),
    "dict with another order": (
        lambda s: fuse_multimodal(dict(zip("OC", s.maps[::2], strict=True)), s.haadf),
        (UserWarning, "'Co'", "taken for one of O, but", "says Co", "check the names"),
    ),
    "single map": (
        lambda s: fuse_multimodal(s.maps[0], s.haadf),
        (UserWarning, "map of Co only", "all elements", "fuse the maps of all"),
    ),
    "cropped image": (
        lambda s: fuse_multimodal(s.maps, s.haadf.isig[:30, :30]),
        (ValueError, "32 x 32", "30 x 30", "crop one of them", 'match="axes"'),
    ),
    "binned image": (
        lambda s: fuse_multimodal(s.maps, s.haadf.rebin(scale=(2, 2))),
        (ValueError, "32 x 32", "16 x 16", "rebin", 'match="axes"'),
    ),
    "survey image": (
        lambda s: fuse_multimodal(s.maps, of_other_pixels(s.haadf, 5)),
        (ValueError, "of 2 nm", "of 10 nm", "survey image", "recorded together"),
    ),
    "wrong calibration": (
        lambda s: fuse_multimodal(s.maps, of_other_pixels(s.haadf, 1.08)),
        (ValueError, "of 2 nm", "of 2.16 nm", "one scan", 'match="pixels"'),
    ),
    "fractions": (
        lambda s: fuse_multimodal(fractions(s.maps), s.haadf),
        (UserWarning, "are fractions", "get_fractions", "Better fuse counts"),
    ),
    "spectrum image": (
        lambda s: fuse_multimodal(spectra(s.maps), s.haadf),
        (ValueError, "expected an image", "load_multimodal", "get_lines_intensity"),
    ),
    "list of spectrum images": (
        lambda s: fuse_multimodal([spectra(s.maps)], s.haadf),
        (ValueError, "expected an image", "load_multimodal", "get_lines_intensity"),
    ),
    "wrong element": (
        lambda s: fuse_multimodal(s.maps, s.haadf, elements=["co", "Mn", "O"]),
        (ValueError, "'co' is not the symbol", "case matters", "mean 'Co'?"),
    ),
    "elements in another order": (
        lambda s: fuse_multimodal(s.maps, s.haadf, elements=["Mn", "Co", "O"]),
        (UserWarning, "'Co'", "for one of Mn, but", "says Co", "order"),
    ),
    "path": (
        lambda s: fuse_multimodal("scan.emd", s.haadf),
        (TypeError, "path 'scan.emd'", "fuse_multimodal(*load_multimodal(path))"),
    ),
    "list of paths": (
        lambda s: fuse_multimodal(["Co.tif", "Mn.tif"], s.haadf),
        (TypeError, "path 'Co.tif'", "load_multimodal"),
    ),
    "path for an image": (
        lambda s: fuse_multimodal(s.maps, "haadf.tif"),
        (TypeError, "HAADF image is the path 'haadf.tif'", "load_multimodal"),
    ),
    "wrong option": (
        lambda s: fuse_multimodal(s.maps, s.haadf, lamda_tv=1),
        (TypeError, "no option lamda_tv", "did you mean lambda_tv?"),
    ),
    "option of the other method": (
        lambda s: fuse_published(s.maps, s.haadf, uncertainty=True),
        (TypeError, "no option uncertainty", "is one of fuse_multimodal", "n_iter_tv"),
    ),
    "all that was loaded, for the published method": (
        lambda s: fuse_published(s.maps, s.haadf, None),
        (TypeError, "3 arguments", "(maps, haadf)", "background is one of fuse_multi"),
    ),
    "options without their names": (
        lambda s: fuse_multimodal(s.maps, s.haadf, None, 0.1),
        (TypeError, "4 arguments", "(maps, haadf, background), and options by their"),
    ),
    "forgotten elements": (
        lambda s: fuse_multimodal(untitled(s.maps), s.haadf),
        (ValueError, "which element", "0: '' (32 x 32", "elements=['Fe', ...]"),
    ),
    "no HAADF image": (
        lambda s: fuse_multimodal(s.maps, None),
        (TypeError, "there is no HAADF image", "recorded together", "load_multimodal"),
    ),
    "no second argument": (
        lambda s: fuse_multimodal(s.maps),
        (TypeError, "called without haadf", "fuse_multimodal(maps, haadf)"),
    ),
    "fused maps": (
        lambda s: fuse_published(fuse_published(s.maps, s.haadf), s.haadf),
        (UserWarning, "Co, Mn, O are fused already", "Fuse the measured maps"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_a_user_is_told(specimen, mistake):
    make, (expected, *words) = MISTAKES[mistake]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            make(specimen)
        except (TypeError, ValueError) as error:
            found, told = type(error), str(error)
        else:
            found = UserWarning
            told = "\n".join(str(warning.message) for warning in caught)
            assert {warning.filename for warning in caught} == {__file__}
    assert found is expected
    missing = [word for word in words if word not in re.sub(r"\s+", " ", told)]
    assert not missing, f"{missing} not in: {told}"
