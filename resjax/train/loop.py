"""Many steps in one dispatch: the host hands over a range of steps and does nothing until they are done."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from resjax.layers import split_batch
from resjax.train.metrics import NO_FAILURE, Sums
from resjax.train.sharding import batch_sharding, check_batch_size, put_whole, replicated
from resjax.train.state import TrainState, order_key
from resjax.train.step import Batch

# Metrics of a step that are means over its images; the others are counts.
_MEANS = ("loss", "first_layer_gradient")

RunSteps = Callable[..., tuple[TrainState, Sums]]


@functools.partial(jax.jit, static_argnames="size")
def epoch_order(seed: jax.Array, epoch: jax.Array, size: int) -> jax.Array:
    """The order of the `size` images in an epoch, int32 [size]: a permutation drawn from (seed, epoch)."""
    return jax.random.permutation(order_key(seed, epoch), size)


def put_resident(data: Batch, mesh: Mesh, multiple: int = 1) -> Batch:
    """Copies images and labels to every device, zero-padded at the end to a multiple of `multiple` images."""
    padding = -len(data[0]) % multiple
    return tuple(put_whole(np.pad(array, ((0, padding), *((0, 0) for _ in array.shape[1:]))), mesh) for array in data)


def make_run_steps(train_step: Callable, batch_size: int, mesh: Mesh, sharding: Any = None) -> RunSteps:
    """Builds `run_steps(state, totals, data, order, first, count) -> (state, totals)`, compiled once.

    It takes `count` steps in a compiled loop. Step i trains on images order[(first + i) * batch_size :][:batch_size]
    of the resident `data`. `count` is data, not shape: one compilation serves every length, and the cut of an epoch
    into calls changes no bit of the result. The loop ends early, with `totals.failed_step` set, at a loss or gradient
    that is not finite. What `train_step` reports beside `loss` and `gradient_norm` is added to the field of `totals` of
    its name. `state` is donated; `totals` is not, so that the host can read it while the next call runs. `sharding` is
    that of the state, see `state_sharding`; None: all of it is on each device.

    Raises:
      InputError: where `batch_size` is not a multiple of the number of devices.
    """
    check_batch_size(batch_size, mesh)
    whole = replicated(mesh)
    run_steps = steps_in_a_row(train_step, batch_size, mesh)
    of_state = whole if sharding is None else sharding
    return jax.jit(run_steps, donate_argnums=0, in_shardings=(of_state, *(whole,) * 5), out_shardings=(of_state, whole))


def steps_in_a_row(
    train_step: Callable, batch_size: int, mesh: Mesh, failed_step: Callable[[Sums], jax.Array] | None = None
) -> RunSteps:
    """The function that `make_run_steps` compiles, which ends early where `failed_step(totals)` is set."""
    failed_step = failed_step or (lambda totals: totals.failed_step)

    def run_steps(state: TrainState, totals: Sums, data: Batch, order: jax.Array, first, count):
        def unfinished(carry):
            i, _, totals = carry
            return (i < count) & (failed_step(totals) == NO_FAILURE)

        def body(carry):
            i, state, totals = carry
            index = lax.dynamic_slice(order, ((first + i) * batch_size,), (batch_size,))
            batch = _split(tuple(array[index] for array in data), mesh)
            return i + 1, *_counted(train_step, mesh, state, totals, batch)

        return lax.while_loop(unfinished, body, (jnp.int32(0), state, totals))[1:]

    return run_steps


def make_run_batch(train_step: Callable, batch_size: int, mesh: Mesh, sharding: Any = None) -> RunSteps:
    """Builds `run_batch(state, totals, batch) -> (state, totals)`: one step, as one of `make_run_steps`.

    The batch is split over the devices; `sharding` is that of the state, as in `make_run_steps`. After a step whose
    loss or gradient was not finite it does nothing.

    Raises:
      InputError: where `batch_size` is not a multiple of the number of devices.
    """
    check_batch_size(batch_size, mesh)
    whole, split = replicated(mesh), batch_sharding(mesh)

    def run_batch(state: TrainState, totals: Sums, batch: Batch):
        return lax.cond(
            totals.failed_step == NO_FAILURE,
            lambda state, totals: _counted(train_step, mesh, state, totals, batch),
            lambda state, totals: (state, totals),
            *(state, totals),
        )

    of_state = whole if sharding is None else sharding
    return jax.jit(run_batch, donate_argnums=0, in_shardings=(of_state, whole, split), out_shardings=(of_state, whole))


def make_evaluate_batch(eval_step: Callable, mesh: Mesh, sharding: Any = None) -> Callable[..., Sums]:
    """Builds `evaluate_batch(variables, totals, batch, valid) -> totals`; the batch is split over the devices.

    `sharding` is that of the variables, as in `make_run_steps`.
    """
    whole, split = replicated(mesh), batch_sharding(mesh)

    def evaluate_batch(variables: Any, totals: Sums, batch: Batch, valid: jax.Array) -> Sums:
        variables = lax.with_sharding_constraint(variables, whole)
        return _add(totals, eval_step(variables, batch, valid))

    of_variables = whole if sharding is None else sharding
    return jax.jit(evaluate_batch, in_shardings=(of_variables, whole, split, split), out_shardings=whole)


def make_run_evaluation(eval_step: Callable, batch_size: int, mesh: Mesh, sharding: Any = None) -> Callable[..., Sums]:
    """Builds `run_evaluation(variables, totals, data, size, first, count) -> totals`, compiled once.

    It evaluates `count` batches, from batch `first` on, of the resident `data`, which holds `size` images and is padded
    to whole batches: the padding of the last one is masked, so that each image counts exactly once. `sharding` is that
    of the variables, as in `make_run_steps`.

    Raises:
      InputError: where `batch_size` is not a multiple of the number of devices.
    """
    check_batch_size(batch_size, mesh)
    whole = replicated(mesh)
    evaluation = batches_in_a_row(eval_step, batch_size, mesh)

    def run_evaluation(variables: Any, totals: Sums, data: Batch, size, first, count) -> Sums:
        return evaluation(lax.with_sharding_constraint(variables, whole), totals, data, size, first, count)

    of_variables = whole if sharding is None else sharding
    return jax.jit(run_evaluation, in_shardings=(of_variables, *(whole,) * 5), out_shardings=whole)


def batches_in_a_row(eval_step: Callable, batch_size: int, mesh: Mesh) -> Callable[..., Sums]:
    """The function that `make_run_evaluation` compiles."""

    def run_evaluation(variables: Any, totals: Sums, data: Batch, size, first, count) -> Sums:
        def body(i, totals):
            start = (first + i) * batch_size
            batch = _split(tuple(lax.dynamic_slice_in_dim(array, start, batch_size) for array in data), mesh)
            sums = eval_step(variables, batch, start + jnp.arange(batch_size) < size)
            return _add(totals, sums)

        return lax.fori_loop(0, count, body, totals)

    return run_evaluation


def _split(batch: Batch, mesh: Mesh) -> Batch:
    """The batch, each device with its own images."""
    return lax.with_sharding_constraint(batch, batch_sharding(mesh)) if mesh.size > 1 else batch


def _counted(train_step, mesh: Mesh, state: TrainState, totals: Sums, batch: Batch) -> tuple[TrainState, Sums]:
    """A step, and what it reports added to the totals."""
    step, size = state.step, len(batch[0])
    with split_batch(mesh):
        state, metrics = train_step(state, batch)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics.pop("gradient_norm"))
    means = {name: metrics.pop(name) * size for name in _MEANS if name in metrics}
    totals = _add(totals, metrics | means).replace(
        images=totals.images + size, failed_step=jnp.where(finite, NO_FAILURE, step)
    )
    return state, totals


def _add(totals: Sums, sums: dict[str, jax.Array]) -> Sums:
    return totals.replace(**{name: getattr(totals, name) + value for name, value in sums.items()})
