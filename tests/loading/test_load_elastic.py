from copy import copy

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion import load_multimodal


@pytest.fixture(scope="module")
def signals():
    maps, haadf, truth = hf.data.lattice(size=32)
    images = [hf.data.elastic_image(truth, kind) for kind in ("phase", "bf")]
    return [*maps, haadf, *images]


def test_images_by_title(signals):
    data = load_multimodal(signals, elastic=["bf", "phase"])
    maps, haadf, background = data
    assert [signal.metadata.General.title for signal in data.elastic] == ["bf", "phase"]
    assert_array_equal(data.elastic[0].data, signals[-1].data)
    assert data.elastic[0] is not signals[-1]
    assert data.background is background is None
    assert load_multimodal(signals).elastic == ()
    assert len(copy(data).elastic) == 2
    fused = hf.fuse_multimodal(*data, elastic=data.elastic, lambda_tv=3, lambda_haadf=1)
    assert fused[0].metadata.Multimodal_fusion.elastic == "bf\nphase"
    assert len(maps) == 3
    assert haadf.metadata.General.title == "HAADF"


def test_one_image_of_another_file_or_as_a_signal(signals, tmp_path):
    *rest, phase, _ = signals
    phase.save(tmp_path / "ptycho.hspy")
    for given in (tmp_path / "ptycho.hspy", str(tmp_path / "ptycho.hspy"), phase):
        (found,) = load_multimodal(rest, elastic=given).elastic
        assert_array_equal(found.data, phase.data)
        assert found is not phase


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ADF", "elastic='ADF' is neither the title of an image nor an existing file"),
        ("HAADF", "elastic='HAADF' is the HAADF image itself"),
    ],
)
def test_images_that_are_not_there(signals, given, message):
    with pytest.raises(ValueError, match=message):
        load_multimodal(signals, elastic=[given])


def test_several_images_of_one_title(signals):
    with pytest.raises(ValueError, match="elastic='bf' fits several images"):
        load_multimodal([*signals, signals[-1].deepcopy()], elastic="bf")


def test_frames_are_averaged(signals):
    def frames(signal):
        return hf.inputs.images.new_signal(signal, np.stack([signal.data] * 4), axes=[
            {"name": "frame", "size": 4, "navigate": True},
            *hf.inputs.images.axes_of(signal),
        ])  # fmt: skip

    stacks = [frames(signal) for signal in signals]
    for stack, signal in zip(stacks, signals, strict=True):
        stack.data[3] *= 100
        stack.metadata.General.title = signal.metadata.General.title
        stack.set_signal_type(signal.metadata.Signal.signal_type)
    data = load_multimodal(stacks, frames=slice(0, 3), elastic="phase")
    np.testing.assert_allclose(data.elastic[0].data, signals[-2].data)
