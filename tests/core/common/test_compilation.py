"""Kernels that are kept on disk, whatever becomes of the files and of their parts."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching
from numpy.testing import assert_allclose

import hyperspy_fusion
from hyperspy_fusion.core.common import compilation

PACKAGE = Path(hyperspy_fusion.__file__).parent

# A package like ours, small: a kernel with a part in another file.
PART = """
from core.common.compilation import compilers
_, part = compilers(fastmath=True)

@part
def added(x):
    return x + {summand}
"""
KERNEL = """
from core.common.compilation import compilers
from core.parts import added
kernel, _ = compilers(fastmath=True)

@kernel
def run(x):
    return added(x)
"""
PROGRAM = """
import logging
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
from core.kernels import run
print(run(1.0), sum(run.stats.cache_hits.values()), len(run.stats.cache_misses))
"""


@pytest.fixture
def small_package(tmp_path):
    """A folder with the package, and a function that runs it in a process."""
    core = tmp_path / "core"
    (core / "common").mkdir(parents=True)
    shutil.copy(PACKAGE / "core" / "common" / "compilation.py", core / "common")
    (core / "parts.py").write_text(PART.format(summand="10.0"))
    (core / "kernels.py").write_text(KERNEL)

    def run(**environment):
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
            | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        result, hits, misses = done.stdout.split()
        return float(result), int(hits), int(misses), done.stderr

    run.core = core
    run.cache = tmp_path / "cache"
    return run


def test_a_changed_part_of_another_file_takes_effect(small_package):
    assert small_package()[:3] == (11, 0, 1)
    assert small_package()[:3] == (11, 1, 0)
    (small_package.core / "parts.py").write_text(PART.format(summand="20.0"))
    assert small_package()[:3] == (21, 0, 1)
    assert small_package()[:3] == (21, 1, 0)


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["empty", "cut", "foreign"])
def test_damaged_cache_files_are_replaced(small_package, suffix, damage):
    small_package()
    (path,) = small_package.cache.rglob(f"*.{suffix}")
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "cut": content[: len(content) // 2], "foreign": b"!" * 50}[
            damage
        ]
    )
    result, hits, _, said = small_package()
    assert (result, hits) == (11, 0)
    assert "INFO" in said
    assert "cannot be read: it is compiled again" in said
    assert small_package()[:3] == (11, 1, 0)


# Folders that cannot be written, for root as well: Numba looks for no others.
NO_FOLDER = """
import os
from numba.core.caching import FunctionCache
found = FunctionCache._impl_class
found._locator_classes = [
    one for one in found._locator_classes if "UserProvided" in one.__name__
]
import hyperspy_fusion as hf
hf.data.core_shell(16)  # imports HyperSpy's own kernels
from hyperspy.misc._array_tools import _linear_bin_loop
from small import one, other
print(one(1.0), other(1.0), len(one.stats.cache_misses))
print(os.environ["NUMBA_CACHE_DIR"])
for kernel in (one, other, _linear_bin_loop):
    print(kernel.stats.cache_path)
print(*os.listdir(one.stats.cache_path))
"""
SMALL = """
from hyperspy_fusion.core.common.compilation import compilers
kernel, _ = compilers(fastmath=True)

@kernel
def one(x):
    return x + 1

@kernel
def other(x):
    return x + 2
"""


def test_without_a_folder_for_the_cache_there_is_one_note(tmp_path):
    """Kernels are in a temporary folder, HyperSpy's too, until the process ends."""
    (tmp_path / "small.py").write_text(SMALL)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", NO_FOLDER],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results, folder, *kept, files = done.stdout.splitlines()
    assert results == "2.0 3.0 1"
    assert Path(folder).parent == temporary
    assert [Path(path).parent for path in kept] == [Path(folder)] * 3
    assert files.count(".nbc") == 2
    assert done.stderr.count("no writable folder") == 1
    assert list(temporary.iterdir()) == []


def test_watchers_are_told_when_the_compiler_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    kernel, _ = compilation.compilers(fastmath=True)
    one = kernel(lambda x: x + 1)
    seen = []
    with compilation.compiling_seen_by(seen.append):
        assert (one(1.0), one(2.0)) == (2, 3)
    assert seen == ["<lambda>", None]


def test_a_cache_that_cannot_be_written_does_no_harm(monkeypatch, caplog, tmp_path):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    kernel, _ = compilation.compilers(fastmath=True)
    with caplog.at_level(logging.INFO):
        assert kernel(lambda x: x + 1)(1.0) == 2
    assert "cannot be kept: no space left" in caplog.text


DISABLED = """
import sys, warnings
warnings.simplefilter("error")
import numba
import numpy as np
from hyperspy_fusion.core.calibrated import method as calibrated
from hyperspy_fusion.core.calibrated.given import Chemistry, Pixels
from hyperspy_fusion.core.published import method as published
rng = np.random.default_rng(0)
maps = rng.poisson(20 * (1 + np.sin(np.arange(84))).reshape(2, 6, 7))
haadf = 30.0 * maps[0] + 10.0 * maps[1] + rng.normal(0, 5, (6, 7))
pixels, chemistry = Pixels(maps=maps, haadf=haadf), Chemistry(atomic_numbers=(27, 8))
options = {"lambda_tv": 2.0, "lambda_haadf": 0.1, "max_iter": 3}
for own in ({}, {"regularizer": "tv"}):
    options = calibrated.CalibratedOptions(**options, **own)
    found = calibrated.solve(pixels, chemistry, options).maps
    np.save(sys.stdout.buffer, found)
    options = {"lambda_tv": 2.0, "lambda_haadf": 0.1, "max_iter": 3}
found = published.solve(maps, haadf, (27, 8), published.PublishedOptions(n_iter=3)).maps
np.save(sys.stdout.buffer, found)
"""


def by_turns(pair, n):
    total = 0.0
    here, there = pair
    for _ in range(n):
        here, there = there, here
        total += here[0]
    return total


@pytest.mark.parametrize("make_arrays", [False, True])
def test_parts_that_make_no_arrays_count_no_references(make_arrays):
    _, part = compilation.compilers(fastmath=False, make_arrays=make_arrays)
    compiled = part(by_turns)
    assert compiled((np.array([1.0]), np.array([2.0])), 3) == 5
    (code,) = compiled.inspect_llvm().values()
    assert ("call void @NRT_incref" in code) == make_arrays


def test_without_that_option_of_numba(monkeypatch):
    def njit(**options):
        raise KeyError(*options)

    monkeypatch.setattr(numba, "njit", njit)
    assert compilation._no_references.__wrapped__() == {}  # not from its cache


def test_kernels_run_as_plain_python(tmp_path):
    """Slowly, with NUMBA_DISABLE_JIT=1, and a note says so."""
    found = []
    for disabled in ("0", "1"):
        with (tmp_path / disabled).open("wb") as file:
            done = subprocess.run(  # noqa: S603
                [sys.executable, "-c", DISABLED],
                env={**os.environ, "NUMBA_DISABLE_JIT": disabled},
                stdout=file,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        assert ("NUMBA_DISABLE_JIT" in done.stderr) == (disabled == "1")
        with (tmp_path / disabled).open("rb") as file:
            found.append([np.load(file) for _ in range(3)])
    for one, other in zip(*found, strict=True):
        assert_allclose(one, other, rtol=1e-3, atol=1e-2)
