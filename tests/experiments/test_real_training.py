"""Training on the real CIFAR-10, against what an independent PyTorch program printed for the same recipe."""

import json

import numpy as np
import pytest

from experiments import cifar

pytestmark = pytest.mark.fully_compiled

# ResNet-20, lr 0.1, batch 128, weight decay 1e-4, pad-crop and flip: train loss of the first epoch.
PYTORCH_TRAIN_LOSS = 1.65


@pytest.mark.slow
def test_an_epoch_of_resnet_20_follows_the_pytorch_program(tmp_path, real_data_dir):
    arguments = ["--config", "resnet_20", "--epochs", "1", "--data_dir", str(real_data_dir)]
    assert cifar.main([*arguments, "--workdir", str(tmp_path)]) == 0
    (record,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    np.testing.assert_allclose(record["train_loss"], PYTORCH_TRAIN_LOSS, atol=0.12)
    # Test accuracy is 0.48 there, but at the full learning rate it moves by 0.1 and more between seeds.
    assert record["test_accuracy"] > 0.2
