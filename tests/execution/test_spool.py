"""Solutions are kept so that nothing is solved twice, whatever happens meanwhile."""

import copy
import errno
import gc
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion.core.calibrated import method as calibrated
from hyperspy_fusion.core.common.solution import CostHistory, Solution
from hyperspy_fusion.execution import lazy
from hyperspy_fusion.execution.lazy import Spool

# Where the choice of the weights does not matter.
GIVEN = {"background": 0.02, "lambda_tv": 4.0, "lambda_haadf": 0.1, "tolerance": 0.5}
MAPS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def solution_of(maps, variance=None):
    costs = CostHistory(
        **{term: np.ones(2) for term in ("total", "haadf", "chemical", "tv")},
        iterations=np.array([1.0, 50.0]),
    )
    return Solution(
        maps=maps,
        variance=variance,
        costs=costs,
        n_iter=50,
        status="converged",
        converged=True,
        record={"gap": 1e-4},
        notes=("noted",),
        warnings=(),
    )


@pytest.fixture
def spool(tmp_path):
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        return Spool()


@pytest.mark.parametrize("with_variance", [False, True])
def test_keeps_solutions(spool, with_variance):
    assert spool.load("0") is None
    maps = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    variance = maps + 1 if with_variance else None
    spool.save("0", solution_of(maps, variance))
    assert spool.load("1") is None
    back = spool.load("0")
    assert type(back.maps) is np.ndarray
    assert_array_equal(back.maps, maps)
    if with_variance:
        assert_array_equal(back.variance, variance)
    else:
        assert back.variance is None
    assert (back.status, back.record, back.notes) == (
        "converged",
        {"gap": 1e-4},
        ("noted",),
    )
    assert_array_equal(back.costs.total, [1, 1])


def test_the_folder_goes_with_its_owner(spool, tmp_path):
    assert spool.path.parent == tmp_path
    assert copy.deepcopy(spool) is spool
    worker = pickle.loads(pickle.dumps(spool))  # noqa: S301 - our own
    worker.save("0", solution_of(np.ones((1, 2, 2))))
    del worker
    gc.collect()
    assert spool.load("0") is not None


def test_nothing_is_left(tmp_path):
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        spool = Spool()
    spool.save("0", solution_of(np.ones((1, 2, 2))))
    del spool
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_seen_is_told(spool):
    shutil.rmtree(spool.path)
    with pytest.warns(UserWarning, match="has no access to the folder .*solved again"):
        spool.save("0", solution_of(np.ones((1, 2, 2))))
    assert spool.load("0") is None


# --- damage ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["0.pickle", "0-maps.npy", "0-variance.npy"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage"])
def test_damaged_files_are_solved_again(spool, name, damage):
    solution = solution_of(MAPS, MAPS + 1)
    spool.save("0", solution)
    path = spool.path / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {"empty": b"", "cut": content[:-5], "garbage": b"x" * 99}[damage]
        )
    assert spool.load("0") is None
    spool.save("0", solution)
    assert_array_equal(spool.load("0").maps, MAPS)


def test_what_is_read_does_not_change_when_it_is_saved_again(spool):
    spool.save("0", solution_of(MAPS))
    mapped = spool.load("0").maps
    spool.save("0", solution_of(MAPS + 1))
    assert_array_equal(mapped, MAPS)
    assert_array_equal(spool.load("0").maps, MAPS + 1)


def test_a_full_disk_is_named_and_nothing_is_left_half_written(spool, monkeypatch):
    def full(file, _):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lazy.np, "save", full)
    with pytest.warns(UserWarning, match=f"{spool.path} .* is full: .*solved again"):
        spool.save("0", solution_of(MAPS))
    assert list(spool.path.iterdir()) == []
    assert spool.load("0") is None


@pytest.mark.filterwarnings("ignore:the folder .* is full:UserWarning")
def test_a_fusion_succeeds_on_a_full_disk(monkeypatch):
    maps, haadf, _ = hf.data.core_shell(size=32)
    expected = hf.fuse_multimodal(maps, haadf, **GIVEN)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lazy.np, "save", full)
    fused = hf.fuse_multimodal(maps, haadf, lazy_output=True, **GIVEN)
    fused[1].compute(show_progressbar=False)
    assert_array_equal(fused[1].data, expected[1].data)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_leaves_the_folder_of_its_parent(spool):
    spool.save("0", solution_of(MAPS))
    child = os.fork()
    if child == 0:
        lazy._remove(spool.path, os.getppid())
        os._exit(0)
    os.waitpid(child, 0)
    assert_array_equal(spool.load("0").maps, MAPS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.* use of fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_threads_of_its_parent(spool):
    with spool.lock("0"):  # as a thread that solves holds it
        child = os.fork()
        if child == 0:
            os._exit(not spool.lock("0").acquire(timeout=10))
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# --- at the same time ---------------------------------------------------------------


def test_maps_that_are_computed_at_the_same_time_are_solved_once(monkeypatch):
    solved = []

    def solve(*arguments, **options):
        solved.append(1)
        return inner(*arguments, **options)

    inner = calibrated.solve
    monkeypatch.setattr(calibrated, "solve", solve)
    maps, haadf, _ = hf.data.core_shell(size=32)
    expected = hf.fuse_multimodal(maps, haadf, **GIVEN)

    def compute(signal):
        with dask.config.set(scheduler="threads"):
            signal.compute(show_progressbar=False)
        return signal.data

    with ThreadPoolExecutor(3) as pool:
        for _ in range(20):
            solved.clear()
            fused = hf.fuse_multimodal(maps, haadf, lazy_output=True, **GIVEN)
            for found, signal in zip(pool.map(compute, fused), expected, strict=True):
                assert_array_equal(found, signal.data)
            assert len(solved) == 1


def test_copies_in_one_process_share_a_lock(spool):
    copied = pickle.loads(pickle.dumps(spool))  # noqa: S301 - our own
    assert copied.lock("0") is spool.lock("0")
    assert copied.lock("1") is not spool.lock("0")
