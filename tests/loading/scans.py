"""Small images and spectra that the tests of loading share."""

import exspy
import hyperspy.api as hs
import numpy as np

SHAPE = (5, 7)  # y, x
WEIGHTS = np.arange(1, 36, dtype=float).reshape(SHAPE)
ENERGIES = {"scale": 0.5, "offset": 400.0}  # eV


def image(title="", shape=SHAPE, data=None, **sample):
    """A Signal2D of pixels of 2 nm."""
    if data is None:
        data = np.arange(np.prod(shape), dtype=float).reshape(shape)
    signal = hs.signals.Signal2D(data)
    signal.metadata.General.title = title
    for name, value in sample.items():
        signal.metadata.set_item(f"Sample.{name}", value)
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.units = 2, "nm"
    return signal


HAADF = image("HAADF")


def elements_of(maps):
    return [list(signal.metadata.Sample.elements) for signal in maps]


def titles_of(signals):
    return [signal.metadata.General.title for signal in signals]


def calibrate_energies(spectra, scale, offset, units):
    axis = spectra.axes_manager.signal_axes[0]
    axis.scale, axis.offset, axis.units = scale, offset, units
    for axis in spectra.axes_manager.navigation_axes:
        axis.scale, axis.units = 2, "nm"


def eels_of(edges=None, size=1024, exponent=3.0, **energies):
    """EELS counts of a power law and of steps ``{onset: height}`` times the weights."""
    energies = {**ENERGIES, **energies}
    bounds = energies["offset"] + (np.arange(size + 1) - 0.5) * energies["scale"]
    if exponent == 1:
        background = np.diff(np.log(bounds / 700))
    else:
        background = np.diff((bounds / 700) ** (1 - exponent)) / (1 - exponent)
    background *= 200 / background[0]
    data = WEIGHTS[::-1, ::-1, np.newaxis] * background
    for onset, height in (edges or {}).items():
        data = data + WEIGHTS[..., np.newaxis] * height * (bounds[:-1] >= onset)
    spectra = exspy.signals.EELSSpectrum(data)
    calibrate_energies(spectra, **energies, units="eV")
    spectra.metadata.General.title = "EELS"
    return spectra


def stack_of(signal, factors):
    """A stack of frames, each the signal times a factor."""
    stack = hs.stack([signal * factor for factor in factors], show_progressbar=False)
    stack.metadata.General.title = signal.metadata.General.title
    return stack


def signals_of(data):
    """All signals that were loaded, in a list."""
    return [*data.maps, data.haadf, *(data.background or ())]
