"""Names of machines to compile for: wrong ones, and compilers that are not installed."""

import importlib.machinery
import importlib.util
import math

import jax
import pytest
from jax.experimental import topologies

from experiments.runtime.targets import CHIPS, EXAMPLES, target
from resjax import InputError

WRONG = {
    "h20": "--target h20: unknown machine.*h200.*expected one of h100, h200, b200, tpu_v5e",
    "tpu_v5": "--target tpu_v5: unknown machine.*tpu_v5",
    "": "--target : unknown machine.*tpu_v5p:2x2x2",
    "h200:": None,
    "h200:0": "--target h200:0: expected the GPUs of a server, or SERVERSxGPUS, e.g. h200:2x8",
    "h200:2x2x2": "--target h200:2x2x2: expected the GPUs",
    "tpu_v5e:4": "--target tpu_v5e:4: expected a topology, tpu_v5e: and one of 1x1, 2x2",
    "tpu_v5e:4x4x4": "--target tpu_v5e:4x4x4: expected a topology",
    "tpu_v5p:4x4": "--target tpu_v5p:4x4: expected a topology, tpu_v5p: and one of 1x1x1, 2x2x1",
}


@pytest.mark.parametrize("name", [name for name, message in WRONG.items() if message])
def test_a_wrong_name_is_told_the_right_ones(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: object())  # names are judged before compilers
    with pytest.raises(InputError, match=f"^{WRONG[name]}"):
        target(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tpu_v5e", r"--target tpu_v5e: the TPU compiler is missing: pip install -e '.\[tpu\]'"),
        ("h200", r"--target h200: the CUDA compiler is missing: pip install -e '.\[cuda-compile\]'"),
    ],
)
def test_a_compiler_that_is_not_installed_is_named_in_one_line(name, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(InputError, match=f"^{message}$"):
        target(name)


def test_the_chips_are_of_this_world():
    """Rates and memories in the order of the makers' generations; topologies double the chips."""
    assert CHIPS["h100"].memory < CHIPS["h200"].memory < CHIPS["b200"].memory
    assert CHIPS["tpu_v5e"].bfloat16 < CHIPS["tpu_v5p"].bfloat16 < CHIPS["tpu_v6e"].bfloat16
    for chip in CHIPS.values():
        # Between a gigabyte and a terabyte; arithmetic intensities of today's chips.
        assert 2**30 < chip.memory < 2**40 and 100 < chip.bfloat16 / chip.bandwidth < 1000
        chips = [math.prod(map(int, shape.split("x"))) for shape in chip.shapes]
        assert chips == sorted(chips) and len(set(chips)) == len(chips)
    assert {name.partition(":")[0] for name in EXAMPLES} <= set(CHIPS)


def test_a_topology_that_the_compiler_refuses_is_told_the_known_ones(monkeypatch):
    def refuse(*arguments, **options):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: not divisible\nmore")

    monkeypatch.setattr(importlib.util, "find_spec", lambda module: object())
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(
        InputError, match=r"--target tpu_v5e:3x3: expected .* 1x1, 2x2, .*\(INVALID_ARGUMENT: not divis"
    ):
        target("tpu_v5e:3x3")


def test_a_plugin_that_jax_did_not_start_is_said_with_the_way_out(monkeypatch, tmp_path):
    """As JAX leaves it on a machine that has the compiler and no cuDNN, unless it was told to use the CPU."""

    def refuse(*arguments, **options):
        raise NotImplementedError("topology not implemented for cuda")

    (tmp_path / "xla_cuda12").mkdir()
    plugins = importlib.machinery.ModuleSpec("jax_plugins", None, is_package=True)
    plugins.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: plugins)
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(InputError, match="^--target h200: JAX started without its GPU part: set JAX_PLATFORMS=cpu"):
        target("h200")
