import warnings

import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion.inputs.further import further_images

GIVEN = {"lambda_tv": 3.0, "lambda_haadf": 0.1}


@pytest.fixture(scope="module")
def specimen():
    return hf.data.lattice(size=48)


@pytest.fixture(scope="module")
def phase(specimen):
    return hf.data.elastic_image(specimen.truth, "phase")


@pytest.fixture(scope="module")
def flat(phase):
    noise = np.random.default_rng(0).poisson(1000, phase.data.shape)
    signal = phase._deepcopy_with_new_data(noise.astype(float))
    signal.metadata.General.title = "BF"
    return signal


@pytest.fixture(scope="module")
def fused(specimen, phase, flat):
    maps, haadf, _ = specimen
    return hf.fuse_multimodal(maps, haadf, elastic=[phase, flat], **GIVEN)


def record(signals):
    return signals[0].metadata.Multimodal_fusion


def test_the_record_knows_each_image(fused, specimen):
    found = record(fused)
    assert found.elastic.split("\n") == ["phase", "BF"]
    used, unused = found.lambda_elastic
    assert used > 0 == unused
    assert found.elastic_coefficients.shape == (2, len(specimen.maps))
    summary = hf.summarize(fused)
    assert "The image phase was used; its weight" in summary
    assert "The image BF was not used: it does not improve the prediction" in summary


def test_images_that_are_not_used_change_no_bit(specimen, flat):
    maps, haadf, _ = specimen
    alone = hf.fuse_multimodal(maps, haadf, **GIVEN)
    found = hf.fuse_multimodal(maps, haadf, elastic=flat, **GIVEN)
    for one, other in zip(found, alone, strict=True):
        assert_array_equal(one.data, other.data)
    assert not record(alone).has_item("elastic")


def test_of_signals_and_saved(fused, specimen, phase, flat, tmp_path):
    maps, haadf, _ = specimen
    images = {"phase": phase, "BF": flat}
    stacked = hs.stack(maps).fuse_multimodal(haadf, elastic=images, **GIVEN)
    assert_array_equal(stacked.data, [signal.data for signal in fused])
    found = haadf.fuse_multimodal(maps, elastic=images, **GIVEN)
    assert_array_equal(found[0].data, fused[0].data)
    fused[0].save(tmp_path / "fused.hspy")
    loaded = hs.load(tmp_path / "fused.hspy").metadata.Multimodal_fusion
    assert loaded.elastic == record(fused).elastic
    assert_array_equal(loaded.elastic_shift, record(fused).elastic_shift)


def test_lazy(fused, specimen, phase, flat):
    maps, haadf, _ = specimen
    lazy = hf.fuse_multimodal(
        [signal.as_lazy() for signal in maps],
        haadf,
        elastic=[phase.as_lazy(), flat],
        **GIVEN,
    )
    before = record(lazy).lambda_elastic
    assert before.shape == (2,)
    lazy[0].compute(show_progressbar=False)
    assert_array_equal(lazy[0].data, fused[0].data)
    assert_array_equal(record(lazy).lambda_elastic, record(fused).lambda_elastic)
    assert_array_equal(np.asarray(before), record(fused).lambda_elastic)


def test_series(fused, specimen, phase, flat):
    maps, haadf, _ = specimen
    twice = [hs.stack([signal, signal]) for signal in maps]
    images = [hs.stack([image, image]) for image in (phase, flat)]
    found = hf.fuse_multimodal(
        twice, hs.stack([haadf, haadf]), elastic=images, elements=["Dy", "Sc", "O"],
        **GIVEN,
    )  # fmt: skip
    assert_array_equal(found[0].data[1], fused[0].data)
    assert record(found).lambda_elastic.shape == (2, 2)


def test_masks_and_uncalibrated_images(specimen, phase):
    maps, haadf, _ = specimen
    mask = np.zeros(haadf.data.shape, bool)
    mask[10:20, 10:20] = True
    bare = hs.signals.Signal2D(phase.data)
    bare.metadata.General.title = "phase"
    with pytest.warns(UserWarning, match="the elastic image phase is not calibrated"):
        found = hf.fuse_multimodal(maps, haadf, mask=mask, elastic=bare, **GIVEN)
    assert record(found).lambda_elastic[0] > 0
    assert np.isfinite(found[0].data).all()


def test_shared_counts_with_a_further_image(specimen, phase):
    maps, haadf, truth = specimen
    given = {**GIVEN, "lambda_elastic": 0.3, "share": True}
    found = hf.fuse_multimodal(maps, haadf, elastic=phase, **given, n_replicas=3)
    one = record(found)
    assert one.sharing == 1
    assert one.lambda_elastic == [0.3]
    assert one.gap < 1e-3
    first = [signal.get_unshared() for signal in found]
    alone = hf.fuse_multimodal(maps, haadf, elastic=phase, **GIVEN, lambda_elastic=0.3)
    assert_array_equal(first[0].data, alone[0].data)
    apart = [
        [
            np.sqrt(np.mean((s.data - t.data) ** 2))
            for s, t in zip(x, truth, strict=True)
        ]
        for x in (found, first)
    ]
    assert np.mean(np.divide(*apart)) < 0.85
    with pytest.raises(ValueError, match="on which its groups depend"):
        hf.plot_sharing(maps, found, haadf, (20, 20))


# --- weights that are given --------------------------------------------------------


def test_given_weights(specimen, phase, flat, fused):
    maps, haadf, _ = specimen
    chosen = record(fused).lambda_elastic
    images = {"phase": phase, "BF": flat}
    for weights in (list(chosen), dict(zip(images, chosen, strict=True))):
        found = hf.fuse_multimodal(
            maps, haadf, elastic=images, lambda_elastic=weights, **GIVEN
        )
        assert_array_equal(found[0].data, fused[0].data)
        assert np.isnan(record(found).elastic_gain).all()
        told = hf.summarize(found)
        assert f"The image phase was used with the weight {chosen[0]:.3g}" in told
        assert "The image BF was not used: its weight is 0" in told


def test_one_weight_is_given_and_another_is_chosen(specimen, phase, flat):
    maps, haadf, _ = specimen
    found = hf.fuse_multimodal(
        maps, haadf, elastic=[phase, flat], lambda_elastic={"BF": 0.05}, **GIVEN
    )
    assert record(found).lambda_elastic[1] == 0.05
    assert record(found).lambda_elastic[0] > 0
    assert np.isfinite(record(found).elastic_gain).tolist() == [True, False]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.1, 0.2], "lambda_elastic has 2 weights and there are 1 elastic images"),
        ({"ADF": 0.1}, "lambda_elastic has a weight of ADF: expected weights of phase"),
        (-1.0, "lambda_elastic is -1.0: expected a finite number of at least 0"),
        ([np.nan], r"lambda_elastic\[0\] is nan: expected a finite number"),
    ],
)
def test_weights_that_do_not_fit(specimen, phase, weights, message):
    maps, haadf, _ = specimen
    with pytest.raises(ValueError, match=message):
        hf.fuse_multimodal(maps, haadf, elastic=phase, lambda_elastic=weights)


def test_weights_of_no_image(specimen):
    maps, haadf, _ = specimen
    with pytest.raises(ValueError, match="lambda_elastic was given without elastic"):
        hf.fuse_multimodal(maps, haadf, lambda_elastic=0.1)


# --- what goes together with further images ----------------------------------------


def test_names_of_images(specimen, phase):
    signals = [phase.deepcopy() for _ in range(3)]
    for signal, title in zip(signals, ("BF", "BF", "BF 1"), strict=True):
        signal.metadata.General.title = title
    found = further_images(signals, specimen.haadf, [])
    assert len(found) == 3
    assert list(found) == ["BF 1'", "BF 2", "BF 1"]


@pytest.mark.parametrize("name", [1, "", "a\nb", None])
def test_names_that_cannot_be_recorded(specimen, phase, name):
    with pytest.raises(TypeError, match="elastic has the name .*: expected a text"):
        hf.fuse_multimodal(specimen.maps, specimen.haadf, elastic={name: phase})


def test_uncertainty_and_replicas(specimen, phase, fused):
    maps, haadf, truth = specimen
    weights = record(fused).lambda_elastic[:1]
    given = {**GIVEN, "lambda_elastic": weights}
    found = hf.fuse_multimodal(
        maps, haadf, elastic=phase, uncertainty=True, n_replicas=10, **given
    )
    again = hf.fuse_multimodal(maps, haadf, elastic=phase, **given)
    alone = hf.fuse_multimodal(maps, haadf, n_replicas=10, **GIVEN)
    within = []
    for one, same, true in zip(found, again, truth, strict=True):
        assert_array_equal(one.data, same.data)
        sigma = np.sqrt(one.get_noise_variance().data)
        within.append(np.mean(np.abs(one.data - true.data) < 2 * sigma))
    assert np.mean(within) > 0.9
    # oxygen, which the phase shows and HAADF does not
    spread, before = (
        hf.propagate(lambda m: m[2].data, maps).std.mean() for maps in (found, alone)
    )
    assert spread < 0.85 * before


def test_total_variation(specimen, phase):
    maps, haadf, truth = specimen
    given = {"regularizer": "tv", **GIVEN}
    with_phase = hf.fuse_multimodal(maps, haadf, elastic=phase, **given)
    alone = hf.fuse_multimodal(maps, haadf, **given)
    errors = [((m[2].data - truth[2].data) ** 2).mean() for m in (with_phase, alone)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("lazy", [False, True])
def test_tiles(lazy):
    maps, haadf, truth = hf.data.lattice(size=160)
    phase, bf = (hf.data.elastic_image(truth, kind) for kind in ("phase", "bf"))
    given = {"elastic": [phase, bf], "lambda_tv": 3.0, "lambda_haadf": 0.1}
    given["lambda_elastic"] = {"phase": 0.3, "bf": 0.1}
    whole = hf.fuse_multimodal(maps, haadf, **given)
    if lazy:
        maps = [signal.as_lazy() for signal in maps]
        given["elastic"] = [phase.as_lazy(), bf.as_lazy()]
    found = hf.fuse_multimodal(maps, haadf, tile_size=80, **given)
    if lazy:
        found[0].compute(show_progressbar=False)
    level = np.quantile(whole[0].data, 0.99)
    assert np.abs(found[0].data - whole[0].data).max() < 0.02 * level
    one, other = record(found), record(whole)
    assert_array_equal(one.lambda_elastic, other.lambda_elastic)
    assert_array_equal(one.elastic_coefficients, other.elastic_coefficients)
    assert (one.elastic_coefficients[1] <= 0).all()  # the bright-field image
    assert "The image bf has inverted contrast" in hf.summarize(found)


def test_a_slow_part_of_haadf_in_tiles():
    maps, haadf, _ = hf.data.core_shell(size=160)
    haadf.data = haadf.data + np.linspace(0, 0.5 * haadf.data.max(), 160)
    with pytest.warns(UserWarning, match="has a slowly varying part that the maps"):
        whole, found = (
            hf.fuse_multimodal(maps, haadf, 0.02, tile_size=size) for size in (None, 80)
        )
    one, other = record(found), record(whole)
    assert one.haadf_slow == other.haadf_slow > 0.1
    assert one.lambda_haadf == other.lambda_haadf > 0
    assert one.flagged < 0.05
    level = np.quantile(whole[0].data, 0.99)
    assert np.sqrt(np.mean((found[0].data - whole[0].data) ** 2)) < 0.02 * level
    for fused in (whole, found):
        z = hf.get_misfit(maps, fused, haadf, 0.02, standardised=True)
        assert np.abs(z.data).max() < 5


def test_a_slow_part_in_tiles():
    maps, haadf, truth = hf.data.core_shell(size=160)
    phase = hf.data.elastic_image(truth, "phase", wave=True)
    given = {"lambda_tv": 3.0, "lambda_haadf": 0.1, "lambda_elastic": 0.1}
    whole = hf.fuse_multimodal(maps, haadf, elastic=phase, **given)
    found = hf.fuse_multimodal(maps, haadf, elastic=phase, tile_size=80, **given)
    assert record(found).elastic_slow[0] == record(whole).elastic_slow[0] > 0.1
    assert record(found).elastic_flagged[0] < 0.05
    level = np.quantile(whole[0].data, 0.99)
    apart = np.sqrt(np.mean((found[0].data - whole[0].data) ** 2))
    assert apart < 0.02 * level
    alone = hf.fuse_multimodal(maps, haadf, **{**given, "lambda_elastic": "auto"})
    assert np.sqrt(np.mean((alone[0].data - whole[0].data) ** 2)) > 2 * apart


def test_images_displaced_by_more_than_a_tile_has_around():
    maps, haadf, truth = hf.data.core_shell(size=192)
    phase = hf.data.elastic_image(truth, "phase", shift=(20, -16))
    given = {"lambda_tv": 3.0, "lambda_haadf": 0.1, "lambda_elastic": 0.3}
    with pytest.warns(UserWarning, match="the image phase is displaced against the"):
        found = hf.fuse_multimodal(maps, haadf, elastic=phase, tile_size=96, **given)
    assert np.abs(record(found).elastic_shift - [20, -16]).max() < 1
    assert record(found).elastic_flagged < 0.25


def test_shared_weights(specimen, phase, flat, fused):
    maps, haadf, _ = specimen
    series = [hs.stack([signal, signal]) for signal in maps]
    images = [hs.stack([image, image]) for image in (phase, flat)]
    found = hf.fuse_multimodal(
        series, hs.stack([haadf, haadf]), elastic=images, elements=["Dy", "Sc", "O"],
        weights="shared", **GIVEN,
    )  # fmt: skip
    assert_array_equal(found[0].data[1], fused[0].data)
    assert (
        record(found).lambda_elastic.tolist()
        == [record(fused).lambda_elastic.tolist()] * 2
    )
    told = hf.summarize(found)
    assert "The image Stack of phase was used; its weight" in told
    assert "The image Stack of BF was not used: it does not improve" in told


def test_inputs_stay_as_they_are(specimen, phase):
    maps, haadf, _ = specimen
    before = phase.data.copy(), phase.metadata.as_dictionary()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hf.fuse_multimodal(maps, haadf, elastic=phase, **GIVEN)
    assert_array_equal(phase.data, before[0])
    assert phase.metadata.as_dictionary() == before[1]


def test_models_of_the_images(fused, phase):
    model = hf.get_haadf_model(fused, "phase")
    assert model.metadata.General.title == "phase model"
    assert model.metadata.Signal.signal_type == ""
    assert np.corrcoef(model.data.ravel(), phase.data.ravel())[0, 1] > 0.9
    assert abs(model.data.mean() / phase.data.mean() - 1) < 0.02
    assert hf.get_haadf_model(fused, "BF").data.std() < 0.1 * phase.data.std()
    with pytest.raises(ValueError, match="no elastic image 'ADF' .* one of phase, BF"):
        hf.get_haadf_model(fused, "ADF")


def test_misfit_of_each_image(fused, specimen, phase, flat):
    maps, haadf, _ = specimen
    model = hf.get_haadf_model(fused, "phase")
    with pytest.raises(
        ValueError, match="haadf is phase, a further image .* image='phase'"
    ):
        hf.get_misfit(maps, fused, phase)
    misfit = hf.get_misfit(maps, fused, phase, image="phase")
    assert_array_equal(misfit.data, phase.data - model.data)
    z = hf.get_misfit(maps, fused, phase, image="phase", standardised=True)
    largest = record(fused).elastic_guard[0]
    assert 0.5 * largest < np.abs(z.data).max() <= 1.05 * largest
    assert np.abs(hf.get_misfit(maps, fused, haadf, standardised=True).data).max() < 5
    axes = hf.plot_misfit(maps, fused, flat, image="BF")
    assert axes[0].get_title() == "BF"
    assert "its weight is 0" in axes[0].figure.get_supxlabel()


def test_misfit_of_an_inverted_image(specimen):
    maps, haadf, truth = specimen
    bf = hf.data.elastic_image(truth, "bf")
    bf.data[5:15, 5:15] *= 1.2  # brighter than the maps tell
    weights = {**GIVEN, "lambda_elastic": 0.3}
    with pytest.warns(UserWarning, match="the image bf contradicts the maps"):
        fused = hf.fuse_multimodal(maps, haadf, elastic=bf, **weights)
    z = hf.get_misfit(maps, fused, bf, image="bf", standardised=True).data
    assert z[8:12, 8:12].min() > 3
    assert np.median(z[25:, 25:]) < 2


def test_plot_of_the_trials_of_each_image(fused, specimen, phase, flat):
    maps, haadf, _ = specimen
    axes = hf.plot_weights(fused)
    titles = [panel.get_title() for panel in axes]
    assert [title.split(":")[0] for title in titles] == ["phase", "BF"]
    assert titles[0].endswith(", used")
    assert titles[1].endswith(", not used")
    (line, ring) = axes[0].lines
    assert ring.get_ydata()[0] == line.get_ydata().min() == 0
    (line, ring) = axes[1].lines
    assert ring.get_xdata()[0] == 0  # the weight 0
    chosen = hf.fuse_multimodal(maps, haadf, elastic=[phase, flat])
    axes = hf.plot_weights(chosen)
    assert axes[0].get_title().startswith("HAADF alone. With phase:")
    assert len(axes) == 3
    images = hf.plot_weights(chosen, maps, haadf, images=True, elastic=[phase, flat])
    assert len(images) == 9


def test_plot_of_image_and_model_of_each(fused, specimen, phase, flat):
    maps, haadf, _ = specimen
    axes = hf.plot_fusion(maps, fused, haadf, elastic=[phase, flat])
    titles = [panel.get_title() for panel in axes]
    assert titles[:4] == ["HAADF", "phase", "BF", "Dy"]
    assert titles[6:10] == ["HAADF model", "phase model", "BF model", "Dy fused"]
    shown = np.asarray(axes[7].images[0].get_array())
    assert_array_equal(shown, hf.get_haadf_model(fused, "phase").data)
    with pytest.raises(ValueError, match="no elastic image 'phase'.* was not given"):
        hf.plot_fusion(
            maps, hf.fuse_multimodal(maps, haadf, **GIVEN), haadf, elastic=phase
        )
