"""Small images that the tests of this room share."""

import hyperspy.api as hs
import numpy as np

SHAPE = (5, 7)  # y, x


def image(title="", data=None, *, scale=1.0, units="", **sample):
    """A Signal2D of distinct values, calibrated if units are given."""
    if data is None:
        data = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    signal = hs.signals.Signal2D(data)
    signal.metadata.General.title = title
    for name, value in sample.items():
        signal.metadata.set_item(f"Sample.{name}", value)
    for axis, name in zip(signal.axes_manager.signal_axes, "xy", strict=True):
        axis.name, axis.scale, axis.units = name, scale, units
    return signal


def on_navigation_axes(signal):
    """The same map as eXSpy's get_lines_intensity gives it."""
    return signal.transpose(navigation_axes=(*signal.axes_manager.signal_axes,))
