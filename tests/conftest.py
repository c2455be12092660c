"""What the tests share: a quiet plotting backend and the real data files."""

import os
from pathlib import Path
from typing import NamedTuple

import hyperspy.api as hs
import hypothesis
import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from hyperspy_fusion.execution.tiles import HALOS

mpl.use("Agg")

# The first example of a test may compile a kernel; the examples are the same each time.
hypothesis.settings.register_profile(
    "hyperspy_fusion", deadline=None, max_examples=50, derandomize=True
)
hypothesis.settings.load_profile("hyperspy_fusion")


@pytest.fixture(autouse=True)
def no_figures_left():
    """Close the figures of a test: others count those that are open."""
    yield
    plt.close("all")


@pytest.fixture(scope="session", autouse=True)
def narrow_halo():
    """Keep the tiles of small images from seeing all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HALOS, "tgv", 32)
        yield


@pytest.fixture(scope="session")
def real_data():
    """Return a function that gives the path of a real data file, or skips the test."""
    folder = os.environ.get("HYPERSPY_FUSION_DATA")

    def find(name):
        if folder is None:
            pytest.skip(f"set HYPERSPY_FUSION_DATA to the folder that holds {name}")
        path = Path(folder) / name
        # The folder is given, so a file that is not there is an error.
        assert path.is_file(), f"HYPERSPY_FUSION_DATA is {folder}: it has no {name}"
        return path

    return find


class Series(NamedTuple):
    """What is stacked has the names of what it is stacked from."""

    maps: list
    haadf: object


@pytest.fixture(scope="session")
def series_of():
    """Return a function that stacks specimens, or series of them, to a series."""

    def stack(*specimens):
        maps = [
            hs.stack(list(of_element), show_progressbar=False)
            for of_element in zip(*(s.maps for s in specimens), strict=True)
        ]
        haadf = hs.stack([s.haadf for s in specimens], show_progressbar=False)
        return Series(maps, haadf)

    return stack
