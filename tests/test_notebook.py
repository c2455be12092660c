"""What a notebook shows: each picture once."""

import os
import sys

import pytest

nbclient = pytest.importorskip("nbclient", reason="install the tests extra")
nbformat = pytest.importorskip("nbformat", reason="install the tests extra")
pytest.importorskip("ipykernel", reason="install the tests extra")

PREPARE = """
import warnings
warnings.filterwarnings("ignore", message="Importing `Lazy")
import hyperspy_fusion as hf
maps, haadf, truth = hf.data.core_shell(size=32)
fused = hf.fuse_multimodal(maps, haadf, lambda_haadf=0.1, show_progressbar=False)
"""
CALLS = [
    "hf.plot_fusion(maps, fused, haadf)",
    "hf.plot_composite(fused, haadf)",
    "hf.plot_convergence(fused)",
    "hf.plot_weights(fused)",
    "hf.plot_weights(fused, maps, haadf, images=True)",
    "hf.plot_misfit(maps, fused, haadf)",
]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A notebook with a call in each cell but the first, executed."""
    cells = [nbformat.v4.new_code_cell(source) for source in (PREPARE, *CALLS)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MPLBACKEND", raising=False)  # the kernel's own, as for a user
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return notebook


@pytest.mark.parametrize("call", CALLS)
def test_a_call_shows_one_picture(notebook, call):
    (cell,) = (cell for cell in notebook.cells if cell.source == call)
    data = [output.get("data", {}) for output in cell.outputs]
    assert sum("image/png" in shown for shown in data) == 1
    assert not any(output.output_type == "stream" for output in cell.outputs)


def test_nothing_else_is_shown(notebook):
    assert notebook.cells[0].outputs == []
