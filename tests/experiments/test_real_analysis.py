"""What the papers found, on networks trained for minutes on the real CIFAR-10."""

import json

import numpy as np
import pytest

from experiments import analyse, cifar


def _train(path, data_dir, *arguments):
    common = ["--config", "quickstart", "--dataset", "cifar10", "--data_dir", str(data_dir), "--batch_size", "128"]
    assert cifar.main([*common, "--epochs", "1", *arguments, "--workdir", str(path)]) == 0
    return str(path)


@pytest.mark.slow
def test_the_papers_findings_appear(tmp_path, real_data_dir):
    """Blocks can be deleted and layers cannot; gradients fall with the length of their path."""
    network = _train(tmp_path / "residual", real_data_dir, "--model.name", "preresnet_20")
    plain = _train(tmp_path / "plain", real_data_dir, "--model.name", "vgg_15", "--model.width", "16")
    sizes = ["--images", "512", "--draws", "4", "--data_dir", str(real_data_dir), "--output", str(tmp_path)]
    for study in ("lesion", "paths"):
        assert analyse.main([study, "--run", network, "--plain", plain, *sizes]) == 0
    lesion, paths = (json.loads((tmp_path / f"{name}.json").read_text())["result"] for name in ("lesion", "paths"))
    blocks, layers = lesion["network"], lesion["plain"]
    assert blocks["base"] < 0.7 and layers["base"] < 0.8
    inner = np.delete(blocks["single"], blocks["transitions"])
    assert np.median(inner) - blocks["base"] < 0.5 * (np.median(layers["single"]) - layers["base"])
    assert np.median(inner) < np.median(blocks["skip"])
    assert np.mean(layers["single"]) > 0.8
    norms = np.array(paths["gradient_norm"])
    assert paths["decay_rate"] < 1 and norms[-1] < norms[0]
    assert np.corrcoef(np.arange(len(norms)), np.log(norms))[0, 1] < -0.7
