import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion.core.calibrated.convex.solver import CHECK_EVERY

CLASSES = {
    "elemental_map": (hf.ElementalMap, hf.LazyElementalMap),
    "HAADF": (hf.HAADFImage, hf.LazyHAADFImage),
}


@pytest.fixture(params=CLASSES)
def signal_type(request):
    return request.param


@pytest.fixture
def signal(signal_type):
    signal = hs.signals.Signal2D(np.arange(2 * 24.0).reshape(2, 4, 6))
    signal.set_signal_type(signal_type)
    return signal


def test_registered_under_type_and_aliases(signal_type):
    eager, lazy = CLASSES[signal_type]
    for name in (signal_type, *eager._signal_type_aliases):
        signal = hs.signals.Signal2D(np.zeros((3, 4)))
        signal.set_signal_type(name)
        assert type(signal) is eager
        assert type(signal.as_lazy()) is lazy


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.inav[0],
        lambda s: s.isig[1:3, 2:],
        lambda s: s + 1,
        lambda s: -s * 2,
        lambda s: s.rebin(scale=(1, 2, 2)),
        lambda s: s.sum(axis=0),
        lambda s: s.deepcopy(),
        lambda s: hs.stack([s, s], show_progressbar=False),
        lambda s: hs.stack([s, s], show_progressbar=False).split()[1],
        lambda s: s.as_lazy().compute(show_progressbar=False) or s,
        lambda s: s.map(np.sqrt, inplace=False, show_progressbar=False),
        lambda s: s.T.T.transpose(signal_axes=2),
    ],
)
def test_class_and_method_survive(signal, change):
    changed = change(signal)
    assert type(changed) is type(signal)
    assert callable(changed.fuse_multimodal)


def test_lazy_and_back(signal, signal_type):
    lazy = signal.as_lazy()
    assert type(lazy) is CLASSES[signal_type][1]
    assert type(lazy.isig[:3]) is type(lazy)
    lazy.compute(show_progressbar=False)
    assert type(lazy) is type(signal)


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")  # zarr 2
@pytest.mark.parametrize("extension", ["hspy", "zspy", "nxs"])
@pytest.mark.parametrize("lazy", [False, True])
def test_save_and_load(signal, signal_type, tmp_path, extension, lazy):
    signal.save(tmp_path / f"map.{extension}")
    back = hs.load(tmp_path / f"map.{extension}", lazy=lazy)
    back = back[0] if isinstance(back, list) else back
    assert type(back) is CLASSES[signal_type][lazy]
    assert_array_equal(np.asarray(back.data), signal.data)


@pytest.mark.parametrize(
    ("fuse", "interval"),
    [
        (hf.fuse_published, 1),
        (hf.fuse_multimodal, CHECK_EVERY),
    ],
)
def test_cost_history(fuse, interval):
    maps, haadf, _ = hf.data.core_shell(size=32)
    fused = fuse(maps, haadf)
    history = fused[0].get_cost_history()
    record = fused[0].metadata.Multimodal_fusion
    axis = history.axes_manager.signal_axes[0]
    ends = axis.axis[0], axis.axis[-1]
    assert (axis.name, *ends) == ("iteration", interval, record.n_iter)
    assert history.metadata.Multimodal_fusion.terms == "total,haadf,chemical,tv"
    for i, term in enumerate(("total", "haadf", "chemical", "tv")):
        assert_array_equal(history.inav[i].data, record.cost[term])
    with pytest.raises(ValueError, match="no metadata.Multimodal_fusion: expected"):
        maps[0].get_cost_history()


@pytest.mark.filterwarnings("ignore:max_iter=30 was reached")
def test_cost_history_that_ends_between_two_certificates():
    maps, haadf, _ = hf.data.core_shell(size=32)
    fused = hf.fuse_multimodal(maps, haadf, max_iter=30, tolerance=1e-12)
    assert fused[0].metadata.Multimodal_fusion.n_iter == 30
    axis = fused[0].get_cost_history().axes_manager.signal_axes[0]
    assert_array_equal(axis.axis, [CHECK_EVERY, 30])
