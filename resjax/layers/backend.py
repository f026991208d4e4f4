"""The one place where it is chosen which form of an operation is traced: XLA's own, or one that is faster on a CPU."""

import contextlib
import contextvars
import os
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from resjax.errors import InputError

_MESH = contextvars.ContextVar("mesh of a batch", default=None)
_PLAIN = contextvars.ContextVar("plain_convolutions", default=False)


def faster_forms() -> bool:
    """Whether what is traced now takes this library's own forms of an operation, not XLA's.

    On CPU it does, but not with RESJAX_CONV=xla in the environment, nor under `plain_convolutions`. Own forms have no
    forward-mode derivative (`jax.jvp`).

    Raises:
      InputError: for another value of RESJAX_CONV.
    """
    choice = os.environ.get("RESJAX_CONV", "auto")
    if choice not in ("auto", "xla"):
        raise InputError(f"RESJAX_CONV: expected 'auto' or 'xla', got {choice!r}")
    return choice == "auto" and jax.default_backend() == "cpu" and not _PLAIN.get()


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """What is traced inside holds XLA's own convolutions, pooling and BN: the network as it is defined."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


@contextlib.contextmanager
def split_batch(mesh: Mesh) -> Iterator[None]:
    """What is traced inside reads batches that are split over `mesh`, along its one axis; of one device: are whole.

    Results do not depend on it; each device can then work on its own images where that is faster.
    """
    token = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(token)


def mesh_of_batch() -> Mesh | None:
    """The mesh of `split_batch`; None outside of it."""
    return _MESH.get()


def networks_in_a_loop() -> bool:
    """Whether networks of one shape that share a device run one after another, not as one under `jax.vmap`.

    On CPU they do: under `jax.vmap` their convolutions, with a kernel for each network, are grouped ones, which XLA
    runs there in a naive kernel.
    """
    return jax.default_backend() == "cpu"
