import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scans import HAADF, eels_of, image, signals_of, stack_of

from hyperspy_fusion.loading import load_multimodal


@pytest.mark.parametrize(
    ("frames", "kept"),
    [
        (slice(None), [1, 2, 4]),
        (slice(1, 9), [2, 4]),
        (slice(None, None, -2), [1, 4]),
        ([1], [2]),
        ([2, 0, 0], [1, 4]),
        ((-1, -2), [2, 4]),
        (range(2), [1, 2]),
        (np.array([0, 2], dtype=np.uint8), [1, 4]),
        ([True, False, True], [1, 4]),
        (np.array([False, True, False]), [2]),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_frames_are_summed_and_haadf_images_averaged(stacks, eds, frames, kept, lazy):
    signals = [signal.as_lazy() for signal in stacks] if lazy else stacks
    (iron,), haadf, _ = load_multimodal(signals, ["Fe"], frames=frames)
    (expected,), *_ = load_multimodal([eds, HAADF], ["Fe"])
    assert iron._lazy == haadf._lazy == lazy
    assert_allclose(iron.data, sum(kept) * expected.data)
    assert_allclose(haadf.data, np.mean(kept) * HAADF.data)
    assert haadf.data.dtype == float
    assert haadf.axes_manager.signal_axes[0].units == "nm"
    assert [signal.data.shape[0] for signal in stacks] == [3, 3]


def test_background_is_that_of_the_summed_frames():
    eels = eels_of({708: 50})
    stacks = [stack_of(eels, [1, 2, 4]), stack_of(HAADF, [1, 2, 4])]
    (iron,), _, (background,) = load_multimodal(stacks, ["Fe"], frames=[0, 2])
    expected = load_multimodal([eels * 5, HAADF], ["Fe"])
    assert_allclose(iron.data, expected.maps[0].data)
    assert_allclose(background.data, expected.background[0].data)
    # The maps of the frames are summed likewise; nothing is known of their background.
    maps, haadf, _ = load_multimodal(stacks, ["Fe"])
    (iron,), _, background = load_multimodal([*maps, haadf], frames=[0, 2])
    assert_allclose(iron.data, expected.maps[0].data)
    assert background is None


@pytest.mark.parametrize("kind", ["EDS", "EELS"])
def test_frames_of_a_file_are_computed_together(tmp_path, stacks, kind):
    if kind == "EELS":
        stacks[0] = stack_of(eels_of({708: 50}), [1, 2, 4])
    stacks[0].save(tmp_path / "spectra.hspy")
    stacks[1].save(tmp_path / "haadf.hspy")
    options = {"elements": ["Fe"], "frames": [0, 2], "background_windows": "auto"}
    data = load_multimodal(
        tmp_path / "spectra.hspy", haadf=tmp_path / "haadf.hspy", **options
    )
    expected = load_multimodal(stacks, **options)
    for signal, same in zip(signals_of(data), signals_of(expected), strict=True):
        assert type(signal) is type(same)
        assert type(signal.data) is np.ndarray
        assert_allclose(signal.data, same.data)


def test_ready_made_maps_of_all_frames_are_not_taken(stacks):
    signals = [image("Fe"), *stacks]
    (iron,), *_ = load_multimodal(signals, ["Fe"], frames=[0])
    assert iron.metadata.Sample.xray_lines == ["Fe_Ka"]


def test_metadata_are_those_of_the_sum(stacks):
    node = "Acquisition_instrument.TEM.Detector.EDS.number_of_frames"
    gain = "Signal.Noise_properties.Variance_linear_model.gain_factor"
    stacks[0].metadata.set_item(node, 3)
    stacks[1].metadata.set_item(gain, 38.0)
    (iron,), haadf, _ = load_multimodal(stacks, ["Fe"], frames=[0, 2])
    assert iron.metadata.get_item(node) == 2
    assert not haadf.metadata.has_item("Signal.Noise_properties")
    assert stacks[0].metadata.get_item(node) == 3
    assert stacks[1].metadata.has_item(gain)


def test_haadf_image_without_frames_must_be_named(stacks):
    spectra, haadf = stacks
    with pytest.raises(
        ValueError, match="have 3 frames, and the HAADF image is 'HAADF"
    ):
        load_multimodal([spectra, HAADF], ["Fe"], frames=[0])
    for named in ("HAADF", HAADF):
        _, found, _ = load_multimodal([spectra, HAADF], ["Fe"], frames=[0], haadf=named)
        assert_array_equal(found.data, HAADF.data)
    for named in (None, "HAADF"):
        with pytest.raises(ValueError, match=r"series of 2\): expected an image"):
            load_multimodal([spectra, haadf.inav[1:]], frames=[0], haadf=named)
    # A single frame has a single image.
    spectra = spectra.inav[..., :1]
    _, found, _ = load_multimodal([spectra, HAADF], ["Fe"], frames=[0])
    assert_array_equal(found.data, HAADF.data)


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        (
            [1, 3, -4],
            ValueError,
            "frames has 3, -4, .* has 3 frames: expected .* 0 to 2",
        ),
        ([True, False], ValueError, "frames has 2 booleans, .* or 3 booleans"),
        ([], ValueError, "keeps none of the frames 0 to 2"),
        (slice(3, None), ValueError, "keeps none of the frames 0 to 2"),
        ([False] * 3, ValueError, "keeps none of the frames 0 to 2"),
        (1, TypeError, "frames is 1: expected a slice, a list of frame numbers"),
        ("0", TypeError, "frames is '0': expected"),
        ([0.0, 1.0], TypeError, "expected a slice, a list of"),
        ([[0], [1, 2]], TypeError, "expected a slice, a list of"),
        (slice("a"), TypeError, "expected a slice, a list of"),
    ],
)
def test_frames_that_do_not_fit_are_refused(stacks, frames, error, message):
    with pytest.raises(error, match=message):
        load_multimodal(stacks, ["Fe"], frames=frames)


def test_sources_without_frames_are_refused(eds, stacks):
    spectra, haadf = stacks
    for source in (
        [eds, HAADF],
        [image("Fe"), HAADF],
        [stack_of(spectra, [1, 1]), haadf],
    ):
        with pytest.raises(ValueError, match="(?s)neither .* Leave frames out.*There"):
            load_multimodal(source, frames=[0])
    with pytest.raises(ValueError, match=r"(?s)stacks of \[2, 3\] frames.*series of 2"):
        load_multimodal([spectra, spectra.inav[..., 1:], haadf], frames=[0])
