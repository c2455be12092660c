"""Tiles: how images are cut, what is global about them, and what comes out."""

import itertools
import warnings
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion.core.calibrated import parts as calibrated
from hyperspy_fusion.core.calibrated.shift import Shift
from hyperspy_fusion.derived import flagged_pixels
from hyperspy_fusion.execution import overview
from hyperspy_fusion.execution.assembly import assemble
from hyperspy_fusion.execution.plan import ExecutionOptions, Task
from hyperspy_fusion.execution.tiles import HALOS, tiles_of

HALO = HALOS["tgv"]
# Where the choice of the weights does not matter.
GIVEN = {"lambda_tv": 4.0, "lambda_haadf": 0.1}


def image_of(shape, chunks=None):
    """An image that takes no memory, lazy if it has chunks."""
    if chunks is None:
        return np.broadcast_to(0.0, shape)
    return da.zeros(shape, chunks=chunks)


def edges(tiles):
    """Edges of tiles along y and x."""
    rows = [row[0].rows for row in tiles]
    columns = [tile.columns for tile in tiles[0]]
    return [[0, *(span.stop for span in spans)] for spans in (rows, columns)]


def values(signals):
    return np.stack([signal.data for signal in signals])


# --- cutting ---------------------------------------------------------------------


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.integers(HALO, 200),
)
def test_tiles_cover_the_image_exactly_once(shape, tile_size):
    tiles = tiles_of(image_of((3, *shape)), tile_size, HALO)
    if tiles is None:
        assert max(shape) <= tile_size
        return
    covered = np.zeros(shape, int)
    for row in tiles:
        for tile in row:
            covered[tile.rows, tile.columns] += 1
            seen = np.zeros(shape)
            seen[tile.rows, tile.columns] = 1
            assert seen[tile.outer][tile.inner].all()
            assert seen[tile.outer].sum() == seen[tile.outer][tile.inner].size
            spans = zip((tile.rows, tile.columns), tile.outer, shape, strict=True)
            for own, outer, size in spans:
                assert own.stop - own.start <= tile_size
                assert outer.start == max(own.start - HALO, 0)
                assert outer.stop == min(own.stop + HALO, size)
    assert (covered == 1).all()


@pytest.mark.parametrize(
    ("shape", "chunks", "expected"),
    [
        ((500, 4096), None, None),
        ((500, 4096), (3, 500, 100), [[0, 500], [*range(0, 3601, 300), 4096]]),
        ((500, 5000), None, [[0, 500], [0, 1666, 3333, 5000]]),
        ((300, 700), (3, 300, 700), None),
        ((700, 300), (1, (300, 400), 300), [[0, 300, 700], [0, 300]]),
        # small ones are put together, also at the end
        ((1000, 100), (3, 100, 50), [[0, 300, 600, 1000], [0, 100]]),
        ((512, 256), (3, (200, 200, 112), 256), None),
        # large ones are cut
        ((4500, 300), (3, 4500, 300), [[0, 1500, 3000, 4500], [0, 300]]),
        ((5000, 300), (3, (4096, 904), 300), [[0, 2048, 4096, 5000], [0, 300]]),
    ],
)
def test_tiles_are_the_chunks(shape, chunks, expected):
    tiles = tiles_of(image_of((3, *shape), chunks), None, HALO)
    assert (tiles if tiles is None else edges(tiles)) == expected


def test_tiles_of_a_given_size():
    lazy = image_of((2, 3, 130, 100), (1, 3, 50, 50))
    assert edges(tiles_of(lazy, 64, HALO)) == [[0, 64, 128, 130], [0, 64, 100]]
    assert tiles_of(lazy, 130, HALO) is None
    with pytest.raises(ValueError, match="tile_size is 31: expected a whole number of"):
        ExecutionOptions(tile_size=31)


# --- what is global --------------------------------------------------------------


@given(
    st.tuples(st.integers(20, 150), st.integers(20, 150)),
    st.integers(HALO, 80),
    st.sampled_from([2, 4]),
    st.integers(0, 2**16),
)
def test_integrals_of_the_tiles_are_sums_of_pixels(shape, tile_size, factor, seed):
    tiles = tiles_of(image_of(shape), tile_size, HALO)
    if tiles is None:
        return
    size = [-(-n // factor) for n in shape]
    coarse = np.random.default_rng(seed).gamma(0.3, size=(3, *size))
    fine = coarse.repeat(factor, axis=1).repeat(factor, axis=2)
    for tile in (tile for row in tiles for tile in row):
        expected = fine[:, tile.rows, tile.columns].sum(axis=(1, 2))
        assert_allclose(overview._integral(coarse, factor, tile), expected, rtol=1e-9)


@given(st.tuples(st.integers(1, 1500), st.integers(1, 1500)))
def test_the_sample_is_spread_over_the_image(shape):
    sample = overview._spread(shape, HALO)
    for axis, size in enumerate(shape):
        spans = {
            (t.rows, t.columns)[axis].start: (t.rows, t.columns)[axis] for t in sample
        }
        assert len(spans) <= 8
        assert {s.stop - s.start for s in spans.values()} == {min(size, 128)}
        assert min(spans) == 0
        assert max(s.stop for s in spans.values()) == size
        if size <= 8 * 128:  # no gaps
            edges = sorted(spans)
            assert all(b - a <= 128 for a, b in itertools.pairwise(edges))


@pytest.mark.parametrize("factor", [2, 4])
def test_means_leave_missing_pixels_out(factor):
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(2, 13, 18))
    image[rng.uniform(size=image.shape) < 0.3] = np.nan
    image[0, :4, :4] = np.nan
    found = overview._means(da.from_array(image, chunks=(1, 5, 7)), factor).compute()
    assert found.shape == (2, -(-13 // factor), -(-18 // factor))
    for k, y, x in np.ndindex(found.shape):
        square = image[k, factor * y :, factor * x :][:factor, :factor]
        known = square[np.isfinite(square)]
        if known.size:
            assert found[k, y, x] == pytest.approx(known.mean(), rel=1e-6)
        else:
            assert np.isnan(found[k, y, x])
    assert np.isnan(found[0, 0, 0])


def test_means_of_numbers_are_the_numbers():
    assert overview._means(None, 2) is None
    number = da.ones((3, 1, 1))
    assert overview._means(number, 2) is number


# --- what was solved -------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("navigation", [(), (2,), (2, 3)])
@pytest.mark.parametrize("tile_size", [None, 40])
def test_assemble_undoes_cutting(navigation, tile_size, lazy):
    shape = (*navigation, 2, 70, 90)
    whole = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    if lazy:
        whole = da.from_array(whole)
    tiles = None if tile_size is None else tiles_of(whole, tile_size, HALO)
    tasks, solutions = [], []
    for position in np.ndindex(navigation):
        for tile in [None] if tiles is None else [t for row in tiles for t in row]:
            inputs = {"maps": whole, "haadf": whole[..., 0, :, :], "variance": None}
            task = Task.of(None, inputs, position, tile)
            inner = () if tile is None else tile.inner
            maps = task.inputs["maps"][(slice(None), *inner)]
            assert task.pixels == maps[0].size
            assert task.inputs["variance"] is None
            tasks.append(task)
            solutions.append(SimpleNamespace(maps=np.asarray(maps)))
    found = assemble(solutions, tasks, shape, {"maps": ()})
    assert_array_equal(found["maps"], whole)


def test_tiles_together_have_the_flux_of_their_image():
    rng = np.random.default_rng(0)
    whole = rng.gamma(0.3, size=(2, 2, 70, 90)).astype(np.float32)
    whole[:, 1, :40] = 0
    flux = np.array([1e4, 2.0]), None
    tasks, solutions = [], []
    for k in range(2):
        for tile in (tile for row in tiles_of(whole, 40, HALO) for tile in row):
            tasks.append(Task.of(None, {"maps": whole}, (k,), tile, flux[k]))
            maps = tasks[-1].inputs["maps"][(slice(None), *tile.inner)]
            sums = maps.sum(axis=(1, 2), dtype=float)
            solutions.append(SimpleNamespace(maps=maps, sums=sums))
    found = assemble(solutions, tasks, whole.shape, {"maps": ()})["maps"]
    assert_allclose(found[0].sum(axis=(1, 2), dtype=float), flux[0], rtol=1e-6)
    ratio = flux[0] / whole[0].sum(axis=(1, 2), dtype=float)
    assert_allclose(found[0], whole[0] * ratio[:, None, None], rtol=1e-6)
    assert_array_equal(found[1], whole[1])  # where the flux is not locked


# --- an image by tiles and as a whole ---------------------------------------------


@pytest.fixture
def parts(monkeypatch):
    """What was solved by tiles, in the order of the tasks of one thread."""
    found = []

    def solve_part(*args, **kwargs):
        found.append(inner(*args, **kwargs))
        return found[-1]

    inner = calibrated.solve_part
    monkeypatch.setattr(calibrated, "solve_part", solve_part)
    return found


def nrmse(maps, truth):
    found, expected = (values(signals).astype(float) for signals in (maps, truth))
    squares = ((found - expected) ** 2).sum(axis=(1, 2))
    return np.sqrt(squares / (expected**2).sum(axis=(1, 2))).mean()


def sums(maps):
    return np.nansum(values(maps), axis=(1, 2), dtype=np.float64)


@pytest.mark.parametrize("regularizer", ["tgv", "tv"])
def test_a_large_image(regularizer):
    maps, haadf, truth = hf.data.core_shell(size=512)
    options = {"background": 0.02, "regularizer": regularizer, **GIVEN}
    options["tolerance"] = 1e-4  # the whole and the tiles come as near to each other
    whole = hf.fuse_multimodal(maps, haadf, **options)
    tiled = hf.fuse_multimodal(maps, haadf, tile_size=256, **options)
    difference = np.abs(values(tiled) - values(whole)).max(axis=(1, 2))
    assert (difference <= 0.01 * np.percentile(values(whole), 99, axis=(1, 2))).all()
    assert nrmse(tiled, truth) <= 1.005 * nrmse(whole, truth)
    assert_allclose(sums(tiled), sums(whole), rtol=1e-5)
    record, expected = (s[0].metadata.Multimodal_fusion for s in (tiled, whole))
    for term in ("total", "haadf", "chemical", "tv"):
        assert_allclose(record.cost[term][-1], expected.cost[term][-1], rtol=0.01)
    cost = record.cost
    assert_allclose(
        cost.total, 0.1 * cost.haadf + cost.chemical + 4.0 * cost.tv, rtol=1e-12
    )
    assert record.converged
    assert record.gap <= 1e-4
    assert set(record.as_dictionary()) == set(expected.as_dictionary())


@pytest.fixture(scope="module")
def specimen():
    return hf.data.core_shell(size=128)


@pytest.fixture(scope="module")
def whole(specimen):
    return hf.fuse_multimodal(specimen.maps, specimen.haadf, background=0.02)


def test_weights_are_chosen_once(specimen, whole, parts):
    tiled = hf.fuse_multimodal(
        specimen.maps, specimen.haadf, tile_size=64, background=0.02
    )
    assert len(parts) == 4
    record, expected = (s[0].metadata.Multimodal_fusion for s in (tiled, whole))
    # the image is its own sample
    for name in ("lambda_tv", "lambda_haadf", "haadf_coefficients", "weights_tried"):
        assert_allclose(record[name], expected[name])
    assert nrmse(tiled, specimen.truth) <= 1.01 * nrmse(whole, specimen.truth)
    assert_allclose(sums(tiled), sums(whole), rtol=1e-5)


def test_the_flux_may_be_free(specimen):
    options = {"background": 0.02, "tolerance": 1e-5, "max_iter": 5000, **GIVEN}
    options["lock_flux"] = False
    whole, tiled = (
        hf.fuse_multimodal(specimen.maps, specimen.haadf, tile_size=size, **options)
        for size in (None, 64)
    )
    difference = np.abs(values(tiled) - values(whole)).max(axis=(1, 2))
    # nothing but the halo sets them apart
    assert (difference <= 0.005 * np.percentile(values(whole), 99, axis=(1, 2))).all()


def noisy(maps, haadf):
    """Maps with Gaussian noise, and negative pixels."""
    rng = np.random.default_rng(0)
    return [m + rng.normal(scale=0.5, size=m.data.shape) for m in maps], haadf, 0.0


def scaled(maps, haadf):
    return [m * 0.25 for m in maps], haadf, 0.005


def gappy(maps, haadf):
    maps = [signal.deepcopy() for signal in maps]
    for signal in maps:
        signal.change_dtype("float32")
        signal.data[50:80, 60:70] = np.nan
    return maps, haadf, 0.02


def shifted(maps, haadf):
    return maps, haadf._deepcopy_with_new_data(np.roll(haadf.data, 2, 1)), 0.02


@pytest.mark.filterwarnings("ignore:.*displaced against:UserWarning")
@pytest.mark.filterwarnings("ignore:.*contradicts:UserWarning")
@pytest.mark.parametrize("change", [noisy, scaled, gappy, shifted])
def test_any_data_by_tiles(specimen, change, parts):
    maps, haadf, background = change(specimen.maps, specimen.haadf)
    options = {"background": background, **GIVEN}
    whole = hf.fuse_multimodal(maps, haadf, **options)
    assert parts == []
    tiled = hf.fuse_multimodal(maps, haadf, tile_size=64, **options)
    assert len(parts) == 4
    truth = [t * (0.25 if change is scaled else 1) for t in specimen.truth]
    assert nrmse(tiled, truth) <= 1.02 * nrmse(whole, truth)
    rtol = 5e-3 if change is gappy else 1e-5  # gaps are filled on large pixels
    assert_allclose(sums(tiled), sums(whole), rtol=rtol)
    record, expected = (s[0].metadata.Multimodal_fusion for s in (tiled, whole))
    for name in ("count_value", "shift", "haadf_coefficients", "haadf_offset"):
        assert_allclose(record[name], expected[name], rtol=1e-3, atol=1e-6)
    if change is shifted:
        assert np.abs(record.shift).sum() == pytest.approx(2, abs=0.3)
    assert_allclose(record.cost.total[-1], expected.cost.total[-1], rtol=0.02)


@pytest.mark.parametrize("lazy", [False, True])
def test_an_image_that_is_displaced_by_more_than_a_tile_has_around(parts, lazy):
    shift = -20, 25
    maps, haadf, truth = hf.data.core_shell(size=128, shift=shift)
    options = {"background": 0.02, **GIVEN}
    with pytest.warns(UserWarning, match=r"displaced .* by \(-20, 25\) pixels"):
        whole = hf.fuse_multimodal(maps, haadf, **options)
    if lazy:
        haadf = haadf.as_lazy()
    with pytest.warns(UserWarning, match=r"displaced .* by \(-20, 25\) pixels"):
        tiled = hf.fuse_multimodal(
            maps, haadf, tile_size=40, lazy_output=False, **options
        )
    assert len(parts) == 16
    record = tiled[0].metadata.Multimodal_fusion
    assert_array_equal(record.shift, shift)
    # O is wherever Co or Mn are, so that the coefficients depend on the lost pixels
    assert nrmse(tiled, truth) <= 1.12 * nrmse(whole, truth)


def test_an_image_is_moved_back_by_whole_large_pixels():
    image = np.arange(30).reshape(5, 6)
    assert overview.moved_back(image, Shift()) is image
    for array in (image, da.from_array(image, chunks=2)):
        moved = np.asarray(overview.moved_back(array, Shift(y=4.0, x=-2.0), 2))
        assert_array_equal(moved[:3, 1:], image[2:, :5])
        assert np.isnan(moved[3:]).all()
        assert np.isnan(moved[:, 0]).all()


def test_what_contradicts_the_maps_is_flagged_in_its_tile(specimen, parts):
    haadf = specimen.haadf.deepcopy()
    y, x = np.ogrid[:128, :128]
    blob = np.exp(-((y - 12) ** 2 + (x - 116) ** 2) / (2 * 4**2))
    haadf.data += np.ptp(haadf.data) * blob  # of an element that is not mapped
    options = {"background": 0.02, "lambda_tv": 4.0, "lambda_haadf": 1.0}
    with pytest.warns(UserWarning, match="the HAADF image contradicts the maps"):
        fused = hf.fuse_multimodal(
            specimen.maps, haadf, tile_size=64, num_workers=1, **options
        )
    record = fused[0].metadata.Multimodal_fusion
    flagged = [part.record["flagged"] for part in parts]
    assert sum(share > 0 for share in flagged) == 1
    assert record.flagged == pytest.approx(np.mean(flagged))
    found = flagged_pixels(fused)
    assert found.mean() == pytest.approx(record.flagged)
    assert found[8:16, 112:120].all()
    assert not found[64:].any()
    assert record.guard == max(part.record["guard"] for part in parts) > 5


def test_a_sliver_and_an_empty_map(specimen):
    maps = [signal.isig[:66, :65].deepcopy() for signal in specimen.maps]
    maps[1].data[:] = 0
    with pytest.warns(UserWarning, match="without any contrast: map of Mn"):
        fused = hf.fuse_multimodal(
            maps, specimen.haadf.isig[:66, :65], 0.0, tile_size=64, **GIVEN
        )
    assert_allclose(sums(fused), sums(maps), rtol=1e-5)
    assert np.isfinite(values(fused)).all()
    assert values(fused).min() >= 0


def test_small_tiles_have_the_background_of_the_whole():
    maps, haadf, _ = hf.data.core_shell(size=96)
    given = {"lambda_tv": 4.0, "lambda_haadf": 0.1}
    whole = hf.fuse_multimodal(maps, haadf, **given)
    tiled = hf.fuse_multimodal(maps, haadf, tile_size=48, **given)
    one, other = (
        f[0].metadata.Multimodal_fusion.vacuum_background for f in (whole, tiled)
    )
    assert_allclose(other, one, rtol=0.1)
    for a, b in zip(whole, tiled, strict=True):
        assert np.abs(a.data - b.data).max() < 0.02 * a.data.max()


def test_tiles_say_that_a_background_may_be_a_matrix():
    maps, haadf, _ = hf.data.core_shell(size=96)
    for signal in maps:
        more = np.random.default_rng(0).poisson(20.0, signal.data.shape)
        signal.data = signal.data + more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that, and what follows from it
        fused = hf.fuse_multimodal(maps, haadf, tile_size=48, **GIVEN)
    said = fused[0].metadata.Multimodal_fusion.warnings
    assert "may be of an element that is everywhere" in said


def test_a_size_that_large_pixels_do_not_divide():
    maps, haadf, _ = hf.data.core_shell(size=575)
    fused = hf.fuse_multimodal(
        maps,
        haadf,
        background=0,
        tile_size=288,
        max_iter=25,
        tolerance=0.5,
        **GIVEN,
    )
    assert_allclose(sums(fused), sums(maps), rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 200), (2, 200), (200, 1)])
def test_lines_by_tiles(size):
    n_y, n_x = size
    maps, haadf, _ = hf.data.core_shell(size=200)
    place = slice(100 if n_x == 1 else 0, None), slice(0 if n_x == 1 else 100, None)
    maps = [signal.isig[place].isig[:n_x, :n_y] for signal in maps]
    haadf = haadf.isig[place].isig[:n_x, :n_y]
    fused = hf.fuse_multimodal(maps, haadf, tile_size=64, **GIVEN)
    assert_allclose(sums(fused), sums(maps), rtol=1e-5)


def test_a_series_by_tiles(series_of, specimen, parts):
    others = specimen, hf.data.core_shell(size=128, seed=2)
    maps, haadf = series_of(*others)
    options = {"tile_size": 64, "background": 0.02, **GIVEN}
    series = hf.fuse_multimodal(maps, haadf, **options)
    assert len(parts) == 8
    for k, other in enumerate(others):
        single = hf.fuse_multimodal(other.maps, other.haadf, **options)
        found = values(series)[:, k]
        assert_allclose(found, values(single), atol=1e-6 * values(single).max())
        gaps = [s[0].metadata.Multimodal_fusion.gap for s in (series, single)]
        assert gaps[0][k] == pytest.approx(gaps[1], rel=1e-3)


@pytest.mark.parametrize("option", ["tile_size", "weights"])
def test_the_published_method_takes_images_as_a_whole(specimen, option):
    with pytest.raises(TypeError, match=f"has no option {option}, which is one of"):
        hf.fuse_published(specimen.maps, specimen.haadf, **{option: 64})
