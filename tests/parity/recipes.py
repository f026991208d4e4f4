"""Our recipes beside the PyTorch program of `torch_program`, on the real CIFAR-10.

    python -m tests.parity.recipes --data_dir DIR --folder results

On our side the named config runs as the command would run it: its network, optimizer, schedule and preprocessing, in
the engine's compiled loop, from its own order of the images. Both sides share initial weights, that order, and the
numbers drawn for crops and flips, which are read off an image of coordinates that went through our augmentation;
everything else PyTorch's side does by itself.

Two comparisons. From the same state (our weights, statistics and momentum before a step) one step of both gives the
same loss, weights, momentum and statistics, up to rounding, which a step in float64 measures: every tenth step, and
around each change of the rate. And both train on their own for all steps. At the papers' rates that is chaotic in
float32, so the curves are held against a second PyTorch run from initial weights that differ by 1e-7 (the chaos band).
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments.configs.base import Config
from experiments.inputs.images import preprocessing
from experiments.inputs.splits import load_splits
from experiments.runtime.backend import prepare_backend
from experiments.runtime.machine import hardware
from experiments.training.optimizer import build_optimizer
from experiments.training.task import Task
from resjax import train
from resjax.data.augment import augment
from resjax.models.stacking import restack
from resjax.train.state import step_key
from tests.parity import recipe_report, twins
from tests.parity.recipe_cases import CASES, Case, compressed, wanted_steps
from tests.parity.torch_program import Program

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What both sides train on in a step: index [n], offsets [n, 2] and mirrored [n], as `Program.step` takes them."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Our run at a step: {key of PyTorch: array} of parameters with BN statistics, and of the momentum."""

    state: dict[str, np.ndarray]
    velocity: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Our run: losses and errors before each step, and snapshots at some steps."""

    losses: list[float]
    errors: list[float]
    snapshots: dict[int, Snapshot]


def train_ours(case: Case, images: np.ndarray, labels: np.ndarray, steps: int, wanted: Callable[[int], bool]):
    """Trains `steps` steps of the config; keeps the state before and after each step that is `wanted`."""
    config, data = case.config, (images, labels)
    model, (optimizer, schedule) = config.create_model(10), build_optimizer(config, len(images))
    prepared = preprocessing(config, images)
    task = Task(model, optimizer, schedule, **prepared, train_data=data, test_data=data, title=config.model.name)
    devices = jax.devices()[:2]
    mesh = train.data_mesh(devices)
    sharding = train.state_sharding(jax.eval_shape(lambda: task.new_state(config)), mesh, False)
    state = jax.jit(lambda: task.new_state(config), out_shardings=sharding)()
    source = task.batch_source(config, [config.seed], mesh, devices, sharding, 0, print)
    zero = train.put_whole(task.zero, mesh)
    losses, errors, snapshots = [], [], {}
    for step in range(steps):
        if step == 0 or wanted(step) or wanted(step - 1):
            snapshots[step] = _snapshot(config, state)
        state, totals = source.train(state, zero, 0, step, 1)
        losses.append(totals.mean_loss())
        errors.append(1 - totals.accuracy())
    snapshots[steps] = _snapshot(config, state)
    return Trajectory(losses, errors, snapshots)


def _snapshot(config: Config, state: train.TrainState) -> Snapshot:
    is_trace = lambda leaf: isinstance(leaf, optax.TraceState)  # noqa: E731
    (trace,) = [leaf for leaf in jax.tree.leaves(state.opt_state, is_leaf=is_trace) if is_trace(leaf)]
    params, statistics, trace = (
        twins.to_torch(restack(jax.device_get(tree), ())) for tree in (state.params, state.batch_stats, trace.trace)
    )
    # Steps go down the gradient, which is what PyTorch's velocity sums up.
    sign = -1 if config.optimizer.momentum_form == "caffe" else 1
    return Snapshot(params | statistics, {key: sign * array for key, array in trace.items()})


def batches(config: Config, images: int, steps: int) -> Iterator[Batch]:
    """The first batches of a run on so many images, less than an epoch."""
    order = np.asarray(train.epoch_order(config.seed, 0, size=images))
    size = config.batch_size
    for step in range(steps):
        yield order[step * size :][:size], *_draws(config, step)


def _draws(config: Config, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the crops of a step begin, and which images are mirrored: read off an image of its own coordinates."""
    key, _ = jax.random.split(step_key(jnp.int32(config.seed), jnp.int32(step)))
    rows, columns = jnp.meshgrid(jnp.arange(32.0), jnp.arange(32.0), indexing="ij")
    probe = jnp.broadcast_to(jnp.stack([rows, columns], -1), (config.batch_size, 32, 32, 2))
    seen, _ = augment(key, probe, jnp.zeros(config.batch_size, jnp.int32), 10, config.augmentation)
    # Pixels (16, 15) and (16, 16), which no padding reaches.
    (row, left), (_, right) = np.asarray(seen[:, 16, 15:17]).astype(int).transpose(1, 2, 0)
    mirrored = left > right
    return np.stack([row - 12, np.where(mirrored, right - 11, right - 12)], 1), mirrored


def train_program(case: Case, images, labels, start: Snapshot, steps: int, perturbation: float = 0.0) -> list[float]:
    """Losses of PyTorch on its own, from our initial state, with weights off by a share of so much."""
    rng = np.random.default_rng(0)
    state = {
        key: array * np.float32(1 + perturbation * rng.normal(size=array.shape)) for key, array in start.state.items()
    }
    program, losses = Program(case.recipe, images, labels, state), []
    for step, batch in enumerate(batches(case.config, len(images), steps)):
        loss, error = program.step(step, *batch)
        program.saw_error(error)
        losses.append(loss)
    return losses


def single_steps(case: Case, images, labels, ours: Trajectory) -> Iterator[dict[str, float]]:
    """One step of PyTorch from each of our snapshots that has the one after it: the differences, see `_compare`.

    `rounding` is how far PyTorch's own momentum is from that of a step in float64.
    """
    start = ours.snapshots[0].state
    program, exact = (
        Program(case.recipe, images, labels, start, d) for d in (twins.torch.float32, twins.torch.float64)
    )
    for step, batch in enumerate(batches(case.config, len(images), len(ours.losses))):
        if step in ours.snapshots and step + 1 in ours.snapshots:
            before, after = ours.snapshots[step], ours.snapshots[step + 1]
            rate = program.rate(step)
            for each in (program, exact):
                each.load(before.state, before.velocity if step else {})
            loss, _ = program.step(step, *batch)
            exact.step(step, *batch)
            theirs, rounded_less = (Snapshot(each.state(), each.velocity()) for each in (program, exact))
            differences = _compare(after, theirs, before)
            differences["decay"] /= case.recipe.weight_decay
            differences["rounding"] = _compare(theirs, rounded_less, before)["momentum"]
            yield {"step": step, "rate": rate, "loss": abs(ours.losses[step] - loss) / loss, **differences}
        for each in (program, exact):
            each.saw_error(ours.errors[step])


def _compare(ours: Snapshot, theirs: Snapshot, before: Snapshot) -> dict[str, float]:
    """Norms of differences, each relative to the norm of what is compared.

    Returns:
      weights, statistics, momentum: of all together, relative to PyTorch's.
      update: of the weights, relative to the way they went in this step.
      decay: the coefficient of the weights in the difference of momentum, of kernels or of all else, whichever is
        larger. Rounding moves gradients across the weights, not along them, so that little of it is left here.
    """
    statistics = {key for key in ours.state if "running" in key}
    weights = ours.state.keys() - statistics

    def norm(keys, a, b=None):
        return np.sqrt(sum(np.sum(np.square(np.float64(a[k]) - (0 if b is None else b[k]))) for k in keys))

    keys = ours.velocity.keys()
    apart = norm(weights, ours.state, theirs.state)
    groups = [{key for key in keys if (before.state[key].ndim > 1) == is_kernel} for is_kernel in (True, False)]
    along = [
        sum(np.vdot(np.float64(ours.velocity[k]) - theirs.velocity[k], before.state[k]) for k in group)
        / norm(group, before.state) ** 2
        for group in groups
    ]
    return {
        "weights": apart / norm(weights, theirs.state),
        "update": apart / norm(weights, theirs.state, before.state),
        "statistics": norm(statistics, ours.state, theirs.state) / norm(statistics, theirs.state),
        "momentum": norm(keys, ours.velocity, theirs.velocity) / norm(keys, theirs.velocity),
        "decay": max(map(abs, along)),
    }


def main(
    data_dir: str,
    folder: pathlib.Path,
    steps: int = 100,
    recipes: tuple[str, ...] = tuple(CASES),
    compress: tuple[str, ...] = ("resnet_20", "wrn_16_4", "resnet_110", "preresnet_164"),
    chaos: tuple[str, ...] = tuple(CASES),
    batch_size: int | None = None,
) -> None:
    """Runs cases beside PyTorch; after each, its numbers are written and the figure is drawn anew.

    Args:
      data_dir: a TFDS data directory with CIFAR-10.
      folder: gets parity.json, parity.md and parity.png; what parity.json holds and does not run again stays.
      steps: training steps of a case.
      recipes: those to run as they are, on both sides.
      compress: those to run with the whole schedule within `steps`, one step at a time from our state.
      chaos: those for which PyTorch trains a second time, from perturbed weights.
      batch_size: another than the recipe's.
    """
    twins.torch.set_num_threads(2)
    prepare_backend((128,), "auto")
    file = folder / "parity.json"
    results = json.loads(file.read_text()) if file.exists() else {"recipes": {}, "compressed": {}}
    (images, labels), *_ = load_splits(dataclasses.replace(CASES["resnet_20"].config, data_dir=data_dir))
    for kind, names in (("recipes", recipes), ("compressed", compress), ("chaos", chaos)):
        for name in names:
            case, begin = CASES[name], time.monotonic()
            result = results["recipes"][name] if kind == "chaos" else {}
            if size := result.get("batch_size", batch_size):
                case = Case(dataclasses.replace(case.config, batch_size=size), case.recipe)
            if kind == "chaos":
                start = train_ours(case, images, labels, 0, lambda step: False).snapshots[0]
                result["perturbed"] = train_program(case, images, labels, start, len(result["ours"]), 1e-7)
            else:
                case = compressed(case, steps) if kind == "compressed" else case
                ours = train_ours(case, images, labels, steps, wanted_steps(case, steps))
                result = results[kind][name] = {"batch_size": case.config.batch_size, "machine": hardware()}
                result["ours"] = ours.losses
                result["single_steps"] = list(single_steps(case, images, labels, ours))
                if kind == "recipes":
                    result["pytorch"] = train_program(case, images, labels, ours.snapshots[0], steps)
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(rounded(results)) + "\n")
            (folder / "parity.md").write_text(recipe_report.markdown(results))
            if kind != "compressed":
                (folder / "parity.png").write_bytes(recipe_report.draw(results["recipes"]))
            print(f"{kind} {name}, {time.monotonic() - begin:.0f} s: {recipe_report.summary(result)}", flush=True)


def rounded(value: Any) -> Any:
    """Numbers with the digits that mean something."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    tyro.cli(main)
