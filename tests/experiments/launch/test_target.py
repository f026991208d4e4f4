"""`--target` where no compiler is needed: the search for a batch, and flags that cannot go together."""

import dataclasses
import importlib.util
import io
import re
import types

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from experiments import cifar
from experiments.configs.cifar import CONFIGS
from experiments.launch import target as launch
from experiments.launch.target import largest_batch
from experiments.runtime.compiled import Needs
from experiments.runtime.targets import CHIPS, Target
from resjax import InputError
from resjax.train.collectives import Collective
from tests.helpers.command import outcome

QUICK = ("--config", "quickstart", "--model.name", "resnet_8")


@pytest.mark.parametrize("known", [8, 64, 120, 4096])
@pytest.mark.parametrize("unit", [1, 8, 24])
def test_the_largest_batch_is_found_where_memory_is_linear(known, unit):
    known = -(-known // unit) * unit
    compiled = []

    def peak_of(batch):
        compiled.append(batch)
        assert batch % unit == 0 and batch > 0
        return 1000 + 10 * batch

    largest = largest_batch(peak_of, (known, 1000 + 10 * known), unit, memory=6000)
    assert largest == 500 // unit * unit and len(set(compiled)) == len(compiled) <= 5


def test_a_batch_is_called_the_largest_only_if_it_was_compiled_and_fits():
    """A compiler that takes less memory for small batches than the line through two of them says."""
    found = largest_batch(lambda batch: batch**1.2, (100, 100**1.2), 1, memory=1000)
    assert found**1.2 <= 1000 and found >= 0.9 * 1000 ** (1 / 1.2)
    assert largest_batch(lambda batch: 100 + batch, (64, 164), 1, memory=50) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target", "h201"], "--target h201: unknown machine; did you mean 'h200'"),
        (["--fit"], "--fit: looks for what fits on a machine; name it, e.g. --target h200"),
        (["--target", "h200", "--scaling_report"], "--target and --scaling_report: choose one"),
        (["--target", "h200"], "pip install -e '.[cuda-compile]'"),
    ],
)
def test_what_cannot_be_compiled_is_one_line(flags, message, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    code, out, err = outcome(cifar.main, capsys, *QUICK, *flags)
    assert code == 2 and message in err and err.count("\n") == 1 and not out


MACHINE = Target("h200:2", CHIPS["h200"], jax.devices()[:2])
CONFIG = dataclasses.replace(CONFIGS["resnet_20"].config, target="h200:2", batch_size=256)


def _report(config, monkeypatch, bytes_an_image, fixed=2**30):
    """The report's lines, of a step whose memory is linear in the batch, with half of it under --remat full."""

    def compiled(changed, task, machine, streamed):
        kept = 0.5 if changed.remat == "full" else 1
        peak = fixed + kept * bytes_an_image * changed.batch_size / changed.micro_batches
        sent = (Collective("all-reduce", (("f32", (2**18,)),), times=3),)
        return launch.Outcome(peak, Needs(peak, 0, flops=1e12, bytes=4.8e9, kernels=7, collectives=sent))

    monkeypatch.setattr(launch, "compile_step", compiled)
    console = Console(record=True, width=200, file=io.StringIO())
    problem = None
    state = types.SimpleNamespace(new_state=lambda config: jnp.zeros((2**26,)))
    try:
        launch.print_target_report(config, MACHINE, lambda config: state, False, console)
    except InputError as error:
        problem = str(error)
    return console.export_text(), problem


def test_what_fits_is_told_with_its_bound(monkeypatch):
    text, problem = _report(CONFIG, monkeypatch, bytes_an_image=2**20)
    assert problem is None and "1,280 MiB of 108,288 MiB: fits" in text
    # 4.8 GB at 4.8 TB/s, and 10^12 operations at half of 989.4 10^12 a second in float32: 2.02 ms for 256 images.
    assert "at least 2.02 ms a step, at most 126,643 images/s, by arithmetic" in text
    assert "3 a step, 3.00 MiB together" in text and "7 kernels" in text


def test_what_does_not_fit_is_told_how_many_images_would(monkeypatch):
    text, problem = _report(CONFIG, monkeypatch, bytes_an_image=2**30)
    assert "does not fit" in text and "\n" not in problem
    # Besides the state's 256 MiB, each image takes 1,027 MiB here.
    assert problem.startswith("--batch_size 256: needs 263,168 MiB of 108,288 MiB on each device of h200:2, about 105 ")
    assert "--target h200:2 --fit" in problem


def test_fit_finds_the_largest_batch_and_tries_what_saves_memory(monkeypatch):
    text, problem = _report(dataclasses.replace(CONFIG, fit=True), monkeypatch, bytes_an_image=2**30)
    assert re.search(r"largest batch that fits +104\n", text)  # 104.75, of two devices
    rows = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    for flags, fits in (
        ("-", "no"),
        ("--remat convs", "no"),
        ("--remat full", "no"),
        ("--micro_batches 2", "no"),
        ("--micro_batches 4", "yes"),
        ("--shard_state", "no"),
    ):
        assert fits in rows[flags].split(), flags
    assert problem == "--batch_size 256: does not fit on h200:2; see the table above"


def _compile_error(text, monkeypatch):
    def compile_():
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(launch, "lower_step", lambda *arguments: types.SimpleNamespace(compile=compile_))
    task = types.SimpleNamespace(held_out=lambda: {"test": (jnp.zeros(2**10, jnp.uint8),)})
    return launch.compile_step(CONFIG, task, MACHINE, False)


@pytest.mark.parametrize(
    ("text", "used"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded",
            20.5 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO"
            " temporaries (48.00G) exceeds available HBM (15.75G). HLO module: jit__lambda.",
            48 * 2**30,
        ),
    ],
)
def test_a_tpu_that_has_too_little_memory_is_no_failure(text, used, monkeypatch):
    assert _compile_error(text, monkeypatch) == launch.Outcome(used + 2**10, None)


def test_another_error_of_a_compiler_is_not_hidden(monkeypatch):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        _compile_error("INTERNAL: a fault", monkeypatch)
