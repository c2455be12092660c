import re

import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest
from hyperspy.axes import DataAxis
from numpy.testing import assert_array_equal
from small_images import SHAPE, image, on_navigation_axes

import hyperspy_fusion as hf
from hyperspy_fusion.inputs.measurement import measure

# --- elements and HAADF image ----------------------------------------------------


def test_elements_override_what_the_maps_say():
    with pytest.warns(UserWarning, match="'Zn' .*taken for one of Co.* says Zn"):
        measurement = measure([image("a"), image("Zn")], image(), elements=["Fe", "Co"])
    assert measurement.elements == ("Fe", "Co")
    assert measurement.atomic_numbers == (26, 27)


def test_maps_by_name():
    maps = {"Fe": image("a"), "O": image("b", np.ones(SHAPE))}
    with pytest.warns(UserWarning, match="without any contrast: map of O"):
        measurement = measure(maps, image(), {"O": 2, "Fe": 1})
    assert measurement.elements == ("Fe", "O")
    assert_array_equal(measurement.background.ravel(), [1, 2])
    with pytest.raises(ValueError, match="background has none for Fe"):
        measure(maps, image(), {"O": 2})
    with pytest.raises(ValueError, match=r"elements is \['O'\] and the maps are named"):
        measure(maps, image(), elements=["O"])


def test_missing_element_names_the_map():
    with pytest.raises(ValueError, match=r"1: 'loading' \(7 x 5, un.*elements="):
        measure([image("Cu"), image("loading")], image())


def test_doubled_element_names_both():
    with pytest.raises(
        ValueError, match="Fe is mapped twice, by 'Fe' .* and 'Fe-EELS'"
    ):
        measure([image("Fe"), image("O"), image("Fe-EELS")], image())


def test_wrong_number_of_elements():
    with pytest.raises(ValueError, match="names 1 elements and there are 2 maps"):
        measure([image("Fe"), image("O")], image(), elements="Fe")


def test_no_maps():
    with pytest.raises(ValueError, match="there are no maps"):
        measure([], image())


def test_haadf_from_all_that_was_loaded():
    loaded = [image("Fe"), image("a", np.ones((9, 9))), image("HAADF")]
    measurement = measure(loaded[:1], loaded)
    assert_array_equal(measurement.haadf, loaded[2].data)


# --- arrays ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["u1", "<i2", ">i2", ">f4", "<f8", ">f8", "u4", "i8", "f2"]
)
def test_any_real_numbers_in_native_order(dtype):
    data = np.arange(35).reshape(SHAPE).astype(dtype)
    measurement = measure([image("Fe", data)], image("", data))
    for array in (measurement.maps[0], measurement.haadf):
        assert_array_equal(array, np.arange(35).reshape(SHAPE))
        assert array.dtype.isnative


def test_memory_order_does_not_matter():
    data = np.arange(4 * 35).reshape(4, *SHAPE)[::2, ::-1, ::-1][1]
    fortran = np.asfortranarray(data)
    measurement = measure([image("Fe", data), image("O", fortran)], image("", fortran))
    assert_array_equal(measurement.maps, [data, data])


def test_map_on_navigation_axes():
    signal = image("Fe", scale=3, units="nm")
    measurement = measure([on_navigation_axes(signal)], signal)
    assert_array_equal(measurement.maps[0], signal.data)
    axes = measurement.images[0].axes_manager.signal_axes
    assert [(a.name, a.scale, a.units) for a in axes] == [
        ("x", 3, "nm"),
        ("y", 3, "nm"),
    ]


def test_series_on_navigation_axes():
    data = np.arange(3 * 35).reshape(3, *SHAPE)
    series = hs.signals.BaseSignal(data).transpose(signal_axes=0)
    assert series.axes_manager.navigation_shape == (7, 5, 3)
    measurement = measure([series], hs.signals.Signal2D(data), elements=["Fe"])
    assert measurement.navigation_shape == (3,)
    assert_array_equal(measurement.maps[:, 0], data)


def test_lazy_maps_are_computed_together():
    lazy = image("Fe", da.from_array(np.arange(35).reshape(SHAPE))).as_lazy()
    measurement = measure([lazy], image().as_lazy())
    assert isinstance(measurement.maps, np.ndarray)
    assert isinstance(measurement.haadf, np.ndarray)


# --- axes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "units"),
    [(0.5, "nm"), (5e-4, "um"), (5e-4, "µm"), (5, "Å"), (5, "A"), (500, "pm")],
)
def test_axes_are_compared_in_common_units(scale, units):
    haadf = image("HAADF", scale=scale, units=units)
    measure([image("Fe", scale=0.5, units="nm")], haadf)
    assert haadf.axes_manager[0].units == units  # compared on copies


def test_pixels_of_another_size():
    with pytest.raises(
        ValueError, match="0.5 nm along x and the HAADF image of 0.6 nm"
    ):
        measure([image("Fe", scale=0.5, units="nm")], image(scale=6e-4, units="um"))


def test_units_that_do_not_convert():
    for units in ("1/nm", "s", "unheard of"):
        with pytest.raises(ValueError, match="pixels in 'nm' and the HAADF image in"):
            measure([image("Fe", units="nm")], image(units=units))


@pytest.mark.parametrize("units", ["", "px", "pixels", "pix", "Pixel"])
def test_uncalibrated_against_calibrated_is_a_warning(units):
    with pytest.warns(UserWarning, match="map of Fe is not calibrated along x"):
        measure([image("Fe", scale=9, units=units)], image(units="nm"))
    with pytest.warns(UserWarning, match="HAADF image is not calibrated along x"):
        measure([image("Fe", units="nm")], image(scale=9, units=units))


def test_maps_without_calibration_take_that_of_the_image():
    haadf = image("HAADF", scale=2, units="nm")
    maps = [image("Fe"), image("O", scale=9, units="pix")]
    with pytest.warns(
        UserWarning, match="Fe is not calibrated .* HAADF image, of 2 nm"
    ):
        measurement = measure(maps, haadf)
    for signal in measurement.images:
        axes = signal.axes_manager.signal_axes
        assert [(a.name, a.scale, a.units) for a in axes] == [
            ("x", 2, "nm"),
            ("y", 2, "nm"),
        ]
    assert maps[1].axes_manager[0].scale == 9  # the inputs are as they were


def test_maps_keep_their_calibration():
    with pytest.warns(
        UserWarning, match="HAADF image is not calibrated .* Fe, of 2 nm"
    ):
        measurement = measure([image("Fe", scale=2, units="nm")], image(scale=7))
    assert measurement.images[0].axes_manager[0].scale == 2


def test_another_origin_is_a_warning():
    fixed, moved = (image("HAADF", scale=2, units="nm") for _ in range(2))
    moved.axes_manager[1].offset = 30
    measure(
        [image("Fe", scale=2, units="nm")], moved
    )  # 0 may mean that it is not known
    fixed.axes_manager[1].offset = 10
    with pytest.warns(UserWarning, match="starts at 10 nm along y and .* at 30 nm"):
        measure([fixed], moved, elements=["Fe"])


@pytest.mark.parametrize("other", ["map of O", "HAADF image"])
def test_mismatched_shapes(other):
    large = image("O", np.ones((5, 8)))
    maps = [image("Fe"), large] if other == "map of O" else [image("Fe")]
    with pytest.raises(ValueError, match=f"map of Fe has 5 x 7 .* {other} 5 x 8"):
        measure(maps, large)


def series_on(layout, shape):
    """A series of maps of a navigation shape, with the image on either kind of axes."""
    data = np.random.default_rng(0).random((*shape, *SHAPE))
    if layout == "signal axes":
        return hs.signals.Signal2D(data)
    return hs.signals.BaseSignal(data).transpose(signal_axes=0)


def advice(error, pattern, **names):
    """What the code in an error message gives."""
    code = re.search(pattern, str(error.value)).group()
    return eval(code, {"hs": hs, **names})  # noqa: S307


@pytest.mark.parametrize("layout", ["signal axes", "navigation axes"])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_advice_for_a_series_of_maps_and_one_haadf_image(layout, shape):
    series, haadf = series_on(layout, shape), image()
    with pytest.raises(ValueError, match="series of shape .* is a single") as error:
        measure([series], haadf, elements=["Fe"])
    repeated = advice(error, r"hs\.stack.*\d\]?\)", haadf=haadf)
    measurement = measure([series], repeated, elements=["Fe"])
    assert measurement.navigation_shape == shape
    assert_array_equal(measurement.maps[..., 0, :, :], series_on("", shape).data)
    assert (measurement.haadf == haadf.data).all()

    one = advice(error, r"one_map\.inav.*\]", one_map=series)
    measurement = measure([one], haadf, elements=["Fe"])
    assert_array_equal(measurement.maps[0], measurement.images[0].data)
    assert_array_equal(
        measurement.maps[0], series_on("", shape).data[(0,) * len(shape)]
    )


@pytest.mark.parametrize("layout", ["signal axes", "navigation axes"])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_advice_for_one_set_of_maps_and_a_haadf_series(layout, shape):
    iron, series = image("Fe"), series_on("signal axes", shape)
    iron = iron if layout == "signal axes" else on_navigation_axes(iron)
    with pytest.raises(ValueError, match="is a single .* is a series") as error:
        measure([iron], series)
    for pattern, expected in (
        (r"haadf\.mean\(\)", series.data.mean(axis=tuple(range(len(shape))))),
        (r"haadf\.inav.*\]", series.data[(0,) * len(shape)]),
    ):
        haadf = advice(error, pattern, haadf=series)
        assert_array_equal(measure([iron], haadf).haadf, expected)


def test_series_of_other_positions():
    iron, haadf = series_on("signal axes", (3,)), series_on("signal axes", (2,))
    with pytest.raises(
        ValueError, match=r"\(3,\) and .* \(2,\): .* crop .* with .inav"
    ):
        measure([iron], haadf, elements=["Fe"])
    with pytest.raises(ValueError, match=r"map of O .* such as one_map.inav\[..., 0\]"):
        measure([image("Fe"), iron], image(), elements=["Fe", "O"])


def test_non_uniform_axis():
    signal = image("Fe")
    axis = DataAxis(axis=np.arange(7) ** 2, name="x")
    bent = hs.signals.Signal2D(
        signal.data,
        axes=[
            signal.axes_manager["y"].get_axis_dictionary(),
            axis.get_axis_dictionary(),
        ],
    )
    with pytest.raises(ValueError, match="non-uniform axis 'x'.*interpolate_on_axis"):
        measure([bent], image(), elements=["Fe"])


# --- what is no image ------------------------------------------------------------


@pytest.mark.parametrize("wrong", [np.ones(SHAPE), "map.emd", None])
def test_not_a_signal(wrong):
    with pytest.raises(TypeError, match="expected a HyperSpy signal"):
        measure([image("Fe")], wrong)
    with pytest.raises(TypeError, match="expected a HyperSpy signal"):
        measure(wrong, image())


def test_complex_data():
    with pytest.raises(TypeError, match="'Fe' has data of type complex128.*real"):
        measure([image("Fe", np.ones(SHAPE, complex))], image())


def test_rgb_picture():
    rgb = hs.signals.Signal1D(np.zeros((*SHAPE, 3), np.uint8))
    rgb.change_dtype("rgb8")
    with pytest.raises(TypeError, match="RGB picture"):
        measure([image("Fe")], rgb)


def test_ragged_data():
    ragged = hs.signals.BaseSignal(
        np.array([np.ones(2), np.ones(3)], object), ragged=True
    )
    with pytest.raises(TypeError, match="ragged"):
        measure([ragged], image(), elements=["Fe"])


@pytest.mark.parametrize(
    "signal",
    [
        hs.signals.Signal1D(np.ones(9)),
        hs.signals.Signal1D(np.ones((*SHAPE, 9))),
        hs.signals.BaseSignal([3.0]).T,
        hs.signals.BaseSignal(np.ones((2, 3, 4))),
    ],
    ids=["spectrum", "spectrum image", "one spectrum's line", "3D"],
)
def test_spectra_are_not_images(signal):
    with pytest.raises(ValueError, match="expected an image. Spectra are turned into"):
        measure([signal], image(), elements=["Fe"])


# --- background ------------------------------------------------------------------


def test_background_of_every_form():
    iron, oxygen = image("Fe"), on_navigation_axes(image("O"))
    assert measure([iron, oxygen], image()).background is None
    known = image("", np.full(SHAPE, 2.0))
    stack = hs.stack([known * 0.5, known], show_progressbar=False)
    for background in ([1, known], [1.0, on_navigation_axes(known)], stack):
        found = measure([iron, oxygen], image(), background).background
        assert found.shape == (2, *SHAPE)
        assert_array_equal(found[:, 0, 0], [1, 2])
    for background in (2, np.float32(2), np.array(2), [2, 2], np.array([2.0, 2.0])):
        found = measure([iron, oxygen], image(), background).background
        assert_array_equal(found, np.full((2, 1, 1), 2.0))
    assert measure(iron, image(), known).background.shape == (1, *SHAPE)


@pytest.mark.parametrize(
    ("background", "error", "message"),
    [
        ([1, 2, 3], ValueError, "background has 3 entries and there are 2 maps"),
        (-1, ValueError, "background has values below 0, NaN or infinite"),
        ([0, np.inf], ValueError, "background has values below 0, NaN or infinite"),
        ([0, np.nan], ValueError, "background has values below 0, NaN or infinite"),
        ("much", TypeError, "background of Fe is of type str: expected a number"),
        ([0, None], TypeError, "background of O is of type NoneType: expected a"),
    ],
)
def test_background_that_cannot_be(background, error, message):
    with pytest.raises(error, match=message):
        measure([image("Fe"), image("O")], image(), background)


def test_background_of_other_pixels_is_refused():
    iron = image("Fe", scale=2, units="nm")
    with pytest.raises(ValueError, match="5 x 6 .* background of Fe 5 x 7"):
        measure([iron.isig[1:]], iron.isig[1:], [iron])
    with pytest.raises(ValueError, match="2 nm along x and the background of Fe of 3"):
        measure([iron], iron, [image("", scale=3, units="nm")])


# --- what is no data -------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value):
    data = np.ones(SHAPE)
    data[2, 3] = value
    with pytest.raises(ValueError, match="map of Fe has 1 pixels that are NaN or inf"):
        measure([image("Fe", data)], image(), allow_missing=False)
    with pytest.raises(ValueError, match="HAADF image has 1 pixels that are NaN"):
        measure([image("Fe")], image("", data), allow_missing=False)


def test_boolean_data_count_as_0_and_1():
    mask = np.arange(np.prod(SHAPE)).reshape(SHAPE) > 9
    measurement = measure([image("Fe", mask)], image())
    assert_array_equal(measurement.maps[0], mask.astype(int))
    assert measurement.maps.dtype.kind != "b"


@pytest.mark.parametrize("lazy", [False, True])
def test_masked_pixels_are_missing(lazy):
    mask = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 4 == 0
    masked = np.ma.masked_array(np.arange(np.prod(SHAPE)).reshape(SHAPE), mask)
    maps, haadf = [image("Fe", masked)], image(data=masked)
    if lazy:
        array = da.ma.masked_array(da.from_array(masked.data), da.from_array(mask))
        maps = [image("Fe", array)]
    measurement = measure(maps, haadf)
    assert_array_equal(np.isnan(measurement.maps[0]), mask)
    assert_array_equal(measurement.maps[0][~mask], masked.data[~mask])
    assert_array_equal(np.isnan(measurement.haadf), mask)


def test_all_pixels_masked():
    message = "map of Fe has nothing but missing pixels"
    with pytest.raises(ValueError, match=message):
        measure([image("Fe")], image(), mask=np.ones(SHAPE, dtype=bool))


def test_arrays_are_not_signals():
    with pytest.raises(TypeError, match="map number 1 is of type ndarray: expected"):
        measure([image("Fe"), np.ones(SHAPE)], image())
    with pytest.raises(TypeError, match="image number 0 is of type ndarray: expected"):
        measure([image("Fe")], [np.ones(SHAPE)])
    with pytest.raises(TypeError, match="HAADF image is of type ndarray: expected"):
        measure([image("Fe")], np.ones(SHAPE))


def test_empty_map_is_a_warning():
    with pytest.warns(UserWarning, match=r"map of O \(0.0 everywhere\).*leave it out"):
        measure([image("Fe"), image("O", np.zeros(SHAPE))], image())


def test_only_empty_maps():
    with pytest.raises(ValueError, match="no map has any contrast"):
        measure([image("Fe", np.zeros(SHAPE))], image())


def test_constant_haadf():
    with pytest.raises(ValueError, match=r"is constant \(7\)"):
        measure([image("Fe")], image("", np.full(SHAPE, 7)))


def test_the_other_axis_is_checked_where_one_is_not_calibrated():
    maps, haadf, _ = hf.data.core_shell(size=32)
    x, y = haadf.axes_manager.signal_axes
    x.units, y.scale = "", 3 * y.scale
    with pytest.raises(ValueError, match="pixels of .* along y"):
        hf.fuse_multimodal(maps, haadf)


def test_the_haadf_image_is_no_further_image():
    maps, haadf, _ = hf.data.core_shell(size=32)
    with pytest.raises(ValueError, match="twice, or it is the HAADF image"):
        hf.fuse_multimodal(maps, haadf, elastic=haadf)


def test_a_title_of_another_element_is_told():
    maps, haadf, _ = hf.data.core_shell(size=32)
    maps[0].metadata.General.title = "Fe"
    with pytest.warns(UserWarning, match="taken for one of Co, but .* says Fe"):
        fused = hf.fuse_published(maps, haadf, n_iter=2)
    assert fused[0].metadata.General.title == "Co"


def test_an_axis_that_is_not_calibrated_is_told_beside_another_origin():
    maps, haadf, _ = hf.data.core_shell(size=32)
    for signal, start in [*((one, 20) for one in maps), (haadf, 50)]:
        signal.axes_manager.signal_axes[0].offset = start
    haadf.axes_manager.signal_axes[1].units = ""
    with (
        pytest.warns(UserWarning, match="is not calibrated along y"),
        pytest.warns(UserWarning, match="are taken to show the same pixels"),
    ):
        hf.fuse_published(maps, haadf, n_iter=2)
