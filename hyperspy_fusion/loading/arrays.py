"""Files of named arrays, ``.npz`` and ``.h5``, as the published data come in."""

from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import h5py
import hyperspy.api as hs
import numpy as np
from hyperspy.signals import BaseSignal

_HDF5 = (".h5", ".hdf5")


def holds_arrays(path: str | Path) -> bool:
    """Whether a file holds nothing but named arrays, of two or more dimensions."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".npz", *_HDF5) or not path.is_file():
        return False
    if suffix == ".npz":
        return True
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path) as file:
        return bool(len(file)) and all(
            isinstance(entry, h5py.Dataset) and entry.ndim > 1
            for entry in file.values()
        )


def read_arrays(path: str | Path, pixel_size: float | None = None) -> list[BaseSignal]:
    """Images of a file of named arrays, titled by the names.

    Parameters
    ----------
    path : str or pathlib.Path
        File of arrays ``(y, x)``, or of series ``navigation + (y, x)``.
    pixel_size : float, optional
        Size of a pixel in nm; by default the images are not calibrated.

    Returns
    -------
    list of Signal2D
        One for each array, in the order of the file.

    Raises
    ------
    ValueError
        If an array is no image of numbers, or the pixel size is not above 0.
    """
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(
            f"pixel_size is {pixel_size}: expected the size of a pixel in nm, above 0"
        )
    return [_image(name, array, pixel_size) for name, array in _arrays(path).items()]


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    if Path(path).suffix.lower() != ".npz":
        with h5py.File(path) as file:
            return {name: entry[:] for name, entry in file.items()}
    if not is_zipfile(path):
        raise ValueError(
            f"{path} is no .npz file, as numpy.savez writes them, or is damaged"
        )
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def _image(name: str, array: np.ndarray, pixel_size: float | None) -> BaseSignal:
    if array.ndim < 2 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"the array {name!r} has the shape {array.shape} and the type "
            f"{array.dtype}: expected images, numbers of the shape (y, x), each named "
            "by its element or HAADF"
        )
    signal: Any = hs.signals.Signal2D(array)
    signal.metadata.General.title = name
    for axis, direction in zip(signal.axes_manager.signal_axes, "xy", strict=True):
        axis.name = direction
        if pixel_size is not None:
            axis.scale, axis.units = pixel_size, "nm"
    return signal
