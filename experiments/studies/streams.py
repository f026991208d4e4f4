"""How much of which earlier block each block reads, in a network with several residual streams."""

import dataclasses

import numpy as np

from experiments.studies.study import OPEN, Measurements, Study, Verdict
from resjax import analysis
from resjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Weights that depend on the image are averaged."""

    images: int = 64
    """Number of test images."""

    def __post_init__(self):
        if self.images < 1:
            raise InputError(f"--streams.images: expected a positive integer, got {self.images}")


def measure(measurements: Measurements):
    network = measurements.residual()
    if getattr(network.model, "streams", None) is None:
        raise InputError(
            f"{network.name}: has one residual stream; train one with --model.streams.count 4, or with"
            " --model.streams.key_epsilon 1e-6 for attention over depth"
        )
    images = network.images[: measurements.options.streams.images]
    stages = analysis.stream_mixing(network.model, network.variables, images)
    if not stages:
        raise InputError(f"{network.name}: its stages have one block each, which has one stream")
    return {
        "name": network.name,
        "rule": str(network.model.streams),
        "stages": [dataclasses.asdict(stage) for stage in stages],
    }


def draw(figure, result):
    stages = result["stages"]
    extent = max(np.max(np.abs(stage["connections"])) for stage in stages)
    for panel, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        connections = np.array(stage["connections"])
        n = len(connections)
        shown = np.ma.masked_where(np.triu(np.ones((n, n)), 1) > 0, connections)
        image = panel.imshow(shown, cmap="RdBu_r", vmin=-extent, vmax=extent)
        if n <= 8:
            for i, j in zip(*np.tril_indices(n), strict=True):
                light = abs(connections[i, j]) > 0.6 * extent
                panel.text(
                    j, i, f"{connections[i, j]:.2f}", ha="center", va="center", size=7, color="w" if light else "k"
                )
        blocks = [str(i + 2) for i in range(n - 1)]
        step = max(1, n // 10)
        panel.set_xticks(range(0, n, step), ["first", *blocks][::step])
        panel.set_yticks(range(0, n, step), [*blocks, "end"][::step])
        panel.grid(visible=False)
        panel.set(xlabel="output of block", title=stage["stage"])
    figure.axes[0].set_ylabel("read by block")
    figure.colorbar(image, ax=figure.axes, shrink=0.8, label="weight; 1 in a plain residual network")


def shows(result):
    sentences = []
    for stage in result["stages"]:
        connections = np.array(stage["connections"])
        rows, columns = np.tril_indices(len(connections))
        read = connections[rows, columns]
        text = (
            f"{stage['stage']}: of the earlier outputs, blocks read {read.min():.2f} to {read.max():.2f} times each"
            f" ({read.mean():.2f} on average)"
        )
        if stage["matrices"] is None:
            equal = np.concatenate([np.full(i + 1, 1 / (i + 1)) for i in range(len(connections))])
            text += (
                f"; the weights differ from the equal ones at first by {np.abs(read - equal).mean():.3f} on average."
            )
        else:
            matrices = np.array(stage["matrices"])
            n = matrices.shape[-1] - 1
            kept = np.abs(matrices[:, 1:, 1:] - np.eye(n)).mean()
            written = matrices[:, 0, 1:]
            text += (
                f". The mixing matrices of {n} stream{'s' if n > 1 else ''} differ from the identity by {kept:.3f} an"
                f" entry, and branches are written with factors of {written.min():.2f} to {written.max():.2f};"
                " at first they are the identity and 1."
            )
        sentences.append(text)
    return [f"{result['name']}, {result['rule']}.", *sentences]


def judge(result):
    return Verdict(OPEN, "neither source has convolutional networks")


def _about(measurements):
    return f"{measurements.trained().name}; {measurements.options.streams.images:,} test images"


STUDY = Study(
    "Residual streams: how much of which block each block reads",
    "Zhu et al. 2024, Hyper-Connections, arXiv 2409.19606, section 4.5; Kimi Team 2026, arXiv 2603.15031",
    "In a language model with four dynamic streams, blocks read few adjacent outputs and those of the first layers: the"
    " matrix has the shape of a lambda. The input of the network is not in its output. Neither source has convolutional"
    " networks on CIFAR.",
    "Each row is a block, each column an earlier output that it reads. Equal weights below the diagonal are one"
    " residual stream as usual; a bright diagonal is a block that reads only its neighbour.",
    "Open: neither source has convolutional networks.",
    judge,
    measure,
    draw,
    shows,
    size=(12, 4.2),
    place=185,
    about=_about,
    options=Options,
    no_plain="A plain network has no residual stream.",
)
