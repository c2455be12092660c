import tracemalloc

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hyperspy_fusion.execution import arrays

SHAPE = 2, 7, 5, 30


@pytest.fixture(scope="module")
def spectra():
    return np.random.default_rng(1).poisson(0.7, SHAPE).astype(np.uint16)


@pytest.fixture(scope="module")
def matrix():
    return np.eye(4)[np.random.default_rng(2).integers(0, 4, SHAPE[-1])]


@pytest.mark.parametrize("chunks", [None, (1, 3, 5, 30), (2, 7, 5, 8), (1, 2, 2, 7)])
@pytest.mark.parametrize("values", [1, 400, 2**22])
def test_sums_of_channels(spectra, matrix, monkeypatch, chunks, values):
    monkeypatch.setattr(arrays, "_SLAB", values)
    given = spectra if chunks is None else da.from_array(spectra, chunks=chunks)
    found, lowest = arrays.sums_of_channels(given, matrix)
    assert found.dtype == np.float32
    assert_array_equal(found, spectra @ matrix)
    assert lowest == spectra.min()


def test_sums_of_a_part_of_the_channels(spectra, matrix):
    for given in (spectra, da.from_array(spectra, chunks=(1, 4, 5, 9))):
        found, _ = arrays.sums_of_channels(given[0, ..., 3:20], matrix[3:20])
        assert_array_equal(found, spectra[0, ..., 3:20] @ matrix[3:20])


def test_no_copy_of_a_chunk_in_another_type(matrix, monkeypatch):
    monkeypatch.setattr(arrays, "_SLAB", 2**12)
    spectra = np.ones((200, 100, SHAPE[-1]), dtype=np.uint8)
    sums = spectra[..., 0].size * matrix.shape[1] * 4
    tracemalloc.start()
    arrays.sums_of_channels(spectra, matrix)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < sums + 2**17
    assert spectra.size * 4 > sums + 2**17  # which a copy in float32 would take
