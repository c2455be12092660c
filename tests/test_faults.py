"""Faults of the machine: results are whole or absent, and the message is right."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hyperspy.api as hs
import numpy as np
import pytest

import hyperspy_fusion as hf
from hyperspy_fusion import cli
from hyperspy_fusion.cli import files
from hyperspy_fusion.core.calibrated import parts

QUICK = ["--method", "published", "--n-iter", "2", "--pixel-size", "2"]
UNIX = pytest.mark.skipif(sys.platform == "win32", reason="Unix signals and links")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _no_pictures(monkeypatch):
    monkeypatch.setattr(files, "draw", lambda *_: {"fusion.png": b"drawn elsewhere"})


def save_specimen(name="a.npz", size=16):
    maps, haadf, _ = hf.data.core_shell(size)
    arrays = {one.metadata.General.title: one.data for one in (*maps, haadf)}
    with Path(name).open("wb") as file:
        np.savez(file, **arrays)


def listed(folder="."):
    return {path.name for path in Path(folder).iterdir()}


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def run(arguments, before="", **options):
    """Run the command line in a process of its own, after some Python."""
    program = (  # a shell that starts the tests in the background ignores SIGINT
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"{before}\nimport sys\nfrom hyperspy_fusion import cli\n"
        f"sys.exit(cli.main({arguments!r}))"
    )
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


# Where the program waits for what is done to it.
SLOW_SAVE = """
import time
from hyperspy_fusion.cli import files
files.draw = lambda *_: {"fusion.png": b"drawn elsewhere"}
write = files._write_signals
def slowly(folder, fused):
    write(folder, fused)
    print("saving", flush=True)
    time.sleep(60)
files._write_signals = slowly
"""


def until_it_saves(running):
    for line in running.stdout:
        if line.strip() == b"saving":
            return
    raise AssertionError(running.stderr.read())


# --- disks ----------------------------------------------------------------------------


@UNIX
def test_a_full_disk():
    save_specimen()
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (3000, r.RLIM_INFINITY))"
    done = run(["fuse", "a.npz", *QUICK], limit, env={**os.environ, "HOME": "/nowhere"})
    _, errors = done.communicate(timeout=120)
    assert done.returncode == 2, errors
    *_, told = errors.decode().splitlines()
    assert told.startswith("hyperspy-fusion: error: "), errors
    assert "File too large" in told
    assert "cannot be written" in told
    assert listed() == {"a.npz"}


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize("name", ["report.html", "run.toml"])
def test_a_disk_that_is_full_at_the_end(name, monkeypatch, capsys):
    save_specimen()
    write = Path.write_text

    def until_full(path, *args, **options):
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, *args, **options)

    monkeypatch.setattr(Path, "write_text", until_full)
    assert cli.main(["fuse", "a.npz", *QUICK]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert listed() == {"a.npz"}


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize("n", [0, 3, 8])
def test_overwriting_replaces_all_or_nothing(n, monkeypatch, capsys):
    save_specimen()
    assert cli.main(["fuse", "a.npz", *QUICK]) == 0
    Path("a-fused/notes.txt").write_text("mine")
    Path("a-fused/report.html").unlink()
    before = contents("a-fused")
    rename, moved = Path.rename, []

    def until_it_fails(path, target):
        if Path(target).parent.name == "a-fused":
            moved.append(target)
        if len(moved) > n:
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        return rename(path, target)

    again = ["fuse", "a.npz", *QUICK, "--n-iter", "3", "--overwrite"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", until_it_fails)
        assert cli.main(again) == 2
    assert "Permission denied" in capsys.readouterr().err
    assert contents("a-fused") == before
    assert listed() == {"a.npz", "a-fused"}
    assert cli.main(again) == 0
    after = contents("a-fused")
    assert after["notes.txt"] == b"mine"
    assert after["run.toml"] != before["run.toml"]
    assert listed("a-fused") == {*before, "report.html"}


@pytest.mark.usefixtures("_no_pictures")
def test_a_folder_in_the_place_of_a_file(capsys):
    save_specimen()
    Path("a-fused/Co.hspy").mkdir(parents=True)
    assert cli.main(["fuse", "a.npz", *QUICK, "--overwrite"]) == 2
    assert "Co.hspy is a folder: expected a file" in capsys.readouterr().err
    assert listed("a-fused") == {"Co.hspy"}
    assert listed() == {"a.npz", "a-fused"}


# --- files ----------------------------------------------------------------------------


@UNIX
@pytest.mark.parametrize("command", ["fuse", "info"])
def test_links_in_circles_and_files_that_vanished(command, capsys):
    Path("a.npz").symlink_to("b.npz")
    Path("b.npz").symlink_to("a.npz")
    Path("c.npz").symlink_to("gone.npz")
    for name in ("a.npz", "c.npz"):
        assert cli.main([command, name]) == 2
        assert f"there is no file {name}" in capsys.readouterr().err
    assert cli.main([command, "a.npz", "c.npz"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if "there is no file" in line] == errors
    assert len(errors) == 2


@pytest.mark.parametrize("command", ["fuse", "info"])
def test_a_folder_for_a_file(command, capsys):
    Path("folder").mkdir()
    assert cli.main([command, "folder"]) == 2
    printed = capsys.readouterr()
    assert "folder" in printed.err
    assert printed.err.count("\n") == 1
    assert listed() == {"folder"}


@pytest.mark.usefixtures("_no_pictures")
def test_a_file_that_vanishes_in_a_series(monkeypatch, capsys):
    for name in ("a.npz", "b.npz", "c.npz"):
        save_specimen(name)
    read = files.read

    def and_remove(arguments, path):
        Path("b.npz").unlink(missing_ok=True)
        return read(arguments, path)

    monkeypatch.setattr(files, "read", and_remove)
    assert cli.main(["fuse", "a.npz", "b.npz", "c.npz", *QUICK]) == 2
    printed = capsys.readouterr()
    assert "there is no file b.npz" in printed.err
    assert "2 of 3 files fused, 1 failed" in printed.out
    assert listed("fused") == {"a", "c", "index.html"}


# --- signals and consoles -------------------------------------------------------------


@UNIX
@pytest.mark.parametrize(("how", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_ended_in_a_save(how, code):
    save_specimen()
    with run(["fuse", "a.npz", *QUICK], SLOW_SAVE) as running:
        until_it_saves(running)
        running.send_signal(getattr(signal, how))
        _, errors = running.communicate(timeout=30)
    assert running.returncode == code
    words = "terminated" if how == "SIGTERM" else "interrupted"
    assert errors.decode() == f"hyperspy-fusion: {words}, nothing was written\n"
    assert listed() == {"a.npz"}


@UNIX
def test_killed_in_a_save():
    save_specimen()
    with run(["fuse", "a.npz", *QUICK], SLOW_SAVE) as running:
        until_it_saves(running)
        running.kill()
        running.communicate(timeout=30)
    assert running.returncode == -signal.SIGKILL
    left = listed() - {"a.npz"}
    assert all(
        name.startswith(".a-fused-") for name in left
    )  # which nobody could remove
    assert cli.main(["fuse", "a.npz", *QUICK]) == 0
    assert listed() == {"a.npz", "a-fused", *left}


@UNIX
def test_terminated_while_jobs_are_at_work():
    for name in ("a.npz", "b.npz", "c.npz"):
        save_specimen(name)
    endless = ["--tolerance", "1e-15", "--max-iter", "1000000000"]
    endless += ["--lambda-tv", "4", "--lambda-haadf", "0.1"]
    Path("no.npz").write_text("")
    names = ["no.npz", "a.npz", "b.npz", "c.npz"]
    program = (
        f"import sys\nfrom hyperspy_fusion import cli\n"
        f"if __name__ == '__main__':\n"
        f"    sys.exit(cli.main({['fuse', *names, *endless, '--jobs', '2']!r}))\n"
    )
    Path("program.py").write_text(program)
    with subprocess.Popen(
        [sys.executable, "program.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert b"no.npz: failed" in running.stdout.readline()
        time.sleep(3)
        running.terminate()
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 143
    last = errors.decode().splitlines()[-1]
    assert last == "hyperspy-fusion: terminated, go on with --resume"
    assert listed("fused") == {"index.html"}


@UNIX
def test_nobody_reads_what_is_printed():
    save_specimen()
    slow = SLOW_SAVE.replace("time.sleep(60)", "").replace('print("saving"', 'print(""')
    with run(["fuse", "a.npz", *QUICK], slow) as running:
        running.stdout.close()  # as `| head -0` does
        errors = running.stderr.read()
        running.wait(timeout=60)
    assert errors == b""
    assert running.returncode == 0
    assert "Co.hspy" in listed("a-fused")


@pytest.mark.parametrize("name", ["λ-Fe₂O₃.npz", b"\xff\xfe.npz"])
@pytest.mark.parametrize("command", ["fuse", "info"])
def test_names_that_a_console_cannot_show(name, command):
    try:
        name = os.fsdecode(name)
        save_specimen(name)
    except (OSError, UnicodeError):
        pytest.skip("no such names on this system")
    options = QUICK if command == "fuse" else QUICK[-2:]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    before = SLOW_SAVE.replace("time.sleep(60)", "")
    with run([command, name, *options], before, env=environment) as running:
        printed, errors = running.communicate(timeout=60)
    assert errors == b""
    assert running.returncode == 0
    assert b"Co, Mn, O" in printed
    printed.decode("ascii")
    if command == "fuse":
        assert "Co.hspy" in listed(f"{Path(name).stem}-fused")


def test_a_home_that_cannot_be_written():
    """HyperSpy, which keeps its settings there, cannot be imported."""
    Path("file").write_text("")
    home = str(Path("file", "home").absolute())
    homes = {"HOME": home, "USERPROFILE": home, "MPLCONFIGDIR": str(Path.cwd())}
    with run(["info", "a.npz"], env={**os.environ, **homes}) as running:
        printed, errors = running.communicate(timeout=60)
    assert (running.returncode, printed) == (2, b"")
    assert b"Traceback" not in errors
    assert b"error: HyperSpy cannot be imported: [Errno" in errors
    assert b"set the environment variable HOME" in errors


# --- memory ---------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_pictures")
def test_not_enough_memory_is_told(monkeypatch, capsys):
    save_specimen()

    def fail(*_args, **_options):
        return np.empty((2**30, 2**20))

    monkeypatch.setattr(hf, "fuse_published", fail)
    assert cli.main(["fuse", "a.npz", *QUICK]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("hyperspy-fusion: error: not enough memory: Unable to")
    assert listed() == {"a.npz"}


@pytest.mark.parametrize("lazy", [False, True])
def test_not_enough_memory_for_one_tile(lazy, monkeypatch):
    maps, haadf, _ = hf.data.lattice(96)
    options = {"lambda_tv": 4.0, "lambda_haadf": 0.1, "background": 0.02}
    options |= {"tile_size": 48, "lazy_output": lazy, "tolerance": 0.5}
    solve, calls = parts.solve_part, []

    def fail_once(*args, **others):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return solve(*args, **others)

    monkeypatch.setattr(parts, "solve_part", fail_once)

    def fused():
        found = hf.fuse_multimodal(maps, haadf, **options)
        for fused_map in found:
            if lazy:
                fused_map.compute(show_progressbar=False)
        return found

    with pytest.raises(MemoryError):
        fused()
    again, once_more = fused(), fused()
    for one, other in zip(again, once_more, strict=True):
        np.testing.assert_array_equal(one.data, other.data)


# --- lazy maps ------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["hspy", "zspy"])
@pytest.mark.parametrize("given", ["path", "format apart"])
@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore:FutureWarning")
def test_a_lazy_map_is_not_saved_over_what_it_is_made_of(extension, given):
    maps, haadf, _ = hf.data.core_shell(32)
    for one in (*maps, haadf):
        one.save(f"{one.metadata.General.title}.{extension}")
    lazy = [hs.load(f"{e}.{extension}", lazy=True) for e in ("Co", "Mn", "O")]
    image = hs.load(f"HAADF.{extension}", lazy=True)
    options = {"lambda_tv": 4.0, "lambda_haadf": 0.1}
    fused = hf.fuse_multimodal(lazy, image, 0.02, **options)
    for name in ("Co", "O", "HAADF"):
        arguments = {"filename": f"{name}.{extension}"}
        if given == "format apart":
            arguments = {"filename": name, "file_format": extension}
        with pytest.raises(ValueError, match="is read by this lazy map, and would be"):
            fused[0].save(**arguments, overwrite=True)
    for one in (*maps, haadf):
        path = f"{one.metadata.General.title}.{extension}"
        np.testing.assert_array_equal(hs.load(path).data, one.data)
    fused[0].save(f"Co-fused.{extension}")
    assert hs.load(f"Co-fused.{extension}").data.shape == (32, 32)
