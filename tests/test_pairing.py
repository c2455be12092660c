import re

import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest
from hyperspy.axes import DataAxis
from numpy.testing import assert_array_equal

from hyperspy_fusion.pairing import (
    atomic_number,
    choose_haadf,
    infer_element,
    pair,
)

SHAPE = (5, 7)  # y, x


def image(title="", data=None, *, scale=1.0, units="", **sample):
    """A Signal2D of distinct values, calibrated if units are given."""
    if data is None:
        data = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    signal = hs.signals.Signal2D(data)
    signal.metadata.General.title = title
    for name, value in sample.items():
        signal.metadata.set_item(f"Sample.{name}", value)
    for axis, name in zip(signal.axes_manager.signal_axes, "xy", strict=True):
        axis.name, axis.scale, axis.units = name, scale, units
    return signal


def on_navigation_axes(signal):
    """The same map as eXSpy's get_lines_intensity gives it."""
    return signal.transpose(navigation_axes=(*signal.axes_manager.signal_axes,))


# --- elements ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "sample", "element"),
    [
        ("Cu", {}, "Cu"),
        (" Cu ", {}, "Cu"),
        ("Fe-EELS", {}, "Fe"),
        ("Fe-EDS", {}, "Fe"),
        ("intensity parameter of Cu_L3 component", {}, "Cu"),
        ("X-ray line intensity of EDS: Cu_Ka at 8.05 keV", {}, "Cu"),
        ("atomic percent of Fe", {}, "Fe"),
        ("anything", {"xray_lines": ["Pt_La"]}, "Pt"),
        ("anything", {"elements": ["Pt"]}, "Pt"),
        ("Fe", {"elements": ["Pt"]}, "Pt"),
        ("Fe", {"elements": ["Co"], "xray_lines": ["Pt_La"]}, "Pt"),
        ("Fe", {"elements": ["Co", "Pt"]}, "Fe"),
        ("SE", {}, None),  # not selenium
        ("HAADF", {}, None),
        ("", {}, None),
        ("Xx", {}, None),
        ("survey of No 3", {}, None),
        ("C_K1a", {}, "C"),
        ("Fe_L3 (x10)", {}, "Fe"),
        ("Fe_L2,3", {}, "Fe"),
        ("Fe_L23_net", {}, "Fe"),
        ("Fe_Kα", {}, "Fe"),
        ("Sr_Lb1", {}, "Sr"),
        ("Ir_M2N4, 5 nm", {}, "Ir"),
        ("Fe_L", {}, "Fe"),
        ("Au_NPs", {}, None),
        ("Si_Nanowire", {}, None),
        ("Co_Oxide", {}, None),
        ("Co_Ox", {}, None),
        ("Ni_Mn_alloy", {}, None),
        ("Ti_OH", {}, None),
        ("Au_Na", {}, None),
    ],
)
def test_infer_element(title, sample, element):
    assert infer_element(image(title, **sample)) == element


def test_element_of_each_edge_and_line_that_exspy_knows():
    from exspy.material import elements  # noqa: PLC0415 - slow to import

    for symbol in list(elements.keys()):
        atom = elements[symbol].Atomic_properties
        for node in ("Xray_lines", "Binding_energies"):
            for name in list(atom.get_item(node, {}).keys()):
                assert infer_element(image(f"intensity of {symbol}_{name}")) == symbol


def test_atomic_number():
    assert [atomic_number(e) for e in ("H", "O", "Dy", "Au")] == [1, 8, 66, 79]
    with pytest.raises(ValueError, match="'fe' is not the symbol.*case matters"):
        atomic_number("fe")


def test_elements_override_what_the_maps_say():
    measurement = pair([image("Cu"), image("Zn")], image(), elements=["Fe", "Co"])
    assert measurement.elements == ("Fe", "Co")
    assert measurement.atomic_numbers == (26, 27)


def test_missing_element_names_the_map():
    with pytest.raises(ValueError, match=r"1: 'loading' \(7 x 5, un.*elements="):
        pair([image("Cu"), image("loading")], image())


def test_doubled_element_names_both():
    with pytest.raises(
        ValueError, match="Fe is mapped twice, by 'Fe' .* and 'Fe-EELS'"
    ):
        pair([image("Fe"), image("O"), image("Fe-EELS")], image())


def test_wrong_number_of_elements():
    with pytest.raises(ValueError, match="names 1 elements and there are 2 maps"):
        pair([image("Fe"), image("O")], image(), elements="Fe")


def test_no_maps():
    with pytest.raises(ValueError, match="there are no maps"):
        pair([], image())


# --- HAADF ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "title", ["HAADF", "Gatan HAADF", "STEM HAADF Image", "DF-S", "annular_detector"]
)
def test_choose_haadf_by_title(title):
    others = [image(t) for t in ("Fe", "BF", "SE", "BSE", "DF4-A", "DF4-B", "a", "")]
    found = image(title)
    assert choose_haadf([*others, found]) is found


def test_choose_haadf_by_signal_type_or_file_name():
    typed = image("x")
    typed.set_signal_type("HAADF")
    assert choose_haadf([image("y"), typed]) is typed
    named = image("scan 3")
    named.metadata.General.original_filename = "scan 3.dm4"
    assert choose_haadf([image("y"), named]) is named


def test_choose_haadf_by_shape():
    small, large = image("HAADF"), image("HAADF", np.ones((20, 20)))
    assert choose_haadf([small, large], shape=SHAPE) is small


def test_two_haadf_images_are_listed():
    images = [image("HAADF", scale=2, units="nm"), image("DF-S")]
    with pytest.raises(ValueError, match="2 of the images.*'HAADF' .7 x 5, 2 nm/px.*"):
        choose_haadf(images)


def test_without_haadf_all_images_are_listed():
    with pytest.raises(ValueError, match="none of the images.*'Ch 1'.*'SE'"):
        choose_haadf([image("Ch 1"), image("SE")], shape=SHAPE)
    with pytest.raises(ValueError, match="there are no images"):
        choose_haadf([])


def test_haadf_from_all_that_was_loaded():
    loaded = [image("Fe"), image("a", np.ones((9, 9))), image("HAADF")]
    measurement = pair(loaded[:1], loaded)
    assert_array_equal(measurement.haadf, loaded[2].data)


# --- arrays --------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["u1", "<i2", ">i2", ">f4", "<f8", ">f8", "u4", "i8", "f2"]
)
def test_any_real_numbers_in_native_order(dtype):
    data = np.arange(35).reshape(SHAPE).astype(dtype)
    measurement = pair([image("Fe", data)], image("", data))
    for array in (measurement.maps[0], measurement.haadf):
        assert_array_equal(array, np.arange(35).reshape(SHAPE))
        assert array.dtype.isnative


def test_memory_order_does_not_matter():
    data = np.arange(4 * 35).reshape(4, *SHAPE)[::2, ::-1, ::-1][1]
    fortran = np.asfortranarray(data)
    measurement = pair([image("Fe", data), image("O", fortran)], image("", fortran))
    assert_array_equal(measurement.maps, [data, data])


def test_map_on_navigation_axes():
    signal = image("Fe", scale=3, units="nm")
    measurement = pair([on_navigation_axes(signal)], signal)
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
    measurement = pair([series], hs.signals.Signal2D(data), elements=["Fe"])
    assert measurement.navigation_shape == (3,)
    assert_array_equal(measurement.maps[:, 0], data)


def test_stack_gives_each_map_its_own_metadata():
    stack = hs.stack([image("Fe"), image("O")], show_progressbar=False)
    measurement = pair(stack, image())
    assert measurement.elements == ("Fe", "O")
    assert [i.metadata.General.title for i in measurement.images] == ["Fe", "O"]


def test_stack_of_series():
    series = [
        image(t, np.random.default_rng(0).random((4, *SHAPE))) for t in ("Fe", "O")
    ]
    stack = hs.stack(series, show_progressbar=False)
    measurement = pair(stack, series[0])
    assert measurement.elements == ("Fe", "O")
    assert_array_equal(measurement.maps[:, 1], series[1].data)


def test_stack_of_maps_on_navigation_axes():
    images = [image(t, np.random.default_rng(0).random(SHAPE)) for t in ("Fe", "O")]
    stack = hs.stack(list(map(on_navigation_axes, images)), show_progressbar=False)
    measurement = pair(stack, image())
    assert measurement.elements == ("Fe", "O")
    assert_array_equal(measurement.maps, [signal.data for signal in images])


@pytest.mark.parametrize("n_elements", [2, 11])
def test_one_position_of_a_stack_of_series(n_elements):
    names = ["Fe", "O", "C", "N", "Si", "Al", "Co", "Ni", "Cu", "Zn", "Au"]
    random = np.random.default_rng(0)
    series = [image(t, random.random((4, *SHAPE))) for t in names[:n_elements]]
    stack = hs.stack(series, show_progressbar=False).inav[2]
    measurement = pair(stack, image())
    assert measurement.elements == tuple(names[:n_elements])
    assert_array_equal(measurement.maps, [signal.data[2] for signal in series])
    assert [i.metadata.General.title for i in measurement.images] == names[:n_elements]


@pytest.mark.parametrize("signal_type", ["", "elemental_map"])
def test_a_stack_that_lost_its_variance_does_not_give_it_to_its_maps(signal_type):
    maps = [image("Fe"), image("O")]
    for signal in maps:
        signal.set_signal_type(signal_type)
        signal.set_noise_variance(image("", np.full(SHAPE, 2.0)))
    stack = hs.stack(maps, show_progressbar=False)
    measurement = pair(stack, image())
    assert_array_equal(measurement.variance, np.full((2, *SHAPE), 2.0))
    assert pair(stack * 2, image()).variance is None
    assert pair(stack, image()).variance is not None
    if signal_type:
        assert (stack * 2).split()[0].get_noise_variance() is None


def test_variance_of_other_pixels_is_refused():
    random = np.random.default_rng(0)
    series = [image(t, random.random((4, *SHAPE))) for t in ("Fe", "O")]
    for signal in series:
        signal.set_noise_variance(signal.deepcopy())
    stack = hs.stack(series, show_progressbar=False)
    assert pair(stack, series[0]).variance.shape == (4, 2, *SHAPE)
    with pytest.raises(ValueError, match=r"variance .* shape \(4, 5, 7\) .* slice the"):
        pair(stack.inav[0], image())
    parts = [signal.inav[0] for signal in series]
    assert pair(parts, image()).variance.shape == (2, *SHAPE)


def test_loadings_need_names():
    loadings = image("loadings", np.random.default_rng(0).random((3, *SHAPE)))
    loadings.metadata.set_item("Sample.elements", ["Fe", "O", "C"])  # of the spectra
    with pytest.raises(ValueError, match="nothing says which element"):
        pair(loadings, image())
    measurement = pair(loadings, image(), elements=["C", "Fe", "O"])
    assert_array_equal(measurement.maps, loadings.data)


def test_lazy_maps_are_computed_together():
    lazy = image("Fe", da.from_array(np.arange(35).reshape(SHAPE))).as_lazy()
    measurement = pair([lazy], image().as_lazy())
    assert isinstance(measurement.maps, np.ndarray)
    assert isinstance(measurement.haadf, np.ndarray)


# --- axes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "units"), [(0.5, "nm"), (5e-4, "um"), (5e-4, "µm"), (5, "Å"), (500, "pm")]
)
def test_axes_are_compared_in_common_units(scale, units):
    haadf = image("HAADF", scale=scale, units=units)
    pair([image("Fe", scale=0.5, units="nm")], haadf)
    assert haadf.axes_manager[0].units == units  # compared on copies


def test_pixels_of_another_size():
    with pytest.raises(
        ValueError, match="0.5 nm along x and the HAADF image of 0.6 nm"
    ):
        pair([image("Fe", scale=0.5, units="nm")], image(scale=6e-4, units="um"))


def test_units_that_do_not_convert():
    for units in ("1/nm", "s", "unheard of"):
        with pytest.raises(ValueError, match="pixels in 'nm' and the HAADF image in"):
            pair([image("Fe", units="nm")], image(units=units))


@pytest.mark.parametrize("units", ["", "px", "pixels"])
def test_uncalibrated_against_calibrated_is_a_warning(units):
    with pytest.warns(UserWarning, match="map of Fe is not calibrated along x"):
        pair([image("Fe", scale=9, units=units)], image(units="nm"))
    with pytest.warns(UserWarning, match="HAADF image is not calibrated along x"):
        pair([image("Fe", units="nm")], image(scale=9, units=units))


def test_another_origin_is_a_warning():
    fixed, moved = (image("HAADF", scale=2, units="nm") for _ in range(2))
    moved.axes_manager[1].offset = 30
    pair([image("Fe", scale=2, units="nm")], moved)  # 0 may mean that it is not known
    fixed.axes_manager[1].offset = 10
    with pytest.warns(UserWarning, match="starts at 10 nm along y and .* at 30 nm"):
        pair([fixed], moved, elements=["Fe"])


@pytest.mark.parametrize("other", ["map of O", "HAADF image"])
def test_mismatched_shapes(other):
    large = image("O", np.ones((5, 8)))
    maps = [image("Fe"), large] if other == "map of O" else [image("Fe")]
    with pytest.raises(ValueError, match=f"map of Fe has 5 x 7 .* {other} 5 x 8"):
        pair(maps, large)


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
        pair([series], haadf, elements=["Fe"])
    repeated = advice(error, r"hs\.stack.*\d\]?\)", haadf=haadf)
    measurement = pair([series], repeated, elements=["Fe"])
    assert measurement.navigation_shape == shape
    assert_array_equal(measurement.maps[..., 0, :, :], series_on("", shape).data)
    assert (measurement.haadf == haadf.data).all()

    one = advice(error, r"one_map\.inav.*\]", one_map=series)
    measurement = pair([one], haadf, elements=["Fe"])
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
        pair([iron], series)
    for pattern, expected in (
        (r"haadf\.mean\(\)", series.data.mean(axis=tuple(range(len(shape))))),
        (r"haadf\.inav.*\]", series.data[(0,) * len(shape)]),
    ):
        haadf = advice(error, pattern, haadf=series)
        assert_array_equal(pair([iron], haadf).haadf, expected)


def test_series_of_other_positions():
    iron, haadf = series_on("signal axes", (3,)), series_on("signal axes", (2,))
    with pytest.raises(
        ValueError, match=r"\(3,\) and .* \(2,\): .* crop .* with .inav"
    ):
        pair([iron], haadf, elements=["Fe"])
    with pytest.raises(ValueError, match=r"map of O .* such as one_map.inav\[..., 0\]"):
        pair([image("Fe"), iron], image(), elements=["Fe", "O"])


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
        pair([bent], image(), elements=["Fe"])


# --- what is no image ----------------------------------------------------------


@pytest.mark.parametrize("wrong", [np.ones(SHAPE), "map.emd", None])
def test_not_a_signal(wrong):
    with pytest.raises(TypeError, match="expected a HyperSpy signal"):
        pair([image("Fe")], wrong)
    with pytest.raises(TypeError, match="expected a HyperSpy signal"):
        pair(wrong, image())


def test_complex_data():
    with pytest.raises(TypeError, match="'Fe' has data of type complex128.*real"):
        pair([image("Fe", np.ones(SHAPE, complex))], image())


def test_rgb_picture():
    rgb = hs.signals.Signal1D(np.zeros((*SHAPE, 3), np.uint8))
    rgb.change_dtype("rgb8")
    with pytest.raises(TypeError, match="RGB picture"):
        pair([image("Fe")], rgb)


def test_ragged_data():
    ragged = hs.signals.BaseSignal(
        np.array([np.ones(2), np.ones(3)], object), ragged=True
    )
    with pytest.raises(TypeError, match="ragged"):
        pair([ragged], image(), elements=["Fe"])


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
        pair([signal], image(), elements=["Fe"])


# --- the background that maps carry ---------------------------------------------


def test_carried_background_is_that_of_its_map():
    iron, oxygen = image("Fe"), on_navigation_axes(image("O"))
    measurement = pair([iron, oxygen], image())
    assert measurement.background is None
    assert measurement.net() is measurement
    background = image("", np.full(SHAPE, 2.0))
    oxygen.metadata.set_item("Elemental_map.background", background.T)
    for maps in ([iron, oxygen], [iron, oxygen.as_lazy()]):
        measurement = pair(maps, image())
        assert_array_equal(measurement.background[0], np.zeros(SHAPE))
        assert_array_equal(measurement.background[1], background.data)
        net = measurement.net()
        assert net.background is None
        assert_array_equal(net.maps, measurement.maps - measurement.background)
        for signal in measurement.to_signals(net.maps, {}):
            assert not signal.metadata.has_item("Elemental_map")
    assert pair([iron, oxygen], image(), carried=False).background is None


def test_background_of_other_pixels_is_refused():
    iron = image("Fe")  # a Signal2D, which does not slice it
    iron.metadata.set_item("Elemental_map.background", image())
    with pytest.raises(ValueError, match=r"has the shape .*, the map .* background="):
        pair([iron.isig[1:]], image().isig[1:])
    pair([iron.isig[1:]], image().isig[1:], carried=False)


# --- what is no data -----------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value):
    data = np.ones(SHAPE)
    data[2, 3] = value
    with pytest.raises(ValueError, match="map of Fe has 1 pixels that are NaN or inf"):
        pair([image("Fe", data)], image())
    with pytest.raises(ValueError, match="HAADF image has 1 pixels that are NaN"):
        pair([image("Fe")], image("", data))


def test_boolean_data_count_as_0_and_1():
    mask = np.arange(np.prod(SHAPE)).reshape(SHAPE) > 9
    measurement = pair([image("Fe", mask)], image())
    assert_array_equal(measurement.maps[0], mask.astype(int))
    assert measurement.maps.dtype.kind != "b"


def test_arrays_are_not_signals():
    with pytest.raises(TypeError, match="map number 1 is of type ndarray: expected"):
        pair([image("Fe"), np.ones(SHAPE)], image())
    with pytest.raises(TypeError, match="image number 0 is of type ndarray: expected"):
        pair([image("Fe")], [np.ones(SHAPE)])
    with pytest.raises(TypeError, match="HAADF image is of type ndarray: expected"):
        pair([image("Fe")], np.ones(SHAPE))


def test_empty_map_is_a_warning():
    with pytest.warns(UserWarning, match=r"map of O \(0.0 everywhere\).*leave it out"):
        pair([image("Fe"), image("O", np.zeros(SHAPE))], image())


def test_only_empty_maps():
    with pytest.raises(ValueError, match="no map has any contrast"):
        pair([image("Fe", np.zeros(SHAPE))], image())


def test_constant_haadf():
    with pytest.raises(ValueError, match="holds the value 7 only"):
        pair([image("Fe")], image("", np.full(SHAPE, 7)))
