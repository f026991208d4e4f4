"""One mesh, one axis: the batch is split over all devices, everything else is on each of them.

The devices may be those of several processes: each process then gives what its own hold, and none sees the rest.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resjax.errors import InputError

DATA_AXIS = "data"
# Arrays of fewer elements stay whole: to gather one takes as long as a small message.
_LEAST_SPLIT = 1024


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, "data", over `devices` (default: all)."""
    devices = np.asarray(devices if devices is not None else jax.devices())
    # Auto: under Explicit axes, jax's default from 0.10 on, gathers such as images[order] don't trace.
    return Mesh(devices, (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters, optimizer state and the resident data set: whole on each device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(state: Any, mesh: Mesh, split: bool) -> Any:
    """The sharding of each array of a train state, in its structure.

    Args:
      state: a `TrainState`, or its shapes.
      mesh: the devices.
      split: whether each device holds its share alone of every large array of parameters, optimizer state and moving
        average (ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054, section 5; "fully sharded"): along the longest axis
        that the devices divide. False: all of them hold everything.
    """

    def sharding(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if not split or not axes or leaf.size < _LEAST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, DATA_AXIS))

    return jax.tree.map(sharding, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: split along its first axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def put_whole(tree: Any, mesh: Mesh) -> Any:
    """Copies the arrays of a tree, the same in every process, to every device."""
    whole = replicated(mesh)
    return jax.tree.map(lambda leaf: _global_array(whole, np.asarray(leaf), np.shape(leaf)), tree)


def put_batch(own: Any, mesh: Mesh) -> Any:
    """Makes a batch that is split over the devices of all processes of what each process holds.

    Args:
      own: arrays [N / processes, ...]: the rows `own_rows` of the batch.
      mesh: the devices.
    """
    split = batch_sharding(mesh)
    shares = mesh.size // len(mesh.local_devices)
    return jax.tree.map(lambda leaf: _global_array(split, leaf, (len(leaf) * shares, *leaf.shape[1:])), own)


def own_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """The images of a batch, by number, that this process gives to `put_batch`: int [N / processes], ascending."""
    owners = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in owners]))


def wait_for_processes(name: str) -> None:
    """Returns when every process has come here; at once where there is one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def same_everywhere(value: int) -> bool:
    """Whether every process has the same int32 `value`; each of them must ask."""
    return jax.process_count() == 1 or bool((multihost_utils.process_allgather(np.int32(value)) == value).all())


def _global_array(sharding, own, shape):
    return jax.make_array_from_process_local_data(sharding, own, shape)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises InputError unless `batch_size` is a positive multiple of the number of devices."""
    devices = mesh.size
    if batch_size <= 0 or batch_size % devices:
        near = sorted({max(batch_size // devices, 1) * devices, (max(batch_size, 0) // devices + 1) * devices})
        raise InputError(
            f"batch_size {batch_size} cannot be split evenly over {devices} devices; nearest are"
            f" {' and '.join(map(str, near))}"
        )
