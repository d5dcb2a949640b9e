"""The notebooks run from top to bottom, as a newcomer would run them."""

import os
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


# What zmq and the kernel do with sockets and event loops is not ours.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_learns(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "notebooks are kept without outputs"
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute(env=os.environ | {"MPLBACKEND": "agg"})
    text = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    accuracy = float(re.search(r"test accuracy ([\d.]+)%", text).group(1))
    assert accuracy > 20, "ten classes: chance is 10"
    assert (tmp_path / "runs" / "quickstart" / "best.keras").exists()
