"""Simulated specimens with known truth, and the published data sets.

The specimens differ in what makes fusion hard: nested particles whose elements hide
each other (`core_shell`), atomic columns that share light elements (`lattice`) and a
heavy element beside a light one (`janus`). All are measured in the same way
(`measure`), which can spoil the HAADF image on purpose.
"""

import os
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pooch
from hyperspy.signals import Signal1D
from scipy import ndimage

from .detectors import SENSITIVITIES, detected, elastic_image, gaussian
from .inputs.elements import atomic_number, element_of, family_of, lines_of
from .signals import ElementalMap, HAADFImage

__all__ = [
    "Specimen",
    "co3o4_mn3o4",
    "core_shell",
    "dysco3",
    "elastic_image",
    "janus",
    "lattice",
    "measure",
    "xray_spectra",
]

_BACKGROUND = 0.02  # X-ray counts per pixel
_Z_EXPONENT = 1.7

_PITCH = 16  # pixels between the columns of the lattice
_BLUR = 0.7  # standard deviation in pixels, of the particles

_REPOSITORY = (
    "https://raw.githubusercontent.com/msa-em/fused-multi-modal-em/08cbef2/data/"
)
# Our name: the name in the repository, sha256
_FILES = {
    "DyScO3_EDX_HAADF.npz": (
        "PTO_Trilayer_dataset.npz",
        "150cdc0a478791d258a900a89c02e4cae483c9010e227992097101eae3bcec81",
    ),
    "Co3O4_Mn3O4_EELS_HAADF.h5": (
        "Co3O4_Mn3O4.h5",
        "dbac77f11801a53f08465ea07914aece3f8198edcf204faf80a1ce683e00fc21",
    ),
}


class Specimen(NamedTuple):
    """A simulated measurement and its truth.

    Attributes
    ----------
    maps : list of ElementalMap
        X-ray counts, one map per element.
    haadf : HAADFImage
        HAADF image of the same pixels, in units of the detector.
    truth : list of ElementalMap
        Expected counts of the maps, without their background of 0.02 counts.
    """

    maps: list
    haadf: HAADFImage
    truth: list


def core_shell(
    size: Any = 128,
    counts: float = 4.0,
    electrons: float = 2000.0,
    seed: int = 1,
    **mismatch: Any,
) -> Specimen:
    """Simulate oxide particles with a Co core in a Mn shell.

    Parameters
    ----------
    size : int
        Pixels along each side of the field of 64 nm.
    counts : float
        Dose: the 99th percentile of the expected counts, mean over the elements.
    electrons : float
        Electrons that the detector counts where the specimen is brightest.
    seed : int
        Of the noise; the geometry is always the same.
    **mismatch
        Ways to spoil the HAADF image: `nonlinear`, `shift`, `unmapped` and `wave` of
        :func:`measure`.

    Returns
    -------
    Specimen
        Maps of Co, Mn and O, HAADF image and truth.

    Raises
    ------
    ValueError
        If a number is outside its range.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.core_shell(counts=1)
    >>> maps[0]
    <ElementalMap, title: Co, dimensions: (|128, 128)>
    """
    return _simulate(
        _core_shell_thickness, size, 64, counts, electrons, seed, **mismatch
    )


def lattice(
    size: Any = 128,
    counts: float = 4.0,
    electrons: float = 2000.0,
    seed: int = 1,
    **mismatch: Any,
) -> Specimen:
    """Simulate a perovskite lattice, DyScO3, down an axis with single columns.

    Parameters
    ----------
    size : int
        Pixels along each side; a unit cell has 16 pixels and measures 0.4 nm.
    counts, electrons, seed, **mismatch
        As for :func:`core_shell`.

    Returns
    -------
    Specimen
        Maps of Dy, Sc and O, HAADF image and truth.

    Raises
    ------
    ValueError
        If a number is outside its range.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.lattice(wave=True)
    >>> haadf
    <HAADFImage, title: HAADF, dimensions: (|128, 128)>
    """
    return _simulate(
        _lattice_thickness,
        size,
        None,
        counts,
        electrons,
        seed,
        **mismatch,
    )


def janus(
    size: Any = 128,
    counts: float = 4.0,
    electrons: float = 2000.0,
    seed: int = 1,
    **mismatch: Any,
) -> Specimen:
    """Simulate iron-oxide particles with a gold particle on the edge of each.

    Parameters
    ----------
    size : int
        Pixels along each side of the field of 128 nm.
    counts, electrons, seed, **mismatch
        As for :func:`core_shell`.

    Returns
    -------
    Specimen
        Maps of Au, Fe and O, HAADF image and truth.

    Raises
    ------
    ValueError
        If a number is outside its range.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.janus(shift=(1, 2))
    >>> [signal.metadata.General.title for signal in truth]
    ['Au', 'Fe', 'O']
    """
    return _simulate(_janus_thickness, size, 128, counts, electrons, seed, **mismatch)


def dysco3() -> tuple[list[ElementalMap], HAADFImage]:
    """Return the EDX maps and the HAADF image of DyScO3 at atomic resolution.

    Elemental fractions (Cliff-Lorimer, their sum is 1 in each pixel) of Sc, Dy and O,
    256 x 256 pixels. From the tutorial of Manassa, Shah et al. (2024), MIT licence:
    https://github.com/msa-em/fused-multi-modal-em. The file does not tell the size of
    a pixel, so the axes are not calibrated.

    Returns
    -------
    maps : list of ElementalMap
        Sc, Dy and O, the order of the tutorial.
    haadf : HAADFImage
        The image of the same pixels.

    Raises
    ------
    FileNotFoundError
        If the environment variable HYPERSPY_FUSION_DATA names a folder that has no
        ``DyScO3_EDX_HAADF.npz``. Without the variable the file is downloaded once and
        kept in ``pooch.os_cache("hyperspy_fusion")``.
    OSError
        If the file cannot be downloaded.
    ValueError
        If the file is not the published one.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf = hyperspy_fusion.data.dysco3()
    >>> maps[1]
    <ElementalMap, title: Dy, dimensions: (|256, 256)>
    """
    with np.load(_published("DyScO3_EDX_HAADF.npz")) as arrays:
        return _as_maps_and_haadf(arrays, ["Sc", "Dy", "O"], "Fraction")


def co3o4_mn3o4() -> tuple[list[ElementalMap], HAADFImage]:
    """Return the EELS maps and the HAADF image of Co3O4-Mn3O4 nanocrystals.

    Core-shell particles, 400 x 400 pixels, maps in arbitrary units. From the tutorial
    of Manassa, Shah et al. (2024), MIT licence:
    https://github.com/msa-em/fused-multi-modal-em. The file does not tell the size of
    a pixel, so the axes are not calibrated.

    Returns
    -------
    maps : list of ElementalMap
        Co, Mn and O, the order of the tutorial.
    haadf : HAADFImage
        The image of the same pixels.

    Raises
    ------
    FileNotFoundError
        If the environment variable HYPERSPY_FUSION_DATA names a folder that has no
        ``Co3O4_Mn3O4_EELS_HAADF.h5``. Without the variable the file is downloaded
        once and kept in ``pooch.os_cache("hyperspy_fusion")``.
    OSError
        If the file cannot be downloaded.
    ValueError
        If the file is not the published one.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf = hyperspy_fusion.data.co3o4_mn3o4()
    >>> haadf
    <HAADFImage, title: HAADF, dimensions: (|400, 400)>
    """
    with h5py.File(_published("Co3O4_Mn3O4_EELS_HAADF.h5")) as arrays:
        return _as_maps_and_haadf(arrays, ["Co", "Mn", "O"])


def measure(
    thickness: np.ndarray,
    atomic_numbers: Sequence[int],
    counts: float,
    electrons: float,
    seed: int,
    *,
    nonlinear: float = 0.0,
    shift: tuple[float, float] = (0, 0),
    unmapped: bool = False,
    wave: bool = False,
) -> Any:
    """Measure X-ray maps and a HAADF image of a specimen.

    Parameters
    ----------
    thickness : numpy.ndarray
        Projected thickness of each element, in any unit, shape ``(3, y, x)``.
    atomic_numbers : sequence of int
        Z of each element, shape ``(3,)``.
    counts : float
        Dose: the 99th percentile of the expected counts, mean over the elements.
    electrons : float
        Electrons that the detector counts where the specimen is brightest.
    seed : int
        Of the Poisson noise.
    nonlinear : float
        Part by which the brightest pixel loses intensity, as thick places do: H, the
        intensity over its maximum, becomes H (1 - `nonlinear` H).
    shift : tuple of float
        Displacement ``(y, x)`` of the HAADF image in pixels.
    unmapped : bool
        Whether the image shows two blobs of an element that has no map.
    wave : bool
        Whether the pedestal varies over the image, by a tenth of the maximum of H.

    Returns
    -------
    measured : numpy.ndarray
        X-ray counts, shape ``(3, y, x)``.
    haadf : numpy.ndarray
        HAADF image, shape ``(y, x)``, in units of the detector.
    expected : numpy.ndarray
        Expected counts without background, shape ``(3, y, x)``.

    Raises
    ------
    ValueError
        If a number is outside its range.
    """
    for name, value in {"counts": counts, "electrons": electrons}.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}: expected a number above 0")
    rng = np.random.default_rng(seed)

    sensitivities = SENSITIVITIES[:, np.newaxis, np.newaxis]
    counted = thickness * sensitivities
    dose = counts / np.percentile(counted, 99, axis=(1, 2)).mean()
    expected = thickness * (sensitivities * dose)
    measured = rng.poisson(expected + _BACKGROUND).astype(float)

    image = np.tensordot(np.power(atomic_numbers, _Z_EXPONENT), thickness, 1)
    image /= image.max()
    haadf = detected(
        rng,
        image,
        electrons,
        nonlinear=nonlinear,
        shift=shift,
        unmapped=unmapped,
        wave=wave,
    )
    return measured, haadf, expected


def xray_spectra(
    truth: Sequence[ElementalMap],
    lines: Sequence[str],
    *,
    n_channels: int = 768,
    scale: float = 0.02,
    continuum: float = 0.03,
    seed: int = 1,
) -> Any:
    """Simulate the X-ray spectrum image of a specimen.

    Parameters
    ----------
    truth : list of ElementalMap
        Expected counts of a line of each element, shape ``(y, x)``, as
        `Specimen.truth`.
    lines : list of str
        These lines, as "Fe_Ka". Of each, all lines of its shell are simulated, with the
        energies and relative weights of eXSpy, for a detector of 130 eV at Mn Kα.
    n_channels : int
        Channels of a spectrum.
    scale : float
        Width of a channel in keV; the first is at that energy.
    continuum : float
        Counts of bremsstrahlung per keV at 1 keV for each count of the maps; it falls
        as 1 / E.
    seed : int
        Of the Poisson noise.

    Returns
    -------
    exspy.signals.EDSTEMSpectrum
        Counts, shape ``(y, x, n_channels)``, uint16.

    Raises
    ------
    ValueError
        If there is not one line for each map, eXSpy does not know a line, or a channel
        has more counts than uint16 holds.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.janus(size=32)
    >>> hyperspy_fusion.data.xray_spectra(truth, ["Au_La", "Fe_Ka", "O_Ka"])
    <EDSTEMSpectrum, title: , dimensions: (32, 32|768)>
    """
    if len(lines) != len(truth):
        raise ValueError(
            f"{len(lines)} lines were given for {len(truth)} maps: expected one each"
        )
    energy = scale * np.arange(1, n_channels + 1)
    thickness = sum(image.data for image in truth)
    expected = np.multiply.outer(continuum * thickness, scale / energy)
    for line, image in zip(lines, truth, strict=True):
        known = lines_of(element_of(line))
        if line not in known:
            raise ValueError(
                f"{line!r} is no X-ray line of eXSpy: expected one such as 'Fe_Ka'"
            )
        for name, (centre, weight) in known.items():
            if family_of(name) != family_of(line):
                continue
            width = np.sqrt(0.0025 * (centre - 5.9) + 0.13**2) / 2.355
            peak = np.exp(-(((energy - centre) / width) ** 2) / 2)
            peak *= weight * scale / (width * np.sqrt(2 * np.pi))
            expected += np.multiply.outer(image.data, peak)
    counts = np.random.default_rng(seed).poisson(expected)
    most = np.iinfo(np.uint16).max
    if counts.max() > most:
        raise ValueError(
            f"a channel has {counts.max()} counts: expected at most {most}, give fewer "
            "counts of the lines"
        )
    counts = counts.astype(np.uint16)
    axes = [
        axis.get_axis_dictionary() for axis in truth[0].axes_manager.signal_axes[::-1]
    ]
    channels = {"size": n_channels, "scale": scale, "offset": scale}
    axes.append({**channels, "name": "E", "units": "keV"})
    spectra = Signal1D(counts, axes=axes)
    spectra.set_signal_type("EDS_TEM")
    spectra.set_microscope_parameters(
        beam_energy=200, beam_current=0.1, live_time=1e-3, energy_resolution_MnKa=130
    )
    return spectra


def _chord(size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """Length of the beam's path through a sphere, in pixels."""
    y, x = np.ogrid[:size, :size]
    squared = radius**2 - ((y - centre[0]) ** 2 + (x - centre[1]) ** 2)
    return 2 * np.sqrt(np.maximum(squared, 0))


def _core_shell_thickness(size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    cobalt, manganese, oxygen = np.zeros((3, size, size))
    for _ in range(7):
        centre = rng.uniform(0.2 * size, 0.8 * size, 2)
        radius = rng.uniform(0.09, 0.15) * size
        core = _chord(size, centre, radius * rng.uniform(0.5, 0.75))
        whole = _chord(size, centre, radius)
        cobalt += 3 * core
        manganese += 3 * (whole - core)
        oxygen += 4 * whole
    return _blurred({"Co": cobalt, "Mn": manganese, "O": oxygen})


def _janus_thickness(size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    gold, iron = np.zeros((2, size, size))
    for _ in range(5):
        centre = rng.uniform(0.2 * size, 0.8 * size, 2)
        radius = rng.uniform(0.08, 0.16) * size
        theta = rng.uniform(0, 6.28)
        edge = centre + radius * np.array([np.sin(theta), np.cos(theta)])
        iron += 3 * _chord(size, centre, radius)
        gold += 6 * _chord(size, edge, 0.6 * radius)
    return _blurred({"Au": gold, "Fe": iron, "O": iron * 4 / 3})


def _blurred(thickness: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scale the two heavier elements, which come first, to 1 and blur by the probe."""
    first, second, _ = thickness.values()
    scale = 1 / max(first.max(), second.max())
    return {
        element: ndimage.gaussian_filter(data * scale, _BLUR)
        for element, data in thickness.items()
    }


def _lattice_thickness(size: int) -> dict[str, np.ndarray]:
    def columns(offset: Any, sigma: float) -> np.ndarray:
        """Gaussians at the same offset ``(y, x)``, in cells, in every unit cell."""
        along_y, along_x = (
            sum(
                gaussian(size, (cell + part) * _PITCH, sigma)
                for cell in range(-1, size // _PITCH + 2)
            )
            for part in offset
        )
        return np.outer(along_y, along_x)

    oxygen = ((0.5, 0), (0, 0.5), (0.5, 0.5))
    return {
        "Dy": columns((0, 0.04), 2.0) + 0.05,
        "Sc": columns((0.5, 0.5), 2.2) + 0.05,
        "O": np.sum([columns(offset, 2.4) for offset in oxygen], axis=0) + 0.1,
    }


def _simulate(
    geometry: Callable,
    size: Any,
    field: float | None,
    counts: float,
    electrons: float,
    seed: int,
    **mismatch: Any,
) -> Specimen:
    """Measure a specimen on `size` x `size` pixels of a square field in nm.

    Without a field, the pitch of the lattice is 0.4 nm.
    """
    if not isinstance(size, Integral):
        raise TypeError(f"size is {size!r}: expected a whole number of pixels a side")
    if size < _PITCH:
        raise ValueError(f"size is {size}: expected at least {_PITCH} pixels")
    thickness = geometry(size)
    measured, haadf, expected = measure(
        np.stack(list(thickness.values())),
        [atomic_number(element) for element in thickness],
        counts,
        electrons,
        seed,
        **mismatch,
    )
    scale = 0.4 / _PITCH if field is None else field / size
    axes = {"scale": scale, "units": "nm"}
    return Specimen(
        maps=_as_maps(thickness, measured, "X-rays (counts)", **axes),
        haadf=_as_haadf(haadf, **axes),
        truth=_as_maps(thickness, expected, "X-rays (counts)", **axes),
    )


def _published(name: str) -> Path:
    """Path of a published file, from the user or downloaded; its hash is checked."""
    source, sha256 = _FILES[name]
    folder = os.environ.get("HYPERSPY_FUSION_DATA")
    if not folder:
        try:
            fetched = pooch.retrieve(
                _REPOSITORY + source,
                known_hash=f"sha256:{sha256}",
                fname=name,
                path=pooch.os_cache("hyperspy_fusion"),
            )
        except OSError as error:  # of the network, too
            raise OSError(
                f"{name} could not be fetched ({type(error).__name__}): connect to the "
                f"network, or save {_REPOSITORY}{source} as {name} in a folder and "
                "name that in the environment variable HYPERSPY_FUSION_DATA"
            ) from error
        return Path(fetched)
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"the environment variable HYPERSPY_FUSION_DATA is {folder!r} and there "
            f"is no {name}: save {_REPOSITORY}{source} there under that name, or unset "
            "the variable to have it downloaded"
        )
    found = pooch.file_hash(path)
    if found != sha256:
        raise ValueError(
            f"{path} has the sha256 {found}: expected {sha256}, that of "
            f"{_REPOSITORY}{source}; replace the file by that one"
        )
    return path


def _as_maps_and_haadf(
    arrays: np.ndarray, elements: Sequence[str], quantity: str = ""
) -> tuple[list[ElementalMap], HAADFImage]:
    maps = _as_maps(elements, [arrays[element][:] for element in elements], quantity)
    return maps, _as_haadf(arrays["HAADF"][:])


def _as_maps(
    elements: Sequence[str], images: Sequence, quantity: str = "", **axes: Any
) -> list[ElementalMap]:
    """Elemental maps of arrays, titled by their symbols."""
    return [
        _as_signal(
            ElementalMap,
            image,
            {
                "General": {"title": element},
                "Sample": {"elements": [element]},
                "Signal": {"quantity": quantity},
            },
            **axes,
        )
        for element, image in zip(elements, images, strict=True)
    ]


def _as_haadf(image: np.ndarray, **axes: Any) -> HAADFImage:
    return _as_signal(HAADFImage, image, {"General": {"title": "HAADF"}}, **axes)


def _as_signal(kind: type, image: np.ndarray, metadata: dict, **axes: Any) -> Any:
    y, x = image.shape
    return kind(
        image,
        axes=[{"name": "y", "size": y, **axes}, {"name": "x", "size": x, **axes}],
        metadata=metadata,
    )
