import hashlib
import warnings
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import exspy
import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scans import (
    HAADF,
    SHAPE,
    WEIGHTS,
    calibrate_energies,
    eels_of,
    elements_of,
    image,
    signals_of,
    stack_of,
    titles_of,
)

import hyperspy_fusion
from hyperspy_fusion import (
    ElementalMap,
    HAADFImage,
    LazyElementalMap,
    LazyHAADFImage,
)
from hyperspy_fusion.execution.arrays import is_lazy
from hyperspy_fusion.loading import MultimodalData, find_candidates, load_multimodal

# --- the HAADF image -----------------------------------------------------------


def test_haadf_of_the_size_of_the_maps_is_taken():
    signals = [image("Fe"), image("HAADF", (9, 9)), HAADF]
    assert load_multimodal(signals)[1].data.shape == SHAPE
    # The same where it is named.
    assert load_multimodal(signals, haadf="HAADF")[1].data.shape == SHAPE


def test_haadf_can_be_named(tmp_path):
    first, second = image("DF4", data=np.eye(5, 7)), image("BF", data=np.ones(SHAPE))
    signals = [image("Fe"), first, second, HAADF]
    assert_array_equal(load_multimodal(signals, haadf="DF4")[1].data, first.data)
    assert_array_equal(load_multimodal(signals, haadf=second)[1].data, second.data)
    path = tmp_path / "another file.hspy"
    second.save(path)
    for haadf in (path, str(path)):
        found = load_multimodal(signals, haadf=haadf)[1]
        assert type(found) is HAADFImage
        assert_array_equal(found.data, second.data)


def test_haadf_on_navigation_axes_is_taken():
    assert_array_equal(load_multimodal([image("Fe"), HAADF.T])[1].data, HAADF.data)


def test_brackets_in_the_name_of_a_file_are_no_pattern(tmp_path):
    hs.stack([image("Fe"), image("Co")]).save(tmp_path / "scan1.hspy")
    image("Fe", data=np.ones(SHAPE)).save(tmp_path / "scan[1].hspy")
    HAADF.save(tmp_path / "haadf[1].hspy")
    (found,), haadf, _ = load_multimodal(
        str(tmp_path / "scan[1].hspy"), haadf=str(tmp_path / "haadf[1].hspy")
    )
    assert_array_equal(found.data, 1)
    assert_array_equal(haadf.data, HAADF.data)


def test_several_files_that_belong_together(tmp_path):
    paths = [tmp_path / f"{name}.hspy" for name in ("Fe", "O", "HAADF")]
    for path in paths:
        image(path.stem).save(path)
    maps, haadf, _ = load_multimodal([*map(str, paths[:2]), paths[2]], lazy=True)
    assert titles_of(maps) == ["Fe", "O"]
    assert maps[0]._lazy
    assert haadf.metadata.General.title == "HAADF"
    mixed = load_multimodal([*paths[:2], HAADF], ["O"])
    assert titles_of(mixed.maps) == ["O"]
    with pytest.raises(TypeError, match="found lazy together with signals"):
        load_multimodal([image("Fe"), HAADF], lazy=True)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("on_navigation_axes", [False, True])
def test_a_saved_stack_is_taken_apart(tmp_path, lazy, on_navigation_axes):
    maps = [image("Fe"), image("Co", data=np.eye(*SHAPE))]
    stack = hs.stack([signal.T if on_navigation_axes else signal for signal in maps])
    stack.save(tmp_path / "maps.hspy")
    HAADF.save(tmp_path / "haadf.hspy")
    options = {"haadf": tmp_path / "haadf.hspy", "lazy": lazy}
    found = load_multimodal(tmp_path / "maps.hspy", **options).maps
    for one, signal in zip(found, maps, strict=True):
        assert one.metadata.Sample.elements == [signal.metadata.General.title]
        assert_array_equal(np.asarray(one.data), signal.data)
    (cobalt,), *_ = load_multimodal(tmp_path / "maps.hspy", "Co", **options)
    assert_array_equal(np.asarray(cobalt.data), maps[1].data)


def test_a_series_of_one_element_stays_a_series():
    times = hs.stack([image("Fe", elements=["Fe"])] * 2)
    (iron,), *_ = load_multimodal([times, hs.stack([HAADF, HAADF])])
    assert iron.data.shape == (2, *SHAPE)
    assert iron.inav[1].metadata.Sample.elements == ["Fe"]
    assert type(iron.inav[1]) is ElementalMap


def test_haadf_that_is_missing_or_ambiguous_is_refused(tmp_path):
    iron = image("Fe")
    with pytest.raises(ValueError, match="no HAADF image in the source: give one with"):
        load_multimodal(iron)
    with pytest.raises(
        ValueError, match="none of the images .* of 7 x 5 pixels.*Candidates: 'a'"
    ):
        load_multimodal([iron, image("a", (9, 9))])
    with pytest.raises(ValueError, match="2 of the images can be taken") as info:
        load_multimodal([iron, HAADF, image("DF-S")])
    assert "HAADF candidates:\n  'HAADF' (7 x 5, 2 nm/px)\n  'DF-S'" in str(info.value)
    with pytest.raises(ValueError, match="haadf='b' is neither the title .* existing"):
        load_multimodal([iron, HAADF], haadf="b")
    with pytest.raises(TypeError, match="HAADF image is of type int"):
        load_multimodal([iron, HAADF], haadf=3)
    path = tmp_path / "spectrum.hspy"
    hs.signals.Signal1D(np.ones(4)).save(path)
    with pytest.raises(ValueError, match="no HAADF image in .*spectrum.hspy"):
        load_multimodal([iron, HAADF], haadf=path)


# --- several spectrum images ---------------------------------------------------


def test_spectra_that_measured_the_lines_are_taken(eds):
    low, high = eels_of(offset=200), eels_of({708: 50}, offset=600)
    signals = [low, eds, high, HAADF]
    (iron,), _, (background,) = load_multimodal(signals, lines=["Fe_L3"])
    assert_allclose(iron.data - background.data, 50 * 141 * WEIGHTS, rtol=1e-2)
    assert titles_of(load_multimodal(signals, lines=["C_K"])[0]) == ["C_K"]
    # Where both can give them, EDS wins.
    (iron,), *_ = load_multimodal(signals, ["Fe"])
    assert iron.metadata.Sample.xray_lines == ["Fe_Ka"]
    with pytest.raises(ValueError, match="no spectrum image can be mapped") as info:
        load_multimodal(signals, lines=["Au_M5"])
    assert "EDS: 'EDS'" in str(info.value)
    assert str(info.value).count("Au_M5 is at 2206 eV, outside the measured") == 2


def test_spectra_of_the_size_of_the_haadf_image_are_taken(eds):
    cropped = eds.inav[:4, :3]
    survey, small = image("a", (9, 9)), image("DF", (3, 4))
    maps, *_ = load_multimodal([cropped, eds, HAADF, survey])
    assert maps[0].data.shape == SHAPE
    maps, haadf, _ = load_multimodal([cropped, eds, HAADF, small], haadf="DF")
    assert maps[0].data.shape == haadf.data.shape == (3, 4)


def test_several_spectrum_images_are_refused_with_a_list(eds):
    second = eds.deepcopy()
    second.metadata.General.title = "second"
    signals = [eds, second, eds.inav[:4, :3], HAADF]
    with pytest.raises(ValueError, match="several spectrum images") as info:
        load_multimodal(signals)
    message = str(info.value).split("There are")[0]
    assert "'EDS' (7 x 5, 2 nm/px)" in message
    assert "'second' (7 x 5, 2 nm/px)" in message
    assert "(4 x 3" not in message
    with pytest.raises(ValueError, match=r"(?s)several spectrum images.*\(4 x 3"):
        load_multimodal(signals, haadf=image("DF", (9, 9)))


def test_the_sum_of_several_detectors(eds):
    with pytest.raises(ValueError, match=r"load_multimodal\(\[one \+ other, haadf\]\)"):
        load_multimodal([eds, eds.deepcopy(), HAADF])
    whole, *_ = load_multimodal([eds + eds, HAADF])
    for one, signal in zip(load_multimodal([eds, HAADF]).maps, whole, strict=True):
        assert_array_equal(signal.data, 2 * one.data)


def test_source_without_maps_and_spectra_is_refused(eds):
    for signals in ([HAADF], [HAADF, eds.inav[0]], [HAADF, image("a")]):
        with pytest.raises(ValueError, match="none of EDS or EELS with two"):
            load_multimodal(signals)
    with pytest.raises(ValueError, match="none of EDS or EELS with two"):
        load_multimodal([HAADF, image("Fe")], lines=["Fe_Ka"])


def test_series_of_spectra_become_series_of_maps(eds):
    for spectra in (eds, eels_of({708: 50})):
        series = hs.stack([spectra] * 3)  # (x, y, t|energy)
        haadf = hs.stack([HAADF] * 3)
        haadf.metadata.General.title = "HAADF"
        windows = {"background_windows": "auto"}
        data = load_multimodal([series, haadf], ["Fe"], **windows)
        expected = load_multimodal([spectra, HAADF], ["Fe"], **windows)
        for found, single in zip(signals_of(data), signals_of(expected), strict=True):
            assert found.data.shape == (3, *SHAPE)
            assert_allclose(found.data, np.stack([single.data] * 3))


# --- the background beside the maps ---------------------------------------------


def test_background_of_ready_made_maps_is_not_known(eds):
    data = load_multimodal([image("Fe"), HAADF])
    assert type(data) is MultimodalData
    assert data._fields == ("maps", "haadf", "background")
    assert data.background is None
    assert load_multimodal([eds, HAADF]).background is None


@pytest.mark.parametrize("series", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", ["EDS", "EELS"])
def test_background_belongs_to_the_pixels_of_its_map(eds, kind, lazy, series):
    signals = [eds if kind == "EDS" else eels_of({708: 50, 779: 20}), HAADF]
    elements = ["Fe", "Pt"] if kind == "EDS" else ["Fe", "Co"]
    if series:
        signals = [stack_of(signal, [1, 1, 1]) for signal in signals]
    if lazy:
        signals = [signal.as_lazy() for signal in signals]
    data = load_multimodal(signals, elements, background_windows="auto")
    assert len(data.background) == 2
    for elemental_map, background in zip(data.maps, data.background, strict=True):
        shape = (3, *SHAPE) if series else SHAPE
        assert background.data.shape == elemental_map.data.shape == shape
        assert type(background) is (
            hs.signals.LazySignal2D if lazy else hs.signals.Signal2D
        )
        axes = [
            [(axis.name, axis.size, axis.scale, axis.offset, axis.units, axis.navigate)]
            for signal in (background, elemental_map)
            for axis in signal.axes_manager._axes
        ]
        assert axes[: len(shape)] == axes[len(shape) :]
        title = elemental_map.metadata.General.title
        assert background.metadata.General.title == f"Background of {title}"
        assert np.asarray(background.data).min() > 0
        assert not elemental_map.metadata.has_item("Elemental_map")


def test_metadata_of_map_and_background_are_their_own():
    signals = [eels_of({708: 50}), HAADF]
    (iron,), haadf, (background,) = load_multimodal(signals, ["Fe"])
    background.metadata.General.title = "mine"
    background.axes_manager[0].scale = 17
    background.data += 1
    assert iron.metadata.General.title == "Fe_L3"
    assert iron.axes_manager[0].scale == haadf.axes_manager[0].scale == 2
    assert_allclose((iron - background).data, 50 * 141 * WEIGHTS - 1, rtol=1e-2)


# --- the fusion of what was loaded ----------------------------------------------

LINES = {"EELS": ["Co_L3", "Mn_L3", "O_K"], "EDS": ["Co_Ka", "Mn_Ka", "O_Ka"]}
INTEGRATED = {
    "EELS": [[771, 855], [634, 700], [526, 585]],
    "EDS": [[6.7, 7.1], [5.7, 6.1], [0.4, 0.6]],
}
BESIDE = {
    "EELS": [[685, 770], [565, 633], [455, 525]],
    "EDS": [[6.4, 6.6, 7.2, 7.4], [5.4, 5.6, 6.2, 6.4], [0.2, 0.3, 0.7, 0.8]],
}


def noisy_spectra(kind, specimen):
    """Spectra with Poisson noise, and the net counts that they are expected to hold.

    20 counts of each element a pixel, above at least 10 counts of background.
    """
    shown = np.stack([truth.data / truth.data.mean() for truth in specimen.truth])
    scale, offset, units = (1, 400, "eV") if kind == "EELS" else (0.02, 0, "keV")
    energies = offset + scale * np.arange(500)
    level = (energies / 700) ** -3 if kind == "EELS" else np.ones(500)
    inside = [
        (energies > start - scale / 2) & (energies < stop - scale / 2)
        for start, stop in INTEGRATED[kind]
    ]
    thickness = (1 + shown.mean(axis=0)) / 2
    expected = 10 * thickness[..., np.newaxis] * level / level[inside[0]].sum()
    for image_, window, onset in zip(shown, inside, (779, 640, 532), strict=True):
        line = level * (energies >= onset) if kind == "EELS" else window
        expected += 20 * image_[..., np.newaxis] * line / line[window].sum()
    counts = np.random.default_rng(0).poisson(expected)
    if kind == "EELS":
        spectra = exspy.signals.EELSSpectrum(counts)
    else:
        spectra = exspy.signals.EDSTEMSpectrum(counts)
        spectra.set_microscope_parameters(beam_energy=200)
    calibrate_energies(spectra, scale, offset, units)
    return spectra, 20 * shown


# Estimated backgrounds are not exact: the guard may say so.
@pytest.mark.filterwarnings("ignore:the HAADF image contradicts the maps")
@pytest.mark.filterwarnings("ignore:X-ray lines overlap. O_Ka .* and Mn_Ll")
@pytest.mark.parametrize("kind", ["EELS", "EDS"])
def test_raw_counts_with_their_background_are_fused_better_than_net_ones(kind):
    specimen = hyperspy_fusion.data.core_shell(size=64)
    spectra, true = noisy_spectra(kind, specimen)
    specimen.haadf.axes_manager.signal_axes.set(scale=2, units="nm")
    data = load_multimodal(
        spectra,
        lines=LINES[kind],
        haadf=specimen.haadf,
        background_windows=BESIDE[kind],
        integration_windows=INTEGRATED[kind],
    )

    def fuse(*arguments, **options):
        fused = hyperspy_fusion.fuse_multimodal(*arguments, **options)
        return np.stack([signal.data for signal in fused])

    def error(fused):
        squares = ((fused - true) ** 2).mean(axis=(1, 2))
        return np.mean(np.sqrt(squares) / true.mean(axis=(1, 2)))

    fused = fuse(*data)
    net = [raw - b for raw, b in zip(data.maps, data.background, strict=True)]
    assert_allclose(fused.sum(axis=(1, 2)), true.sum(axis=(1, 2)), rtol=0.02)
    assert_allclose(fused.sum(axis=(1, 2)), [s.data.sum() for s in net], rtol=1e-3)
    assert error(fused) < 0.98 * error(fuse(net, data.haadf))
    if kind == "EDS":
        assert fuse(data.maps, data.haadf).sum() > 1.2 * fused.sum()


def test_ready_made_maps_are_fused_in_a_line():
    specimen = hyperspy_fusion.data.core_shell(size=32)
    signals = [*specimen.maps, specimen.haadf]
    fused = hyperspy_fusion.fuse_multimodal(*load_multimodal(signals))
    expected = hyperspy_fusion.fuse_multimodal(specimen.maps, specimen.haadf)
    for signal, same in zip(fused, expected, strict=True):
        assert_array_equal(signal.data, same.data)


# --- signals that are given ------------------------------------------------------


def fingerprint(signal):
    """What of a signal must not change."""
    nodes = signal.metadata.as_dictionary(), signal.original_metadata.as_dictionary()
    return (
        type(signal),
        id(signal.data),
        hashlib.sha256(np.ascontiguousarray(signal.data)).hexdigest(),
        repr(nodes),
        repr(signal.axes_manager.as_dictionary()),
    )


def given_signals(eds):
    """Maps of both orders of axes, a HAADF image, spectra; and stacks of frames."""
    iron, copper = image("Fe"), image("Cu", xray_lines=["Cu_Ka"]).T
    iron.set_noise_variance(iron.deepcopy())
    signals = [iron, copper, HAADF.T, eds, eels_of({708: 50})]
    stacks = [stack_of(eds, [1, 2]), stack_of(HAADF, [1, 2]).transpose(2)]
    for signal in (*signals, *stacks):
        signal.original_metadata.set_item("Detector.name", "SuperX")
    return signals, stacks


def loads(signals, stacks):
    """Arguments that use each kind of the signals."""
    windows = {"background_windows": "auto"}
    return [
        ((signals,), {}),
        ((signals,), {"lines": ["Pt_La"], **windows}),
        ((signals,), {"lines": ["Fe_L3"], "haadf": signals[2]}),
        ((stacks, ["Fe"]), {"frames": [0, 1], **windows}),
    ]


def test_signals_that_are_given_are_not_modified(eds):
    signals, stacks = given_signals(eds)
    everything = [*signals, *stacks]
    before = [fingerprint(signal) for signal in everything]
    for arguments, options in loads(signals, stacks):
        data = load_multimodal(*arguments, **options)
        assert [fingerprint(signal) for signal in everything] == before
        for signal in signals_of(data):
            signal.data += 1
            signal.axes_manager[0].scale = 17
            signal.metadata.General.title = "mine"
            signal.metadata.set_item("Sample.elements", ["Xe"])
            signal.original_metadata.Detector.name = "mine"
        assert [fingerprint(signal) for signal in everything] == before


def test_threads_load_from_the_same_signals(eds):
    signals, stacks = given_signals(eds)
    everything = [*signals, *stacks]
    before = [fingerprint(signal) for signal in everything]
    ways = loads(signals, stacks)
    expected = [load_multimodal(*arguments, **options) for arguments, options in ways]

    def load(call):
        arguments, options = ways[call % len(ways)]
        return load_multimodal(*arguments, **options)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(load, range(200)))
    for call, data in enumerate(found):
        same = expected[call % len(ways)]
        for one, other in zip(signals_of(data), signals_of(same), strict=True):
            assert type(one) is type(other)
            assert_array_equal(one.data, other.data)
            assert one.metadata.General.title == other.metadata.General.title
    assert [fingerprint(signal) for signal in everything] == before


# --- lazy ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["maps", "eds", "eels"])
def test_lazy_stays_lazy(tmp_path, eds, kind):
    source = {
        "maps": image("Fe"),
        "eds": eds,
        "eels": eels_of({708: 50}),
    }[kind]
    source.save(tmp_path / "source.hspy")
    HAADF.save(tmp_path / "HAADF.hspy")
    where = {"source": tmp_path / "source.hspy", "haadf": tmp_path / "HAADF.hspy"}
    where["background_windows"] = None if kind == "maps" else "auto"
    lazy = load_multimodal(**where, elements=["Fe"], lazy=True)
    eager = load_multimodal(**where, elements=["Fe"])
    assert type(lazy.maps[0]) is LazyElementalMap
    assert type(lazy.haadf) is LazyHAADFImage
    for signal, expected in zip(signals_of(lazy), signals_of(eager), strict=True):
        assert signal._lazy
        signal.compute(show_progressbar=False)
        assert type(signal) is type(expected)
        assert_allclose(signal.data, expected.data)
    assert lazy.maps[0].metadata.Sample.elements == ["Fe"]


@pytest.mark.parametrize("kind", ["EDS", "EELS"])
def test_lazy_data_are_read_once_if_computed_together(eds, kind):
    spectra = eds if kind == "EDS" else eels_of({708: 50})
    reads = []

    def read(block):
        reads.append(1)
        return block

    lazy = spectra.as_lazy()
    lazy.data = da.from_array(spectra.data).map_blocks(read, meta=spectra.data[:0])
    options = {"elements": ["Fe"], "background_windows": "auto"}
    expected = load_multimodal([spectra, HAADF], **options)
    data = load_multimodal([lazy, HAADF.as_lazy()], **options)
    assert not reads
    arrays = dask.compute(*(signal.data for signal in signals_of(data)))
    assert len(reads) == 1
    for array, same in zip(arrays, signals_of(expected), strict=True):
        assert_allclose(array, same.data)


# --- real files ----------------------------------------------------------------

of_carbon = pytest.mark.filterwarnings("ignore:X-ray lines overlap. C_Ka .* and Ca_Ll")


LINES_16X16 = ["C_Ka", "Ca_Ka", "O_Ka", "Cu_Ka"]


@of_carbon
@pytest.mark.parametrize("lazy", [False, True])
def test_filtered_velox_maps_are_made_from_raw_spectra(real_data, lazy):
    path = real_data("velox_EDS_SI_16x16.emd")
    with pytest.warns(UserWarning, match="maps C, .* were filtered by Velox") as caught:
        data = load_multimodal(path, lazy=lazy)
    assert "(Mean, 3 x 3 pixels)" in str(caught[0].message)
    assert "maps of C_Ka, Ca_Ka, O_Ka, Cu_Ka are made" in str(caught[0].message)
    assert caught[0].filename == __file__
    raw = load_multimodal(path, lines=LINES_16X16, lazy=lazy)
    assert data.background is None
    for signal, expected in zip(data.maps, raw.maps, strict=True):
        assert signal._lazy == lazy
        assert_array_equal(np.asarray(signal.data), np.asarray(expected.data))
        assert_array_equal(signal.data, np.rint(signal.data))  # counts
    with pytest.warns(UserWarning, match="maps O, Ca were filtered"):
        maps, *_ = load_multimodal(path, ["O", "Ca"], lazy=lazy)
    assert elements_of(maps) == [["O"], ["Ca"]]
    assert all(signal.metadata.Sample.xray_lines for signal in maps)


def test_lines_of_filtered_velox_maps(real_data):
    """Those of Velox, unless the user has set others in the metadata of the spectra."""
    signals = hs.load(real_data("velox_EDS_SI_16x16.emd"))

    def lines():
        with pytest.warns(UserWarning, match="maps Ca, Cu were filtered"):
            maps, *_ = load_multimodal(signals, ["Ca", "Cu"])
        return [signal.metadata.Sample.xray_lines[0] for signal in maps]

    assert lines() == ["Ca_Ka", "Cu_Ka"]
    copper = next(s for s in signals if s.metadata.General.title == "Cu")
    settings = (
        copper.original_metadata.SharedProperties.EDSSpectrumQuantificationSettings
    )
    (properties,) = settings.as_dictionary().values()
    of_copper = next(p for p in properties["elementProperties"] if p["element"] == 29)
    of_copper["atomicShellFamily"] = "L"
    of_copper["xrayTransitions"] = [{"from": "M5", "to": "L3"}]
    assert lines() == ["Ca_Ka", "Cu_La"]
    signals[-1].set_lines(["Ca_Kb", "Cu_Ka"])
    assert lines() == ["Ca_Kb", "Cu_Ka"]


def test_filtered_velox_maps_without_their_spectra(real_data):
    signals = hs.load(real_data("velox_EDS_SI_16x16.emd"))
    images = [s for s in signals if s.axes_manager.signal_dimension == 2]
    spectra = signals[-1]
    other_scan = spectra.deepcopy()
    del other_scan.original_metadata.Features

    def refused(others, reason):
        with pytest.warns(UserWarning, match=reason) as caught:
            maps, *_ = load_multimodal([*images, *others])
        assert len(caught) == 1
        message = str(caught[0].message)
        assert "C, Ca, O, Cu were filtered by Velox (Mean, 3 x 3 pixels)" in message
        assert "neighbouring pixels share their noise" in message
        assert "Export the maps without a filter" in message
        for signal, ready in zip(maps, images, strict=False):
            assert_array_equal(signal.data, ready.data)

    refused([], "there are no spectra of these maps")
    refused([other_scan], "there are no spectra of these maps")
    refused([spectra.inav[:8]], "there are no spectra of these maps")
    refused([spectra.isig[:5.0]], "no spectrum image can be mapped.*\n.*Cu_Ka is at 8")


def test_velox_maps_without_a_filter_are_taken(real_data):
    path = real_data("velox_EDS_SI_16x16.emd")
    signals = hs.load(path)
    images = [s for s in signals if s.axes_manager.signal_dimension == 2]
    for signal in images:
        filters = signal.original_metadata.SharedProperties.UnaryImageFilterSettings
        (settings,) = filters.as_dictionary()
        filters.set_item(settings, {"enabled": False})
    maps, haadf, _ = load_multimodal(signals)
    assert elements_of(maps) == [["C"], ["Ca"], ["O"], ["Cu"]]
    for signal, ready in zip(maps, images, strict=False):
        assert_array_equal(signal.data, ready.data)
    assert haadf.metadata.General.title == "HAADF"
    for signal in (*maps, haadf):
        assert signal.data.shape == (16, 16)
        for axis in signal.axes_manager.signal_axes:
            assert axis.units == "nm"
            assert_allclose(axis.scale, 3.599, rtol=1e-3)


@of_carbon
def test_velox_spectra(real_data):
    path = real_data("velox_EDS_SI_16x16.emd")
    maps, *_ = load_multimodal(path, lines=["C_Ka", "Cu_Ka"])
    spectra = find_candidates(path).spectrum_images[0]
    expected = spectra.get_lines_intensity(["C_Ka", "Cu_Ka"])
    for signal, intensity in zip(maps, expected, strict=True):
        assert_array_equal(signal.data, intensity.data)
        assert signal.metadata.Sample.xray_lines == intensity.metadata.Sample.xray_lines
    lazy, haadf, _ = load_multimodal(path, lines=["C_Ka", "Cu_Ka"], lazy=True)
    assert type(lazy[0]) is LazyElementalMap
    assert type(haadf) is LazyHAADFImage
    assert_array_equal(lazy[0].data.compute(), maps[0].data)


@of_carbon
def test_velox_frames(real_data):
    path = real_data("velox_EDS_SI_16x16.emd")
    frames = {"load_SI_image_stack": True, "sum_frames": False}
    maps, haadf, _ = load_multimodal(path, lines=["C_Ka"], **frames)
    assert maps[0].data.shape == haadf.data.shape == (2, 16, 16)
    summed, averaged, _ = load_multimodal(path, lines=["C_Ka"], frames=[1])
    assert type(summed[0]) is hyperspy_fusion.ElementalMap
    assert type(averaged) is HAADFImage
    assert_array_equal(summed[0].data, maps[0].data[1])
    assert_array_equal(averaged.data, haadf.data[1])

    options = {"lines": ["Cu_Ka"], "background_windows": "auto"}
    whole = load_multimodal(path, **options)
    for lazy in (False, True):
        summed = load_multimodal(path, frames=slice(None), lazy=lazy, **options)
        assert all(signal._lazy == lazy for signal in signals_of(summed))
        assert_array_equal(summed.maps[0].data, whole.maps[0].data)
        assert_allclose(summed.background[0].data, whole.background[0].data)
        assert_allclose(summed.haadf.data, haadf.data.mean(axis=0))


def test_velox_frames_are_fused(real_data):
    path = real_data("velox_EDS_SI_16x16.emd")
    signals = hs.load(path, load_SI_image_stack=True, sum_frames=False)
    haadf = next(s for s in signals if s.metadata.General.title == "HAADF")
    maps = signals[-1].get_lines_intensity(["C_Ka", "Cu_Ka"])
    assert maps[0].axes_manager.navigation_shape == (16, 16, 2)
    assert haadf.axes_manager.navigation_shape == (2,)
    fused = hyperspy_fusion.fuse_published(maps, haadf, n_iter=5)
    record = fused[0].metadata.Multimodal_fusion
    assert record.cost.total.shape == (2, 5)
    for k in range(2):
        single = hyperspy_fusion.fuse_published(
            [signal.inav[..., k] for signal in maps], haadf.inav[k], n_iter=5
        )
        for signal, expected in zip(fused, single, strict=True):
            assert_array_equal(signal.data[k], expected.data)


def test_velox_spectra_are_handed_over(real_data):
    path = real_data("velox_EDS_SI_16x16.emd")
    whole = load_multimodal(path, ["Ca", "O"], maps="spectra", lazy=True)
    spectra, haadf, background = whole
    assert isinstance(spectra, exspy.signals.EDSTEMSpectrum)
    assert is_lazy(spectra.data)
    assert spectra.data.shape == (16, 16, 4096)
    assert spectra.metadata.Sample.elements == ["Ca", "O"]
    assert spectra.metadata.Sample.xray_lines == ["Ca_Ka", "O_Ka"]
    assert haadf.data.shape == (16, 16)
    assert background is None
    frame = load_multimodal(path, ["Ca", "O"], maps="spectra", frames=[1]).maps
    assert not is_lazy(frame.data)
    assert 0 < frame.data.sum() < spectra.data.sum().compute()


def test_what_to_take_of_a_velox_file(real_data):
    path = real_data("velox_EDS_SI_16x16.emd")
    with pytest.warns(UserWarning, match="kept, as maps='ready-made' asks for"):
        ready = load_multimodal(path, ["Ca"], maps="ready-made").maps
    windows = load_multimodal(path, ["Ca"], maps="windows").maps
    assert not (ready[0].data == np.rint(ready[0].data)).all()
    assert (windows[0].data == np.rint(windows[0].data)).all()
    assert windows[0].metadata.Sample.xray_lines == ["Ca_Ka"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": "maps"}, "expected None or one of spectra, windows, ready-made"),
        ({"maps": "ready-made"}, "there are no ready-made maps"),
        ({"maps": "ready-made", "lines": ["Fe_Ka"]}, "lines is given with maps"),
        (
            {"maps": "spectra", "background_windows": "auto"},
            "background_windows is given with maps='spectra'",
        ),
        ({"maps": "spectra", "elements": ["Xx"]}, "Xx"),
    ],
)
def test_what_cannot_be_taken(eds, options, message):
    with pytest.raises(ValueError, match=message):
        load_multimodal([eds, HAADF], **options)


def test_spectra_that_are_given_are_handed_over_unchanged(eds):
    before = eds.metadata.as_dictionary()
    spectra, _, _ = load_multimodal([eds, HAADF], lines=["Pt_Ma"], maps="spectra")
    assert spectra.data is eds.data
    assert spectra.metadata.Sample.xray_lines == ["Pt_Ma"]
    assert eds.metadata.as_dictionary() == before
    with pytest.raises(ValueError, match="there is none of EDS with two"):
        load_multimodal([HAADF], maps="spectra")


def test_velox_file_with_eels_and_eds(real_data):
    path = real_data("velox_EELS_EDS.emd")
    with pytest.warns(UserWarning, match="zero everywhere are left out: 'Co' .20 x 16"):
        maps, *_ = load_multimodal(path)
    assert titles_of(maps) == ["Fe-EELS", "Co-EELS", "O-EELS"]
    with pytest.raises(ValueError, match="no map of 'Ni'") as info:
        load_multimodal(path, ["Ni"])
    said = str(info.value).replace(
        "\u03bc", "\u00b5"
    )  # pint 0.26 writes the Greek letter
    for expected in (
        "Fe: 'Fe-EELS' (20 x 16, uncalibrated)",
        "Fe: 'Fe' (20 x 16, 0.1587 µm/px), zero everywhere",
        "HAADF candidates:\n  'DF-S' (20 x 16, 0.1587 µm/px)\n",
        "EELS: 'EELS' (20 x 16, 158.7 nm/px), 480 to 826.35 eV",
        "EDS: 'EDS' (128 x 128, 0.1587 µm/px), -0.2 to 40.75 keV",
        "'a' (128 x 128, 0.1587 µm/px)",
    ):
        assert expected in said

    maps, haadf, _ = load_multimodal(path, ["Fe-EELS", "Co-EELS", "O-EELS"])
    assert elements_of(maps) == [["Fe"], ["Co"], ["O"]]
    assert haadf.metadata.General.title == "DF-S"

    # Only one of the three EELS spectrum images measured all of these.
    maps, haadf, _ = load_multimodal(path, lines=["Fe_L3", "Co_L3", "O_K"])
    assert titles_of(maps) == ["Fe_L3", "Co_L3", "O_K"]
    assert maps[0].data.shape == haadf.data.shape == (16, 20)

    maps, haadf, _ = load_multimodal(path, lines=["Fe_Ka", "O_Ka"], haadf="a")
    assert maps[0].data.shape == haadf.data.shape == (128, 128)


def test_gatan_file_without_haadf(real_data):
    path = real_data("EELS_SI.dm4")
    with pytest.raises(ValueError, match="no HAADF image in the source: .* haadf="):
        load_multimodal(path, lines=["O_K"])
    haadf = hs.signals.Signal2D(np.arange(4.0).reshape(2, 2))
    maps, found, _ = load_multimodal(path, lines=["O_K", "Fe_L3"], haadf=haadf)
    assert elements_of(maps) == [["O"], ["Fe"]]
    assert all(signal.data.shape == (2, 2) for signal in maps)
    assert type(found) is HAADFImage
    assert type(haadf) is hs.signals.Signal2D


@pytest.mark.parametrize("name", ["lines", "elements"])
def test_names_that_are_none(name, tmp_path):
    with pytest.raises(TypeError, match=f"{name} has 3: expected names"):
        load_multimodal(tmp_path / "any.emd", **{name: [3]})


@pytest.mark.parametrize("extension", ["tif", "nxs"])
def test_errors_of_maps_of_velox_can_be_saved(real_data, tmp_path, extension):
    path = real_data("velox_EDS_SI_16x16.emd")
    maps, haadf, _ = load_multimodal(path, ["Ca", "O"], maps="windows")
    given = {"lambda_tv": 3.0, "lambda_haadf": 0.1, "max_iter": 25, "n_replicas": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fused = hyperspy_fusion.fuse_multimodal(maps, haadf, uncertainty=True, **given)
    fused[0].save(tmp_path / f"Ca.{extension}")
    assert (tmp_path / f"Ca.{extension}").exists()
