"""Spectra that are fused as they are, from the command line."""

import hyperspy.api as hs
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hyperspy_fusion import cli, data, fuse_spectra

FILE = ["spectra.hspy", "--maps", "spectra", "--haadf", "haadf.hspy"]
NAMED = ["--elements", "Ba", "Ti", "O", "--other-elements", "Cu"]
GIVEN = ["--lambda-tv", "4", "--lambda-haadf", "0.1"]


@pytest.fixture(autouse=True)
def specimen(tmp_path, monkeypatch):
    """A lattice whose Ba L and Ti K lines overlap, on a copper grid, in two files."""
    monkeypatch.chdir(tmp_path)
    _, haadf, truth = data.lattice(32, counts=6)
    grid = truth[0].deepcopy()
    grid.data = np.full_like(grid.data, 0.2)
    lines = ["Ba_La", "Ti_Ka", "O_Ka", "Cu_Ka"]
    spectra = data.xray_spectra([*truth, grid], lines, continuum=0.1)
    spectra.save("spectra.hspy")
    haadf.save("haadf.hspy")
    return spectra, haadf


def test_maps_report_and_a_second_run(specimen, tmp_path, capsys):
    spectra, haadf = specimen
    assert cli.main(["fuse", *FILE, *NAMED, *GIVEN, "--output", "one"]) == 0
    expected = fuse_spectra(
        spectra, haadf, ["Ba", "Ti", "O"], "Cu", lambda_tv=4, lambda_haadf=0.1
    )
    for signal in expected:
        name = signal.metadata.Sample.elements[0]
        assert_array_equal(hs.load(tmp_path / f"one/{name}.hspy").data, signal.data)
    printed = capsys.readouterr().out
    assert "Measured are windows of the lines" in printed
    page = (tmp_path / "one/report.html").read_text(encoding="utf-8")
    assert "measured of windows, with the background and other" in page
    assert "components of the spectra, from 0.2" in page
    again = ["fuse", "--config", "one/run.toml", "--output", "two", "--lazy"]
    assert cli.main(again) == 0
    one, two = (hs.load(tmp_path / f"{k}/Ti.hspy").data for k in ("one", "two"))
    assert_allclose(two, one, rtol=1e-5)


def test_a_further_image(tmp_path):
    _, _, truth = data.lattice(32, counts=6)
    data.elastic_image(truth, "phase").save("phase.hspy")
    more = ["--elastic", "phase.hspy", "--lambda-elastic", "0.3"]
    assert cli.main(["fuse", *FILE, *NAMED, *GIVEN, *more, "--output", "one"]) == 0
    record = hs.load(tmp_path / "one/Ti.hspy").metadata.Multimodal_fusion
    assert record.elastic == "phase"
    assert record.lambda_elastic == [0.3]


def test_shared_counts():
    assert cli.main(["fuse", *FILE, *NAMED, *GIVEN, "--share", "--output", "one"]) == 0
    record = hs.load("one/Ti.hspy").metadata.Multimodal_fusion
    assert record.share
    assert np.isfinite(record.sharing_gain[0])


def test_what_the_sum_spectrum_says_first(capsys):
    assert cli.main(["info", *FILE, *NAMED, "--energy-range", "0.3,12"]) == 0
    printed = capsys.readouterr().out
    assert "Would fuse the spectra of Ba, Ti, O with 'HAADF' (32 x 32" in printed
    assert "counts from 0.3 to 12 keV, chi2 of its fit" in printed
    assert "warning" not in printed
    assert cli.main(["info", *FILE, *NAMED[:-2]]) == 0
    printed = capsys.readouterr().out
    assert "warning: the sum spectrum has a peak at 8.0" in printed
    assert "perhaps Cu_Ka" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tile-size", "64"], "--maps spectra has no option --tile-size"),
        (["--method", "published"], "--maps is spectra for the published method"),
        (["--energy-range", "3"], "expected two energies in keV, as 0.3,20"),
        (["--maps", "windows", *NAMED[-2:]], "has no option --other-elements"),
        (["--maps", "all"], "expected None or one of spectra, windows"),
        (["--other-elements", "Ba"], "Ba is named twice"),
    ],
)
def test_options_that_do_not_go_together(arguments, message, capsys):
    assert cli.main(["fuse", *FILE, *NAMED[:4], *arguments]) == 2
    assert message in capsys.readouterr().err


def test_elements_of_the_file_but_the_others(specimen, tmp_path):
    spectra, _ = specimen
    spectra.set_elements(["Ba", "Ti", "O", "Cu"])
    spectra.save("spectra.hspy", overwrite=True)
    given = [*FILE, *NAMED[-2:], *GIVEN, "--output", "one"]
    assert cli.main(["fuse", *given]) == 0
    names = {path.stem for path in (tmp_path / "one").glob("*.hspy")}
    assert names == {"Ba", "Ti", "O", "cost_history"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--elastic", "flat.hspy"], "the elastic image flat is constant (1.0)"),
        (["--elastic", "small.hspy"], "32 x 32 pixels and the elastic image flat 8 x"),
        (["--haadf", "small.hspy"], "the HAADF image 8 x 32 (y, x)"),
        (["--other-elements", "Ba"], "Ba is named twice"),
    ],
)
def test_what_would_be_refused_is_told_first(arguments, message, specimen, capsys):
    _, haadf = specimen
    flat = haadf.deepcopy()
    flat.data = np.ones((32, 32))
    flat.metadata.General.title = "flat"
    flat.save("flat.hspy")
    flat.isig[:, :8].save("small.hspy")
    assert cli.main(["info", *FILE, *NAMED[:4], *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Would be refused: ")
    assert message in printed


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("energy-range = [0.3, 12]", "[0.3, 12]: expected a text or a number, as on"),
        ("share = 'yes'", "share = 'yes': expected true or false"),
        ("uncertainty = [true]", "[True]: expected true or false"),
        ("no-lock-flux = 1", "no-lock-flux = 1: expected true or false"),
        ("seed = true", "seed = True: expected a text or a number"),
        ("elements = ['Ba', ['Ti']]", "expected a text or a number, or a list of the"),
        ("elastic = {phase = 'a.hspy'}", "or a list of these"),
        ("lambda-elastic = {phase = 1}", "or a list of these"),
    ],
)
def test_values_of_settings_that_cannot_be(line, message, tmp_path, capsys):
    (tmp_path / "run.toml").write_text(line, encoding="utf-8")
    assert cli.main(["fuse", *FILE, *NAMED, "--config", "run.toml"]) == 2
    printed = capsys.readouterr().err
    assert f"run.toml has {line.partition(' ')[0]} = " in printed
    assert message in printed


def test_empty_lists_in_settings_are_not_given(tmp_path):
    (tmp_path / "run.toml").write_text("elastic = []", encoding="utf-8")
    given = [*FILE, *NAMED, *GIVEN, "--config", "run.toml", "--output", "one"]
    assert cli.main(["fuse", *given]) == 0


def test_metadata_that_hold_anything(specimen):
    """Windows are summed for the pictures, too."""
    spectra, _ = specimen
    spectra.metadata.set_item("Acquisition_instrument.TEM.beam_energy", "x")
    spectra.save("spectra.hspy", overwrite=True)
    assert cli.main(["fuse", *FILE, *NAMED, *GIVEN, "--output", "one"]) == 0
