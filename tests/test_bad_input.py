"""What nobody should pass but somebody will: the error, or the result and its warning.

Signals come from files of many programs, options from other code: arrays of any type,
axes and metadata that hold anything, numbers that are none.
"""

import warnings

import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest

import hyperspy_fusion as hf

SIZE = 16
GIVEN = {"lambda_tv": 4.0, "lambda_haadf": 0.1}
NAN, INF = np.nan, np.inf


def specimen():
    maps, haadf, _ = hf.data.core_shell(SIZE)
    return maps, haadf


@pytest.fixture(scope="module")
def as_usual():
    """Fused maps of the specimen as it is."""
    return [m.data for m in hf.fuse_multimodal(*specimen(), **GIVEN)]


@pytest.fixture(scope="module")
def with_replicas():
    """Measured maps, fused maps with replicas, and the image."""
    maps, haadf = specimen()
    return maps, hf.fuse_multimodal(maps, haadf, n_replicas=2, **GIVEN), haadf


def fuse(maps, haadf, **options):
    return hf.fuse_multimodal(maps, haadf, **(GIVEN | options))


# --- what is done to maps and image, in place -----------------------------------------


def each(function):
    def change(maps, haadf):  # noqa: ARG001 - only the maps
        for signal in maps:
            signal.data = function(signal.data)

    return change


def first(function):
    return lambda maps, _: each(function)(maps[:1], None)


def image(function):
    return lambda _, haadf: each(function)([haadf], None)


def both(function):
    return lambda maps, haadf: each(function)([*maps, haadf], None)


def cast(kind):
    return lambda array: array.astype(kind)


def with_value(value, place=(3, 4)):
    def change(array):
        array = array.astype(float)
        array[place] = value
        return array

    return change


def filled_with(value):
    return lambda array: np.full(array.shape, value)


def times(factor):
    return lambda array: array.astype(float) * factor


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def axes(name, value, *, of_maps=True, of_image=True):
    def change(maps, haadf):
        for signal in [*(maps if of_maps else ()), *((haadf,) if of_image else ())]:
            for axis in signal.axes_manager.signal_axes:
                with np.errstate(invalid="ignore"):  # of HyperSpy
                    setattr(axis, name, value)

    return change


def negated(maps, haadf):
    for signal in (*maps, haadf):
        for axis in signal.axes_manager.signal_axes:
            axis.scale, axis.offset = -axis.scale, axis.high_value


def copied(maps, haadf):  # noqa: ARG001 - only the maps
    maps[1].data = maps[0].data.copy()


def image_as_map(maps, haadf):
    maps[0].data = haadf.data.copy()


def not_square(maps, haadf):
    for signal in (*maps, haadf):
        signal.axes_manager["x"].scale = 7.0


def in_mixed_units(maps, haadf):  # noqa: ARG001 - only the image
    for axis in haadf.axes_manager.signal_axes:
        axis.scale, axis.units = axis.scale / 1000, "um"


def in_odd_chunks(maps, haadf):
    for signal in (*maps, haadf):
        signal.data = da.from_array(signal.data, chunks=(5, 7)).compute()


def metadata(node, value):
    """Of the first map, which has its element in its title and in Sample, too."""

    def change(maps, _):
        maps[0].metadata.set_item(node, value)

    return change


def untitled(node, value):
    """Of all maps, which nothing else names."""

    def change(maps, _):
        for signal in maps:
            del signal.metadata.Sample
            signal.metadata.General.title = ""
            signal.metadata.set_item(node, value)

    return change


# --- what gives the same result, in silence -------------------------------------------

SAME = {
    **{
        f"maps of {kind}": each(cast(kind))
        for kind in [
            "u1",
            "i1",
            "u2",
            "i2",
            "u4",
            "i4",
            "u8",
            "i8",
            "f2",
            "f4",
            "f8",
            "g",
            ">i2",
            ">i4",
            ">f4",
            ">f8",
            ">u2",
        ]
    },
    "image of big-endian numbers": image(cast(">f8")),
    "read-only": both(read_only),
    "masked, nothing is": both(np.ma.asarray),
    "strided": both(lambda a: a.repeat(2, axis=0).repeat(3, axis=1)[::2, ::3]),
    "in Fortran order": both(np.asfortranarray),
    "backwards in memory": both(lambda a: a[::-1, ::-1].copy()[::-1, ::-1]),
    "lazy before, in odd chunks": in_odd_chunks,
    "negative scales of all": negated,
    "pixels that are no squares": not_square,
    "nm and um": in_mixed_units,
    "µ of two kinds": lambda maps, haadf: (
        axes("units", "µm", of_image=False)(maps, haadf),
        axes("units", "μm", of_maps=False)(maps, haadf),
    ),
    "names of axes": axes("name", "λ"),
    "no units at all": axes("units", ""),
    "scales of nothing": axes("scale", 0.0),
    "scales that are no numbers": axes("scale", NAN),
    "infinite scales": axes("scale", INF),
    "tiny scales": axes("scale", 1e-300),
    "infinite offsets": axes("offset", INF),
    **{
        f"Sample.elements is {value!r}": metadata("Sample.elements", value)
        for value in (None, 3, {"Fe": 1}, b"Fe", [None], [3], [["Fe"]], 2.5, "", [])
    },
    **{
        f"Sample.xray_lines is {value!r}": metadata("Sample.xray_lines", value)
        for value in (None, 3, {"Fe": 1}, b"Fe_Ka", [None], ["Co_Ka", 3])
    },
    **{
        f"the title is {value!r}": metadata("General.title", value)
        for value in (None, 3, ["Co"], b"Co", {"a": 1}, "Co\n", "κ" * 2000)
    },
    "the name of the file is a number": metadata("General.original_filename", 3),
    "Signal is None": metadata("Signal", None),
    "General is a number": metadata("General", 3),
    "the image has no title": lambda _, h: h.metadata.set_item("General.title", None),
    "the quantity is a number": metadata("Signal.quantity", 3),
    "a variance for one map only": metadata("Signal.Noise_properties.variance", 1.0),
}


@pytest.mark.parametrize("spoil", SAME)
def test_the_same_result(spoil, as_usual):
    maps, haadf = specimen()
    SAME[spoil](maps, haadf)
    before = [signal.data.copy() for signal in (*maps, haadf)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused = fuse(maps, haadf)
        assert "ElementalMap" in repr(fused[0])
    for own, expected in zip(fused, as_usual, strict=True):
        np.testing.assert_allclose(own.data, expected, rtol=2e-2, atol=2e-2)
    assert [m.metadata.Sample.elements for m in fused] == [["Co"], ["Mn"], ["O"]]
    for signal, old in zip((*maps, haadf), before, strict=True):
        np.testing.assert_array_equal(signal.data, old)


# --- what is refused, before anything is solved ---------------------------------------

REFUSED = {
    # values
    "complex": (each(cast("c8")), TypeError, "complex64: expected real numbers"),
    "objects": (first(cast("O")), TypeError, "object: expected real numbers"),
    "texts": (image(cast("U5")), TypeError, "<U5: expected real numbers"),
    "bytes": (image(cast("S5")), TypeError, "S5: expected real numbers"),
    "times": (
        first(lambda a: a.astype("i8").astype("M8[s]")),
        TypeError,
        "datetime64[s]: expected real numbers",
    ),
    "an infinite pixel": (
        first(with_value(INF)),
        ValueError,
        "the map of Co has 1 pixels that are infinite: expected finite values",
    ),
    "an infinite pixel of the image": (
        image(with_value(-INF)),
        ValueError,
        "the HAADF image has 1 pixels that are infinite",
    ),
    "a map of NaN": (first(filled_with(NAN)), ValueError, "nothing but missing pixels"),
    "an image of NaN": (image(filled_with(NAN)), ValueError, "HAADF image has nothing"),
    "a pixel of 1e300": (
        first(with_value(1e300)),
        ValueError,
        "the maps go up to 1e+300: expected 1e-14 to 1e+14",
    ),
    "a pixel of -1e39": (first(with_value(-1e39)), ValueError, "go up to 1e+39"),
    "an image up to 1e300": (
        image(times(1e297)),
        ValueError,
        "the HAADF image go up to",
    ),
    "maps below 1e-300": (each(times(1e-303)), ValueError, "expected 1e-14 to 1e+14"),
    "an image below 1e-30": (image(times(1e-40)), ValueError, "expected 1e-14"),
    "an image that is constant": (image(filled_with(7)), ValueError, "is constant (7)"),
    "the same map twice": (
        copied,
        ValueError,
        "the map of Co and the map of Mn hold the same values in every pixel",
    ),
    "the image as a map": (
        image_as_map,
        ValueError,
        "the map of Co and the HAADF image hold the same values",
    ),
    "an image without a dose": (image(np.zeros_like), ValueError, "is constant (0"),
    "a saturated image": (
        image(lambda a: np.minimum(a, a.min())),
        ValueError,
        "is constant",
    ),
    "an image lost in its offset": (
        image(lambda a: a + 1e300),
        ValueError,
        "is constant (1e+300)",
    ),
    "true or false, all true": (image(cast(bool)), ValueError, "is constant (1)"),
    "maps of zeros": (each(np.zeros_like), ValueError, "no map has any contrast"),
    "maps below zero": (
        each(times(-1)),
        ValueError,
        "is negative in places",
    ),
    "one pixel": (both(lambda a: a[:1, :1]), ValueError, "HAADF image is constant"),
    "no rows": (
        both(lambda a: a[:0]),
        ValueError,
        "has the shape (0, 16): expected one pixel",
    ),
    "no columns": (
        both(lambda a: a[:, :0]),
        ValueError,
        "has the shape (16, 0): expected one pixel",
    ),
    # axes
    "the maps without a scale": (
        axes("scale", -1.0, of_image=False),
        ValueError,
        "of -1 nm along x and the HAADF image of 4 nm",
    ),
    "parsec": (axes("units", "parsec", of_maps=False), ValueError, "4 nm along x"),
    "kelvin": (
        axes("units", "K", of_maps=False),
        ValueError,
        "'nm' and the HAADF image in 'K': expected units that can be converted",
    ),
    "units that are none": (
        axes("units", "!!", of_maps=False),
        ValueError,
        "expected units that can be converted",
    ),
    # metadata
    **{
        f"only Sample.elements = {value!r}": (
            untitled("Sample.elements", value),
            ValueError,
            "nothing says which element",
        )
        for value in (None, 3, {"Fe": 1}, b"Fe", [3])
    },
    "only a title that is no text": (
        untitled("General.title", 3),
        ValueError,
        "nothing says which element",
    ),
}


@pytest.mark.parametrize("spoil", REFUSED)
def test_refused(spoil):
    change, kind, words = REFUSED[spoil]
    maps, haadf = specimen()
    change(maps, haadf)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(kind) as caught:
            fuse(maps, haadf)
    assert words in str(caught.value)


# --- what is fused, with a warning or a note -----------------------------------------


def cut(rows, columns):
    def change(maps, haadf):
        rng = np.random.default_rng(0)
        for signal in maps:
            signal.data = rng.poisson(3, (rows, columns))
        haadf.data = rng.normal(10, 2, (rows, columns))

    return change


TOLD = {
    "a map of zeros": (first(np.zeros_like), "without any contrast: map of Co (0"),
    "a map of a constant": (first(filled_with(3)), "without any contrast: map of Co"),
    "a missing pixel": (first(with_value(NAN)), "missing pixels of the maps are"),
    "half of the image missing": (
        image(with_value(NAN, slice(0, 8))),
        "missing pixels of the HAADF image",
    ),
    "masked pixels": (
        first(lambda a: np.ma.masked_greater(a, a.max() - 1)),
        "missing pixels of the maps are filled",
    ),
    "a negative image": (image(times(-1)), "inverted contrast"),
    "a negative pixel": (first(with_value(-5)), "negative pixels: Gaussian noise"),
    "saturated in places": (
        image(lambda a: np.minimum(a, np.quantile(a, 0.9))),
        "saturated",
    ),
    "the image without units": (
        axes("units", "", of_maps=False),
        "the HAADF image is not calibrated along x",
    ),
    "the image without a scale": (
        axes("scale", 0.0, of_maps=False),
        "the HAADF image is not calibrated along x",
    ),
    "maps with a scale that is no number": (
        axes("scale", NAN, of_image=False),
        "the map of Co is not calibrated along x",
    ),
    "an infinite offset": (
        axes("offset", INF, of_image=False),
        "the map of Co is not calibrated along x",
    ),
    "a record that is none": (metadata("Multimodal_fusion", "x"), "fused already"),
    "another element": (metadata("Sample.elements", ("Fe",)), None),
    "one row": (cut(1, 16), None),
    "one column": (cut(16, 1), None),
    "two pixels": (cut(1, 2), None),
    "four pixels": (cut(2, 2), None),
}


@pytest.mark.parametrize("spoil", TOLD)
def test_told(spoil):
    change, words = TOLD[spoil]
    maps, haadf = specimen()
    change(maps, haadf)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fused = fuse(maps, haadf)
    assert {warning.category for warning in caught} <= {UserWarning}
    record = fused[0].metadata.Multimodal_fusion
    told = f"{record.warnings}\n{record.notes}"
    assert words is None or words in told, told
    assert {str(warning.message) for warning in caught} == set(
        record.warnings.splitlines()
    )
    for signal in fused:
        assert signal.data.shape == haadf.data.shape
        assert np.isfinite(signal.data).all()
        assert (signal.data >= 0).all()


# --- options --------------------------------------------------------------------------

NUMBER = "expected a finite number"
WRONG_OPTIONS = {
    "lambda_haadf": [
        (-1, ValueError, NUMBER),
        (INF, ValueError, NUMBER),
        (NAN, ValueError, NUMBER),
        (1e300, ValueError, "1e-15 to 1e+15"),
        (1e-300, ValueError, "1e-15 to 1e+15"),
        ("3", TypeError, NUMBER),
        (True, TypeError, NUMBER),
        ([1], TypeError, NUMBER),
        (np.array([1, 2]), TypeError, NUMBER),
        (1j, TypeError, NUMBER),
    ],
    "lambda_tv": [
        (-INF, ValueError, NUMBER),
        (1e300, ValueError, "1e-15 to 1e+15"),
        ({}, TypeError, NUMBER),
    ],
    "gamma": [
        (0, ValueError, "a finite number above 0, up to 10"),
        (1e300, ValueError, "up to 10"),
        (None, TypeError, NUMBER),
    ],
    "tolerance": [(1e300, ValueError, "1e+15"), (-1, ValueError, NUMBER)],
    "max_iter": [
        (0, ValueError, "a whole number of at least 1"),
        (1.5, ValueError, "a whole number"),
        (NAN, ValueError, "a whole number"),
        ("x", TypeError, "a whole number"),
    ],
    "seed": [(-1, ValueError, "a whole number"), (1j, TypeError, "a whole number")],
    "n_replicas": [(1e300, ValueError, "from 2 to 10000"), (1, ValueError, "from 2")],
    "tile_size": [(0, ValueError, "at least 32"), ("x", TypeError, "at least 32")],
    "num_workers": [(0, ValueError, "at least 1")],
    "haadf_offset": [(1e300, ValueError, "1e+15"), ("x", TypeError, NUMBER)],
    "regularizer": [(3, TypeError, "'tgv', 'tv'"), ("x", ValueError, "'tgv', 'tv'")],
    "share": [(1, TypeError, "True or False"), ("no", TypeError, "True or False")],
    "match": [
        (np.array([1, 2]), ValueError, "expected None, 'axes' or 'pixels'"),
        (True, ValueError, "expected None, 'axes' or 'pixels'"),
    ],
    "elements": [
        (3, TypeError, "expected a list of symbols"),
        (np.array(1.5), TypeError, "expected a list of symbols"),
        ("Co", ValueError, "names 1 elements and there are 3 maps"),
        ([1, 2, 3], ValueError, "1 is not the symbol of an element"),
        (["Co", ["Mn"], "O"], ValueError, "is not the symbol of an element"),
        (["Co", None, "O"], ValueError, "None is not the symbol of an element"),
        ([b"Co", "Mn", "O"], ValueError, "b'Co' is not the symbol of an element"),
    ],
    "sensitivities": [
        (3, TypeError, "of type int: expected a dict"),
        ("Co", TypeError, "of type str: expected a dict"),
        ({"Co": 1}, ValueError, "none for Mn, O"),
        ({"Co": NAN, "Mn": 1, "O": 1}, ValueError, "finite numbers above 0"),
    ],
    "mask": [
        ("x", ValueError, "expected bool"),
        (np.zeros((SIZE, SIZE)), ValueError, "expected bool"),
        (np.zeros((2, 2), bool), ValueError, "the shape (16, 16)"),
    ],
    "elastic": [
        (3, TypeError, "of type int: expected a signal"),
        ([None], TypeError, "elastic image number 0"),
        ([np.ones((SIZE, SIZE))], TypeError, "elastic image number 0"),
        (
            hs.signals.Signal2D(np.ones((SIZE, SIZE))),
            ValueError,
            "is constant (1.0)",
        ),
        (
            hs.signals.Signal2D(np.full((SIZE, SIZE), NAN)),
            ValueError,
            "nothing but missing pixels",
        ),
        ("phase.tif", TypeError, "elastic image number 0 is the path"),
    ],
    "background": [
        (-1, ValueError, "at least 0"),
        (NAN, ValueError, "at least 0"),
        (1e300, ValueError, "the background go up to 1e+300"),
        ("x", TypeError, "background of Co is of type str"),
        ([1, 2], ValueError, "2 entries and there are 3 maps"),
        ({"Co": 1}, ValueError, "none for Mn, O"),
    ],
    "lazy_output": [("x", TypeError, "True or False")],
    "show_progressbar": [(3, TypeError, "True or False")],
}


@pytest.mark.parametrize(
    ("name", "value", "kind", "words"),
    [(name, *own) for name, every in WRONG_OPTIONS.items() for own in every],
    ids=lambda value: repr(value)[:30] if not isinstance(value, str) else value,
)
def test_options_that_cannot_be(name, value, kind, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind) as caught:
            fuse(*specimen(), **{name: value})
    assert (
        name in str(caught.value)
        or "elastic image" in str(caught.value)
        or (name == "elements" and "symbol" in str(caught.value))
    )
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"lambda_chem": 1e300}, ValueError, "1e-15 to 1e+15"),
        ({"lambda_tv": 1e-300}, ValueError, "1e-15 to 1e+15"),
        ({"lambda_haadf": "auto"}, TypeError, NUMBER),
        ({"epsilon": 0}, ValueError, "above 0"),
        ({"epsilon": 1e-300}, ValueError, "1e-15 to 1e+15"),
        ({"gamma": 1e300}, ValueError, "from 1 to 10"),
        ({"n_iter": 0.5}, ValueError, "whole number"),
        ({"n_iter_tv": None}, TypeError, "whole number"),
        ({"z_weighting": 3}, TypeError, "expected one of 'none', 'Z'"),
        ({"initial_threshold": 2}, ValueError, "from 0 to 1"),
    ],
)
def test_options_of_the_published_method(options, kind, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind) as caught:
            hf.fuse_published(*specimen(), **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (first(with_value(NAN)), ValueError, "NaN or infinite"),
        (first(with_value(1e300)), ValueError, "the maps go up to 1e+300"),
        (each(times(1e38)), ValueError, "expected 1e-30 to 1e+30"),
        (each(times(1e-40)), ValueError, "expected 1e-30 to 1e+30"),
        (image(np.zeros_like), ValueError, "is constant"),
    ],
)
def test_values_that_the_published_method_cannot_take(change, kind, words):
    maps, haadf = specimen()
    change(maps, haadf)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(kind) as caught:
            hf.fuse_published(maps, haadf)
    assert words in str(caught.value)


@pytest.mark.parametrize("of_image", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("scale", 0.0, "not calibrated along x"),
        ("scale", NAN, "not calibrated along x"),
        ("offset", INF, "not calibrated along x"),
        ("offset", 1e300, "no area in common along x"),
        ("scale", -4.0, "scales of maps and HAADF image along x are"),
        ("units", "", "not calibrated along x"),
    ],
)
def test_axes_that_cannot_be_matched(name, value, words, of_image):
    maps, haadf = specimen()
    axes(name, value, of_maps=not of_image, of_image=of_image)(maps, haadf)
    with pytest.raises(ValueError, match=words):
        fuse(maps, haadf, match="axes")


# --- the other functions --------------------------------------------------------------


def of_fused(function):
    return lambda *given: function(given[-1])


def with_measured(function):
    return lambda maps, _, haadf, wrong: function(maps, wrong, haadf)


FUNCTIONS = {
    "summarize": of_fused(hf.summarize),
    "get_fractions": of_fused(hf.get_fractions),
    "get_haadf_model": of_fused(hf.get_haadf_model),
    "plot_convergence": of_fused(hf.plot_convergence),
    "plot_weights": of_fused(hf.plot_weights),
    "propagate": of_fused(lambda wrong: hf.propagate(lambda _: 1.0, wrong)),
    "get_misfit": with_measured(hf.get_misfit),
    "plot_fusion": with_measured(hf.plot_fusion),
    "plot_misfit": with_measured(hf.plot_misfit),
}
WRONG = {
    "None": (None, TypeError),
    "a number": (3, TypeError),
    "a path": ("fused.hspy", TypeError),
    "an array": (np.ones((SIZE, SIZE)), TypeError),
    "a list of arrays": ([np.ones((SIZE, SIZE))], TypeError),
    "an empty list": ([], ValueError),
    "an image": (hs.signals.Signal2D(np.eye(SIZE)), ValueError),
    "a set": ({1, 2}, TypeError),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_are_no_fused_maps(function, wrong, with_replicas):
    value, kind = WRONG[wrong]
    with pytest.raises(kind, match="expected"):
        FUNCTIONS[function](*with_replicas, value)


@pytest.mark.parametrize("function", ["get_misfit", "plot_misfit", "plot_fusion"])
def test_fused_maps_of_other_pixels(function, with_replicas):
    _, fused, _ = with_replicas
    cropped = [signal.isig[:10, :10] for signal in fused]
    with pytest.raises(ValueError, match="expected th.* fus"):
        FUNCTIONS[function](*with_replicas, cropped)


def test_measured_maps_are_not_fused_ones(with_replicas):
    maps, fused, haadf = with_replicas
    for name, function in FUNCTIONS.items():
        words = "no replicas" if name == "propagate" else "has no metadata"
        with pytest.raises(ValueError, match=words):
            function(maps, fused, haadf, maps)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (None, "function is of type NoneType: expected a function"),
        (lambda _: None, "the function returned NoneType: expected"),
        (lambda _: "x", "the function returned str: expected"),
    ],
)
def test_what_cannot_be_propagated(function, words, with_replicas):
    with pytest.raises(TypeError, match=words):
        hf.propagate(function, with_replicas[1])


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: hf.fuse_spectra(None, None, ["Fe"]), TypeError, "expected"),
        (lambda: hf.fuse_spectra(np.ones(3), None, ["Fe"]), TypeError, "expected"),
        (lambda: hf.fit_sum_spectrum(3), TypeError, "expected"),
        (lambda: hf.plot_sum_spectrum(None), TypeError, "fit_sum_spectrum returned"),
        (lambda: hf.load_multimodal(3), TypeError, "expected"),
        (lambda: hf.load_multimodal([]), ValueError, "maps: none"),
        (lambda: hf.find_candidates([None]), TypeError, "expected"),
        (lambda: hf.data.core_shell("x"), TypeError, "whole number of pixels"),
        (lambda: hf.data.core_shell(NAN), TypeError, "whole number of pixels"),
        (lambda: hf.data.core_shell(2), ValueError, "at least 16 pixels"),
        (lambda: hf.plot_composite(None), TypeError, "expected"),
        (lambda: hf.plot_composite([]), ValueError, "expected"),
    ],
)
def test_other_functions(call, kind, words):
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)
