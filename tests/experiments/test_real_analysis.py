"""A study of a network that the library ships, beside a plain one that an epoch of the real CIFAR-10 has trained."""

import json

import numpy as np
import pytest

from experiments import analyse, cifar

pytestmark = pytest.mark.fully_compiled


@pytest.mark.slow
def test_a_deleted_block_costs_less_than_its_skip_or_a_layer_of_a_plain_network(tmp_path, real_data_dir):
    """Veit et al. 2016, sections 4.1 and 4.2."""
    plain, data = str(tmp_path / "plain"), ("--data_dir", str(real_data_dir))
    common = ["--config", "quickstart", "--dataset", "cifar10", "--batch_size", "128", "--epochs", "1"]
    assert cifar.main([*common, "--model.name", "vgg_15", "--model.width", "16", "--workdir", plain, *data]) == 0
    sizes = ["--images", "512", "--draws", "4", "--output", str(tmp_path)]
    assert analyse.main(["lesion", "preresnet_20-cifar10", "--plain", plain, *sizes, *data]) == 0
    lesion = json.loads((tmp_path / "lesion.json").read_text())["result"]
    blocks, layers = lesion["network"], lesion["plain"]
    assert blocks["base"] < 0.25 and layers["base"] < 0.8
    # Of the blocks that keep the shape: the skip of a transition is not an identity.
    block, skip = (np.delete(blocks[key], blocks["transitions"]) for key in ("single", "skip"))
    assert np.median(block) < np.median(layers["single"]) - 0.1
    assert np.mean(block) < np.mean(skip) - 0.05
    assert np.mean(layers["single"]) > 0.8
