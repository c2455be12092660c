"""A fusion is repeated from its record, to the last bit, or what hinders is told."""

import json

import hyperspy.api as hs
import numpy as np
import pytest

import hyperspy_fusion as hf
from hyperspy_fusion import provenance

GIVEN = {"lambda_tv": 4.0, "lambda_haadf": 0.1}


@pytest.fixture(scope="module")
def specimen():
    return hf.data.core_shell(48)


@pytest.fixture(scope="module")
def fused(specimen):
    return hf.fuse_multimodal(specimen.maps, specimen.haadf, seed=3)


def assert_same(again, before):
    for new, old in zip(again, before, strict=True):
        np.testing.assert_array_equal(new.data, old.data)
    records = [f[0].metadata.Multimodal_fusion.as_dictionary() for f in (again, before)]
    for new, old in zip(*(record.items() for record in records), strict=True):
        assert new[0] == old[0]
        np.testing.assert_equal(new[1], old[1])


def test_automatic_weights_with_other_threads(specimen, fused):
    again = hf.repeat(fused, specimen.maps, specimen.haadf, num_workers=1)
    assert_same(again, fused)
    assert again[0].metadata.Multimodal_fusion.seed == 3


@pytest.mark.parametrize("lazy", [False, True])
def test_from_files(specimen, fused, lazy, tmp_path):
    signals = [*specimen.maps, specimen.haadf, *fused]
    for i, signal in enumerate(signals):
        signal.save(tmp_path / f"{i}.hspy")
    paths = [tmp_path / f"{i}.hspy" for i in range(len(signals))]
    loaded = [hs.load(path, lazy=lazy) for path in paths]
    maps, haadf, before = loaded[:3], loaded[3], loaded[4:]
    again = hf.repeat(before, maps, haadf)
    if lazy:
        for signal in again:
            signal.compute(show_progressbar=False)
        maps[1].data = maps[1].data + 1
        with pytest.raises(ValueError, match="other values than .*: map of Mn"):
            hf.repeat(before, maps, haadf)
    for new, old in zip(again, fused, strict=True):
        np.testing.assert_array_equal(new.data, old.data)


def test_every_option(specimen):
    maps = [signal.deepcopy() for signal in specimen.maps]
    maps[0].data = maps[0].data.astype(float)
    maps[0].data[3, 4] = np.nan
    mask = np.zeros((48, 48), bool)
    mask[10:12, 5:9] = True
    phase = specimen.haadf**0.5
    phase.metadata.General.title = "phase"
    given = {"mask": mask, "elastic": [phase], "background": 0.02}
    options = {
        **GIVEN,
        "sensitivities": {"Co": 1, "Mn": 1.3, "O": 1.6},
        "match": "pixels",
        "gamma": 1.6,
        "regularizer": "tv",
        "lock_flux": False,
        "tolerance": 1e-2,
        "elements": ["Fe", "Mn", "O"],
    }
    options["sensitivities"]["Fe"] = 1.1
    with pytest.warns(UserWarning, match="taken for one of Fe"):
        before = hf.fuse_multimodal(maps, specimen.haadf, **given, **options)
    with pytest.warns(UserWarning, match="taken for one of Fe"):
        again = hf.repeat(before, maps, specimen.haadf, **given)
    assert_same(again, before)


@pytest.mark.parametrize("options", [{"n_replicas": 2}, {"uncertainty": True}])
def test_replicas_and_variances(specimen, options):
    before = hf.fuse_multimodal(specimen.maps, specimen.haadf, **GIVEN, **options)
    again = hf.repeat(before, specimen.maps, specimen.haadf)
    assert_same(again, before)
    for new, old in zip(again, before, strict=True):
        for node in ("replicas", "variance"):
            own = [s.metadata.get_item(f"Multimodal_fusion.{node}") for s in (new, old)]
            if own[1] is not None:
                np.testing.assert_array_equal(*(getattr(a, "data", a) for a in own))


def test_published(specimen):
    before = hf.fuse_published(specimen.maps, specimen.haadf, n_iter=5, gamma=1.4)
    assert_same(hf.repeat(before, specimen.maps, specimen.haadf), before)


def test_the_published_method_takes_no_further_images(specimen):
    lazy = [signal.as_lazy() for signal in (*specimen.maps, specimen.haadf)]
    before = hf.fuse_published(lazy[:3], lazy[3], n_iter=2)
    with pytest.raises(ValueError, match="takes no further images"):
        hf.repeat(before, lazy[:3], lazy[3], elastic=specimen.haadf)


def test_maps_in_another_order(specimen, fused):
    again = hf.repeat(fused[::-1], *specimen[:2])
    np.testing.assert_array_equal(again[0].data, fused[0].data)


@pytest.mark.parametrize("options", [{"tile_size": 32}, {"weights": "shared"}])
def test_series_and_tiles(series_of, options):
    series = series_of(*(hf.data.core_shell(40, seed=seed) for seed in (1, 2)))
    before = hf.fuse_multimodal(series.maps, series.haadf, 0.02, **GIVEN, **options)
    assert_same(hf.repeat(before, series.maps, series.haadf, 0.02), before)
    stack = hs.stack(before, show_progressbar=False)
    assert_same(hf.repeat(stack, series.maps, series.haadf, 0.02), before)


@pytest.fixture(scope="module")
def spectral(specimen):
    """Spectra, a mask, options, and the maps that were fused from them."""
    lines = ["Co_Ka", "Mn_Ka", "O_Ka"]
    spectra = hf.data.xray_spectra(specimen.truth, lines, continuum=0.3)
    mask = np.zeros((48, 48), bool)
    mask[20:23, 5:9] = True
    options = {"energy_range": (0.3, 9), "seed": 5, "n_replicas": 2, **GIVEN}
    fused = hf.fuse_spectra(
        spectra, specimen.haadf, ["Mn", "Co", "O"], lines="Co_Ka", mask=mask, **options
    )
    return spectra, mask, fused


@pytest.mark.parametrize("lazy", [False, True])
def test_spectra(specimen, spectral, lazy):
    spectra, mask, before = spectral
    spectra = spectra.as_lazy() if lazy else spectra
    again = hf.repeat(before, spectra, specimen.haadf, mask=mask, num_workers=1)
    assert_same(again, before)


def test_other_spectra_are_named(specimen, spectral):
    spectra, mask, before = spectral
    other = spectra.deepcopy()
    other.data[0, 0, other.axes_manager[2].value2index(6.4)] += 1
    with pytest.raises(ValueError, match="other values than .*: spectra"):
        hf.repeat(before, other, specimen.haadf, mask=mask)
    with pytest.raises(ValueError, match="had a mask and none is given"):
        hf.repeat(before, spectra, specimen.haadf)
    phase = [specimen.haadf]
    with pytest.raises(
        ValueError, match="had no further elastic image and one is given"
    ):
        hf.repeat(before, spectra, specimen.haadf, mask=mask, elastic=phase)


def test_no_further_images_of_spectra(specimen, spectral):
    spectra, _, _ = spectral
    before = hf.fuse_spectra(
        spectra, specimen.haadf, ["Mn", "Co", "O"], elastic={}, **GIVEN
    )
    assert_same(hf.repeat(before, spectra, specimen.haadf), before)


def test_names_with_a_colon(specimen):
    phase = {"Phase: iDPC": hf.data.elastic_image(specimen.truth, "phase")}
    before = hf.fuse_multimodal(*specimen[:2], elastic=phase, **GIVEN)
    assert_same(hf.repeat(before, *specimen[:2], elastic=phase), before)


def test_lazy_maps_before_they_are_computed(specimen):
    options = {"lazy_output": True, **GIVEN}
    before = hf.fuse_multimodal(specimen.maps, specimen.haadf, **options)
    again = hf.repeat(before, specimen.maps, specimen.haadf)
    for new, old in zip(again, before, strict=True):
        old.compute(show_progressbar=False)
        np.testing.assert_array_equal(new.data, old.data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: {"background": 0.02}, "had no background and one is given"),
        (
            lambda _: {"mask": np.zeros((48, 48), bool)},
            "had no mask and one is given: expected the data that were fused, leave",
        ),
        (lambda s: {"maps": [s.maps[0] * 2, *s.maps[1:]]}, "fused: map of Co. Expec"),
        (lambda s: {"haadf": s.haadf + 1}, "than those that were fused: HAADF image"),
        (
            lambda s: {"elastic": s.haadf + 1},
            "than those that were fused: elastic image HAADF",
        ),
        (
            lambda s: {
                "maps": [m.isig[:20, :20] for m in s.maps],
                "haadf": s.haadf.isig[:20, :20],
            },
            "map of Co, map of Mn, map of O, HAADF image",
        ),
    ],
)
def test_other_data_are_named(specimen, fused, change, words):
    given = {"maps": specimen.maps, "haadf": specimen.haadf} | change(specimen)
    with pytest.raises(ValueError, match=words):
        hf.repeat(fused, **given)


def test_what_was_given_is_asked_for(specimen):
    mask = np.zeros((48, 48), bool)
    mask[3:6, 3:6] = True
    before = hf.fuse_multimodal(specimen.maps, specimen.haadf, 0.02, mask=mask, **GIVEN)
    with pytest.raises(ValueError, match="had a background and none is given"):
        hf.repeat(before, specimen.maps, specimen.haadf, mask=mask)
    with pytest.raises(ValueError, match="had a mask and none is given"):
        hf.repeat(before, specimen.maps, specimen.haadf, 0.02)
    with pytest.raises(ValueError, match="other values than .*: background"):
        hf.repeat(before, specimen.maps, specimen.haadf, 0.03, mask=mask)


def test_other_types_of_the_same_values_are_the_same_data(specimen, fused):
    maps = [signal.deepcopy() for signal in specimen.maps]
    for signal in maps:
        signal.change_dtype("float64")
    assert_same(hf.repeat(fused, maps, specimen.haadf), fused)


def test_other_versions_and_changed_maps_are_told(specimen, fused):
    older = [signal.deepcopy() for signal in fused]
    record = older[0].metadata.Multimodal_fusion
    record.versions = record.versions.replace("numpy ", "numpy 0.")
    with pytest.warns(UserWarning, match=r"were fused with numpy 0\..* \(now"):
        hf.repeat(older, specimen.maps, specimen.haadf)
    older = [signal.deepcopy() for signal in fused]
    older[1].data[3, 3] += older[1].data.max()
    with pytest.warns(UserWarning, match="differ by up to 1.0e.00 of their largest"):
        hf.repeat(older, specimen.maps, specimen.haadf)


def test_parts_of_maps_are_enough(specimen, fused):
    part = [signal.isig[4:9, 4:9] for signal in fused]
    assert_same(hf.repeat(part, specimen.maps, specimen.haadf), fused)


def test_records_without_options(specimen, fused):
    older = [signal.deepcopy() for signal in fused]
    for signal in older:
        del signal.metadata.Multimodal_fusion.call
    with pytest.raises(ValueError, match="did not keep the options"):
        hf.repeat(older, specimen.maps, specimen.haadf)


def test_what_the_record_holds(fused):
    record = fused[0].metadata.Multimodal_fusion
    call = json.loads(record.call)
    assert call["options"]["seed"] == 3
    assert call["options"]["lambda_tv"] is None  # chosen
    assert call["given"] == []
    names = [line.split(":")[0] for line in record.checksums.splitlines()]
    assert names == ["map of Co", "map of Mn", "map of O", "HAADF image"]
    packages = [line.split()[0] for line in record.versions.splitlines()]
    assert {"Python", "numpy", "scipy", "numba", "hyperspy"} <= set(packages)
    assert record.versions == provenance.versions()
