"""The programs of the Colab notebook's cells, compiled for its TPU."""

import ast
import importlib.util

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pytest
from rich.console import Console

from experiments.launch.command_line import parse
from experiments.launch.run import task_of
from experiments.launch.target import check_target, compile_step
from experiments.programs.cifar import Cifar
from experiments.runtime.compiled import needs
from resjax import train
from tests.conftest import ROOT

pytestmark = pytest.mark.fully_compiled


def _parameters() -> dict:
    """The values of the notebook's first cell."""
    notebook = nbformat.read(ROOT / "experiments" / "colab_tpu.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    return {statement.targets[0].id: ast.literal_eval(statement.value) for statement in ast.parse(cell.source).body}


@pytest.fixture(scope="module")
def run():
    """(config, task, machine) of the notebook's training cell."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("no compiler: pip install -e '.[tpu]'")
    program, console = Cifar(), Console(quiet=True)
    flags = [*_parameters()["FLAGS"], "--target", "tpu_v5e:1x1"]
    config = parse(program.name, program.configs, flags)[2]
    sources = program.expected(config)
    return config, task_of(program, sources, console)(config), check_target(config)


@pytest.mark.slow  # minutes
def test_the_training_step_fits(run):
    config, task, machine = run
    outcome = compile_step(config, task, machine, streamed=False)
    assert 0 < outcome.peak < machine.chip.memory and outcome.needs.flops > 0


def test_the_other_programs_fit(run):
    """Initialisation, the order of an epoch, and the evaluation of the test images."""
    config, task, machine = run
    mesh = train.data_mesh(machine.devices)
    whole = train.replicated(mesh)

    def placed(tree):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), tree)

    number = jax.ShapeDtypeStruct((), jnp.int32)
    state = jax.eval_shape(lambda: task.new_state(config))
    images, labels = (jax.ShapeDtypeStruct((10_240, *array.shape[1:]), array.dtype) for array in task.test_data)
    evaluate = train.make_run_evaluation(train.make_eval_step(task.model, task.normalize), config.eval_batch_size, mesh)
    programs = {
        "init": jax.jit(lambda seed: task.new_state(config, seed=seed), out_shardings=whole).lower(placed(number)),
        "order": train.epoch_order.lower(placed(number), placed(number), size=len(task.train_data[0])),
    }
    programs["evaluation"] = evaluate.lower(state.variables, task.zero, (images, labels), number, number, number)
    for name, lowered in programs.items():
        found = needs(lowered.compile())
        assert 0 < found.peak < machine.chip.memory, name
    assert np.prod(task.test_data[0].shape[:1]) == 10_000
