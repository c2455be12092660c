import subprocess
import sys

import pytest

LOAD = """
import contextlib, sys, warnings
import hyperspy_fusion
warnings.filterwarnings("ignore", "X-ray lines overlap|the maps .* were filtered")
with contextlib.suppress(ValueError):
    hyperspy_fusion.load_multimodal(sys.argv[1])
"""
INFO = "import sys; from hyperspy_fusion.cli import main; main(['info', sys.argv[1]])"
FUSE = """
import hyperspy_fusion
maps, haadf, _ = hyperspy_fusion.data.core_shell(size=32)
hyperspy_fusion.fuse_published(maps, haadf, n_iter=1, show_progressbar=False)
"""


def printed(program, *arguments):
    """What a program of its own prints as warnings, if all are shown."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "default", "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


@pytest.mark.parametrize(
    "name", ["velox_EDS_SI_16x16.emd", "velox_EELS_EDS.emd", "EELS_SI.dm4"]
)
def test_first_load_prints_no_warnings_of_other_packages(real_data, name):
    said = printed(LOAD, real_data(name)).splitlines()
    own = "maps that are zero everywhere are left out"
    code = "  hyperspy_fusion.load_multimodal("  # shown from Python 3.13 on
    assert [
        line for line in said if own not in line and not line.startswith(code)
    ] == []


def test_first_use_prints_no_warnings_of_other_packages(real_data):
    assert printed(FUSE) == ""
    assert printed(INFO, real_data("EELS_SI.dm4")) == ""
