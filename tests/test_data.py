"""Known answers of the simulated specimens; what the published files hold."""

import numpy as np
import pooch
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion import ElementalMap, HAADFImage, data

# Elements, their Z, and the size of a pixel in nm
SPECIMENS = {
    data.core_shell: (["Co", "Mn", "O"], [27, 25, 8], 0.5),
    data.lattice: (["Dy", "Sc", "O"], [66, 21, 8], 0.025),
    data.janus: (["Au", "Fe", "O"], [79, 26, 8], 1.0),
}
every_specimen = pytest.mark.parametrize("simulate", SPECIMENS)


def arrays(signals):
    return np.stack([signal.data for signal in signals])


def thickness(specimen):
    """Projected thickness of the elements, up to a common factor."""
    return arrays(specimen.truth) / np.reshape([1, 1.3, 1.6], (3, 1, 1))


def intensity(simulate, **mismatch):
    """HAADF intensity over its largest value, without noise and pedestal."""
    haadf = simulate(electrons=1e10, **mismatch).haadf
    return (haadf.data - 500) / 3.7 / 1e10 - 0.1


@every_specimen
def test_elements_axes_and_titles(simulate):
    elements, _, scale = SPECIMENS[simulate]
    maps, haadf, truth = simulate()
    assert type(haadf) is HAADFImage
    assert haadf.metadata.General.title == "HAADF"
    for signals in (maps, truth):
        assert {type(signal) for signal in signals} == {ElementalMap}
        assert [s.metadata.General.title for s in signals] == elements
        assert [s.metadata.Sample.elements for s in signals] == [[e] for e in elements]
    for signal in (*maps, haadf, *truth):
        assert signal.data.shape == (128, 128)
        for axis, name in zip(signal.axes_manager.signal_axes, "xy", strict=True):
            assert (axis.name, axis.units, axis.offset) == (name, "nm", 0)
            assert_allclose(axis.scale, scale)


@every_specimen
def test_the_seed_decides_on_the_noise_alone(simulate):
    first, again, other = simulate(32), simulate(32), simulate(32, seed=2)
    assert_array_equal(arrays(first.maps), arrays(again.maps))
    assert_array_equal(first.haadf.data, again.haadf.data)
    assert_array_equal(arrays(first.truth), arrays(other.truth))
    assert np.any(arrays(first.maps) != arrays(other.maps))
    assert np.any(first.haadf.data != other.haadf.data)


@every_specimen
@pytest.mark.parametrize("counts", [0.5, 16])
def test_counts_are_the_99th_percentile_of_the_truth(simulate, counts):
    truth = arrays(simulate(counts=counts).truth)
    assert_allclose(np.percentile(truth, 99, axis=(1, 2)).mean(), counts)


@every_specimen
def test_maps_are_poisson_counts_of_truth_and_background(simulate):
    specimen = simulate()
    maps, expected = arrays(specimen.maps), arrays(specimen.truth) + 0.02
    assert_array_equal(maps, np.round(maps))
    # Five standard errors of the sum, and of the index of dispersion
    assert abs(maps.sum() - expected.sum()) < 5 * np.sqrt(expected.sum())
    dispersion = ((maps - expected) ** 2 / expected).mean()
    assert abs(dispersion - 1) < 5 * np.sqrt((2 + 1 / expected).mean() / expected.size)


@every_specimen
def test_haadf_is_poisson_electrons(simulate):
    expected = 2000 * (intensity(simulate) + 0.1)
    electrons = (simulate().haadf.data - 500) / 3.7
    assert_allclose(electrons, np.round(electrons), atol=1e-9)
    dispersion = ((electrons - expected) ** 2 / expected).mean()
    assert abs(dispersion - 1) < 5 * np.sqrt(2 / expected.size)


@every_specimen
def test_haadf_weighs_the_elements_by_z(simulate):
    _, z, _ = SPECIMENS[simulate]
    expected = np.tensordot(np.power(z, 1.7), thickness(simulate()), 1)
    assert_allclose(intensity(simulate), expected / expected.max(), atol=1e-4)


def test_oxygen_of_the_core_shell_particles_is_all_oxide():
    cobalt, manganese, oxygen = thickness(data.core_shell())
    assert_allclose(3 * oxygen, 4 * (cobalt + manganese), atol=1e-12)


def test_cobalt_is_in_the_middle_of_manganese():
    cobalt, manganese, _ = thickness(data.core_shell())
    assert np.all((manganese > 0)[cobalt > 0])
    assert 0.2 < (cobalt > 0).sum() / (manganese > 0).sum() < 0.6
    # Vacuum around the particles
    assert (manganese == 0).mean() > 0.125


def test_oxygen_of_the_janus_particles_is_that_of_iron():
    _, iron, oxygen = thickness(data.janus())
    assert_allclose(3 * oxygen, 4 * iron, atol=1e-12)


def test_columns_of_the_lattice():
    truth = arrays(data.lattice().truth)
    assert_allclose(truth[..., 16:], truth[..., :-16], rtol=1e-6, atol=1e-6)
    assert_allclose(truth[:, 16:], truth[:, :-16], rtol=1e-6, atol=1e-6)
    # Mean of Gaussians of standard deviation s in cells of 16 x 16: 2 pi s^2 / 256
    cell = thickness(data.lattice())[:, 48:64, 48:64]
    expected = np.array([2.0**2, 2.2**2, 3 * 2.4**2]) * 2 * np.pi / 256
    expected += [0.05, 0.05, 0.1]
    means = cell.mean(axis=(1, 2))
    assert_allclose(means / means[0], expected / expected[0], rtol=1e-5)
    dysprosium, scandium, _ = cell
    assert np.unravel_index(dysprosium.argmax(), (16, 16)) == (0, 1)
    assert np.unravel_index(scandium.argmax(), (16, 16)) == (8, 8)
    # A column at 0.64 pixels, seen 0.36 pixels beside its centre
    low, high = dysprosium[8, 9], dysprosium[0, 1]
    assert_allclose(high / low, (np.exp(-(0.36**2) / 8) + 0.05) / 0.05, rtol=0.02)


def test_nonlinear_darkens_the_brightest_pixel_by_that_part():
    good = intensity(data.janus)
    bad = intensity(data.janus, nonlinear=0.25)
    assert_allclose(bad, good * (1 - 0.25 * good), atol=1e-4)


def test_shift_moves_the_image_by_rows_and_columns():
    good, bad = intensity(data.janus), intensity(data.janus, shift=(1, 2))
    assert_allclose(bad[1:, 2:], good[:-1, :-2], atol=1e-4)


def test_unmapped_shows_two_blobs():
    blobs = intensity(data.lattice, unmapped=True) - intensity(data.lattice)
    assert_allclose([blobs[40, 80], blobs[90, 45]], 0.5, atol=1e-4)
    assert_allclose(blobs[45, 80], 0.5 * np.exp(-0.5), atol=1e-4)
    assert_allclose(blobs.sum(), 2 * 0.5 * 2 * np.pi * 25, rtol=1e-2)


def test_wave_varies_the_pedestal_along_x():
    wave = intensity(data.lattice, wave=True) - intensity(data.lattice)
    expected = 0.1 * np.sin(2 * np.pi * np.arange(128) / 128)
    assert_allclose(wave, np.broadcast_to(expected, (128, 128)), atol=1e-4)


@every_specimen
def test_mismatches_leave_the_maps_alone(simulate):
    mismatch = {"nonlinear": 0.08, "shift": (1, 0), "unmapped": True, "wave": True}
    assert_array_equal(arrays(simulate(32).maps), arrays(simulate(32, **mismatch).maps))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "size is 8: expected at least 16"),
        ({"counts": 0}, "counts is 0: expected a number above 0"),
        ({"electrons": np.nan}, "electrons is nan: expected a number above 0"),
        ({"nonlinear": 2}, "nonlinear is 2: expected 0 to 0.5"),
    ],
)
def test_numbers_outside_their_range(options, message):
    with pytest.raises(ValueError, match=message):
        data.core_shell(**options)


def test_unknown_mismatch():
    with pytest.raises(TypeError, match="drift"):
        data.core_shell(32, drift=1)


class TestPublished:
    def test_dysco3(self, real_data):
        real_data("DyScO3_EDX_HAADF.npz")
        maps, haadf = data.dysco3()
        assert [s.metadata.General.title for s in maps] == ["Sc", "Dy", "O"]
        assert {type(signal) for signal in maps} == {ElementalMap}
        assert_allclose(arrays(maps).sum(axis=0), 1, atol=1e-6)
        assert haadf.data.shape == (256, 256)
        assert (haadf.data.min(), haadf.data.max()) == (6393, 33573)

    def test_co3o4_mn3o4(self, real_data):
        real_data("Co3O4_Mn3O4_EELS_HAADF.h5")
        maps, haadf = data.co3o4_mn3o4()
        assert [s.metadata.Sample.elements for s in maps] == [["Co"], ["Mn"], ["O"]]
        assert_allclose(
            arrays(maps).max(axis=(1, 2)), [0.037045, 0.045891, 0.128151], rtol=1e-4
        )
        assert type(haadf) is HAADFImage
        assert haadf.data.shape == (400, 400)

    def test_folder_without_the_file(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HYPERSPY_FUSION_DATA", str(tmp_path))
        with pytest.raises(FileNotFoundError, match="no DyScO3_EDX_HAADF"):
            data.dysco3()

    def test_another_file_of_that_name(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HYPERSPY_FUSION_DATA", str(tmp_path))
        (tmp_path / "DyScO3_EDX_HAADF.npz").write_bytes(b"something else")
        with pytest.raises(ValueError, match="expected 150cdc0a"):
            data.dysco3()

    def test_download_is_pinned_and_cached(self, real_data, monkeypatch):
        path = real_data("DyScO3_EDX_HAADF.npz")
        asked = {}

        def retrieve(url, **options):
            asked.update(options, url=url)
            return path

        monkeypatch.delenv("HYPERSPY_FUSION_DATA")
        monkeypatch.setattr(pooch, "retrieve", retrieve)
        maps, _ = data.dysco3()
        assert len(maps) == 3
        assert asked["url"].endswith("/08cbef2/data/PTO_Trilayer_dataset.npz")
        assert asked["known_hash"] == f"sha256:{pooch.file_hash(path)}"
        assert asked["path"] == pooch.os_cache("hyperspy_fusion")

    def test_without_a_network(self, monkeypatch):
        def retrieve(*_, **__):
            raise ConnectionError("no route")

        monkeypatch.delenv("HYPERSPY_FUSION_DATA", raising=False)
        monkeypatch.setattr(pooch, "retrieve", retrieve)
        with pytest.raises(OSError, match="fetched.*HYPERSPY_FUSION_DATA"):
            data.co3o4_mn3o4()


class TestXraySpectra:
    LINES = ("Au_La", "Fe_Ka", "O_Ka")

    def test_counts_of_the_lines_are_those_of_the_truth(self):
        truth = data.janus(size=16, counts=200).truth
        spectra = data.xray_spectra(truth, self.LINES, continuum=0.0)
        assert spectra.metadata.Signal.signal_type == "EDS_TEM"
        energy = spectra.axes_manager[-1].axis
        total = spectra.data.sum(axis=(0, 1))
        for image, (low, high) in zip(
            truth[1:], [(6.2, 6.6), (0.42, 0.65)], strict=True
        ):
            found = total[(energy > low) & (energy < high)].sum()
            expected = image.data.sum()
            assert abs(found - expected) < 4 * np.sqrt(expected) + 0.01 * expected

    def test_axes_are_those_of_the_maps(self):
        truth = data.janus(size=16).truth
        spectra = data.xray_spectra(truth, self.LINES, n_channels=100)
        assert spectra.data.shape == (16, 16, 100)
        x = truth[0].axes_manager["x"]
        assert spectra.axes_manager["x"].scale == x.scale
        assert spectra.axes_manager["x"].units == x.units

    @pytest.mark.parametrize(
        ("lines", "words"),
        [
            (["Au_La"], "1 lines were given for 3 maps"),
            (["Au_La", "Fe_Ka", "Xx_Ka"], "'Xx_Ka' is no X-ray line"),
            (["Au_La", "Fe_Ka", "O"], "'O' is no X-ray line"),
        ],
    )
    def test_wrong_lines(self, lines, words):
        truth = data.janus(size=16).truth
        with pytest.raises(ValueError, match=words):
            data.xray_spectra(truth, lines)

    def test_more_counts_than_a_channel_holds(self):
        truth = data.janus(size=16).truth
        truth[1].data *= 1e6
        with pytest.raises(ValueError, match="expected at most 65535"):
            data.xray_spectra(truth, self.LINES)


@pytest.mark.parametrize(("kind", "exponent"), [("phase", 0.7), ("maadf", 1.4)])
def test_elastic_image_is_a_sum_over_the_elements(kind, exponent):
    _, haadf, truth = data.janus(size=32, counts=1)
    image = data.elastic_image(truth, kind, electrons=1e9)
    atoms = np.stack([signal.data for signal in truth]) / [[[1.0]], [[1.3]], [[1.6]]]
    expected = np.tensordot(np.power([79.0, 26, 8], exponent), atoms, 1)
    relative = (image.data - 500) / 3.7e9 - 0.1
    assert_allclose(relative, expected / expected.max(), atol=1e-3)
    assert image.metadata.General.title == kind
    assert image.axes_manager.signal_axes[0].scale == haadf.axes_manager[0].scale


def test_bright_field_is_what_is_left():
    truth = data.lattice(size=32).truth
    image = data.elastic_image(truth, "bf", electrons=1e9).data
    atoms = np.stack([signal.data for signal in truth]) / [[[1.0]], [[1.3]], [[1.6]]]
    expected = np.tensordot([66, 21, 8], atoms, 1)
    expected = 1 - 0.8 * expected / expected.max()
    assert_allclose((image - 500) / 3.7e9 - 0.1, expected, atol=1e-3)
    moved = data.elastic_image(truth, "bf", electrons=1e9, shift=(0, 2)).data
    assert_allclose(moved[:, 2:], image[:, :-2], rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "iDPC"}, "kind is 'iDPC': expected one of phase, maadf, bf"),
        ({"electrons": 0}, "electrons is 0: expected a number above 0"),
        ({"nonlinear": 0.9}, "nonlinear is 0.9: expected 0 to 0.5"),
        ({"truth": []}, "truth has maps of : expected those of the three elements"),
    ],
)
def test_elastic_images_that_cannot_be(change, message):
    truth = data.lattice(size=32).truth
    with pytest.raises(ValueError, match=message):
        data.elastic_image(**{"truth": truth, **change})


@pytest.mark.parametrize("name", ["core_shell", "lattice", "janus"])
def test_a_size_that_is_no_number(name):
    with pytest.raises(TypeError, match="size is '64': expected a whole number"):
        getattr(data, name)(size="64")
