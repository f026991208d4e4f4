"""Runs many steps in one dispatch: the host hands over a range of steps and waits until they are done.

The functions made here are compiled for the devices of a mesh. `sharding` is that of their first argument, a state or
its variables, see `resjax.train.state_sharding`; None keeps all of it on each device. The caller may refill NumPy
arrays at once. A `batch_size` that is not a multiple of the number of devices raises InputError.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding

from resjax.layers import split_batch
from resjax.train.metrics import NO_FAILURE, Sums
from resjax.train.sharding import batch_sharding, check_batch_size, owned, put_whole, replicated
from resjax.train.state import Batch, TrainState, order_key

RunSteps = Callable[..., tuple[TrainState, Sums]]


class _OfOwnCopies:
    """A function of `jax.jit` that may be called in a loop with one NumPy buffer, refilled each time."""

    def __init__(self, compiled: jax.stages.Wrapped):
        functools.update_wrapper(self, compiled)
        self._compiled, self.lower = compiled, compiled.lower

    def __call__(self, *arguments: Any) -> Any:
        return self._compiled(*owned(arguments))


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

    It takes `count` steps in a compiled loop. Step i trains on images order[(first + i) * batch_size :][:batch_size] of
    the resident `data`. `count` is data, not shape: one compilation serves every length. Dividing an epoch into calls
    changes no bit of the result. The loop ends early, with `totals.failed_step` set, at a loss, gradient or running
    statistic that is not finite. Each metric of `train_step`, except `loss` and `gradient_norm`, is added to the field
    of `totals` with its name. `state` is donated. `totals` is not, so that the host can read it while the next call
    runs.
    """
    return _jit(steps_in_a_row(train_step, batch_size, mesh), mesh, sharding, *(replicated(mesh),) * 5, trains=True)


def steps_in_a_row(
    train_step: Callable, batch_size: int, mesh: Mesh, failed_step: Callable[[Sums], jax.Array] | None = None
) -> RunSteps:
    """The function that `make_run_steps` compiles. It ends early if `failed_step(totals)` is set."""
    check_batch_size(batch_size, mesh)
    failed_step = failed_step or (lambda totals: totals.failed_step)

    def run_steps(state, totals, data, order, first, count):
        def unfinished(carry):
            i, _, totals = carry
            return (i < count) & (failed_step(totals) == NO_FAILURE)

        def body(carry):
            i, state, totals = carry
            index = lax.dynamic_slice(order, ((first + i) * batch_size,), (batch_size,))
            batch = _placed(tuple(array[index] for array in data), batch_sharding(mesh))
            return i + 1, *_counted(train_step, mesh, batch, state, totals)

        return lax.while_loop(unfinished, body, (jnp.int32(0), state, totals))[1:]

    return run_steps


def make_run_batch(train_step: Callable, batch_size: int, mesh: Mesh, sharding: Any = None) -> RunSteps:
    """Builds `run_batch(state, totals, batch) -> (state, totals)`: one step like those of `make_run_steps`.

    The batch is split over the devices. After a step whose loss or gradient was not finite, it does nothing. It returns
    before the step is taken.
    """
    check_batch_size(batch_size, mesh)

    def run_batch(state, totals, batch):
        step = functools.partial(_counted, train_step, mesh, batch)
        return lax.cond(totals.failed_step == NO_FAILURE, step, lambda *same: same, state, totals)

    return _jit(run_batch, mesh, sharding, replicated(mesh), batch_sharding(mesh), trains=True)


def make_evaluate_batch(eval_step: Callable, mesh: Mesh, sharding: Any = None) -> Callable[..., Sums]:
    """Builds `evaluate_batch(variables, totals, batch, valid) -> totals`; the batch is split over the devices."""

    def evaluate_batch(variables, totals, batch, valid):
        return _add(totals, eval_step(_placed(variables, replicated(mesh)), batch, valid))

    return _jit(evaluate_batch, mesh, sharding, replicated(mesh), *(batch_sharding(mesh),) * 2)


def make_run_evaluation(eval_step: Callable, batch_size: int, mesh: Mesh, sharding: Any = None) -> Callable[..., Sums]:
    """Builds `run_evaluation(variables, totals, data, size, first, count) -> totals`, compiled once.

    It evaluates `count` batches of the resident `data`, from batch `first` on. `data` holds `size` images, padded to
    whole batches. The padding is masked, so that each image counts exactly once.
    """
    return _jit(batches_in_a_row(eval_step, batch_size, mesh), mesh, sharding, *(replicated(mesh),) * 5)


def batches_in_a_row(eval_step: Callable, batch_size: int, mesh: Mesh) -> Callable[..., Sums]:
    """The function that `make_run_evaluation` compiles."""
    check_batch_size(batch_size, mesh)

    def run_evaluation(variables, totals, data, size, first, count):
        variables = _placed(variables, replicated(mesh))

        def body(i, totals):
            start = (first + i) * batch_size
            batch = tuple(lax.dynamic_slice_in_dim(array, start, batch_size) for array in data)
            sums = eval_step(variables, _placed(batch, batch_sharding(mesh)), start + jnp.arange(batch_size) < size)
            return _add(totals, sums)

        return lax.fori_loop(0, count, body, totals)

    return run_evaluation


def _jit(function: Callable, mesh: Mesh, sharding: Any, *others: Any, trains: bool = False) -> _OfOwnCopies:
    """Compiles a function whose first argument has a `sharding` (None: whole on each device). A state is donated."""
    whole = replicated(mesh)
    first = whole if sharding is None else sharding
    results = (first, whole) if trains else whole
    donated = (0,) if trains else ()
    return _OfOwnCopies(jax.jit(function, donate_argnums=donated, in_shardings=(first, *others), out_shardings=results))


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    """The tree in its place on the devices; seeds that train together have one device each, and no place to name."""
    return lax.with_sharding_constraint(tree, sharding) if sharding.mesh.size > 1 else tree


def _counted(train_step, mesh, batch, state, totals):
    """Takes a step, and adds what it reports to the totals."""
    step, size = state.step, len(batch[0])
    with split_batch(mesh):
        state, metrics = train_step(state, batch)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics.pop("gradient_norm"))
    for statistics in jax.tree.leaves(state.batch_stats):  # a variance may overflow although loss and gradient do not
        finite &= jnp.isfinite(statistics).all()
    # These two are means over the images; the others are counts.
    means = {name: jnp.stack([mean, 1]) * size for name, mean in metrics.pop("gradient_means", {}).items()}
    sums = metrics | {"loss": metrics["loss"] * size, "gradient_means": means, "images": size}
    return state, _add(totals, sums).replace(failed_step=jnp.where(finite, NO_FAILURE, step))


def _add(totals: Sums, sums: dict[str, Any]) -> Sums:
    return totals.replace(**{name: jax.tree.map(jnp.add, getattr(totals, name), value) for name, value in sums.items()})
