"""The training step of a network of each family compiles for a GPU and a TPU, and needs no more than is recorded."""

import importlib.util

import jax.numpy as jnp
import pytest

from experiments.benchmarks.compiled import compile_step
from experiments.benchmarks.flax_networks import flax_network
from experiments.runtime.targets import compiler_versions, target
from resjax import train
from resjax.models import ResNet
from tests.compiled.steps import GPUS, STEPS, TPU, TPUS, compiled, machine_of, recorded

pytestmark = pytest.mark.fully_compiled
# For a TPU others take minutes each.
FOR_A_TPU = [pytest.param(name, marks=() if name in ("resnet, scan", "vgg") else pytest.mark.slow) for name in STEPS]


@pytest.fixture
def compilers():
    """Both are there, or neither is needed: whoever installs resjax without their extras skips this folder."""
    if importlib.util.find_spec("libtpu") is None or importlib.util.find_spec("jax_plugins") is None:
        pytest.skip("no compilers: pip install -e '.[tpu,cuda-compile]'")


@pytest.mark.parametrize("name", STEPS)
def test_a_step_for_a_gpu_needs_no_more_memory_and_traffic_than_is_recorded(name, compilers):
    _check(name, "GPU")


@pytest.mark.parametrize("name", FOR_A_TPU)
def test_a_step_for_a_tpu_fits_and_needs_no_more_than_is_recorded(name, compilers):
    _check(name, "TPU")


def test_a_step_for_a_tpu_moves_less_than_plain_flax(compilers):
    """A stem and a block: BN, ReLU and the stride of a shortcut are part of the convolutions that read them."""
    fields = {"stage_sizes": (1,), "widths": (32,), "stem": "imagenet", "shortcut": "C", "num_classes": 1000}
    model = ResNet(dtype=jnp.bfloat16, **fields)
    own, plain = (
        compile_step(network, train.sgd(0.1), "resnet_18", 128, target(TPU)) for network in (model, flax_network(model))
    )
    assert own.bytes < 0.8 * plain.bytes and own.temporaries < plain.temporaries


def _check(name: str, kind: str) -> None:
    machine = machine_of(name, kind)
    outcome, memory = compiled(name, machine)
    assert 0 < outcome.peak < memory and outcome.needs.bytes > 0 and outcome.needs.flops > 0
    if machine in (GPUS, TPUS):
        assert outcome.needs.collectives
    found = recorded()
    limits = found["steps"][name].get(machine)
    # Another compiler needs other memory.
    if limits and found["versions"].items() <= compiler_versions().items():
        assert outcome.peak <= (1 + found["tolerance"]) * limits["peak"]
        assert outcome.needs.bytes <= (1 + found["tolerance"]) * limits["bytes"]


def test_the_record_is_of_these_steps_and_machines():
    for name, machines in recorded()["steps"].items():
        assert set(machines) <= set(STEPS[name][2:])
