"""Training on the real CIFAR-10, against what an independent PyTorch program printed for the same recipe."""

import json

import numpy as np
import pytest

from experiments import cifar

pytestmark = pytest.mark.fully_compiled

# ResNet-20, lr 0.1, batch 128, weight decay 1e-4, pad-crop and flip: train loss after epochs 1 and 2.
PYTORCH_TRAIN_LOSS = (1.65, 1.15)


@pytest.mark.slow
def test_two_epochs_of_resnet_20_follow_the_pytorch_program(tmp_path, real_data_dir):
    arguments = ["--config", "resnet_20", "--epochs", "2", "--data_dir", str(real_data_dir)]
    assert cifar.main([*arguments, "--workdir", str(tmp_path)]) == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [record["train_loss"] for record in records]
    np.testing.assert_allclose(losses, PYTORCH_TRAIN_LOSS, atol=0.12)
    # Test accuracy is 0.48 / 0.60 there, but at the full learning rate it moves by 0.1 between seeds.
    accuracies = [record["test_accuracy"] for record in records]
    assert max(accuracies) > 0.45 and min(accuracies) > 0.2
