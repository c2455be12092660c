"""Maps with the original metadata of a Velox file."""

import hyperspy.api as hs
import numpy as np


def velox_map(title, *, spectral=None, kernel=None, mode="Integration", **result):
    """A ready-made map, with settings of the filter of the spectra and of its own."""
    signal = hs.signals.Signal2D(np.arange(16.0).reshape(4, 4))
    signal.metadata.General.title = title
    elements = [
        {"element": 1, "atomicShellFamily": "K"},
        {
            "element": 56,
            "atomicShellFamily": "L",
            "xrayTransitions": [{"from": "M5", "to": "L3"}, {"from": "M4", "to": "L3"}],
        },
        {
            "element": 22,
            "atomicShellFamily": "K",
            "xrayTransitions": [{"from": "L3", "to": "K"}, {"from": "L2", "to": "K"}],
        },
        {
            "element": 24,
            "atomicShellFamily": "K",
            "xrayTransitions": [{"from": "M3", "to": "K"}],
        },
    ]
    eds = {
        "detectors": [{"physicalDetector": "SuperXG2", "segments": [{"index": 1}]}],
        "spectralFiltersettings": "/SharedProperties/SpectralFilterSettings/1a",
        "quantificationKernelFilterSettings": (
            "/SharedProperties/UnaryImageFilterSettings/2b"
        ),
        "quantificationSettings": (
            "/SharedProperties/EDSSpectrumQuantificationSettings/3c"
        ),
    }
    signal.original_metadata.add_dictionary(
        {
            "BinaryResult": {"Detector": "SuperXG2", **result},
            "Features": {"SIFeature": {"0f": {"eds": eds, "quantificationMode": mode}}},
            "SharedProperties": {
                "SpectralFilterSettings": {"1a": spectral or {"enabled": False}},
                "UnaryImageFilterSettings": {"2b": kernel or {"enabled": False}},
                "EDSSpectrumQuantificationSettings": {
                    "3c": {"elementProperties": elements}
                },
            },
        }
    )
    return signal


MEAN = {"enabled": True, "filter": "Mean", "kernelSize": 3, "sigma": 1}
