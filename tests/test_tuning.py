import io

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hyperspy.ui_registry import UI_REGISTRY
from numpy.testing import assert_array_equal

import hyperspy_fusion as hf


@pytest.fixture
def specimen():
    return hf.data.core_shell(32, counts=8)


@pytest.fixture
def no_fusion(monkeypatch):
    """Errors come before anything is fused."""

    def run(*_):
        pytest.fail("it was fused before the error")

    monkeypatch.setattr("hyperspy_fusion.fusion._run", run)


def tune(specimen, **options):
    found = hf.fuse_multimodal(
        specimen.maps,
        specimen.haadf,
        interactive=True,
        display=False,
        show_progressbar=False,
        **options,
    )
    return found["ipywidgets"]


def test_sliders_move_the_preview(specimen):
    widgets = tune(specimen)["wdict"]
    before = widgets["picture"].value
    assert plt.imread(io.BytesIO(before)).ndim == 3
    assert "rows 0 to 31" in widgets["message"].value
    widgets["lambda_tv"].value = 30
    moved = widgets["picture"].value
    assert moved != before
    widgets["use_haadf"].value = False
    assert widgets["picture"].value != moved
    assert not plt.get_fignums()  # a notebook would show it a second time
    fused = widgets["tuner"].fused
    assert [signal.metadata.General.title for signal in fused] == ["Co", "Mn", "O"]


def test_a_preview_does_not_share_counts(specimen):
    message = tune(specimen, share=True)["wdict"]["message"].value
    assert "each pixel with its own counts" in message


def test_apply_changes_the_fused_maps_in_place(specimen, monkeypatch):
    tuners = []
    monkeypatch.setattr(
        "hyperspy_fusion.tuning.WeightTuner.gui",
        lambda self, **_: tuners.append(self),
    )
    given = {"lambda_tv": 4.0, "lambda_haadf": 0.1}
    fused = hf.fuse_multimodal(*specimen[:2], interactive=True, **given)
    (tuner,) = tuners
    assert tuner.weights == given
    assert tuner.fused is fused
    changed = []

    def note(obj):
        changed.append(obj)

    fused[1].events.data_changed.connect(note)
    view = fused[1].data
    tuner.trait_set(lambda_tv=9.0, use_haadf=False)
    tuner.apply()
    again = hf.fuse_multimodal(*specimen[:2], lambda_tv=9.0, lambda_haadf=0.0)
    assert_array_equal(view, again[1].data)
    assert changed == [fused[1]]
    assert fused[1].metadata.Signal.signal_type == "elemental_map"
    assert fused[1].metadata.Multimodal_fusion.lambda_tv == 9.0
    assert "Applied" in tuner.message


def test_apply_button_and_close_button(specimen):
    found = tune(specimen)
    widgets = found["wdict"]
    widgets["lambda_tv"].value = 20
    widgets["apply_button"].click()
    assert "Applied" in widgets["message"].value
    widgets["close_button"].click()
    assert found["widget"].comm is None


def test_an_image_that_was_not_used_can_be_used(specimen):
    widgets = tune(specimen, lambda_haadf=0.0)["wdict"]
    assert not widgets["use_haadf"].value
    before = widgets["picture"].value
    widgets["use_haadf"].value = True
    assert widgets["picture"].value != before


def test_of_a_series_the_first_image_is_shown(specimen):
    maps = [hs.stack([m, m], show_progressbar=False) for m in specimen.maps]
    haadf = hs.stack([specimen.haadf] * 2, show_progressbar=False)
    widgets = tune(specimen._replace(maps=maps, haadf=haadf))["wdict"]
    assert "of the first image" in widgets["message"].value


def test_variance_follows(specimen, monkeypatch):
    made = []
    monkeypatch.setattr(
        "hyperspy_fusion.tuning.WeightTuner.gui",
        lambda self, **_: made.append(self),
    )
    fused = hf.fuse_multimodal(*specimen[:2], interactive=True, uncertainty=True)
    before = fused[0].get_noise_variance().data.copy()
    made[0].lambda_tv = 40.0
    made[0].apply()
    assert not np.array_equal(fused[0].get_noise_variance().data, before)


@pytest.mark.usefixtures("no_fusion")
@pytest.mark.parametrize("options", [{"tile_size": 32}, {"lazy_output": True}])
def test_tiles_and_lazy_maps_are_refused(options):
    specimen = hf.data.core_shell(96, counts=8)
    with pytest.raises(ValueError, match="interactive is True for lazy or tiled"):
        tune(specimen, **options)


def test_a_stack_is_refused(specimen):
    stack = hs.stack(specimen.maps, show_progressbar=False)
    with pytest.raises(ValueError, match="interactive is True for a stack"):
        stack.fuse_multimodal(specimen.haadf, interactive=True)


@pytest.mark.usefixtures("no_fusion")
def test_without_widgets_it_is_said_what_to_install(specimen, monkeypatch):
    monkeypatch.setitem(UI_REGISTRY, "hyperspy_fusion.WeightTuner", {})
    with pytest.raises(ImportError, match="hyperspy_gui_ipywidgets"):
        tune(specimen)


def test_weights_of_further_images_are_held(specimen, monkeypatch):
    made = []
    monkeypatch.setattr(
        "hyperspy_fusion.tuning.WeightTuner.gui",
        lambda self, **_: made.append(self),
    )
    elastic = hf.data.elastic_image(specimen.truth, "phase")
    given = {"lambda_tv": 4.0, "lambda_haadf": 0.1, "lambda_elastic": 0.3}
    fused = hf.fuse_multimodal(
        *specimen[:2], interactive=True, elastic=elastic, **given
    )
    (tuner,) = made
    # the preview ends at a gap of a hundredth
    level = fused[0].data.max()
    assert np.abs(tuner.maps[0] - fused[0].data).max() < 0.1 * level
    tuner.lambda_tv = 9.0
    tuner.apply()
    given["lambda_tv"] = 9.0
    again = hf.fuse_multimodal(*specimen[:2], elastic=elastic, **given)
    assert_array_equal(fused[1].data, again[1].data)
