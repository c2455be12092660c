"""The benchmark measures what it says; its tables are made by hand, not here."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from hyperspy_fusion import data

PATH = Path(__file__).parents[1] / "benchmarks" / "accuracy.py"

pytest.importorskip("skimage", reason="the benchmark needs scikit-image")
if not PATH.is_file():
    pytest.skip(f"there is no {PATH}", allow_module_level=True)


@pytest.fixture(scope="module")
def accuracy():
    spec = importlib.util.spec_from_file_location("accuracy", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_is_printed_and_written(accuracy, tmp_path, capsys):
    page = tmp_path / "accuracy.md"
    options = "--size 32 --specimens janus --counts 4 --seeds 1 2 --tables specimens"
    accuracy.main([*options.split(), "--markdown", str(page)])
    printed, written = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert set(printed.splitlines()) <= set(written.splitlines())
    assert written.startswith("# Accuracy\n")
    header, _, row = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in written.split("## ")[1].splitlines()
        if line.startswith("|")
    ]
    assert row[:2] == ["janus", "4"]
    found = dict(zip(header, row, strict=True))
    specimens = [data.janus(32, seed=seed) for seed in (1, 2)]
    raw = np.mean([accuracy.error(accuracy.net_counts(s), s) for s in specimens])
    assert_allclose(float(found["raw"]), raw, atol=6e-4)
    assert float(found["calibrated"]) < 0.5 * raw


def test_errors_of_known_maps(accuracy):
    specimen = data.core_shell(32)
    truth = accuracy.as_array(specimen.truth)
    assert accuracy.error(truth, specimen) == 0
    assert_allclose(accuracy.error(1.1 * truth, specimen), 0.1)
    assert_allclose(accuracy.rescale(3 - 2 * truth[0], truth[0]), truth[0], atol=1e-9)
    net = accuracy.net_counts(specimen)
    assert_allclose(accuracy.flux_error(1.02 * net, specimen), 0.02)
    bump = truth.copy()
    bump[1, 4:17, 14:27] += 0.5 * truth[1].max()  # around the first blob
    assert_allclose(accuracy.invented(bump, specimen), 0.5)
    assert accuracy.invented(truth, specimen) == 0


def test_rivals_predict_hidden_pixels(accuracy):
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.linspace(0, 5, 48), np.linspace(0, 5, 48))
    noisy = ramp + rng.normal(size=ramp.shape)
    known = rng.random(ramp.shape) > 0.2
    shown = np.where(known, noisy, np.nan)
    smooth, error = accuracy.best_smooth(shown, known, noisy)
    _, error_of_tv = accuracy.best_tv(shown, known, noisy, smooth)
    for found in (error, error_of_tv):
        assert 0.8 < found < 1.3  # the noise of what is predicted has variance 1
