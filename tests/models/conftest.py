"""Structure and equality of small networks: compiling is most of the time, and needs no optimisation here."""

import jax
import pytest


@pytest.fixture(autouse=True)
def compile_lightly():
    """XLA without most of its optimisations, in two thirds of the time; tests/layers and tests/train keep them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
