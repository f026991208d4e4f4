"""Several seeds of one run as one program. Each seed is on one device, and nothing is exchanged between seeds.

States, sums and orders of the seeds are stacked along a first axis, which is split over the devices. If there
are more places than seeds, the last places repeat the last seed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resjax.layers import networks_in_a_loop
from resjax.train.loop import RunSteps, batches_in_a_row, steps_in_a_row
from resjax.train.metrics import Sums
from resjax.train.sharding import data_mesh

SEED_AXIS = "seed"
_ON_ONE_DEVICE = "seed on one device"
_SEEDS, _WHOLE = PartitionSpec(SEED_AXIS), PartitionSpec()


def seed_mesh(seeds: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, "seed", of the fewest `devices` (default: all) with the least load on each."""
    devices = list(jax.devices() if devices is None else devices)
    each = -(-seeds // len(devices))
    return Mesh(np.asarray(devices[: -(-seeds // each)]), (SEED_AXIS,), axis_types=(AxisType.Auto,))


def join_seeds(trees: Sequence[Any], mesh: Mesh) -> Any:
    """Stacks the trees of the seeds, and places the stack on the devices of a `seed_mesh`."""
    filled = [*trees, *list(trees[-1:]) * (-len(trees) % mesh.size)]
    split = NamedSharding(mesh, _SEEDS)
    return jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves), split), *filled)


def split_seeds(tree: Any, seeds: int) -> list[Any]:
    """The trees of the seeds, copied to the host."""
    stacked = jax.device_get(tree)
    return [jax.tree.map(lambda leaf, i=i: np.array(leaf[i]), stacked) for i in range(seeds)]


def make_run_seeds(
    train_step: Callable, batch_size: int, seeds: int, mesh: Mesh, in_a_loop: bool | None = None
) -> RunSteps:
    """Builds `run_seeds(states, totals, data, orders, first, count) -> (states, totals)`, compiled once.

    For each seed it does what the function of `make_run_steps` does; the numbers differ only by rounding. A device with
    several seeds takes a step of all of them together, or runs the `count` steps of one seed after another. If a loss
    or gradient is not finite, the steps of that seed end; those of other seeds go on or end.

    Args:
      train_step: see `resjax.train.make_train_step`.
      batch_size: images in a step of each seed.
      seeds: number of seeds; `states`, `totals` and `orders` [places, N] are stacked by `join_seeds`.
      mesh: see `seed_mesh`; `data` is on each of its devices.
      in_a_loop: whether the seeds of a device run one after another; None: if that is faster, as on CPUs.
    """
    in_a_loop = networks_in_a_loop(mesh.devices.flat[0]) if in_a_loop is None else in_a_loop
    # One condition for all seeds: with a condition of its own, each seed would copy its state in every step.
    failed_step = None if in_a_loop else lambda totals: lax.pmax(totals.failed_step, _ON_ONE_DEVICE)
    run_steps = steps_in_a_row(train_step, batch_size, _one_device(mesh), failed_step)

    def run_seeds(states, totals, data, orders, first, count):
        def run_one(state, totals, order, count):
            return run_steps(state, totals, data, order, first, count)

        if not in_a_loop:
            return jax.vmap(run_one, (0, 0, 0, None), axis_name=_ON_ONE_DEVICE)(states, totals, orders, count)
        places = lax.axis_index(SEED_AXIS) * len(orders) + jnp.arange(len(orders))
        counts = jnp.where(places < seeds, count, 0)
        return lax.map(lambda of_seed: run_one(*of_seed), (states, totals, orders, counts))

    specs = (_SEEDS, _SEEDS, _WHOLE, _SEEDS, _WHOLE, _WHOLE)
    # check_vma=False as in `resjax.layers`: otherwise loops must declare that their zeros differ between devices.
    run = jax.shard_map(run_seeds, mesh=mesh, in_specs=specs, out_specs=(_SEEDS, _SEEDS), check_vma=False)
    return jax.jit(run, donate_argnums=0)


def make_evaluate_seeds(
    eval_step: Callable, batch_size: int, mesh: Mesh, in_a_loop: bool | None = None
) -> Callable[..., Sums]:
    """Builds `evaluate_seeds(variables, totals, data, size, first, count) -> totals`, compiled once.

    For each seed it does what the function of `make_run_evaluation` does; for the arguments see `make_run_seeds`.
    """
    in_a_loop = networks_in_a_loop(mesh.devices.flat[0]) if in_a_loop is None else in_a_loop
    run_evaluation = batches_in_a_row(eval_step, batch_size, _one_device(mesh))

    def evaluate_seeds(variables, totals, data, size, first, count):
        def evaluate_one(of_seed):
            return run_evaluation(*of_seed, data, size, first, count)

        return (lax.map if in_a_loop else _map_together)(evaluate_one, (variables, totals))

    specs = (_SEEDS, _SEEDS, *(_WHOLE,) * 4)
    return jax.jit(jax.shard_map(evaluate_seeds, mesh=mesh, in_specs=specs, out_specs=_SEEDS, check_vma=False))


def _map_together(function: Callable, trees: Any) -> Any:
    return jax.vmap(function)(trees)


def _one_device(mesh: Mesh) -> Mesh:
    """The mesh that a seed's batch is split over."""
    return data_mesh(mesh.devices.flatten()[:1].tolist())
