"""Threads for the tests of this room."""

import pytest

from hyperspy_fusion.core.common.threads import workers


@pytest.fixture(scope="module")
def run():
    with workers(1) as run:
        yield run
