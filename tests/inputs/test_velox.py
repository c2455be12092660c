import hyperspy.api as hs
import numpy as np
import pytest
from velox_maps import MEAN, velox_map

from hyperspy_fusion.inputs.velox import (
    Filter,
    filter_of,
    is_integrated,
    line_of,
    same_scan,
)

GAUSSIAN = {"enabled": True, "type": "Gaussian", "size": 3, "sigma": 1.5}
BOX = {"enabled": True, "type": "TopHat", "size": 5, "sigma": 1}


@pytest.mark.parametrize(
    ("settings", "expected", "text"),
    [
        ({"kernel": MEAN}, Filter("Mean", 3), "Mean, 3 x 3 pixels"),
        ({"kernel": {**MEAN, "enabled": False}}, None, None),
        ({"kernel": {"filter": "Mean", "kernelSize": 3}}, None, None),
        ({}, None, None),
        (
            {"spectral": GAUSSIAN},
            Filter("Gaussian, sigma 1.5 pixels"),
            "Gaussian, sigma 1.5 pixels",
        ),
        (
            {"spectral": BOX, "kernel": MEAN},
            Filter("TopHat and Mean", 7),
            "TopHat and Mean, 7 x 7 pixels",
        ),
        (
            {"spectral": GAUSSIAN, "kernel": MEAN},
            Filter("Gaussian, sigma 1.5 pixels and Mean"),
            "Gaussian, sigma 1.5 pixels and Mean",
        ),
        (
            {"kernel": {**MEAN, "filter": "RadialWiener"}},
            Filter("RadialWiener"),
            "RadialWiener",
        ),
    ],
)
def test_filter_of_a_map(settings, expected, text):
    found = filter_of(velox_map("Ti", **settings))
    assert found == expected
    assert text is None or str(found) == text


def test_other_signals_have_no_filter():
    assert filter_of(hs.signals.Signal2D(np.ones((4, 4)))) is None
    # the HAADF image and spectra, of one detector or segment, with their number
    assert filter_of(velox_map("HAADF", kernel=MEAN, Detector="HAADF")) is None
    assert filter_of(velox_map("Ti", kernel=MEAN, DetectorIndex="5")) is None


def test_filter_of_what_is_made_from_a_map():
    signal = velox_map("Ti", kernel=MEAN)
    for made in (signal.isig[:2, :2], signal * 2, signal.T, signal.deepcopy()):
        assert filter_of(made) == Filter("Mean", 3)


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")  # zarr 2
@pytest.mark.parametrize("suffix", ["hspy", "zspy", "nxs"])
def test_filter_and_line_survive_saving(tmp_path, suffix):
    path = tmp_path / f"map.{suffix}"
    velox_map("Ti", kernel=MEAN).save(path)
    options = {"nxdata_only": True} if suffix == "nxs" else {}
    loaded = hs.load(path, **options)
    assert filter_of(loaded) == Filter("Mean", 3)
    if suffix != "nxs":  # which loses the list of the lines
        assert line_of(loaded) == "Ti_Ka"


@pytest.mark.parametrize(
    ("title", "line"),
    [("Ti", "Ti_Ka"), ("Ba", "Ba_La"), ("H", "H_Ka"), ("Cr", None), ("survey", None)],
)
def test_line_of_a_map(title, line):
    """Of chromium the Kβ line was chosen."""
    assert line_of(velox_map(title)) == line
    assert line_of(velox_map(title, DetectorIndex="5")) is None


def test_maps_of_windows_and_of_fits():
    assert is_integrated(velox_map("Ti"))
    assert not is_integrated(velox_map("Ti", mode="NetIntensity"))


def test_signals_of_a_scan():
    one, other = velox_map("Ti"), velox_map("Ba", DetectorIndex="5")
    assert same_scan(one, other)
    features = other.original_metadata.Features.SIFeature
    other.original_metadata.Features.SIFeature = {"1e": features.as_dictionary()["0f"]}
    assert not same_scan(one, other)
    plain = hs.signals.Signal2D(np.ones((4, 4)))
    assert not same_scan(plain, plain)


def test_filter_in_a_velox_file(real_data):
    signals = hs.load(real_data("velox_EDS_SI_16x16.emd"))
    found = {s.metadata.General.title: filter_of(s) for s in signals}
    filtered = {title for title, one in found.items() if one == Filter("Mean", 3)}
    assert filtered == {"C", "O", "Ca", "Cu"}
    assert not any(found[title] for title in ("HAADF", "EDS"))
    carbon = next(s for s in signals if s.metadata.General.title == "C")
    np.testing.assert_allclose(9 * carbon.data, np.rint(9 * carbon.data), atol=1e-3)
    other = hs.load(real_data("velox_EELS_EDS.emd"))
    assert not any(map(filter_of, other))  # it is switched off
