"""The running JAX computes the published cases rightly, or the table of known issues has its version."""

import pathlib
import tomllib

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from experiments.runtime.backend import prepare_backend
from resjax import known_issues
from resjax.jax_versions import KNOWN_ISSUES, say_known_issues

pytestmark = [pytest.mark.quick, pytest.mark.fully_compiled]


def _products_and_sums(dtype, rows):
    """The case of jax#39103: the last of the squared norms of rows (i, 0, 0), by the identity matrix."""
    i = jnp.arange(rows, dtype=dtype)
    x = jnp.stack((i, jnp.zeros_like(i), jnp.zeros_like(i)), axis=1)
    matrix = jnp.eye(3, dtype=dtype)
    return float(jax.jit(jax.vmap(lambda row: jnp.square(matrix @ row).sum()))(x)[-1])


def _references():
    return {issue.reference.rsplit("/", 1)[1] for issue in known_issues()}


def test_the_published_sum_is_right_or_the_version_is_known(float64):
    right = _products_and_sums(jnp.float32, 32_769) == 2.0**30
    with float64():
        right &= _products_and_sums(jnp.float64, 16_385) == 2.0**28
    assert right or "39103" in _references()


def test_the_published_arctangents_are_right_or_the_version_is_known():
    x = np.linspace(-5, 5, 200, dtype=np.float32)
    right = np.allclose(jnp.arctan(x), np.arctan(x), atol=1e-6)
    assert right or "39352" in _references()


def test_the_faulty_version_is_said_in_one_line_with_the_way_out():
    line = say_known_issues("0.10.2", "cpu")
    assert "\n" not in line
    assert "jaxlib 0.10.2" in line and "issues/39103" in line and "pip install 'jax!=0.10.2' 'jaxlib!=0.10.2'" in line
    assert say_known_issues("0.10.1", "cpu") is None and say_known_issues("0.10.2", "tpu") is None


def test_issues_of_certain_devices_are_told_to_these_alone():
    assert known_issues("0.11.1", "gpu", "NVIDIA RTX A6000") and not known_issues("0.11.1", "gpu", "NVIDIA H100")


def test_what_computes_wrongly_on_every_device_cannot_be_installed():
    project = tomllib.loads((pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    everywhere = [issue for issue in KNOWN_ISSUES if "wrong" in issue.symptom and not issue.device_kinds]
    versions = {version for issue in everywhere for version in issue.versions}
    for package in ("jax", "jaxlib"):
        (requirement,) = (line for line in project["dependencies"] if line.startswith(f"{package}>="))
        assert versions == {clause.removeprefix("!=") for clause in requirement.split(",") if "!=" in clause}


def test_a_command_says_first_that_its_jax_is_faulty(monkeypatch, capsys):
    monkeypatch.setattr(jaxlib, "__version__", "0.10.2")
    prepare_backend((1,), "off")
    assert capsys.readouterr().err.startswith("jaxlib 0.10.2 is known to be faulty on a CPU")
    monkeypatch.setattr(jaxlib, "__version__", "0.10.1")
    prepare_backend((1,), "off")
    assert capsys.readouterr().err == ""
