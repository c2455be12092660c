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
def test_the_same_for_a_velox_file(real_data, tmp_path, monkeypatch):
    shutil.copy(real_data("velox_EDS_SI_16x16.emd"), tmp_path / "specimen.emd")
    monkeypatch.chdir(tmp_path)
    *_, lines, saved = blocks("getting_started.md")
    found = run(lines)
    assert len(plt.get_fignums()) == 2
    run(saved, found)
    assert {path.stem for path in tmp_path.glob("*.hspy")} == {"C", "O", "Ca", "Cu"}
