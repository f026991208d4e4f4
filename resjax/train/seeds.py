"""Several seeds of one run as one program, which exchanges nothing between them: each of them lives on one device.

States, sums and orders of the seeds are stacked along a first axis, which is split over the devices. Where that needs
more places than there are seeds, the last ones repeat the last seed.
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
    """A mesh of one axis, "seed": as few of `devices` (default: all) as give no device more seeds than it must have."""
    devices = list(jax.devices() if devices is None else devices)
    each = -(-seeds // len(devices))
    return Mesh(np.asarray(devices[: -(-seeds // each)]), (SEED_AXIS,), axis_types=(AxisType.Auto,))


def join_seeds(trees: Sequence[Any], mesh: Mesh) -> Any:
    """Stacks a tree of arrays for each seed, and places the stack on the devices of a `seed_mesh`."""
    filled = [*trees, *trees[-1:] * (-len(trees) % mesh.size)]
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

    For each seed it does what the function of `make_run_steps` does, with numbers that differ by rounding alone; a
    device that is given several takes a step of all of them together, or the `count` steps of one after another. At a
    loss or gradient that is not finite that seed's steps end; the others' go on or end.

    Args:
      train_step: see `resjax.train.make_train_step`.
      batch_size: images in a step of each seed.
      seeds: their number; `states`, `totals` and `orders` [places, N] hold them as `join_seeds` stacks them.
      mesh: see `seed_mesh`; `data` is on each of its devices.
      in_a_loop: whether the seeds of a device run one after another; None: where that is faster, on CPUs.
    """
    in_a_loop = networks_in_a_loop() if in_a_loop is None else in_a_loop
    # A condition that is the same for all seeds: with one of its own each would copy its state in every step.
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
    # check_vma=False: as in `resjax.layers`, loops would have to say of their zeros that they differ between devices.
    run = jax.shard_map(run_seeds, mesh=mesh, in_specs=specs, out_specs=(_SEEDS, _SEEDS), check_vma=False)
    return jax.jit(run, donate_argnums=0)


def make_evaluate_seeds(
    eval_step: Callable, batch_size: int, mesh: Mesh, in_a_loop: bool | None = None
) -> Callable[..., Sums]:
    """Builds `evaluate_seeds(variables, totals, data, size, first, count) -> totals`, compiled once.

    For each seed it does what the function of `make_run_evaluation` does; for the arguments see `make_run_seeds`.
    """
    in_a_loop = networks_in_a_loop() if in_a_loop is None else in_a_loop
    run_evaluation = batches_in_a_row(eval_step, batch_size, _one_device(mesh))

    def evaluate_seeds(variables, totals, data, size, first, count):
        def evaluate_one(of_seed):
            return run_evaluation(*of_seed, data, size, first, count)

        return (lax.map if in_a_loop else _map_together)(evaluate_one, (variables, totals))

    specs = (_SEEDS, _SEEDS, *(_WHOLE,) * 4)
    return jax.jit(jax.shard_map(evaluate_seeds, mesh=mesh, in_specs=specs, out_specs=_SEEDS, check_vma=False))


def _map_together(function, trees):
    return jax.vmap(function)(trees)


def _one_device(mesh: Mesh) -> Mesh:
    """What a seed's batch is split over."""
    return data_mesh(mesh.devices.flat[:1])
