"""A study: one experiment of a paper, measured on a network, drawn, and put in words."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from experiments.subject import Subject
from resjax import analysis
from resjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """What is analysed, and how thoroughly. The defaults are for a CPU; papers used all images and more draws."""

    run: str | None = None
    """Workdir of a trained network, of experiments.cifar."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which of its checkpoints."""
    model: str | None = None
    """Instead of --run: a network by name, with --weights."""
    weights: str | None = None
    """Instead of --run: a directory of resjax.save_pretrained, or with --model a file of PyTorch's weights."""
    dataset: str | None = None
    """Data set of --weights; default: what they say themselves, or cifar10. A run has its own."""
    mean: tuple[float, float, float] | None = None
    """Of a file of PyTorch's weights: see experiments.evaluate."""
    std: tuple[float, float, float] | None = None
    """Likewise."""
    plain: str | None = None
    """Workdir of a plain network (vgg_15, plain_20, ..), to be set beside the residual one."""
    runs: tuple[str, ...] = ()
    """Workdirs to compare: plain and residual ones of several depths, with and without stochastic depth."""
    data_dir: str | None = None
    """Folder of the data, as experiments.cifar takes it; default: that of the run, or else TFDS's own."""
    images: int = 1000
    """Test images; 0 takes all."""
    draws: int = 10
    """Random lesions of each number of blocks, and random orders of each number of swaps."""
    path_images: int = 64
    """Images for gradients, each on a path of its own."""
    path_draws: int = 4
    """Passes for each length of path: so many times path_images paths."""
    networks: int = 5
    """shattered: networks drawn at initialisation for each depth; the paper has 20."""
    points: int = 128
    """shattered: points of the grid; the paper has 256."""
    batch_size: int = 256
    """Images at a time, over all devices."""
    seed: int = 0
    """Seed of everything that is drawn."""
    output: str | None = None
    """Folder for figures and numbers; default: analysis in the folder of --run."""
    compilation_cache: str = "auto"
    """Folder of compiled programs; auto: in the user's cache folder; off: none."""


class Bench:
    """The networks on the bench, with what several studies measure on them, measured once.

    Attributes:
      options: of the command.
      subject: the network that is analysed, or None.
      plain: a plain network beside it, or None.
    """

    def __init__(self, options: Options, subject: Subject | None, plain: Subject | None):
        self.options, self.subject, self.plain = options, subject, plain
        self._lesions: dict[str, dict[str, np.ndarray]] = {}

    def residual(self) -> Subject:
        """The network that is analysed; raises InputError unless it has residual blocks."""
        subject = self.trained()
        if subject.model.num_blocks == 0:
            raise InputError(f"{subject.name}: has no residual blocks; give a residual network as --run")
        return subject

    def trained(self) -> Subject:
        """The network that is analysed; raises InputError where none is given."""
        if self.subject is None:
            raise InputError("give a trained network: --run WORKDIR, or --model NAME --weights FILE")
        return self.subject

    @property
    def predict_options(self) -> dict[str, Any]:
        return {"batch_size": self.options.batch_size}

    def lesions(self, subject: Subject) -> dict[str, np.ndarray]:
        """Predictions, int: "base" [N], "single" [n, N], "skip" [n, N] (residual networks), "random" [n + 1, draws, N].

        Parts are the blocks of a residual network, the removable layers of a plain one.
        """
        if subject.name not in self._lesions:
            self._lesions[subject.name] = self._measure(subject)
        return self._lesions[subject.name]

    def _measure(self, subject):
        model, variables, images = subject.model, subject.variables, subject.images
        residual = model.num_blocks > 0
        n = model.num_blocks if residual else len(analysis.removable_layers(model, variables, images))
        draws = self.options.draws
        single = analysis.single_lesions(n)
        drawn = analysis.random_lesions(self.options.seed, n, draws)
        # Without any part, and without all of them, one draw is like another.
        parts = [drawn[0, :1], single, drawn[1:-1].reshape(-1, n), drawn[-1, :1]]
        removed = np.concatenate(parts)
        if residual:
            skips = np.concatenate([np.zeros_like(removed), single])
            removed = np.concatenate([removed, np.zeros_like(single)])
            classes = analysis.predict_without_blocks(model, variables, images, removed, skips, **self.predict_options)
        else:
            classes = analysis.predict_without_layers(model, variables, images, removed, **self.predict_options)
        base, alone, random, everything, skip = np.split(classes, np.cumsum([len(part) for part in parts]))
        random = np.concatenate([base.repeat(draws, 0), random, everything.repeat(draws, 0)])
        result = {"base": base[0], "single": alone, "random": random.reshape(n + 1, draws, -1)}
        return result | ({"skip": skip} if residual else {})


@dataclasses.dataclass(frozen=True)
class Study:
    """One experiment.

    Attributes:
      title: of its figure.
      source: paper and place.
      published: what the paper found.
      measure: the numbers, as JSON has them but for arrays, which may be of NumPy.
      draw: draws the numbers on a figure.
      shows: what the numbers say, in sentences.
      size: of the figure in inches.
    """

    title: str
    source: str
    published: str
    measure: Callable[[Bench], dict[str, Any]]
    draw: Callable[[Figure, dict[str, Any]], None]
    shows: Callable[[dict[str, Any]], list[str]]
    size: tuple[float, float] = (11, 4.2)


def percent(share: float) -> str:
    """0.1234 -> "12.3 %"."""
    return f"{100 * share:.1f} %"
