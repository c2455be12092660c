from dataclasses import replace

import numpy as np
import pytest
from arrays_in import prepare, solve
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

import hyperspy_fusion as hf
from hyperspy_fusion.core.calibrated import rows as rows_module
from hyperspy_fusion.core.calibrated.options import CalibratedOptions
from hyperspy_fusion.core.calibrated.prepare import Totals
from hyperspy_fusion.core.calibrated.rows import RowNoise, without_row_noise

Z = {"core_shell": (27, 25, 8), "lattice": (66, 21, 8), "janus": (79, 26, 8)}
BACKGROUND = 0.02
GIVEN = CalibratedOptions(lambda_tv=3.0, lambda_haadf=0.1)


def measured(name="core_shell", counts=4.0, size=96, **options):
    """Maps, HAADF image and truth."""
    maps, haadf, truth = getattr(hf.data, name)(size, counts=counts, seed=3, **options)
    arrays = [np.stack([s.data for s in signals]) for signals in (maps, truth)]
    return arrays[0], haadf.data.astype(float), arrays[1]


def of_rows(image, spread, seed=5):
    """A normal number for each row of an image."""
    return spread * np.random.default_rng(seed).standard_normal((len(image), 1))


def with_offsets(image, share=0.05):
    return image + of_rows(image, share * np.ptp(image))


def found(maps, image):
    return prepare(maps, image, GIVEN, background=BACKGROUND)


def with_current(image, truth, spread=0.1):
    """Counts and image of a beam current that varies from row to row."""
    gains = 1 + of_rows(image, spread)
    counts = np.random.default_rng(6).poisson(gains * (truth + BACKGROUND))
    return counts.astype(float), gains * image


@pytest.mark.parametrize("name", Z)
@pytest.mark.parametrize("counts", [1.0, 4.0, 16.0])
@pytest.mark.parametrize("electrons", [200.0, 2000.0, 20000.0])
def test_clean_images_have_none(name, counts, electrons):
    maps, image, _ = measured(name, counts, electrons=electrons)
    one = found(maps, image)
    assert one.units.rows is None
    expected = (image - image.min()).astype(np.float32)
    assert_array_equal(one.prepared.haadf, expected)


def layers(period, sharp, size=96):
    """Two phases in layers along the rows of the scan."""
    y = np.arange(size)[:, np.newaxis] * np.ones(size)
    one = (np.sin(2 * np.pi * (y + 0.3) / period) > 0).astype(float)
    return one if sharp else gaussian_filter(one, 1)


@pytest.mark.parametrize("period", [3.0, 4.3, 6.0, 7.3, 12.0, 25.0])
@pytest.mark.parametrize("sharp", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_layers_along_the_rows_are_no_noise(period, sharp, turned):
    rng = np.random.default_rng(0)
    one = layers(period, sharp)
    phases = np.stack([one, 1 - one, np.ones_like(one)])
    maps = rng.poisson(4 * phases + BACKGROUND).astype(float)
    image = rng.poisson(2000 * (0.3 + 0.7 * one)).astype(float)
    if turned:
        maps, image = maps.swapaxes(1, 2), image.T
    assert found(maps, image).units.rows is None


def test_layers_of_random_thickness_are_known_by_their_maps():
    rng = np.random.default_rng(0)
    starts = np.cumsum(rng.integers(1, 4, 96))
    one = (np.searchsorted(starts, np.arange(96)) % 2)[:, np.newaxis] * np.ones(96)
    image = rng.poisson(2000 * (0.3 + 0.7 * one)).astype(float)
    phases = np.stack([one, 1 - one, np.ones_like(one)])
    maps = rng.poisson(phases + BACKGROUND).astype(float)
    assert found(maps, image).units.rows is None
    # maps that do not have the layers
    flat = rng.poisson(np.ones_like(phases)).astype(float)
    assert found(flat, image).units.rows is not None


@pytest.mark.parametrize("name", Z)
@pytest.mark.parametrize("counts", [1.0, 16.0])
def test_offsets_of_rows_are_removed(name, counts):
    maps, image, _ = measured(name, counts)
    spoiled = with_offsets(image)
    one = found(maps, spoiled)
    rows = one.units.rows
    assert (rows.axis, rows.dark, rows.follow) == (0, None, False)
    left = one.prepared.haadf + one.units.base - image
    assert left.std() < 0.6 * (spoiled - image).std()


@pytest.mark.parametrize("name", Z)
@pytest.mark.parametrize("counts", [4.0, 16.0])
def test_a_varying_current_is_known_by_the_maps(name, counts):
    _, image, truth = measured(name, counts)
    maps, spoiled = with_current(image, truth)
    one = found(maps, spoiled)
    assert one.units.rows.follow
    assert one.units.rows.dark is not None
    left = one.prepared.haadf + one.units.base - image
    assert left.std() < 0.8 * (spoiled - image).std()
    assert_array_equal(one.prepared.data, maps)


def test_columns_are_rows_of_a_scan_that_was_turned():
    maps, image, _ = measured()
    spoiled = with_offsets(image)
    one, other = found(maps, spoiled), found(maps.swapaxes(1, 2), spoiled.T)
    assert other.units.rows.axis == 1
    assert "of its columns" in other.units.rows.message
    assert_allclose(other.prepared.haadf.T, one.prepared.haadf, rtol=1e-4, atol=1)


def test_units_of_the_image_and_missing_pixels_do_not_matter():
    maps, image, _ = measured()
    spoiled = with_offsets(image)
    size = found(maps, spoiled).units.rows.size
    assert found(maps, 7 * spoiled - 3).units.rows.size == pytest.approx(size, 1e-3)
    spoiled[20:25, :20] = np.nan
    less = maps.copy()
    less[0, 60:62] = np.nan
    assert found(less, spoiled).units.rows is None  # too much is missing
    assert found(maps, spoiled).units.rows.size == pytest.approx(size, rel=0.2)


@pytest.mark.parametrize("of_maps", [False, True])
def test_missing_rows_are_no_noise(of_maps):
    maps, image, _ = measured("lattice")
    for seed in range(5):
        missing = np.random.default_rng(seed).random(96) < 0.25
        seen, spoiled = maps.copy(), image.copy()
        spoiled[missing] = np.nan
        if of_maps:
            seen[:, missing] = np.nan
        assert found(seen, spoiled).units.rows is None


def test_nothing_is_said_of_small_images_nor_of_fractions():
    maps, image, _ = measured(size=40)
    assert found(maps, with_offsets(image)).units.rows is None
    maps, image, _ = measured()
    parts = (maps + 1) / (maps + 1).sum(axis=0)
    one = prepare(parts, with_offsets(image), GIVEN)
    assert one.units.total == 1
    assert one.units.rows is None
    flat = found(maps, np.ones_like(image))
    assert flat.units.rows is None


def test_parts_are_levelled_by_what_was_found_of_the_whole():
    maps, image, _ = measured(size=128)
    one = found(maps, with_offsets(image))
    part = prepare(
        maps[:, 20:100],
        with_offsets(image)[20:100],
        GIVEN,
        background=BACKGROUND,
        units=replace(one.units, warnings=()),
    )
    clean = (image - one.units.base)[20:100]
    before = (with_offsets(image) - image)[20:100]
    assert (part.prepared.haadf - clean).std() < 0.3 * before.std()


def test_tiles_of_a_sample_have_rows_of_their_own():
    maps, image, _ = measured(size=192)
    corners = [(y, x) for y in (0, 96) for x in (0, 96)]
    blocks = [image[y : y + 96, x : x + 96] for y, x in corners]
    spread = 0.05 * np.ptp(image)
    blocks = [one + of_rows(one, spread, seed=k) for k, one in enumerate(blocks)]
    spoiled = np.block([blocks[:2], blocks[2:]])
    totals = replace(Totals.of(maps, spoiled), pixels=10**6)
    one = prepare(maps, spoiled, GIVEN, background=BACKGROUND, totals=totals)
    assert one.units.rows is not None
    left = one.prepared.haadf + one.units.base - image
    assert left.std() < 0.4 * (spoiled - image).std()


def test_few_rows_stay_as_they_are():
    image = np.random.default_rng(0).normal(size=(4, 60))
    rows = RowNoise(axis=0, dark=None, size=0.1)
    seen = np.ones(image.shape, bool)
    assert without_row_noise(image, seen, image, rows) is image


def test_the_error_is_nearly_that_of_a_clean_image(monkeypatch):
    maps, image, truth = measured("janus", 16.0)

    def error(image):
        fused = solve(
            maps, image, Z["janus"], CalibratedOptions(), background=BACKGROUND
        )
        return np.sqrt(((fused.maps - truth) ** 2).sum() / (truth**2).sum())

    clean, levelled = error(image), error(with_offsets(image))
    monkeypatch.setattr(rows_module, "find_row_noise", lambda *_: None)
    assert levelled < 1.05 * clean
    assert levelled < 0.95 * error(with_offsets(image))


def test_it_is_told_and_recorded():
    maps, image, truth = measured(size=64)
    clean = solve(maps, image, Z["core_shell"], GIVEN, background=BACKGROUND)
    assert clean.record["haadf_row_noise"] == 0
    assert not any("scan-line noise" in text for text in clean.warnings)
    of_detector = solve(
        maps, with_offsets(image), Z["core_shell"], GIVEN, background=BACKGROUND
    )
    assert of_detector.record["haadf_row_noise"] > 0.05
    assert any("maps do not show it" in text for text in of_detector.warnings)
    counts, spoiled = with_current(image, truth, 0.2)
    of_beam = solve(counts, spoiled, Z["core_shell"], GIVEN, background=BACKGROUND)
    assert any("maps vary alike" in text for text in of_beam.warnings)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_maps_do_not_matter(value):
    maps, image, _ = measured(size=64)
    spoiled = with_offsets(image)
    expected = found(maps, spoiled).units.rows
    with_constant = np.concatenate([maps, np.full((1, 64, 64), value)])
    one = found(with_constant, spoiled).units.rows
    assert (one.axis, one.follow) == (expected.axis, expected.follow)
    alone = found(np.full((1, 64, 64), value), spoiled).units.rows
    assert alone is not None
    assert not alone.follow


def test_random_layers_beside_a_constant_map_are_none():
    rng = np.random.default_rng(1)
    share = np.repeat(rng.random(48), 2)[:, None] * np.ones(96)
    counts = rng.poisson(6 * np.stack([share, 1 - share])).astype(float)
    image = 3000 + 1000 * share + rng.normal(0, 30, share.shape)
    assert found(counts, image).units.rows is None
    beside = np.concatenate([counts, np.full((1, 96, 96), 3.0)])
    assert found(beside, image).units.rows is None


def test_misfits_are_those_of_the_fusion():
    maps, haadf, _ = hf.data.core_shell(64, counts=4, seed=3)
    haadf.data = with_offsets(haadf.data.astype(float))
    given = {"lambda_tv": 3.0, "lambda_haadf": 0.1}
    with pytest.warns(UserWarning, match="scan-line noise"):
        fused = hf.fuse_multimodal(maps, haadf, BACKGROUND, **given)
    guard = fused[0].metadata.Multimodal_fusion.guard
    z = hf.get_misfit(maps, fused, haadf, BACKGROUND, standardised=True)
    assert abs(z.data).max() == pytest.approx(guard, rel=0.3)
    panel = hf.plot_misfit(maps, fused, haadf, BACKGROUND)[0]
    text = " ".join(text.get_text() for text in panel.figure.texts)
    assert "without its scan-line noise" in text
