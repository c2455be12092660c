"""Detectors of the simulated specimens: HAADF, and other elastic images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hyperspy.signals import BaseSignal, Signal2D
from scipy import ndimage

from .inputs.elements import atomic_number, infer_element
from .inputs.images import axes_of

__all__ = ["SENSITIVITIES", "detected", "elastic_image"]

SENSITIVITIES = np.array([1.0, 1.3, 1.6])  # X-ray counts per atom, element by element
_PEDESTAL = 0.1  # of the specimen's largest intensity
_GAIN, _OFFSET = 3.7, 500.0  # of the detector
# Exponent of Z, and whether the image is that of what is scattered, or what is left.
_KINDS = {"phase": (0.7, False), "maadf": (1.4, False), "bf": (1.0, True)}
_LEFT = 0.8  # part of the beam that is lost where the specimen scatters most


def elastic_image(
    truth: Sequence[BaseSignal],
    kind: str = "phase",
    electrons: float = 2000.0,
    seed: int = 1,
    **mismatch: Any,
) -> Signal2D:
    r"""Simulate another elastic image of a simulated specimen.

    The images differ in how much an atom of atomic number Z gives: a ptychographic
    phase about :math:`Z^{0.7}`, medium-angle annular dark field :math:`Z^{1.4}`; bright
    field is 1 minus 0.8 times an image of :math:`Z^1`, dark where the specimen is.

    Parameters
    ----------
    truth : list of ElementalMap
        Expected counts of the elements, shape ``(y, x)``, as ``Specimen.truth``.
    kind : {"phase", "maadf", "bf"}
        The image.
    electrons : float
        Electrons that the detector counts where the image is brightest.
    seed : int
        Of the Poisson noise, which differs from that of the HAADF image.
    **mismatch
        Ways to spoil the image: `nonlinear`, `shift`, `unmapped` and `wave` of
        :func:`measure`.

    Returns
    -------
    Signal2D
        In units of the detector, shape ``(y, x)``, titled by its kind.

    Raises
    ------
    ValueError
        If the kind is not known, `truth` does not hold maps of three elements, or a
        number is outside its range.

    Examples
    --------
    >>> import hyperspy_fusion
    >>> maps, haadf, truth = hyperspy_fusion.data.lattice(size=32)
    >>> hyperspy_fusion.data.elastic_image(truth, "phase")
    <Signal2D, title: phase, dimensions: (|32, 32)>
    """
    if kind not in _KINDS:
        raise ValueError(f"kind is {kind!r}: expected one of {', '.join(_KINDS)}")
    elements = [infer_element(signal) for signal in truth]
    if len(elements) != len(SENSITIVITIES) or None in elements:
        raise ValueError(
            f"truth has maps of {', '.join(map(str, elements))}: expected those of the "
            "three elements of a simulated specimen, as Specimen.truth"
        )
    if not electrons > 0:
        raise ValueError(f"electrons is {electrons}: expected a number above 0")
    exponent, left = _KINDS[kind]
    z = np.array([atomic_number(str(element)) for element in elements], np.float64)
    atoms = np.stack([signal.data for signal in truth])
    image = np.tensordot(z**exponent / SENSITIVITIES, atoms, 1)
    image /= image.max()
    rng = np.random.default_rng([seed, list(_KINDS).index(kind)])
    data = detected(rng, image, electrons, left=left, **mismatch)
    signal = Signal2D(data, axes=axes_of(truth[0])[-2:])
    signal.metadata.General.title = kind
    return signal


def detected(
    rng: np.random.Generator,
    image: np.ndarray,
    electrons: float,
    *,
    nonlinear: float = 0.0,
    shift: tuple[float, float] = (0, 0),
    unmapped: bool = False,
    wave: bool = False,
    left: bool = False,
) -> np.ndarray:
    """What a detector counts of an image whose maximum is 1, in its units.

    The mismatch is that of :func:`~hyperspy_fusion.data.measure`; `left` is True for a
    detector of the electrons that are not scattered.
    """
    if not 0 <= nonlinear <= 0.5:
        raise ValueError(f"nonlinear is {nonlinear}: expected 0 to 0.5")
    if unmapped:
        image = image + _unmapped_blobs(*image.shape)
    image = image * (1 - nonlinear * image)
    if left:
        image = np.maximum(1 - _LEFT * image, 0)
    image = ndimage.shift(image, shift, order=1, mode="nearest") + _PEDESTAL
    if wave:
        n_x = image.shape[1]
        image += 0.1 * np.sin(2 * np.pi * np.arange(n_x) / n_x)
    return _GAIN * rng.poisson(electrons * image) + _OFFSET


def _unmapped_blobs(n_y: int, n_x: int) -> np.ndarray:
    """Two Gaussians of height 0.5, at the same place in images of any size."""
    blobs = np.zeros((n_y, n_x))
    for y, x in ((40 / 128, 80 / 128), (90 / 128, 45 / 128)):
        blobs += 0.5 * np.outer(gaussian(n_y, y * n_y, 5), gaussian(n_x, x * n_x, 5))
    return blobs


def gaussian(size: int, centre: float, sigma: float) -> np.ndarray:
    """A Gaussian of height 1 on a row of pixels."""
    return np.exp(-((np.arange(size) - centre) ** 2) / (2 * sigma**2))
