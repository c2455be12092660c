"""Errors of what is computed from fused maps."""

import exspy
import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion.inputs.stacks import REPLICAS

N_REPLICAS = 6
OPTIONS = {
    "background": 0.02,
    "lambda_tv": 4.0,
    "lambda_haadf": 0.1,
    "n_replicas": N_REPLICAS,
}


@pytest.fixture(scope="module")
def fused():
    measured, haadf, _ = hf.data.core_shell(size=32)
    for signal in measured:
        signal.metadata.Sample.xray_lines = [f"{signal.metadata.General.title}_Ka"]
    return hf.fuse_multimodal(measured, haadf, **OPTIONS)


def replicas_of(signal):
    return signal.metadata.get_item(REPLICAS)


def ratio(maps):
    return maps[0].data.sum() / maps[2].data.sum()


def expected_std(function, fused):
    """The definition, for a function of arrays."""
    arrays = np.array([signal.data for signal in fused])
    each = [
        function(np.array(arrays_k))
        for arrays_k in zip(*map(replicas_of, fused), strict=True)
    ]
    return np.sqrt(np.mean((np.array(each) - function(arrays)) ** 2, axis=0))


def test_replicas_are_kept_when_asked_for(fused):
    assert replicas_of(fused[0]).shape == (N_REPLICAS, 32, 32)
    assert replicas_of(fused[0]).dtype == np.float32
    assert fused[0].metadata.Multimodal_fusion.n_replicas == N_REPLICAS
    variance = fused[0].get_noise_variance().data  # without uncertainty=True
    squares = ((replicas_of(fused[0]) - fused[0].data) ** 2).mean(axis=0)
    assert_allclose(squares.mean(), variance.mean(), rtol=0.3)


def test_a_number(fused):
    value, std = hf.propagate(ratio, fused)
    assert type(std) is float
    assert value == ratio(fused)
    expected = expected_std(lambda m: m[0].sum() / m[2].sum(), fused)
    assert_allclose(std, expected, rtol=1e-4)
    assert 0 < std < 0.3 * value


def test_an_array(fused):
    value, std = hf.propagate(lambda maps: maps[1].data[4:9].mean(axis=0), fused)
    assert_array_equal(value, fused[1].data[4:9].mean(axis=0))
    expected = expected_std(lambda m: m[1][4:9].mean(axis=0), fused)
    assert_allclose(std, expected, rtol=1e-5, atol=1e-9)


def test_a_signal_has_the_same_axes(fused):
    found = hf.propagate(lambda maps: maps[0] / (maps[0] + maps[1] + 0.1), fused)
    assert isinstance(found, hf.Propagated)
    for signal in found:
        assert type(signal) is hf.ElementalMap
        assert signal.axes_manager[0].units == "nm"
        assert not signal.metadata.has_item("Multimodal_fusion")
    expected = expected_std(lambda m: m[0] / (m[0] + m[1] + np.float32(0.1)), fused)
    assert_allclose(found.std.data, expected, rtol=1e-4, atol=1e-7)
    title = found.value.metadata.General.title
    assert found.std.metadata.General.title == f"Standard deviation of {title}"


def test_a_line_profile(fused):
    line = hs.roi.Line2DROI(10, 30, 50, 30, linewidth=8)
    value, std = hf.propagate(lambda maps: line(maps[1]), fused)
    assert value.data.shape == std.data.shape == line(fused[1]).data.shape
    assert_array_equal(value.data, line(fused[1]).data)
    assert value.axes_manager[0].scale == std.axes_manager[0].scale
    assert std.data.max() > 0


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of eXSpy
def test_a_quantification(fused):
    spectra = exspy.signals.EDSTEMSpectrum(np.ones((16, 16, 8)))
    fused = [signal.isig[8:24, 8:24] for signal in fused]

    def quantify(maps):
        factors = [1.0, 1.2, 2.0]
        return spectra.quantification(maps, "CL", factors, navigation_mask=None)

    value, std = hf.propagate(quantify, fused)
    assert len(value) == len(std) == 3
    expected = quantify(fused)
    there = np.all([signal.data > 0.5 for signal in fused], axis=0)
    for one, other, error in zip(value, expected, std, strict=True):
        assert_array_equal(one.data, other.data)
        assert one.metadata.Sample.elements == error.metadata.Sample.elements
        assert 0.2 < error.data[there].mean() < 15  # at.%


def test_lists_and_tuples(fused):
    def both(maps):
        return maps[0].data.max(), [maps[1].isig[3]]

    value, std = hf.propagate(both, fused)
    assert isinstance(std, tuple)
    assert isinstance(std[1], list)
    assert type(std[0]) is float
    assert std[1][0].data.shape == value[1][0].data.shape == (32,)


def test_maps_of_the_function_are_copies(fused):
    before = [signal.data.copy() for signal in fused]

    def spoil(maps):
        for signal in maps:
            assert not signal.metadata.has_item(REPLICAS)
            assert signal.get_noise_variance() is None
            assert signal.metadata.Multimodal_fusion.elements == "Co,Mn,O"
            signal.data[:] = 0
        return 1.0

    assert hf.propagate(spoil, fused) == (1.0, 0.0)
    assert_array_equal([signal.data for signal in fused], before)
    assert replicas_of(fused[0]).max() > 0


def test_the_haadf_model(fused):
    value, std = hf.propagate(hf.get_haadf_model, fused)
    assert type(std) is hf.HAADFImage
    assert 0 < std.data.mean() < 0.3 * np.ptp(value.data)


def whole(signal):
    return signal


PARTS = [
    (whole, np.s_[:, :]),
    (lambda s: s.isig[4:, :8], np.s_[:8, 4:]),
    (lambda s: s.deepcopy(), np.s_[:, :]),
    (lambda s: s.as_lazy(), np.s_[:, :]),
]


@pytest.mark.parametrize(("part", "crop"), PARTS)
def test_parts_keep_their_replicas(fused, part, crop):
    for signal in fused:
        found = np.asarray(replicas_of(part(signal)))
        assert_array_equal(found, replicas_of(signal)[(slice(None), *crop)])


@pytest.mark.parametrize(
    "part",
    [
        lambda stack: stack.inav[1],
        lambda stack: stack.inav[1:].inav[0],
        lambda stack: stack.inav[::-1].inav[1],
        lambda stack: stack.split()[1],
        lambda stack: list(stack)[1],
    ],
)
@pytest.mark.parametrize("lazily", [whole, lambda s: s.as_lazy()])
def test_a_stack_keeps_the_replicas_of_all_its_maps(fused, part, lazily):
    stack = hs.stack(fused, show_progressbar=False)
    found = part(lazily(stack))
    assert_array_equal(np.asarray(replicas_of(found)), replicas_of(fused[1]))


def test_a_stack_is_a_list_of_its_maps(fused):
    stack = hs.stack(fused, show_progressbar=False)
    assert hf.propagate(ratio, stack) == hf.propagate(ratio, fused)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.T,
        lambda s: s * 2,
        lambda s: s.rebin(scale=(2, 2)),
        lambda s: s.sum(axis=0),
        hs.roi.Line2DROI(0, 0, 60, 60),
        lambda s: s.isig[3],
        lambda s: s.isig[3:9].map(np.fliplr, inplace=False, show_progressbar=False),
    ],
)
def test_what_is_computed_from_maps_has_no_replicas(fused, change):
    changed = change(fused[0])
    with pytest.raises(
        ValueError, match="has no replicas: expected maps that a fusion"
    ):
        hf.propagate(whole, [changed])


def test_a_crop_in_place_has_none(fused):
    signal = fused[0].deepcopy()
    signal.crop(0, 0, 8)
    with pytest.raises(ValueError, match="has no replicas"):
        hf.propagate(whole, [signal])


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")  # zarr 2
@pytest.mark.parametrize("extension", ["hspy", "zspy", "nxs"])
@pytest.mark.parametrize("lazy", [False, True])
def test_files_keep_replicas(fused, tmp_path, extension, lazy):
    path = tmp_path / f"map.{extension}"
    fused[1].save(path)
    options = {"nxdata_only": True} if extension == "nxs" else {}
    back = hs.load(path, lazy=lazy, **options)
    if lazy:
        with pytest.raises(ValueError, match="not computed yet: call compute"):
            hf.propagate(whole, [back])
        back.compute(show_progressbar=False)
    assert type(replicas_of(back)) is np.ndarray
    assert_array_equal(replicas_of(back), replicas_of(fused[1]))


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")  # zarr 2
@pytest.mark.parametrize("lazy", [False, True])
def test_a_saved_stack_keeps_replicas(fused, tmp_path, lazy):
    stack = hs.stack(fused, show_progressbar=False)
    stack.save(tmp_path / "stack.zspy")
    back = hs.load(tmp_path / "stack.zspy", lazy=lazy)
    found = np.asarray(replicas_of(back.inav[2]))
    assert_array_equal(found, replicas_of(fused[2]))


def test_a_series_has_replicas_of_each_image(series_of):
    one = hf.data.core_shell(size=32, seed=1)
    other = hf.data.core_shell(size=32, seed=2)
    maps, haadf = series_of(one, other)
    fused = hf.fuse_multimodal(maps, haadf, **OPTIONS)
    assert replicas_of(fused[0]).shape == (N_REPLICAS, 2, 32, 32)
    alone = hf.fuse_multimodal(other.maps, other.haadf, **OPTIONS)
    second = replicas_of(fused[1].inav[1])
    assert_allclose(second, replicas_of(alone[1]), rtol=1e-3, atol=1e-3)

    def content(maps):
        return maps[1].sum(axis=(-1, -2))

    value, std = hf.propagate(content, fused)
    assert value.data.shape == std.data.shape == (2,)
    # images of a series have noise of their own
    noise = (replicas_of(fused[1]) - fused[1].data).sum(axis=(-2, -1))
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.99


def test_tiles():
    specimen = hf.data.core_shell(size=96)
    options = OPTIONS | {"n_replicas": 12, "tile_size": 48}
    tiled = hf.fuse_multimodal(specimen.maps, specimen.haadf, **options)
    options["tile_size"] = None
    single = hf.fuse_multimodal(specimen.maps, specimen.haadf, **options)
    assert replicas_of(tiled[0]).shape == (12, 96, 96)

    def across(maps):  # a region with parts in all tiles
        return maps[1].data[36:60, 36:60].mean()

    (value, std), (known, error) = (
        hf.propagate(across, maps) for maps in (tiled, single)
    )
    assert_allclose(value, known, rtol=0.05)
    assert 0.5 < std / error < 2


@pytest.mark.parametrize("tile_size", [None, 48])
def test_lazy_fusions(tile_size):
    specimen = hf.data.core_shell(size=96)
    options = OPTIONS | {"tile_size": tile_size, "n_replicas": 2}
    expected = hf.fuse_multimodal(specimen.maps, specimen.haadf, **options)
    lazy = [signal.as_lazy() for signal in specimen.maps]
    found = hf.fuse_multimodal(lazy, specimen.haadf.as_lazy(), **options)
    with pytest.raises(ValueError, match="'Co' .* is not computed yet: call compute"):
        hf.propagate(whole, found)
    for signal, other in zip(found, expected, strict=True):
        signal.compute(show_progressbar=False)
        assert_allclose(replicas_of(signal), replicas_of(other), rtol=1e-3, atol=1e-3)


def test_a_fused_stack(fused):
    measured, haadf, _ = hf.data.core_shell(size=32)
    stack = hs.stack(measured, show_progressbar=False)
    found = stack.fuse_multimodal(haadf, **OPTIONS)
    assert replicas_of(found).shape == (N_REPLICAS, 3, 32, 32)
    for part, signal in zip(found.split(), fused, strict=True):
        assert_allclose(replicas_of(part), replicas_of(signal), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("n_replicas", "error"), [(1, ValueError), (2.5, ValueError), ("20", TypeError)]
)
def test_numbers_of_replicas(n_replicas, error):
    measured, haadf, _ = hf.data.core_shell(size=32)
    with pytest.raises(error, match="n_replicas is .*: expected a whole number from 2"):
        hf.fuse_multimodal(measured, haadf, n_replicas=n_replicas)


def test_what_cannot_be_propagated(fused):
    with pytest.raises(TypeError, match="returned str: expected a signal, an array or"):
        hf.propagate(lambda _: "text", fused)
    with pytest.raises(TypeError, match="returned NoneType: expected a signal"):
        hf.propagate(lambda _: None, fused)
    with pytest.raises(ValueError, match="returned shapes .* for a replica and"):
        hf.propagate(lambda maps: maps[0].data[maps[0].data > 1], fused)
    with pytest.raises(TypeError, match="fused maps is a ndarray: expected maps that"):
        hf.propagate(whole, [fused[0].data])
    with pytest.raises(ValueError, match="fused is an empty list"):
        hf.propagate(whole, [])
    fewer = fused[1].deepcopy()
    fewer.metadata.Multimodal_fusion.replicas = replicas_of(fewer)[:2]
    with pytest.raises(ValueError, match="the maps have 2 and 6 replicas: expected"):
        hf.propagate(whole, [fused[0], fewer])
    without = hf.fuse_multimodal(*hf.data.core_shell(size=32)[:2], lambda_tv=4.0)
    with pytest.raises(ValueError, match=r"'Co' .* has no replicas: expected .*n_repl"):
        hf.propagate(whole, without)


@pytest.fixture(scope="module")
def of_fractions():
    """Maps of fractions, and the HAADF image."""
    maps, haadf, _ = hf.data.core_shell(size=48, counts=16)
    total = np.maximum(sum(signal.data for signal in maps), 1e-9)
    return [signal / total for signal in maps], haadf


@pytest.mark.parametrize(
    "options",
    [{}, {"lazy_output": True}, {"tile_size": 40}],
    ids=["now", "later", "tiles"],
)
def test_fractions(of_fractions, options):
    def computed():
        fused = hf.fuse_multimodal(*of_fractions, lambda_tv=4, n_replicas=4, **options)
        for signal in fused:
            if signal._lazy:
                signal.compute(show_progressbar=False)
        return fused

    with pytest.warns(UserWarning, match="the maps are fractions"):
        fused = computed()
    value, std = hf.propagate(hf.get_fractions, fused)
    known = np.isfinite(value[0].data)
    assert np.isfinite(std[0].data[known]).mean() > 0.9
    assert 0 < np.nanmedian(std[0].data) < 0.2
    assert "errors of proportions" in fused[0].metadata.Multimodal_fusion.notes
    variance = fused[0].get_noise_variance()
    assert variance is None or np.isnan(np.asarray(variance.data)).all()


def test_values_that_are_nan_for_some_replicas(fused):
    def thick(maps):
        return np.where(calls.pop() < 3, maps[0].data, np.nan)

    calls = [0, 3, 3, 0, 0, 0, 0][::-1]  # of the maps, and of six replicas
    _, std = hf.propagate(thick, fused)
    expected = (replicas_of(fused[0]) - fused[0].data)[2:]
    assert_allclose(std, np.sqrt((expected**2).mean(axis=0)), rtol=1e-5)
    calls = [0, 3, 3, 3, 0, 0, 0][::-1]
    assert np.isnan(hf.propagate(thick, fused)[1]).all()


def test_what_is_not_known_of_missing_pixels_is_said():
    maps, haadf, _ = hf.data.core_shell(size=32)
    mask = np.zeros((32, 32), bool)
    mask[10:14, 10:14] = True
    given = {"lambda_tv": 3.0, "lambda_haadf": 0.1, "uncertainty": True}
    for one, said in ((mask, True), (None, False)):
        fused = hf.fuse_multimodal(maps, haadf, 0.02, mask=one, **given)
        told = "of pixels that were not measured" in hf.summarize(fused)
        assert told == said
