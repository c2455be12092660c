"""What the documentation tells to type runs as it stands."""

import ast
import re
import shutil
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose

from hyperspy_fusion.inputs.images import as_images

DOCS = Path(__file__).parents[1] / "docs"

if not DOCS.is_dir():
    pytest.skip(f"there is no {DOCS}", allow_module_level=True)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def blocks(page):
    """Code in Python on a page, block by block."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(
        r"```(?:python|\{eval-rst\}\n.. plot::)\n(.*?)```", text, re.DOTALL
    )
    return [textwrap.dedent(code) for code in found]


def run(code, names=None):
    """Run code as if it was pasted into a session, and return the names it leaves."""
    names = {} if names is None else names
    exec(compile(code, "pasted", "exec"), names)  # noqa: S102
    return names


def test_ten_lines_of_the_first_page(capsys):
    first, summary, *_ = blocks("getting_started.md")
    assert len(ast.parse(first).body) <= 12  # three of them imports
    found = run(first)
    assert len(plt.get_fignums()) == 2
    percent = (found["atoms"] / found["total"] * 100).data
    known = np.isfinite(found["total"].data)
    assert 0.2 < known.mean() < 0.4  # of the field are particles
    assert_allclose(percent.sum(axis=0)[known], 100, rtol=1e-5)
    # Co3O4 in Mn3O4: four of seven atoms are oxygen everywhere
    assert_allclose(percent[2][known].mean(), 400 / 7, atol=1)
    run(summary, found)
    assert "There was no warning." in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:the maps C, O, Ca, Cu were filtered by Velox")
@pytest.mark.filterwarnings("ignore:X-ray lines overlap")
@pytest.mark.filterwarnings(  # it has 200 counts
    "ignore:the HAADF image was not used",
    "ignore:lambda_tv",
)
def test_the_same_for_a_velox_file(real_data, tmp_path, monkeypatch):
    shutil.copy(real_data("velox_EDS_SI_16x16.emd"), tmp_path / "specimen.emd")
    monkeypatch.chdir(tmp_path)
    *_, lines, saved = blocks("getting_started.md")
    found = run(lines)
    assert len(plt.get_fignums()) == 2
    run(saved, found)
    assert {path.stem for path in tmp_path.glob("*.hspy")} == {"C", "O", "Ca", "Cu"}


# --- the chains of the gallery --------------------------------------------------


def run_chain(name):
    """Run an example of the gallery and return the names it leaves."""
    path = DOCS / "examples" / "chains" / f"{name}.py"
    return run(path.read_text(encoding="utf-8"))


def error(images, truth):
    """Relative error of all maps together."""
    images, truth = (np.stack([s.data for s in signals]) for signals in (images, truth))
    return np.linalg.norm(images - truth) / np.linalg.norm(truth)


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of eXSpy
def test_quantification_of_fused_maps_is_that_of_measured_ones():
    found = run_chain("plot_quantification")
    true = [image.data.sum() for image in found["specimen"].truth]
    atoms = np.divide(true, found["cross_sections"])
    for method in ("CL", "zeta", "cross_section"):
        measured, fused = (
            found["mean"][method, name] for name in ("measured", "fused")
        )
        assert_allclose(fused, measured, rtol=0.01)
        assert_allclose(fused, 100 * atoms / atoms.sum(), rtol=0.1)  # noise of counts
    known = ~found["empty"]
    noisy, fused, true = (
        np.stack([image.data[known] for image in found[name]])
        for name in ("noisy", "percent", "true")
    )
    assert_allclose(fused.sum(axis=0), 100, rtol=1e-4)
    assert np.abs(fused - true).mean() < 0.3 * np.nanmean(np.abs(noisy - true))


def test_model_is_fused_and_components_are_a_gamble():
    found = run_chain("plot_model_and_pca")
    truth = found["specimen"].truth
    errors = {
        name: found["errors"](images, truth) for name, images in found["fused"].items()
    }
    before = found["errors"](found["net"]["model"], truth)
    assert np.all(np.divide(errors["model"], before) < 0.4)
    assert np.all(np.divide(errors["PCA"], errors["windows"]) < 1.1)
    gold = found["gold"]
    assert max(gold["windows"]) < 0.1
    assert min(gold["PCA"]) < 0.1
    assert max(gold["PCA"]) > 0.5


def test_eels_intensities_are_fused_with_their_variance():
    found = run_chain("plot_eels_model")
    record = found["fused"][0].metadata.Multimodal_fusion
    assert record.kind == "values with given noise"
    assert record.elements == "Co,Mn,O"
    before, after = (found["errors"](found[name]) for name in ("maps", "fused"))
    assert np.all(np.divide(after, before) < 0.5)


def test_phases_of_fused_maps():
    found = run_chain("plot_phases")
    assert np.mean(found["phase"] == found["truly"]) > 0.95


def test_profile_across_an_interface():
    found = run_chain("plot_profile")
    measured, fused = (
        error(
            [found["line"](s) for s in images],
            [found["line"](s) for s in found["truth"]],
        )
        for images in (found["maps"], found["fused"])
    )
    assert fused < 0.2 * measured


def test_drift_is_undone():
    found = run_chain("plot_drift")
    np.testing.assert_array_equal(found["shifts"], found["drift"])
    for before, after, truth in (
        ("maps", "frame_by_frame", "truth"),
        ("total", "together", "true_total"),
    ):
        errors = [error(found[name], found[truth]) for name in (before, after)]
        assert errors[1] < 0.3 * errors[0]


def test_every_chain_is_tested():
    text = Path(__file__).read_text(encoding="utf-8")
    for path in (DOCS / "examples" / "chains").glob("*.py"):
        assert f'run_chain("{path.stem}")' in text


def test_several_elastic_images(capsys):
    example, _, virtual_detector, idpc, phase = blocks("user_guide/elastic.md")
    found = run(example)
    assert "The image phase was used" in capsys.readouterr().out
    assert len(found["fused"]) == 3
    found = run(virtual_detector)
    assert "The image ADF was used" in capsys.readouterr().out
    expected = found["patterns"].data[3, 4][found["ring"].data > 0].sum()
    assert found["adf"].data[3, 4] == expected
    dpc = run(idpc)
    assert "The image iDPC was used" in capsys.readouterr().out
    one, other = (
        image - image.mean() for image in (dpc["integral"], dpc["true_phase"])
    )
    assert np.linalg.norm(one - other) < 0.3 * np.linalg.norm(other)
    wave = run(phase)
    assert_allclose(wave["phase"].data, np.angle(wave["object_of_ptychography"]))
    for signal in (found["adf"], dpc["idpc"], wave["phase"]):
        as_images(signal, "elastic image")
