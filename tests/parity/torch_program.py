"""A PyTorch program that trains the networks of `twins` on CIFAR-10, written from the papers' text and their code.

Nothing in it is of resjax: normalisation, padding, crops, loss, SGD and its schedule are PyTorch's own or are written
here. What it takes from outside is drawn numbers: initial weights, the order of the images, where each crop begins and
which images are mirrored.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.parity import twins

torch = twins.torch

# fb.resnet.torch, datasets/cifar10.lua; Wide ResNet's, ResNeXt's and DenseNet's code have the same.
CHANNEL_MEAN, CHANNEL_STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a paper trains a network.

    Attributes:
      network: builds it.
      drops: steps before which the rate is multiplied by `factor`.
      decayed: "weights" of convolutions and linear layers, or "all" parameters.
      warm_up: so many first steps at a tenth of the rate; or, below 1, until the training error is below this.
      caffe: whether the velocity is Caffe's, v = m v + lr g, and not Torch's, v = m v + g: where the rate changes, the
        steps that were taken at the old one go on.
      rebuilds: whether the optimizer is built anew at each drop, without its momentum.
      padding: what a crop reads outside the image, "constant" zeros or "reflect".
      per_pixel: subtract the mean training image, instead of normalising each channel.
    """

    network: Callable[[], Any]
    drops: tuple[int, ...]
    weight_decay: float
    factor: float = 0.1
    rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    decayed: str = "all"
    warm_up: float = 0
    caffe: bool = False
    rebuilds: bool = False
    padding: str = "constant"
    per_pixel: bool = False


class Program:
    """Training by a recipe, a step at a time.

    Args:
      recipe: what to do.
      images, labels: the training set, uint8 [N, 32, 32, 3] and int [N].
      state: initial parameters and BN statistics by their key of `state_dict`.
      dtype: precision of all that is computed, torch.float32 or torch.float64.
    """

    def __init__(
        self,
        recipe: Recipe,
        images: np.ndarray,
        labels: np.ndarray,
        state: dict[str, np.ndarray],
        dtype: Any = torch.float32,
    ):
        self._recipe, self._images, self._labels, self._dtype = recipe, images, labels, dtype
        self._mean, self._std = torch.tensor(CHANNEL_MEAN), torch.tensor(CHANNEL_STD)
        if recipe.per_pixel:
            self._mean, self._std = torch.tensor(images.mean(0, dtype=np.float64)).float(), torch.ones(3)
        self._network = recipe.network().train().to(dtype)
        weights = [p for p in self._network.parameters() if p.ndim > 1]
        others = [p for p in self._network.parameters() if p.ndim == 1]
        groups = [
            {"params": weights, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": recipe.weight_decay if recipe.decayed == "all" else 0.0},
        ]
        self._optimizer = torch.optim.SGD(groups, recipe.rate, recipe.momentum, nesterov=recipe.nesterov)
        self._error, self._is_warm = 1.0, not 0 < recipe.warm_up < 1
        self.load(state, {})

    def load(self, state: dict[str, np.ndarray], velocity: dict[str, np.ndarray]) -> None:
        """Goes on from these parameters and BN statistics, and from this momentum; {} is none."""
        keys = {key for key in self._network.state_dict() if not key.endswith("num_batches_tracked")}
        assert keys == set(state), keys ^ set(state)
        self._network.load_state_dict({key: torch.tensor(array) for key, array in state.items()}, strict=False)
        self._optimizer.state.clear()
        for key, parameter in self._network.named_parameters():
            if velocity:
                self._optimizer.state[parameter]["momentum_buffer"] = (
                    torch.tensor(velocity[key]).to(self._dtype) / self._unit()
                )

    def state(self) -> dict[str, np.ndarray]:
        """Copies of parameters and BN statistics by key."""
        state = self._network.state_dict().items()
        return {key: value.numpy().copy() for key, value in state if not key.endswith("num_batches_tracked")}

    def velocity(self) -> dict[str, np.ndarray]:
        """Copies of the momentum by the key of its parameter, Caffe's where the recipe has that."""
        parameters = self._network.named_parameters()
        return {k: (self._optimizer.state[p]["momentum_buffer"] * self._unit()).numpy() for k, p in parameters}

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        recipe = self._recipe
        rate = recipe.rate * recipe.factor ** sum(step >= drop for drop in recipe.drops)
        is_warm = self._is_warm if 0 < recipe.warm_up < 1 else step >= recipe.warm_up
        return rate if is_warm else rate / 10

    def saw_error(self, error: float) -> None:
        """Counts a batch's training error: the average over about 50 of them ends a warm-up that waits for it."""
        self._error = 0.98 * self._error + 0.02 * error
        self._is_warm = self._is_warm or self._error < self._recipe.warm_up

    def step(self, step: int, index: np.ndarray, offsets: np.ndarray, mirrored: np.ndarray) -> tuple[float, float]:
        """Trains on the images of `index`; returns (loss, error) before the update.

        Args:
          step: number of the step, from 0.
          index: int [n].
          offsets: int [n, 2], row and column at which a crop begins in the image padded by 4.
          mirrored: bool [n].
        """
        if self._recipe.rebuilds and step in self._recipe.drops:
            self._optimizer.state.clear()
        self._set_rate(self.rate(step))
        labels = torch.tensor(self._labels[index]).long()
        logits = self._network(self._inputs(index, offsets, mirrored))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.item(), (logits.argmax(1) != labels).float().mean().item()

    def _unit(self) -> float:
        """What PyTorch's buffer is multiplied by for the velocity of the recipe."""
        return self._optimizer.param_groups[0]["lr"] if self._recipe.caffe else 1.0

    def _set_rate(self, rate):
        before = self._unit()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        for state in self._optimizer.state.values():
            state["momentum_buffer"] *= before / self._unit()

    def _inputs(self, index, offsets, mirrored):
        images = ((torch.tensor(self._images[index]).float() - self._mean) / self._std).to(self._dtype)
        padded = torch.nn.functional.pad(images.permute(0, 3, 1, 2), (4,) * 4, mode=self._recipe.padding)
        crops = [
            image[:, row : row + 32, column : column + 32]
            for image, (row, column) in zip(padded, offsets.tolist(), strict=True)
        ]
        return torch.stack([crop.flip(2) if flip else crop for crop, flip in zip(crops, mirrored, strict=True)])
