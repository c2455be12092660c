import numpy as np
import pytest
from arrays_in import prepare
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from scipy.ndimage import maximum_filter, minimum_filter

from hyperspy_fusion import data, fuse_multimodal
from hyperspy_fusion.core.calibrated.bad_pixels import _flat, set_aside
from hyperspy_fusion.core.calibrated.options import CalibratedOptions

SPECIMENS = data.core_shell, data.janus, data.lattice


def measured(specimen=data.core_shell, size=128, **how):
    maps, haadf, _ = specimen(size, **how)
    return np.stack([signal.data for signal in maps]), haadf.data.astype(float)


def atoms(counts, seed, n=30):
    """Single atoms of one pixel on a support, in maps and image."""
    rng = np.random.default_rng(seed)
    thickness = np.zeros((3, 64, 64))
    thickness[2] = 0.05
    y, x = rng.integers(0, 64, (2, n))
    thickness[rng.integers(0, 2, n), y, x] += 1
    image = np.tensordot(np.array([27, 79, 8]) ** 1.7, thickness, axes=1)
    haadf = 3.7 * rng.poisson(2000 * (image / image.max() + 0.1)) + 500
    return rng.poisson(counts * thickness + 0.02), haadf.astype(float)


def layers(counts, seed):
    """Sharp layers, a hole that another element fills, and small blocks."""
    rng = np.random.default_rng(seed)
    one, other, support = thickness = np.zeros((3, 64, 64))
    support[:] = 0.05
    one[:, 8:30] = 1
    one[:, 14], other[:, 14] = 0, 1
    one[:, 20:22] = 0
    one[40:43, 10:13], other[40:43, 10:13] = 0, 1
    other[50:55, 50:55] = 1
    image = np.tensordot(np.array([27, 79, 8]) ** 1.7, thickness, axes=1)
    haadf = 3.7 * rng.poisson(2000 * (image / image.max() + 0.1)) + 500
    return rng.poisson(counts * thickness + 0.02), haadf.astype(float)


def lost(maps, haadf, elements=("Co", "Mn", "O")):
    """Where maps and image are set aside, and the notes."""
    maps, haadf, notes = set_aside(np.asarray(maps, np.float32), haadf, elements)
    return np.isnan(maps), np.isnan(haadf), notes


@pytest.mark.parametrize("specimen", SPECIMENS)
@pytest.mark.parametrize("counts", [0.25, 4, 100])
def test_nothing_is_bad_in_a_good_measurement(specimen, counts):
    maps, haadf = measured(specimen, counts=counts)
    for same in (maps, maps - 0.02, 0.37 * maps, (maps + 0.1) / (maps + 0.1).sum(0)):
        assert lost(same, haadf)[2] == []
    assert lost(*measured(specimen, counts=counts, electrons=20))[2] == []


@pytest.mark.parametrize("counts", [0.25, 4, 100, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_single_atoms_and_sharp_layers_are_no_bad_pixels(counts, seed):
    assert lost(*atoms(counts, seed))[2] == []
    assert lost(*atoms(counts, seed, n=1))[2] == []
    assert lost(*layers(counts, seed))[2] == []


@pytest.mark.parametrize("unit", [1, 0.37])
@pytest.mark.parametrize("counts", [0.25, 4])
def test_hot_pixels_of_a_map(counts, unit):
    maps, haadf = measured(counts=counts)
    maps[0, 40, 52] = maps[1, 0, 127] = 500
    maps[2, 60:62, 30:32] = 400
    expected = maps >= 400
    in_maps, in_image, notes = lost(unit * maps, haadf)
    assert_array_equal(in_maps, expected)
    assert not in_image.any()
    assert notes == [
        "1 pixel of the Co map is hot (row 40, column 52) and is treated as missing",
        "1 pixel of the Mn map is hot (row 0, column 127) and is treated as missing",
        (
            "4 pixels of the O map are hot (row 60 to 61, column 30 to 31) and are "
            "treated as missing"
        ),
    ]


def test_a_spike_on_a_column_of_a_lattice_is_no_column():
    maps, haadf = measured(data.lattice, 96)
    y, x = np.unravel_index(haadf[40:60, 40:60].argmax(), (20, 20))
    maps[0, 40 + y, 40 + x] = 500
    in_maps, _, notes = lost(maps, haadf, ("Dy", "Sc", "O"))
    assert_array_equal(np.argwhere(in_maps), [[0, 40 + y, 40 + x]])
    assert len(notes) == 1


def test_dead_pixels_lines_and_blocks_of_maps():
    maps, haadf = measured(counts=100)
    expected = np.zeros(maps.shape, bool)
    expected[0, :, 60] = True
    expected[1, 70:72] = True
    expected[2, 30:38, 30:37] = True
    y, x = np.unravel_index(minimum_filter(maps[2], 5).argmax(), haadf.shape)
    expected[2, y, x] = True
    maps[expected] = 0
    in_maps, in_image, notes = lost(maps, haadf)
    assert_array_equal(in_maps, expected)
    assert not in_image.any()
    assert notes[0] == (
        "128 pixels of the Co map are dead (column 60) and are treated as missing"
    )
    assert "256 pixels of the Mn map are dead (row 70 to 71)" in notes[1]


def test_a_stuck_line_of_a_map():
    maps, haadf = measured(counts=4)
    maps[0, 60] = 7
    in_maps, _, (note,) = lost(maps, haadf)
    assert in_maps.sum() == in_maps[0, 60].sum() == 128
    assert "128 pixels of the Co map are hot" in note


def test_hot_and_dead_pixels_lines_and_blocks_of_the_image():
    maps, haadf = measured(counts=30)
    expected = np.zeros(haadf.shape, bool)
    expected[3, 5] = True
    haadf[3, 5] = 65535
    dead = np.zeros(haadf.shape, bool)
    dead[50, 60] = True
    dead[:, 100] = True
    dead[20:25, 30:36] = True
    haadf[dead] = 0
    in_maps, in_image, (note,) = lost(maps, haadf)
    assert_array_equal(in_image, expected | dead)
    assert not in_maps.any()
    assert "160 pixels of the HAADF image are hot or dead" in note
    assert note.endswith("not used")


def test_a_saturated_image():
    maps, haadf = measured()
    largest = np.quantile(haadf, 0.95)
    _, in_image, (note,) = lost(maps, np.minimum(haadf, largest))
    assert_array_equal(in_image, haadf >= largest)
    assert "are saturated" in note
    # an image without noise has plateaus of its own
    flat = np.where(haadf > np.median(haadf), 1.0, 0.0)
    assert not lost(maps, flat)[1].any()


def test_places_are_those_of_whole_images():
    maps, haadf = measured()
    maps[0, 40, 52] = 500
    _, _, (note,) = set_aside(maps, haadf, is_part=True)
    assert note == "1 pixel of map 0 (counted from 0) is hot and is treated as missing"


def test_a_spike_has_no_part_in_what_is_found_of_the_data():
    maps, haadf = measured(size=64)
    maps = 0.37 * maps
    spoiled, gap = maps.copy(), maps.copy()
    spoiled[0, 20, 26], gap[0, 20, 26] = 200, np.nan
    elements = "Co", "Mn", "O"
    found, expected = (
        prepare(m, haadf, CalibratedOptions(), elements=elements)
        for m in (spoiled, gap)
    )
    assert_array_equal(found.prepared.data, expected.prepared.data)
    assert_array_equal(found.units.count_value, expected.units.count_value)
    assert_array_equal(found.prepared.scale, expected.prepared.scale)
    assert found.notes[0].startswith("1 pixel of the Co map is hot")


@given(
    image=hnp.arrays(
        np.int8,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=5),
        elements=st.integers(0, 1),
    ),
    size=st.sampled_from([3, 5]),
)
def test_flat_squares(image, size):
    most, least = (
        f(image, size, mode="nearest") for f in (maximum_filter, minimum_filter)
    )
    assert_array_equal(_flat(image, size), most == least)


def test_half_an_image_has_no_dead_pixels():
    maps, haadf, truth = data.janus(size=64)
    for signal in (haadf, *maps):
        signal.data = signal.data.astype(float)
    haadf.data[:32] = np.nan
    found, alone = (
        fuse_multimodal(maps, haadf, 0.02, lambda_tv=6.0, lambda_haadf=mu)
        for mu in (0.1, 0.0)
    )
    record = found[0].metadata.Multimodal_fusion
    assert "dead" not in record.notes
    apart = [
        [np.linalg.norm((s.data - t.data)[32:]) for s, t in zip(x, truth, strict=True)]
        for x in (found, alone)
    ]
    assert np.mean(np.divide(*apart)) < 0.8


@pytest.mark.parametrize("counts", [1, 16])
@pytest.mark.parametrize("name", ["core_shell", "janus", "lattice"])
def test_net_counts_that_are_mostly_0(name, counts):
    """A background of few counts was subtracted: whole numbers, some below 0."""
    maps, haadf = measured(getattr(data, name), 64, counts=counts)
    rng = np.random.default_rng(5)
    maps = maps + rng.poisson(0.01, maps.shape) - rng.poisson(0.01, maps.shape)
    assert (maps < 0).any()
    assert_array_equal(set_aside(maps, haadf)[0], maps)


@pytest.mark.parametrize("name", ["core_shell", "janus"])
def test_counts_with_gaps_are_not_dead(name):
    maps, haadf = measured(getattr(data, name), 96)
    gaps = np.random.default_rng(0).random(maps.shape) < 0.2
    maps = np.where(gaps, np.nan, maps)
    assert_array_equal(set_aside(maps, haadf)[0], maps)
