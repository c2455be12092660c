"""Hours of faults and load, run with ``pytest -m soak -s``.

``HYPERSPY_FUSION_SOAK`` is the percentage of the tries that are made, by default 100.
"""

import os
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import hyperspy.api as hs
import numpy as np
import pytest
from forks import (
    CODES,
    QUICK,
    check_end,
    forked,
    lines_run,
    listed,
    save_specimen,
    signal_at,
)

import hyperspy_fusion as hf
from hyperspy_fusion import cli
from hyperspy_fusion.cli import files

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform == "win32", reason="forks and signals of Unix"),
]
PERCENT = int(os.environ.get("HYPERSPY_FUSION_SOAK", "100"))
GIVEN = {"lambda_tv": 4.0, "lambda_haadf": 0.1, "background": 0.02}


def tries(n):
    return max(n * PERCENT // 100, 1)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "draw", lambda *_: {"fusion.png": b"drawn elsewhere"})


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_any_moment(how):
    save_specimen("a.npz")
    cli.main(["fuse", "a.npz", *QUICK, "--output", "before"])  # loads what forks share
    start = time.perf_counter()
    job = forked(["fuse", "a.npz", *QUICK, "--output", "first"])
    job.join()
    seconds = time.perf_counter() - start
    rng = np.random.default_rng(1)
    ends = Counter()
    for i in range(tries(500)):
        job = forked(["fuse", "a.npz", *QUICK, "--output", f"out{i}"])
        time.sleep(rng.uniform(0, 1.2 * seconds))
        os.kill(job.pid, how)
        job.join(60)
        assert job.exitcode is not None, "a signal was swallowed"
        ends[job.exitcode] += 1
        check_end(job.exitcode, f"out{i}")
    print(f"{how.name}: {dict(ends)}")  # noqa: T201
    assert set(ends) <= {CODES[how], 0, 1, -how}  # the last two before the beginning


def test_interrupted_at_each_line():
    """Each line of all code that a fusion runs, with one signal or the other."""
    save_specimen("a.npz")
    arguments = ["fuse", "a.npz", *QUICK, "--output"]
    cli.main([*arguments, "before"])
    found = list(lines_run([*arguments, "first"]).items())
    n = 0
    for i in np.linspace(0, len(found) - 1, tries(len(found))).astype(int):
        how, (line, when) = list(CODES)[n % 2], found[i]
        job = forked([*arguments, f"out{i}"], signal_at(how, when), "errors")
        job.join(60)
        n += 1
        try:
            check_end(job.exitcode, f"out{i}", how, "errors")
        except AssertionError:
            pytest.fail(
                f"{how.name} at {line}: {job.exitcode}, {Path('errors').read_text()}"
            )
    print(f"a signal at {n} of {len(found)} lines")  # noqa: T201


def test_a_series_that_is_interrupted_five_times():
    n = tries(500)
    Path("in").mkdir()
    for i in range(n):
        save_specimen(f"in/{i:03}.npz", seed=i)
    cli.main(["fuse", "in/000.npz", *QUICK, "--output", "before"])
    arguments = ["fuse", "in/*.npz", *QUICK]
    job = forked([*arguments, "--output", "whole"])
    job.join()
    assert job.exitcode == 0
    for stop in range(5):
        job = forked([*arguments, "--output", "parts", "--resume"])
        while not Path("parts").exists() or len(listed("parts")) < (stop + 1) * n // 6:
            job.join(0.01)
            assert job.exitcode is None, "it ended before it was interrupted"
        os.kill(job.pid, signal.SIGKILL if stop % 2 else signal.SIGINT)
        job.join()
    job = forked([*arguments, "--output", "parts", "--resume"])
    job.join()
    assert job.exitcode == 0
    names = {name for name in listed("whole") if not name.startswith(".")}
    assert names == {name for name in listed("parts") if not name.startswith(".")}
    for name in names - {"index.html"}:
        for element in ("Co", "Mn", "O"):
            one, other = (
                hs.load(Path(base) / name / f"{element}.hspy").data
                for base in ("whole", "parts")
            )
            np.testing.assert_array_equal(one, other)


def test_memory_does_not_grow():
    maps, haadf, _ = hf.data.core_shell(24)

    def resident():  # MB
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    n, found = tries(1000), []
    for i in range(n):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            hf.fuse_multimodal(maps, haadf, **GIVEN)
        if i % max(n // 10, 1) == 0:
            found.append(resident())
    print(f"{n} fusions: {' '.join(f'{one:.0f}' for one in found)} MB")  # noqa: T201
    assert found[-1] - found[len(found) // 3] < 20


def test_false_alarms_of_clean_simulations():
    n, said = tries(1000), Counter()
    names = "core_shell", "lattice", "janus"
    for i in range(n):
        simulate = getattr(hf.data, names[i % 3])
        maps, haadf, _ = simulate(48, counts=[1, 4, 16][i // 3 % 3], seed=1000 + i)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            fused = hf.fuse_multimodal(maps, haadf, 0.02)
        record = fused[0].metadata.Multimodal_fusion
        starts = {line[:60] for line in record.warnings.splitlines()}
        said.update({" ".join(line.split()[:6]) for line in starts})
        said["any warning"] += bool(starts)
    for words, times in said.most_common():
        print(f"{words}: {times} of {n}")  # noqa: T201
    assert said["any warning"] < 0.2 * n
