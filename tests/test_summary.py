"""What a fusion says of itself, for all that can be fused."""

from types import SimpleNamespace

import hyperspy.api as hs
import numpy as np
import pytest

import hyperspy_fusion as hf
from hyperspy_fusion.summary import caption_of

GIVEN = {"lambda_tv": 4, "lambda_haadf": 0.1}
NOT_COMPUTED = (
    "The maps are not computed yet: what was done is known after compute() or save()."
)


@pytest.fixture(scope="module")
def specimen():
    return hf.data.core_shell(size=32)


@pytest.fixture(scope="module")
def fused(specimen):
    return hf.fuse_multimodal(specimen.maps, specimen.haadf, background=0.02)


def record_of(fused):
    return fused[0].metadata.Multimodal_fusion


def test_counts_and_an_image_that_fits(fused):
    record = record_of(fused)
    kept = "The sum of each map was kept."
    assert hf.summarize(fused).splitlines() == [
        "The maps of Co, Mn, O were fused by the calibrated method.",
        "The maps were taken for counts.",
        (
            f"The HAADF image was used; its weight {record.lambda_haadf:.3g} was "
            "chosen: with it, held-out data are predicted better by "
            f"{record.haadf_gain:.1f} "
            "standard deviations."
        ),
        (
            "The image agrees with the maps everywhere (largest local difference: "
            f"{record.guard:.1f} standard deviations)."
        ),
        "No shift of the image against the maps was found.",
        "The background that was given was taken into account.",
        kept,
        (
            f"The fusion converged after {record.n_iter} iterations: the gap is "
            f"{record.gap:.1g} of the objective, the last change of a map "
            f"{record.change.max():.1g} of its contrast."
        ),
        "There was no warning.",
    ]


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")  # zarr 2
@pytest.mark.parametrize("extension", ["hspy", "zspy"])
def test_lists_stacks_parts_and_files_say_the_same(fused, tmp_path, extension):
    expected = hf.summarize(fused)
    assert record_of(fused).summary == expected
    assert hf.summarize(fused[2].isig[:8, :8]) == expected
    assert hf.summarize(hs.stack(fused, show_progressbar=False)) == expected
    path = tmp_path / f"map.{extension}"
    fused[1].save(path)
    assert hf.summarize(hs.load(path)) == expected


def test_warnings_are_kept_in_files(specimen, tmp_path):
    message = "max_iter=2 was reached before the tolerance of 0.001"
    with pytest.warns(UserWarning, match=message):
        fused = hf.fuse_multimodal(specimen.maps, specimen.haadf, max_iter=2, **GIVEN)
    fused[0].save(tmp_path / "Co.hspy")
    back = hs.load(tmp_path / "Co.hspy")
    assert back.metadata.Multimodal_fusion.warnings.startswith(message)
    *_, end, warning, advice = hf.summarize(back).splitlines()
    assert end.startswith("The fusion ended after 2 iterations: the gap is ")
    assert warning.startswith(f"Warning: {message}")
    assert warning.endswith("raise max_iter, or loosen tolerance.")
    assert advice.startswith("What to do: follow the warnings")


def test_what_makes_a_fusion_slow_is_told(specimen):
    maps, haadf, _ = specimen
    mask = np.zeros(haadf.data.shape, bool)
    mask[:, : len(mask) // 2] = True
    with pytest.warns(UserWarning, match=f"; {3 * mask.sum()} pixels without data"):
        hf.fuse_multimodal(maps, haadf, 0.02, mask=mask, max_iter=2, **GIVEN)


def test_what_was_given_or_turned_off(specimen):
    maps, haadf, _ = specimen
    text = hf.summarize(hf.fuse_multimodal(maps, haadf, lock_flux=False, **GIVEN))
    assert "The HAADF image was used; its weight 0.1 was given." in text
    assert "The sums of the maps were not kept, as lock_flux=False asks for." in text
    assert "the HAADF image shows too little vacuum to find it: none was" in text
    values = [signal - 0.02 for signal in maps]
    text = hf.summarize(hf.fuse_multimodal(values, haadf, **GIVEN))
    assert (
        "No background was taken into account: none was given, and none was found."
    ) in text
    text = hf.summarize(hf.fuse_multimodal(maps, haadf, lambda_tv=4, lambda_haadf=0))
    assert "The HAADF image was not used, as lambda_haadf=0 asks for." in text


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda s: s * 17.5, "scaled counts", "The maps were taken for scaled counts"),
        (
            lambda s: s - 0.02,
            "values with estimated noise",
            "Gaussian noise is assumed",
        ),
        (
            lambda s: s.set_noise_variance(1.0) or s,
            "values with given noise",
            "The maps were taken for values with the noise variance that was given.",
        ),
    ],
)
def test_other_data_than_counts(specimen, change, kind, words):
    maps = [change(signal.deepcopy()) for signal in specimen.maps]
    fused = hf.fuse_multimodal(maps, specimen.haadf, **GIVEN)
    assert record_of(fused).kind == kind
    text = hf.summarize(fused)
    assert words in text
    assert "taken for counts" not in text
    assert caption_of(record_of(fused).as_dictionary()).startswith(kind.capitalize())


@pytest.mark.filterwarnings("ignore:the HAADF image contradicts:UserWarning")
def test_fractions(specimen):
    total = sum(signal.data for signal in specimen.maps) + 3
    maps = [(signal + 1) / total for signal in specimen.maps]
    with pytest.warns(UserWarning, match="are fractions"):
        fused = hf.fuse_multimodal(maps, specimen.haadf, haadf_offset=0, **GIVEN)
    assert record_of(fused).kind == "fractions"
    assert "The maps were taken for fractions, which sum" in hf.summarize(fused)
    assert "Warning: the maps are fractions, with a sum of 1" in hf.summarize(fused)
    assert "nan" not in hf.summarize(fused)
    summary = hf.summarize(fused)
    assert "was not tested, since they are fractions" in summary
    assert "No shift of the image against the maps was found" in summary


def test_an_image_that_does_not_help(specimen):
    noise = specimen.haadf.deepcopy()
    noise.data = np.random.default_rng(3).normal(100, 10, noise.data.shape)
    with pytest.warns(UserWarning, match="the HAADF image was not used"):
        fused = hf.fuse_multimodal(specimen.maps, noise)
    text = hf.summarize(fused)
    assert (
        "The HAADF image was not used, since it does not improve the prediction of "
        "the maps."
    ) in text
    assert "inverted" not in text
    caption = caption_of(record_of(fused).as_dictionary())
    assert caption.startswith("Counts. HAADF image not used.\n")
    assert caption.endswith("1 warning: see summarize(fused).")


def test_where_the_image_contradicts_the_maps():
    maps, haadf, _ = hf.data.core_shell(64)
    haadf = haadf.deepcopy()
    haadf.data[40:52, 4:16] += 4 * haadf.data.std()
    with pytest.warns(UserWarning, match="the HAADF image contradicts the maps in"):
        fused = hf.fuse_multimodal(maps, haadf, 0.02, **GIVEN)
    percent = f"{100 * record_of(fused).flagged:.2g} % of the pixels"
    text = hf.summarize(fused)
    expected = f"The image was not used in {percent}, where it contradicts the maps."
    assert expected in text
    assert (
        "plot_misfit(maps, fused, haadf, background=background)"
        in text.splitlines()[-1]
    )
    assert f"not in {percent}" in caption_of(record_of(fused).as_dictionary())


@pytest.mark.parametrize("dtype", [np.float64, np.uint16])
def test_an_inverted_image(specimen, dtype):
    maps, haadf, _ = specimen
    inverted = haadf.deepcopy()
    inverted.data = (haadf.data.max() - haadf.data).astype(dtype)
    words = "seems to have inverted contrast, as a bright-field image"
    with pytest.warns(UserWarning, match=words):
        fused = hf.fuse_multimodal(maps, inverted, **GIVEN)
    assert words in record_of(fused).warnings
    text = hf.summarize(fused)
    assert "or haadf * -1.0" in text
    # no vacuum is looked for where the specimen is
    assert "background is larger than its counts" not in text
    back = hf.fuse_multimodal(maps, inverted * -1.0, **GIVEN)
    assert record_of(back).warnings == ""


def test_published(specimen):
    fused = hf.fuse_published(specimen.maps, specimen.haadf, n_iter=4)
    first, *_, end, last = hf.summarize(fused).splitlines()
    assert first == "The maps of Co, Mn, O were fused by the published method."
    assert "The HAADF image was used with the weight 0.333." in hf.summarize(fused)
    assert end.startswith("The fusion ended after 4 iterations: ran the n_iter")
    assert last == "There was no warning."
    text = hf.summarize(
        hf.fuse_published(
            specimen.maps, specimen.haadf, n_iter=2, lambda_haadf=0, regularize=False
        )
    )
    assert "The HAADF image was not used, as lambda_haadf=0 asks for." in text
    assert "there was no total variation" in text
    one = hf.fuse_published(specimen.maps[:1], specimen.haadf, n_iter=2)
    assert hf.summarize(one).startswith("The map of Co was fused by the published")


def test_of_a_series_each_sentence_says_for_how_many(specimen, series_of):
    other = hf.data.core_shell(size=32, seed=2, counts=16)
    maps, haadf = series_of(specimen, other)
    haadf.data[1, :5] = np.nan
    fused = hf.fuse_multimodal(maps, haadf, background=0.02)
    record, text = record_of(fused), hf.summarize(fused)
    assert "by the calibrated method, 2 images of a series." in text
    assert "The maps were taken for counts." in text
    assert (
        "160 missing pixels of the HAADF image are not used (1 of 2 images)."
    ) in text
    low, high = sorted(record.guard)
    assert f"(largest local difference: {low:.1f} to {high:.1f} standard" in text
    assert record.kind == "counts"
    assert list(record.haadf_missing_pixels) == [0, 160]


def test_warnings_of_a_series_are_told_once(specimen, series_of):
    maps, haadf = series_of(specimen, specimen, specimen)
    values = np.random.default_rng(3).normal(100, 10, (2, 32, 32))
    haadf.data[1:] = values
    with pytest.warns(UserWarning, match="was not used") as caught:
        fused = hf.fuse_multimodal(maps, haadf, background=0.02)
    assert len([w for w in caught if w.category is UserWarning]) == 1
    assert record_of(fused).warnings.endswith("(2 of 3 images)")
    text = hf.summarize(fused)
    assert "The HAADF image was used (1 of 3 images); its weight" in text
    assert "prediction of the maps (2 of 3 images)." in text


def test_warnings_of_shared_weights_are_kept(specimen, series_of):
    maps, haadf = series_of(specimen, specimen)
    haadf.data[:] = np.random.default_rng(3).normal(100, 10, (2, 32, 32))
    with pytest.warns(UserWarning, match="the HAADF image was not used"):
        fused = hf.fuse_multimodal(maps, haadf, weights="shared")
    assert record_of(fused).warnings.startswith("the HAADF image was not used")


def test_tiles_count_missing_pixels_once():
    maps, haadf, _ = hf.data.core_shell(96)
    maps[0].data[46:50, 46:50] = np.nan  # in all tiles and their halos
    fused = hf.fuse_multimodal(maps, haadf, 0.02, tile_size=48, **GIVEN)
    assert record_of(fused).missing_pixels == 16
    note = "16 missing pixels of the maps are filled by the model"
    assert record_of(fused).notes.splitlines().count(note) == 1
    assert f"\n{note}.\n" in hf.summarize(fused)


def test_lazy_maps(specimen):
    lazy = hf.fuse_multimodal(
        specimen.maps, specimen.haadf, background=0.02, lazy_output=True
    )
    assert hf.summarize(lazy) == NOT_COMPUTED
    figure = hf.plot_fusion(specimen.maps, lazy, specimen.haadf)[0].figure
    lazy[0].compute()
    eager = hf.fuse_multimodal(specimen.maps, specimen.haadf, background=0.02)
    assert hf.summarize(lazy) == hf.summarize(eager)
    caption = caption_of(record_of(eager).as_dictionary())
    assert figure.get_supxlabel() == caption


def test_no_fusion_and_an_old_one(specimen, fused):
    with pytest.raises(ValueError, match="no metadata.Multimodal_fusion"):
        hf.summarize(specimen.maps)
    with pytest.raises(ValueError, match="empty list: expected the maps"):
        hf.summarize([])
    old = fused[0].deepcopy()
    del old.metadata.Multimodal_fusion.summary
    with pytest.raises(ValueError, match="which wrote no summary"):
        hf.summarize(old)


def test_sums_that_are_not_kept():
    """Only some sums, or none, are kept."""
    from hyperspy_fusion.summary import _about_the_sums  # noqa: PLC0415

    fusion = SimpleNamespace(options=SimpleNamespace(lock_flux=True))
    some = _about_the_sums(fusion, {"Fe": 3, "Pt": 1, "O": 0}, 3)
    assert some == "the sums of these maps were kept: Fe, Pt (1 of 3 images)"
    assert _about_the_sums(fusion, {"Fe": 0}, 1) == "the sum of no map was kept"


@pytest.mark.parametrize("how", ["eager", "lazy", "tiles"])
def test_warnings_about_the_signals_are_kept(how):
    specimen = hf.data.core_shell(64)
    maps = list(specimen.maps)
    maps[1] = maps[1] * 0 + 1
    if how != "eager":
        maps = [signal.as_lazy() for signal in maps]
    haadf = specimen.haadf.deepcopy()
    haadf.axes_manager.signal_axes[0].units = ""
    tiles = {"tile_size": 32} if how == "tiles" else {}
    options = {"max_iter": 25, "tolerance": 0.5, **GIVEN, **tiles}
    expected = "is not calibrated|without any contrast|max_iter=25"
    with pytest.warns(UserWarning, match=expected) as caught:
        fused = hf.fuse_multimodal(maps, haadf, lazy_output=False, **options)
    messages = [str(w.message) for w in caught if w.category is UserWarning]
    kept = record_of(fused).warnings.splitlines()
    assert messages == kept
    assert sum("HAADF image is not calibrated" in message for message in kept) == 1
    assert sum("without any contrast: map of Mn" in message for message in kept) == 1


def test_too_few_counts():
    maps, haadf, _ = hf.data.core_shell(32)
    rng = np.random.default_rng(1)
    for signal in maps:
        signal.data = rng.poisson(signal.data / 100)
    with pytest.warns(UserWarning, match="too few counts to judge"):
        fused = hf.fuse_multimodal(maps, haadf, lambda_tv=4, lambda_haadf=0.1)
    summary = hf.summarize(fused)
    assert "was not tested, since they hold too few counts" in summary
    assert "agrees with the maps" not in summary


def test_sharing_is_recommended_for_crystals(specimen):
    options = {"lambda_tv": 3.0, "lambda_haadf": 0.1}
    maps, haadf, _ = hf.data.lattice(64)
    words = "the image repeats itself: with share=True, pixels that look alike"
    words = words.lower()
    assert words in hf.summarize(hf.fuse_multimodal(maps, haadf, **options)).lower()
    shared = hf.fuse_multimodal(maps, haadf, share=True, **options)
    assert words not in hf.summarize(shared).lower()
    other = hf.fuse_multimodal(specimen.maps, specimen.haadf, **options)
    assert words not in hf.summarize(other).lower()


def test_elements_that_do_not_share_are_named():
    maps, haadf, _ = hf.data.lattice(size=96, counts=4, seed=1)
    given = {"lambda_tv": 2.8, "lambda_haadf": 0.1}
    fused = hf.fuse_multimodal(maps, haadf, 0.02, share=True, **given)
    assert record_of(fused).sharing_elements.tolist() == [0, 1, 1]
    assert "For Dy shared counts do not predict held-out" in hf.summarize(fused)
    panels = hf.plot_sharing(maps, fused, haadf, (40, 52), 0.02)
    titles = [panel.get_title() for panel in panels]
    assert titles == ["HAADF", "Dy (not shared)", "Sc", "O"]
    circles = [len(panel.collections) for panel in panels]
    assert circles[1] == circles[2] - 1
