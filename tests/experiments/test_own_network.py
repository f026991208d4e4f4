"""A network that a user's own module registers, trained and read back by the commands."""

import json
import sys

import numpy as np
import pytest

import resjax
from experiments import cifar, evaluate
from experiments.evaluation.trained import load_run
from resjax.models import registry
from tests.helpers.command import outcome

MODULE = '''
"""Networks of one's own."""

import flax.linen as nn
import resjax


@resjax.register_model("pooled_<units>")
class Pooled(nn.Module):
    """The mean colour, and two layers.

    Attributes:
      units: features of the first.
    """

    num_classes: int = 10
    units: int = 8

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.num_classes)(nn.relu(nn.Dense(self.units)(images.mean((1, 2)))))
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "own_networks_of_commands.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RESJAX_PLUGINS", "own_networks_of_commands")
    yield
    registry.unregister_model("pooled_<units>")
    del sys.modules["own_networks_of_commands"]


def test_a_network_of_ones_own_is_trained_evaluated_saved_and_read_back(plugin, tmp_path, capsys):
    workdir = tmp_path / "run"
    flags = ["--config", "quickstart", "--model.name", "pooled_6", "--model.units", "7", "--dataset", "cifar10_mini"]
    flags += ["--epochs", "2", "--batch_size", "256", "--workdir", workdir]
    code, out, err = outcome(cifar.main, capsys, *flags)
    assert code == 0, err
    assert "pooled_6, 108 parameters" in out
    config = json.loads((workdir / "config.json").read_text())["config"]
    assert (config["model.name"], config["model.units"]) == ("pooled_6", 7)
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["changed_from_named_config"]["model.units"] == 7
    trained = load_run(str(workdir), "latest", 24, None)
    for of in ([workdir, "--save", tmp_path / "weights"], [tmp_path / "weights"]):
        code, out, err = outcome(evaluate.main, capsys, *of)
        assert code == 0, err
        assert f"{summary['final_test_error']:.2f}" in out
    model, variables = resjax.from_pretrained(tmp_path / "weights")
    np.testing.assert_array_equal(
        model.apply(variables, trained.images), trained.model.apply(trained.variables, trained.images)
    )
