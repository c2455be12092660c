import logging
import operator

import exspy
import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion.inputs.elements import infer_element

CLASSES = {
    "elemental_map": (hf.ElementalMap, hf.LazyElementalMap),
    "HAADF": (hf.HAADFImage, hf.LazyHAADFImage),
}


@pytest.fixture(params=CLASSES)
def signal_type(request):
    return request.param


@pytest.fixture
def signal(signal_type):
    signal = hs.signals.Signal2D(np.arange(2 * 24.0).reshape(2, 4, 6))
    signal.set_signal_type(signal_type)
    return signal


def test_registered_under_type_and_aliases(signal_type):
    eager, lazy = CLASSES[signal_type]
    for name in (signal_type, *eager._signal_type_aliases):
        signal = hs.signals.Signal2D(np.zeros((3, 4)))
        signal.set_signal_type(name)
        assert type(signal) is eager
        assert type(signal.as_lazy()) is lazy


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.inav[0],
        lambda s: s.isig[1:3, 2:],
        lambda s: s + 1,
        lambda s: -s * 2,
        lambda s: s.rebin(scale=(1, 2, 2)),
        lambda s: s.sum(axis=0),
        lambda s: s.deepcopy(),
        lambda s: hs.stack([s, s], show_progressbar=False),
        lambda s: hs.stack([s, s], show_progressbar=False).split()[1],
        lambda s: s.as_lazy().compute(show_progressbar=False) or s,
        lambda s: s.map(np.sqrt, inplace=False, show_progressbar=False),
        lambda s: s.T.T.transpose(signal_axes=2),
    ],
)
def test_class_and_method_survive(signal, change):
    changed = change(signal)
    assert type(changed) is type(signal)
    assert callable(changed.fuse_multimodal)


def test_lazy_and_back(signal, signal_type):
    lazy = signal.as_lazy()
    assert type(lazy) is CLASSES[signal_type][1]
    assert type(lazy.isig[:3]) is type(lazy)
    lazy.compute(show_progressbar=False)
    assert type(lazy) is type(signal)


@pytest.mark.parametrize("lazy", [False, True])
def test_save_without_a_name(signal, lazy):
    signal = signal.as_lazy() if lazy else signal
    with pytest.raises(ValueError, match="File name not defined"):
        signal.save()


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")  # zarr 2
@pytest.mark.parametrize("extension", ["hspy", "zspy", "nxs"])
@pytest.mark.parametrize("lazy", [False, True])
def test_save_and_load(signal, signal_type, tmp_path, extension, lazy):
    signal.save(tmp_path / f"map.{extension}")
    back = hs.load(tmp_path / f"map.{extension}", lazy=lazy)
    back = back[0] if isinstance(back, list) else back
    assert type(back) is CLASSES[signal_type][lazy]
    assert_array_equal(np.asarray(back.data), signal.data)


@pytest.mark.parametrize(
    ("fuse", "first"),
    [
        (hf.fuse_published, [1, 2, 3, 4, 5, 6, 7]),
        (hf.fuse_multimodal, [1, 2, 4, 8, 16, 25, 50]),
    ],
)
def test_cost_history(fuse, first):
    maps, haadf, _ = hf.data.core_shell(size=32)
    fused = fuse(maps, haadf)
    history = fused[0].get_cost_history()
    record = fused[0].metadata.Multimodal_fusion
    axis = history.axes_manager.signal_axes[0]
    assert (axis.name, axis.axis[-1]) == ("iteration", record.n_iter)
    assert_array_equal(axis.axis[: len(first)], first)
    assert_array_equal(axis.axis, record.cost_iterations)
    assert history.metadata.Multimodal_fusion.terms == "total,haadf,chemical,tv"
    for i, term in enumerate(("total", "haadf", "chemical", "tv")):
        assert_array_equal(history.inav[i].data, record.cost[term])
    with pytest.raises(ValueError, match="no metadata.Multimodal_fusion: expected"):
        maps[0].get_cost_history()


@pytest.mark.filterwarnings("ignore:max_iter=30 was reached")
def test_cost_history_that_ends_between_two_certificates():
    maps, haadf, _ = hf.data.core_shell(size=32)
    fused = hf.fuse_multimodal(maps, haadf, max_iter=30, tolerance=1e-12)
    assert fused[0].metadata.Multimodal_fusion.n_iter == 30
    axis = fused[0].get_cost_history().axes_manager.signal_axes[0]
    assert_array_equal(axis.axis, [1, 2, 4, 8, 16, 25, 30])


# --- stacks of maps, and what becomes of the record and the variance -------------

LINES = {"Co": "Co_Ka", "Mn": "Mn_Ka", "O": "O_Ka"}


@pytest.fixture(scope="module")
def maps():
    """Fused maps, each with its variance."""
    measured, haadf, _ = hf.data.core_shell(size=32)
    for signal in measured:
        line = LINES[signal.metadata.General.title]
        signal.metadata.set_item("Sample.xray_lines", [line])
    options = {"lambda_tv": 4.0, "lambda_haadf": 0.1, "uncertainty": True}
    return hf.fuse_multimodal(measured, haadf, **options)


@pytest.fixture
def stack(maps):
    return hs.stack(maps, show_progressbar=False)


def assert_is(part, signal, crop=(slice(None), slice(None))):
    """Whether a part of a stack is one of its maps, or a crop of it (y, x)."""
    assert isinstance(part, hf.ElementalMap)
    for node in ("Sample.elements", "Sample.xray_lines", "General.title"):
        assert part.metadata.get_item(node) == signal.metadata.get_item(node)
    assert_array_equal(part.data, signal.data[crop])
    variance = part.get_noise_variance()
    assert_array_equal(variance.data, signal.get_noise_variance().data[crop])
    assert part.metadata.Multimodal_fusion.elements == "Co,Mn,O"


def test_a_stack_has_the_elements_and_the_variance_of_all_its_maps(stack, maps):
    assert stack.metadata.Sample.elements == ["Co", "Mn", "O"]
    assert stack.metadata.Sample.xray_lines == ["Co_Ka", "Mn_Ka", "O_Ka"]
    assert stack.metadata.General.title == "Stack of Co, Mn, O"
    variances = [signal.get_noise_variance().data for signal in maps]
    assert_array_equal(stack.get_noise_variance().data, variances)


@pytest.mark.parametrize(
    "lazily", [lambda s: s, lambda s: s.as_lazy()], ids=["eager", "lazy"]
)
@pytest.mark.parametrize(
    ("part", "number", "crop"),
    [
        (lambda s: s.inav[1], 1, np.s_[:, :]),
        (lambda s: s.inav[-1], 2, np.s_[:, :]),
        (lambda s: s.inav[1.0], 1, np.s_[:, :]),
        (lambda s: s.inav[1:].inav[1], 2, np.s_[:, :]),
        (lambda s: s.inav[::-1].inav[0], 2, np.s_[:, :]),
        (lambda s: s.inav[1::-1].split()[0], 1, np.s_[:, :]),
        (lambda s: s.isig[4:, :8].inav[1], 1, np.s_[:8, 4:]),
        (lambda s: s.inav[1].isig[4:, :8], 1, np.s_[:8, 4:]),
        (lambda s: s.split()[2], 2, np.s_[:, :]),
        (lambda s: s.deepcopy().inav[1], 1, np.s_[:, :]),
    ],
)
def test_a_part_of_a_stack_is_its_map(stack, maps, part, number, crop, lazily):
    found = part(lazily(stack))
    assert_is(found, maps[number], crop)


def test_lazy_maps_are_stacked_as_others_are(maps):
    stack = hs.stack([signal.as_lazy() for signal in maps])
    assert_is(stack.inav[1], maps[1])
    assert type(stack.inav[1]) is hf.LazyElementalMap
    stack.compute(show_progressbar=False)
    assert_is(stack.inav[2], maps[2])


def test_iteration_gives_each_map_its_own_metadata(stack, maps):
    for i, (part, signal) in enumerate(zip(stack, maps, strict=True)):
        assert part.metadata.General.title == f"{signal.metadata.General.title} ({i},)"
        part.metadata.General.title = signal.metadata.General.title
        assert_is(part, signal)


def test_a_range_of_a_stack_has_its_own_elements(stack):
    part = stack.inav[1:]
    assert part.metadata.Sample.elements == ["Mn", "O"]
    assert part.metadata.General.title == "Stack of Mn, O"
    one = stack.inav[1:2].squeeze()
    assert one.metadata.Sample.elements == ["Mn"]


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")  # zarr 2
@pytest.mark.parametrize("extension", ["hspy", "zspy", "nxs"])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_saved_stack_knows_its_maps(stack, maps, tmp_path, extension, lazy):
    stack.save(tmp_path / f"stack.{extension}")
    options = {"nxdata_only": True} if extension == "nxs" else {}
    back = hs.load(tmp_path / f"stack.{extension}", lazy=lazy, **options)
    for part, signal in zip(back.split(), maps, strict=True):
        assert infer_element(part) == signal.metadata.General.title
        assert_array_equal(np.asarray(part.data), signal.data)
        variance = np.asarray(part.get_noise_variance().data)
        assert_array_equal(variance, signal.get_noise_variance().data)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.T,
        lambda s: s.T.isig[1],
        lambda s: s.rebin(scale=(1, 2, 2)),
        lambda s: s.sum(axis=0),
        lambda s: s.isig[3],
        lambda s: s.split(axis=0)[1],
        lambda s: hs.roi.Line2DROI(0, 0, 60, 60)(s).inav[1],
        lambda s: hs.stack([s.inav[0], s.inav[1]], axis="x", show_progressbar=False),
    ],
)
def test_what_is_no_stack_of_maps_any_more_names_no_element(stack, change):
    assert infer_element(change(stack)) is None


def test_a_series_of_stacks_and_a_stack_of_series(maps):
    later = [signal * 2 for signal in maps]
    first, second = (hs.stack(s, show_progressbar=False) for s in (maps, later))
    times = hs.stack([first, second], show_progressbar=False)
    assert_is(times.inav[:, 0].inav[1], maps[1])
    series = [
        hs.stack(s, show_progressbar=False) for s in zip(maps, later, strict=True)
    ]
    stack = hs.stack(series, show_progressbar=False)
    assert stack.inav[:, 1].metadata.Sample.elements == ["Mn"]
    assert stack.inav[0].inav[1].metadata.Sample.elements == ["Mn"]
    assert stack.mean(axis=0).inav[1].metadata.Sample.elements == ["Mn"]
    assert stack.mean(axis=1).inav[1].metadata.Sample.elements == ["Co", "Mn", "O"]


def test_an_element_that_was_named_holds_for_the_parts_of_a_series(maps):
    series = hs.stack([maps[0], maps[0]], show_progressbar=False)
    series.metadata.Sample.elements = ["Fe"]
    series.metadata.Sample.xray_lines = ["Fe_Ka"]
    for part in (series.inav[1], series.inav[1:], *series):
        assert part.metadata.Sample.elements == ["Fe"]


def test_maps_without_an_element_are_stacked_as_they_are(signal):
    stack = hs.stack([signal, signal + 1], show_progressbar=False)
    assert not stack.inav[..., 1].metadata.has_item("Sample")
    assert_array_equal(stack.inav[..., 1].data, signal.data + 1)


def test_a_stack_of_known_and_unknown_elements_names_none(maps):
    unknown = maps[1].deepcopy()
    del unknown.metadata.Sample
    unknown.metadata.General.title = ""
    stack = hs.stack([maps[0], unknown], show_progressbar=False)
    assert infer_element(stack) is None
    assert stack.inav[0].metadata.Sample.elements == ["Co"]
    assert infer_element(stack.inav[1]) is None


def test_a_variance_that_was_set_goes_with_its_map(maps):
    measured = [maps[0] * 1, maps[1] * 1]
    for i, one in enumerate(measured):
        one.set_noise_variance(one * i)
    stack = hs.stack(measured, show_progressbar=False)
    for i, part in enumerate(stack.split()):
        assert_array_equal(part.get_noise_variance().data, measured[i].data * i)
    assert stack.rebin(scale=(1, 2, 2)).get_noise_variance().data.shape == (2, 16, 16)
    assert stack.T.get_noise_variance().data.shape == (32, 32, 2)
    stack.set_noise_variance(None)
    assert stack.inav[1].get_noise_variance() is None


@pytest.mark.parametrize("cropped_in_place", [False, True])
def test_a_variance_of_other_pixels_is_removed(maps, cropped_in_place, caplog):
    signal = maps[0].deepcopy()
    with caplog.at_level(logging.INFO, logger="hyperspy_fusion"):
        if cropped_in_place:
            signal.crop(0, 0, 8)
        part = signal.isig[:4]
    assert (part.get_noise_variance() is None) is cropped_in_place
    assert ("it is that of other pixels" in caplog.text) is cropped_in_place


def as_profile(signal):
    return hs.roi.Line2DROI(0, 0, 60, 60)(signal)


@pytest.mark.parametrize(
    "profile",
    [
        lambda s: as_profile(s).as_signal1D(0),
        lambda s: as_profile(s).isig[40:].as_signal1D(0),
        lambda s: hs.stack([as_profile(s)] * 2).inav[1].as_signal1D(0),
        lambda s: s.isig[3],
        lambda s: s.isig[3:5].mean(axis="x"),
        lambda s: s.T.inav[3].T.as_signal1D(0),
    ],
)
def test_models_of_line_profiles_are_fitted(maps, profile):
    model = profile(maps[1]).create_model()
    model.append(hs.model.components1D.Offset())
    model.fit()
    expected = model.signal.data
    weights = model.signal.get_noise_variance()
    if weights is not None:
        assert_array_equal(weights.data, maps[1].get_noise_variance().data[:, 3])
    weights = 1 if weights is None else 1 / weights.data
    expected = np.average(expected, weights=weights * np.ones_like(expected))
    assert model[0].offset.value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda s: s.deepcopy(), True),
        (lambda s: s.as_lazy(), True),
        (lambda s: s.isig[2:8], True),
        (lambda s: s.squeeze(), True),
        (lambda s: s.T, True),
        (hs.roi.CircleROI(30, 30, 20), True),
        (lambda s: s * 2, False),
        (lambda s: s / (s + 1), False),
        (np.sqrt, False),
        (lambda s: s.rebin(scale=(2, 2)), False),
        (lambda s: s.sum(axis=0), False),
        (lambda s: s.map(np.fliplr, inplace=False, show_progressbar=False), False),
        (lambda s: s.map(np.fliplr, show_progressbar=False) or s, False),
        (lambda s: operator.imul(s, 2), False),
        (lambda s: operator.iadd(s, s), False),
    ],
)
def test_the_record_goes_with_the_values_of_the_fusion(maps, change, kept):
    changed = change(maps[1].deepcopy())
    assert changed.metadata.has_item("Multimodal_fusion") is kept
    if not kept:
        assert changed.get_noise_variance() is None


def test_a_variance_that_was_set_precedes_that_of_the_fusion(maps):
    signal = maps[0].deepcopy()
    signal.set_noise_variance(2.0)
    assert signal.get_noise_variance() == 2.0
    signal.set_noise_variance(None)
    assert signal.get_noise_variance() is None


def test_what_is_computed_from_a_stack_knows_its_maps_without_a_record(stack, maps):
    for part, signal in zip((stack * 2).split(), maps, strict=True):
        assert part.metadata.Sample.elements == signal.metadata.Sample.elements
        assert_array_equal(part.data, signal.data * 2)
        assert part.get_noise_variance() is None
        assert not part.metadata.has_item("Multimodal_fusion")


def test_data_that_are_replaced_are_no_fused_map(maps, stack):
    signal = maps[0].deepcopy()
    signal.data = signal.data.copy()
    assert signal.metadata.Multimodal_fusion.status == "converged"
    for changed in (signal, stack):
        changed.data = changed.data / 2
        assert type(changed) is hs.signals.Signal2D
        assert changed.metadata.Signal.signal_type == ""
        assert changed.get_noise_variance() is None
    for part in (signal, *stack.split()):
        assert not part.metadata.has_item("Multimodal_fusion")


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of eXSpy
@pytest.mark.parametrize("given_as", [list, lambda maps: hs.stack(maps).split()])
def test_atomic_percent_are_no_fused_maps(maps, given_as):
    spectra = exspy.signals.EDSTEMSpectrum(np.ones((32, 32, 8)))
    factors = [1.0, 1.2, 2.0]
    percent = spectra.quantification(
        given_as(maps), "CL", factors, navigation_mask=None, composition_units="weight"
    )
    weighted = np.stack([s.data * k for s, k in zip(maps, factors, strict=True)])
    for signal, expected in zip(percent, weighted, strict=True):
        known = np.all([s.data > 0.2 for s in maps], axis=0)  # eXSpy takes less for 0
        fraction = expected[known] / weighted.sum(axis=0)[known]
        assert_allclose(signal.data[known], 100 * fraction, rtol=1e-4)
    for signal, element in zip(percent, LINES, strict=True):
        assert type(signal) is hs.signals.Signal2D
        assert signal.metadata.Sample.elements == [element]
        assert signal.get_noise_variance() is None
        assert not signal.metadata.has_item("Multimodal_fusion")


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of eXSpy
def test_quantification_of_parts_of_a_stack_is_that_of_the_maps(maps, stack):
    spectra = exspy.signals.EDSTEMSpectrum(np.ones((32, 32, 8)))
    options = {"method": "CL", "factors": [1.0, 1.2], "navigation_mask": None}
    found = spectra.quantification([stack.inav[0], stack.inav[1]], **options)
    expected = spectra.quantification(maps[:2], **options)
    for one, other in zip(found, expected, strict=True):
        assert one.metadata.General.title == other.metadata.General.title
        assert_array_equal(one.data, other.data)


def test_a_second_fusion_has_its_own_record(maps):
    _, haadf, _ = hf.data.core_shell(size=32)
    with pytest.warns(UserWarning, match="fused already"):
        again = hf.fuse_published(maps, haadf, n_iter=2)[0]
    assert again.metadata.Multimodal_fusion.method == "published"
    assert not again.metadata.has_item("Multimodal_fusion.gap")
    assert again.get_noise_variance() is None


def test_a_fused_series_of_stacked_images_keeps_its_record(series_of):
    specimen = hf.data.core_shell(size=32)
    series, haadf = series_of(specimen, specimen)
    fused = hf.fuse_published(series, haadf, n_iter=2)[1]
    for part in (fused.inav[1], fused.split()[1], next(iter(fused))):
        assert part.metadata.Multimodal_fusion.method == "published"
        assert part.metadata.Sample.elements == ["Mn"]
