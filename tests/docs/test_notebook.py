"""docs/notebook.ipynb runs, and what it shows is what comes out."""

import copy
from typing import Any, List

import pytest

from .pages import ROOT

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (the extra test)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (the extra test)")
pytest.importorskip("espeakng_loader")
nbformat = pytest.importorskip("nbformat")

PAGE = ROOT / "docs/notebook.ipynb"


def outputs(notebook: Any) -> List[str]:
    """What each cell of code prints; of one whose tag is `varies`, what differs between machines, whether it does."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not [output for output in cell.outputs if output.output_type == "error"], cell.outputs
            said = [output for output in cell.outputs if output.get("name") != "stderr"]
            text = "".join(output.get("text") or output["data"]["text/plain"] for output in said)
            found.append(str(bool(text)) if "varies" in cell.metadata.get("tags", []) else text)
    return found


def test_the_notebook_runs_and_shows_what_comes_out():
    shown = nbformat.read(PAGE, as_version=4)
    run = copy.deepcopy(shown)
    nbclient.NotebookClient(run, timeout=300, resources={"metadata": {"path": str(PAGE.parent)}}).execute()
    assert outputs(run) == outputs(shown)


def test_the_notebook_is_small_and_has_its_outputs():
    assert PAGE.stat().st_size < 500_000
    text = "".join(outputs(nbformat.read(PAGE, as_version=4)))
    assert text.count("8 of 8 recordings are right") == 2
