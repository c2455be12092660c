import warnings

import exspy
import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion.core.published import PublishedOptions, published_objective, solve
from hyperspy_fusion.pairing import infer_element


@pytest.fixture(scope="module")
def specimen():
    return hf.data.core_shell(size=24)


@pytest.fixture(scope="module")
def fused(specimen):
    return hf.fuse_multimodal(specimen.maps, specimen.haadf)


def test_hands_on_to_the_core(specimen, fused):
    maps = np.stack([signal.data for signal in specimen.maps])
    expected = solve(maps, specimen.haadf.data, (27, 25, 8), PublishedOptions())
    assert_array_equal([signal.data for signal in fused], expected.maps)


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


def test_metadata_is_kept():
    maps, haadf, _ = hf.data.core_shell(size=16)
    kept = {
        "Acquisition_instrument.TEM.beam_energy": 200.0,
        "General.authors": "A. Microscopist",
        "Sample.xray_lines": ["Co_Ka"],
        "Sample.description": "cubes",
    }
    for name, value in kept.items():
        maps[0].metadata.set_item(name, value)
    fused = hf.fuse_multimodal(maps, haadf)
    for name, value in kept.items():
        assert fused[0].metadata.get_item(name) == value


def test_inputs_are_not_modified(specimen):
    signals = [*specimen.maps, specimen.haadf]
    before = [(s.deepcopy(), s.metadata.as_dictionary()) for s in signals]
    hf.fuse_multimodal(specimen.maps, specimen.haadf)
    for signal, (copy, metadata) in zip(signals, before, strict=True):
        assert_array_equal(signal.data, copy.data)
        assert signal.metadata.as_dictionary() == metadata
        assert str(signal.axes_manager) == str(copy.axes_manager)


def test_record(specimen):
    fused = hf.fuse_multimodal(
        specimen.maps, specimen.haadf, gamma=1.7, n_iter=5, tolerance=1e-9
    )
    record = fused[1].metadata.Multimodal_fusion
    assert record.method == "published"
    assert record.version == hf.__version__
    assert record.elements == "Co,Mn,O"
    assert_array_equal(record.atomic_numbers, [27, 25, 8])
    assert (record.gamma, record.lambda_haadf, record.n_iter) == (1.7, 1 / 3, 5)
    assert (record.lambda_chem, record.lambda_tv, record.background) == (
        0.08,
        0.15,
        0.24,
    )
    assert record.converged is False
    assert "n_iter reached" in record.status
    assert {name: record.cost[name].shape for name in record.cost.keys()} == (  # noqa: SIM118
        dict.fromkeys(("total", "haadf", "chemical", "tv"), (5,))
    )


def test_costs_of_the_returned_signals(specimen, fused):
    record = fused[0].metadata.Multimodal_fusion
    maps = np.stack([signal.data for signal in specimen.maps])
    objective, scaling = published_objective(
        maps, specimen.haadf.data, record.atomic_numbers, PublishedOptions()
    )
    offset, span = (
        scaling[name][:, None, None] for name in ("map_offset", "map_range")
    )
    scaled = (np.stack([s.data.astype(float) for s in fused]) - offset) / span
    terms = objective.terms(scaled)
    found = [record.cost[name][-1] for name in ("haadf", "chemical", "tv")]
    assert_allclose(found, terms, rtol=1e-4)
    assert_allclose(record.cost.total[-1], objective.weigh(terms), rtol=1e-4)


def test_haadf_model(specimen, fused):
    model = hf.get_haadf_model(fused)
    assert isinstance(model, hf.HAADFImage)
    assert model.axes_manager[0].units == specimen.haadf.axes_manager[0].units
    record = fused[0].metadata.Multimodal_fusion
    misfit = (model.data - specimen.haadf.data) / record.haadf_range
    assert_allclose(0.5 * np.sum(misfit**2), record.cost.haadf[-1], rtol=1e-4)
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
def test_stack_that_was_fused_goes_on_as_a_list_does(specimen, fused, made_by):
    stack = hs.stack(specimen.maps, show_progressbar=False)
    if made_by == "hand":
        stack = hf.ElementalMap(stack.data)
    before = str(stack.metadata) + str(stack.original_metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the axes made by hand
        by_stack = stack.fuse_multimodal(specimen.haadf, elements=["Co", "Mn", "O"])
    assert str(stack.metadata) + str(stack.original_metadata) == before
    for one, part in zip(fused, by_stack.split(), strict=True):
        assert_array_equal(part.get_cost_history().data, one.get_cost_history().data)
    model = hf.get_haadf_model(by_stack)
    assert_array_equal(model.data, hf.get_haadf_model(fused).data)
    with pytest.raises(ValueError, match="fused maps of Co: expected all maps of"):
        hf.get_haadf_model(fused[0])


def test_haadf_model_with_an_empty_map(specimen):
    empty = specimen.maps[1] * 0
    with pytest.warns(UserWarning, match="map of Mn"):
        fused = hf.fuse_multimodal([specimen.maps[0], empty], specimen.haadf)
    assert np.isfinite(hf.get_haadf_model(fused).data).all()


def test_series_is_fused_position_by_position(specimen):
    other = hf.data.core_shell(size=24, seed=2)
    maps = [
        hs.stack(list(pair), show_progressbar=False)
        for pair in zip(specimen.maps, other.maps, strict=True)
    ]
    haadf = hs.stack([specimen.haadf, other.haadf], show_progressbar=False)
    options = {"n_iter": 40, "tolerance": 1e-3}
    series = hf.fuse_multimodal(maps, haadf, elements=["Co", "Mn", "O"], **options)
    n_iter = []
    for i, one in enumerate((specimen, other)):
        single = hf.fuse_multimodal(one.maps, one.haadf, **options)
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
    with pytest.raises(ValueError, match="model of all maps of the series"):
        hf.get_haadf_model([signal.inav[0] for signal in series])


def test_one_method_whoever_calls(specimen, fused):
    stack = hs.stack(specimen.maps, show_progressbar=False)
    by_haadf = specimen.haadf.fuse_multimodal(specimen.maps)
    by_stack = stack.fuse_multimodal(specimen.haadf)
    assert_array_equal(by_haadf[2].data, fused[2].data)
    assert isinstance(by_stack, hf.ElementalMap)
    assert_array_equal(by_stack.data, [signal.data for signal in fused])
    assert by_stack.metadata.Multimodal_fusion.elements == "Co,Mn,O"
    assert [s.metadata.General.title for s in by_stack.split()] == ["Co", "Mn", "O"]
    with pytest.raises(ValueError, match="this signal is one map: expected a stack"):
        specimen.maps[0].fuse_multimodal(specimen.haadf)


def test_unknown_method_and_option(specimen):
    with pytest.raises(ValueError, match="method is 'magic': expected 'published'"):
        hf.fuse_multimodal(specimen.maps, specimen.haadf, method="magic")
    with pytest.raises(TypeError, match="lamda_tv"):
        hf.fuse_multimodal(specimen.maps, specimen.haadf, lamda_tv=1)


def test_negative_pixels_are_a_warning(specimen):
    shifted = [signal - 1.0 for signal in specimen.maps]
    with pytest.warns(UserWarning, match=r"maps of Co \(.*takes the minimum of each"):
        fused = hf.fuse_multimodal(shifted, specimen.haadf)
    expected = hf.fuse_multimodal(specimen.maps, specimen.haadf)
    assert_allclose(fused[0].data, expected[0].data - 1, atol=1e-4)


def test_a_single_map(specimen):
    fused = hf.fuse_multimodal(specimen.maps[1], specimen.haadf)
    assert [s.metadata.Sample.elements for s in fused] == [["Mn"]]


# --- chains with the rest of HyperSpy ------------------------------------------


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
    assert turned.learning_results.loadings.shape == (24 * 24, 3)


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
