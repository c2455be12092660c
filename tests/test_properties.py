"""What holds for any measurement, of any shape and any number of elements."""

import hashlib
import multiprocessing
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import hyperspy.api as hs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperspy_fusion as hf

GIVEN = {"lambda_tv": 3.0, "lambda_haadf": 0.1, "background": 0.0}
ELEMENTS = ["Pt", "Sr", "Ti", "Fe", "Al", "O"]
RUNS = settings(max_examples=10)
FEW = settings(max_examples=4)


@st.composite
def measurements(draw, least=4):
    """Maps of counts, and an image that has something to do with them, or nothing."""
    shape = draw(st.tuples(st.integers(least, 40), st.integers(least, 40)))
    n = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = draw(st.sampled_from([0.1, 1.0, 10.0, 1000.0]))
    smooth = np.cumsum(np.cumsum(rng.normal(size=(n, *shape)), axis=1), axis=2)
    maps = rng.poisson(counts * np.abs(smooth) / np.abs(smooth).max())
    maps[0, 0, 0] += 1  # one map at least has some contrast
    z = np.array([78, 38, 22, 26, 13, 8][:n], float)
    image = np.tensordot(z**1.7, np.abs(smooth), 1)
    kind = draw(st.sampled_from(["its own", "noise", "negative", "offset"]))
    if kind == "noise":
        image = rng.normal(size=shape)
    elif kind == "negative":
        image = -image
    elif kind == "offset":
        image = 1e4 + image
    return maps.astype(float), image + 0.01 * np.ptp(image) * rng.normal(size=shape)


def fuse(maps, haadf, order=None, **options):
    """Fused maps as an array, and their record; what is said is not looked at."""
    names = ELEMENTS[: len(maps)] if order is None else [ELEMENTS[i] for i in order]
    signals = [hs.signals.Signal2D(image) for image in maps]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fused = hf.fuse_multimodal(
            signals, hs.signals.Signal2D(haadf), elements=names, **(GIVEN | options)
        )
    return np.stack([one.data for one in fused]), fused[0].metadata.Multimodal_fusion


def digest(*arrays):
    return [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]


def assert_near(found, expected):
    """Within what the tolerance of the iteration leaves open."""
    scale = max(expected.max(), 1e-3)
    np.testing.assert_allclose(found, expected, atol=0.1 * scale, rtol=0.1)
    assert np.abs(found - expected).mean() < 0.01 * scale


@RUNS
@given(measurements(least=1))
def test_finite_not_negative_and_the_inputs_as_they_were(data):
    before = digest(*data)
    if np.ptp(data[1]) == 0:
        return  # one pixel
    fused, record = fuse(*data)
    assert digest(*data) == before
    assert np.isfinite(fused).all()
    assert (fused >= 0).all()
    assert fused.shape == data[0].shape
    assert record.gap <= record.tolerance or not record.converged


@RUNS
@given(measurements())
def test_sums_are_kept_where_that_is_said(data):
    fused, record = fuse(*data)
    if " hot" in record.notes or " dead" in record.notes:
        return  # their values are left out, which is told
    sums, measured = fused.sum(axis=(1, 2), dtype=float), data[0].sum(axis=(1, 2))
    kept = np.asarray(record.sum_kept, dtype=bool)
    np.testing.assert_allclose(sums[kept], measured[kept], rtol=1e-3, atol=1e-3)


@FEW
@given(measurements(), st.randoms(use_true_random=False))
def test_the_order_of_the_elements_does_not_matter(data, random):
    maps, haadf = data
    order = list(range(len(maps)))
    random.shuffle(order)
    fused, _ = fuse(maps, haadf, tolerance=1e-4)
    moved, _ = fuse(maps[order], haadf, order=order, tolerance=1e-4)
    np.testing.assert_allclose(moved, fused[order], atol=0.02 * fused.max(), rtol=0.02)


@FEW
@given(
    measurements(least=8),
    st.sampled_from([np.fliplr, np.flipud, np.rot90, np.transpose]),
)
def test_turned_images(data, turn):
    maps, haadf = data
    fused, _ = fuse(maps, haadf, tolerance=1e-4)
    turned, _ = fuse(np.stack([turn(one) for one in maps]), turn(haadf), tolerance=1e-4)
    assert_near(turned, np.stack([turn(one) for one in fused]))


@FEW
@given(measurements(), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_gain_and_offset_of_the_image_do_not_matter(data, offset, gain):
    maps, haadf = data
    fused, record = fuse(maps, haadf)
    scaled, other = fuse(maps, gain * (haadf + offset * np.ptp(haadf)))
    if np.isclose(record.guard, other.guard, rtol=0.01, atol=0.01):
        assert_near(scaled, fused)


@FEW
@given(measurements())
def test_the_certificate_is_never_below_the_truth(data):
    """The gap bounds by how much the cost of the maps is above the least one."""
    _, short = fuse(*data, tolerance=0.05)
    _, long = fuse(*data, tolerance=1e-5, max_iter=5000)
    ends = [np.asarray(record.cost.total)[-1] for record in (short, long)]
    if long.converged and short.converged:
        excess = (ends[0] - ends[1]) / max(abs(ends[1]), 1e-30)
        assert excess <= 0.05 + 1e-4


@FEW
@given(measurements(), st.integers(1, 4))
def test_the_number_of_threads_does_not_matter(data, n):
    fused, _ = fuse(*data, num_workers=n)
    np.testing.assert_array_equal(fuse(*data)[0], fused)


@FEW
@given(measurements())
def test_lazy_maps_and_files_are_the_same(data):
    fused, _ = fuse(*data)
    maps, haadf = data
    signals = [hs.signals.Signal2D(image).as_lazy() for image in maps]
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", UserWarning)
        names = ELEMENTS[: len(maps)]
        image = hs.signals.Signal2D(haadf).as_lazy()
        lazy = hf.fuse_multimodal(signals, image, elements=names, **GIVEN)
        for i, signal in enumerate(lazy):
            path = Path(folder) / f"{i}.hspy"
            signal.save(path)
            loaded = hs.load(path)
            assert isinstance(loaded, hf.ElementalMap)
            np.testing.assert_array_equal(loaded.data, fused[i])
            assert loaded.metadata.Sample.elements == [names[i]]


def _fused_elsewhere(data):
    return fuse(*data)[0]


@pytest.mark.parametrize(
    "way", sorted({"spawn", "fork"} & set(multiprocessing.get_all_start_methods()))
)
def test_other_processes_give_the_same(way):
    maps, haadf, _ = hf.data.core_shell(32)
    data = np.stack([m.data for m in maps]), haadf.data
    expected = fuse(*data)[0]
    context = multiprocessing.get_context(way)
    with (
        warnings.catch_warnings(),
        ProcessPoolExecutor(1, mp_context=context) as pool,
    ):
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads
        found = pool.submit(_fused_elsewhere, data).result(timeout=300)
    np.testing.assert_array_equal(found, expected)
