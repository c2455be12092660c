"""The command line as its user meets it: what is printed, what is written."""

import importlib.metadata
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGINT, default_int_handler, raise_signal
from signal import signal as handle

import exspy
import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import hyperspy_fusion
from hyperspy_fusion import ElementalMap, cli, fuse_multimodal, load_multimodal
from hyperspy_fusion.cli import files as output_files
from hyperspy_fusion.cli.assumed import lines_about
from hyperspy_fusion.cli.options import for_shell

FILES = [
    "Co.hspy",
    "Co.tif",
    "Mn.hspy",
    "Mn.tif",
    "O.hspy",
    "O.tif",
    "convergence.png",
    "cost_history.hspy",
    "fusion.png",
    "report.html",
    "weights.png",
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files():
    """Write an EDS spectrum image and the HAADF image of its pixels."""
    rng = np.random.default_rng(0)
    axes = [
        {"name": name, "size": 16, "scale": 0.5, "units": "nm", "navigate": True}
        for name in ("y", "x")
    ]
    energy = {"name": "Energy", "size": 1024, "scale": 0.01, "units": "keV"}
    spectra = exspy.signals.EDSTEMSpectrum(
        rng.poisson(0.1, (16, 16, 1024)), axes=[*axes, {**energy, "navigate": False}]
    )
    spectra.set_microscope_parameters(beam_energy=200)
    spectra.set_elements(["Fe", "Cu"])
    spectra.save("spectra.hspy")
    haadf = hs.signals.Signal2D(
        rng.random((16, 16)), axes=[{**axis, "navigate": False} for axis in axes]
    )
    haadf.metadata.General.title = "HAADF"
    haadf.save("haadf.hspy")


def written(folder):
    return sorted(path.name for path in folder.iterdir())


class TestDemo:
    def test_writes_and_prints_what_it_found(self, tmp_path, capsys):
        assert cli.main(["demo", "--size", "64"]) == 0
        assert written(tmp_path) == ["hyperspy-fusion-demo"]
        assert written(tmp_path / "hyperspy-fusion-demo") == FILES
        printed = capsys.readouterr()
        assert printed.err == ""
        *_, header, cobalt, manganese, oxygen, last = printed.out.splitlines()
        titles = ["element", "error measured", "fused", "counts measured", "fused"]
        assert header.split() == " ".join(titles).split()
        rows = [row.split() for row in (cobalt, manganese, oxygen)]
        assert [row[0] for row in rows] == ["Co", "Mn", "O"]
        specimen = hyperspy_fusion.data.core_shell(64)
        measured = [
            np.linalg.norm(a.data - b.data) / np.linalg.norm(b.data)
            for a, b in zip(specimen.maps, specimen.truth, strict=True)
        ]
        assert_allclose([float(row[1]) for row in rows], measured, atol=6e-4)
        assert all(float(row[2]) < 0.4 * float(row[1]) for row in rows)
        background = 0.02 * 64**2  # found in the vacuum, and subtracted
        for row, signal in zip(rows, specimen.maps, strict=True):
            counts = signal.data.sum()
            assert row[3] == f"{counts:.0f}"
            assert_allclose(float(row[4]), counts - background, atol=30)
        assert last.startswith("Wrote to hyperspy-fusion-demo: Co.hspy, Co.tif, Mn.")

    def test_files_hold_the_fused_maps(self, tmp_path):
        cli.main(["demo", "--size", "32", "--output", "out"])
        maps, haadf, _ = hyperspy_fusion.data.core_shell(32)
        for expected in fuse_multimodal(maps, haadf):
            name = expected.metadata.General.title
            saved = hs.load(tmp_path / "out" / f"{name}.hspy")
            picture = hs.load(tmp_path / "out" / f"{name}.tif")
            assert type(saved) is ElementalMap
            assert saved.metadata.Multimodal_fusion.elements == "Co,Mn,O"
            for signal in (saved, picture):
                assert_array_equal(signal.data, expected.data)
                for axis in signal.axes_manager.signal_axes:
                    assert (axis.scale, axis.offset, axis.units) == (2, 0, "nm")
        history = hs.load(tmp_path / "out" / "cost_history.hspy")
        assert_array_equal(history.data, expected.get_cost_history().data)

    def test_refuses_a_folder_that_exists(self, tmp_path, capsys):
        (tmp_path / "out").mkdir()
        assert cli.main(["demo", "--size", "32", "--output", "out"]) == 2
        assert written(tmp_path / "out") == []
        message = capsys.readouterr().err
        assert message.startswith("hyperspy-fusion: error: the folder out exists:")
        assert "--overwrite" in message
        assert message.count("\n") == 1

    def test_overwrites_its_own_files_alone(self, tmp_path):
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
        (folder / "Co.tif").write_text("old")
        arguments = ["demo", "--size", "32", "--output", "out/", "--overwrite"]
        assert cli.main(arguments) == 0
        assert written(folder) == sorted([*FILES, "notes.txt"])
        assert (folder / "notes.txt").read_text() == "mine"
        assert hs.load(folder / "Co.tif").data.shape == (32, 32)
        assert written(tmp_path) == ["out"]

    @pytest.mark.parametrize("output", ["file", "file/out", "nowhere/out"])
    def test_refuses_what_cannot_be_a_folder(self, tmp_path, capsys, output):
        (tmp_path / "file").write_text("")
        assert cli.main(["demo", "--output", output, "--overwrite"]) == 2
        assert "choose another --output" in capsys.readouterr().err

    def test_only_the_folder_itself_has_to_be_written(self, tmp_path, monkeypatch):
        folder = tmp_path / "out"
        folder.mkdir()
        monkeypatch.setattr(
            output_files.os, "access", lambda path, _: Path(path) == folder
        )
        arguments = ["demo", "--size", "16", "--output"]
        assert cli.main([*arguments, "out", "--overwrite"]) == 0
        assert written(folder) == FILES
        assert cli.main([*arguments, "new"]) == 2
        assert written(tmp_path) == ["out"]

    @pytest.mark.parametrize(
        ("interruption", "status"),
        [(OSError("no space left"), 2), (KeyboardInterrupt, 130)],
    )
    def test_leaves_nothing_when_it_fails(
        self, tmp_path, monkeypatch, capsys, interruption, status
    ):
        def fail(_fused):
            raise interruption

        monkeypatch.setattr(hyperspy_fusion, "plot_convergence", fail)
        assert cli.main(["demo", "--size", "32"]) == status
        assert written(tmp_path) == []
        assert capsys.readouterr().err.startswith("hyperspy-fusion: ")

    def test_says_that_it_is_complete_when_interrupted_then(
        self, tmp_path, monkeypatch, capsys
    ):
        def late(*arguments):
            names = write(*arguments)
            assert names
            raise KeyboardInterrupt

        write = output_files.write
        monkeypatch.setattr(output_files, "write", late)
        assert cli.main(["demo", "--size", "16", "--output", "out"]) == 130
        assert written(tmp_path / "out") == FILES
        error = capsys.readouterr().err
        assert error == "hyperspy-fusion: interrupted, out is complete\n"


@pytest.mark.usefixtures("files")
class TestFuse:
    def test_spectra_and_an_image_in_another_file(self, tmp_path, capsys):
        arguments = ["fuse", "spectra.hspy", "--haadf", "haadf.hspy"]
        options = ["--lines", "Cu_Ka", "Fe_Ka", "--n-iter", "4", "--lambda-tv", "0.05"]
        assert cli.main([*arguments, *options, "--method", "published"]) == 0
        folder = tmp_path / "spectra-fused"
        assert {"Cu.hspy", "Cu.tif", "Fe.hspy", "fusion.png"} < set(written(folder))
        record = hs.load(folder / "Fe.hspy").metadata.Multimodal_fusion
        assert record.elements == "Cu,Fe"
        assert (record.method, record.n_iter, record.lambda_tv) == (
            "published",
            4,
            0.05,
        )
        printed = capsys.readouterr().out
        assert f"\n{for_shell(record.summary)}\n" in printed
        assert "The maps of Cu, Fe were fused by the published method." in printed
        assert printed.startswith("Cu, Fe with 'HAADF' (16 x 16, 0.5 nm/px)\n")
        assert "weights.png" not in printed

    @pytest.mark.parametrize("method", ["calibrated", "published"])
    def test_match(self, tmp_path, capsys, method):
        haadf = hs.load("haadf.hspy")
        haadf.isig[2:].save("part.hspy")
        arguments = ["fuse", "spectra.hspy", "--haadf", "part.hspy", "--method", method]
        assert cli.main(arguments) == 2
        message = capsys.readouterr().err
        assert "or call with --match axes, which" in message
        assert "match=" not in message
        loose = ["--tolerance", "0.1"]  # the gap of noise closes slowly
        assert cli.main([*arguments, "--match", "axes", *loose]) == 0
        assert "The maps were cropped to .isig[2:16, 0:16]" in capsys.readouterr().out
        fused = hs.load(tmp_path / "spectra-fused" / "Fe.hspy")
        assert fused.data.shape == (16, 14)

    def test_options_of_the_calibrated_method(self, tmp_path, capsys):
        arguments = ["fuse", "spectra.hspy", "--haadf", "haadf.hspy", "--output", "out"]
        options = {
            "--lambda-tv": "auto",
            "--lambda-haadf": "0.05",
            "--gamma": "1.6",
            "--max-iter": "50",
            "--seed": "3",
            "--regularizer": "tv",
            "--tolerance": "1e-6",
        }
        given = [word for pair in options.items() for word in pair]
        assert cli.main([*arguments, *given]) == 4
        assert "weights.png" in written(tmp_path / "out")
        record = hs.load(tmp_path / "out" / "Fe.hspy").metadata.Multimodal_fusion
        expected = {
            "method": "calibrated",
            "lambda_haadf": 0.05,
            "gamma": 1.6,
            "n_iter": 50,
            "seed": 3,
            "regularizer": "tv",
            "tolerance": 1e-6,
        }
        assert {name: record[name] for name in expected} == expected
        assert "raise --max-iter" in capsys.readouterr().out

    def test_uncertainty_is_saved_with_the_maps(self, tmp_path):
        arguments = ["fuse", "spectra.hspy", "--haadf", "haadf.hspy", "--output", "out"]
        weights = ["--lambda-tv", "4", "--lambda-haadf", "0"]
        assert cli.main([*arguments, *weights, "--uncertainty"]) == 0
        variance = hs.load(tmp_path / "out" / "Fe.hspy").get_noise_variance()
        assert variance.data.shape == (16, 16)
        assert variance.data.min() > 0

    @pytest.mark.parametrize(
        "options",
        [["--n-iter", "4"], ["--method", "published", "--max-iter", "100"]],
    )
    def test_options_of_the_other_method(self, capsys, options):
        arguments = ["fuse", "spectra.hspy", "--haadf", "haadf.hspy"]
        assert cli.main([*arguments, *options]) == 2
        message = capsys.readouterr().err
        assert "method has no option " in message
        assert message.count("\n") == 1

    def test_lazy_gives_the_same(self, tmp_path):
        arguments = ["fuse", "spectra.hspy", "--haadf", "haadf.hspy", "--output"]
        assert cli.main([*arguments, "eager"]) == 0
        assert cli.main([*arguments, "lazy", "--lazy"]) == 0
        for name in ("Fe.tif", "Cu.tif"):
            eager, lazy = (hs.load(tmp_path / f / name) for f in ("eager", "lazy"))
            assert_array_equal(eager.data, lazy.data)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nothing.emd"], "there is no file nothing.emd"),
            (["broken.emd"], "cannot read broken.emd: "),
            (["spectra.hspy"], "there is no HAADF image in the source"),
            (
                ["spectra.hspy", "--haadf", "haadf.hspy", "--elements", "Xx"],
                "'Xx' is not the symbol of an element",
            ),
            (
                ["spectra.hspy", "--haadf", "haadf.hspy", "--method", "magic"],
                "method is 'magic'",
            ),
            (
                ["spectra.hspy", "--haadf", "haadf.hspy", "--gamma", "-1"],
                "gamma is -1.0: expected",
            ),
        ],
    )
    def test_errors_are_messages(self, tmp_path, capsys, arguments, message):
        (tmp_path / "broken.emd").write_text("not an emd file")
        before = written(tmp_path)
        assert cli.main(["fuse", *arguments]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith(f"hyperspy-fusion: error: {message}")
        assert "Traceback" not in printed
        assert written(tmp_path) == before

    @pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT to send")
    def test_interrupt_stops_at_once_and_leaves_nothing(self, tmp_path):
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        program = (
            "import signal, sys, hyperspy_fusion.cli;"
            # a test that runs in the background passes on that it is ignored
            "signal.signal(signal.SIGINT, signal.default_int_handler);"
            "sys.exit(hyperspy_fusion.cli.main())"
        )
        arguments = ["fuse", "spectra.hspy", "--haadf", "haadf.hspy"]
        weights = ["--lambda-tv", "4", "--lambda-haadf", "0.1"]
        endless = ["--tolerance", "1e-15", "--max-iter", "1000000000"]
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-uc", program, *arguments, *weights, *endless],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout.readline().startswith("Fe, Cu with 'HAADF'")
            time.sleep(0.5)  # it fuses by now
            process.send_signal(SIGINT)
            printed, message = process.communicate(timeout=20)
        finally:
            process.kill()
        assert process.returncode == 130
        assert printed == ""
        assert message == "hyperspy-fusion: interrupted, nothing was written\n"
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert after == before

    @pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT to send")
    def test_interrupt_between_two_files_waits(self, tmp_path, monkeypatch, capsys):
        rename, before = type(tmp_path).rename, handle(SIGINT, default_int_handler)

        def interrupted(path, target):
            raise_signal(SIGINT)
            return rename(path, target)

        (tmp_path / "out").mkdir()
        monkeypatch.setattr(type(tmp_path), "rename", interrupted)
        arguments = ["fuse", "spectra.hspy", "--haadf", "haadf.hspy"]
        options = ["--method", "published", "--output", "out", "--overwrite"]
        try:
            assert cli.main([*arguments, *options]) == 130
        finally:
            handle(SIGINT, before)
        message = capsys.readouterr().err.splitlines()[-1]
        assert message == "hyperspy-fusion: interrupted, out is complete"
        assert {"Cu.hspy", "Fe.tif", "fusion.png"} < set(written(tmp_path / "out"))

    def test_traceback_on_demand(self):
        with pytest.raises(FileNotFoundError, match=r"no file nothing\.emd"):
            cli.main(["--traceback", "fuse", "nothing.emd"])

    def test_velox(self, real_data, capsys):
        path = str(real_data("velox_EELS_EDS.emd"))
        assert cli.main(["fuse", path, "--elements", "Fe-EELS", "Co-EELS"]) == 3
        printed = capsys.readouterr()
        said = printed.out.replace(
            "\u03bc", "\u00b5"
        )  # pint 0.26 writes the Greek letter
        assert said.startswith("Fe, Co with 'DF-S' (20 x 16, 0.1587 µm/px)\n")
        assert printed.err.startswith("hyperspy-fusion: warning: the map of Fe is not")
        assert ".py:" not in printed.err


@pytest.mark.usefixtures("files")
class TestInfo:
    def test_what_would_be_fused(self, capsys):
        arguments = ["info", "spectra.hspy", "--elements", "Fe", "Cu"]
        assert cli.main([*arguments, "--haadf", "haadf.hspy"]) == 0
        printed = capsys.readouterr().out
        assert "spectrum images:\n  EDS: " in printed
        expected = "\nWould fuse Fe, Cu with 'HAADF' (16 x 16, 0.5 nm/px)\n"
        assert printed.count(expected) == 1
        _, _, assumed = printed.partition(expected)
        maps, *_ = load_multimodal("spectra.hspy", ["Fe", "Cu"], haadf="haadf.hspy")
        means = [signal.data.mean() for signal in maps]
        mean = f"{means[0]:.3g} + {means[1]:.3g} = {sum(means):.3g} counts"
        values, filters, *_ = assumed.splitlines()
        assert values == f"  values: counts; the mean of a pixel is {mean}"
        assert filters == "  filters: none found"
        assert "background: not known, assumed to be that of the vacuum" in assumed

    def test_a_stack_is_taken_apart(self, tmp_path, capsys):
        maps, haadf, _ = hyperspy_fusion.data.core_shell(16)
        hs.stack(maps, show_progressbar=False).save(tmp_path / "stack.hspy")
        haadf.save(tmp_path / "image.hspy")
        assert cli.main(["info", "stack.hspy", "--haadf", "image.hspy"]) == 0
        printed = capsys.readouterr().out
        assert "maps:\n  Co: 'Co' (16 x 16, 4 nm/px)\n  Mn: 'Mn'" in printed
        assert "\nWould fuse Co, Mn, O with 'HAADF' (16 x 16" in printed

    def test_why_it_would_be_refused(self, capsys):
        assert cli.main(["info", "haadf.hspy"]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("Would be refused: no spectrum image can be mapped")
        assert "HAADF candidates:\n  'HAADF'" in printed

    def test_pixels_that_do_not_match(self, capsys):
        haadf = hs.load("haadf.hspy")
        for axis in haadf.axes_manager.signal_axes:
            axis.scale = 0.7
        haadf.save("larger.hspy")
        arguments = ["info", "spectra.hspy", "--elements", "Fe"]
        assert cli.main([*arguments, "--haadf", "larger.hspy"]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("Would be refused: the map of Fe has pixels of 0.5 nm")
        matched = [*arguments, "--haadf", "larger.hspy", "--match", "axes"]
        assert cli.main(matched) == 0
        assert "Would fuse Fe with 'HAADF'" in capsys.readouterr().out

    def test_brackets_in_the_name_are_no_pattern(self, tmp_path, capsys):
        maps, haadf, _ = hyperspy_fusion.data.core_shell(16)
        for name in ("scan[1]", "scan1"):
            (tmp_path / f"{name}.hspy").write_text("no file")
        haadf.save(tmp_path / "haadf[1].hspy")
        maps[0].save(tmp_path / "scan[1].hspy", overwrite=True)
        arguments = ["info", "scan[1].hspy", "--haadf", "haadf[1].hspy"]
        assert cli.main(arguments) == 0
        assert "Would fuse Co with" in capsys.readouterr().out

    def test_unreadable_file(self, capsys):
        assert cli.main(["info", "nothing.emd"]) == 2
        assert "there is no file nothing.emd" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"hyperspy-fusion {hyperspy_fusion.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fuse"],
        ["demo", "--size", "large"],
        ["fuse", "x.emd", "--lambda-tv", "little"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: hyperspy-fusion")


def test_entry_point():
    (entry,) = importlib.metadata.entry_points(
        group="console_scripts", name="hyperspy-fusion"
    )
    assert entry.load() is cli.main


class TestElastic:
    @pytest.fixture
    def file(self):
        maps, haadf, truth = hyperspy_fusion.data.lattice(size=32)
        phase = hyperspy_fusion.data.elastic_image(truth, "phase")
        phase.save("ptycho.hspy")
        arrays = {signal.metadata.General.title: signal.data for signal in maps}
        np.savez("scan.npz", HAADF=haadf.data, **arrays)
        return "scan.npz"

    def test_another_file(self, file, capsys):
        argv = ["fuse", file, "--elastic", "ptycho.hspy", "--lambda-tv", "3"]
        assert cli.main([*argv, "--lambda-haadf", "0.1", "--pixel-size", "0.025"]) == 0
        printed = capsys.readouterr().out
        assert "The image phase was used; its weight" in printed
        config = Path("scan-fused/run.toml").read_text(encoding="utf-8")
        assert f'elastic = ["{Path("ptycho.hspy").resolve()}"]' in config
        again = ["fuse", "--config", "scan-fused/run.toml", "--output", "again"]
        assert cli.main(again) == 0
        assert (
            Path("again/fusion.png").stat().st_size
            == Path("scan-fused/fusion.png").stat().st_size
        )

    def test_published_method_has_none(self, file, capsys):
        argv = ["fuse", file, "--elastic", "ptycho.hspy", "--method", "published"]
        assert cli.main(argv) == 2
        assert "--elastic was given for the published method" in capsys.readouterr().err

    def test_info_lists_what_could_serve(self):
        maps, haadf, truth = hyperspy_fusion.data.lattice(size=32)
        kinds = "phase", "bf"
        images = [hyperspy_fusion.data.elastic_image(truth, kind) for kind in kinds]
        signals = [*maps, haadf, *images]
        *lines, last = lines_about(signals, load_multimodal(signals, elastic="bf"))
        assert any("with 'HAADF' (32" in line and "'bf' (32" in line for line in lines)
        expected = "  other images of the same pixels, for --elastic ...: phase"
        assert for_shell(last) == expected
        used = load_multimodal(signals, elastic=list(kinds))
        assert "other images" not in "".join(lines_about(signals, used))
