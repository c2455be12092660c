"""What the pictures show, read back from their figures."""

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.contour import ContourSet
from matplotlib.patches import Rectangle
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion import (
    ElementalMap,
    HAADFImage,
    data,
    fuse_multimodal,
    fuse_published,
    get_haadf_model,
    get_misfit,
    plot_convergence,
    plot_fusion,
    plot_misfit,
    plot_weights,
)
from hyperspy_fusion.core.common.spans import spans_of
from hyperspy_fusion.derived import flagged_pixels

OPTIONS = {"n_iter": 4}
CALIBRATED = {"background": 0.02}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fusion():
    """Maps, fused maps and HAADF image of 32 x 32 pixels of 2 nm."""
    maps, haadf, _ = data.core_shell(32)
    return maps, fuse_published(maps, haadf, **OPTIONS), haadf


@pytest.fixture(scope="module")
def calibrated():
    """Fused maps of the calibrated method."""
    maps, haadf, _ = data.core_shell(32)
    return fuse_multimodal(maps, haadf, **CALIBRATED)


@pytest.fixture(scope="module")
def two(series_of):
    return series_of(*(data.core_shell(32, seed=seed) for seed in (1, 2)))


@pytest.fixture(scope="module")
def series(two):
    """What `fusion` is for a series of two measurements."""
    maps, haadf = two
    return maps, fuse_published(maps, haadf, **OPTIONS), haadf


@pytest.fixture(scope="module")
def calibrated_series(two):
    return fuse_multimodal(*two, **CALIBRATED)


def shown(panel):
    return np.asarray(panel.images[0].get_array())


class TestFusion:
    def test_panels_show_the_images(self, fusion):
        maps, fused, haadf = fusion
        found = plot_fusion(*fusion)
        titles = ["HAADF", "Co", "Mn", "O"]
        titles += ["HAADF model", "Co fused", "Mn fused", "O fused"]
        assert [panel.get_title() for panel in found] == titles
        expected = [haadf, *maps, get_haadf_model(fused), *fused]
        for panel, signal in zip(found, expected, strict=True):
            assert_allclose(shown(panel), signal.data)
            assert panel.images[0].get_extent() == [-1, 63, 63, -1]

    def test_a_map_and_its_fused_map_share_their_colours(self, fusion):
        found = plot_fusion(*fusion)
        for above, below in zip(found[:4], found[4:], strict=True):
            assert above.images[0].get_clim() == below.images[0].get_clim()
            assert above.images[0].cmap == below.images[0].cmap
        for above, fused in zip(found[1:4], fusion[1], strict=True):
            low, high = above.images[0].get_clim()
            assert low == 0
            assert high >= np.percentile(fused.data, 99)

    def test_an_image_that_was_not_used_is_named(self, fusion):
        maps, _, haadf = fusion
        fused = fuse_multimodal(maps, haadf, lambda_tv=4, lambda_haadf=0)
        titles = [axes.get_title() for axes in plot_fusion(maps, fused, haadf)]
        assert "Co without HAADF" in titles
        assert not [title for title in titles if title.endswith("fused")]

    def test_colour_bars_name_the_quantity_and_what_is_beyond(self, fusion):
        found = plot_fusion(*fusion)
        for panel in found:
            bar = panel.images[0].colorbar
            low, high = panel.images[0].get_clim()
            assert (bar.extend in ("min", "both")) == (shown(panel).min() < low)
            assert (bar.extend in ("max", "both")) == (shown(panel).max() > high)
        labels = [panel.images[0].colorbar.ax.get_ylabel() for panel in found]
        assert labels == ["intensity (arb. units)", *["X-rays (counts)"] * 3] * 2

    @pytest.mark.parametrize("shape", [(16, 160), (160, 16)])
    def test_oblong_images_have_room_for_labels_and_fit_on_a_screen(self, shape):
        rng = np.random.default_rng(0)
        maps = [ElementalMap(rng.poisson(2.0, shape)) for _ in range(2)]
        for signal in maps:
            signal.metadata.Signal.quantity = "X-rays (counts)"
        haadf = HAADFImage(rng.random(shape))
        fused = fuse_published(maps, haadf, elements=["C", "N"], **OPTIONS)
        found = plot_fusion(maps, fused, haadf)
        figure = found[0].figure
        figure.canvas.draw()
        assert max(figure.get_size_inches()) < 16
        for panel in found:
            bar = panel.images[0].colorbar.ax
            flat = shape[0] < shape[1]
            label = bar._right_title if flat else bar.yaxis.label
            assert label.get_text().endswith(("(counts)", "(arb. units)"))
            box = label.get_window_extent()
            assert not box.overlaps(panel.get_window_extent())
            assert not box.overlaps(panel.title.get_window_extent())
            assert bar.get_window_extent().width < 0.2 * figure.dpi

    def test_scale_bar_carries_the_units(self, fusion):
        found = plot_fusion(*fusion)
        assert [hasattr(panel, "scalebar") for panel in found] == [1, *[0] * 7]
        assert found[0].scalebar.text.get_text() == r"$20\,$nm"
        assert found[0].scalebar.length == 20

    def test_uncalibrated_images_have_no_scale_bar(self):
        rng = np.random.default_rng(0)
        iron = ElementalMap(rng.poisson(2.0, (16, 16)))
        haadf = HAADFImage(rng.random((16, 16)))
        fused = fuse_published([iron], haadf, elements=["Fe"], **OPTIONS)
        found = plot_fusion([iron], fused, haadf)
        assert len(found) == 4
        assert not any(hasattr(panel, "scalebar") for panel in found)

    @pytest.mark.parametrize(
        "zoom", [(10, 20, 30, 50), hs.roi.RectangularROI(10, 20, 30, 50)]
    )
    def test_zoom_is_framed_and_enlarged(self, fusion, zoom):
        maps, fused, haadf = fusion
        found = plot_fusion(*fusion, zoom=zoom)
        assert len(found) == 16
        for panel, signal in zip(found[8:12], [haadf, *maps], strict=True):
            assert_allclose(shown(panel), signal.data[10:25, 5:15])
            assert panel.images[0].get_extent() == [9, 29, 49, 19]
        assert hasattr(found[8], "scalebar")
        for panel, signal in zip(found[13:], fused, strict=True):
            assert_allclose(shown(panel), signal.data[10:25, 5:15])
        for panel in found[:8]:
            (frame,) = [p for p in panel.patches if type(p) is Rectangle]
            assert frame.get_bbox().bounds == (9, 19, 20, 30)
        assert not any(panel.patches for panel in found[8:])
        assert found[8].images[0].get_clim() == found[0].images[0].get_clim()

    @pytest.mark.parametrize(
        "zoom",
        [
            (0, 0, 10),
            (0, 0, 10, 100),
            (10, 10, 0, 20),
            (0, 0, 1, 1),
            ("a", 0, 10, 10),
            5,
            hs.roi.RectangularROI(),
        ],
    )
    def test_zoom_outside_of_the_image(self, fusion, zoom):
        with pytest.raises(ValueError, match=r"zoom is .* x in -1 to 63 .* nm"):
            plot_fusion(*fusion, zoom=zoom)

    @pytest.mark.parametrize(
        ("n_elements", "shape"), [(1, (20, 20)), (12, (16, 20)), (3, (16, 200))]
    )
    def test_any_number_of_elements_and_any_shape(self, n_elements, shape):
        elements = ["C", "N", "O", "Al", "Si", "Ti", "Cr", "Mn", "Fe", "Co", "Ni", "Cu"]
        elements = elements[:n_elements]
        rng = np.random.default_rng(0)
        maps = [ElementalMap(rng.poisson(2.0, shape)) for _ in elements]
        haadf = HAADFImage(rng.random(shape))
        fused = fuse_published(maps, haadf, elements=elements, **OPTIONS)
        found = plot_fusion(maps, fused, haadf)
        figure = found[0].figure
        titles = [panel.get_title() for panel in found]
        assert sorted(titles) == sorted(
            ["HAADF", "HAADF model", *elements, *(f"{e} fused" for e in elements)]
        )
        assert figure.get_figwidth() <= 15
        figure.canvas.draw()
        # Titles lie above their own image and do not touch those beside them.
        renderer = figure.canvas.get_renderer()
        boxes = [panel.title.get_window_extent(renderer) for panel in found]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        # Below each map is its fused map.
        at = {panel.get_title(): panel.get_position() for panel in found}
        for element in elements:
            above, below = at[element], at[f"{element} fused"]
            assert_allclose((above.x0, above.x1), (below.x0, below.x1), atol=0.01)
            assert above.y0 > below.y1

    def test_a_stack_and_a_list_of_candidates(self, fusion):
        maps, fused, haadf = fusion
        stack = hs.stack(maps, show_progressbar=False)
        found = plot_fusion(stack, fused, [fused[0], haadf])
        assert_allclose(shown(found[0]), haadf.data)
        assert_allclose(shown(found[3]), maps[2].data)
        again = plot_fusion(stack, hs.stack(fused), haadf)
        for panel, other in zip(found, again, strict=True):
            assert panel.get_title() == other.get_title()
            assert_allclose(shown(panel), shown(other))

    def test_one_position_of_a_series(self, series):
        maps, fused, haadf = series
        found = plot_fusion(*series, inav=1)
        expected = [haadf.inav[1], *(signal.inav[1] for signal in maps)]
        expected += [get_haadf_model(fused).inav[1], *(s.inav[1] for s in fused)]
        for panel, signal in zip(found, expected, strict=True):
            assert_allclose(shown(panel), signal.data)

    def test_a_series_needs_a_position(self, series):
        with pytest.raises(ValueError, match=r"series of shape \(2,\).* inav="):
            plot_fusion(*series)

    def test_maps_of_another_fusion(self, fusion, series):
        maps, _, haadf = fusion
        with pytest.raises(ValueError, match="expected the maps of one fusion"):
            plot_fusion(maps, series[1], haadf)

    def test_what_was_not_fused(self, fusion):
        maps, _, haadf = fusion
        with pytest.raises(ValueError, match="no metadata.Multimodal_fusion"):
            plot_fusion(maps, maps, haadf)

    @pytest.mark.parametrize("form", ["number", "maps"])
    def test_background_is_not_shown(self, form):
        maps, haadf, _ = data.core_shell(32)
        background = 0.03
        if form == "maps":
            background = [signal * 0 + 0.03 for signal in maps]
        weights = {"lambda_tv": 4, "lambda_haadf": 0.1}
        fused = fuse_multimodal(maps, haadf, background, **weights)
        found = plot_fusion(maps, fused, haadf, background)
        for panel, signal in zip(found[1:4], maps, strict=True):
            assert_allclose(shown(panel), signal.data - 0.03, atol=1e-12)

    def test_a_background_of_the_vacuum_is_not_shown(self):
        maps, haadf, _ = data.core_shell(96)
        fused = fuse_multimodal(maps, haadf, lambda_tv=4, lambda_haadf=0.1)
        found = plot_fusion(maps, fused, haadf)
        background = fused[0].metadata.Multimodal_fusion.vacuum_background
        assert background.min() > 0
        for panel, signal, level in zip(found[1:4], maps, background, strict=True):
            assert_allclose(shown(panel), signal.data - level, atol=1e-12)

    @pytest.mark.parametrize(("n_elements", "shape"), [(3, (32, 32)), (1, (200, 16))])
    def test_caption_is_two_lines_beside_nothing(self, n_elements, shape):
        rng = np.random.default_rng(0)
        maps = [ElementalMap(rng.poisson(2.0, shape)) for _ in range(n_elements)]
        haadf = HAADFImage(rng.random(shape))
        elements = ["C", "N", "O"][:n_elements]
        fused = fuse_published(maps, haadf, elements=elements, **OPTIONS)
        figure = plot_fusion(maps, fused, haadf)[0].figure
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        (caption,) = figure.texts
        assert caption.get_text() == (
            "Published method. HAADF image used.\nEnded after 4 iterations, no warning."
        )
        box = caption.get_window_extent(renderer)
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        others = [axes.get_tightbbox(renderer) for axes in figure.axes]
        assert not any(box.overlaps(other) for other in others)

    def test_missing_pixels_are_left_blank(self):
        maps, haadf, _ = data.core_shell(32)
        maps[0].data[4:8, 5:9] = haadf.data[:2] = np.nan
        fused = fuse_multimodal(maps, haadf, lambda_tv=4, lambda_haadf=0.1)
        found = plot_fusion(maps, fused, haadf)
        for panel in found:
            assert np.isfinite(panel.images[0].get_clim()).all()
        assert np.ma.getmaskarray(found[1].images[0].get_array()).sum() == 16
        assert not np.ma.is_masked(found[5].images[0].get_array())

    def test_options_of_the_picture(self, fusion):
        figure = plt.figure(figsize=(12, 6))
        found = plot_fusion(
            *fusion, fig=figure, cmap="viridis", scalebar=False, axes_decor="ticks"
        )
        assert all(panel.figure is figure for panel in found)
        assert plt.get_fignums() == [figure.number]
        assert found[1].images[0].cmap.name == "viridis"
        assert found[0].images[0].cmap.name == "gray"
        assert not hasattr(found[0], "scalebar")
        assert len(found[0].get_xticks()) > 0


@pytest.fixture(scope="module")
def contradicted():
    """A fusion whose HAADF image has a spot that no map explains."""
    maps, haadf, _ = data.core_shell(64)
    haadf.data[4:20, 40:56] += 0.5 * haadf.data.max()
    with pytest.warns(UserWarning, match="contradicts the maps in"):
        fused = fuse_multimodal(maps, haadf, lambda_tv=4, lambda_haadf=0.1)
    return maps, fused, haadf


@pytest.fixture(scope="module")
def contradicted_series(contradicted, series_of):
    """A series of two, whose HAADF image has such a spot at the second position."""
    maps, _, haadf = contradicted
    quiet = data.core_shell(64)
    maps, haadf = series_of(quiet, data.Specimen(maps, haadf, quiet.truth))
    with pytest.warns(UserWarning, match="contradicts the maps in"):
        fused = fuse_multimodal(maps, haadf, lambda_tv=4, lambda_haadf=0.1)
    return maps, fused, haadf


def outlines(panel):
    """The regions that are outlined, as paths."""
    return [c.get_paths() for c in panel.collections if isinstance(c, ContourSet)]


class TestFlaggedPixels:
    def test_they_are_outlined_in_image_and_model(self, contradicted):
        found = plot_fusion(*contradicted)
        for panel in (found[0], found[4]):
            ((path,),) = outlines(panel)
            assert path.contains_point((48, 12))  # in nm, within the spot
            assert not path.contains_point((15, 50))
            (left, _), (right, bottom) = path.get_extents().get_points()
            assert left < 40
            assert right > 55
            assert 19 < bottom < 45
            assert panel.get_xlim() == (-0.5, 63.5)
        assert not any(outlines(panel) for panel in found[1:4])
        assert "pixels (outlined)." in found[0].figure.texts[0].get_text()

    def test_they_are_those_that_the_fusion_left_out(self, contradicted):
        found = flagged_pixels(contradicted[1])
        assert found.dtype == bool
        share = contradicted[1][0].metadata.Multimodal_fusion.flagged
        assert found.mean() == pytest.approx(share)
        assert found[6:18, 42:54].all()

    def test_of_a_series(self, contradicted, contradicted_series):
        fused, both = contradicted[1], contradicted_series[1]
        for found in (both, [signal.isig[:, 8:] for signal in both]):
            none, some = flagged_pixels(found)
            assert not none.any()
            assert_array_equal(some, flagged_pixels(fused)[-len(some) :])

    def test_none(self, fusion, calibrated):
        assert not flagged_pixels(calibrated).any()
        assert not flagged_pixels(fusion[1]).any()

    def test_all(self, contradicted):
        maps, fused, haadf = contradicted
        other = [signal.deepcopy() for signal in fused]
        spans = spans_of(np.ones(haadf.data.shape, dtype=bool))
        for signal in other:
            signal.metadata.Multimodal_fusion.flagged = 1.0
            signal.metadata.Multimodal_fusion.flagged_spans = spans
        assert flagged_pixels(other).all()
        assert not any(map(outlines, plot_fusion(maps, other, haadf)))

    @pytest.mark.parametrize("stacked", [False, True])
    def test_of_a_part(self, contradicted, stacked):
        maps, fused, haadf = contradicted
        whole = flagged_pixels(fused)
        if stacked:
            parts = list(hs.stack(fused, show_progressbar=False).isig[44:, 10:40])
            parts = [part.deepcopy() for part in parts]
        else:
            parts = [signal.isig[44:, 10:40] for signal in fused]
        assert_array_equal(flagged_pixels(parts), whole[10:40, 44:])
        found = plot_fusion(
            [m.isig[44:, 10:40] for m in maps], parts, haadf.isig[44:, 10:40]
        )
        assert outlines(found[0])
        again = [part.isig[2:, 3:] for part in parts]
        assert_array_equal(flagged_pixels(again), whole[13:40, 46:])

    @pytest.mark.parametrize("lazy", [False, True])
    def test_not_known(self, contradicted, lazy):
        maps, fused, haadf = contradicted
        if lazy:
            given = {"lambda_tv": 4, "lambda_haadf": 0.1, "lazy_output": True}
            fused = fuse_multimodal(maps, haadf, **given)
            assert_array_equal(flagged_pixels(fused), flagged_pixels(contradicted[1]))
        transposed = [signal.transpose(signal_axes=(1, 0)) for signal in fused]
        stepped = [signal.isig[::2, ::2] for signal in fused]
        cropped = [signal.deepcopy() for signal in fused]
        for signal in cropped:
            signal.crop(0, 8, 40)
        if lazy:
            with pytest.warns(UserWarning, match="contradicts the maps in"):
                transposed[0].compute()
        for other in (transposed, stepped, cropped):
            assert not flagged_pixels(other).any()

    @pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")
    @pytest.mark.parametrize("extension", ["hspy", "zspy", "nxs"])
    def test_saved(self, contradicted, extension, tmp_path):
        path = tmp_path / f"map.{extension}"
        contradicted[1][0].save(path)
        for lazy in (False, True):
            back = hs.load(path, lazy=lazy)
            back = back[0] if isinstance(back, list) else back
            assert_array_equal(flagged_pixels([back]), flagged_pixels(contradicted[1]))

    def test_misfit(self, contradicted):
        _, _, haadf = contradicted
        image, difference, local = plot_misfit(*contradicted)
        assert_allclose(shown(image), haadf.data)
        assert_allclose(shown(difference), get_misfit(*contradicted).data)
        z = get_misfit(*contradicted, standardised=True).data
        assert_allclose(shown(local), z)
        for panel in (difference, local):
            low, high = panel.images[0].get_clim()
            assert low == -high
        assert high >= 4.5
        assert all(map(outlines, (image, difference, local)))
        text = image.figure.texts[0].get_text()
        assert "was not used in" in text
        assert "(outlined)" in text
        labels = [p.images[0].colorbar.ax.get_ylabel() for p in (image, local)]
        assert labels == ["intensity (arb. units)", "standard deviations"]

    def test_misfit_that_the_final_coefficients_explain(self, contradicted):
        maps, fused, _ = contradicted
        model = get_haadf_model(fused)
        weightless = [signal.deepcopy() for signal in fused]
        for signal in weightless:
            signal.metadata.Multimodal_fusion.lambda_haadf = 0.0
        found = plot_misfit(maps, weightless, model)
        assert all(map(outlines, found))
        text = found[0].figure.texts[0].get_text()
        assert text.endswith("of the pixels (outlined); its weight is 0.")

    def test_misfit_without_a_slow_part(self, two):
        maps, haadf = ([signal.inav[0] for signal in two[0]], two[1].inav[0])
        haadf = haadf.deepcopy() + np.linspace(0, np.ptp(haadf.data), len(haadf.data))
        with pytest.warns(UserWarning, match="has a slowly varying part"):
            fused = fuse_multimodal(maps, haadf, CALIBRATED["background"])
        _, _, local = plot_misfit(maps, fused, haadf, CALIBRATED["background"])
        assert np.abs(shown(local)).max() < 4.5
        text = local.figure.texts[0].get_text()
        assert "The image, without its slow part, contradicts the maps nowhere" in text

    def test_misfit_of_what_has_no_guard(self, fusion):
        image, difference = plot_misfit(*fusion)
        assert difference.get_title() == "image − model"
        text = image.figure.texts[0].get_text()
        assert text == "Positive: the image is brighter than the maps tell."

    def test_of_one_position(self, contradicted_series):
        maps, both, haadf = contradicted_series
        share = both[0].metadata.Multimodal_fusion.flagged[1]
        texts = [
            plot_misfit(maps, both, haadf, inav=k)[0].figure.texts[0].get_text()
            for k in (0, 1)
        ]
        assert "nowhere so much" in texts[0]
        assert f"in {100 * share:.2g} % of the pixels" in texts[1]
        texts = [
            plot_fusion(maps, both, haadf, inav=k)[0].figure.texts[0].get_text()
            for k in (0, 1)
        ]
        assert "not in" not in texts[0]
        assert f"not in {100 * share:.2g} % of the pixels" in texts[1]

    def test_misfit_of_a_series(self, two, calibrated_series):
        maps, haadf = two
        found = plot_misfit(
            maps, calibrated_series, haadf, CALIBRATED["background"], inav=1
        )
        assert_allclose(shown(found[0]), haadf.inav[1].data)
        assert "nowhere so much" in found[0].figure.texts[0].get_text()
        with pytest.raises(ValueError, match=r"series of shape \(2,\).* inav="):
            plot_misfit(maps, calibrated_series, haadf)


class TestConvergence:
    def test_curves_and_weights(self, fusion):
        fused = fusion[1]
        found = plot_convergence(fused)
        record = fused[0].metadata.Multimodal_fusion
        assert [axes.get_title() for axes in found] == [
            "Total cost",
            "HAADF, λ = 0.333",
            "Chemical (Poisson), λ = 0.08",
            "Total variation, λ = 0.15",
        ]
        terms = ("total", "haadf", "chemical", "tv")
        for axes, term in zip(found, terms, strict=True):
            (line,) = axes.lines
            assert_allclose(line.get_xdata(), [1, 2, 3, 4])
            assert_allclose(line.get_ydata(), record.cost[term])
        first, *others = found
        assert all(first.get_shared_x_axes().joined(first, axes) for axes in others)

    def test_calibrated(self, calibrated):
        found = plot_convergence(calibrated)
        record = calibrated[0].metadata.Multimodal_fusion
        assert [axes.get_title() for axes in found] == [
            "Total cost",
            f"HAADF, λ = {record.lambda_haadf:.3g}",
            "Chemical",
            f"TGV, λ = {record.lambda_tv:.3g}",
        ]
        (line,) = found[0].lines
        assert_allclose(line.get_xdata(), record.cost_iterations)
        assert line.get_xdata()[0] == 1
        assert_allclose(line.get_ydata(), record.cost.total)

    def test_a_sentence_tells_how_it_ended(self, fusion, calibrated):
        record = calibrated[0].metadata.Multimodal_fusion
        (axes, *_) = plot_convergence(calibrated)
        assert axes.figure.texts[0].get_text().splitlines()[0] == (
            f"Converged after {record.n_iter} iterations: the total cost is at most "
            f"{100 * record.gap:.2g} % above its minimum. Points show where it "
            "was computed."
        )
        (axes, *_) = plot_convergence(fusion[1])
        *_, before, last = fusion[1][0].metadata.Multimodal_fusion.cost.total
        change = 100 * abs(last - before) / last
        assert axes.figure.texts[0].get_text().splitlines()[0] == (
            "Ended after 4 iterations: the last changed the total cost by "
            f"{change:.2g} %."
        )
        assert axes.get_ylabel() == "cost"

    def test_it_says_whether_the_total_rises(self, fusion, calibrated):
        (axes, *_) = plot_convergence(calibrated)
        caption = axes.figure.texts[0].get_text()
        assert "The total falls; a term may rise" in caption
        fused = fusion[1][0].deepcopy()
        fused.metadata.Multimodal_fusion.cost.total = np.array([3.0, 1.0, 2.0, 1.0])
        (axes, *_) = plot_convergence(fused)
        assert "The total rises in 1 of 3 steps" in axes.figure.texts[0].get_text()

    def test_plain_total_variation(self):
        maps, haadf, _ = data.core_shell(32)
        fused = fuse_multimodal(
            maps, haadf, regularizer="tv", lambda_tv=4, lambda_haadf=0.1
        )
        titles = [axes.get_title() for axes in plot_convergence(fused)]
        assert titles[-1] == "Total variation, λ = 4"

    def test_one_map_shows_the_same(self, fusion):
        one, all_of_them = plot_convergence(fusion[1][2]), plot_convergence(fusion[1])
        for a, b in zip(one, all_of_them, strict=True):
            assert_allclose(a.lines[0].get_ydata(), b.lines[0].get_ydata())

    def test_a_line_for_each_position(self, series):
        found = plot_convergence(series[1])
        cost = series[1][0].metadata.Multimodal_fusion.cost
        for axes, term in zip(found, ("total", "haadf"), strict=False):
            for line, expected in zip(axes.lines, cost[term], strict=True):
                assert_allclose(line.get_ydata(), expected)
        assert found[0].figure.get_suptitle() == "2 positions, from dark to light"

    def test_weights_of_positions_as_a_range(self, series):
        fused = series[1][0].deepcopy()
        fused.metadata.Multimodal_fusion.lambda_tv = np.array([0.1, 0.25])
        found = plot_convergence(fused)
        assert found[3].get_title() == "Total variation, λ = 0.1 to 0.25"

    def test_what_was_not_fused(self, fusion):
        with pytest.raises(ValueError, match="no metadata.Multimodal_fusion"):
            plot_convergence(fusion[0])


@pytest.mark.parametrize("plot", [plot_convergence, plot_weights])
def test_no_map_at_all(plot):
    with pytest.raises(ValueError, match="empty list: expected the maps"):
        plot([])


class TestWeights:
    def test_curves_and_what_was_chosen(self, calibrated):
        (axes,) = plot_weights(calibrated)
        record = calibrated[0].metadata.Multimodal_fusion
        tried = record.weights_tried
        *curves, ring = axes.lines
        assert len(curves) == len(np.unique(tried[:, 1]))
        for curve, weight in zip(curves, np.unique(tried[:, 1]), strict=True):
            rows = tried[tried[:, 1] == weight]
            rows = rows[rows[:, 0].argsort()]
            assert_allclose(curve.get_xdata(), rows[:, 0])
            errors = 100 * (rows[:, 2] / tried[:, 2].min() - 1)
            assert_allclose(curve.get_ydata(), errors)
            label = f"{weight:g}" if weight else "0, without the image"
            assert curve.get_label() == label
        (x,), (y,) = ring.get_data()
        assert x == record.lambda_tv
        of_weight = np.unique(tried[:, 1]).tolist().index(record.lambda_haadf)
        low, high = (f(curves[of_weight].get_ydata()) for f in (min, max))
        assert low <= y <= high
        assert ring.get_label() == f"chosen, λ$_{{TV}}$ = {x:.3g}"
        assert axes.get_xscale() == "log"
        shown = [tick.get_text() for tick in axes.get_xticklabels()]
        assert shown == [f"{x:.3g}" for x in np.unique(tried[:, 0])]

    def test_one_map_shows_the_same(self, calibrated):
        one, all_of_them = plot_weights(calibrated[2]), plot_weights(calibrated)
        for a, b in zip(one[0].lines, all_of_them[0].lines, strict=True):
            assert_allclose(a.get_xydata(), b.get_xydata())

    def test_weights_that_were_given(self):
        maps, haadf, _ = data.core_shell(32)
        fused = fuse_multimodal(maps, haadf, lambda_tv=3, lambda_haadf=0.1)
        with pytest.raises(ValueError, match="no weights that were chosen"):
            plot_weights(fused)
        fused = fuse_multimodal(maps, haadf, lambda_tv=3)
        *_, ring = plot_weights(fused)[0].lines
        assert ring.get_xdata() == 3

    def test_no_curve_hides_another_one(self, calibrated):
        *curves, _ = plot_weights(calibrated)[0].lines
        sizes = [curve.get_markersize() for curve in curves]
        assert len(sizes) > 2
        assert sizes == sorted(set(sizes), reverse=True)
        assert len({curve.get_marker() for curve in curves}) == len(curves)
        widths = [curve.get_linewidth() for curve in curves]
        assert widths == sorted(set(widths), reverse=True)
        order = [curve.get_zorder() for curve in curves]
        assert order == sorted(order)

    @pytest.mark.parametrize("method", ["calibrated", "published"])
    def test_images_of_low_right_and_high_weights(self, method):
        maps, haadf, _ = data.core_shell(32)
        if method == "calibrated":
            given = {"background": 0.02}
            fused = fuse_multimodal(maps, haadf, lambda_haadf=0.1, **given)
            options, fuse = {"lambda_haadf": 0.1, **given}, fuse_multimodal
        else:
            given, options, fuse = {}, {"n_iter": 4, "gamma": 1.7}, fuse_published
            fused = fuse(maps, haadf, **options)
        found = plot_weights(fused, maps, haadf, images=True, cmap="viridis", **given)
        assert [panel.get_title() for panel in found[::3]] == [
            "Co, under",
            "Co, right",
            "Co, over",
        ]
        weight = fused[0].metadata.Multimodal_fusion.lambda_tv
        for panels, factor in ((found[:3], 0.25), (found[6:], 4)):
            expected = fuse(maps, haadf, lambda_tv=weight * factor, **options)
            for panel, signal in zip(panels, expected, strict=True):
                assert_allclose(shown(panel), signal.data, rtol=1e-5)
        for panel, signal in zip(found[3:6], fused, strict=True):
            assert_allclose(shown(panel), signal.data)
        clims = {panel.images[0].get_clim() for panel in found[::3]}
        assert len(clims) == 1
        text = found[0].figure.texts[0].get_text()
        assert f"right: λ$_{{TV}}$ = {weight:.3g}" in text

    def test_maps_of_other_weights_need_no_replicas(self, monkeypatch):
        maps, haadf, _ = data.core_shell(32)
        fused = fuse_multimodal(
            maps, haadf, lambda_tv=4, lambda_haadf=0.1, n_replicas=2, uncertainty=True
        )
        refits = "hyperspy_fusion.core.calibrated.method.uncertainty"
        monkeypatch.setattr(refits, lambda *_, **__: pytest.fail("there were refits"))
        assert len(plot_weights(fused, maps, haadf, images=True)) == 9

    def test_other_weights_have_the_options_of_the_fusion(self):
        maps, haadf, _ = data.janus(32)
        options = {
            "lambda_haadf": 0.1,
            "background": 0.02,
            "sensitivities": {"Au": 4.0, "Fe": 1.0, "O": 0.5},
        }
        fused = fuse_multimodal(maps, haadf, lambda_tv=4, **options)
        found = plot_weights(fused, maps, haadf, images=True, background=0.02)
        expected = fuse_multimodal(maps, haadf, lambda_tv=1, **options)
        for panel, signal in zip(found[:3], expected, strict=True):
            assert_allclose(shown(panel), signal.data, rtol=1e-5)

    def test_images_of_one_position_of_a_series(self, two, calibrated_series):
        maps, haadf = two
        found = plot_weights(
            calibrated_series, maps, haadf, images=True, inav=1, **CALIBRATED
        )
        assert_allclose(shown(found[3]), calibrated_series[0].inav[1].data)

    def test_a_stack_of_a_series(self, two):
        fused = fuse_multimodal(*two, background=0.02, lambda_haadf=0.1)
        stack = hs.stack(fused, show_progressbar=False)
        one, other = (plot_weights(given, inav=1)[0] for given in (fused, stack))
        for a, b in zip(one.lines, other.lines, strict=True):
            assert_allclose(a.get_ydata(), b.get_ydata())

    def test_images_of_one_position_with_background_and_mask_of_each(self, two):
        maps, haadf = two
        mask = np.zeros(haadf.data.shape, dtype=bool)
        mask[1, 2:4, 5] = True
        given = {"background": [one * 0 + 0.02 for one in maps], "mask": mask}
        fused = fuse_multimodal(maps, haadf, lambda_tv=4, lambda_haadf=0.1, **given)
        found = plot_weights(fused, maps, haadf, images=True, inav=1, **given)
        expected = fuse_multimodal(
            [one.inav[1] for one in maps],
            haadf.inav[1],
            lambda_tv=1,
            lambda_haadf=0.1,
            background=0.02,
            mask=mask[1],
        )
        assert_allclose(shown(found[0]), expected[0].data, rtol=1e-5)
        stacked = given | {"background": hs.stack(given["background"])}
        again = plot_weights(fused, maps, haadf, images=True, inav=1, **stacked)
        assert_allclose(shown(again[0]), expected[0].data, rtol=1e-5)

    def test_a_subfigure(self, calibrated):
        left, _ = plt.figure().subfigures(1, 2)
        (axes,) = plot_weights(calibrated, fig=left)
        assert axes in left.axes

    def test_options_that_are_of_no_use(self, calibrated):
        with pytest.raises(TypeError, match="plot_weights got image: expected"):
            plot_weights(calibrated, image=True)

    def test_lazy_maps_that_are_not_computed(self):
        maps, haadf, _ = data.core_shell(32)
        lazy = fuse_multimodal(maps, haadf, lazy_output=True)
        with pytest.raises(ValueError, match="not computed yet: call compute"):
            plot_weights(lazy)

    def test_images_need_the_measurement(self, calibrated):
        with pytest.raises(ValueError, match=r"plot_weights\(fused, maps, haadf, im"):
            plot_weights(calibrated, images=True)
        maps, haadf, _ = data.core_shell(32)
        fused = fuse_published(maps, haadf, regularize=False, **OPTIONS)
        with pytest.raises(ValueError, match="without total variation"):
            plot_weights(fused, maps, haadf, images=True)

    def test_one_position_of_a_series(self, calibrated_series):
        record = calibrated_series[0].metadata.Multimodal_fusion
        for position in (0, 1):
            *curves, ring = plot_weights(calibrated_series, inav=position)[0].lines
            assert ring.get_xdata() == record.lambda_tv[position]
            tried = record.weights_tried[position]
            n_tried = np.isfinite(tried).all(axis=1).sum()
            assert sum(len(curve.get_xdata()) for curve in curves) == n_tried

    def test_a_series_needs_a_position(self, calibrated_series):
        with pytest.raises(ValueError, match=r"series of shape \(2,\).* inav="):
            plot_weights(calibrated_series)
        with pytest.raises(ValueError, match=r"part of a series of shape \(2,\)"):
            plot_weights(calibrated_series[0].inav[0])

    def test_weights_that_tiles_share(self, series_of):
        images = [data.core_shell(64, seed=seed) for seed in (1, 2)]
        fused = fuse_multimodal(*series_of(*images), tile_size=32, weights="shared")
        assert plot_weights(fused, inav=0)[0].lines
        with pytest.raises(ValueError, match="expected the first position of the ser"):
            plot_weights(fused, inav=1)

    def test_what_chose_no_weights(self, fusion):
        with pytest.raises(ValueError, match="no weights that were chosen"):
            plot_weights(fusion[1])
        with pytest.raises(ValueError, match="no metadata.Multimodal_fusion"):
            plot_weights(fusion[0])
