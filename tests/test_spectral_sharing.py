"""Spectra whose pixels share their counts."""

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

import hyperspy_fusion
from hyperspy_fusion import data, fuse_spectra
from hyperspy_fusion.core.calibrated import sharing
from hyperspy_fusion.derived import groups_at
from hyperspy_fusion.spectral_fusion import spectra_again

NAMES, LINES = ["Ba", "Ti", "O"], ["Ba_La", "Ti_Ka", "O_Ka"]
GIVEN = {"lambda_tv": 4, "lambda_haadf": 0.1}


def error(signals, truth):
    return np.mean(
        [
            np.linalg.norm(one.data - exact.data) / np.linalg.norm(exact.data)
            for one, exact in zip(signals, truth, strict=True)
        ]
    )


def recorded(fused):
    return fused[0].metadata.Multimodal_fusion


@pytest.fixture(scope="module")
def crystal():
    """A lattice whose Ba L and Ti K lines overlap, on a copper grid."""
    _, haadf, truth = data.lattice(64, counts=4)
    grid = truth[0].deepcopy()
    grid.data = np.full_like(grid.data, 0.2)
    lines = [*LINES, "Cu_Ka"]
    spectra = data.xray_spectra([*truth, grid], lines, continuum=0.1)
    return spectra, haadf, truth


@pytest.fixture(scope="module")
def first(crystal):
    spectra, haadf, _ = crystal
    return fuse_spectra(spectra, haadf, NAMES, "Cu", **GIVEN)


@pytest.fixture(scope="module")
def shared(crystal):
    spectra, haadf, _ = crystal
    return fuse_spectra(spectra, haadf, NAMES, "Cu", share=True, **GIVEN)


def test_a_crystal(crystal, first, shared):
    _, _, truth = crystal
    record = recorded(shared)
    assert record.sharing == 1
    assert (record.sharing_gain > 3).all()
    assert record.sharing_elements.shape == (3,)
    assert record.gap < 1e-3
    assert error(shared, truth) < 0.7 * error(first, truth)
    for one, before in zip(shared, first, strict=True):
        assert_array_equal(one.get_unshared().data, before.data)
        assert_allclose(one.data.sum(), before.data.sum(), rtol=1e-4)
    assert "pixels that look alike share their counts" in recorded(shared).notes


def test_it_is_recommended_for_crystals(first, shared):
    summary = hyperspy_fusion.summarize(first)
    assert recorded(first).haadf_repetition > 0.9
    assert "repeats itself: with share=True" in summary
    assert "with share=True" not in hyperspy_fusion.summarize(shared)


def test_threads_do_not_matter_and_it_can_be_repeated(crystal, shared):
    spectra, haadf, _ = crystal
    again = hyperspy_fusion.repeat(shared, spectra, haadf, num_workers=1)
    for one, other in zip(shared, again, strict=True):
        assert_array_equal(one.data, other.data)


@pytest.mark.filterwarnings("ignore:the HAADF image:UserWarning")
def test_an_image_that_does_not_belong_to_the_spectra(crystal):
    """The lattice of the image must not be put into smooth chemistry."""
    _, haadf, truth = crystal
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.standard_normal((3, 64, 64)), (0, 5, 5), mode="wrap")
    chemistry = [signal.deepcopy() for signal in truth]
    for signal, image in zip(chemistry, smooth, strict=True):
        signal.data = np.maximum(4 + 30 * image, 0.3)
    spectra = data.xray_spectra(chemistry, LINES, continuum=0.1)
    one = fuse_spectra(spectra, haadf, NAMES, share=True)
    other = fuse_spectra(spectra, haadf, NAMES)
    assert recorded(one).sharing == 0
    assert "do not share their counts" in recorded(one).notes
    for found, before in zip(one, other, strict=True):
        assert_array_equal(found.data, before.data)


def test_masked_spectra_are_filled(crystal):
    spectra, haadf, truth = crystal
    mask = np.zeros((64, 64), bool)
    mask[20:24, 20:40] = True
    spoilt = spectra.deepcopy()
    spoilt.data = np.where(mask[..., None], 7, spectra.data)
    given = {"mask": mask, "share": True, **GIVEN}
    one = fuse_spectra(spoilt, haadf, NAMES, "Cu", **given)
    other = fuse_spectra(spectra, haadf, NAMES, "Cu", **given)
    assert recorded(one).sharing == 1
    assert recorded(one).missing_pixels == 80
    distance = (one[0].data - truth[0].data)[mask]
    assert np.sqrt(np.mean(distance**2)) < 0.2 * truth[0].data.mean()
    for found, same in zip(one, other, strict=True):
        assert_array_equal(found.data, same.data)


def test_a_single_odd_column_is_kept():
    """Half of the barium of a column is titanium, whose lines overlap."""
    _, haadf, truth = data.lattice(64)
    y, x = np.unravel_index(truth[0].data[24:40, 24:40].argmax(), (16, 16))
    column = slice(y + 20, y + 29), slice(x + 20, x + 29)
    thickness = np.stack([signal.data for signal in truth])
    half = thickness[0][column] / 2
    thickness[0][column] -= half
    thickness[1][column] += half
    _, haadf.data, expected = data.measure(thickness, (56, 22, 8), 16, 2000, 1)
    for signal, image in zip(truth, expected, strict=True):
        signal.data = image
    spectra = data.xray_spectra(truth, LINES, continuum=0.1)
    found = fuse_spectra(spectra, haadf, NAMES, share=True, **GIVEN)
    assert recorded(found).sharing == 1
    kept = found[0].data[column].sum() / truth[0].data[column].sum()
    assert 0.85 < kept < 1.2  # a column as the others would have twice as much


def test_a_series_and_errors(crystal):
    spectra, haadf, truth = crystal
    series, images = hs.stack([spectra, spectra]), hs.stack([haadf, haadf])
    found = fuse_spectra(
        series, images, NAMES, "Cu", share=True, uncertainty=True, **GIVEN
    )
    assert_array_equal(recorded(found).sharing, [1, 1])
    assert found[0].get_unshared().data.shape == (2, 64, 64)
    for one, exact in zip(found, truth, strict=True):
        assert_array_equal(one.data[0], one.data[1])
        variance = one.metadata.Multimodal_fusion.variance.data[0]
        distance = (one.data[0] - exact.data) ** 2
        assert 0.3 < np.mean(variance) / np.mean(distance) < 3
        assert np.mean(distance < 4 * variance) > 0.8


class TestPicture:
    """The pixels that share their counts are found again from the spectra."""

    def test_groups(self, crystal, monkeypatch):
        spectra, haadf, _ = crystal
        series, images = hs.stack([spectra, spectra]), hs.stack([haadf, haadf])
        used = []

        def seen(*arguments):
            used.append(groups_of(*arguments))
            return used[-1]

        groups_of = sharing.groups_of
        monkeypatch.setattr(sharing, "groups_of", seen)
        given = {"share": True, "num_workers": 1, **GIVEN}
        fused = fuse_spectra(series, images, NAMES, "Cu", **given)
        measurement, frames = spectra_again(
            recorded(fused).as_dictionary(), series, images, None
        )
        found = groups_at(measurement, fused, (1,), frames[(1,)])
        assert 8 < found.size == pytest.approx(recorded(fused).sharing_size[1])
        # rounding may change the order of members that are alike
        assert np.mean(found.count == used[1].count) > 0.999
        assert np.mean(found.members == used[1].members) > 0.999

    def test_it_shows_them(self, crystal, shared):
        spectra, haadf, _ = crystal
        axes = hyperspy_fusion.plot_sharing(spectra, shared, haadf, (30, 20))
        titles = [ax.get_title().removesuffix(" (not shared)") for ax in axes]
        assert titles == ["HAADF", *NAMES]
        assert len(axes[0].collections[0].get_offsets()) > 8
        plt.close("all")

    def test_windows_are_refused(self, crystal, shared, first):
        spectra, haadf, truth = crystal
        with pytest.raises(ValueError, match="expected the spectra in the place of"):
            hyperspy_fusion.plot_sharing(truth, shared, haadf, (20, 20))
        with pytest.raises(ValueError, match="since share is False"):
            hyperspy_fusion.plot_sharing(spectra, first, haadf, (20, 20))
        mask = np.zeros((64, 64), bool)
        mask[3, 4] = True
        with pytest.raises(ValueError, match="had no mask and one is given"):
            hyperspy_fusion.plot_sharing(spectra, shared, haadf, (20, 20), mask=mask)
