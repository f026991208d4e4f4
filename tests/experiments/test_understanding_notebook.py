"""The notebook on why residual networks work, top to bottom in a kernel of its own, with few images."""

import jax
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from resjax import create_model, save_pretrained
from tests.conftest import ROOT

NOTEBOOK = ROOT / "experiments" / "understanding.ipynb"


@pytest.mark.slow
def test_the_notebook_shows_a_network_beside_its_plain_twin(tmp_path, monkeypatch):
    """The twin is a stand-in at its initialisation."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    model = create_model("plain_20")
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    save_pretrained(tmp_path / "twin", model, variables)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    values = {
        "SOURCE": str(ROOT),
        "NETWORK": "resnet_20-cifar10",
        "PLAIN": str(tmp_path / "twin"),
        "DATASET": "cifar10_mini",
        "IMAGES": 16,
        "DRAWS": 1,
        "OWN": {"landscape": {"points": 3, "images": 16}, "linearise": {"images": 16, "draws": 1, "counts": 3}},
    }
    names = {line.split(" = ")[0] for line in parameters.source.splitlines()}
    assert names == set(values), "every parameter is set here"
    parameters.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 6
    text = "\n".join(output.get("data", {}).get("text/markdown", "") for output in outputs)
    assert "from resnet_20-cifar10" in text and "from twin" in text
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 1 + 6


def test_the_notebook_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
