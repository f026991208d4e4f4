"""Networks of which some nonlinearities are replaced by the identity after training.

Mehmeti-Goepel & Wand 2025, ResNets Are Deeper Than You Think, arXiv 2506.14386; 2022, arXiv 2211.17180.
"""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend.core import Literal
from jax.sharding import Mesh

from resjax.analysis.chain import without_recomputation
from resjax.analysis.landscape import whole_batches, without_noise
from resjax.errors import InputError
from resjax.layers import BatchNorm, relu
from resjax.layers.backend import plain_convolutions
from resjax.models import Network, restack, unrolled
from resjax.train.sharding import put_batch, put_whole

_CALLS = frozenset("jit pjit closed_call core_call custom_jvp_call custom_vjp_call".split())


def count_nonlinearities(model: Network, variables: Any, images: Any) -> int:
    """The number of ReLUs that a network runs; nothing is run.

    Args:
      model, variables: the network.
      images: [N, H, W, C]; only the shape matters.

    Raises:
      InputError: for a network without ReLU.
    """
    image = jax.ShapeDtypeStruct((2, *np.shape(images)[1:]), jnp.float32)
    return _count(_program(model, restack(variables, ()), image)[1].jaxpr, type(model).__name__)


def predict_linearised(
    model: Network,
    variables: Any,
    images: np.ndarray,
    linear: np.ndarray,
    batch_size: int = 256,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """The classes that a network predicts with some of its ReLUs replaced by the identity.

    BN normalises by the statistics of each batch, because those of training are not those of the changed network.
    Dropout and stochastic depth are off. One network and one batch are in memory at a time.

    Args:
      model, variables: the network.
      images: normalised, [N, H, W, C].
      linear: bool [V, A], True for the ReLUs that are replaced, in each of V networks, in the order in which they run.
      batch_size: images at a time, over all devices; fewer images are one batch, and the last N % batch_size of more
        are not read.
      mesh: devices that a batch is split over; default: all.

    Returns:
      int32 [V, N'] for the N' images that are read, the first ones.

    Raises:
      InputError: for a network without ReLU, another number of them, no images, or a batch that the devices do not
        divide.
    """
    mesh, parts = whole_batches(images, np.zeros(len(images), int), batch_size, mesh)
    variables = restack(variables, ())
    image = jax.ShapeDtypeStruct((parts[0].stop, *images.shape[1:]), jnp.float32)
    leaves, program, run = _program(model, variables, image)
    number = _count(program.jaxpr, type(model).__name__)
    if np.ndim(linear) != 2 or np.shape(linear)[1] != number:
        raise InputError(f"linear: expected bool [networks, {number}], got shape {np.shape(linear)}")

    leaves, columns = put_whole(leaves, mesh), []
    for part in parts:
        batch = put_batch(np.asarray(images[part], np.float32), mesh)
        columns.append(np.stack([np.asarray(run(leaves, row, batch)) for row in np.asarray(linear, bool)]))
    return np.concatenate(columns, axis=1)


def _program(model, variables, image):
    """The leaves of the variables, the program (leaves, images) -> logits, and it compiled with its ReLUs as gates.

    BN has the statistics of the batch. The compiled program is (leaves, linear [A], images) -> classes.
    """
    quiet, (leaves, tree) = without_recomputation(without_noise(unrolled(model))), jax.tree.flatten(variables)
    return leaves, *_traced(quiet, tree, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves), image)


@functools.lru_cache(maxsize=8)  # a study asks several times for the same network
def _traced(model, tree, leaves, image):
    def logits(leaves, images):
        variables = jax.tree.unflatten(tree, leaves)
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    # As it is defined: elsewhere a ReLU may be part of another operation.
    with plain_convolutions(), nn.intercept_methods(_activate_apart):
        program = jax.make_jaxpr(logits)([jax.ShapeDtypeStruct(*leaf) for leaf in leaves], image)

    @jax.jit
    def run(leaves, linear, images):
        gates = iter(linear)
        (logits,) = _run(program.jaxpr, program.consts, [*leaves, images], lambda x: jnp.where(next(gates), x, relu(x)))
        return logits.argmax(-1).astype("int32")

    return program, run


def _activate_apart(layer, args, kwargs, context):
    """BN that leaves its activation, which it would make part of its own operation, to a ReLU behind it."""
    if context.method_name != "__call__" or not isinstance(context.module, BatchNorm):
        return layer(*args, **kwargs)
    given = inspect.signature(BatchNorm.__call__).bind(context.module, *args, **kwargs).arguments
    result = layer(given["x"], given["train"])
    y, *moments = result if isinstance(result, tuple) else (result,)
    for behind in ("activation", "pool"):
        y = y if given.get(behind) is None else given[behind](y)
    # Unused: each norm computes those of all its channels.
    return (y, *moments) if moments else y


def _count(jaxpr, name):
    number = sum(_count_inner(equation) for equation in jaxpr.eqns)
    if number == 0:
        raise InputError(f"{name}: has no ReLU, which could be replaced by the identity")
    return number


def _count_inner(equation):
    if _is_relu(equation):
        return 1
    return sum(map(_count_inner, _inner(equation)[0].eqns)) if equation.primitive.name in _CALLS else 0


def _inner(equation):
    """The jaxpr that an equation calls, and its constants."""
    called = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return getattr(called, "jaxpr", called), getattr(called, "consts", ())


def _is_relu(equation):
    """Whether an equation is `resjax.layers.relu`: one with its own derivative, and the same operations."""
    if equation.primitive.name != "custom_jvp_call":
        return False
    (own,) = jax.make_jaxpr(lambda x: relu(x))(jnp.ones(1)).eqns
    return list(_operations(_inner(equation)[0])) == list(_operations(_inner(own)[0]))


def _operations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name, *(str(var) for var in equation.invars if isinstance(var, Literal))
        if equation.primitive.name in _CALLS:
            yield from _operations(_inner(equation)[0])
        for branch in equation.params.get("branches", ()):  # a platform's each
            yield from _operations(branch.jaxpr)


def _run(jaxpr, consts, inputs, rectify):
    """Evaluates a program with `rectify` in the place of every ReLU."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def value(var):
        return var.val if isinstance(var, Literal) else known[var]

    for equation in jaxpr.eqns:
        values = [value(var) for var in equation.invars]
        if _is_relu(equation):
            found = [rectify(*values)]
        elif equation.primitive.name in _CALLS:
            inner, constants = _inner(equation)
            found = _run(inner, constants, values, rectify)
        else:
            found = equation.primitive.bind(*values, **equation.params)
            found = found if equation.primitive.multiple_results else [found]
        known |= zip(equation.outvars, found, strict=True)
    return [value(var) for var in jaxpr.outvars]
