"""Whether two networks lie in one valley of the loss once their channels are in one order."""

import dataclasses
import pathlib

import numpy as np

from experiments.evaluation.trained import load_run, load_weights
from experiments.studies.study import AGREES, DIFFERS, PARTLY, Measurements, Study, Verdict, percent
from experiments.training.workdir import is_run
from resjax import analysis
from resjax.errors import InputError
from resjax.models import restack, unrolled

_CURVES = {
    "as they are": (False, False),
    "as they are, BN reset": (False, True),
    "matched": (True, False),
    "matched, BN reset": (True, True),
}
"""Whether channels are matched, and BN statistics recomputed."""
_COPY = "a copy with its channels in random order"


@dataclasses.dataclass(frozen=True)
class Options:
    """The line between two networks."""

    other: str | None = None
    """A network of the same architecture: the workdir of a run, a name of resjax.list_pretrained(), or a folder of
    resjax.save_pretrained; default: a copy of the network with its channels in random order."""
    images: int = 256
    """Number of test images, whose statistics BN takes where it is reset."""
    points: int = 7
    """Points on the line, both ends included."""

    def __post_init__(self):
        if self.images < 2 or self.points < 3:
            raise InputError(
                "--connectivity.images, --connectivity.points: expected at least 2 and 3, got"
                f" {self.images} and {self.points}"
            )


def measure(measurements: Measurements):
    result, plain = {}, measurements.plain if measurements.options.connectivity.other is None else None
    for kind, network in (("network", measurements.trained()), ("plain", plain)):
        if network is not None:
            result[kind] = _line(measurements, network)
    return result


def _line(measurements, network):
    options, seed = measurements.options.connectivity, measurements.options.seed
    images, labels = network.images[: options.images], network.labels[: options.images]
    model, variables = unrolled(network.model), restack(network.variables, ())
    groups = analysis.exchangeable_channels(model, variables, images)
    if options.other is None:
        rng = np.random.default_rng(seed)
        name = _COPY
        others = analysis.permuted(variables, groups, [rng.permutation(group.size) for group in groups])
    else:
        found = _other(options.other, measurements.options)
        name, others = found.name, restack(found.variables, ())
    matched = analysis.permuted(others, groups, analysis.match_weights(variables, others, groups, seed))
    fractions = np.linspace(0, 1, options.points)
    curves = {}
    for curve, (matches, resets) in _CURVES.items():
        ends = (variables, matched if matches else others, fractions)
        losses, errors = analysis.losses_between(model, *ends, images, labels, resets, **measurements.predict_options)
        curves[curve] = {"loss": losses, "error": errors, "barrier": analysis.barrier(losses)}
    return {
        "name": network.name,
        "other": name,
        "images": len(labels),
        "groups": len(groups),
        "channels": sum(group.size for group in groups),
        "fractions": fractions,
        "curves": curves,
    }


def _other(subject, options):
    if is_run(pathlib.Path(subject).expanduser()):
        return load_run(subject, options.checkpoint, options.images, options.data_dir)
    return load_weights(None, subject, options.dataset, options.images, options.data_dir)


def draw(figure, result):
    axes = figure.subplots(1, 2, sharex=True)
    for (kind, found), marker in zip(result.items(), ("o", "s"), strict=False):
        for i, (curve, values) in enumerate(found["curves"].items()):
            style = {"color": f"C{i}", "marker": marker, "ms": 3.5, "ls": "-" if kind == "network" else ":"}
            axes[0].plot(found["fractions"], values["loss"], label=f"{kind}: {curve}", **style)
            axes[1].plot(found["fractions"], 100 * np.array(values["error"]), **style)
    axes[0].set(ylabel="cross-entropy", title="loss", ylim=(0, None))
    axes[1].set(ylabel="test error (%)", title="error", ylim=(0, 100))
    for panel in axes:
        panel.set_xlabel("from the network to the other")
    # The legend is below: a curve may be anywhere in the axes.
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=4)


def shows(result):
    sentences = []
    for found in result.values():
        barriers = {curve: values["barrier"] for curve, values in found["curves"].items()}
        middle = {curve: values["error"][len(values["error"]) // 2] for curve, values in found["curves"].items()}
        sentences.append(
            f"{found['name']} and {found['other']}, {found['images']} images: {found['channels']} channels in"
            f" {found['groups']} groups can change places. The barrier of the loss is"
            f" {barriers['as they are']:.2f} as they are, {barriers['as they are, BN reset']:.2f} with BN reset,"
            f" {barriers['matched']:.2f} matched, and {barriers['matched, BN reset']:.2f} with both. In the middle, the"
            f" error is {percent(middle['as they are'])} as they are, {percent(middle['matched, BN reset'])} with both."
        )
    if result["network"]["other"] == _COPY:
        sentences.append("--connectivity.other compares two networks that were trained apart.")
    return sentences


def judge(result):
    found = result["network"]
    before, after = (found["curves"][curve]["barrier"] for curve in ("as they are", "matched, BN reset"))
    why = f"matching and new BN statistics take the barrier from {before:.2f} to {after:.2f}"
    why += ", as they must for a copy" if found["other"] == _COPY else ""
    return Verdict(AGREES if after < 0.5 * before else PARTLY if after < before else DIFFERS, why)


def _about(measurements):
    networks = [network.name for network in (measurements.network, measurements.plain) if network is not None]
    return f"{'; plain: '.join(networks)}; {measurements.options.connectivity.images:,} test images"


STUDY = Study(
    "Connectivity: two networks with their channels in one order",
    "Ainsworth et al. 2023, Git Re-Basin, arXiv 2209.04836, sections 3 and 5; Jordan et al. 2023, REPAIR, arXiv"
    " 2211.08403",
    "Channels can change places without a change of the function. Once those of two wide networks are in one order, the"
    " line between them has hardly any barrier; a ResNet-20 must be 32 times as wide. Networks on the line lose the"
    " variance of their activations. New BN statistics give it back, and lower the barrier by 60 to 100 %.",
    "From left to right, the weights go over from one network to the other. A hump in the middle is a barrier. It"
    " should be lower once equal channels are in equal places, and lower still with new BN statistics.",
    "Agrees if matching and new BN statistics take away more than half of the barrier, in part if some of it.",
    judge,
    measure,
    draw,
    shows,
    place=180,
    about=_about,
    options=Options,
)
