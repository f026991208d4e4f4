"""Training steps whose memory and traffic are recorded: `python -m tests.compiled.steps` writes the table anew.

It takes both compilers (`pip install -e '.[tpu,cuda-compile]'`) and some minutes. With `GPU` or `TPU` it does only that
part, and with names of steps only these, e.g. `GPU densenet vgg`; rows of other compilers are dropped.
"""

import json
import sys
from collections.abc import Sequence

from rich.console import Console

from experiments.launch.command_line import parse
from experiments.launch.run import task_of
from experiments.launch.target import Outcome, check_target, compile_step
from experiments.programs.cifar import Cifar
from experiments.programs.imagenet import Imagenet
from experiments.programs.segmentation import Segmentation
from experiments.runtime import files
from experiments.runtime.targets import compiler_versions
from tests.conftest import ROOT

RECORD = ROOT / "results" / "compiled_steps.json"
TOLERANCE = 0.03
"""Fraction by which memory and traffic may exceed the record, under the compilers that it was written with."""

GPU, TPU = "h200", "tpu_v5e:1x1"
GPUS, TPUS = "h200:4", "tpu_v5e:2x2"
_CIFAR, _PHOTOS, _MASKS = Cifar(), Imagenet(), Segmentation()
STEPS = {
    "resnet, scan": (_CIFAR, "resnet_20 --model.name resnet_20 --scan on", GPU, TPU),
    "preresnet, remat": (_CIFAR, "resnet_20 --model.name preresnet_14 --remat full", GPU, TPU),
    "wrn, micro-batches": (_CIFAR, "wrn_16_4 --model.name wrn_10_2 --micro_batches 2", GPU, TPU),
    "resnext, four devices": (_CIFAR, "resnet_20 --model.name resnext_11_4x16d", GPUS, TPUS),
    "densenet": (_CIFAR, "densenet_bc_100_12 --model.name densenet_bc_16_12", GPU, TPU),
    "highway": (_CIFAR, "highway_10_16", GPU, TPU),
    "stochastic depth, three seeds": (
        *(
            _CIFAR,
            "resnet_20 --model.name resnet_8 --model.stochastic_depth.survival_probability 0.5 --seeds 3",
            GPU,
            TPU,
        ),
    ),
    "vgg": (_CIFAR, "resnet_20 --model.name vgg_15 --model.width 16", GPU, TPU),
    "photographs, state split": (
        *(_PHOTOS, "resnet_18 --image_size 64 --batch_size 64 --eval_batch_size 64 --shard_state", GPUS, TPUS),
    ),
    "segmentation at stride 8": (_MASKS, "quickstart --model.name resnet_18 --model.output_stride 8", GPU, TPU),
}
"""By name: command, its flags behind --config, and the machines of either kind; all in bfloat16."""


def compiled(name: str, machine: str) -> tuple[Outcome, float]:
    """A step as its command compiles it for a machine; and the memory of one of its devices."""
    program, flags = STEPS[name][:2]
    arguments = ["--config", *flags.split(), "--dtype", "bfloat16", "--target", machine]
    config = parse(program.name, program.configs, arguments)[2]
    target, console = check_target(config), Console(quiet=True)
    sources = program.expected(config) or program.open(config, console)
    task = task_of(program, sources, console)(config)
    return compile_step(config, task, target, sources.streamed), target.chip.memory


def record(kinds: Sequence[str], names: Sequence[str]) -> None:
    """Compiles steps for the machines of these kinds, "GPU" or "TPU", and writes what they need into the table."""
    versions = {name: version for name, version in compiler_versions().items() if name != "libtpu" or "TPU" in kinds}
    known = recorded() if RECORD.exists() else {"versions": {}, "steps": {}}
    # The record of one kind stays when that of the other, and its compiler, is added.
    same = all(versions.get(name, version) == version for name, version in known["versions"].items())
    versions, steps = (known["versions"] | versions, known["steps"]) if same else (versions, {})
    table = {"versions": versions, "tolerance": TOLERANCE, "steps": steps}
    for name in names:
        for kind in kinds:
            machine = machine_of(name, kind)
            print(f"{name}, {machine}", file=sys.stderr, flush=True)
            outcome, _ = compiled(name, machine)
            found = {"peak": outcome.peak, "bytes": outcome.needs.bytes}
            steps.setdefault(name, {})[machine] = found
            files.write(RECORD, table)


def machine_of(name: str, kind: str) -> str:
    """The machine of a kind, "GPU" or "TPU", that a step is compiled for."""
    return STEPS[name][2 if kind == "GPU" else 3]


def recorded() -> dict:
    """The table."""
    return json.loads(RECORD.read_text())


if __name__ == "__main__":
    chosen = [kind for kind in ("GPU", "TPU") if kind in sys.argv[1:]]
    record(chosen or ("GPU", "TPU"), [name for name in sys.argv[1:] if name not in chosen] or list(STEPS))
