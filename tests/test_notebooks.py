"""The notebooks run from top to bottom, as a newcomer would run them: with no variable set, in an empty home."""

import os
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

pytestmark = pytest.mark.once  # on torch, which a newcomer gets
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


# What zmq and the kernel do with sockets and event loops is not ours.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_learns(path, tmp_path):
    (tmp_path / "home").mkdir()
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "notebooks are kept without outputs"
    for cell in notebook.cells:
        cell.source = cell.source.replace("epochs = 4", "epochs = 1")  # enough to learn something
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("KERAS", "KCIFAR", "XDG"))}
    home = {name: str(tmp_path / "home") for name in ("HOME", "USERPROFILE")}
    client.execute(env=variables | home | {"MPLBACKEND": "agg"})
    text = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    accuracy = float(re.search(r"test accuracy ([\d.]+)%", text).group(1))
    assert accuracy > 20, "ten classes: chance is 10"
    assert (tmp_path / "runs" / "quickstart" / "best.keras").exists()
