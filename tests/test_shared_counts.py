"""Maps before sharing, and the picture of the pixels that share their counts."""

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion import ElementalMap, data, fuse_multimodal, plot_sharing

GIVEN = {"lambda_tv": 2.8, "lambda_haadf": 0.1, "show_progressbar": False}
BACKGROUND = 0.02


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def crystal():
    """Maps and HAADF image of a lattice."""
    maps, haadf, _ = data.lattice(size=64, counts=4)
    return maps, haadf


@pytest.fixture(scope="module")
def fused(crystal):
    return fuse_multimodal(*crystal, BACKGROUND, share=True, **GIVEN)


@pytest.fixture(scope="module")
def first(crystal):
    """The same without sharing."""
    return fuse_multimodal(*crystal, BACKGROUND, **GIVEN)


@pytest.fixture(scope="module")
def tiled(crystal):
    """Fused in tiles, with and without sharing."""
    given = {**GIVEN, "tile_size": 32}
    return [
        fuse_multimodal(*crystal, BACKGROUND, share=share, **given)
        for share in (True, False)
    ]


def test_maps_before_sharing(fused, first):
    shares = fused[0].metadata.Multimodal_fusion.sharing_elements
    assert shares.tolist() == [0, 1, 1]  # Dy is known from the HAADF image
    for signal, other, own in zip(fused, first, shares, strict=True):
        unshared = signal.get_unshared()
        assert type(unshared) is ElementalMap
        assert_array_equal(unshared.data, other.data)
        assert np.array_equal(signal.data, other.data) == (own == 0)
        assert unshared.axes_manager.signal_axes[0].scale > 0.01
        assert (
            unshared.metadata.General.title
            == f"{other.metadata.General.title} without sharing"
        )
        assert not unshared.metadata.has_item("Multimodal_fusion")


def test_they_go_with_parts_and_stacks(fused, first):
    part = fused[0].isig[3:20, 5:].deepcopy()
    assert_array_equal(part.get_unshared().data, first[0].isig[3:20, 5:].data)
    stack = hs.stack(fused, show_progressbar=False)
    expected = np.stack([signal.data for signal in first])
    assert_array_equal(stack.get_unshared().data, expected)
    assert_array_equal(stack.inav[1].get_unshared().data, expected[1])
    for changed in (fused[0] + fused[1], fused[0] * 2, fused[0].rebin(scale=(2, 2))):
        with pytest.raises(ValueError, match="arithmetic, rebin and transposition"):
            changed.get_unshared()


def test_there_are_none_without_sharing(first):
    with pytest.raises(ValueError, match=r"share=True\) returned"):
        first[0].get_unshared()


@pytest.mark.parametrize("extension", ["hspy", "zspy", "nxs"])
@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")  # zarr 2
def test_they_are_saved(fused, first, tmp_path, extension):
    fused[2].save(tmp_path / f"map.{extension}")
    back = hs.load(tmp_path / f"map.{extension}")
    back = back[0] if isinstance(back, list) else back
    assert_array_equal(np.asarray(back.get_unshared().data), first[2].data)


def test_lazy_maps_have_them(crystal, fused, first):
    lazy = fuse_multimodal(*crystal, BACKGROUND, share=True, lazy_output=True, **GIVEN)
    for signal, one, other in zip(lazy, fused, first, strict=True):
        signal.compute(show_progressbar=False)
        assert_array_equal(signal.data, one.data)
        assert_array_equal(signal.get_unshared().data, other.data)


def test_stacks_are_fused_with_them(crystal, first):
    maps, haadf = crystal
    stack = hs.stack(maps, show_progressbar=False)
    fused = stack.fuse_multimodal(haadf, BACKGROUND, share=True, **GIVEN)
    assert_array_equal(fused.get_unshared().data, [signal.data for signal in first])


class TestTiles:
    """Groups lie within each tile, but what is shared is decided for all of them."""

    def test_maps(self, crystal, tiled, fused):
        shared, alone = tiled
        record = shared[0].metadata.Multimodal_fusion
        assert record.sharing == 1
        assert record.sharing_tiles == 4
        assert record.sharing_size > 8
        assert record.notes.count("share their counts") == 1
        for one, other, image, whole in zip(
            shared, alone, crystal[0], fused, strict=True
        ):
            assert_array_equal(one.get_unshared().data, other.data)
            assert_allclose(one.data.sum(), (image.data - BACKGROUND).sum(), rtol=1e-4)
            difference = np.linalg.norm(one.data - whole.data)
            scale = np.linalg.norm(whole.data)
            gained = np.linalg.norm(other.data - whole.data)
            assert difference < max(0.3 * gained, 1e-3 * scale)

    def test_lazy(self, crystal, tiled):
        maps, haadf = crystal
        later = fuse_multimodal(
            [m.as_lazy() for m in maps],
            haadf.as_lazy(),
            BACKGROUND,
            share=True,
            tile_size=32,
            **GIVEN,
        )
        for one, other in zip(later, tiled[0], strict=True):
            one.compute(show_progressbar=False)
            assert_array_equal(one.data, other.data)
            assert_array_equal(one.get_unshared().data, other.get_unshared().data)

    def test_no_picture(self, crystal, tiled):
        maps, haadf = crystal
        with pytest.raises(ValueError, match="solved in 4 tiles, each with groups"):
            plot_sharing(maps, tiled[0], haadf, (3, 4), BACKGROUND)


def test_a_series_shares_by_position(series_of):
    others = [data.lattice(size=64, counts=4, seed=seed) for seed in (7, 8)]
    maps, haadf = series_of(*others)
    fused = fuse_multimodal(maps, haadf, BACKGROUND, share=True, **GIVEN)
    assert_array_equal(fused[0].metadata.Multimodal_fusion.sharing, [1, 1])
    for k, one in enumerate(others):
        alone = fuse_multimodal(*one[:2], BACKGROUND, share=True, **GIVEN)
        for stack, signal in zip(fused, alone, strict=True):
            assert_array_equal(stack.data[k], signal.data)
            assert_array_equal(stack.get_unshared().data[k], signal.get_unshared().data)


class TestPicture:
    """The pixels that share their counts with one."""

    def test_what_it_shows(self, crystal, fused, first):
        maps, haadf = crystal
        stack = hs.stack(fused, show_progressbar=False)
        stacked = plot_sharing(maps, stack, haadf, (30, 41), BACKGROUND)
        axes = plot_sharing(maps, fused, haadf, (30, 41), BACKGROUND)
        for one, other in zip(stacked, axes, strict=True):
            assert_array_equal(one.images[0].get_array(), other.images[0].get_array())
        titles = ["HAADF", "Dy (not shared)", "Sc", "O"]
        assert [ax.get_title() for ax in axes] == titles
        assert_array_equal(axes[1].images[0].get_array(), first[0].data)
        scale = haadf.axes_manager[0].scale
        for ax in axes:
            assert_allclose(ax.lines[-1].get_xydata() / scale, [[41, 30]])
            if "not shared" in ax.get_title():
                assert not ax.collections
                continue
            (circles,) = ax.collections
            places = np.rint(circles.get_offsets() / scale).astype(int)
            sizes = circles.get_sizes()
            assert sizes.max() == 40
        assert [41, 30] in places.tolist()
        assert f"of {len(places)} pixels" in axes[0].figure.get_supxlabel()
        # they look alike
        seen = haadf.data[tuple(places.T[::-1])]
        assert len(seen) > 8
        assert seen.std() < 0.15 * haadf.data.std()

    def test_a_series(self, series_of):
        others = data.lattice(size=64, counts=4, seed=7)
        maps, haadf = series_of(data.lattice(size=64, counts=4), others)
        fused = fuse_multimodal(maps, haadf, BACKGROUND, share=True, **GIVEN)
        with pytest.raises(ValueError, match="choose one position"):
            plot_sharing(maps, fused, haadf, (20, 20), BACKGROUND)
        with pytest.raises(ValueError, match="expected 1 whole numbers"):
            plot_sharing(maps, fused, haadf, (20, 20), BACKGROUND, inav=0.5)
        part = [signal.inav[1] for signal in fused]
        with pytest.raises(ValueError, match="expected all maps of the series"):
            plot_sharing(
                [signal.inav[1] for signal in maps],
                part,
                haadf.inav[1],
                (20, 20),
                BACKGROUND,
            )
        found = plot_sharing(maps, fused, haadf, (20, 20), BACKGROUND, inav=1)
        alone = fuse_multimodal(*others[:2], BACKGROUND, share=True, **GIVEN)
        expected = plot_sharing(others.maps, alone, others.haadf, (20, 20), BACKGROUND)
        for one, other in zip(found, expected, strict=True):
            assert_array_equal(
                one.collections[0].get_offsets(), other.collections[0].get_offsets()
            )

    def test_without_sharing(self, crystal, first):
        maps, haadf = crystal
        with pytest.raises(ValueError, match="since share is False"):
            plot_sharing(maps, first, haadf, (3, 4), BACKGROUND)

    def test_other_data(self, crystal, fused):
        maps, haadf = crystal
        other = "other values than those that were fused: "
        with pytest.raises(ValueError, match=f"{other}background"):
            plot_sharing(maps, fused, haadf, (3, 4), 2 * BACKGROUND)
        with pytest.raises(ValueError, match=f"{other}HAADF image"):
            plot_sharing(maps, fused, haadf * 2, (3, 4), BACKGROUND)

    @pytest.mark.parametrize(
        "pixel", [(64, 0), (-1, 0), (3, 64), (1.5, 2), 3, (1, 2, 3)]
    )
    def test_no_such_pixel(self, crystal, fused, pixel):
        maps, haadf = crystal
        with pytest.raises(
            ValueError, match="a row of 0 to 63 and a column of 0 to 63"
        ):
            plot_sharing(maps, fused, haadf, pixel, BACKGROUND)


def test_a_gradient_that_the_image_does_not_show_is_kept():
    thickness = np.stack(list(data._lattice_thickness(96).values()))
    thickness[2] *= 1 - 0.3 * (np.arange(96) / 96 - 0.5)
    counts, image, truth = data.measure(thickness, [66, 21, 8], 8, 2000, 4)
    maps = dict(zip(("Dy", "Sc", "O"), map(hs.signals.Signal2D, counts), strict=True))
    fused = fuse_multimodal(maps, hs.signals.Signal2D(image), BACKGROUND, share=True)
    assert fused[0].metadata.Multimodal_fusion.sharing == 1

    def difference(array):
        return array[:, 56:].mean() - array[:, :40].mean()

    expected = difference(truth[2])
    assert difference(fused[2].data) == pytest.approx(expected, rel=0.25)
    assert fused[2].data.sum() == pytest.approx(fused[2].get_unshared().data.sum())
