"""The composite picture: its colours, read back from the image."""

from itertools import combinations

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose

from hyperspy_fusion import ElementalMap, HAADFImage, data, plot_composite
from hyperspy_fusion.plot.composite import COLOURS, composite

# Light as people with colour vision deficiency see it: G. M. Machado et al., IEEE
# Trans. Vis. Comput. Graph. 15, 1291 (2009), severity 1.
SEEN = {
    "all cones": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def oklab(light):
    """Perceived colours of light: B. Ottosson (2020)."""
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(np.clip(light, 0, 1) @ np.transpose(to_cones)) @ np.transpose(to_lab)


def light_of(colours):
    c = np.array([to_rgb(colour) for colour in colours])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("seen", SEEN)
def test_any_two_colours_can_be_told_apart(seen):
    found = oklab(light_of(COLOURS) @ np.transpose(SEEN[seen]))
    apart = [np.linalg.norm(a - b) for a, b in combinations(found, 2)]
    assert min(apart) > 0.1  # 0.02 is what is just noticed


def simple(n=2, series=()):
    """Maps of n elements, each alone in its own column of pixels, and an image.

    The last column holds nothing; the image is 0 in the first row, 2 in the last.
    """
    maps = []
    for k, element in enumerate(["Co", "Mn", "O", "Fe", "Ti", "Si", "Al"][:n]):
        image = np.zeros((*series, 3, n + 1))
        image[..., k] = k + 1
        signal = ElementalMap(image)
        signal.metadata.set_item("Sample.elements", [element])
        signal.metadata.General.title = "map"
        maps.append(signal)
    haadf = HAADFImage(np.zeros((*series, 3, n + 1)) + np.arange(3)[:, np.newaxis])
    for signal in (*maps, haadf):
        for axis in signal.axes_manager.signal_axes:
            axis.units, axis.scale = "nm", 2
    return maps, haadf


def shown(ax):
    return np.asarray(ax.images[0].get_array()) / 255


class TestColours:
    def test_hue_is_that_of_the_element_and_brightness_that_of_the_image(self):
        maps, haadf = simple()
        found = shown(plot_composite(maps, haadf))
        assert_allclose(found[0], 0)
        assert_allclose(found[2, 0], to_rgb(COLOURS[0]), atol=0.01)
        assert_allclose(found[2, 1], to_rgb(COLOURS[1]), atol=0.01)
        assert_allclose(found[1], found[2] * 0.5**0.7, atol=0.01)

    def test_nothing_is_grey_and_not_known_is_dark(self):
        maps, haadf = simple()
        haadf.data[2, 0] = np.nan
        maps[1].data[2, 1] = np.nan
        found = shown(plot_composite(maps, haadf))
        assert_allclose(found[2, 2], 0.5, atol=0.01)
        assert_allclose(found[2, 1], 0.5, atol=0.01)
        assert_allclose(found[2, 0], 0)

    def test_without_an_image_the_sum_is_the_brightness(self):
        maps, _ = simple()
        found = shown(plot_composite(maps))
        assert_allclose(found[:, 2], 0)
        assert_allclose(found[0, 0], to_rgb(COLOURS[0]), atol=0.01)

    def test_the_main_element_stands_out(self):
        """A mixture is between the colours of its elements, nearer to the main one."""
        red, blue = (1.0, 0, 0), (0, 0, 1.0)
        maps = np.array([[[1.0, 0.8, 0.5, 0]], [[0, 0.2, 0.5, 1.0]]])
        found = composite(maps, [red, blue], np.array([[1.0, 1, 1, 0]]))[0]
        ratio = light_of([found[1]])[0] / light_of([found[2]])[0]
        assert_allclose(found[2, 0], found[2, 2], rtol=0.01)
        assert ratio[0] > 1.5
        assert 0 < ratio[2] < 0.2

    def test_scales_and_negative_values_do_not_matter(self):
        maps, haadf = simple()
        expected = shown(plot_composite(maps, haadf))
        maps[0].data[:, 1] = -3.0
        other = [maps[0] * 20.0, maps[1]]
        assert_allclose(shown(plot_composite(other, haadf * 5.0 + 3.0)), expected)

    @pytest.mark.parametrize("colors", [["red", "#0f0"], {"Mn": "#0f0", "Co": "red"}])
    def test_own_colours(self, colors):
        maps, haadf = simple()
        found = shown(plot_composite(maps, haadf, colors=colors))
        assert_allclose(found[2, 0], (1, 0, 0), atol=0.02)
        assert_allclose(found[2, 1], (0, 1, 0), atol=0.02)

    def test_inputs_are_not_modified(self):
        maps, haadf = simple()
        maps[0].data[0, 0] = np.nan
        before = [signal.deepcopy() for signal in (*maps, haadf)]
        plot_composite(maps, haadf)
        for signal, old in zip((*maps, haadf), before, strict=True):
            assert_allclose(signal.data, old.data)
            assert signal.axes_manager.as_dictionary() == (
                old.axes_manager.as_dictionary()
            )


class TestAxes:
    def test_legend_and_scale_bar(self):
        maps, haadf = simple()
        for signal in maps:
            signal.metadata.Signal.quantity = "X-rays (counts)"
        ax = plot_composite(maps, haadf)
        legend = ax.get_legend()
        texts = [text.get_text() for text in legend.get_texts()]
        assert texts == ["Co  to 1", "Mn  to 2"]
        assert legend.get_title().get_text() == "X-rays (counts)"
        colours = [patch.get_facecolor()[:3] for patch in legend.legend_handles]
        assert_allclose(colours, [to_rgb(colour) for colour in COLOURS[:2]])
        assert ax.scalebar.text.get_text().endswith("nm")
        assert ax.images[0].get_extent() == [-1, 5, 5, -1]

    def test_no_scale_bar(self):
        maps, haadf = simple()
        assert not hasattr(plot_composite(maps, haadf, scalebar=False), "scalebar")
        for signal in (*maps, haadf):
            for axis in signal.axes_manager.signal_axes:
                axis.units = ""
        assert not hasattr(plot_composite(maps, haadf), "scalebar")

    def test_in_own_axes(self):
        figure, (first, second) = plt.subplots(1, 2)
        second.set_title("kept")
        maps, haadf = simple()
        ax = plot_composite(maps, haadf, ax=second, axes_decor="ticks")
        assert ax is second
        assert plt.get_fignums() == [figure.number]
        assert not first.images
        assert second.get_title() == "kept"
        assert len(second.get_xticks()) > 0

    @pytest.mark.parametrize(
        ("n", "shape"),
        [
            (1, (64, 64)),
            (6, (64, 64)),
            (6, (12, 300)),
            (6, (300, 12)),
            (6, (40, 100)),
            (6, (49, 100)),
        ],
    )
    def test_legend_is_beside_the_image_and_within_the_figure(self, n, shape):
        rng = np.random.default_rng(0)
        maps = [ElementalMap(100 * rng.random(shape)) for _ in range(n)]
        for signal in maps:
            signal.metadata.General.title = "Ti"
            signal.metadata.Signal.quantity = "X-rays (counts)"
        ax = plot_composite(maps)
        ax.figure.canvas.draw()
        legend = ax.get_legend().get_window_extent()
        assert not legend.overlaps(ax.get_window_extent())
        outer = ax.figure.bbox
        assert outer.x0 <= legend.x0 < legend.x1 <= outer.x1
        assert outer.y0 <= legend.y0 < legend.y1 <= outer.y1

    def test_a_stack_of_fused_maps(self):
        maps, haadf = simple()
        stack = hs.stack(maps, show_progressbar=False)
        ax = plot_composite(stack, [maps[0], haadf])
        assert_allclose(shown(ax), shown(plot_composite(maps, haadf)))
        assert ax.get_legend().get_texts()[1].get_text() == "Mn  to 2"

    def test_lazy_maps(self):
        maps, haadf = simple()
        lazy = [signal.as_lazy() for signal in maps]
        assert_allclose(
            shown(plot_composite(lazy, haadf.as_lazy())),
            shown(plot_composite(maps, haadf)),
        )

    def test_one_position_of_a_series(self):
        maps, haadf = simple(series=(2,))
        maps[0].data[1, :, 1] = 1
        ax = plot_composite(maps, haadf, inav=1)
        single = plot_composite([s.inav[1] for s in maps], haadf.inav[1])
        assert_allclose(shown(ax), shown(single))
        with pytest.raises(ValueError, match=r"series of shape \(2,\).* inav="):
            plot_composite(maps, haadf)


class TestErrors:
    def test_more_maps_than_colours(self):
        maps, _ = simple(7)
        with pytest.raises(ValueError, match="7 maps and 6 colours.* list of colors"):
            plot_composite(maps)
        with pytest.raises(ValueError, match="7 maps and 1 colours"):
            plot_composite(maps, colors=["red"])

    def test_a_colour_is_missing(self):
        maps, _ = simple()
        with pytest.raises(ValueError, match="no colour of Mn: .* each of Co, Mn"):
            plot_composite(maps, colors={"Co": "red"})

    def test_other_pixels(self):
        maps, haadf = simple()
        with pytest.raises(ValueError, match=r"of HAADF image is \(2, 3\) .* of Co"):
            plot_composite(maps, haadf.isig[:, :2])

    def test_spectra(self):
        maps, _ = simple()
        with pytest.raises(ValueError, match="expected an image"):
            plot_composite(maps, hs.signals.Signal1D(np.ones(4)))

    def test_an_array(self):
        with pytest.raises(TypeError, match="expected a HyperSpy signal"):
            plot_composite([np.ones((4, 4))])


def test_composite_of_the_data(real_data):
    real_data("DyScO3_EDX_HAADF.npz")
    maps, haadf = data.dysco3()
    ax = plot_composite(maps, haadf)
    names = [text.get_text().split()[0] for text in ax.get_legend().get_texts()]
    assert names == ["Sc", "Dy", "O"]


def test_no_maps_at_all():
    with pytest.raises(ValueError, match="there are no maps"):
        plot_composite([])
