"""One mesh, one axis: the batch is split over all devices, everything else is on each of them."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resjax.errors import InputError

DATA_AXIS = "data"


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, "data", over `devices` (default: all)."""
    devices = np.asarray(devices if devices is not None else jax.devices())
    # Auto: under Explicit axes, jax's default from 0.10 on, gathers such as images[order] don't trace.
    return Mesh(devices, (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters, optimizer state and the resident data set: whole on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: split along its first axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises InputError unless `batch_size` is a positive multiple of the number of devices."""
    devices = mesh.size
    if batch_size <= 0 or batch_size % devices:
        near = sorted({max(batch_size // devices, 1) * devices, (max(batch_size, 0) // devices + 1) * devices})
        raise InputError(
            f"batch_size {batch_size} cannot be split evenly over {devices} devices; nearest are"
            f" {' and '.join(map(str, near))}"
        )
