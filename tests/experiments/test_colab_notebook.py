"""The Colab notebook, top to bottom in a kernel of its own; killed in the middle, and run again."""

import concurrent.futures
import os
import signal
import time

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from tests.conftest import ROOT
from tests.helpers.processes import saved_steps

FLAGS = [
    *("--config", "resnet_20", "--model.name", "resnet_8", "--model.stage_sizes", "1", "--model.widths", "8"),
    *("--dataset", "arrays", "--epochs", "2", "--schedule.boundaries", "1"),
    *("--batch_size", "100", "--eval_batch_size", "100"),
]


def _data(folder):
    """A few small images and labels, whose classes differ in brightness."""
    labels = np.arange(300) % 10
    images = np.random.default_rng(0).integers(0, 50, (300, 8, 8, 3)) + 20 * labels[:, None, None, None]
    parts = {"train": slice(200), "val": slice(200, 250), "test": slice(250, 300)}
    arrays = {f"{name}_images": images[part].astype(np.uint8) for name, part in parts.items()}
    np.savez(folder / "data.npz", **arrays, **{f"{name}_labels": labels[part] for name, part in parts.items()})
    return str(folder / "data.npz")


def _notebook(folder, pip_options="--dry-run"):
    """The notebook with the parameters of this test."""
    notebook = nbformat.read(ROOT / "experiments" / "colab_tpu.ipynb", as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    values = {
        "SOURCE": str(ROOT),
        "ROOT": str(folder),
        "PLATFORM": "cpu",
        "FLAGS": [*FLAGS, "--data_dir", _data(folder)],
        "MINUTES_BETWEEN_CHECKPOINTS": 0.02,
        # Resolves the whole installation against what is there, and leaves the environment of the tests alone.
        "PIP_OPTIONS": pip_options,
    }
    names = {line.split(" = ")[0] for line in parameters.source.splitlines()}
    assert names == set(values), "every parameter is set here"
    parameters.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    return notebook


def _client(notebook):
    return NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})


def _text(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.quick
def test_the_notebook_survives_the_end_of_its_session(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    client = _client(_notebook(tmp_path))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(client.execute)
        while not saved_steps(tmp_path / "run"):
            assert not first.done(), first.result()
            time.sleep(0.1)
        os.kill(client.km.provisioner.pid, signal.SIGKILL)
        with pytest.raises((DeadKernelError, CellExecutionError)):
            first.result(timeout=120)

    again = _notebook(tmp_path, "--dry-run --no-deps")  # resolved above
    _client(again).execute()
    text = _text(again)
    assert "resuming at step" in text and "test error" in text
    shown = [output for cell in again.cells for output in cell.get("outputs", ())]
    pictures = [output for output in shown if "image/png" in output.get("data", ())]
    assert pictures, "the curves are shown"


def test_the_notebook_is_committed_without_outputs():
    notebook = nbformat.read(ROOT / "experiments" / "colab_tpu.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
