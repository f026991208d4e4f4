"""Runs of the same task share their programs: a test that stops a run and resumes it traces and compiles it once."""

import functools

import jax
import pytest

from resjax import train

MAKERS = (
    "make_train_step",
    "make_eval_step",
    "make_run_steps",
    "make_run_evaluation",
    "make_run_seeds",
    "make_evaluate_seeds",
)


def remembered(function):
    """`function`, called once for the same arguments: trees are the same if their leaves are."""
    made = {}

    @functools.wraps(function)
    def call(*args, **kwargs):
        leaves, structure = jax.tree.flatten((args, kwargs))
        key = structure, tuple(leaves)
        if key not in made:
            made[key] = function(*args, **kwargs)
        return made[key]

    return call


@pytest.fixture(scope="module", autouse=True)
def shared_programs():
    """For the modules that import it: each has its own programs, since each says how XLA compiles them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in MAKERS:
            patch.setattr(train, name, remembered(getattr(train, name)))
        yield
