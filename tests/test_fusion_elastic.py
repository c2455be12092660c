import warnings

import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import hyperspy_fusion as hf

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": True}, "share is True together with elastic"),
        ({"uncertainty": True}, "uncertainty is True together with elastic"),
        ({"n_replicas": 3}, "n_replicas is 3 together with elastic"),
        ({"weights": "shared"}, "weights is 'shared' together with elastic"),
        ({"interactive": True}, "interactive is True together with elastic"),
        ({"tile_size": 32}, "elastic was given for an image that is solved in tiles"),
    ],
)
def test_what_several_images_do_not_go_with(specimen, phase, options, message):
    maps, haadf, _ = specimen
    with pytest.raises(ValueError, match=message):
        hf.fuse_multimodal(maps, haadf, elastic=phase, **GIVEN, **options)


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
