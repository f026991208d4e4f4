"""The `>>>` examples in docstrings, which `help` shows."""

import doctest
import importlib
import pathlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resjax

NAMES = {"resjax": resjax, "jax": jax, "jnp": jnp, "np": np}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _with_examples() -> list[str]:
    """Found in the sources, so that a module without examples is not imported for them."""
    names = [module.name for module in pkgutil.walk_packages(resjax.__path__, "resjax.") if not module.ispkg]
    root = pathlib.Path(resjax.__file__).parent.parent
    return [name for name in names if ">>> " in root.joinpath(*name.split(".")).with_suffix(".py").read_text()]


@pytest.mark.parametrize("module", _with_examples())
def test_examples_print_what_they_say(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(module), extraglobs=NAMES, optionflags=FLAGS)
    assert result.attempted and not result.failed


@pytest.mark.parametrize(
    "name",
    "create_model list_models model_info Gates StochasticDepth save_pretrained pretrained_info list_pretrained".split(),
)
def test_names_that_a_newcomer_meets_first_have_an_example(name):
    assert ">>> " in getattr(resjax, name).__doc__
