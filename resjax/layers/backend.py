"""Which operators are lowered: XLA's, or on a CPU this library's own implementations."""

import contextlib
import contextvars
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, Mesh, PartitionSpec, auto_axes

from resjax.errors import InputError

_MESH: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh of a batch", default=None)
_NAME, _OLD_NAME = "RESJAX_CPU_OPERATORS", "RESJAX_CONV"
_PLAIN = contextvars.ContextVar("plain_convolutions", default=False)


def faster_forms() -> bool:
    """Whether the current trace uses, on a CPU, this library's own convolution, max-pooling and BN instead of XLA's.

    It does, but not with RESJAX_CPU_OPERATORS=xla in the environment ("own" is the default), nor under
    `plain_convolutions`. Results differ only by rounding. The variable is read when a function is traced:
    functions that `jax.jit` has compiled keep their operators until `jax.clear_caches()`. Set it before the first call.

    Nothing here asks which platform is the default: a program is traced once, and gets the CPU's operators where it is
    lowered for a CPU and XLA's own where it is lowered for another platform.

    Raises:
      InputError: for another value of RESJAX_CPU_OPERATORS.
    """
    return _own_operators() and not _PLAIN.get()


def _own_operators() -> bool:
    """The choice in the environment: "own" or "xla"."""
    old, choice = os.environ.get(_OLD_NAME), os.environ.get(_NAME)
    if old is not None:
        if old not in ("auto", "xla"):
            raise InputError(f"{_OLD_NAME}: expected 'auto' or 'xla', got {old!r}; its name is {_NAME}=own|xla now")
        renamed = "xla" if old == "xla" else "own"
        if choice is not None and choice != renamed:
            raise InputError(f"{_OLD_NAME}={old} and {_NAME}={choice} disagree: keep {_NAME}, the newer name, alone")
        warnings.warn(f"{_OLD_NAME}={old} is called {_NAME}={renamed} now", FutureWarning, stacklevel=2)
        choice = renamed
    if choice not in (None, "own", "xla"):
        raise InputError(f"{_NAME}: expected 'own' or 'xla', got {choice!r}")
    return choice != "xla"


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """Code traced inside uses XLA's own convolutions, pooling and BN: the network as it is defined."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


@contextlib.contextmanager
def split_batch(mesh: Mesh) -> Iterator[None]:
    """Code traced inside reads batches that are split over `mesh`, along its one axis; with one device they are whole.

    Results do not depend on it, but each device can work on its own images if that is faster.
    """
    token = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(token)


def mesh_of_batch() -> Mesh | None:
    """The mesh of `split_batch`; None outside of it."""
    return _MESH.get()


def placed_by_xla(function: Callable[..., Any], x: jax.Array, *others: Any, whole_results: int = 0) -> Any:
    """function(x, *others), whose results have the images of x [N, ..] along their first axis.

    Where the types of arrays say how a mesh splits them (`AxisType.Explicit`), each operation inside would have to say
    how its result is split: XLA decides it there, and the results are split as x is, along N. The last `whole_results`
    of several are not split.
    """
    sharding = jax.typeof(x).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return function(x, *others)
    split: Any = PartitionSpec(sharding.spec[0])
    if whole_results:
        split = (split, *(PartitionSpec(),) * whole_results)
    return auto_axes(function, out_sharding=split)(x, *others)


def apart(x: jax.Array) -> jax.Array:
    """x itself. On a GPU its gradient is computed before it is added to that of x's other readers.

    XLA would have cuDNN add both, and write the other one down for it, at the pixels that a stride leaves out, too.
    """
    barrier = lax.optimization_barrier
    return placed_by_xla(lambda x: lax.platform_dependent(x, cuda=barrier, rocm=barrier, default=lambda x: x), x)


def networks_in_a_loop(device: jax.Device) -> bool:
    """Whether networks of one shape on `device` run one after another instead of together under `jax.vmap`.

    They do on a CPU: under `jax.vmap`, convolutions with a kernel per network become grouped ones, which XLA runs in a
    naive kernel there.
    """
    return device.platform == "cpu"
