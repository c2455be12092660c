"""Many files in a night: patterns, settings, resuming, reports, exit status."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import h5py
import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import hyperspy_fusion
from hyperspy_fusion import cli
from hyperspy_fusion.cli import batch, files, options

QUICK = ["--method", "published", "--n-iter", "2", "--pixel-size", "2"]
RESULT = {"Co.hspy", "Co.tif", "O.hspy", "fusion.png", "report.html", "run.toml"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save_specimen(name, size=16):
    """Write a file of named arrays; return its maps and HAADF image."""
    maps, haadf, _ = hyperspy_fusion.data.core_shell(size)
    arrays = {one.metadata.General.title: one.data for one in (*maps, haadf)}
    if name.endswith(".h5"):
        with h5py.File(name, "w") as file:
            file.update(arrays)
    else:
        np.savez(name, **arrays)
    return maps, haadf


def listed(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def _no_pictures(monkeypatch):
    """Spare the time of drawing where nothing looks at the pictures."""
    monkeypatch.setattr(files, "draw", lambda *_: {"fusion.png": b"drawn elsewhere"})


def refuse(*_args, **_kwargs):
    raise AssertionError("this was done already")


@pytest.mark.usefixtures("_no_pictures")
def test_a_batch_with_a_bad_file_and_again_with_resume(tmp_path, capsys, monkeypatch):
    names = ["night1.npz", "night2.npz", "night3.npz", "night4.h5", "night5.npz"]
    for name in names:
        save_specimen(name)
    (tmp_path / "night6.npz").write_text("no arrays")
    arguments = ["fuse", "night*", *QUICK, "--output", "out"]
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if "error" in line]
    (error,) = errors
    assert error.startswith("hyperspy-fusion: error: cannot read night6.npz: night6.np")
    assert error.endswith("is no .npz file, as numpy.savez writes them, or is damaged")
    assert "[6/6] night6.npz: failed\n" in printed.out
    last = printed.out.splitlines()[-1]
    assert last == f"5 of 6 files fused, 1 failed: see {Path('out', 'index.html')}"
    out = tmp_path / "out"
    folders = [out / f"night{i}" for i in range(1, 6)]
    assert listed(out) == {"index.html", *(folder.name for folder in folders)}
    for folder in folders:
        assert listed(folder) >= RESULT
    index = (out / "index.html").read_text(encoding="utf-8")
    assert re.findall('href="([^"]*)"', index) == [
        f"night{i}/report.html" for i in range(1, 6)
    ]
    assert "<td>failed<td>cannot read night6.npz" in index

    times = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    with monkeypatch.context() as patch:
        patch.setattr(hyperspy_fusion, "fuse_published", refuse)
        assert cli.main([*arguments, "--resume"]) == 2
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*")} == times
    printed = capsys.readouterr().out
    assert printed.count("is there already") == 5
    assert printed.count(": fused, in an earlier run\n") == 5

    save_specimen("night6.npz")  # now it is well
    assert cli.main([*arguments, "--resume"]) == 0
    assert "6 of 6 files fused: see" in capsys.readouterr().out
    assert "night6/report.html" in (out / "index.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("_no_pictures")
def test_without_resume_nothing_is_replaced(capsys):
    save_specimen("a.npz")
    assert cli.main(["fuse", "a.npz", *QUICK]) == 0
    assert cli.main(["fuse", "a.npz", *QUICK]) == 2
    assert "the folder a-fused exists" in capsys.readouterr().err
    others = ["fuse", "a.npz", *QUICK, "--gamma", "1.5", "--resume"]
    assert cli.main(others) == 2
    message = "a-fused is the result of other settings (gamma): choose another"
    assert message in capsys.readouterr().err
    assert cli.main([*others, "--overwrite"]) == 0  # as the message says
    assert options.read(Path("a-fused", "run.toml"))["gamma"] == 1.5
    assert cli.main([*others, "--overwrite"]) == 0
    assert "a-fused is there already" in capsys.readouterr().out


def test_an_interrupted_process_does_not_begin_with_the_next_file(monkeypatch):
    begun = []

    def interrupt(_arguments, paths, _output):
        begun.extend(paths)
        batch._interrupt()

    monkeypatch.setattr(batch, "fuse_file", interrupt)
    monkeypatch.setattr(batch._Job, "stop", ctypes.c_bool())
    for path in ("a.npz", "b.npz"):
        with pytest.raises(KeyboardInterrupt):
            batch._apart(SimpleNamespace(), path, Path("out"))
    assert begun == ["a.npz"]
    batch._interrupt()  # what is not at work waits for its end


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C goes to a console there")
def test_ctrl_c_ends_all_jobs(tmp_path):
    for name in ("b.npz", "c.npz", "d.npz"):
        save_specimen(name)
    endless = ["--tolerance", "1e-15", "--max-iter", "1000000000"]
    endless += ["--lambda-tv", "4", "--lambda-haadf", "0.1"]
    arguments = ["fuse", "a.npz", "b.npz", "c.npz", "d.npz", *endless, "--jobs", "2"]
    program = (
        "import signal, sys; from hyperspy_fusion.cli import main;"
        # a test that runs in the background passes on that it is ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "sys.exit(main())"
    )
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group, to which a terminal sends Ctrl-C
    ) as running:
        try:
            line = running.stdout.readline()
            assert line == "[1/4] a.npz: failed\n"
            time.sleep(3)  # two others are fused by now
            os.killpg(running.pid, signal.SIGINT)
            printed, errors = running.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130
    last = errors.splitlines()[-1]
    assert last == "hyperspy-fusion: interrupted, go on with --resume"
    assert "Traceback" not in errors
    assert printed == ""
    assert listed(tmp_path / "fused") == {"index.html"}
    for _ in range(100):  # until no job is left, nor the tracker of their resources
        with suppress(ProcessLookupError):
            os.killpg(running.pid, 0)
            time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


WAITS = """
import signal
from hyperspy_fusion.cli import batch
signal.signal(signal.SIGINT, batch._interrupt)
print("ready", flush=True)
print("went on after", input())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C goes to a console there")
def test_interrupts_in_quick_succession():
    """A handler that waits for a lock would meet itself there."""
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", WAITS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout.readline() == "ready\n"
            for _ in range(5000):
                running.send_signal(signal.SIGINT)
            printed, _ = running.communicate("all\n", timeout=30)
        finally:
            running.kill()
    assert printed == "went on after all\n"


SWALLOWS_ONE = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.SIG_DFL))
print("ready", flush=True)
time.sleep(60)
"""


def test_an_interrupt_that_is_swallowed_is_repeated(monkeypatch):
    monkeypatch.setattr(batch, "_PATIENCE", 0.1)
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", SWALLOWS_ONE], stdout=subprocess.PIPE
    ) as running:
        running.stdout.readline()
        job = SimpleNamespace(
            pid=running.pid,
            sentinel=running.stdout,  # at its end when the process ends
            is_alive=lambda: running.poll() is None,
        )
        batch._end([job])
    assert running.returncode == -signal.SIGINT


def test_a_folder_for_many_that_cannot_be_made(capsys):
    save_specimen("a.npz")
    assert cli.main(["fuse", "a.npz", "b.npz", *QUICK, "--output", "x/y"]) == 2
    assert re.search(r"error: the folder .*x does not exist", capsys.readouterr().err)


def test_maps_in_files_of_their_own(tmp_path, capsys):
    maps, haadf, _ = hyperspy_fusion.data.core_shell(size=32)
    for name, one in zip(("Co", "Mn", "O", "HAADF"), (*maps, haadf), strict=True):
        one.save(f"{name}.tif")
    paths = ["Co.tif", "Mn.tif", "O.tif", "HAADF.tif"]
    assert cli.main(["fuse", *paths, *QUICK[:-2], "--output", "apart"]) == 2
    assert "give --together if they hold" in capsys.readouterr().err
    assert cli.main(["info", *paths, "--together"]) == 0
    assert "Would fuse Co, Mn, O with 'HAADF'" in capsys.readouterr().out
    given = [*paths, "--together", *QUICK[:-2]]
    assert cli.main(["fuse", *given, "--output", "out"]) == 0
    expected = hyperspy_fusion.fuse_published(maps, haadf, n_iter=2)
    for name, image in zip(("Co", "Mn", "O"), expected, strict=True):
        assert_array_equal(hs.load(tmp_path / f"out/{name}.tif").data, image.data)
    assert cli.main(["fuse", "--config", "out/run.toml", "--output", "again"]) == 0
    assert Path("again/Co.tif").exists()


@pytest.mark.usefixtures("_no_pictures")
def test_the_index_keeps_earlier_results(capsys):
    for name in ("a.npz", "b.npz"):
        save_specimen(name)
    given = ["fuse", "a.npz", "b.npz", "--method", "published", "--output", "out"]
    assert cli.main([*given, "--n-iter", "2"]) == 0
    assert cli.main([*given, "--n-iter", "3", "--resume"]) == 2
    assert "is the result of other settings" in capsys.readouterr().err
    index = Path("out/index.html").read_text(encoding="utf8")
    assert index.count("the result is that of an earlier run") == 2
    assert 'href="a/report.html"' in index


def test_jobs_give_the_same(tmp_path, capsys):
    for name in ("a.npz", "b.npz"):
        maps, haadf = save_specimen(name)
    arguments = ["fuse", "a.npz", "b.npz", "bad.npz", *QUICK, "--output", "out"]
    assert cli.main([*arguments, "--jobs", "2"]) == 2
    printed = capsys.readouterr()
    assert "error: there is no file bad.npz" in printed.err
    assert printed.out.count("Fused by the published method") == 2
    cobalt, _, oxygen = hyperspy_fusion.fuse_published(maps, haadf, n_iter=2)
    for name, expected in (("a/Co.tif", cobalt), ("b/O.tif", oxygen)):
        assert_array_equal(hs.load(tmp_path / "out" / name).data, expected.data)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_tracebacks_of_many(capsys, jobs):
    for name in ("a.npz", "b.npz"):
        save_specimen(name)
    Path("b.npz").write_bytes(b"PK")
    arguments = ["--traceback", "fuse", "b.npz", "a.npz", *QUICK, "--output", "out"]
    assert cli.main([*arguments, "--jobs", jobs]) == 2
    printed = capsys.readouterr()
    assert "Traceback (most recent call last)" in printed.out + printed.err
    assert "(--traceback shows where)" not in printed.err
    assert "a.npz: fused" in printed.out


@pytest.mark.usefixtures("_no_pictures")
def test_an_error_nobody_thought_of_does_not_end_the_night(capsys, monkeypatch):
    for name in ("a.npz", "b.npz"):
        save_specimen(name)
    write = batch.write

    def fail_once(output, *args, **kwargs):
        if output.name == "a":
            raise KeyError("lost")
        write(output, *args, **kwargs)

    monkeypatch.setattr(batch, "write", fail_once)
    assert cli.main(["fuse", "a.npz", "b.npz", *QUICK, "--output", "out"]) == 2
    printed = capsys.readouterr()
    assert "a.npz: KeyError: 'lost' (--traceback shows where)" in printed.err
    assert "[2/2] b.npz: fused" in printed.out


@pytest.mark.usefixtures("_no_pictures")
def test_files_of_one_name_have_folders_of_their_own(tmp_path, capsys):
    names = ["a.npz", "a.h5", "x/a.npz", "y/a.npz", "x/b.npz", "c.npz"]
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        save_specimen(name)
    assert cli.main(["fuse", *names[:2], *QUICK]) == 0
    out = tmp_path / "fused"
    assert listed(out) == {"a.npz", "a.h5", "index.html"}
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    # in another order, with more files, and one of them twice
    again = [*reversed(names), "./a.npz", str(tmp_path / "c.npz")]
    assert cli.main(["fuse", *again, *QUICK, "--resume"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("is there already") == 2
    assert "6 of 6 files fused: see" in printed
    new = {"x-a.npz", "y-a.npz", "b", "c"}
    assert listed(out) == {"a.npz", "a.h5", "index.html"} | new
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for folder in new | {"a.npz", "a.h5"}:
        (source,) = options.read(out / folder / "run.toml")["files"]
        expected = folder.replace("-", "/") + ".npz" * (folder in {"b", "c"})
        assert source == str(tmp_path / expected.replace("b.npz", "x/b.npz"))
    # alone, a file has no other folder than before
    assert cli.main(["fuse", "y/a.npz", "c.npz", *QUICK, "--resume"]) == 0
    assert capsys.readouterr().out.count("is there already") == 2


def test_folders_do_not_depend_on_the_order(tmp_path):
    paths = ["a.npz", "x/a.npz", "x/a.h5", "y/x/a.npz", "b.npz"]
    found = batch._outputs(tmp_path, paths)
    assert batch._outputs(tmp_path, paths[::-1]) == found
    assert len(set(found.values())) == len(paths)
    names = {path: folder.name for path, folder in found.items()}
    assert names["b.npz"] == "b"
    assert names["x/a.h5"] == "a.h5"
    assert re.fullmatch("a-[0-9a-f]{8}", names["x/a.npz"])


@pytest.mark.usefixtures("_no_pictures")
def test_what_does_not_change_the_result_is_no_other_setting(capsys):
    save_specimen("a.npz")
    assert cli.main(["fuse", "a.npz", *QUICK]) == 0
    again = ["fuse", "a.npz", *QUICK, "--resume", "--num-workers", "1", "--lazy"]
    assert cli.main(again) == 0
    assert "a-fused is there already" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    for name in ("a.npz", "b.npz"):
        save_specimen(name)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(hyperspy_fusion, "fuse_published", refuse)
    monkeypatch.setattr(files.os, "access", lambda path, _: path != tmp_path / "out")
    for given in (["a.npz", "--overwrite"], ["a.npz", "b.npz"]):
        assert cli.main(["fuse", *given, *QUICK, "--output", "out"]) == 2
        error = capsys.readouterr().err
        assert re.search(r"error: the folder .*out does not exist or cannot be", error)
    assert listed(tmp_path / "out") == set()


@pytest.mark.usefixtures("_no_pictures")
def test_a_folder_that_cannot_be_written_any_more(tmp_path, capsys, monkeypatch):
    for name in ("a.npz", "b.npz"):
        save_specimen(name)
    write = files.write

    def fail_once(output, *args):
        if output.name == "a":
            raise PermissionError(13, "Permission denied", str(output))
        return write(output, *args)

    monkeypatch.setattr(files, "write", fail_once)
    assert cli.main(["fuse", "a.npz", "b.npz", *QUICK, "--output", "out"]) == 2
    printed = capsys.readouterr()
    assert "a.npz: [Errno 13] Permission denied: " in printed.err
    assert "1 of 2 files fused, 1 failed" in printed.out
    assert listed(tmp_path / "out") == {"b", "index.html"}


def test_info_of_many_goes_on_after_a_bad_one(capsys):
    Path("a.npz").write_text("no arrays")
    save_specimen("b.npz")
    assert cli.main(["info", "a.npz", "b.npz"]) == 2
    printed = capsys.readouterr()
    assert "error: cannot read a.npz" in printed.err
    assert "Would fuse Co, Mn, O" in printed.out


# --- settings --------------------------------------------------------------------


@pytest.mark.usefixtures("_no_pictures")
def test_a_run_can_be_repeated_by_its_settings(tmp_path, capsys):
    save_specimen("a.npz")
    given = ["--elements", "O", "Co", "--gamma", "1.4", "--no-regularize"]
    assert cli.main(["fuse", "a.npz", *QUICK, *given]) == 0
    settings = tmp_path / "a-fused" / "run.toml"
    assert cli.main(["fuse", "--config", str(settings), "--output", "b"]) == 0
    for name in ("O.tif", "Co.tif"):
        one, two = (hs.load(tmp_path / folder / name) for folder in ("a-fused", "b"))
        assert_array_equal(one.data, two.data)
    record = hs.load(tmp_path / "b" / "Co.hspy").metadata.Multimodal_fusion
    assert (record.elements, record.gamma, record.regularize) == ("O,Co", 1.4, False)
    again = settings.read_text(encoding="utf-8"), (tmp_path / "b/run.toml").read_text()
    assert again[0].partition("[result]")[0] == again[1].partition("[result]")[0]
    capsys.readouterr()
    overruled = ["--config", str(settings), "--output", "c", "--gamma", "1.9"]
    assert cli.main(["fuse", *overruled]) == 0
    record = hs.load(tmp_path / "c" / "Co.hspy").metadata.Multimodal_fusion
    assert (record.elements, record.gamma) == ("O,Co", 1.9)


@pytest.mark.usefixtures("_no_pictures")
def test_options_that_are_0_or_off_come_before_settings(tmp_path):
    save_specimen("a.npz")
    settings = tmp_path / "settings.toml"
    settings.write_text('files = "a.npz"\nlambda-haadf = 0.5\ngamma = 1.4\n')
    given = ["--config", str(settings), "--lambda-haadf", "0", "--no-regularize"]
    assert cli.main(["fuse", *QUICK, *given]) == 0
    record = hs.load(tmp_path / "a-fused" / "Co.hspy").metadata.Multimodal_fusion
    found = record.lambda_haadf, record.regularize, record.gamma
    assert found == (0.0, False, 1.4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "lambda_tv = 1",
            "settings.toml has 'lambda_tv', which are no options (perhaps lambda-tv)",
        ),
        (
            "uncertanty = true",
            "settings.toml has 'uncertanty', which are no options (p",
        ),
        ("jobs = 2", "settings.toml has 'jobs', which are no options: expected files"),
        (
            'files = "a.npz"\n[calibrated]\nlambda-tv = 1',
            "settings.toml has 'calibrated', which are no options: expected files, and",
        ),
        (
            'files = "a.npz"\n[result]\nexit-code = 0\nlambda-tv = 30.0',
            "settings.toml has 'lambda-tv' below [result]: expected options above it",
        ),
        ("files = 3", "settings.toml has files = 3: expected names of files"),
        ("files = [", "cannot read settings.toml: "),
        (None, "cannot read settings.toml: No such file"),
    ],
)
def test_settings_that_cannot_be_read(tmp_path, capsys, text, message):
    if text is not None:
        (tmp_path / "settings.toml").write_text(text)
    assert cli.main(["fuse", "--config", "settings.toml"]) == 2
    assert capsys.readouterr().err.startswith(f"hyperspy-fusion: error: {message}")


def test_sensitivities_and_mask(tmp_path):
    maps, _ = save_specimen("a.npz", size=32)
    mask = np.zeros(maps[0].data.shape, dtype=np.uint8)
    brightest = np.argsort(maps[0].data, axis=None)[-2:]
    mask.flat[brightest] = 255
    hs.signals.Signal2D(mask).save("mask.tif")
    given = ["--sensitivities", "Co=1", "Mn=2", "O=0.5", "--mask", "mask.tif"]
    weights = ["--lambda-tv", "4", "--lambda-haadf", "0.1"]
    assert cli.main(["fuse", "a.npz", *given, *weights]) == 0
    record = hs.load(tmp_path / "a-fused" / "Co.hspy").metadata.Multimodal_fusion
    assert record.missing_pixels == 3 * 2
    page = (tmp_path / "a-fused" / "report.html").read_text(encoding="utf-8")
    assert "at.% measured" in page
    known = maps[0].data.sum(where=mask == 0)
    assert f"<td>Co<td class=number>{known:.5g}<" in page
    assert page.count("data:image/png;base64,") == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--frames", "first"], "--frames is 'first': expected a range such as 10:"),
        (["--sensitivities", "1.2"], "--sensitivities is '1.2': expected a number for"),
        (["--mask", "m.npy"], "--mask: there is no file m.npy"),
        (
            ["--integration-windows", "wide"],
            "--integration-windows is 'wide': expected energies with commas",
        ),
        (["--elements", "Fe"], "there is no map of 'Fe'"),
        (["--pixel-size", "-1"], "cannot read a.npz: --pixel-size is -1.0: expected"),
        (["--match", "shape"], "match is 'shape': expected None, 'axes' or 'pixels'"),
        (["--file-format", "EMD"], "cannot read a.npz: --file-format is given for a.n"),
        (["--jobs", "0"], "--jobs is 0: expected at least 1"),
        (["none*.emd"], "no file fits none*.emd"),
        (["."], ". is a folder: expected files, such as './*.emd'"),
    ],
)
def test_options_that_are_wrong(capsys, given, message):
    save_specimen("a.npz")
    assert cli.main(["fuse", "a.npz", *given]) == 2
    assert capsys.readouterr().err.startswith(f"hyperspy-fusion: error: {message}")


def test_an_option_that_is_none(capsys):
    with pytest.raises(SystemExit):
        cli.main(["fuse", "a.npz", "--lamda-tv=3"])
    message = "unrecognized arguments: --lamda-tv=3, did you mean --lambda-tv?\n"
    assert capsys.readouterr().err.endswith(message)


def test_a_mask_is_one_image(capsys):
    maps, _ = save_specimen("a.npz")
    hs.signals.Signal2D(np.stack([m.data for m in maps])).save("series.hspy")
    with h5py.File("two.hspy", "w") as two, h5py.File("series.hspy") as one:
        two.attrs.update(one.attrs)
        for name in ("one", "two"):
            one.copy("Experiments/__unnamed__", two, f"Experiments/{name}")
    assert cli.main(["fuse", "a.npz", "--mask", "two.hspy"]) == 2
    message = "--mask: two.hspy holds 2 signals: expected one image"
    assert message in capsys.readouterr().err


def test_values_of_options():
    assert options.frames_of("10:") == slice(10, None)
    assert options.frames_of(":20:2") == slice(None, 20, 2)
    assert options.frames_of("0,-1") == [0, -1]
    arguments = SimpleNamespace(
        maps=None,
        elements=None,
        lines=["Fe_Ka", "Cu_Ka"],
        haadf=None,
        elastic=None,
        background_windows=["5,5.5,7,7.5", "7,7.5,9,9.5"],
        integration_windows=["2.5"],
    )
    given = options.for_loading(arguments)
    assert given["background_windows"] == [[5, 5.5, 7, 7.5], [7, 7.5, 9, 9.5]]
    assert given["integration_windows"] == 2.5
    arguments.background_windows = ["auto"]
    assert options.for_loading(arguments)["background_windows"] == "auto"


# --- what is said ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "spoken"),
    [
        ('call with match="axes", which', "call with --match axes, which"),
        (
            "name them with elements=['Fe', ...], or",
            "name them with --elements Fe ..., or",
        ),
        ("name one with haadf=. Candidates", "name one with --haadf. Candidates"),
        (
            "raise max_iter, or loosen tolerance",
            "raise --max-iter, or loosen tolerance",
        ),
        ("as lock_flux=False asks for", "as --no-lock-flux asks for"),
        ("lambda_tv=0.7 was chosen, the", "--lambda-tv 0.7 was chosen, the"),
        ("be kept: lock_flux is not used", "be kept: lock_flux is not used"),
        ("file.toml has 'lambda_tv', which", "file.toml has 'lambda_tv', which"),
        ("the background of the lines", "the background of the lines"),
        ("with lambda_haadf=0.", "with --lambda-haadf 0."),
    ],
)
def test_messages_speak_of_options(message, spoken):
    assert options.for_shell(message) == spoken


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"tolerance": 1e-3, "converged": True, "flagged": 0.0}, 0),
        ({"tolerance": 1e-3, "converged": True, "flagged": 0.2}, 3),
        ({"tolerance": 1e-3, "converged": True, "flagged": np.array([0, 1.0])}, 3),
        ({"tolerance": 1e-3, "converged": False, "flagged": 0.2}, 4),
        ({"converged": False}, 0),  # published, without a tolerance
    ],
)
def test_exit_status(record, code):
    signal = hs.signals.Signal2D(np.zeros((2, 2)))
    signal.metadata.add_dictionary({"record": record})
    assert batch._code_of(signal.metadata.record) == code


def test_exit_status_of_an_image_that_contradicts_the_maps(capsys):
    """Half of the particles are in the image only."""
    maps, haadf, _ = hyperspy_fusion.data.core_shell(64)
    arrays = {one.metadata.General.title: one.data.copy() for one in maps}
    for array in arrays.values():
        array[:, 32:] = 0
    np.savez("a.npz", HAADF=haadf.data, **arrays)
    assert cli.main(["fuse", "a.npz"]) == 3
    printed = capsys.readouterr()
    assert "the HAADF image contradicts the maps" in printed.err
    assert "differ in fusion.png" in printed.out
    assert cli.main(["fuse", "a.npz", "--resume"]) == 3
