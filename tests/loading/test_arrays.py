import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hyperspy_fusion import find_candidates, load_multimodal
from hyperspy_fusion.loading.arrays import holds_arrays, read_arrays

IMAGES = {
    name: np.random.default_rng(i).poisson(3, (4, 6))
    for i, name in enumerate(["HAADF", "Fe", "O"])
}


@pytest.fixture(params=[".npz", ".h5"])
def path(request, tmp_path):
    """A file of named arrays."""
    path = tmp_path / f"specimen{request.param}"
    if request.param == ".npz":
        np.savez(path, **IMAGES)
    else:
        with h5py.File(path, "w") as file:
            file.update(IMAGES)
    return path


def test_maps_and_image_by_their_names(path):
    maps, haadf, background = load_multimodal(path, ["O", "Fe"], pixel_size=0.5)
    assert background is None
    assert_array_equal(haadf.data, IMAGES["HAADF"])
    for signal, name in zip(maps, ["O", "Fe"], strict=True):
        assert_array_equal(signal.data, IMAGES[name])
        for axis, direction in zip(signal.axes_manager.signal_axes, "xy", strict=True):
            assert (axis.name, axis.scale, axis.units) == (direction, 0.5, "nm")


def test_lazy_and_uncalibrated(path):
    found = find_candidates(path, lazy=True)
    assert [signal.metadata.General.title for signal in found.maps] == ["Fe", "O"]
    assert all(signal._lazy for signal in (*found.maps, *found.haadf))
    assert "uncalibrated" in str(found)


def test_the_pixel_size_of_other_files_is_their_own(tmp_path):
    found = find_candidates
    with pytest.raises(ValueError, match="which is no .npz or .h5 file of named arr"):
        found(tmp_path / "any.emd", pixel_size=1)


def test_options_of_other_files(path):
    with pytest.raises(TypeError, match="file_format is given .* only option .* pixel"):
        find_candidates(path, file_format="EMD", pixel_size=1)


@pytest.mark.parametrize("pixel_size", [0, -1, np.nan])
def test_pixel_sizes_that_cannot_be(path, pixel_size):
    with pytest.raises(ValueError, match="expected the size of a pixel in nm"):
        read_arrays(path, pixel_size)


def test_files_that_hold_something_else(tmp_path):
    table = tmp_path / "table.npz"
    np.savez(table, Fe=np.arange(3))
    with pytest.raises(ValueError, match=r"array 'Fe' has the shape \(3,\)"):
        read_arrays(table)
    table.write_text("nothing")
    with pytest.raises(ValueError, match="is no .npz file"):
        read_arrays(table)
    tree = tmp_path / "tree.h5"
    with h5py.File(tree, "w") as file:
        file["scan/Fe"] = IMAGES["Fe"]
    assert not holds_arrays(tree)  # RosettaSciIO's business
    assert not holds_arrays(tmp_path / "missing.npz")
