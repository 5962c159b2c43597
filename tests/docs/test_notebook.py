"""The lesson in JAX runs as it is, and what it shows is from a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
from patience import scaled

nbformat = pytest.importorskip("nbformat", reason='needs nbclient and ipykernel: pip install ".[dev]"')
nbclient = pytest.importorskip("nbclient", reason='needs nbclient and ipykernel: pip install ".[dev]"')
pytest.importorskip("ipykernel", reason='needs nbclient and ipykernel: pip install ".[dev]"')
pytest.importorskip("jax", reason='the JAX backend is not installed: pip install "ditkit[jax]"')

pytestmark = pytest.mark.extras
NOTEBOOK = Path(__file__).parents[2] / "examples" / "jax_mnist_diffusion_transformer.ipynb"


def outputs(notebook) -> str:
    """All text that the cells printed."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(one.get("text", "") for cell in cells for one in cell.outputs)


def pictures(notebook) -> int:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return sum("image/png" in one.get("data", {}) for cell in cells for one in cell.outputs)


@pytest.mark.filterwarnings("default")  # of the machinery that starts a kernel, not of the notebook
def test_it_runs_shortened(tmp_path, monkeypatch):
    monkeypatch.setenv("DITKIT_NOTEBOOK_STEPS", "3")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    expected = pictures(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=round(scaled(200)), resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    said = outputs(notebook)
    assert "step 3: loss" in said and pictures(notebook) == expected
    assert float(said.rpartition("of 255:")[2]) <= 1
    assert (tmp_path / "digits.safetensors").is_file()


def test_what_it_shows_is_from_a_whole_run_and_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [
        one for cell in code for one in cell.outputs if one.output_type == "error" or one.get("name") == "stderr"
    ]
    assert "step 1500: loss" in outputs(notebook) and pictures(notebook) == 8
    assert NOTEBOOK.stat().st_size < 300_000
