"""Lazy in, lazy out: solved when it is needed, and once."""

import gc
import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest
from agreement import assert_same
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion.core.calibrated import method as calibrated
from hyperspy_fusion.core.calibrated import parts
from hyperspy_fusion.core.calibrated.given import Pixels
from hyperspy_fusion.core.published import method as published
from hyperspy_fusion.execution import lazy

# Where the choice of the weights does not matter.
GIVEN = {"background": 0.02, "lambda_tv": 4.0, "lambda_haadf": 0.1}

pytestmark = pytest.mark.filterwarnings(
    "ignore:The NestedDirectoryStore:FutureWarning"  # zarr 2
)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(hs.preferences.General, "show_progressbar", False)


@pytest.fixture(scope="module")
def specimens():
    return [hf.data.core_shell(size=32, seed=seed, counts=16) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def series(series_of, specimens):
    return series_of(*specimens)


@pytest.fixture(scope="module")
def eager(series):
    return hf.fuse_multimodal(*series, **GIVEN)


@pytest.fixture(scope="module")
def image():
    return hf.data.core_shell(size=96)


@pytest.fixture(scope="module")
def whole(image):
    return hf.fuse_multimodal(image.maps, image.haadf, **GIVEN)


@pytest.fixture(scope="module")
def tiled(image):
    return hf.fuse_multimodal(image.maps, image.haadf, tile_size=48, **GIVEN)


def lazily(maps, haadf):
    return [signal.as_lazy() for signal in maps], haadf.as_lazy()


def one_pixel(maps, value):
    """The maps of which the second holds `value` in one pixel."""
    data = maps[1].data.compute().astype(float)
    data[..., 3, 5].flat[-1] = value
    spoilt = maps[1]._deepcopy_with_new_data(da.from_array(data))
    return [maps[0], spoilt, *maps[2:]]


@pytest.fixture
def solved(monkeypatch):
    """How often each image or part of one was solved."""
    found = Counter()

    def counted(function):
        def solve(first, *args, **kwargs):
            haadf = first.haadf if isinstance(first, Pixels) else kwargs["haadf"]
            found[hashlib.sha256(haadf.tobytes()).hexdigest()] += 1
            return function(first, *args, **kwargs)

        return solve

    for module, name in (
        (calibrated, "solve"),
        (parts, "solve_part"),
        (published, "solve"),
    ):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return found


def once(found, n):
    """Whether each of n was solved exactly once."""
    return list(found.values()) == [1] * n


# --- each is solved once ---------------------------------------------------------


def one_by_one(fused, _):
    for signal in fused:
        signal.compute()
    return fused


def stacked(fused, _):
    stack = hs.stack(fused)
    assert type(stack) is hf.LazyElementalMap
    stack.compute()
    return stack.split()


def with_threads(fused, _):
    for signal in fused:
        signal.compute(scheduler="threads", num_workers=2)
    return fused


def with_one_thread(fused, _):
    for signal in fused:
        signal.compute(scheduler="single-threaded")
    return fused


def saved(fused, folder):
    for k, signal in enumerate(fused):
        signal.save(folder / f"{k}.zspy")
    return [hs.load(folder / f"{k}.zspy") for k in range(len(fused))]


def saved_as_hspy(fused, folder):
    for k, signal in enumerate(fused):
        signal.save(folder / f"{k}.hspy")
    return [hs.load(folder / f"{k}.hspy") for k in range(len(fused))]


def saved_as_a_stack(fused, folder):
    stack = hs.stack(fused)
    stack.save(folder / "stack.zspy")
    return hs.load(folder / "stack.zspy").split()


def costs_first(fused, _):
    for signal in fused:
        signal.get_cost_history()
        signal.compute()
    return fused


WAYS = [
    one_by_one,
    stacked,
    with_threads,
    with_one_thread,
    saved,
    saved_as_hspy,
    saved_as_a_stack,
    costs_first,
]


@pytest.mark.parametrize("way", WAYS)
def test_each_position_is_solved_once(series, eager, solved, way, tmp_path):
    fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)
    assert [type(signal) for signal in fused] == [hf.LazyElementalMap] * 3
    assert not solved
    assert_same(way(fused, tmp_path), eager)
    assert once(solved, 3)


@pytest.mark.parametrize("way", WAYS)
def test_each_tile_is_solved_once(image, tiled, solved, way, tmp_path):
    fused = hf.fuse_multimodal(*lazily(image.maps, image.haadf), tile_size=48, **GIVEN)
    assert not solved
    assert_same(way(fused, tmp_path), tiled)
    assert once(solved, 4)


@pytest.mark.parametrize("way", [one_by_one, saved_as_a_stack])
def test_one_image_is_solved_once(image, whole, solved, way, tmp_path):
    fused = hf.fuse_multimodal(*lazily(image.maps, image.haadf), **GIVEN)
    assert not solved
    assert_same(way(fused, tmp_path), whole)
    assert once(solved, 1)


def test_eagerly_too(series, image, solved):
    hf.fuse_multimodal(*series, **GIVEN)
    assert once(solved, 3)
    solved.clear()
    hf.fuse_multimodal(image.maps, image.haadf, tile_size=48, **GIVEN)
    assert once(solved, 4)


def test_chunks_are_tiles(solved):
    specimen = hf.data.core_shell(size=512)
    maps = [signal.isig[200:240] for signal in specimen.maps]
    maps, haadf = lazily(maps, specimen.haadf.isig[200:240])
    for signal in (*maps, haadf):
        signal.data = signal.data.rechunk((256, 40))
    fused = hf.fuse_multimodal(maps, haadf, **GIVEN)
    assert fused[0].data.chunks == ((256, 256), (40,))
    fused[0].compute()
    assert once(solved, 2)


def test_a_part_solves_its_own(series, eager, solved):
    fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)
    part = fused[0].inav[1]
    part.compute()
    assert once(solved, 1)
    scale = eager[0].data.max()
    assert_allclose(part.data, eager[0].data[1], rtol=0, atol=1e-6 * scale)
    for signal in fused:
        signal.compute()
    assert once(solved, 3)
    assert_same(fused, eager)


@pytest.mark.parametrize("extension", ["hspy", "zspy"])
def test_a_part_that_was_computed_is_saved_with_all_of_the_record(
    image, series, solved, tmp_path, extension
):
    path = tmp_path / f"part.{extension}"
    for measured, cut, n in (
        ((image.maps, image.haadf), lambda s: s.isig[:40], 1),
        (series, lambda s: s.inav[1], 3),
    ):
        solved.clear()
        fused = hf.fuse_multimodal(*lazily(*measured), **GIVEN)
        part = cut(fused[0])
        part.compute()
        part.save(path, overwrite=True)
        back = hs.load(path)
        assert_array_equal(back.data, part.data)
        assert back.metadata.Multimodal_fusion.status == "converged"
        assert once(solved, n)


@pytest.mark.parametrize("extension", ["hspy", "zspy"])
@pytest.mark.parametrize(
    ("change", "recorded"),
    [
        (lambda s: s.sum(axis=(1, 2)), False),
        (lambda s: s.T, True),
        (lambda s: s.as_signal1D(0), True),
    ],
)
def test_what_is_no_map_any_more_can_be_saved(
    series, eager, tmp_path, extension, change, recorded, caplog
):
    fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)
    changed = change(fused[0])
    assert not isinstance(changed, hf.ElementalMap)
    changed.save(tmp_path / f"other.{extension}")
    assert "could not" not in caplog.text
    back = hs.load(tmp_path / f"other.{extension}")
    expected = change(eager[0]).data
    assert_allclose(back.data, expected, rtol=1e-5, atol=1e-6 * expected.max())
    assert back.metadata.has_item("Multimodal_fusion") is recorded
    if recorded:
        record, known = (s.metadata.Multimodal_fusion for s in (back, eager[0]))
        assert record.status == "known once the maps are computed"
        assert_allclose(record.lambda_tv, known.lambda_tv)


def test_nothing_is_left_in_the_temporary_folder(series, tmp_path):
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)
    fused[0].compute()
    assert list(tmp_path.iterdir()) != []
    for signal in fused[1:]:
        signal.compute()
    gc.collect()
    assert list(tmp_path.iterdir()) == []


# --- what is known before and after ----------------------------------------------


def test_what_a_lazy_map_says(series, eager):
    fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)
    record = fused[1].metadata.Multimodal_fusion
    assert record.method == "calibrated"
    assert record.elements == "Co,Mn,O"
    assert record.status == "known once the maps are computed"
    expected = eager[1].metadata.Multimodal_fusion
    for name in ("lambda_tv", "gap", "n_iter", "haadf_coefficients", "shift"):
        assert dask.is_dask_collection(record[name])
        assert_allclose(np.asarray(record[name]), expected[name], rtol=1e-5)


def entries(fused):
    return set(fused[0].metadata.Multimodal_fusion.as_dictionary())


def test_a_lazy_record_has_the_numbers_of_the_eager_one(series, eager):
    fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)
    # texts and options are known later, or before
    assert entries(eager) - entries(fused) == {"converged", "kind", "notes", "warnings"}


@pytest.mark.parametrize(
    ("fuse", "options"), [(hf.fuse_multimodal, GIVEN), (hf.fuse_published, {})]
)
def test_cost_history_of_a_lazy_map(series, solved, fuse, options):
    fused = fuse(*lazily(*series), **options)
    history = fused[0].get_cost_history()
    assert once(solved, 3)
    fused[0].compute()
    expected = fused[0].get_cost_history()
    n = expected.data.shape[-1]
    assert_allclose(history.data[..., :n], expected.data)
    assert np.isnan(history.data[..., n:]).all()
    assert once(solved, 3)


def test_model_and_misfit_of_lazy_maps(image, whole, solved):
    maps, haadf = lazily(image.maps, image.haadf)
    fused = hf.fuse_multimodal(maps, haadf, **GIVEN)
    expected = hf.get_haadf_model(whole).data
    assert_allclose(hf.get_haadf_model(fused).data, expected, rtol=1e-5)
    misfit = hf.get_misfit(maps, fused, haadf)
    assert_allclose(misfit.data, image.haadf.data - expected, atol=1e-2)
    assert once(solved, 1)


def test_model_of_lazy_maps_of_the_published_method(image):
    options = {"n_iter": 3}
    fused = hf.fuse_published(image.maps, image.haadf, lazy_output=True, **options)
    expected = hf.fuse_published(image.maps, image.haadf, **options)
    model = hf.get_haadf_model(fused)
    model.compute()
    assert_allclose(model.data, hf.get_haadf_model(expected).data, rtol=1e-5)


def test_warnings_come_when_it_is_known(image):
    haadf = image.haadf.deepcopy()
    haadf.data[10:24, 70:84] += 2 * np.ptp(haadf.data).astype(haadf.data.dtype)
    options = {**GIVEN, "lambda_haadf": 1.0}
    fused = hf.fuse_multimodal(*lazily(image.maps, haadf), **options)
    with pytest.warns(UserWarning, match="the HAADF image contradicts the maps"):
        fused[0].compute()


# --- what may be lazy ------------------------------------------------------------


def test_lazy_output_of_eager_signals(series, eager, solved):
    fused = hf.fuse_multimodal(*series, lazy_output=True, **GIVEN)
    assert [type(signal) for signal in fused] == [hf.LazyElementalMap] * 3
    assert not solved
    one_by_one(fused, None)
    assert once(solved, 3)
    assert_same(fused, eager)


def test_eager_output_of_lazy_signals(series, eager, solved):
    fused = hf.fuse_multimodal(*lazily(*series), lazy_output=False, **GIVEN)
    assert once(solved, 3)
    assert_same(fused, eager)


@pytest.mark.parametrize("scheduler", ["threads", "single-threaded", "processes"])
def test_schedulers_agree(series, eager, scheduler):
    with dask.config.set(scheduler=scheduler, num_workers=2):
        fused = hf.fuse_multimodal(*series, **GIVEN)
    assert_same(fused, eager)


@pytest.mark.parametrize("lazy_maps", [False, True])
def test_only_some_are_lazy(series, eager, lazy_maps):
    maps, haadf = series
    if lazy_maps:
        maps = [maps[0], *(signal.as_lazy() for signal in maps[1:])]
    else:
        haadf = haadf.as_lazy()
    fused = hf.fuse_multimodal(maps, haadf, **GIVEN)
    assert [type(signal) for signal in fused] == [hf.LazyElementalMap] * 3
    assert_same(stacked(fused, None), eager)


def test_stacks_stay_stacks(series, eager, solved):
    maps, haadf = lazily(*series)
    stack = hs.stack(maps, show_progressbar=False)
    fused = stack.fuse_multimodal(haadf, **GIVEN)
    assert type(fused) is hf.LazyElementalMap
    assert not solved
    fused.compute()
    assert once(solved, 3)
    assert_same(fused.split(), eager)


@pytest.mark.parametrize("lazy", ["stack", "image", "output", "stack, eager output"])
def test_stacks_are_lazy_when_their_data_are(series, eager, lazy):
    stack, haadf, options = hs.stack(series.maps), series.haadf, dict(GIVEN)
    if "stack" in lazy:
        stack = stack.as_lazy()
    if lazy == "image":
        haadf = haadf.as_lazy()
    if "output" in lazy:
        options["lazy_output"] = lazy == "output"
    fused = stack.fuse_multimodal(haadf, **options)
    if "eager" not in lazy:
        assert type(fused) is hf.LazyElementalMap
        fused.compute()
    assert type(fused) is hf.ElementalMap
    assert_same(fused.split(), eager)


def test_uncertainty_of_a_stack(image, solved):
    options = {**GIVEN, "uncertainty": True}
    stack = hs.stack(image.maps)
    expected = stack.fuse_multimodal(image.haadf, **options)
    solved.clear()
    fused = stack.as_lazy().fuse_multimodal(image.haadf, **options)
    fused.compute()
    assert once(solved, 1)
    for one, other in zip(
        [fused, *fused.split()], [expected, *expected.split()], strict=True
    ):
        variance, known = one.get_noise_variance(), other.get_noise_variance()
        assert type(variance.data) is np.ndarray
        assert_allclose(variance.data, known.data, rtol=1e-3)


def test_a_stack_of_several_fusions_keeps_their_records(series, eager, tmp_path):
    other = hf.fuse_multimodal(*series, **GIVEN | {"lambda_tv": 8.0})
    for way in (stacked, saved_as_a_stack):
        maps = [
            hf.fuse_multimodal(*lazily(*series), **GIVEN)[0],
            hf.fuse_multimodal(*lazily(*series), **GIVEN | {"lambda_tv": 8.0})[1],
        ]
        assert_same(way(maps, tmp_path), [eager[0], other[1]])


def test_published_method(series, solved, tmp_path):
    expected = hf.fuse_published(*series, n_iter=8)
    solved.clear()
    fused = hf.fuse_published(*lazily(*series), n_iter=8)
    assert not solved
    assert_same(saved(fused, tmp_path), expected)
    assert once(solved, 3)


def test_byte_order_of_files(series, eager):
    def swapped(signal):
        dtype = signal.data.dtype.newbyteorder(">")
        return signal._deepcopy_with_new_data(signal.data.astype(dtype))

    maps, haadf = lazily(*series)
    fused = hf.fuse_multimodal([swapped(s) for s in maps], swapped(haadf), **GIVEN)
    assert_same(one_by_one(fused, None), eager)


@pytest.mark.parametrize("tile_size", [None, 48])
def test_uncertainty(image, tile_size, solved):
    options = {**GIVEN, "tile_size": tile_size, "uncertainty": True}
    expected = hf.fuse_multimodal(image.maps, image.haadf, **options)
    solved.clear()
    fused = hf.fuse_multimodal(*lazily(image.maps, image.haadf), **options)
    assert not solved
    one_by_one(fused, None)
    assert once(solved, 1 if tile_size is None else 4)
    assert_same(fused, expected)
    for signal, other in zip(fused, expected, strict=True):
        variance, known = signal.get_noise_variance(), other.get_noise_variance()
        assert not variance._lazy
        assert type(variance.data) is np.ndarray
        assert_allclose(variance.data, known.data, rtol=1e-3)


@pytest.mark.parametrize("tile_size", [None, 48])
@pytest.mark.parametrize("all_lazy", [False, True])
def test_mask_background_and_variance(image, tile_size, all_lazy):
    rng = np.random.default_rng(0)
    mask = hs.signals.Signal2D(rng.uniform(size=(96, 96)) < 0.05)
    backgrounds = [
        signal * 0.0 + rng.uniform(0, 0.1, size=(96, 96)) for signal in image.maps
    ]
    maps = [signal.deepcopy() for signal in image.maps]
    for signal in maps:
        signal.change_dtype("float64")
        signal.set_noise_variance(signal._deepcopy_with_new_data(signal.data + 0.5))
    options = {**GIVEN, "tile_size": tile_size}
    options |= {"mask": mask, "background": backgrounds}
    expected = hf.fuse_multimodal(maps, image.haadf, **options)
    if all_lazy:
        maps, haadf = lazily(maps, image.haadf)
        for signal in maps:
            signal.set_noise_variance(signal.get_noise_variance().as_lazy())
    else:
        haadf = image.haadf
    options["mask"] = mask.as_lazy()
    options["background"] = [signal.as_lazy() for signal in backgrounds]
    fused = hf.fuse_multimodal(maps, haadf, **options)
    assert fused[0]._lazy == all_lazy
    if all_lazy:
        one_by_one(fused, None)
    assert_same(fused, expected)


@pytest.mark.parametrize("tile_size", [None, 48])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda maps, haadf: (one_pixel(maps, np.inf), haadf), "1 pixels .* infinite"),
        (lambda maps, haadf: (one_pixel(maps, -np.inf), haadf), "1 pixels .* infinite"),
        (
            lambda maps, haadf: ([maps[0], maps[1] * np.nan, maps[2]], haadf),
            "nothing but missing pixels: leave its elem",
        ),
        (
            lambda maps, haadf: (maps, haadf * 0 + 7),
            r"HAADF image is constant \(7",
        ),
    ],
)
def test_what_a_lazy_image_cannot_hold(image, tile_size, spoil, message):
    maps, haadf = spoil(*lazily(image.maps, image.haadf))

    def fuse():
        fused = hf.fuse_multimodal(maps, haadf, tile_size=tile_size, **GIVEN)
        fused[0].compute()

    with pytest.raises(ValueError, match=message):
        fuse()


@pytest.mark.parametrize("tile_size", [None, 48])
@pytest.mark.parametrize("value", [-3.0, np.nan])
def test_a_lazy_background_is_checked(image, tile_size, value):
    maps, haadf = lazily(image.maps, image.haadf)
    background = [signal * 0 + value for signal in maps]

    def fuse():
        hf.fuse_multimodal(maps, haadf, background, tile_size=tile_size)[0].compute()

    with pytest.raises(ValueError, match="background has values below 0, NaN or inf"):
        fuse()


def test_nan_is_no_value_of_the_published_method(series):
    maps, haadf = lazily(*series)
    maps = one_pixel(maps, np.nan)
    fused = hf.fuse_published(maps, haadf, n_iter=3)
    with pytest.raises(ValueError, match="map of Mn has 1 pixels that are NaN or inf"):
        fused[0].compute()


# --- weights of a series ---------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_shared_weights(series_of, lazy):
    rows = []
    for seeds in ((1, 2), (3, 4)):
        row = [hf.data.core_shell(size=32, counts=16, seed=s) for s in seeds]
        rows.append(series_of(*row))
    maps, haadf = series_of(*rows)
    elements = ["Co", "Mn", "O"]
    options = {"background": 0.02, "weights": "shared", "elements": elements}
    if lazy:
        maps, haadf = lazily(maps, haadf)
    fused = hf.fuse_multimodal(maps, haadf, **options)
    if lazy:
        assert fused[0].data.shape == (2, 2, 32, 32)
        hs.stack(fused).compute()
        one_by_one(fused, None)
    record = fused[0].metadata.Multimodal_fusion
    for name in ("lambda_tv", "lambda_haadf"):
        assert record[name].shape == (2, 2)
        assert len(set(record[name].flat)) == 1
    assert record.haadf_coefficients.shape == (2, 2, 3)
    assert record.cost.total.shape[:2] == (2, 2)
    assert record.converged
    own = hf.fuse_multimodal(
        [signal.inav[0, 0] for signal in maps],
        haadf.inav[0, 0],
        background=0.02,
        elements=elements,
        lambda_tv=float(record.lambda_tv[0, 0]),
        lambda_haadf=float(record.lambda_haadf[0, 0]),
        lazy_output=False,
    )
    scale = own[0].data.max()
    assert_allclose(fused[0].data[0, 0], own[0].data, rtol=0, atol=1e-6 * scale)


def test_shared_weights_without_the_image(series_of):
    specimens = [hf.data.core_shell(size=32, seed=seed) for seed in (1, 2)]
    maps, haadf = series_of(*specimens)
    haadf = haadf.deepcopy()
    haadf.data = np.random.default_rng(3).normal(100, 10, haadf.data.shape)
    with pytest.warns(UserWarning, match="the HAADF image was not used"):
        hf.fuse_multimodal(maps, haadf, weights="shared")


def test_shared_weights_of_a_lazy_image_without_contrast(series):
    maps, haadf = lazily(*series)
    with pytest.raises(ValueError, match=r"HAADF image is constant \(0"):
        hf.fuse_multimodal(maps, haadf * 0, weights="shared")


@pytest.mark.parametrize("way", ["tiles", "shared", "lazy"])
def test_number_of_threads(image, series, way, monkeypatch):
    threads = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, max_workers):
            threads.append(max_workers)
            super().__init__(max_workers)

    monkeypatch.setattr("hyperspy_fusion.core.common.threads.ThreadPoolExecutor", Pool)
    options = {
        "tiles": {"tile_size": 48},
        "shared": {"weights": "shared"},
        "lazy": {"lazy_output": True},
    }[way]
    data = series if way == "shared" else (image.maps, image.haadf)
    for n, expected in ((1, set()), (3, {2})):
        found = hf.fuse_multimodal(*data, 0.02, num_workers=n, **options)
        if way == "lazy":
            found[0].compute()
        assert set(threads) <= expected


def test_locks_that_are_taken_while_a_folder_is_removed(tmp_path, monkeypatch):
    class Locks(dict):
        def pop(self, key, default=None):
            self[tmp_path / f"other/{len(self)}"] = None  # by another thread
            return super().pop(key, default)

    locks = Locks({tmp_path / "own/1": None, tmp_path / "own/2": None})
    monkeypatch.setattr(lazy, "_locks", locks)
    lazy._remove(tmp_path / "own", os.getpid())
    assert {path.parent.name for path in locks} == {"other"}


def test_shared_weights_of_tiles(series_of):
    pair = [hf.data.core_shell(size=96, seed=s) for s in (1, 2)]
    fused = hf.fuse_multimodal(
        *series_of(*pair), background=0.02, weights="shared", tile_size=48
    )
    record = fused[0].metadata.Multimodal_fusion
    for name in ("lambda_tv", "lambda_haadf"):
        assert record[name][0] == record[name][1]
    assert np.isfinite(record.weights_tried[0]).all()
    assert np.isnan(record.weights_tried[1]).all()


def test_weights_are_shared_or_not(series):
    with pytest.raises(
        ValueError, match="'both': expected one of 'per position', 'shared'"
    ):
        hf.fuse_multimodal(*series, weights="both", **GIVEN)
