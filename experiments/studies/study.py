"""A study: one experiment of a paper, measured on a network, drawn, and stated in words."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import jax
import numpy as np
import platformdirs
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

import resjax
from experiments.configs.named import network_text
from experiments.evaluation.trained import TrainedModel
from experiments.runtime.files import read_json, to_json, write
from experiments.training.workdir import Workdir, read_saved_run
from resjax import analysis
from resjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class CommonOptions:
    """What to analyse, and how thoroughly. The defaults suit a CPU. The papers used all images and more draws."""

    of: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN|NAME|FILE ..")] = ()
    """A run of experiments.cifar, by its workdir, or trained weights: a name of resjax.list_pretrained(); a folder of
    resjax.save_pretrained; or, with --model, a file of PyTorch weights. degradation and stochastic_depth compare
    several runs."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run to analyse."""
    model: str | None = None
    """Network of a file of PyTorch weights, e.g. resnet_18."""
    weights_key: str | None = None
    """For a file with several sets of weights: the key to read, see experiments.evaluate."""
    dataset: str | None = None
    """Dataset of weights; a run has its own; default: the weights' own, or cifar10."""
    mean: tuple[float, float, float] | None = None
    """For a file of PyTorch weights: mean of the images, see experiments.evaluate."""
    std: tuple[float, float, float] | None = None
    """For a file of PyTorch weights: standard deviation of the images, see experiments.evaluate."""
    plain: str | None = None
    """A trained plain network (vgg_15, ..) to compare with: the workdir of a run, a name of
    resjax.list_pretrained(), or a folder of resjax.save_pretrained."""
    runs: tuple[str, ...] = ()
    """Workdirs that all compares, of plain and residual networks of several depths, with and without stochastic depth;
    default: those given first."""
    data_dir: str | None = None
    """Folder of the data, as for experiments.cifar; default: the run's own, else TFDS's."""
    images: int = 1000
    """Number of test images; 0 takes all."""
    draws: int = 10
    """Random lesions of each number of blocks, and random orders of each number of swaps."""
    path_images: int = 64
    """Number of images for gradients; each takes its own path."""
    path_draws: int = 4
    """Passes for each path length; each pass follows path_images paths."""
    networks: int = 5
    """Networks that shattered draws at initialisation for each depth; the paper draws 20."""
    points: int = 128
    """Points of the grid of shattered; the paper has 256."""
    batch_size: int = 256
    """Images at a time, over all devices."""
    seed: int = 0
    """Seed of all random draws."""
    output: str | None = None
    """Folder for figures and numbers; default: analysis, in the folder of the run if it is one."""
    compilation_cache: str = "auto"
    """Folder of compiled programs; auto: in the user's cache folder; off: none."""

    @property
    def compared(self) -> tuple[str, ...]:
        """The workdirs that are compared; weights of the library are none."""
        return self.runs or tuple(run for run in self.of if run not in resjax.list_pretrained())


class Measurements:
    """The analysed networks, and measurements that several studies use; each is made once.

    Attributes:
      options: the options of the command, `experiments.studies.Options`.
      network: the network that is analysed, or None.
      plain: a plain network to compare with, or None.
    """

    def __init__(self, options: Any, network: TrainedModel | None, plain: TrainedModel | None):
        self.options, self.network, self.plain = options, network, plain
        self._lesions: dict[TrainedModel, dict[str, np.ndarray]] = {}

    def kept(self, name: str, about: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of `measure`, as JSON types, from the user's cache folder if it was measured before.

        Args:
          name: of the study.
          about: all that the result depends on, arrays included.
          measure: what is run where the cache has nothing.
        """
        digest = hashlib.sha256(repr((resjax.__version__, jax.__version__, jax.default_backend())).encode())
        for key in sorted(about):
            value = about[key]
            digest.update(f"{key}:{value!r}".encode() if not isinstance(value, np.ndarray) else value.tobytes())
        file = platformdirs.user_cache_path("resjax") / "studies" / f"{name}-{digest.hexdigest()[:20]}.json"
        if file.is_file():
            try:
                return read_json(file)
            except InputError:
                pass  # a damaged copy is measured again, and replaced
        result = to_json(measure())
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, result)
        except OSError as error:
            print(f"{file}: not kept for the next time: {error}", file=sys.stderr)
        return result

    def track(self, steps: Sequence[Any], what: str) -> Iterable[Any]:
        """The steps of a study, with a bar on a terminal."""
        console = Console(stderr=True)
        return track(steps, what, console=console, transient=True, disable=not console.is_terminal)

    def residual(self) -> TrainedModel:
        """The network that is analysed; raises InputError unless it has residual blocks."""
        network = self.trained()
        if network.model.num_blocks == 0:
            raise InputError(f"{network.name}: has no residual blocks; name a residual network")
        return network

    def trained(self) -> TrainedModel:
        """The network that is analysed; raises InputError if none is given."""
        if self.network is None:
            raise InputError("name a trained network: RUN, NAME, or FILE --model NAME (see --help)")
        return self.network

    @property
    def predict_options(self) -> dict[str, Any]:
        return {"batch_size": self.options.batch_size}

    def lesions(self, network: TrainedModel) -> dict[str, np.ndarray]:
        """Predictions, int: "base" [N], "single" [n, N], "skip" [n, N] (residual networks), "random" [n + 1, draws, N].

        Parts are the blocks of a residual network, the removable layers of a plain one.
        """
        if network not in self._lesions:
            self._lesions[network] = self._measure(network)
        return self._lesions[network]

    def _measure(self, network):
        model, variables, images = network.model, network.variables, network.images
        residual = model.num_blocks > 0
        n = model.num_blocks if residual else len(analysis.removable_layers(model, variables, images))
        draws = self.options.draws
        single = analysis.single_lesions(n)
        drawn = analysis.random_lesions(self.options.seed, n, draws)
        # Without any part deleted, or with all deleted, every draw is the same.
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


def about_networks(measurements: Measurements) -> str:
    """The networks of a figure, and on how many test images they are measured."""
    networks = [network.name for network in (measurements.network, measurements.plain) if network is not None]
    return f"{'; plain: '.join(networks)}; {len(measurements.trained().images):,} test images"


def about_paths(measurements: Measurements) -> str:
    """The same of a study of the network alone that is measured on --path_images."""
    return f"{measurements.trained().name}; {measurements.options.path_images:,} test images"


def about_runs(measurements: Measurements) -> str:
    """The networks, data, test images and epochs of the runs that a figure compares."""
    runs = measurements.options.compared
    saved = [read_saved_run(run) for run in runs]
    networks = dict.fromkeys(network_text(run.config.identity()).split(", ")[0] for run in saved)
    splits = [(run.data or {}).get("splits", {}) for run in saved]
    images = {split["images"] for of_run in splits for name, split in of_run.items() if name != "train"}
    epochs = {records[-1]["epoch"] for run in runs if (records := Workdir(run).records())} or {0}
    data = ", ".join(sorted({run.config.dataset for run in saved}))
    counted = f"; {_extent(images)} test images" if images else ""
    return f"{', '.join(networks)} on {data}{counted}; {_extent(epochs)} epoch{'' if epochs == {1} else 's'}"


def _extent(counts: set[int]) -> str:
    return f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"


AGREES, PARTLY, DIFFERS, OPEN = "agrees", "agrees in part", "does not agree", "open"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a network shows what a paper found.

    Attributes:
      says: `AGREES`, `PARTLY`, `DIFFERS`, or `OPEN` where the numbers do not say it.
      why: the numbers that it follows from, a part of a sentence.
    """

    says: str
    why: str

    def __str__(self) -> str:
        if self.says == OPEN:
            return f"Whether it agrees with the paper is open: {self.why}."
        return f"{self.says.capitalize()} with the paper: {self.why}."


@dataclasses.dataclass(frozen=True)
class Study:
    """One experiment.

    Attributes:
      title: title of its figure.
      source: paper, and place in it.
      published: what the paper found.
      see: what to look for in the figure, for somebody who has not read the paper.
      rule: when the verdict is which, in words.
      judge: the verdict of the numbers, by that rule.
      measure: returns the numbers as JSON types; arrays may be NumPy's.
      draw: draws the numbers on a figure.
      shows: says in sentences what the numbers show.
      size: size of the figure in inches.
      place: in the report; a study with a smaller number comes before.
      about: what its figure shows, below its title: networks, data, number of images.
      options: dataclass of its own options, each with a default; None if it has none.
      compares_runs: whether it reads what several runs recorded in training, and no trained network.
      no_plain: why a plain network is not drawn beside the residual one, where it is not.
    """

    title: str
    source: str
    published: str
    see: str
    rule: str
    judge: Callable[[dict[str, Any]], Verdict]
    measure: Callable[[Measurements], dict[str, Any]]
    draw: Callable[[Figure, dict[str, Any]], None]
    shows: Callable[[dict[str, Any]], list[str]]
    size: tuple[float, float] = (11, 4.2)
    place: int = 0
    about: Callable[[Measurements], str] = about_networks
    options: type | None = None
    compares_runs: bool = False
    no_plain: str = ""

    def sentences(self, result: dict[str, Any]) -> list[str]:
        """What the numbers show, with the verdict."""
        return [*self.shows(result), str(self.judge(result))]


def percent(fraction: float) -> str:
    """0.1234 -> "12.3 %"."""
    return f"{100 * fraction:.1f} %"
