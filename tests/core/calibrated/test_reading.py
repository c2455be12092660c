import warnings

import numpy as np
import pytest
from arrays_in import prepare, solve
from numpy.testing import assert_allclose, assert_array_equal
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter, uniform_filter
from specimens import discs

import hyperspy_fusion
from hyperspy_fusion.core.calibrated.options import CalibratedOptions
from hyperspy_fusion.core.calibrated.reading import read_map

OPTIONS = CalibratedOptions()


@pytest.fixture(scope="module")
def counts():
    maps = hyperspy_fusion.data.core_shell(96, counts=16, seed=1).maps
    return maps[0].data.astype(float)


def read(image, *, negative=False):
    return read_map(image, np.ones(image.shape, bool), negative=negative)


def test_counts(counts):
    found = read(counts)
    assert found.count_value == 1
    assert found.exact
    assert not found.exported
    assert found.kernel is None


@pytest.mark.parametrize("factor", [3, 0.37, 1e-4])
def test_multiples_of_counts(counts, factor):
    found = read(np.float32(factor * counts))
    assert found.count_value == pytest.approx(factor, rel=1e-3)
    assert found.exact
    assert found.exported == (factor == 3)


@pytest.mark.parametrize("largest", [255, 65535])
@pytest.mark.parametrize("to_whole", [np.rint, np.floor])
def test_exports(counts, largest, to_whole):
    scale = largest / counts.max()
    exported = to_whole(counts * scale)
    found = read(exported)
    assert found.exported
    assert found.count_value == pytest.approx(scale, rel=0.01)
    assert_array_equal(np.rint(exported / found.count_value), counts)


def test_export_of_many_counts():
    # 0.2 grey levels a count: no comb, but less noise than counts have
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    counts = rng.poisson(1000 * np.exp(-(np.hypot(y - 40, x - 50) ** 2) / 900) + 20)
    found = read(np.rint(0.2 * counts))
    assert found.exported
    assert found.count_value == pytest.approx(0.2, rel=0.3)


def test_whole_numbers_with_little_noise_everywhere_are_no_counts():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    image = np.rint(
        100 + 50 * np.sin(y / 9) * np.sin(x / 9) + rng.normal(0, 2, y.shape)
    )
    found = read(image)
    assert found.count_value is None
    assert found.exported


def test_filtered_counts(counts):
    found = read(uniform_filter(counts, 3))
    assert found.kernel.area == pytest.approx(9)
    assert 0.5 < found.count_value < 1.6
    assert not found.exact


@pytest.mark.parametrize("name", ["core_shell", "lattice", "janus"])
def test_maps_like_jpeg(name):
    maps, *_ = getattr(hyperspy_fusion.data, name)(96, counts=4)
    exported = [np.rint(m.data * (255 / m.data.max())) for m in maps]
    # without the whole numbers of the counts
    smooth = [gaussian_filter(image, 0.5).round() for image in exported]
    for image in (*exported, *smooth):
        assert not read(image).compressed
        blocks = image.reshape(12, 8, 12, 8)
        waves = dctn(blocks, axes=(1, 3), norm="ortho")
        rounded = idctn(12 * np.rint(waves / 12), axes=(1, 3), norm="ortho")
        found = read(np.clip(np.rint(rounded), 0, 255).reshape(96, 96))
        assert found.compressed
        assert found.count_value is None
        assert not found.exported


@pytest.mark.parametrize("counts", [1, 4, 50, 1000])
@pytest.mark.parametrize("name", ["core_shell", "lattice", "janus"])
def test_counts_that_pixels_share(name, counts):
    maps, *_ = getattr(hyperspy_fusion.data, name)(96, counts=counts)
    shares = np.kron(np.eye(32), [[1, 0.5, 0], [0, 0.5, 1]])  # binned by 1.5
    for image in (m.data.astype(float) for m in maps):
        scaled = read(0.25 * image)
        assert scaled.exact
        assert not scaled.shared
        found = read(shares @ image @ shares.T)
        assert found.kernel is not None  # of many counts perhaps that of a filter
        assert not found.exact
        if counts <= 4:
            assert found.shared
            assert found.count_value == pytest.approx(1, rel=0.4)


def test_values():
    rng = np.random.default_rng(0)
    image = rng.normal(50, 1, (64, 64))
    assert read(image).count_value is None
    assert read(np.float32(image)).count_value is None
    assert read(image - 50, negative=True).count_value is None


def test_what_is_said_of_maps():
    maps, haadf, *_ = discs(96, 96)
    said = prepare(maps, haadf, OPTIONS, elements=["Pt", "O"]).units
    assert said.warnings == said.notes == ()
    exported = np.rint(maps * 255 / maps.max())
    told = prepare(exported, haadf, OPTIONS, elements=["Pt", "O"]).units.warnings
    assert [warning[:42] for warning in told] == [
        "the map of Pt holds whole numbers that are",
        "the map of O holds whole numbers that are ",
    ]
    assert "a count was found to be" in told[0]
    shares = np.kron(np.eye(32), [[1, 0.5, 0], [0, 0.5, 1]])
    binned = prepare(
        shares @ maps @ shares.T, shares @ haadf @ shares.T, OPTIONS, elements="AB"
    ).units
    first, _ = binned.warnings
    assert first.startswith("the map of A has the noise of counts of ")
    assert "by a factor that is no whole number" in first
    smooth = gaussian_filter(maps, (0, 1, 1))
    told = prepare(smooth, haadf, OPTIONS, elements=["Pt", "O"]).units.warnings
    assert len(told) == 2
    assert "the map of Pt is correlated, as after a Gaussian filter of" in told[0]


def test_exported_maps_are_counts_again():
    maps, haadf, *_ = discs(96, 96)
    prepared = prepare(np.rint(maps * 36.43), haadf, OPTIONS).prepared
    assert_array_equal(prepared.data, maps)


@pytest.mark.parametrize("filtered", ["uniform", "gaussian"])
def test_fusion_of_filtered_maps(filtered):
    specimen = hyperspy_fusion.data.core_shell(128, counts=4, seed=2)
    maps, haadf, truth = specimen
    raw = hyperspy_fusion.fuse_multimodal(maps, haadf, background=0)
    for image in maps:
        data = image.data.astype(float)
        image.data = (
            uniform_filter(data, 3)
            if filtered == "uniform"
            else gaussian_filter(data, 1)
        )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fused = hyperspy_fusion.fuse_multimodal(maps, haadf, background=0)
    expected = "the noise of neighbouring pixels of the map of"
    assert sum(str(one.message).startswith(expected) for one in told) == 3

    def error(found):
        return np.mean(
            [
                np.linalg.norm(one.data - true.data - 0.02) / np.linalg.norm(true.data)
                for one, true in zip(found, truth, strict=True)
            ]
        )

    assert error(fused) < 1.25 * error(raw)
    for one, image in zip(fused, maps, strict=True):
        assert_allclose(one.data.sum(), image.data.sum(), rtol=1e-4)


def test_values_below_0_that_were_cut_off(counts):
    rng = np.random.default_rng(0)
    net = counts + rng.normal(0, 0.5, counts.shape)
    found = read(net.clip(0))
    assert found.clipped
    assert found.count_value is None
    thickness = np.linspace(1, 2, counts.shape[1])
    assert not read(counts / thickness).clipped


def test_whole_net_counts_that_were_cut_off_at_0(counts):
    rng = np.random.default_rng(0)
    net = rng.poisson(counts + 6.0) - rng.poisson(6.0, counts.shape)
    found = read(np.maximum(net, 0).astype(float))
    assert found.noise == found.count_value > 1.4
    assert not found.exact
    assert read(counts).noise == 0


@pytest.mark.parametrize("measured", [0.1, 0.25, 0.5])
def test_counts_of_which_many_are_missing(measured):
    maps = hyperspy_fusion.data.core_shell(64, seed=2).maps
    known = np.random.default_rng(2).random((64, 64)) < measured
    for signal in maps:
        filled = np.where(known, signal.data, gaussian_filter(signal.data, 2.0))
        found = read_map(filled, known, negative=False)
        assert found.count_value == 1
        assert found.kernel is None


@pytest.mark.parametrize("offset", [2.0, 10.0])
def test_an_offset(counts, offset):
    rng = np.random.default_rng(0)
    found = read(0.37 * counts + offset)
    assert found.offset == pytest.approx(offset, rel=0.05)
    assert read(0.37 * counts).offset == 0
    assert read(counts + rng.normal(50, 3.0, counts.shape)).offset == 0


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (np.sqrt, "square roots"),
        (lambda counts: np.sqrt(counts / counts.max()), "square roots"),
        (lambda counts: 2 * np.sqrt(counts + 3 / 8), "Anscombe transforms"),
        (np.log1p, "logarithms"),
        (lambda counts: np.log2(1 + counts), "logarithms"),
        (lambda counts: np.log10(1 + counts), "logarithms"),
    ],
)
def test_functions_of_counts(counts, function, name):
    found = read(np.float32(function(counts)))
    assert found.function == name
    assert f"the map of Co holds {name} of whole" in found.warning("map of Co")


@pytest.mark.parametrize("times", [1, 3, 0.37])
def test_counts_and_their_means_are_no_function_of_counts(counts, times):
    assert not read(times * counts).function
    assert not read(uniform_filter(times * counts, 3)).function
    assert not read(
        times * (counts - gaussian_filter(counts, 5)), negative=True
    ).function


@pytest.mark.parametrize(("level", "spread"), [(2.0, 0.2), (1.6, 0.1)])
def test_small_maps_of_values_are_no_transforms(level, spread):
    rng = np.random.default_rng(0)
    values = level + spread * rng.standard_normal((48, 48))
    assert not read(np.float32(values)).function


def test_an_image_that_does_not_fit_may_be_the_fault_of_denoised_maps():
    def warnings_of(maps):
        found = solve(maps, data.haadf.data[::-1], [27, 25, 8], OPTIONS)
        return " ".join(found.warnings)

    data = hyperspy_fusion.data.core_shell(64, counts=16, seed=1)
    counts = np.stack([signal.data for signal in data.maps]).astype(float)
    pixels = counts.reshape(3, -1)
    u, s, v = np.linalg.svd(pixels, full_matrices=False)
    denoised = ((u[:, :2] * s[:2]) @ v[:2]).reshape(counts.shape)
    assert "if they were denoised" in warnings_of(np.float32(np.abs(denoised)))
    of_counts = warnings_of(counts)
    assert "HAADF" in of_counts
    assert "denoised (by PCA" not in of_counts
    counts[0] = 0  # an empty map changes nothing
    assert "denoised (by PCA" not in warnings_of(counts)
    of_roots = warnings_of(np.sqrt(counts))
    assert "square roots" in of_roots
    assert "denoised (by PCA" not in of_roots
