"""What nobody should pass as spectra but somebody will: the error, or the result."""

import warnings
from contextlib import contextmanager, nullcontext

import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest

import hyperspy_fusion as hf

NAMES, LINES = ["Ba", "Ti", "O"], ["Ba_La", "Ti_Ka", "O_Ka"]
GIVEN = {"elements": NAMES, "lambda_tv": 4.0, "lambda_haadf": 0.1}
NAN, INF = np.nan, np.inf
MICROSCOPE = "Acquisition_instrument.TEM"
BEAM = f"{MICROSCOPE}.beam_energy"
RESOLUTION = f"{MICROSCOPE}.Detector.EDS.energy_resolution_MnKa"


@pytest.fixture(scope="module")
def specimen():
    _, haadf, truth = hf.data.lattice(20, counts=6)
    return hf.data.xray_spectra(truth, LINES, continuum=0.1), haadf, truth


@pytest.fixture(scope="module")
def as_usual(specimen):
    spectra, haadf, _ = specimen
    return [signal.data for signal in hf.fuse_spectra(spectra, haadf, **GIVEN)]


# --- what is done to spectra, in place ------------------------------------------------


def data(function):
    def change(spectra):
        spectra.data = function(spectra.data)

    return change


def cast(kind):
    return data(lambda array: array.astype(kind))


def with_value(value):
    def change(array):
        array = array.astype(float)
        array[3, 4, 300] = value
        return array

    return data(change)


def metadata(node, value):
    return lambda spectra: spectra.metadata.set_item(node, value)


def axis(name, value):
    def change(spectra):
        with np.errstate(invalid="ignore"):  # of HyperSpy
            setattr(spectra.axes_manager.signal_axes[0], name, value)

    return change


def turned(spectra):
    spectra.data = spectra.data[..., ::-1].copy()
    energies = spectra.axes_manager.signal_axes[0]
    energies.scale, energies.offset = -energies.scale, energies.high_value


# --- what gives the same result, in silence or with a word ----------------------------

NO_NUMBERS = ("x", [200], {"a": 1}, 0, -5.0, NAN, 1j, 10**400)
TOLD = {
    **{
        f"{node} is {value!r}"[:60]: metadata(node, value)
        for node in (BEAM, RESOLUTION)
        for value in NO_NUMBERS
    },
    "no resolution": metadata(RESOLUTION, INF),
}
SAME = TOLD | {
    **{
        f"counts of {kind}": cast(kind)
        for kind in ["u1", "i1", ">u2", ">i4", "u8", "f2", "f4", ">f8", "g"]
    },
    "masked, nothing is": data(np.ma.asarray),
    "in Fortran order": data(np.asfortranarray),
    "the energy of the beam is a text": metadata(BEAM, "200"),
    **{
        f"{node} is {value!r}": metadata(node, value)
        for node in [
            "General",
            "Sample",
            "Signal",
            "Signal.signal_type",
            "Acquisition_instrument",
            MICROSCOPE,
            f"{MICROSCOPE}.Detector",
        ]
        for value in (None, 3)
    },
    **{f"{node} is None": metadata(node, None) for node in (BEAM, RESOLUTION)},
}
NO_NUMBER = "of the metadata is .*: expected a number above 0, so that it was taken as"


@contextmanager
def telling(spoil):
    """Whatever is spoilt is told, and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.warns(UserWarning, match=NO_NUMBER) if spoil else nullcontext():
            yield


@pytest.mark.parametrize("spoil", SAME)
def test_the_same_result(spoil, specimen, as_usual):
    spectra, haadf, _ = specimen
    spectra = spectra.deepcopy()
    SAME[spoil](spectra)
    before = spectra.data.copy()
    with telling(spoil in TOLD):
        fused = hf.fuse_spectra(spectra, haadf, **GIVEN)
    with telling(spoil in TOLD):
        again = hf.repeat(fused, spectra, haadf)
    for own, repeated, expected in zip(fused, again, as_usual, strict=True):
        np.testing.assert_array_equal(own.data, expected)
        np.testing.assert_array_equal(repeated.data, expected)
    np.testing.assert_array_equal(spectra.data, before)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (metadata(BEAM, "x"), True),
        (metadata(RESOLUTION, NAN), True),
        (metadata("Acquisition_instrument", None), False),
        (metadata(MICROSCOPE, 3), False),
        (metadata("Signal", None), False),
    ],
)
def test_windows_of_spectra_whose_metadata_hold_anything(spoil, told, specimen):
    spectra, haadf, _ = specimen
    spectra = spectra.deepcopy()
    loaded = [hf.load_multimodal([spectra, haadf], ["Ba"], maps="windows").maps]
    spoil(spectra)
    with telling(told):
        loaded += [hf.load_multimodal([spectra, haadf], ["Ba"], maps="windows").maps]
    for one, other in zip(*loaded, strict=True):
        np.testing.assert_array_equal(one.data, other.data)


# --- what is refused, before anything is solved ---------------------------------------

REFUSED = {
    # values
    "complex": (cast("c8"), TypeError, "complex64: expected real numbers"),
    "objects": (cast("O"), TypeError, "object: expected real numbers"),
    "texts": (cast("U5"), TypeError, "<U5: expected real numbers"),
    "times": (
        data(lambda a: a.astype("i8").astype("M8[s]")),
        TypeError,
        "datetime64[s]: expected real numbers",
    ),
    "no rows": (data(lambda a: a[:0]), ValueError, "has the shape (0, 20, 768)"),
    "no channels": (
        data(lambda a: a[..., :0]),
        ValueError,
        "has the shape (20, 20, 0): expected one pixel and one channel",
    ),
    **{
        f"a value of {value}": (
            with_value(value),
            ValueError,
            "expected finite counts of at least 0, not all 0, and up to 1e+14",
        )
        for value in (INF, -INF, -1e6, 1e30, 1e300)
    },
    "a value of NaN": (with_value(NAN), ValueError, "is NaN in 1 of 768 channels"),
    "half a count": (with_value(0.5), ValueError, "are no whole numbers"),
    "masked values": (
        data(lambda a: np.ma.masked_greater(a, 3)),
        ValueError,
        "pixels without can be left out with mask=",
    ),
    # the energies
    **{
        f"the {name} of the energies is {value}": (
            axis(name, value),
            ValueError,
            "expected energies that rise",
        )
        for name, value in [
            ("scale", 0.0),
            ("scale", -0.01),
            ("scale", NAN),
            ("scale", INF),
            ("offset", NAN),
            ("offset", INF),
        ]
    },
    "falling energies": (turned, ValueError, "signal.isig[::-1]"),
    "tiny channels": (axis("scale", 1e-5), ValueError, "0.02 to 0.02767 keV"),
    "a slow beam": (metadata(BEAM, 2.0), ValueError, "2 keV, the energy of the beam"),
    "another signal type": (
        metadata("Signal.signal_type", "EELS"),
        ValueError,
        "the signal type 'EELS'",
    ),
    "pixels of other sizes": (
        lambda s: s.axes_manager.navigation_axes[0].convert_to_non_uniform_axis(),
        ValueError,
        "non-uniform axis 'x'",
    ),
}


@pytest.mark.parametrize("spoil", REFUSED)
def test_refused(spoil, specimen):
    change, kind, words = REFUSED[spoil]
    spectra, haadf, _ = specimen
    spectra = spectra.deepcopy()
    change(spectra)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(kind) as caught:
            hf.fuse_spectra(spectra, haadf, **GIVEN)
    assert words in str(caught.value)


def test_falling_energies_can_be_turned_round(specimen, as_usual):
    spectra, haadf, _ = specimen
    falling = spectra.deepcopy()
    turned(falling)
    fused = hf.fuse_spectra(falling.isig[::-1], haadf, **GIVEN)
    np.testing.assert_allclose(fused[0].data, as_usual[0], rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:the:UserWarning")
def test_a_resolution_that_is_too_good(specimen):
    """Lines narrower than a channel lie in one; what is beside them is told."""
    spectra, haadf, _ = specimen
    spectra = spectra.deepcopy()
    metadata(RESOLUTION, 2.0)(spectra)
    with pytest.warns(UserWarning, match="has a peak at 4.44 keV that no line"):
        hf.fuse_spectra(spectra, haadf, **GIVEN)


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1e6, 1e30, 0.5])
def test_values_of_lazy_spectra_that_are_refused(value, specimen):
    spectra, haadf, _ = specimen
    lazy = spectra.deepcopy().as_lazy()
    lazy.data = da.where(lazy.data > 5, value, lazy.data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="expected (finite )?counts"):
            hf.fuse_spectra(lazy, haadf, **GIVEN)


def test_lazy_masked_arrays(specimen, as_usual):
    spectra, haadf, _ = specimen
    lazy = spectra.as_lazy()
    lazy.data = da.ma.masked_greater(lazy.data, 1000)
    fused = hf.fuse_spectra(lazy, haadf, **GIVEN)
    np.testing.assert_array_equal(fused[2].data, as_usual[2])


@pytest.mark.xfail(
    np.lib.NumpyVersion(np.__version__) >= "2.5.0",
    raises=RuntimeWarning,
    strict=False,
    reason="coefficients of an image that has nothing to do with the maps overflow",
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_frame_with_counts_in_one_channel(specimen):
    spectra, haadf, _ = specimen
    spectra, images = hs.stack([spectra, spectra]), hs.stack([haadf, haadf])
    spectra.data[1] = 0
    spectra.data[1, ::2, ::2, 26] = 1
    fused = hf.fuse_spectra(spectra, images, **GIVEN)
    for signal in fused:
        assert np.isfinite(signal.data).all()
        assert (signal.data >= 0).all()
    assert fused[0].data[1].sum() < 2
    assert 80 < fused[2].data[1].sum() < 120


# --- options and images ---------------------------------------------------------------

NAMED = "expected a name or a list of names"
RANGE = "expected two rising energies in keV"
WRONG_OPTIONS = {
    "elements": [
        (3, TypeError, NAMED),
        (True, TypeError, NAMED),
        (b"Ba", TypeError, NAMED),
        ({"Ba": "Ba_La"}, TypeError, NAMED),
        ({"Ba", "Ti"}, TypeError, NAMED),  # in no order
        (np.array("Ba"), TypeError, NAMED),
        (["Ba", 3], TypeError, "elements has 3"),
        ([], ValueError, "elements is empty"),
        ("", ValueError, "is not the symbol of an element"),
        (["Ba", "Li"], ValueError, "Li has no known X-ray lines"),
        (["H"], ValueError, "H has no α line in the measured range, 0.02 to 15.36"),
    ],
    "other_elements": [
        (3, TypeError, NAMED),
        (False, TypeError, NAMED),
        ({"Cu": 1}, TypeError, NAMED),
        ([None], TypeError, "other_elements has None"),
        (np.array(["Cu", "Ba"]), ValueError, "Ba is named twice"),
    ],
    "lines": [
        (3, TypeError, NAMED),
        ({"Ba": "Ba_La"}, TypeError, NAMED),
        ("Ba_", ValueError, "Ba_ is not a line of Ba"),
    ],
    "energy_range": [
        (3, ValueError, RANGE),
        (True, ValueError, RANGE),
        ("12", ValueError, RANGE),
        (("a", "b"), ValueError, RANGE),
        ((None, 12), ValueError, RANGE),
        ((1,), ValueError, RANGE),
        ((1, 2, 3), ValueError, RANGE),
        ((1j, 2), ValueError, RANGE),
        ((NAN, 3), ValueError, RANGE),
        ((30, 40), ValueError, RANGE),
    ],
    "mask": [
        (np.ones((20, 20), bool), ValueError, "mask is True in all pixels"),
        (np.zeros((20, 20)), ValueError, "expected bool"),
    ],
}


@pytest.mark.parametrize(
    ("name", "value", "kind", "words"),
    [(name, *own) for name, every in WRONG_OPTIONS.items() for own in every],
    ids=lambda value: repr(value)[:30] if not isinstance(value, str) else value,
)
def test_options_that_cannot_be(name, value, kind, words, specimen):
    spectra, haadf, _ = specimen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind) as caught:
            hf.fuse_spectra(spectra, haadf, **(GIVEN | {name: value}))
    assert words in str(caught.value)


def test_no_other_elements(specimen, as_usual):
    spectra, haadf, _ = specimen
    for nothing in ("", [], (), np.array([])):
        fused = hf.fuse_spectra(spectra, haadf, other_elements=nothing, **GIVEN)
        np.testing.assert_array_equal(fused[0].data, as_usual[0])


TWICE = "hold the same values in every pixel"
IMAGES = {
    "HAADF twice": (lambda h, _: h.deepcopy(), ValueError, TWICE),
    "a phase twice": (lambda _, p: [p, p.deepcopy()], ValueError, TWICE),
    "a large image": (lambda _, p: p * 1e300, ValueError, "image phase go up to"),
    "a small image": (lambda _, p: p * 1e-40, ValueError, "image phase go up to"),
    "a path": (lambda *_: "phase.tif", TypeError, "is the path 'phase.tif'"),
    **{
        f"the name {name!r}": (
            lambda _, p, name=name: {name: p},
            TypeError,
            "expected a text of one line",
        )
        for name in ("", "a\nb", "a\r", "\x0b", "a\u2028b", "\x85")
    },
}


@pytest.mark.parametrize("of_spectra", [False, True])
@pytest.mark.parametrize("case", IMAGES)
def test_further_images(case, of_spectra, specimen):
    make, kind, words = IMAGES[case]
    spectra, haadf, truth = specimen
    phase = hf.data.elastic_image(truth, "phase")
    phase.data = phase.data.astype(float)
    maps, _, _ = hf.data.lattice(20, counts=6)
    fuse, what = hf.fuse_multimodal, maps
    given = {"lambda_tv": 4.0, "elastic": make(haadf, phase)}
    if of_spectra:
        fuse, what = hf.fuse_spectra, spectra
        given["elements"] = NAMES
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind) as caught:
            fuse(what, haadf, **given)
    assert words in str(caught.value)


@pytest.mark.parametrize("factor", [1e-40, 1e297])
def test_a_haadf_image_beyond_single_precision(factor, specimen):
    spectra, haadf, _ = specimen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="values of the HAADF image go up to"):
            hf.fuse_spectra(spectra, haadf * factor, **GIVEN)
