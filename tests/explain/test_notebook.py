from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "explain.ipynb"


def test_the_notebook_has_its_pictures():
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert sum("image/gif" in output.get("data", {}) for output in outputs) == 1
    assert not any(output.output_type in ("error", "stream") for output in outputs)
    assert NOTEBOOK.stat().st_size < 1_000_000


# trains for five epochs
@pytest.mark.slow
# the notebook client's own, from the event loop that it makes
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_runs(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert any("image/gif" in output.get("data", {}) for output in notebook.cells[-1].outputs)
