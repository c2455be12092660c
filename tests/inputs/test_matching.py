import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from small_images import image

from hyperspy_fusion.inputs.measurement import measure


def scan(shape, *, scale=1.0, offset=(0.0, 0.0), title="Fe", dtype="u1", units="nm"):
    """An image of random counts, its first pixel at an offset (x, y)."""
    data = np.random.default_rng(0).integers(200, size=shape).astype(dtype)
    signal = image(title, data, scale=scale, units=units)
    for axis, start in zip(signal.axes_manager.signal_axes, offset, strict=True):
        axis.offset = start
    return signal


def offsets(signal):
    return [axis.offset for axis in signal.axes_manager.signal_axes]


def squares(array, n):
    """The pixels of squares of n x n, shape (..., y, x, n * n)."""
    *series, n_y, n_x = array.shape
    parts = array.reshape(*series, n_y // n, n, n_x // n, n)
    return parts.swapaxes(-3, -2).reshape(*series, n_y // n, n_x // n, n * n)


def test_maps_and_image_are_cropped_to_what_both_show():
    iron = scan((10, 12), offset=(2, 5))
    haadf = scan((9, 9), offset=(5, 3), dtype=float)
    found = measure([iron], haadf, match="axes")
    assert_array_equal(found.maps[0], iron.isig[3:12, 0:7].data)
    assert_array_equal(found.haadf, haadf.isig[0:9, 2:9].data)
    assert offsets(found.images[0]) == [5, 5]
    assert found.notes == (
        "the maps were cropped to .isig[3:12, 0:7]",
        "the HAADF image was cropped to .isig[0:9, 2:9]",
    )


def test_same_pixels_stay_as_they_are():
    iron, haadf = scan((5, 7), offset=(3, 4)), scan((5, 7), offset=(3, 4.001))
    found = measure([iron], haadf, match="axes")
    assert_array_equal(found.maps[0], iron.data)
    assert_array_equal(found.haadf, haadf.data)
    assert found.notes == ()


@pytest.mark.parametrize("origin", ["of the scan", "of the pixels"])
def test_a_finer_image_is_averaged(origin):
    haadf = scan((12, 18), scale=0.5, offset=(10, 20), dtype=float)
    iron = scan((4, 6), scale=1.5, offset=(10, 20))
    if origin == "of the pixels":  # the middle of the first one, as rebin leaves it
        iron = haadf.rebin(scale=(3, 3))
        assert offsets(iron) == [10.5, 20.5]
    found = measure([iron], haadf, elements=["Fe"], match="axes")
    assert_array_equal(found.maps[0], iron.data)
    assert_allclose(found.haadf, squares(haadf.data, 3).mean(axis=-1))
    assert "averaged over the pixels of the maps" in found.notes[0]


def test_the_image_is_averaged_over_parts_of_its_pixels():
    haadf = scan((30, 40), scale=0.8, offset=(-5, -7), dtype=float, units="nm")
    y, x = (axis.axis for axis in haadf.axes_manager.signal_axes[::-1])
    haadf.data = 3 * y[:, None] - 2 * x  # the mean of a plane is its middle
    for scale in (1.0, 0.7, 2.3):
        iron = scan((8, 9), scale=scale, offset=(-2.3, -1.9))
        found = measure([iron], haadf, match="axes")
        y, x = (a.axis for a in found.images[0].axes_manager.signal_axes[::-1])
        # exact up to the half pixel over which the image is constant
        assert_allclose(found.haadf, 3 * y[:, None] - 2 * x, atol=0.4 * 5)
        assert_allclose(found.haadf.mean(), np.mean(3 * y[:, None] - 2 * x), atol=0.4)


def test_an_image_of_an_area_keeps_its_mean():
    haadf = scan((7, 7), scale=1.0, offset=(0, 0), dtype=float)
    iron = scan((5, 5), scale=1.4)
    found = measure([iron], haadf, match="axes")
    assert found.haadf.shape == (5, 5)
    assert_allclose(found.haadf.mean(), haadf.data.mean())


def test_finer_maps_are_summed_over_whole_pixels():
    iron, oxygen = scan((8, 12)), scan((8, 12), title="O")
    for signal in (iron, oxygen):
        signal.set_noise_variance(hs.signals.Signal2D(signal.data + 1.0))
    background = image("", np.full((8, 12), 0.5), units="nm")
    mask = np.zeros((8, 12), dtype=bool)
    mask[5, 7] = True
    haadf = scan((4, 6), scale=2, dtype=float)
    found = measure([iron, oxygen], haadf, [background, 0.25], mask=mask, match="axes")
    sums = squares(iron.data.astype(int), 2).sum(axis=-1).astype(float)
    assert sums.max() > 255  # no overflow of 8 bits
    sums[2, 3] = np.nan
    assert_array_equal(found.maps, [sums, sums])
    assert_array_equal(found.variance[0], squares(iron.data + 1.0, 2).sum(axis=-1))
    assert_array_equal(found.background[0], np.full((4, 6), 2.0))
    assert_array_equal(found.background[1], np.full((4, 6), 1.0))
    assert_array_equal(found.haadf, haadf.data)
    axis = found.images[0].axes_manager.signal_axes[0]
    assert (axis.size, axis.scale, axis.offset) == (6, 2, 0.5)
    assert found.notes == ("the maps were summed over 2 x 2 pixels (x, y)",)


def test_sums_begin_where_a_pixel_of_the_image_begins():
    iron = scan((9, 9), scale=1, offset=(10.5, 10.5))  # from 10
    haadf = scan((4, 4), scale=2, offset=(10, 12))  # from 9 and from 11
    found = measure([iron], haadf, match="axes")
    assert found.notes == (
        "the maps were cropped to .isig[1:7, 1:9] and summed over 2 x 2 pixels (x, y)",
        "the HAADF image was cropped to .isig[1:4, 0:4]",
    )
    expected = squares(iron.data[1:9, 1:7].astype(int), 2).sum(axis=-1)
    assert_array_equal(found.maps[0], expected)


@pytest.mark.parametrize("scale", [1.0, 0.4, 2.0])
def test_series_and_lazy_images(scale):
    rng = np.random.default_rng(0)

    def series(shape, **axes):
        signal = hs.signals.Signal2D(rng.poisson(3.0, (2, 3, *shape)))
        for axis in signal.axes_manager.signal_axes:
            axis.units = "nm"
            axis.scale, axis.offset = axes["scale"], axes["offset"]
        return signal

    iron = series((12, 12), scale=1.0, offset=4.0)
    haadf = series((20, 20), scale=scale, offset=6.3)
    expected = measure([iron], haadf, elements=["Fe"], match="axes")
    assert expected.maps.shape[:2] == (2, 3)
    one = measure([iron.inav[1, 0]], haadf.inav[1, 0], elements=["Fe"], match="axes")
    assert_array_equal(expected.maps[0, 1], one.maps)
    assert_array_equal(expected.haadf[0, 1], one.haadf)
    lazy = [signal.as_lazy() for signal in (iron, haadf)]
    lazy[1].data = lazy[1].data.rechunk((1, 2, 7, 9))
    found = measure(lazy[:1], lazy[1], elements=["Fe"], match="axes", lazily=True)
    assert isinstance(found.maps, da.Array)
    assert isinstance(found.haadf, da.Array)
    assert_array_equal(found.maps.compute(), expected.maps)
    assert_array_equal(found.haadf.compute(), expected.haadf)
    assert found.notes == expected.notes


def test_missing_pixels_of_the_image_stay_where_they_are():
    haadf = scan((12, 12), scale=0.5, dtype=float)
    haadf.data[2, 3] = np.nan
    found = measure([scan((6, 6))], haadf, match="axes")
    assert_array_equal(np.argwhere(np.isnan(found.haadf)), [(1, 1)])


def test_the_image_of_a_list_is_chosen_by_title():
    haadf = scan((12, 12), scale=0.5, title="HAADF")
    found = measure([scan((6, 6))], [scan((6, 6)), haadf], match="axes")
    assert found.haadf.shape == (6, 6)


def test_an_image_of_the_same_pixels_whatever_its_axes_say():
    """As Bruker's: an image that is calibrated 8 % off the spectra of its scan."""
    iron, haadf = scan((5, 7), scale=0.5), scan((5, 7), title="Ch 1")
    for axis, scale in zip(haadf.axes_manager.signal_axes, (0.54, 0.5), strict=True):
        axis.scale, axis.offset = scale, 3
    with pytest.raises(ValueError, match=r'0\.54 nm: if they .* match="pixels"'):
        measure([iron], haadf)
    found = measure([iron], haadf, match="pixels")
    assert_array_equal(found.maps[0], iron.data)
    assert_array_equal(found.haadf, haadf.data)
    assert found.images[0].axes_manager[0].scale == 0.5
    (note,) = found.notes
    assert note.startswith(
        "the HAADF image 'Ch 1' (7 x 5, 0.54 nm/px) was taken to sho"
    )
    assert "the pixels of the maps, 'Fe' (7 x 5, 0.5 nm/px), whatever its" in note
    with pytest.raises(ValueError, match="5 x 7 pixels and the HAADF image 5 x 6"):
        measure([iron], haadf.isig[:6, :], match="pixels")


def test_a_survey_image_is_no_image_of_the_same_pixels():
    with pytest.raises(ValueError, match="if the image is a survey image, ") as error:
        measure([scan((5, 7))], scan((5, 7), scale=5))
    assert 'match="pixels"' not in str(error.value)


# --- errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "haadf",
    [
        {"shape": (9, 9)},
        {"shape": (5, 7), "scale": 0.8},
        {"shape": (5, 7), "scale": 8, "units": "Å"},
    ],
)
def test_errors_name_the_call_that_helps(haadf):
    iron, other = scan((5, 7)), scan(**haadf)
    with pytest.raises(ValueError, match='or call with match="axes"'):
        measure([iron], other)
    assert measure([iron], other, match="axes").notes


def test_the_warning_of_another_origin_names_the_call_that_helps():
    iron, haadf = scan((5, 7), offset=(1, 1)), scan((5, 7), offset=(3, 1))
    with pytest.warns(UserWarning, match='or call with match="axes"'):
        measure([iron], haadf)
    assert measure([iron], haadf, match="axes").maps.shape == (1, 5, 5)


@pytest.mark.parametrize(
    "haadf", [{"units": "px"}, {"units": "s"}, {"offset": (1e3, 1e3)}]
)
def test_errors_name_no_call_that_does_not_help(haadf):
    with pytest.raises(ValueError, match="rebin or crop") as error:
        measure([scan((5, 7))], scan((9, 9), **haadf))
    assert "match=" not in str(error.value)


@pytest.mark.parametrize(
    ("haadf", "message"),
    [
        ({"units": "px"}, "the HAADF image is not calibrated along x"),
        ({"units": "s"}, "pixels in 'nm' and the HAADF image in 's'"),
        ({"offset": (1e3, 0)}, "no area in common along x: the maps reach from 0"),
        ({"scale": -1}, "expected the same sign, turn one of them over"),
        ({"scale": 0.1}, "HAADF image is smaller than a pixel of the maps along x"),
    ],
)
def test_axes_that_cannot_be_matched(haadf, message):
    with pytest.raises(ValueError, match=message):
        measure([scan((5, 7))], scan((5, 7), **haadf), match="axes")


def test_match_by_something_else():
    with pytest.raises(ValueError, match="match is 'features': expected None, 'axes'"):
        measure([scan((5, 7))], scan((5, 7)), match="features")


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("vacuum", [False, True])
def test_fractions_are_averaged(lazy, vacuum):
    rng = np.random.default_rng(0)
    iron = scan((12, 12), dtype=float)
    oxygen = scan((12, 12), dtype=float, title="O")
    iron.data = rng.uniform(20, 80, (12, 12))
    oxygen.data = 100 - iron.data
    if vacuum:
        for signal in (iron, oxygen):
            signal.data[:5, :7] = 0
    haadf = scan((6, 6), scale=2.0, offset=(0.5, 0.5), dtype=float)
    maps = [signal.as_lazy() if lazy else signal for signal in (iron, oxygen)]
    found = measure(maps, haadf, match="axes", lazily=lazy)
    data = np.asarray(found.maps)
    held = squares(oxygen.data + iron.data, 2).mean(axis=-1) > 0
    assert_allclose(data.sum(axis=0)[held], 100)
    assert_array_equal(data[:, ~held], 0)
    assert_allclose(data[0, 4], squares(iron.data, 2).mean(axis=-1)[4])
    assert "the maps were averaged over 2 x 2 pixels (x, y)" in found.notes
    mask = np.zeros((12, 12), bool)
    mask[8, 9] = True
    masked = measure(maps, haadf, match="axes", mask=mask, lazily=lazy)
    assert np.isnan(np.asarray(masked.maps)).sum(axis=(1, 2)).tolist() == [1, 1]
    with pytest.raises(ValueError, match="a variance or a background would have to be"):
        measure(maps, haadf, 0.1, match="axes", lazily=lazy)
