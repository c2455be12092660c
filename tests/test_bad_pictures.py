"""What nobody should pass to functions of fused maps but somebody will."""

import warnings

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
import pytest

import hyperspy_fusion as hf

NAMES, LINES = ["Ba", "Ti", "O"], ["Ba_La", "Ti_Ka", "O_Ka"]
GIVEN = {"elements": NAMES, "lambda_haadf": 0.1}


@pytest.fixture(scope="module")
def series():
    """A series of two spectrum images, its fusion, and the images."""
    _, haadf, truth = hf.data.lattice(20, counts=6)
    spectra = hf.data.xray_spectra(truth, LINES, continuum=0.1)
    spectra, haadf = hs.stack([spectra, spectra]), hs.stack([haadf, haadf])
    fused = hf.fuse_spectra(spectra, haadf, share=True, **GIVEN)
    return spectra, fused, haadf


PICTURES = {
    "plot_fusion": hf.plot_fusion,
    "plot_misfit": hf.plot_misfit,
    "plot_composite": lambda _, fused, haadf, **k: hf.plot_composite(fused, haadf, **k),
    "plot_weights": lambda _, fused, __, **k: hf.plot_weights(fused, **k),
    "plot_sharing": lambda *given, **k: hf.plot_sharing(*given, (4, 4), **k),
}


@pytest.mark.parametrize("inav", [2, -3, (0, 0), "x", True, slice(0, 2), [0, 1], {}])
@pytest.mark.parametrize("picture", PICTURES)
def test_positions_that_are_none(picture, inav, series):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"inav is .*: expected") as caught:
            PICTURES[picture](*series, inav=inav)
    assert "one image of a series of shape (2,)" in str(caught.value)
    plt.close("all")


@pytest.mark.parametrize("inav", [0, -1, 0.0, (1,), np.int64(1)])
@pytest.mark.parametrize("picture", list(PICTURES)[:4])
def test_positions(picture, inav, series):
    assert PICTURES[picture](*series, inav=inav)
    plt.close("all")


@pytest.mark.parametrize("picture", ["plot_fusion", "plot_misfit", "plot_weights"])
def test_what_is_no_figure(picture, series):
    with pytest.raises(TypeError, match="fig is of type int: expected a figure"):
        PICTURES[picture](*series, inav=0, fig=3)
    plt.close("all")


@pytest.mark.parametrize(
    ("colors", "kind", "words"),
    [
        (3, TypeError, "colors is 3: expected a list of colours"),
        ("red", TypeError, "colors is 'red': expected a list of colours"),
        (["red", "nix", "blue"], ValueError, "colors has 'nix': expected colours"),
        ([1, 2, 3], ValueError, "colors has 1: expected colours of Matplotlib"),
        ({"Ba": 3, "Ti": "r", "O": "b"}, ValueError, "colors has 3: expected colours"),
    ],
)
def test_what_are_no_colours(colors, kind, words, series):
    with pytest.raises(kind, match=words):
        hf.plot_composite(series[1], inav=0, colors=colors)
    plt.close("all")


def test_maps_of_several_fusions(series):
    spectra, fused, haadf = series
    other = hf.fuse_spectra(spectra, haadf, lambda_tv=9.0, **GIVEN)
    part = hf.fuse_spectra(spectra.inav[:, :, 0], haadf.inav[0], **GIVEN)
    for one in (other, part):
        mixed = [fused[0], one[1], fused[2]]
        with pytest.raises(ValueError, match="of Ba, Ti, O are of several fusions"):
            hf.get_haadf_model(mixed)
        with pytest.raises(ValueError, match="of Ba, Ti, O are of several fusions"):
            hf.plot_misfit(spectra, mixed, haadf, inav=0)


@pytest.mark.parametrize("of_spectra", [False, True])
def test_further_images_in_another_order(of_spectra):
    """Their weights are given in their order."""
    maps, haadf, truth = hf.data.lattice(20, counts=6)
    phase = hf.data.elastic_image(truth, "phase")
    noise = phase.deepcopy()
    noise.data = np.random.default_rng(1).normal(100, 10, phase.data.shape)
    given = {"lambda_tv": 4.0, "lambda_elastic": [0.3, 0.0]}
    fuse, data = hf.fuse_multimodal, maps
    if of_spectra:
        fuse, data = hf.fuse_spectra, hf.data.xray_spectra(truth, LINES, continuum=0.1)
        given["elements"] = NAMES
    images = {"phase": phase, "noise": noise}
    fused = fuse(data, haadf, elastic=images, **given)
    again = hf.repeat(fused, data, haadf, elastic=images)
    np.testing.assert_array_equal(again[0].data, fused[0].data)
    turned = {"noise": noise, "phase": phase}
    with pytest.raises(ValueError, match="image noise, elastic image phase: expected"):
        hf.repeat(fused, data, haadf, elastic=turned)
