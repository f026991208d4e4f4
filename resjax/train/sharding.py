"""One mesh with one axis: the batch is split over all devices, and everything else is on each of them.

The devices may belong to several processes. Each process then gives the data of its own devices, and sees no other.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resjax.errors import InputError

DATA_AXIS = "data"
# Arrays of fewer elements stay whole: gathering one takes as long as a small message.
_LEAST_SPLIT = 1024


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, "data", over `devices` (default: all)."""
    chosen = np.asarray(devices if devices is not None else jax.devices())
    # Auto: under Explicit axes, jax's default from 0.10 on, gathers such as images[order] don't trace.
    return Mesh(chosen, (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters, optimizer state and the resident data set: whole on each device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(state: Any, mesh: Mesh, split: bool) -> Any:
    """The sharding of each array of a train state, as a tree of the same structure.

    Args:
      state: a `TrainState`, or its shapes.
      mesh: the devices.
      split: True: each device holds only its part of every large array of parameters, optimizer state and moving
        average (ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054, section 5; "fully sharded"). The array is split along
        its longest axis that the devices divide. False: every device holds everything.
    """

    def sharding(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if not split or not axes or leaf.size < _LEAST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, DATA_AXIS))

    return jax.tree.map(sharding, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: split along its first axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def owned(tree: Any) -> Any:
    """The tree, with a copy of every NumPy array that could still be written to.

    JAX returns before a device has read an array of the host, and the devices of a CPU may read its memory for as long
    as they use it (jax#37830). Refilling a buffer in the meantime would change these data.
    """
    return jax.tree.map(lambda leaf: np.array(leaf) if _writeable(leaf) else leaf, tree)


def _writeable(array: Any) -> bool:
    """Whether this is a NumPy array that can be written to, or a view of one."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return True
        array = array.base
    return False


def put_whole(tree: Any, mesh: Mesh) -> Any:
    """Copies the arrays of a tree, equal in all processes, to every device. The caller may write to them again."""
    whole = replicated(mesh)
    return jax.tree.map(lambda leaf: _global_array(whole, np.asarray(leaf), np.shape(leaf)), owned(tree))


def put_batch(own: Any, mesh: Mesh) -> Any:
    """Makes a batch that is split over the devices of all processes, from the part of each process.

    The caller may write to its arrays again.

    Args:
      own: arrays [N / processes, ...]: the rows `own_rows` of the batch.
      mesh: the devices.
    """
    split = batch_sharding(mesh)
    shares = mesh.size // len(mesh.local_devices)
    return jax.tree.map(lambda leaf: _global_array(split, leaf, (len(leaf) * shares, *leaf.shape[1:])), owned(own))


def own_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Indices of the images of a batch that this process gives to `put_batch`: int [N / processes], ascending."""
    owners = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in owners]))


def wait_for_processes(name: str) -> None:
    """Returns when every process has called it; at once if there is one process."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def same_everywhere(value: int) -> bool:
    """Whether every process has the same int32 `value`. Every process must call it."""
    return jax.process_count() == 1 or bool((multihost_utils.process_allgather(np.int32(value)) == value).all())


def _global_array(sharding: NamedSharding, own: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
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
