"""The same call under a client of dask.distributed, and a worker that is lost."""

import errno
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import hyperspy.api as hs
import numpy as np
import pytest
from agreement import assert_same
from distributed import Client, LocalCluster
from numpy.testing import assert_array_equal

import hyperspy_fusion as hf
from hyperspy_fusion import progress
from hyperspy_fusion.execution import lazy as lazy_execution
from hyperspy_fusion.execution.arrays import gathered

# Names of what solves.
SOLVES = "solve_task", "_solve_once"
# Where the choice of the weights does not matter.
GIVEN = {"background": 0.02, "lambda_tv": 4.0, "lambda_haadf": 0.1}
LONG = {**GIVEN, "tolerance": 1e-9, "max_iter": 1500}

pytestmark = pytest.mark.filterwarnings(
    "ignore:The NestedDirectoryStore:FutureWarning",  # zarr 2
    "ignore:max_iter=1500 was reached:UserWarning",
)


@pytest.fixture(scope="module")
def series(series_of):
    return series_of(*(hf.data.core_shell(size=32, seed=k) for k in range(1, 9)))


@pytest.fixture(scope="module")
def image():
    return hf.data.core_shell(size=96)


# Solved before there is a client.


@pytest.fixture(scope="module")
def eager(series):
    return hf.fuse_multimodal(*series, **GIVEN)


@pytest.fixture(scope="module")
def tiled(image):
    return hf.fuse_multimodal(image.maps, image.haadf, tile_size=48, **GIVEN)


@pytest.fixture(scope="module")
def long(series):
    return hf.fuse_multimodal(*series, **LONG)


@pytest.fixture(scope="module")
def cluster(eager, tiled, long):  # noqa: ARG001
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=":0",  # any port that is free
        silence_logs=logging.CRITICAL,  # of workers that are lost
    ) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def client(cluster):
    with Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(hs.preferences.General, "show_progressbar", False)


def lazily(maps, haadf):
    return [signal.as_lazy() for signal in maps], haadf.as_lazy()


def at_work(dask_scheduler):
    """Addresses of workers that have solved something and are at the next."""
    done, busy = set(), set()
    for task in dask_scheduler.tasks.values():
        if str(task.key).startswith(("solve_task", "_solve", "_without_maps")):
            done |= {worker.address for worker in task.who_has or ()}
            busy |= {task.processing_on.address} if task.processing_on else set()
    return sorted(done & busy)


@pytest.fixture
def solved(client):
    """Return a function that lists the workers that solved, one for each task."""
    before = len(client.get_task_stream())

    def workers():
        ran = client.get_task_stream()[before:]
        return [one["worker"] for one in ran if str(one["key"]).startswith(SOLVES)]

    return workers


def test_series(series, eager, solved):
    assert_same(hf.fuse_multimodal(*series, **GIVEN), eager)
    assert len(solved()) == 8
    assert len(set(solved())) == 2


def test_tiles(image, tiled):
    fused = hf.fuse_multimodal(image.maps, image.haadf, tile_size=48, **GIVEN)
    assert_same(fused, tiled)


def test_lazy_maps_are_solved_once(series, eager, solved):
    fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)
    stack = hs.stack(fused)
    stack.compute()
    assert_same(stack.split(), eager)
    assert len(solved()) == 8


def test_workers_are_restarted(series, eager, client):
    """What they had solved is solved again. Before one is killed: then Dask cannot."""
    fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)
    first = fused[0].data.compute()
    client.restart()
    assert_array_equal(first, eager[0].data)
    for one in fused:
        one.compute()
    assert_same(fused, eager)


def test_the_disk_of_a_worker_is_full(series, eager, client):
    """What it has solved is not kept; all results are right."""

    def fill_disk():
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        np.save, np.saved = full, np.save

    def make_room():
        np.save = np.saved

    one = list(client.scheduler_info()["workers"])[:1]
    client.run(fill_disk, workers=one)
    try:
        fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)
        for each in fused:
            each.compute()
    finally:
        client.run(make_room, workers=one)
    assert_same(fused, eager)


def test_lazy_tiles_one_by_one(image, tiled, tmp_path):
    maps, haadf = lazily(image.maps, image.haadf)
    fused = hf.fuse_multimodal(maps, haadf, tile_size=48, **GIVEN)
    fused[0].compute()
    fused[1].save(tmp_path / "1.zspy")
    fused[2].compute()
    assert_same([fused[0], hs.load(tmp_path / "1.zspy"), fused[2]], tiled)


def test_progress(series, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(
        progress.Progress, "next_image", lambda self: shown.append(self.n_images)
    )
    hf.fuse_multimodal(*series, **GIVEN)
    assert shown == [8] * 8
    fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)
    fused[0].compute(show_progressbar=True)
    assert "100% Completed" in capsys.readouterr().out


def test_an_error_of_a_worker_reaches_the_user(series):
    maps, haadf = lazily(*series)
    fused = hf.fuse_multimodal(maps, haadf * 0, **GIVEN)
    with pytest.raises(ValueError, match=r"HAADF image is constant \(0"):
        fused[0].compute()


def test_an_error_cancels_what_is_not_done(client):
    def fail():
        raise ValueError("no image")

    begin = time.monotonic()
    futures = [client.submit(fail)]
    futures += [client.submit(time.sleep, 1, pure=False) for _ in range(60)]
    with pytest.raises(ValueError, match="no image"):
        gathered(client, futures)
    assert time.monotonic() - begin < 20  # all of them take half a minute


@pytest.mark.parametrize("lazy", [False, True])
def test_a_worker_is_killed(series, long, client, cluster, lazy):
    killed = []

    def kill():
        end = time.monotonic() + 60
        while not killed and time.monotonic() < end:
            for address in client.run_on_scheduler(at_work)[:1]:
                nannies = cluster.workers.values()
                nanny = next(n for n in nannies if n.worker_address == address)
                os.kill(nanny.pid, signal.SIGKILL)
                killed.append(address)
            time.sleep(0.01)

    maps, haadf = lazily(*series) if lazy else series
    killer = threading.Thread(target=kill)
    killer.start()
    fused = hf.fuse_multimodal(maps, haadf, **LONG)
    for one in fused if lazy else ():
        one.compute()
    killer.join()
    assert len(killed) == 1
    assert_same(fused, long)


def test_maps_that_two_clients_compute_at_the_same_time(series, eager, cluster):
    """Workers that solve the same do not disturb each other's files."""
    fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)

    def compute(one):
        with Client(cluster, set_as_default=False) as own:
            return own.compute(one.data).result()

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(compute, fused))
    for data, signal_ in zip(found, eager, strict=True):
        assert_array_equal(data, signal_.data)


def count_solutions():
    """At a worker: begin to count."""
    lazy_execution.solved = []
    solve = lazy_execution.solve_task

    def counted(*arguments):
        lazy_execution.solved.append(1)
        return solve(*arguments)

    lazy_execution.solve_task, lazy_execution.uncounted = counted, solve


def counted_solutions():
    """At a worker: what was counted."""
    lazy_execution.solve_task = lazy_execution.uncounted
    return len(lazy_execution.solved)


def test_maps_that_two_workers_compute_at_the_same_time(series, eager, client):
    """Each by itself, so that dask shares nothing: solved once in each process."""
    fused = hf.fuse_multimodal(*lazily(*series), **GIVEN)
    workers = list(client.scheduler_info()["workers"])
    client.run(count_solutions)
    try:
        found = [
            client.submit(
                lambda data: data.compute(scheduler="threads"),
                fused[k].data,
                workers=[worker],
                pure=False,
            )
            for both in ((0, 1), (1, 0))
            for k, worker in zip(both, workers, strict=True)
        ]
        found = client.gather(found)
    finally:
        counts = client.run(counted_solutions)
    for data, k in zip(found, (0, 1, 1, 0), strict=True):
        assert_array_equal(data, eager[k].data)
    assert max(counts.values()) <= 8 <= sum(counts.values())


def unfinished(dask_scheduler):
    return [
        str(task.key)
        for task in dask_scheduler.tasks.values()
        if task.state in ("waiting", "processing", "queued")
    ]


@pytest.mark.parametrize("lazy", [False, True])
def test_an_interrupt_leaves_no_task_at_the_workers(series, client, lazy, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    maps, haadf = lazily(*series) if lazy else series
    if lazy:
        monkeypatch.setattr("distributed.progress", interrupted)
    else:
        monkeypatch.setattr(progress.Progress, "next_image", interrupted)

    def fuse():
        fused = hf.fuse_multimodal(maps, haadf, **LONG)
        fused[0].compute(show_progressbar=True)

    with pytest.raises(KeyboardInterrupt):
        fuse()
    end = time.monotonic() + 30
    while client.run_on_scheduler(unfinished) and time.monotonic() < end:
        time.sleep(0.05)
    assert client.run_on_scheduler(unfinished) == []
