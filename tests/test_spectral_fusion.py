import hyperspy.api as hs
import numpy as np
import pytest
from hyperspy.signals import Signal2D
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion
from hyperspy_fusion import data, fuse_spectra
from hyperspy_fusion.spectral_fusion import _check_apart

NAMES, LINES = ["Ba", "Ti", "O"], ["Ba_La", "Ti_Ka", "O_Ka"]
GIVEN = {"lambda_tv": 4, "lambda_haadf": 0.1}


def error(signal, truth):
    return np.sqrt(np.mean((signal.data - truth.data) ** 2)) / truth.data.mean()


@pytest.fixture(scope="module")
def overlap():
    """A lattice whose Ba L and Ti K lines overlap, on a copper grid."""
    _, haadf, truth = data.lattice(48, counts=6)
    grid = truth[0].deepcopy()
    grid.data = np.full_like(grid.data, 0.2)
    lines = [*LINES, "Cu_Ka"]
    spectra = data.xray_spectra([*truth, grid], lines, continuum=0.1)
    return spectra, haadf, truth


@pytest.fixture(scope="module")
def fused(overlap):
    spectra, haadf, _ = overlap
    return fuse_spectra(spectra, haadf, NAMES, "Cu")


def test_overlapping_lines_come_out_right(overlap, fused):
    spectra, _, truth = overlap
    sums, known = (np.array([s.data.sum() for s in group]) for group in (fused, truth))
    assert_allclose(sums / sums.sum(), known / known.sum(), atol=0.02)
    assert_allclose(sums, known, rtol=0.08)
    assert error(fused[0], truth[0]) < 0.25
    assert error(fused[1], truth[1]) < 0.6
    spectra = spectra.deepcopy()
    spectra.set_elements(NAMES)
    windows = spectra.get_lines_intensity(LINES)
    assert windows[0].data.sum() > 1.5 * known[0]
    assert windows[1].data.sum() > 1.5 * known[1]
    assert error(fused[1], truth[1]) < error(windows[1], truth[1]) / 2


def test_the_maps_are_those_of_their_lines(fused, overlap):
    spectra, _, _ = overlap
    for signal, name, line in zip(fused, NAMES, LINES, strict=True):
        assert isinstance(signal, hyperspy_fusion.ElementalMap)
        assert signal.data.dtype == np.float32
        assert signal.metadata.General.title == name
        assert signal.metadata.Sample.elements == [name]
        assert signal.metadata.Sample.xray_lines == [line]
        axes = signal.axes_manager.signal_axes
        for one, other in zip(axes, spectra.axes_manager.navigation_axes, strict=True):
            assert (one.scale, one.units, one.name) == (
                other.scale,
                other.units,
                other.name,
            )


def test_the_record_says_what_was_done(fused, tmp_path):
    record = fused[0].metadata.Multimodal_fusion
    assert record.kind == "spectra"
    assert record.lines == "Ba_La,Ti_Ka,O_Ka"
    assert record.other_elements == "Cu"
    assert record.bins_efficiency.shape == (3,)
    assert record.bins_efficiency.min() > 0.95
    assert 0.8 < record.sum_spectrum_chi2 < 1.2
    assert record.gap < 1e-3
    for name in ("haadf_coefficients", "change", "own_norm", "sum_kept"):
        assert record.get_item(name).shape == (3,)
    summary = hyperspy_fusion.summarize(fused)
    for text in (
        "components of the spectra, from 0.2 to 15.36 keV, were Ba, Ti, O, Cu, contin",
        "maps are counts of Ba_La (",
        "background is a component",
        "% of the information about each element",
        "image was used",
    ):
        assert text in summary
    fused[0].save(tmp_path / "map.hspy")
    copy = hs.load(tmp_path / "map.hspy")
    assert copy.metadata.Multimodal_fusion.summary == record.summary


def test_a_line_scales_its_map(overlap):
    spectra, haadf, _ = overlap
    alpha = fuse_spectra(spectra, haadf, NAMES, ["Cu"], **GIVEN)
    beta = fuse_spectra(
        spectra, haadf, NAMES, ["Cu"], lines=["Ti_Kb", "Ba_Lb1"], **GIVEN
    )
    record = beta[0].metadata.Multimodal_fusion
    assert record.lines == "Ba_Lb1,Ti_Kb,O_Ka"
    ratio = record.line_shares / alpha[0].metadata.Multimodal_fusion.line_shares
    assert ratio[2] == 1
    assert 0.05 < ratio[1] < 0.3
    for one, other, factor in zip(alpha, beta, ratio, strict=True):
        assert_allclose(other.data, factor * one.data, rtol=1e-4, atol=1e-5)


def test_names_from_the_metadata_and_inputs_left_alone(overlap):
    spectra, haadf, _ = overlap
    named = fuse_spectra(spectra, haadf, NAMES, "Cu", **GIVEN)
    own = spectra.deepcopy()
    own.set_elements(["Ba", "Cu", "O", "Ti"])
    before = own.deepcopy()
    found = fuse_spectra(own, haadf, other_elements=["Cu"], **GIVEN)
    assert [s.metadata.Sample.elements for s in found] == [["O"], ["Ti"], ["Ba"]]
    assert_allclose(found[2].data, named[0].data, atol=1e-3)
    assert_array_equal(own.data, before.data)
    assert own.metadata.as_dictionary() == before.metadata.as_dictionary()


def test_energies_in_ev_and_a_range(overlap):
    spectra, haadf, truth = overlap
    in_ev = spectra.deepcopy()
    in_ev.axes_manager.signal_axes[0].convert_to_units("eV")
    given = {"energy_range": (1, 12), **GIVEN}
    one = fuse_spectra(spectra, haadf, ["Ba", "Ti"], "Cu", **given)
    other = fuse_spectra(in_ev, haadf, ["Ba", "Ti"], "Cu", **given)
    assert_allclose(other[0].data, one[0].data, atol=1e-3)
    assert_allclose(one[0].data.sum(), truth[0].data.sum(), rtol=0.08)
    energies = one[0].metadata.Multimodal_fusion.energies
    assert_allclose(energies, [1, 12], atol=0.02)


def test_a_hot_pixel_is_missing(overlap):
    spectra, haadf, truth = overlap
    spoilt = spectra.deepcopy()
    spoilt.data = spoilt.data.copy()
    spoilt.data[20, 30] *= 40
    found = fuse_spectra(spoilt, haadf, NAMES, "Cu", **GIVEN)
    summary = hyperspy_fusion.summarize(found)
    assert "1 pixel of the total map is hot" in summary
    assert "missing pixels" not in summary
    assert found[0].data[20, 30] < 3 * truth[0].data.max()


def test_lazy_spectra_are_read_chunk_by_chunk(overlap):
    spectra, haadf, _ = overlap
    largest = 0

    def seen(block):
        nonlocal largest
        largest = max(largest, block.size)
        return block

    lazy = spectra.as_lazy()
    lazy.data = lazy.data.rechunk((20, 30, 300)).map_blocks(seen, meta=spectra.data)
    one = fuse_spectra(spectra, haadf, NAMES, "Cu", **GIVEN)
    other = fuse_spectra(lazy, haadf.as_lazy(), NAMES, "Cu", **GIVEN)
    for now, later in zip(one, other, strict=True):
        assert type(later) is hyperspy_fusion.ElementalMap
        assert_array_equal(later.data, now.data)
    assert 0 < largest <= 20 * 30 * 300


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("spoilt_value", [9, -1.0, np.nan])
def test_masked_spectra_do_not_count(overlap, lazy, spoilt_value):
    spectra, haadf, truth = overlap
    mask = np.zeros((48, 48), bool)
    mask[10:14, 20:30] = True
    spoilt = spectra.deepcopy()
    spoilt.data = np.where(mask[..., None], spoilt_value, spectra.data)
    if lazy:
        spoilt = spoilt.as_lazy()
    one = fuse_spectra(spectra, haadf, NAMES, "Cu", mask=mask, **GIVEN)
    other = fuse_spectra(spoilt, haadf, NAMES, "Cu", mask=Signal2D(mask), **GIVEN)
    for clean, found in zip(one, other, strict=True):
        assert_array_equal(found.data, clean.data)
    distance = (one[0].data - truth[0].data)[mask]
    assert np.sqrt(np.mean(distance**2)) < 0.25 * truth[0].data.mean()
    assert one[0].metadata.Multimodal_fusion.missing_pixels == 40
    assert "40 missing pixels of the maps" in hyperspy_fusion.summarize(one)


def test_pixels_without_the_image_are_told(overlap):
    spectra, haadf, _ = overlap
    seen = haadf.deepcopy()
    seen.data = seen.data.astype(float)
    seen.data[5:9, 7] = np.nan
    found = fuse_spectra(spectra, seen, NAMES, "Cu", **GIVEN)
    assert found[0].metadata.Multimodal_fusion.haadf_missing_pixels == 4
    assert "4 missing pixels of the HAADF image" in hyperspy_fusion.summarize(found)
    assert np.isfinite(found[0].data).all()


def test_a_support_in_the_image_is_subtracted(overlap, fused):
    spectra, haadf, truth = overlap
    support = np.linspace(0, 0.5 * haadf.data.max(), haadf.data.shape[1])
    with pytest.warns(UserWarning, match="has a slowly varying part that the maps"):
        found = fuse_spectra(spectra, haadf.deepcopy() + support, NAMES, "Cu")
    assert found[0].metadata.Multimodal_fusion.haadf_slow > 0.1
    assert fused[0].metadata.Multimodal_fusion.haadf_slow == 0
    alone = fuse_spectra(spectra, haadf, NAMES, "Cu", lambda_haadf=0.0)
    assert error(found[0], truth[0]) < 0.8 * error(alone[0], truth[0])
    assert error(found[0], truth[0]) < 1.1 * error(fused[0], truth[0])


def test_a_series_has_one_sum_spectrum(overlap, fused):
    spectra, haadf, truth = overlap
    more = spectra.deepcopy()
    rng = np.random.default_rng(5)
    more.data = rng.binomial(spectra.data.astype(int), 0.5)
    series, images = hs.stack([spectra, more]), hs.stack([haadf, haadf])
    found = fuse_spectra(series, images, NAMES, "Cu")
    assert [signal.data.shape for signal in found] == [(2, 48, 48)] * 3
    assert found[0].axes_manager.signal_axes[0].scale == haadf.axes_manager[0].scale
    sums = np.array([signal.data.sum(axis=(1, 2)) for signal in found])
    known = np.array([signal.data.sum() for signal in truth])
    assert_allclose(sums, known[:, None] * [1, 0.5], rtol=0.1)
    for one, other, exact in zip(found, fused, truth, strict=True):
        assert error(one.inav[0], exact) < 1.1 * error(other, exact)
    record = found[0].metadata.Multimodal_fusion
    assert record.lambda_tv.shape == (2,)
    assert record.lines == "Ba_La,Ti_Ka,O_Ka"
    assert "2 images of a series" in hyperspy_fusion.summarize(found)
    again = hyperspy_fusion.repeat(found, series, images)
    assert_array_equal(again[1].data, found[1].data)


def test_a_frame_without_an_element(overlap):
    _, haadf, truth = overlap
    without = [signal.deepcopy() for signal in truth]
    without[1].data = np.zeros_like(without[1].data)
    frames = [data.xray_spectra(maps, LINES, seed=3) for maps in (truth, without)]
    found = fuse_spectra(hs.stack(frames), hs.stack([haadf, haadf]), NAMES)
    kept = found[1].data.sum(axis=(1, 2)) / truth[1].data.sum()
    assert kept[0] == pytest.approx(1, rel=0.1)
    assert kept[1] < 0.02
    assert_array_equal(found[1].metadata.Multimodal_fusion.sum_kept[:, 1], [1, 0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("spectra", r"position \(1,\) of the series have 0 counts .* leave that"),
        ("haadf", r"HAADF image is constant \(7\.0\) at the position \(1,\) of the"),
        (
            "missing",
            "HAADF image has nothing but missing pixels: choose another, or leave",
        ),
        ("elastic", r"elastic image phase is constant \(0\.0\) at the position \(1,"),
    ],
)
def test_frames_that_cannot_be_fused(overlap, spoil, message):
    spectra, haadf, truth = overlap
    phase = data.elastic_image(truth, "phase")
    series = hs.stack([spectra, spectra])
    images, phases = (hs.stack([one, one * 1.0]) for one in (haadf, phase))
    if spoil == "spectra":
        series.data[1] = 0
    elif spoil == "elastic":
        phases.data[1] = 0
    else:
        images.data[1] = np.nan if spoil == "missing" else 7
    with pytest.raises(ValueError, match=message):
        fuse_spectra(series, images, NAMES, "Cu", elastic={"phase": phases}, **GIVEN)


def test_a_further_image_helps(overlap, fused):
    spectra, haadf, truth = overlap
    phase = data.elastic_image(truth, "phase")
    noise = phase.deepcopy()
    noise.data = np.random.default_rng(1).normal(100, 10, phase.data.shape)
    noise.metadata.General.title = "noise"
    given = {"elastic": [phase, noise]}
    found = fuse_spectra(spectra, haadf, NAMES, "Cu", n_replicas=4, **given)
    record = found[0].metadata.Multimodal_fusion
    assert record.lambda_elastic[0] > 0 == record.lambda_elastic[1]
    assert record.elastic_coefficients.shape == (2, 3)
    assert record.converged
    assert record.gap < 1e-3
    triples = zip(found, fused, truth, strict=True)
    errors = [error(one, t) / error(other, t) for one, other, t in triples]
    assert np.mean(errors) < 0.9
    model = hyperspy_fusion.get_haadf_model(found, "phase")
    assert np.corrcoef(model.data.ravel(), phase.data.ravel())[0, 1] > 0.95
    total, spread = hyperspy_fusion.propagate(lambda maps: maps[2].data.sum(), found)
    assert 0 < spread < 0.2 * total
    with pytest.raises(ValueError, match="had a further elastic image and none is"):
        hyperspy_fusion.repeat(found, spectra, haadf)
    again = hyperspy_fusion.repeat(found, spectra, haadf, **given)
    assert_array_equal(again[1].data, found[1].data)


def test_errors_of_maps_and_of_what_is_made_of_them(overlap):
    spectra, haadf, truth = overlap
    mask = np.zeros((48, 48), bool)
    mask[30:33, 30:33] = True
    given = {"mask": mask, **GIVEN}
    plain = fuse_spectra(spectra, haadf, NAMES, "Cu", **given)
    fused = fuse_spectra(
        spectra, haadf, NAMES, "Cu", uncertainty=True, n_replicas=8, **given
    )
    for one, before, true in zip(fused, plain, truth, strict=True):
        assert_array_equal(one.data, before.data)
        variance = one.metadata.Multimodal_fusion.variance.data
        distance = (one.data - true.data) ** 2
        assert variance.shape == (48, 48)
        assert 0.5 < np.mean(variance) / np.mean(distance) < 3
        assert np.mean(distance < 4 * variance) > 0.85
    sums = hyperspy_fusion.propagate(lambda maps: [m.data.sum() for m in maps], fused)
    share = fused[0].metadata.Multimodal_fusion.line_shares
    for value, std, part in zip(sums.value, sums.std, share, strict=True):
        # a part of the counts of an element, which overlap with others
        assert np.sqrt(value * part) < std < 4 * np.sqrt(value * part)


def test_a_forgotten_element_is_told(overlap):
    spectra, haadf, _ = overlap
    with pytest.warns(UserWarning, match=r"peak at 8\.0. keV that no line"):
        found = fuse_spectra(spectra, haadf, NAMES, **GIVEN)
    summary = hyperspy_fusion.summarize(found)
    assert "perhaps Cu_Ka" in summary
    assert "What to do: follow the warnings; fit_sum_spectrum" in summary


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"spectra": "line"}, ValueError, "1 navigation and 1 signal axes"),
        ({"spectra": "series"}, ValueError, "haadf"),
        ({"elastic": "small"}, ValueError, "24 x 24"),
        ({"lambda_elastic": 0.3}, ValueError, "lambda_elastic"),
        ({"spectra": "list"}, TypeError, "of type list: expected one signal"),
        ({"spectra": "plain"}, ValueError, "signal type ''"),
        ({"spectra": "halves"}, ValueError, "no whole numbers"),
        ({"haadf": "small"}, ValueError, "24 x 24"),
        ({"haadf": "constant"}, ValueError, "HAADF image is constant"),
        ({"elements": ["Ba", "Xx"]}, ValueError, "Xx"),
        ({"elements": ["Ba", "Ba"]}, ValueError, "Ba is named twice"),
        ({"other_elements": ["Ti"]}, ValueError, "Ti is named twice"),
        ({"elements": None}, ValueError, "names no elements"),
        ({"lines": ["Fe_Ka"]}, ValueError, "disagree"),
        ({"lines": ["Ti_Zz"]}, ValueError, "not a line of Ti"),
        ({"mask": np.zeros((3, 3), bool)}, ValueError, r"expected bool.*\(48, 48\)"),
        ({"energy_range": (6, 5)}, ValueError, "energy_range is"),
        ({"energy_range": (1, 12)}, ValueError, "O has no line within"),
        (
            {"energy_range": (0.2, 4.6), "lines": ["Ti_Kb"], "other_elements": None},
            ValueError,
            "Ti_Kb is out",
        ),
        ({"lambda_tv": -1}, ValueError, "lambda_tv"),
    ],
)
@pytest.mark.filterwarnings("ignore:the sum spectrum has a peak")
def test_wrong_inputs(overlap, arguments, kind, message):
    spectra, haadf, _ = overlap
    changed = spectra.deepcopy()
    what = arguments.get("spectra")
    if what == "line":
        changed = changed.inav[:, 0]
    elif what == "series":
        changed = hs.stack([changed, changed])
    elif what == "list":
        changed = [changed]
    elif what == "plain":
        changed.set_signal_type("")
    elif what == "halves":
        changed = changed * 0.5
    images = {
        "small": haadf.isig[:24, :24],
        "constant": Signal2D(np.ones_like(haadf.data)),
    }
    given = {
        "elements": NAMES,
        "other_elements": ["Cu"],
        **GIVEN,
        **arguments,
        "spectra": changed,
        "haadf": images.get(arguments.get("haadf"), haadf),
        "elastic": images.get(arguments.get("elastic")),
    }
    with pytest.raises(kind, match=message):
        fuse_spectra(**given)


def test_components_that_are_alike_are_refused():
    rng = np.random.default_rng(0)
    one, other = rng.uniform(0, 1, (2, 50))
    for factor, alike in ((1.0, True), (1 + 0.1 * rng.normal(size=50), False)):
        shapes = np.stack([one, other, other * factor], axis=1)
        shapes /= shapes.sum(axis=0)
        if alike:
            with pytest.raises(ValueError, match="S and Mo cannot be told apart"):
                _check_apart(("Fe", "S", "Mo"), shapes, np.array([3.0, 1.0, 2.0]))
        else:
            _check_apart(("Fe", "S", "Mo"), shapes, np.array([3.0, 1.0, 2.0]))


def test_maps_are_not_spectra(overlap, fused):
    spectra, haadf, _ = overlap
    with pytest.raises(ValueError, match="0 navigation and 2 signal axes"):
        fuse_spectra(fused[0], haadf, NAMES)
    with pytest.raises(ValueError, match="fuse_spectra"):
        hyperspy_fusion.fuse_multimodal(spectra, haadf)


def test_the_common_area(overlap):
    spectra, haadf, _ = overlap
    cropped = spectra.inav[6:42, 10:]
    given = {"elements": NAMES, "other_elements": "Cu", **GIVEN}
    fused = fuse_spectra(cropped, haadf, match="axes", **given)
    expected = fuse_spectra(cropped, haadf.isig[6:42, 10:], **given)
    for one, other in zip(fused, expected, strict=True):
        assert one.data.shape == (38, 36)
        assert_allclose(one.data, other.data, atol=0.02 * other.data.max())
    binned = haadf.rebin(scale=(2, 2))
    fused = fuse_spectra(spectra, binned, match="axes", **given)
    assert fused[0].data.shape == (24, 24)
    whole = fuse_spectra(spectra, haadf, **given)
    sums = [[signal.data.sum() for signal in each] for each in (fused, whole)]
    assert_allclose(*sums, rtol=0.03)
    again = hyperspy_fusion.repeat(fused, spectra, binned)
    assert_array_equal(again[0].data, fused[0].data)


def test_weights_of_spectra_have_no_images(overlap, fused):
    _, haadf, truth = overlap
    with pytest.raises(ValueError, match="these come from spectra"):
        hyperspy_fusion.plot_weights(fused, truth, haadf, images=True)


def windows_of(spectra, haadf):
    with pytest.warns(UserWarning, match="X-ray lines overlap"):
        return hyperspy_fusion.load_multimodal([spectra, haadf], NAMES).maps


def test_spectra_are_shown_as_windows_of_the_lines(overlap, fused):
    spectra, haadf, _ = overlap
    windows = windows_of(spectra, haadf)
    before = spectra.deepcopy()
    axes = hyperspy_fusion.plot_fusion(spectra, fused, haadf)
    expected = hyperspy_fusion.plot_fusion(windows, fused, haadf)
    of_lazy = hyperspy_fusion.plot_fusion(spectra.as_lazy(), fused, haadf)
    assert [ax.get_title() for ax in axes[:4]] == [
        "HAADF",
        *(f"{line} window" for line in LINES),
    ]
    assert [ax.get_title() for ax in expected[1:4]] == NAMES
    for each in zip(axes, expected, of_lazy, strict=True):
        one, *others = (ax.images[0].get_array() for ax in each)
        for other in others:
            assert_array_equal(one, other)
    colour_bar = axes[1].images[0].colorbar
    assert colour_bar.ax.get_ylabel() == "counts"
    assert spectra.metadata.as_dictionary() == before.metadata.as_dictionary()


def test_windows_of_a_series_and_of_the_common_area(overlap):
    spectra, haadf, _ = overlap
    turned, image = spectra.deepcopy(), haadf.deepcopy()
    turned.data, image.data = spectra.data[::-1], haadf.data[::-1]
    series, images = hs.stack([spectra, turned]), hs.stack([haadf, image])
    fused = fuse_spectra(series, images, NAMES, "Cu", **GIVEN)
    axes = hyperspy_fusion.plot_fusion(series, fused, images, inav=1)
    first = hyperspy_fusion.plot_fusion(series, fused, images, inav=0)
    of_second, of_first = (a[1].images[0].get_array() for a in (axes, first))
    assert_array_equal(of_second, of_first[::-1])
    assert (of_second != of_first).any()
    cropped = spectra.inav[6:42, 10:]
    fused = fuse_spectra(cropped, haadf, NAMES, "Cu", match="axes", **GIVEN)
    axes = hyperspy_fusion.plot_fusion(cropped, fused, haadf)
    assert axes[1].images[0].get_array().shape == (38, 36)


@pytest.mark.parametrize("given", ["spectra", "windows"])
def test_the_misfit_of_windows_is_not_judged(overlap, fused, given):
    spectra, haadf, _ = overlap
    maps = spectra
    if given == "windows":
        maps = windows_of(spectra, haadf)
    axes = hyperspy_fusion.plot_misfit(maps, fused, haadf)
    assert [ax.get_title() for ax in axes] == ["HAADF", "image − model"]
    (caption,) = (text.get_text() for text in axes[0].figure.texts)
    assert "contradicts the maps nowhere" in caption
    found = hyperspy_fusion.get_misfit(maps, fused, haadf)
    model = hyperspy_fusion.get_haadf_model(fused)
    assert_allclose(found.data, haadf.data - model.data)
    with pytest.raises(ValueError, match="not defined for windows, which hold other"):
        hyperspy_fusion.get_misfit(maps, fused, haadf, standardised=True)


def test_maps_in_the_place_of_spectra(overlap, fused):
    spectra, haadf, truth = overlap
    with pytest.raises(ValueError, match=r"fused from spectra, and .* are none"):
        hyperspy_fusion.repeat(fused, truth, haadf)
    maps, haadf, _ = data.lattice(48, counts=6)
    of_maps = hyperspy_fusion.fuse_multimodal(maps, haadf, **GIVEN)
    with pytest.raises(ValueError, match="Spectra are turned into maps by"):
        hyperspy_fusion.plot_fusion(spectra, of_maps, haadf)
