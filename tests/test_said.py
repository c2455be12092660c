"""What a fusion says: for each warning and note data that call for it, and data that do
not."""

import warnings

import hyperspy.api as hs
import numpy as np
import pytest
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter, median_filter, uniform_filter1d

import hyperspy_fusion as hf

GIVEN = {"lambda_tv": 4.0, "lambda_haadf": 0.1, "background": 0.02}
CHOSEN = {"background": 0.02}
UNKNOWN = {"lambda_tv": 4.0, "lambda_haadf": 0.1}


def specimen():
    """Maps of whole and of halves of pixels, floats, and the image."""
    maps, haadf, _ = hf.data.core_shell(64)
    for signal in maps:
        signal.change_dtype("float64")
    return maps, haadf


def said(fused):
    record = fused[0].metadata.Multimodal_fusion
    return [*record.warnings.splitlines(), *record.notes.splitlines()]


def said_of(fuse, maps, haadf, options):
    """What is said; all warnings are raised, too."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        fused = fuse(maps, haadf, **options)
    record = fused[0].metadata.Multimodal_fusion
    assert {str(one.message) for one in raised} == set(record.warnings.splitlines())
    return said(fused)


@pytest.fixture(scope="module", params=[GIVEN, CHOSEN], ids=["given", "chosen"])
def quiet(request):
    return said_of(hf.fuse_multimodal, *specimen(), request.param)


# --- what is done to maps and image, in place -----------------------------------------


def each(function, *, first=False):
    """Change the arrays of the maps, or of the first one."""

    def change(maps, haadf):
        for signal in maps[: 1 if first else None]:
            signal.data = function(signal.data)
        return maps, haadf

    return change


def image(function):
    """Change the array of the image."""

    def change(maps, haadf):
        haadf.data = function(haadf.data.astype(float))
        return maps, haadf

    return change


def with_value(value, place=(32, 32)):
    def change(array):
        array = array.copy()
        array[place] = value
        return array

    return change


def spot(array):
    array = array.copy()
    array[4:20, 40:56] += 0.5 * array.max()
    return array


def square(array):
    return (array - array.min()) ** 2


def rows(array):
    rng = np.random.default_rng(1)
    return array + 0.05 * array.max() * rng.standard_normal((len(array), 1))


def support(array):
    return array + np.linspace(0, 0.5 * array.max(), array.shape[1])


def noise(array):
    return np.random.default_rng(1).normal(array.mean(), array.std(), array.shape)


def like_jpeg(array):
    blocks = (array * (219 / array.max())).reshape(8, 8, 8, 8)
    waves = 12 * np.rint(dctn(blocks, axes=(1, 3), norm="ortho") / 12)
    rounded = idctn(waves, axes=(1, 3), norm="ortho").reshape(array.shape)
    return np.clip(np.rint(rounded + 16), 0, 255)


def in_parts(maps, haadf):
    """Binned by 1.5 pixels."""
    shares = np.kron(np.eye(21), [[1, 0.5, 0], [0, 0.5, 1]])
    binned = [
        hf.ElementalMap(shares @ signal.data[:63, :63] @ shares.T) for signal in maps
    ]
    for signal, other in zip(binned, maps, strict=True):
        signal.metadata.Sample = other.metadata.Sample
    return binned, hs.signals.Signal2D(shares @ haadf.data[:63, :63] @ shares.T)


def few_counts(array):
    rng = np.random.default_rng(int(array.sum()))
    return rng.poisson(array / 1000).astype(float)


def fractions(maps, haadf):
    total = np.sum([signal.data for signal in maps], axis=0)
    for signal in maps:
        shares = np.divide(signal.data, total, where=total > 0, out=np.zeros((64, 64)))
        signal.data = shares
    return maps, haadf


def fractions_of_small_pixels(maps, haadf):
    maps, haadf = fractions(maps, haadf)
    return maps, haadf.rebin(scale=(2, 2))


def cropped(maps, haadf):
    return [signal.isig[8:40, 8:40] for signal in maps], haadf.isig[8:40, 8:40]


def in_per_cent(maps, haadf):
    for signal in maps[:2]:
        signal.metadata.General.title = f"percent of {signal.metadata.General.title}"
    return maps[:2], haadf


def as_hyperspy(maps, haadf):
    for signal in maps:
        signal.estimate_poissonian_noise_variance()
    return maps, haadf


def net_counts(array):
    rng = np.random.default_rng(int(array.sum()))
    return np.maximum(rng.poisson(array + 9.0) - rng.poisson(9.0, array.shape), 0)


def cut_off(array):
    rng = np.random.default_rng(int(array.sum()))
    return np.maximum(array + rng.normal(0, 0.5, array.shape), 0)


def fractions_below_zero(maps, haadf):
    total = np.sum([signal.data for signal in maps], axis=0) + 1
    for k, signal in enumerate(maps):
        signal.data = (signal.data + (k == 0)) / total
    maps[0].data += 0.02
    maps[1].data -= 0.02
    return maps, haadf


def fractions_with_variance(maps, haadf):
    maps, haadf = fractions(maps, haadf)
    for signal in maps:
        signal.set_noise_variance(hs.signals.Signal2D(signal.data + 0.01))
    return maps, haadf


def fused_before(maps, haadf):
    return hf.fuse_published(maps, haadf, n_iter=2), haadf


def elsewhere(maps, haadf):
    for signal, start in ((haadf, 50), *((one, 20) for one in maps)):
        for axis in signal.axes_manager.signal_axes:
            axis.offset = start
    return maps, haadf


def not_calibrated(maps, haadf):
    for axis in haadf.axes_manager.signal_axes:
        axis.units = ""
    return maps, haadf


def of_another_field(maps, haadf):
    return maps, haadf.isig[4:, 2:]


def of_smaller_pixels(maps, haadf):
    fine = hf.HAADFImage(haadf.data.repeat(3, axis=0).repeat(3, axis=1))
    for axis, other in zip(
        fine.axes_manager.signal_axes, haadf.axes_manager.signal_axes, strict=True
    ):
        axis.scale, axis.units = other.scale / 3, other.units
        axis.offset = other.offset - other.scale / 3
    return [signal.rebin(scale=(2, 2)) for signal in maps], fine


def one_map(maps, haadf):
    return maps[:1], image(noise)(maps, haadf)[1]


def saturated(array):
    return np.minimum(array, np.quantile(array, 0.9))


MISSING = np.nan, (slice(3, 6), slice(7, 9))
WARNINGS = {
    "max_iter=3 was reached before": (
        None,
        {**GIVEN, "max_iter": 3, "tolerance": 1e-9},
    ),
    "there is a map of Co only": (one_map, CHOSEN),
    "are fused already": (fused_before, GIVEN),
    "is taken for one of Fe, but": (None, {**GIVEN, "elements": ["Fe", "Mn", "O"]}),
    "without any contrast: ": (each(np.zeros_like, first=True), GIVEN),
    "the HAADF image is not calibrated along": (not_calibrated, GIVEN),
    "they are taken to show the same pixels": (elsewhere, GIVEN),
    "the HAADF image contradicts the maps in": (image(spot), GIVEN),
    "is not linear in the maps, but its power of 0.": (image(square), GIVEN),
    "has a slowly varying part that the maps do not": (image(support), CHOSEN),
    "of its rows, ": (image(rows), GIVEN),
    "of its columns, ": (
        image(lambda array: rows(array.T).T),
        GIVEN,
    ),
    "contradicts the maps all over the image": (image(np.flipud), CHOSEN),
    "seems to have inverted contrast": (image(np.negative), GIVEN),
    "hold too few counts to judge": (each(few_counts), UNKNOWN),
    "the HAADF image is displaced against": (
        image(lambda array: np.roll(array, 3, axis=0)),
        GIVEN,
    ),
    "is too low: too much was subtracted": (each(lambda array: array - 0.3), UNKNOWN),
    "is too low: its background is larger": (None, {**GIVEN, "background": 1.0}),
    "these may be of an element that is everywhere": (
        each(lambda array: few_counts(1000 * (array + 9))),
        UNKNOWN,
    ),
    "they are fractions, and some are negative": (fractions_below_zero, UNKNOWN),
    "the maps are fractions, with a sum of 1": (fractions, UNKNOWN),
    "is correlated, as after": (each(lambda array: gaussian_filter(array, 1)), UNKNOWN),
    "as after a mean over 1 x 3 pixels": (
        each(lambda array: uniform_filter1d(array, 3)),
        UNKNOWN,
    ),
    "as after a median, or another filter with rounding": (
        each(lambda array: median_filter(array, 3)),
        UNKNOWN,
    ),
    "pixels seem to share counts in parts": (in_parts, UNKNOWN),
    "was compressed with loss, as in JPEG": (each(like_jpeg), UNKNOWN),
    "whole numbers that are no counts": (each(lambda array: 3 * array), UNKNOWN),
    "times the noise of counts": (each(net_counts), UNKNOWN),
    "seem to have been cut off after a background": (each(cut_off), UNKNOWN),
    "seems to have an offset: its noise vanishes at 2": (
        each(lambda array: 0.37 * array + 2),
        UNKNOWN,
    ),
    "in per cent, but the maps do not add up": (in_per_cent, GIVEN),
    "haadf_offset was not used": (None, {**GIVEN, "haadf_offset": 0.0}),
    "it does not improve the prediction": (image(noise), CHOSEN),
}
NOTES = {
    "missing pixels of the maps are filled": (each(with_value(*MISSING)), GIVEN),
    "missing pixels of the HAADF image are not": (image(with_value(*MISSING)), GIVEN),
    "the background was not given": (None, UNKNOWN),
    "the noise variance of the maps is that of their counts": (as_hyperspy, GIVEN),
    "of pixels that were not measured hold the noise": (
        each(with_value(*MISSING)),
        {**GIVEN, "uncertainty": True},
    ),
    "the maps were averaged over 2 x 2 pixels": (
        fractions_of_small_pixels,
        {**UNKNOWN, "match": "axes"},
    ),
    "shows too little vacuum to find it": (cropped, UNKNOWN),
    "taken for scaled counts of 0.37": (each(lambda array: 0.37 * array), UNKNOWN),
    "negative pixels: Gaussian noise": (each(lambda array: array - 0.02), UNKNOWN),
    "no counts: Gaussian noise": (each(lambda array: noise(array) + 50), UNKNOWN),
    "the sum of the map of Co is known": (
        each(lambda array: few_counts(1000 * (array / 9 + 3)), first=True),
        {**GIVEN, "background": [3.0, 0.02, 0.02]},
    ),
    "fractions have no sums that could be kept": (fractions, UNKNOWN),
    "fractions are not compared with": (fractions, UNKNOWN),
    "variance of the maps is not used": (fractions_with_variance, UNKNOWN),
    "of the Co map is hot": (each(with_value(500), first=True), GIVEN),
    "of the HAADF image is hot": (image(with_value(1e6)), GIVEN),
    "of the HAADF image are saturated": (image(saturated), GIVEN),
    "the maps were cropped to": (of_another_field, {**GIVEN, "match": "axes"}),
    "the HAADF image was averaged over": (
        of_smaller_pixels,
        {**GIVEN, "match": "axes"},
    ),
    "do not share their counts": (each(few_counts), {**UNKNOWN, "share": True}),
}


@pytest.mark.parametrize("phrase", [*WARNINGS, *NOTES])
def test_said(phrase):
    spoil, options = (WARNINGS | NOTES)[phrase]
    maps, haadf = specimen() if spoil is None else spoil(*specimen())
    found = said_of(hf.fuse_multimodal, maps, haadf, options)
    assert any(phrase in one for one in found), found


def test_nothing_to_be_said(quiet):
    assert quiet == []


def test_of_the_published_method():
    maps, haadf = specimen()
    phrase = "negative values in the maps of Co: "
    options = {"n_iter": 2}
    assert said_of(hf.fuse_published, maps, haadf, options) == []
    maps[0].data = maps[0].data - 0.5
    maps[1].data = maps[1].data + 0.5
    (found,) = said_of(hf.fuse_published, maps, haadf, options)
    assert found.startswith(phrase[:-2])


@pytest.mark.parametrize("seed", range(4))
def test_too_few_counts_are_no_contradiction(seed):
    maps, haadf = specimen()
    rng = np.random.default_rng(seed)
    for signal in maps:
        signal.data = rng.poisson(signal.data / 300).astype(float)
    found, *_ = said_of(hf.fuse_multimodal, maps, haadf, UNKNOWN)
    assert "hold too few counts to judge" in found
