import logging
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import MappingProxyType, SimpleNamespace

import exspy
import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter
from scipy.special import kl_div

import hyperspy_fusion as hf
from hyperspy_fusion import progress
from hyperspy_fusion.core.calibrated import method as calibrated
from hyperspy_fusion.core.calibrated.given import Chemistry, Pixels
from hyperspy_fusion.core.calibrated.noise import haadf_noise, signal_scale
from hyperspy_fusion.core.common import threads
from hyperspy_fusion.core.common.operators import (
    gradient,
    inner,
    joint_norm,
    symmetrised_gradient,
    symmetrised_gradient_adjoint,
    total_generalised_variation,
)
from hyperspy_fusion.core.published import method as published
from hyperspy_fusion.derived import maps_of_fusion
from hyperspy_fusion.inputs.elements import infer_element
from hyperspy_fusion.progress import Progress

METHODS = {
    "calibrated": (hf.fuse_multimodal, calibrated.solve, calibrated.CalibratedOptions),
    "published": (hf.fuse_published, published.solve, published.PublishedOptions),
}

# Where the choice of the weights does not matter.
GIVEN = {"lambda_tv": 4.0, "lambda_haadf": 0.1}


@pytest.fixture(scope="module")
def specimen():
    return hf.data.core_shell(size=32)


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def fuse(method):
    """The function of each method."""
    return METHODS[method][0]


@pytest.fixture(scope="module")
def fused(specimen, fuse):
    """The result of each method."""
    return fuse(specimen.maps, specimen.haadf)


@pytest.fixture(scope="module")
def net(specimen):
    """The result of the calibrated method, which is told the background."""
    return hf.fuse_multimodal(specimen.maps, specimen.haadf, background=0.02)


@pytest.fixture(scope="module")
def given(specimen):
    """The same with given weights."""
    return hf.fuse_multimodal(specimen.maps, specimen.haadf, background=0.02, **GIVEN)


@pytest.fixture(scope="module")
def scaled(specimen):
    """The result of the published method."""
    return hf.fuse_published(specimen.maps, specimen.haadf)


def images(signals):
    return np.stack([signal.data.astype(float) for signal in signals])


def nrmse(maps, truth):
    """Normalised root mean square error, mean over the elements."""
    found, expected = images(maps), images(truth)
    squares = ((found - expected) ** 2).sum(axis=(1, 2))
    return np.sqrt(squares / (expected**2).sum(axis=(1, 2))).mean()


def distance(maps, others):
    """Relative distance of all maps together."""
    found, expected = images(maps), images(others)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def bounds_of_tgv(u, alpha, n_iter=400):
    """Lower and upper bound of the total generalised variation of maps.

    By a plain primal-dual iteration of min_v |grad u - v| + alpha |E v|: its value at
    any v, and <E* q, grad u> of any q with |q| <= alpha and |E* q| <= 1.
    """
    g = gradient(u)
    v, p, q = np.zeros_like(g), np.zeros_like(g), np.zeros((3, *u.shape))
    bar, step = v, 1 / 3  # of an operator of norm 3 at most
    for _ in range(n_iter):
        p = p + step * (bar - g)
        p /= np.maximum(joint_norm(p), 1)
        q = q + step * symmetrised_gradient(bar)
        q /= np.maximum(joint_norm(q) / alpha, 1)
        new = inner(v - step * (p + symmetrised_gradient_adjoint(q)))
        v, bar = new, 2 * new - v
    pull = inner(symmetrised_gradient_adjoint(q))
    lower = np.vdot(pull, g) / max(1, joint_norm(pull).max())
    return lower, total_generalised_variation(u, v, alpha)


# --- whatever the method ---------------------------------------------------------


def test_hands_on_to_the_core(specimen, fused, method):
    _, solve, options = METHODS[method]
    maps = np.stack([signal.data for signal in specimen.maps])
    given = [maps, specimen.haadf.data, (27, 25, 8)]
    if method == "calibrated":
        pixels = Pixels(maps=given[0], haadf=given[1])
        given = [pixels, Chemistry(atomic_numbers=given[2])]
    expected = solve(*given, options())
    assert_array_equal([signal.data for signal in fused], expected.maps)


def test_calibrated_is_the_default(specimen):
    fused = hf.fuse_multimodal(specimen.maps, specimen.haadf)
    assert fused[0].metadata.Multimodal_fusion.method == "calibrated"


def test_results_are_calibrated_maps_in_the_order_of_the_inputs(specimen, fused):
    assert [type(signal) for signal in fused] == [hf.ElementalMap] * 3
    for before, after in zip(specimen.maps, fused, strict=True):
        assert after.metadata.General.title == before.metadata.General.title
        assert after.metadata.Sample.elements == before.metadata.Sample.elements
        for a, b in zip(
            before.axes_manager.signal_axes, after.axes_manager.signal_axes, strict=True
        ):
            assert (a.name, a.scale, a.offset, a.units) == (
                b.name,
                b.scale,
                b.offset,
                b.units,
            )


def test_metadata_is_kept(fuse):
    maps, haadf, _ = hf.data.core_shell(size=32)
    kept = {
        "Acquisition_instrument.TEM.beam_energy": 200.0,
        "General.authors": "A. Microscopist",
        "Sample.xray_lines": ["Co_Ka"],
        "Sample.description": "cubes",
    }
    for name, value in kept.items():
        maps[0].metadata.set_item(name, value)
    fused = fuse(maps, haadf)
    for name, value in kept.items():
        assert fused[0].metadata.get_item(name) == value


@pytest.mark.parametrize("stacked", [False, True])
def test_elements_that_were_named_hold_for_what_is_made_of_the_maps(stacked):
    maps, haadf, _ = hf.data.core_shell(size=32)
    lines = ["Pt_La"], ["Mn_Ka"], ["O_Ka", "Pt_Ma"]
    for signal, found in zip(maps, lines, strict=True):
        signal.metadata.Sample.elements = ["Pt"]
        signal.metadata.set_item("Sample.xray_lines", found)
    if stacked:
        maps = hs.stack(maps, show_progressbar=False)
    options = {"elements": ["Co", "Mn", "O"], "n_iter": 3}
    with pytest.warns(UserWarning, match="taken for one of .* says Pt"):
        fused = hf.fuse_published(maps, haadf, **options)
    restacked = hs.stack(fused, show_progressbar=False)
    by_hand = hf.ElementalMap(restacked.data)
    by_hand.metadata.add_dictionary(restacked.metadata.as_dictionary())
    by_hand.metadata.Sample.xray_lines = lines[0]
    for found in (fused, restacked, by_hand):
        hf.get_haadf_model(found)
    for signal, kept in zip(fused, (None, lines[1], None), strict=True):
        assert signal.metadata.get_item("Sample.xray_lines") == kept
    if stacked:
        with pytest.warns(UserWarning, match="taken for one of .* says Pt"):
            by_stack = maps.fuse_published(haadf, **options)
        hf.get_haadf_model(by_stack)
        hf.get_haadf_model(by_stack.split())


def test_inputs_are_not_modified(specimen, fuse):
    signals = [*specimen.maps, specimen.haadf]
    before = [(s.deepcopy(), s.metadata.as_dictionary()) for s in signals]
    fuse(specimen.maps, specimen.haadf)
    for signal, (copy, metadata) in zip(signals, before, strict=True):
        assert_array_equal(signal.data, copy.data)
        assert signal.metadata.as_dictionary() == metadata
        assert str(signal.axes_manager) == str(copy.axes_manager)


def test_haadf_model_is_an_image_of_the_same_pixels(specimen, fused):
    model = hf.get_haadf_model(fused)
    assert isinstance(model, hf.HAADFImage)
    assert model.axes_manager[0].units == specimen.haadf.axes_manager[0].units
    with pytest.raises(ValueError, match="fused maps of Mn, Co: expected all maps of"):
        hf.get_haadf_model(fused[1::-1])


@pytest.mark.parametrize("extension", ["hspy", "nxs"])
def test_haadf_model_speaks_of_no_element_and_can_be_saved(fused, tmp_path, extension):
    model = hf.get_haadf_model(fused)
    for node in ("Sample.elements", "Signal.quantity", "Multimodal_fusion"):
        assert fused[0].metadata.has_item(node)
        assert not model.metadata.has_item(node)
    model.save(tmp_path / f"model.{extension}")
    back = hs.load(tmp_path / f"model.{extension}")
    back = back[0] if isinstance(back, list) else back
    assert isinstance(back, hf.HAADFImage)
    assert_array_equal(back.data, model.data)


@pytest.mark.parametrize("made_by", ["hs.stack", "hand"])
def test_stack_that_was_fused_goes_on_as_a_list_does(specimen, fused, fuse, made_by):
    stack = hs.stack(specimen.maps, show_progressbar=False)
    if made_by == "hand":
        stack = hf.ElementalMap(stack.data)
    before = str(stack.metadata) + str(stack.original_metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the axes made by hand
        by_stack = getattr(stack, fuse.__name__)(
            specimen.haadf, elements=["Co", "Mn", "O"]
        )
    assert str(stack.metadata) + str(stack.original_metadata) == before
    for one, part in zip(fused, by_stack.split(), strict=True):
        assert_array_equal(part.get_cost_history().data, one.get_cost_history().data)
    model = hf.get_haadf_model(by_stack)
    assert_array_equal(model.data, hf.get_haadf_model(fused).data)
    with pytest.raises(ValueError, match="fused maps of Co: expected all maps of"):
        hf.get_haadf_model(fused[0])


def test_a_part_of_a_stack_is_split_into_its_maps(specimen, series_of):
    series, haadf = series_of(specimen, specimen)
    stack = hs.stack(series, show_progressbar=False)
    options = {"n_iter": 3}
    expected = hf.fuse_published(specimen.maps, specimen.haadf, **options)
    fused = stack.inav[0].fuse_published(specimen.haadf, **options)
    for part, one in zip(fused.split(), expected, strict=True):
        assert_array_equal(part.data, one.data)
        assert part.metadata.Sample.elements == one.metadata.Sample.elements
    fused = stack.inav[:, 1:].fuse_published(haadf, **options)
    elements = [part.metadata.Sample.elements for part in maps_of_fusion(fused)]
    assert elements == [["Mn"], ["O"]]
    assert hf.get_haadf_model(fused).data.shape == haadf.data.shape


def test_maps_and_image_of_other_pixels(fuse):
    maps, haadf, _ = hf.data.core_shell(size=64)
    part = [signal.isig[8:56, 4:60] for signal in maps]
    by_hand = fuse(part, haadf.isig[8:56, 4:60])
    assert not by_hand[0].metadata.Multimodal_fusion.has_item("match")
    matched = fuse(part, haadf, match="axes")
    for one, other in zip(by_hand, matched, strict=True):
        assert_array_equal(one.data, other.data)
    record = matched[0].metadata.Multimodal_fusion
    assert record.match == "axes"
    note = "the HAADF image was cropped to .isig[8:56, 4:60]"
    assert record.notes.splitlines()[0] == note
    # what is made of the result matches them in the same way
    misfit = hf.get_misfit(part, matched, haadf)
    assert_array_equal(
        misfit.data, hf.get_misfit(part, by_hand, haadf.isig[8:56, 4:60]).data
    )
    plt.close(hf.plot_fusion(part, matched, haadf)[0].figure)


@pytest.mark.parametrize("lazy", [False, True])
def test_finer_maps_are_fused_in_the_pixels_of_the_image(fuse, lazy):
    maps, haadf, _ = hf.data.core_shell(size=64)
    sums = [signal.rebin(scale=(2, 2)) for signal in maps]
    haadf = haadf.rebin(scale=(2, 2))
    expected = fuse(sums, haadf)
    if lazy:
        maps = [signal.as_lazy() for signal in maps]
    fused = fuse(maps, haadf, match="axes")
    assert all(signal._lazy == lazy for signal in fused)
    for one, other in zip(expected, fused, strict=True):
        if lazy:
            other.compute()
        assert_array_equal(one.data, other.data)
        for a, b in zip(
            one.axes_manager.signal_axes, other.axes_manager.signal_axes, strict=True
        ):
            assert (a.scale, a.offset, a.units) == (b.scale, b.offset, b.units)
    record = fused[0].metadata.Multimodal_fusion
    assert record.notes.startswith("the maps were summed over 2 x 2 pixels (x, y)")


def test_an_empty_map(specimen, fuse):
    maps = [specimen.maps[0], specimen.maps[1] * 0, specimen.maps[2]]
    with pytest.warns(UserWarning, match="map of Mn"):
        fused = fuse(maps, specimen.haadf)
    assert_array_equal(fused[1].data, 0)
    assert np.isfinite(hf.get_haadf_model(fused).data).all()


def test_one_method_whoever_calls(specimen, fused, fuse):
    stack = hs.stack(specimen.maps, show_progressbar=False)
    by_haadf = getattr(specimen.haadf, fuse.__name__)(specimen.maps)
    by_stack = getattr(stack, fuse.__name__)(specimen.haadf)
    assert_array_equal(by_haadf[2].data, fused[2].data)
    assert isinstance(by_stack, hf.ElementalMap)
    assert_array_equal(by_stack.data, [signal.data for signal in fused])
    assert by_stack.metadata.Multimodal_fusion.elements == "Co,Mn,O"
    assert [s.metadata.General.title for s in by_stack.split()] == ["Co", "Mn", "O"]


def test_one_map_is_no_stack(specimen):
    with pytest.raises(ValueError, match="this signal is one map: expected a stack"):
        specimen.maps[0].fuse_multimodal(specimen.haadf)


@pytest.mark.filterwarnings("ignore:the HAADF image was not used")
def test_a_single_map(specimen, fuse):
    calibrated_one = fuse is hf.fuse_multimodal  # which does without the image
    told = pytest.warns(UserWarning, match="map of Mn only")
    with told if calibrated_one else nullcontext():
        fused = fuse(specimen.maps[1], specimen.haadf)
    assert [s.metadata.Sample.elements for s in fused] == [["Mn"]]


@pytest.mark.parametrize(
    ("function", "option"),
    [
        (hf.fuse_multimodal, "lambda_chem"),
        (hf.fuse_multimodal, "n_iter"),
        (hf.fuse_multimodal, "z_weighting"),
        (hf.fuse_multimodal, "lamda_tv"),
        (hf.fuse_published, "max_iter"),
        (hf.fuse_published, "mask"),
        (hf.fuse_published, "seed"),
        (hf.fuse_published, "background"),
    ],
)
def test_options_of_the_other_method(specimen, function, option):
    with pytest.raises(TypeError, match=f"has no option {option}"):
        function(specimen.maps, specimen.haadf, **{option: 1})


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"num_workers": 0}, ValueError, "num_workers is 0: expected a whole number"),
        ({"lazy_output": "yes"}, TypeError, "lazy_output is 'yes': expected True or"),
        ({"show_progressbar": 1}, TypeError, "show_progressbar is 1: expected True"),
    ],
)
def test_options_of_the_execution(specimen, fuse, option, error, message):
    with pytest.raises(error, match=message):
        fuse(specimen.maps, specimen.haadf, **option)


def test_concurrent_calls_on_shared_signals(specimen, fuse):
    """HyperSpy's own copies take the data out of a signal for a moment."""
    stack = hs.stack(specimen.maps, show_progressbar=False)
    turned = [signal.T for signal in specimen.maps]  # as eXSpy's maps are
    options = {"num_workers": 1}
    if fuse is hf.fuse_multimodal:
        options |= GIVEN

    def call(i):
        maps = (specimen.maps, stack, turned)[i % 3]
        return images(fuse(maps, specimen.haadf, **options))

    expected = call(0)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(call, range(48)):
            assert_array_equal(found, expected)


def test_interrupt_leaves_no_thread_and_the_inputs(specimen, fuse, monkeypatch):
    seen = []

    def interrupted(_self, stage, n_iter, _value):
        seen.append((stage, n_iter))
        if seen[-1] == ("solution", 7):
            raise KeyboardInterrupt

    running = set(threading.enumerate())  # others', such as those of dask
    signals = [*specimen.maps, specimen.haadf]
    before = [(s.data.copy(), s.metadata.as_dictionary()) for s in signals]
    monkeypatch.setattr(Progress, "__call__", interrupted)
    monkeypatch.setattr(threads, "_AT_ONCE", 1)
    with pytest.raises(KeyboardInterrupt):
        fuse(specimen.maps, specimen.haadf, num_workers=2)
    assert seen[-1] == ("solution", 7)
    new = {thread.name for thread in set(threading.enumerate()) - running}
    assert new <= {"tqdm_monitor"}  # tqdm keeps it for all its bars
    for signal, (data, metadata) in zip(signals, before, strict=True):
        assert_array_equal(signal.data, data)
        assert signal.metadata.as_dictionary() == metadata


def test_progress_bar_is_shown_when_asked_for(
    specimen, fuse, method, monkeypatch, capsys
):
    monkeypatch.setattr(progress, "_DELAY", 0)
    arguments = (specimen.maps, specimen.haadf)
    shown = []
    for show, preference in ((True, False), (None, True), (None, False)):
        monkeypatch.setattr(hs.preferences.General, "show_progressbar", preference)
        fuse(*arguments, show_progressbar=show)
        shown.append(capsys.readouterr().err)
    last = {"calibrated": r"gap \d\.\de-0\d \(to 1e-03\)", "published": r"cost \d+"}
    for text in shown[:2]:
        assert re.search(rf"Solution \d+/\d+, {last[method]}.*: 100%\|", text)
    assert shown[2] == ""


# --- series --------------------------------------------------------------------


def test_series_of_several_axes_is_fused_position_by_position(series_of, fuse, method):
    rows = []
    for seeds in ((1, 2, 3), (4, 5, 6)):
        specimens = [hf.data.core_shell(size=32, counts=16, seed=s) for s in seeds]
        rows.append(series_of(*specimens))
    maps, haadf = series_of(*rows)
    assert haadf.axes_manager.navigation_shape == (3, 2)
    options = {"elements": ["Co", "Mn", "O"]}
    fused = fuse(maps, haadf, **options)
    record = fused[0].metadata.Multimodal_fusion
    single = fuse([signal.inav[2, 1] for signal in maps], haadf.inav[2, 1], **options)
    alone = single[0].metadata.Multimodal_fusion
    for signal, expected in zip(fused, single, strict=True):
        assert signal.data.shape == (2, 3, 32, 32)
        assert_array_equal(signal.data[1, 2], expected.data)
    names = ["n_iter", "haadf_coefficients", "haadf_offset", "cost.total", "cost.haadf"]
    if method == "calibrated":
        names += ["lambda_tv", "lambda_haadf", "weights_tried", "gap", "guard"]
    for name in names:
        found, expected = record.get_item(name), np.asarray(alone.get_item(name))
        assert found.shape[:2] == (2, 3)
        assert found.ndim == 2 + expected.ndim
        part = found[(1, 2, *map(slice, expected.shape))]
        assert_array_equal(part, expected)
    assert fused[0].get_cost_history().data.shape[:3] == (2, 3, 4)


# --- chains with the rest of HyperSpy ------------------------------------------


@pytest.mark.filterwarnings("ignore:lambda_tv=0.7 was chosen")
def test_exspy_quantifies_fused_line_intensities():
    one = exspy.data.EDS_TEM_FePt_nanoparticles()
    rng = np.random.default_rng(0)
    counts = rng.poisson(one.data * rng.uniform(0.5, 1, (12, 10, 1)))
    axes = [
        {"size": size, "name": name, "scale": 0.2, "units": "nm", "navigate": True}
        for size, name in ((12, "y"), (10, "x"))
    ]
    spectra = type(one)(
        counts,
        axes=[*axes, one.axes_manager[0].get_axis_dictionary()],
        metadata=one.metadata.as_dictionary(),
    )
    maps = spectra.get_lines_intensity(["Fe_Ka", "Pt_La"])
    assert maps[0].axes_manager.navigation_shape == (10, 12)
    haadf = spectra.sum(-1).T

    fused = hf.fuse_multimodal(maps, haadf)
    assert [s.metadata.Sample.xray_lines for s in fused] == [["Fe_Ka"], ["Pt_La"]]
    assert [a.name for a in fused[0].axes_manager.signal_axes] == ["x", "y"]
    percents = spectra.quantification(
        intensities=fused, method="CL", factors=[1.45, 5.08]
    )
    total = percents[0].data + percents[1].data
    assert_allclose(total, 100, rtol=1e-4)


def test_hyperspy_tools_run_on_fused_maps(fused):
    axes = hs.plot.plot_images(fused, suptitle="", axes_decor="off")
    assert len(axes) == 3
    stack = hs.stack(fused, show_progressbar=False)
    assert isinstance(stack, hf.ElementalMap)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the decomposition itself
        turned = stack.T
        turned.decomposition(print_info=False)
    assert turned.learning_results.loadings.shape == (32 * 32, 3)


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")  # zarr 2
@pytest.mark.parametrize("extension", ["hspy", "zspy", "nxs"])
@pytest.mark.parametrize("lazy", [False, True])
def test_save_and_reload_keeps_everything(fused, tmp_path, extension, lazy):
    path = tmp_path / f"Co.{extension}"
    fused[0].save(path)
    # The reader of .nxs takes each array of the metadata for one more signal.
    options = {"nxdata_only": True} if extension == "nxs" else {}
    back = hs.load(path, lazy=lazy, **options)
    assert type(back) is (hf.LazyElementalMap if lazy else hf.ElementalMap)
    assert_array_equal(np.asarray(back.data), fused[0].data)
    for a, b in zip(
        back.axes_manager.signal_axes, fused[0].axes_manager.signal_axes, strict=True
    ):
        assert_allclose((a.scale, a.offset), (b.scale, b.offset))
        assert (a.name, a.units) == (b.name, b.units)
    before = fused[0].metadata.Multimodal_fusion.as_dictionary()
    after = back.metadata.Multimodal_fusion.as_dictionary()
    assert set(after) == set(before)
    for name in set(before) - {"cost"}:
        assert_array_equal(np.asarray(after[name]), before[name])
    for name, values in before["cost"].items():
        assert_array_equal(np.asarray(after["cost"][name]), values)
    assert infer_element(back) == "Co"
    history = back.get_cost_history()
    assert_array_equal(history.data, fused[0].get_cost_history().data)


# --- each method -----------------------------------------------------------------


class TestPublished:
    def test_record(self, specimen):
        message = "n_iter=5 was reached before the tolerance of 1e-09: raise n_iter"
        with pytest.warns(UserWarning, match=message):
            fused = hf.fuse_published(
                specimen.maps, specimen.haadf, gamma=1.7, n_iter=5, tolerance=1e-9
            )
        record = fused[1].metadata.Multimodal_fusion
        assert record.method == "published"
        assert record.version == hf.__version__
        assert record.elements == "Co,Mn,O"
        assert_array_equal(record.atomic_numbers, [27, 25, 8])
        assert (record.gamma, record.lambda_haadf, record.n_iter) == (1.7, 1 / 3, 5)
        weights = (record.lambda_chem, record.lambda_tv, record.epsilon)
        assert weights == (0.08, 0.15, 0.24)
        assert record.converged is False
        assert "n_iter reached" in record.status
        assert {name: record.cost[name].shape for name in record.cost.keys()} == (  # noqa: SIM118
            dict.fromkeys(("total", "haadf", "chemical", "tv"), (5,))
        )

    def test_costs_of_the_returned_signals(self, specimen, scaled):
        record = scaled[0].metadata.Multimodal_fusion
        objective, scaling = published.published_objective(
            images(specimen.maps),
            specimen.haadf.data,
            record.atomic_numbers,
            published.PublishedOptions(),
        )
        offset, span = (
            scaling[name][:, None, None] for name in ("map_offset", "map_range")
        )
        terms = objective.terms((images(scaled) - offset) / span)
        found = [record.cost[name][-1] for name in ("haadf", "chemical", "tv")]
        assert_allclose(found, terms, rtol=1e-4)
        assert_allclose(record.cost.total[-1], objective.weigh(terms), rtol=1e-4)

    def test_haadf_model(self, specimen, scaled):
        record = scaled[0].metadata.Multimodal_fusion
        misfit = hf.get_haadf_model(scaled).data - specimen.haadf.data
        cost = 0.5 * np.sum((misfit / record.haadf_range) ** 2)
        assert_allclose(cost, record.cost.haadf[-1], rtol=1e-4)

    def test_series_is_fused_position_by_position(self, series_of, specimen):
        other = hf.data.core_shell(size=32, seed=2)
        maps, haadf = series_of(specimen, other)
        options = {"n_iter": 40, "tolerance": 1e-3}
        series = hf.fuse_published(maps, haadf, elements=["Co", "Mn", "O"], **options)
        n_iter = []
        for i, one in enumerate((specimen, other)):
            single = hf.fuse_published(one.maps, one.haadf, **options)
            n_iter.append(single[0].metadata.Multimodal_fusion.n_iter)
            assert_array_equal(series[2].inav[i].data, single[2].data)
            history = series[0].metadata.Multimodal_fusion.cost.total[i]
            expected = single[0].metadata.Multimodal_fusion.cost.total
            assert_array_equal(history[: n_iter[i]], expected)
            assert np.isnan(history[n_iter[i] :]).all()
        record = series[0].metadata.Multimodal_fusion
        assert_array_equal(record.n_iter, n_iter)
        assert series[0].get_cost_history().data.shape == (2, 4, max(n_iter))
        assert hf.get_haadf_model(series).data.shape == haadf.data.shape
        with pytest.raises(ValueError, match="expected all maps of the series"):
            hf.get_haadf_model([signal.inav[0] for signal in series])

    def test_negative_pixels_are_a_warning(self, specimen, scaled):
        shifted = [signal - 1.0 for signal in specimen.maps]
        expected = r"maps of Co, Mn, O, .*uses the minimum of each"
        for maps in (shifted, [signal.as_lazy() for signal in shifted]):
            with pytest.warns(UserWarning, match=expected):
                found = hf.fuse_published(maps, specimen.haadf, lazy_output=False)
            assert_allclose(found[0].data, scaled[0].data - 1, atol=1e-4)

    def test_nan_is_refused(self, specimen):
        maps = [signal.deepcopy() for signal in specimen.maps]
        maps[0].data[3, 4] = np.nan
        with pytest.raises(ValueError, match="1 pixels that are NaN"):
            hf.fuse_published(maps, specimen.haadf)


class TestCalibrated:
    def test_record(self, net):
        record = net[1].metadata.Multimodal_fusion
        expected = {
            "method": "calibrated",
            "version": hf.__version__,
            "elements": "Co,Mn,O",
            "regularizer": "tgv",
            "gamma": 1.7,
            "lambda_chem": 1.0,
            "lock_flux": True,
            "tolerance": 1e-3,
            "seed": 0,
            "converged": True,
            "status": "converged",
        }
        assert {name: record[name] for name in expected} == expected
        assert_array_equal(record.atomic_numbers, [27, 25, 8])
        assert 0 <= record.gap <= record.tolerance
        assert record.haadf_coefficients.shape == (3,)
        assert_array_equal(record.count_value, 1)
        tried = record.weights_tried
        assert tried.shape[1] == 3
        assert record.lambda_haadf in tried[:, 1]
        chosen = tried[tried[:, 1] == record.lambda_haadf]
        assert chosen[:, 0].min() <= record.lambda_tv <= chosen[:, 0].max()
        lengths = {record.cost[term].shape for term in ("total", "haadf", "tv")}
        assert lengths == {record.cost_iterations.shape}
        assert record.cost_iterations[-1] == record.n_iter

    def test_costs_of_the_returned_signals(self, specimen, net):
        record = net[0].metadata.Multimodal_fusion
        cost = {name: record.cost[name][-1] for name in record.cost.keys()}  # noqa: SIM118
        b, x = images(specimen.maps), images(net)
        pedestal = 0.2 * b.mean(axis=(1, 2), keepdims=True)
        deviance = 2 * kl_div(b + pedestal, x + 0.02 + pedestal).sum()
        assert_allclose(cost["chemical"], deviance / 2, rtol=1e-4)
        weighted = record.lambda_haadf * cost["haadf"] + record.lambda_tv * cost["tv"]
        assert_allclose(cost["total"], cost["chemical"] + weighted, rtol=1e-9)
        # no pixel is flagged, and nothing was moved
        assert record.flagged == 0
        assert_array_equal(record.shift, 0)
        sigma = np.hypot(haadf_noise(specimen.haadf.data), record.haadf_model_error)
        misfit = hf.get_misfit(specimen.maps, net, specimen.haadf).data
        assert_allclose(cost["haadf"], 0.5 * np.sum((misfit / sigma) ** 2), rtol=1e-4)
        scale = signal_scale(b, np.full((3, 1, 1), 0.02))[:, None, None]
        least, most = bounds_of_tgv(x / np.sqrt(scale), alpha=0.25)
        # differences were taken in another orientation
        assert 0.97 * least <= cost["tv"] <= 1.03 * most

    @pytest.mark.parametrize("shift", [(7, -11), (0, 1)])
    def test_a_displaced_image_is_moved_back(self, shift):
        maps, haadf, truth = hf.data.core_shell(size=64, shift=shift)
        with pytest.warns(UserWarning, match="displaced against the maps by") as told:
            fused, alone = (
                hf.fuse_multimodal(maps, haadf, 0.02, lambda_tv=4.0, lambda_haadf=mu)
                for mu in (0.1, 0.0)
            )
        assert f"by ({shift[0]}, {shift[1]}) pixels" in str(told[0].message)
        assert_array_equal(fused[0].metadata.Multimodal_fusion.shift, shift)
        fitting = hf.data.core_shell(size=64)
        expected = hf.fuse_multimodal(*fitting[:2], 0.02, **GIVEN)
        assert_array_equal(expected[0].metadata.Multimodal_fusion.shift, 0)
        error, least, most = (
            np.linalg.norm(images(found) - images(truth))
            for found in (fused, expected, alone)
        )
        lost = np.abs(shift).sum() / 64  # of the image, where the counts are alone
        assert error < least + 2 * lost * (most - least)
        misfit = hf.get_misfit(maps, fused, haadf, 0.02, standardised=True)
        assert np.nanmax(np.abs(misfit.data)) < 6

    def test_haadf_model(self, specimen, net):
        record = net[0].metadata.Multimodal_fusion
        parts = record.haadf_coefficients[:, None, None] * images(net)
        model = hf.get_haadf_model(net).data
        assert_allclose(model, record.haadf_offset + parts.sum(axis=0), rtol=1e-5)
        residual = specimen.haadf.data - model
        assert residual.std() < 0.3 * specimen.haadf.data.std()

    @pytest.mark.filterwarnings("ignore:the HAADF image was not used")
    @pytest.mark.parametrize("counts", [1, 4])
    def test_counts_and_composition_are_kept(self, counts):
        maps, haadf, truth = hf.data.janus(size=32, counts=counts)
        fused = hf.fuse_multimodal(maps, haadf, background=0.02)
        before = (images(maps) - 0.02).sum(axis=(1, 2))
        after = images(fused).sum(axis=(1, 2))
        assert_allclose(after, before, rtol=5e-3)
        assert_allclose(after / after.sum(), before / before.sum(), rtol=5e-3)
        assert nrmse(fused, truth) < 0.4 * nrmse(maps, truth)

    def test_same_seed_same_result(self, specimen, net):
        again, other = (
            hf.fuse_multimodal(
                specimen.maps, specimen.haadf, background=0.02, seed=seed
            )
            for seed in (0, 1)
        )
        assert_array_equal(images(again), images(net))
        tried = [s[0].metadata.Multimodal_fusion.weights_tried for s in (net, other)]
        assert not np.array_equal(*tried)

    def test_units_of_the_haadf_image_do_not_matter(self, specimen, net):
        haadf = specimen.haadf * 1e-3 - 50
        fused = hf.fuse_multimodal(specimen.maps, haadf, background=0.02)
        assert distance(fused, net) < 1e-3

    def test_given_weights_are_used(self, specimen):
        record = hf.fuse_multimodal(
            specimen.maps, specimen.haadf, lambda_tv=3, lambda_haadf=0.2
        )[0].metadata.Multimodal_fusion
        assert (record.lambda_tv, record.lambda_haadf) == (3, 0.2)

    @pytest.mark.parametrize("name", ["lambda_tv", "lambda_haadf"])
    def test_one_weight_is_given_the_other_chosen(self, specimen, name):
        record = hf.fuse_multimodal(specimen.maps, specimen.haadf, **{name: 0.3})[
            0
        ].metadata.Multimodal_fusion
        assert record[name] == 0.3
        column = ["lambda_tv", "lambda_haadf"].index(name)
        assert set(record.weights_tried[:, column]) == {0.3}
        assert len(set(record.weights_tried[:, 1 - column])) > 2

    def test_backgrounds_of_every_form(self, specimen, given):
        one = specimen.maps[0] * 0 + 0.02
        for background in ([0.02] * 3, [one, 0.02, 0.02], [one] * 3):
            fused = hf.fuse_multimodal(
                specimen.maps, specimen.haadf, background=background, **GIVEN
            )
            assert distance(fused, given) < 1e-5

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"background": -1.0}, "background has values below 0"),
            ({"background": [0.1, 0.2]}, "background has 2 entries and there are 3"),
            ({"sensitivities": {"Co": 1, "O": 2}}, "sensitivities has none for Mn"),
            (
                {"sensitivities": {"Co": 1, "Mn": 0, "O": 2}},
                "sensitivities are 1, 0, 2: expected finite numbers above 0",
            ),
            ({"mask": np.ones((3, 4), bool)}, r"shape \(3, 4\): expected bool"),
            ({"mask": np.ones((32, 32))}, "mask is of type float64"),
            ({"regularizer": "tv2"}, "regularizer is 'tv2': expected one of 'tgv'"),
            (
                {"lambda_haadf": -1},
                "lambda_haadf is -1: expected a finite number of at",
            ),
            ({"tolerance": 0}, "tolerance is 0: expected a finite number above 0"),
        ],
    )
    def test_what_cannot_be(self, specimen, option, message):
        with pytest.raises(ValueError, match=message):
            hf.fuse_multimodal(specimen.maps, specimen.haadf, **option)

    def test_missing_pixels_are_filled_and_said(self, specimen, given, caplog):
        options = {"background": 0.02, **GIVEN}
        mask = np.zeros((32, 32), dtype=bool)
        mask[12:18, 10:14] = True
        maps = [signal.deepcopy() for signal in specimen.maps]
        for signal in maps:
            signal.data[mask] = np.nan
        with caplog.at_level(logging.INFO, logger="hyperspy_fusion"):
            by_nan = hf.fuse_multimodal(maps, specimen.haadf, **options)
        note = "72 missing pixels of the maps are filled by the model"
        assert note in caplog.text
        assert note in by_nan[0].metadata.Multimodal_fusion.notes
        for missing in (mask, hs.signals.Signal2D(mask)):
            by_mask = hf.fuse_multimodal(
                specimen.maps, specimen.haadf, mask=missing, **options
            )
            assert_array_equal(images(by_mask), images(by_nan))
        filled, seen = images(by_nan)[:, mask], images(given)[:, mask]
        assert np.abs(filled - seen).max() < 0.35 * images(given).max()

    def test_scaled_counts(self, specimen, given):
        scaled = [signal * 17.5 for signal in specimen.maps]
        fused = hf.fuse_multimodal(
            scaled, specimen.haadf, background=0.02 * 17.5, **GIVEN
        )
        record = fused[0].metadata.Multimodal_fusion
        assert_allclose(record.count_value, 17.5, rtol=0.2)
        assert "scaled counts" in record.notes
        assert distance([signal / 17.5 for signal in fused], given) < 0.05

    def test_variance_of_the_maps_is_used(self, specimen):
        def fuse(unit, variance):
            maps = [signal * unit for signal in specimen.maps]
            for signal in maps:
                signal.set_noise_variance(variance * unit**2)
            return hf.fuse_multimodal(maps, specimen.haadf, **GIVEN)

        fused = fuse(1.0, 1.0)
        assert distance([signal / 1e4 for signal in fuse(1e4, 1.0)], fused) < 1e-3
        sums = images(fused).sum(axis=(1, 2))
        assert_allclose(sums, images(specimen.maps).sum(axis=(1, 2)), rtol=5e-3)
        assert distance(fuse(1.0, 100.0), fused) > 0.01

    def test_variance_as_an_image(self, specimen):
        maps = [signal * 1.0 for signal in specimen.maps]
        for signal in maps:
            signal.set_noise_variance(signal * 0 + 1.0)
        by_image = hf.fuse_multimodal(maps, specimen.haadf, **GIVEN)
        for signal in maps:
            signal.set_noise_variance(1.0)
        by_number = hf.fuse_multimodal(maps, specimen.haadf, **GIVEN)
        assert distance(by_image, by_number) < 1e-6

    def test_negative_pixels_are_said(self, caplog):
        maps, haadf, _ = hf.data.core_shell(size=32, counts=64)
        maps = [signal - 0.02 for signal in maps]
        with caplog.at_level(logging.INFO, logger="hyperspy_fusion"):
            fused = hf.fuse_multimodal(maps, haadf, **GIVEN)
        assert "negative pixels: Gaussian noise is assumed" in caplog.text
        assert images(fused).min() >= 0

    def test_a_large_image_raises_no_false_alarm(self):
        maps, haadf, _ = hf.data.lattice(size=1024)
        fused = hf.fuse_multimodal(maps, haadf, background=0.02, **GIVEN)
        record = fused[0].metadata.Multimodal_fusion
        assert record.flagged == 0
        assert record.guard > 4.5  # which happens among so many pixels

    def test_series_is_fused_position_by_position(self, series_of, specimen, net):
        other = hf.data.core_shell(size=32, seed=2, counts=16)
        maps, haadf = series_of(specimen, other)
        series = hf.fuse_multimodal(maps, haadf, background=0.02)
        second = hf.fuse_multimodal(other.maps, other.haadf, background=0.02)
        record = series[0].metadata.Multimodal_fusion
        for i, single in enumerate((net, second)):
            alone = single[0].metadata.Multimodal_fusion
            assert_array_equal(series[2].inav[i].data, single[2].data)
            for name in ("lambda_tv", "lambda_haadf", "gap", "haadf_coefficients"):
                assert_array_equal(record[name][i], alone[name])
            for found, expected in (
                (record.weights_tried[i], alone.weights_tried),
                (record.cost.total[i], alone.cost.total),
            ):
                assert_array_equal(found[: len(expected)], expected)
                assert np.isnan(found[len(expected) :]).all()
        model = hf.get_haadf_model(series)
        assert_allclose(model.inav[1].data, hf.get_haadf_model(second).data)

    def test_iterations_that_do_not_suffice(self, specimen):
        message = (
            "max_iter=50 was reached before the tolerance of 1e-06, with a gap of "
            ".*e-.*: raise max_iter, or loosen tolerance"
        )
        with pytest.warns(UserWarning, match=message):
            fused = hf.fuse_multimodal(
                specimen.maps, specimen.haadf, max_iter=50, tolerance=1e-6, **GIVEN
            )
        record = fused[0].metadata.Multimodal_fusion
        assert record.converged is False
        assert "raise max_iter" in record.status
        assert re.fullmatch(message, record.warnings)
        assert record.gap > 1e-6

    def test_an_image_that_shows_nothing_is_not_used(self, specimen, tmp_path):
        noise = specimen.haadf.deepcopy()
        noise.data = np.random.default_rng(3).normal(100, 10, noise.data.shape)
        message = "the HAADF image was not used: it does not improve the prediction"
        with pytest.warns(UserWarning, match=message):
            fused = hf.fuse_multimodal(specimen.maps, noise)
        fused[0].save(tmp_path / "Co.hspy")
        record = hs.load(tmp_path / "Co.hspy").metadata.Multimodal_fusion
        assert record.lambda_haadf == 0
        assert record.warnings.startswith(message)
        used = hf.fuse_multimodal(specimen.maps, specimen.haadf)
        assert used[0].metadata.Multimodal_fusion.warnings == ""

    def test_an_image_that_is_left_out_on_purpose(self, specimen):
        fused = hf.fuse_multimodal(specimen.maps, specimen.haadf, lambda_haadf=0)
        assert fused[0].metadata.Multimodal_fusion.warnings == ""


# --- where the image contradicts the maps ------------------------------------------


def fractions_of(specimen, total=1, empty=np.nan):
    """Maps of fractions, from the counts of a specimen."""
    counts = images(specimen.maps)
    held = counts.sum(axis=0) > 0
    fractions = total * counts / np.where(held, counts.sum(axis=0), 1)
    maps = [signal.deepcopy() for signal in specimen.maps]
    for signal, data in zip(maps, fractions, strict=True):
        signal.data = np.where(held, data, empty)
    return maps


@pytest.fixture(scope="module")
def lattice():
    return hf.data.lattice(size=80)


@pytest.fixture(scope="module")
def amounts(lattice):
    with pytest.warns(UserWarning, match="the maps are fractions, with a sum of 1 in"):
        return hf.fuse_multimodal(fractions_of(lattice), lattice.haadf, **GIVEN)


@pytest.mark.filterwarnings("ignore:the maps are fractions:UserWarning")
class TestFractions:
    """Maps that sum to the same in all pixels that hold anything."""

    def test_they_become_amounts(self, lattice, amounts):
        def error(maps):
            scale = images(lattice.truth).sum() / np.nansum(images(maps))
            return nrmse([signal * scale for signal in maps], lattice.truth)

        assert error(amounts) < 0.35
        assert error(amounts) < 0.6 * error(fractions_of(lattice, empty=0))
        assert amounts[0].metadata.Signal.quantity == "Amount (relative)"
        assert "are fractions" in amounts[0].metadata.Multimodal_fusion.warnings

    @pytest.mark.parametrize("empty", [np.nan, 0])
    def test_percentages_are_the_same(self, lattice, amounts, empty):
        maps = fractions_of(lattice, total=100, empty=empty)
        found = hf.fuse_multimodal(maps, lattice.haadf, **GIVEN)
        assert distance(found, [signal * 100 for signal in amounts]) < 1e-4

    def test_fractions_of_amounts(self, amounts):
        fractions = hf.get_fractions(amounts)
        assert_allclose(images(fractions).sum(axis=0), 1, rtol=1e-5)
        shares = images(amounts) / images(amounts).sum(axis=0)
        assert_allclose(images(fractions), shares, rtol=1e-5)
        assert fractions[0].metadata.Signal.quantity == "Fraction"
        assert not fractions[0].metadata.has_item("Multimodal_fusion")

    def test_vacuum_has_no_fractions(self):
        specimen = hf.data.core_shell(size=64)
        maps = fractions_of(specimen, total=100, empty=0)
        fused = hf.fuse_multimodal(maps, specimen.haadf, **GIVEN)
        fractions = images(hf.get_fractions(fused))
        empty = np.isnan(fractions[0])
        truth = images(specimen.truth).sum(axis=0)
        assert empty[truth < 0.01 * truth.max()].mean() > 0.95
        assert not empty[truth > 0.15 * truth.max()].any()
        assert_allclose(fractions.sum(axis=0)[~empty], 100, rtol=1e-5)

    def test_the_dark_level_can_be_given(self, lattice):
        fused = hf.fuse_multimodal(
            fractions_of(lattice), lattice.haadf, haadf_offset=1200, **GIVEN
        )
        assert_allclose(fused[0].metadata.Multimodal_fusion.haadf_offset, 1200)

    def test_there_is_no_local_misfit(self, lattice, amounts):
        maps = fractions_of(lattice)
        hf.get_misfit(maps, amounts, lattice.haadf)
        with pytest.raises(ValueError, match="the local misfit is not defined for"):
            hf.get_misfit(maps, amounts, lattice.haadf, standardised=True)
        lazy = [signal.as_lazy() for signal in maps]
        later = hf.fuse_multimodal(lazy, lattice.haadf.as_lazy(), **GIVEN)
        with pytest.raises(ValueError, match="the local misfit is not defined for"):
            hf.get_misfit(lazy, later, lattice.haadf.as_lazy(), standardised=True)

    def test_maps_of_counts_have_no_fractions(self, net):
        with pytest.raises(ValueError, match="maps were not fused from fractions"):
            hf.get_fractions(net)
        with pytest.raises(ValueError, match="expected all maps of one fusion"):
            hf.get_fractions(net[:2])

    def test_lazy_maps(self, lattice, amounts):
        maps = [signal.as_lazy() for signal in fractions_of(lattice)]
        lazy = hf.fuse_multimodal(maps, lattice.haadf.as_lazy(), **GIVEN)
        with pytest.raises(ValueError, match="the maps are not computed yet"):
            hf.get_fractions(lazy)
        for signal in lazy:
            signal.compute(show_progressbar=False)
        assert_allclose(images(lazy), images(amounts), atol=1e-6)
        assert lazy[1].metadata.Signal.quantity == "Amount (relative)"
        assert len(hf.get_fractions(lazy)) == 3

    def test_tiles(self, lattice, amounts):
        maps = fractions_of(lattice)
        tiled = hf.fuse_multimodal(maps, lattice.haadf, tile_size=40, **GIVEN)
        assert distance(tiled, amounts) < 0.01
        record = tiled[0].metadata.Multimodal_fusion
        assert "lock_flux is not used" in record.notes
        assert record.fraction_sum == 1

    def test_an_empty_tile(self):
        specimen = hf.data.core_shell(size=96)
        maps, haadf = fractions_of(specimen), specimen.haadf.deepcopy()
        for signal in maps:
            signal.data[:, :76] = np.nan
        haadf.data[:, :76] = np.random.default_rng(0).normal(1240, 50, (96, 76))
        whole = hf.fuse_multimodal(maps, haadf, **GIVEN)
        tiled = hf.fuse_multimodal(maps, haadf, tile_size=32, **GIVEN)
        assert np.isfinite(images(tiled)).all()
        assert distance(tiled, whole) < 0.05

    def test_series(self, series_of, lattice, amounts):
        other = hf.data.lattice(size=80, seed=2)
        maps, haadf = series_of(
            *(
                SimpleNamespace(maps=fractions_of(s), haadf=s.haadf)
                for s in (lattice, other)
            )
        )
        series = hf.fuse_multimodal(maps, haadf, **GIVEN)
        assert_array_equal(series[1].inav[0].data, amounts[1].data)
        fractions = hf.get_fractions(series)
        expected = hf.get_fractions(amounts)
        assert_allclose(fractions[1].inav[0].data, expected[1].data, rtol=1e-6)

    def test_dyscandate(self, real_data):
        """The fused maps keep the measured proportions and show what the image does."""
        real_data("DyScO3_EDX_HAADF.npz")
        maps, haadf = hf.data.dysco3()
        maps = [signal.isig[60:188, 60:188] for signal in maps]
        haadf = haadf.isig[60:188, 60:188]
        fused = hf.fuse_multimodal(maps, haadf, **GIVEN)
        found, measured = images(fused), images(maps)
        shares = found.sum(axis=(1, 2)) / found.sum()
        assert_allclose(shares, measured.mean(axis=(1, 2)), atol=0.03)
        model = hf.get_haadf_model(fused).data
        assert np.corrcoef(model.ravel(), haadf.data.ravel())[0, 1] > 0.98
        fractions = images(hf.get_fractions(fused))
        smooth = gaussian_filter(measured, (0, 1.4, 1.4))
        assert np.abs(fractions - smooth).mean() < 0.03


def test_misfit():
    maps, haadf, _ = hf.data.lattice(size=64, unmapped=True)
    with pytest.warns(UserWarning, match="the HAADF image contradicts the maps"):
        fused = hf.fuse_multimodal(
            maps, haadf, background=0.02, lambda_tv=3.0, lambda_haadf=1.0
        )
    assert fused[0].metadata.Multimodal_fusion.guard > 6
    misfit = hf.get_misfit(maps, fused, haadf)
    model = hf.get_haadf_model(fused)
    assert_allclose(misfit.data, haadf.data - model.data)
    z = hf.get_misfit(maps, fused, haadf, standardised=True, background=0.02)
    assert z.axes_manager.signal_shape == (64, 64)
    y, x = np.unravel_index(z.data.argmax(), z.data.shape)
    blobs = [(20, 40), (45, 22.5)]
    assert min(np.hypot(y - b, x - c) for b, c in blobs) < 8
    assert z.data.max() > 6
    published = hf.fuse_published(maps, haadf)
    with pytest.raises(ValueError, match="defined for the calibrated method only"):
        hf.get_misfit(maps, published, haadf, standardised=True)


def test_misfit_of_masked_maps():
    maps, haadf, _ = hf.data.core_shell(size=64)
    mask = np.zeros((64, 64), bool)
    mask[5:8, 5:8] = True
    maps[0].data[mask] = 500
    options = {"lambda_tv": 3.0, "lambda_haadf": 0.1, "mask": mask}
    fused = hf.fuse_multimodal(maps, haadf, **options)
    guard = fused[0].metadata.Multimodal_fusion.guard
    z = hf.get_misfit(maps, fused, haadf, standardised=True, mask=mask)
    assert np.abs(z.data).max() == pytest.approx(guard, rel=0.1)
    for other in (None, 0.02):
        given = {"mask": mask, "background": 0.02} if other else {}
        with pytest.raises(ValueError, match=r"the fusion had (a mask|no background)"):
            hf.get_misfit(maps, fused, haadf, standardised=True, **given)


@pytest.mark.parametrize("lazy", [False, True])
def test_pixels_that_a_fit_left_out(lazy):
    maps, haadf, truth = hf.data.core_shell(size=64)
    for signal in maps:
        variance = hs.signals.Signal2D(np.maximum(signal.data, 1.0))
        variance.data[30:33, 28:36] = np.nan
        signal.data[30:33, 28:36] = 0
        signal.set_noise_variance(variance)
    if lazy:
        maps = [signal.as_lazy() for signal in maps]
    fused = hf.fuse_multimodal(maps, haadf, lambda_tv=3.0, lambda_haadf=0.1)
    for signal, expected in zip(fused, truth, strict=True):
        found = np.asarray(signal.data)[30:33, 28:36].mean()
        assert found == pytest.approx(expected.data[30:33, 28:36].mean(), rel=0.3)


@pytest.mark.parametrize("uncertainty", [False, True])
def test_variance_of_a_fused_stack_is_that_of_its_fused_maps(specimen, uncertainty):
    maps = [signal.deepcopy() for signal in specimen.maps]
    for signal in maps:
        signal.set_noise_variance(signal.deepcopy() + 1)
    options = {**GIVEN, "uncertainty": uncertainty}
    expected = hf.fuse_multimodal(maps, specimen.haadf, **options)
    stack = hs.stack(maps, show_progressbar=False)
    fused = stack.fuse_multimodal(specimen.haadf, **options)
    one = fused.inav[1].isig[2:]
    if uncertainty:
        assert_array_equal(
            one.get_noise_variance().data, expected[1].get_noise_variance().data[:, 2:]
        )
    else:
        assert one.get_noise_variance() is None
    for part, other in zip(fused.split(), expected, strict=True):
        found, known = (signal.get_noise_variance() for signal in (part, other))
        if uncertainty:
            assert_array_equal(found.data, known.data)
        else:
            assert found is None
            assert known is None


def test_uncertainty_is_where_hyperspy_looks_for_it():
    maps, haadf, truth = hf.data.core_shell(size=48)
    fused = hf.fuse_multimodal(
        maps,
        haadf,
        background=0.02,
        lambda_tv=5.0,
        lambda_haadf=0.1,
        uncertainty=True,
    )
    within = []
    for signal, true in zip(fused, truth, strict=True):
        variance = signal.get_noise_variance()
        assert variance.data.shape == signal.data.shape
        inside = true.data > 0.1 * true.data.max()
        error = np.abs(signal.data - true.data) <= 2 * np.sqrt(variance.data)
        within.append(error[inside].mean())
    assert np.mean(within) > 0.8


@pytest.mark.parametrize("part", [slice(None, None, -1), slice(1, None), slice(2)])
def test_a_part_of_a_stack_knows_its_elements(part):
    maps, haadf, _ = hf.data.core_shell(size=32)
    options = {"n_iter": 2}
    expected = hf.fuse_published(maps[part], haadf, **options)
    stack = hs.stack(maps).inav[part]
    for fused in (
        hf.fuse_published(stack, haadf, **options),
        maps_of_fusion(stack.fuse_published(haadf, **options)),
    ):
        for one, other in zip(fused, expected, strict=True):
            assert one.metadata.Sample.elements == other.metadata.Sample.elements
            assert one.metadata.General.title == other.metadata.General.title
            assert_array_equal(one.data, other.data)


class TestShare:
    """Pixels that look alike share their counts."""

    GIVEN = MappingProxyType({"lambda_tv": 2.8, "lambda_haadf": 0.1, "share": True})

    def test_the_summary_says_what_was_shared(self):
        maps, haadf, _ = hf.data.lattice(size=48)
        fused = hf.fuse_multimodal(maps, haadf, 0.02, **self.GIVEN)
        record = fused[0].metadata.Multimodal_fusion
        assert record.sharing == 1
        assert record.sharing_gain.min() > 3
        assert "Pixels that look alike share their counts, " in hf.summarize(fused)

    def test_each_image_of_a_lazy_series_by_itself(self):
        specimens = [hf.data.lattice(size=32, seed=k) for k in range(2)]
        maps = [
            hs.stack(list(each), show_progressbar=False)
            for each in zip(*(s.maps for s in specimens), strict=True)
        ]
        haadf = hs.stack([s.haadf for s in specimens], show_progressbar=False)
        fused = hf.fuse_multimodal(maps, haadf, 0.02, lazy_output=True, **self.GIVEN)
        record = fused[0].metadata.Multimodal_fusion
        assert record.sharing.shape == (2,)
        fused[0].compute(show_progressbar=False)
        alone = hf.fuse_multimodal(
            specimens[1].maps, specimens[1].haadf, 0.02, **self.GIVEN
        )
        np.testing.assert_array_equal(fused[0].data[1], alone[0].data)


@pytest.mark.parametrize("first", [True, False])
def test_counts_and_fractions_in_one_series(series_of, first):
    maps, haadf, truth = hf.data.lattice(size=48)
    total = sum(signal.data for signal in maps) + 1e-9
    fractions = [signal._deepcopy_with_new_data(signal.data / total) for signal in maps]
    counts = [signal._deepcopy_with_new_data(signal.data / 1.0) for signal in maps]
    pair = (fractions, counts) if first else (counts, fractions)
    series = series_of(*(hf.data.Specimen(each, haadf, truth) for each in pair))
    with (
        pytest.warns(UserWarning, match="of 1 of 2 images were taken for fractions"),
        pytest.warns(UserWarning, match="the maps are fractions, with a sum of 1"),
    ):
        fused = hf.fuse_multimodal(*series, lambda_tv=3.0, lambda_haadf=0.1)
    known = np.isfinite(fused[0].metadata.Multimodal_fusion.fraction_sum)
    assert known.tolist() == [first, not first]
    found = hf.get_fractions(fused)[0].data
    assert np.isfinite(found).any(axis=(1, 2)).tolist() == known.tolist()
