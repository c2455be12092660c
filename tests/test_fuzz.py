"""Damaged files: one clear message each, within bounded memory and time."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hyperspy_fusion as hf

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of Unix")
SECONDS = 60  # for a file; HDF5 is known to read some damaged files for ever

# Reads each file in a process of its own, which a reader in C may bring down.
PROGRAM = f"""
import io, json, resource, signal, sys
from contextlib import redirect_stderr, redirect_stdout
from hyperspy_fusion import cli
limit = 16 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    said, told = io.StringIO(), io.StringIO()
    call = ["info", path, "--pixel-size", "2"]
    if path.endswith(("tif", "hspy", "emd", "dm4")):
        call = call[:2]
    if path.endswith("toml"):
        call = ["fuse", "--config", path, "--output", path + "-out"]
    signal.alarm({SECONDS})
    try:
        with redirect_stdout(said), redirect_stderr(told):
            code = cli.main(call)
    except SystemExit as end:  # of argparse
        code = end.code
    except BaseException as error:
        code = f"{{type(error).__name__}}: {{error}}"
    signal.alarm(0)
    print(json.dumps([path, code, told.getvalue()]), flush=True)
"""
TOML = """\
files = ["../a.npz"]
method = "published"
n-iter = 2
pixel-size = 2.0
lambda-tv = 0.1
regularize = true
"""


def mutated(content, rng):
    """Bytes with a fault as disks, networks and editors make them."""
    content = bytearray(content)
    place = int(rng.integers(len(content)))
    size = int(min(rng.integers(1, 400), len(content) - place))
    kind = rng.integers(5)
    if kind == 0:  # single bytes, most of them where files say what they are
        for _ in range(rng.integers(1, 30)):
            near = int(rng.integers(min(4096, len(content))))
            content[near if rng.random() < 0.7 else place] = rng.integers(256)
    elif kind == 1:  # cut off
        del content[place:]
    elif kind == 2:  # zeros
        content[place : place + size] = bytes(size)
    elif kind == 3:  # a piece of another place
        content[place:place] = content[:size]
    else:  # noise
        content[place : place + size] = rng.bytes(size)
    return bytes(content)


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """Files of every kind, small ones."""
    folder = tmp_path_factory.mktemp("originals")
    maps, haadf, _ = hf.data.core_shell(16)
    arrays = {one.metadata.General.title: one.data for one in (*maps, haadf)}
    np.savez(folder / "a.npz", **arrays)
    np.savez_compressed(folder / "b.npz", **arrays)
    maps[0].save(folder / "map.hspy")
    haadf.save(folder / "image.tif")
    (folder / "run.toml").write_text(TOML)
    return folder


def check(paths):
    """Assert that each file has one message, or is read; return what was said."""
    waiting, found, hung = list(map(str, paths)), [], []
    while waiting:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", PROGRAM, *waiting],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(waiting[0]).parent,
        )
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        found += answers
        if len(answers) < len(waiting):
            path = waiting[len(answers)]
            said = f"{path}: the reader ended with {done.returncode}: {done.stderr}"
            # HDF5 reads some files for ever, and old versions crash
            ended = (-signal.SIGALRM, -signal.SIGSEGV)
            assert path.endswith(".hspy") or done.returncode == ended[0], said[:1000]
            assert done.returncode in ended, said[:1000]
            hung.append(path)
            answers.append(None)
        waiting = waiting[len(answers) :]
    for path, code, told in found:
        assert code in (0, 2, 3, 4), (path, code, told)
        assert "Traceback" not in told, (path, told)
        errors = [line for line in told.splitlines() if "error: " in line]
        assert len(errors) == (code == 2), (path, told)
    assert len(hung) <= 1 + len(found) // 20, hung
    return found


def make_copies(folder, originals, n, rng, extensions):
    paths = []
    for original in originals:
        if original.suffix not in extensions:
            continue
        content = original.read_bytes()
        for i in range(n):
            path = folder / f"{original.stem}-{i}{original.suffix}"
            path.write_bytes(mutated(content, rng))
            paths.append(path)
    return paths


def test_a_dozen_damaged_files(originals, tmp_path):
    rng = np.random.default_rng(19)
    extensions = {".npz", ".hspy", ".tif", ".toml"}
    files = sorted(originals.iterdir())
    paths = make_copies(tmp_path, files, 3, rng, extensions)
    assert len(paths) == 15
    np.savez(tmp_path.parent / "a.npz", **np.load(originals / "a.npz"))
    found = check(paths)
    assert sum(code == 2 for _, code, _ in found) >= 3
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.soak
@pytest.mark.parametrize(
    "extension", [".npz", ".hspy", ".tif", ".toml", ".emd", ".dm4"]
)
def test_many_damaged_files(originals, tmp_path, extension, real_data):
    n = int(os.environ.get("HYPERSPY_FUSION_SOAK", "100"))
    folder = Path(real_data("EELS_SI.dm4")).parent
    files = [*sorted(originals.iterdir()), *sorted(folder.iterdir())]
    files = [path for path in files if path.stat().st_size < 3e6]
    rng = np.random.default_rng(sum(extension.encode()))
    np.savez(tmp_path.parent / "a.npz", **np.load(originals / "a.npz"))
    paths = make_copies(tmp_path, files, n, rng, {extension})
    found = check(paths)
    codes = [code for _, code, _ in found]
    print(f"{extension}: {len(codes)} files, {codes.count(2)} refused")  # noqa: T201
