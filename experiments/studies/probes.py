"""Accuracy of a linear probe and of nearest neighbours behind each block."""

import dataclasses

import numpy as np

from experiments.runtime.figures import whole_numbers
from experiments.studies.study import AGREES, DIFFERS, PARTLY, Measurements, Study, Verdict, percent
from resjax import analysis, train
from resjax.data import load_dataset
from resjax.errors import InputError

_FALL = 0.02  # a probe counts as worse than the one before from this change of accuracy on


@dataclasses.dataclass(frozen=True)
class Options:
    """The probes."""

    images: int = 2000
    """Number of training images that the probes are fitted to; 0 takes all."""
    neighbours: int = 20
    """Number of nearest neighbours that vote."""

    def __post_init__(self):
        if self.images < 0 or self.neighbours < 1:
            raise InputError(
                f"--probes.images, --probes.neighbours: expected an integer >= 0 and a positive one, got {self.images}"
                f" and {self.neighbours}"
            )


def measure(measurements: Measurements):
    options, result = measurements.options.probes, {}
    for kind, network in (("network", measurements.trained()), ("plain", measurements.plain)):
        if network is None:
            continue
        known = load_dataset(network.dataset, "train", measurements.options.data_dir)
        number = options.images or len(known.labels)
        images, labels = np.asarray(network.normalize(known.images[:number])), known.labels[:number]
        every = np.concatenate([images, network.images])
        features = analysis.pooled_features(network.model, network.variables, every, **measurements.predict_options)
        fitted, tested = (
            {block: of[part] for block, of in features.items()} for part in np.s_[: len(labels), len(labels) :]
        )
        classes, linear, nearest = network.model.num_classes, [], []
        for block in measurements.track(list(fitted), "probes"):
            kernel, bias = analysis.ridge_classifier(fitted[block], labels, classes)
            linear.append(np.mean((tested[block] @ kernel + bias).argmax(1) == network.labels))
            votes = train.nearest_neighbours(fitted[block], labels, tested[block], classes, options.neighbours)
            nearest.append(np.mean(votes.argmax(1) == network.labels))
        shapes = [features.shape[1] for features in fitted.values()]
        result[kind] = {
            "name": network.name,
            "blocks": list(fitted),
            "training_images": len(labels),
            "linear": linear,
            "nearest": nearest,
            "wider": [i for i in range(1, len(shapes)) if shapes[i] != shapes[i - 1]],
        }
    return result


def draw(figure, result):
    linear, nearest = figure.subplots(1, 2, sharey=True)
    for found, color in zip(result.values(), ("C0", "C1"), strict=False):
        place = np.arange(len(found["blocks"])) + 1
        for axes, key in ((linear, "linear"), (nearest, "nearest")):
            axes.plot(place, 100 * np.array(found[key]), "o-", ms=3.5, color=color, label=found["name"])
            for i in found["wider"]:
                axes.axvline(
                    i + 1, color=color, lw=0.8, ls=":", label="wider from here" if i == found["wider"][0] else None
                )
    linear.set(xlabel="block", ylabel="test accuracy (%)", title="linear probe")
    nearest.set(xlabel="block", title="nearest neighbours")
    for axes in (linear, nearest):
        whole_numbers(axes)
        axes.set_ylim(0, 100)
        axes.legend(loc="lower right", fontsize=7)


def shows(result):
    sentences = []
    for found in result.values():
        linear, nearest = np.array(found["linear"]), np.array(found["nearest"])
        falls = int((np.diff(linear) < -_FALL).sum())
        sentences.append(
            f"{found['name']}: a linear probe behind the first block is right on {percent(linear[0])} of the test"
            f" images, behind the last on {percent(linear[-1])}; nearest neighbours on {percent(nearest[0])} and"
            f" {percent(nearest[-1])}. It is fitted to {found['training_images']:,} training images. At {falls} of"
            f" {len(linear) - 1} blocks it loses more than {100 * _FALL:.0f} points."
        )
        if found["wider"]:
            gains = np.diff(linear)
            wider = gains[np.array(found["wider"]) - 1].mean()
            others = np.delete(gains, np.array(found["wider"]) - 1)
            if others.size:
                sentences.append(
                    f"A block that widens the features gains {100 * wider:+.1f} points on average, another"
                    f" {100 * others.mean():+.1f}."
                )
    return sentences


def judge(result):
    linear = np.array(result["network"]["linear"])
    falls, rises = int((np.diff(linear) < -_FALL).sum()), linear[-1] > linear[0]
    why = f"the probe is right on {percent(linear[0])} behind the first block and on {percent(linear[-1])} behind the"
    why += f" last, and falls at {falls} of {len(linear) - 1} blocks"
    return Verdict(AGREES if rises and not falls else PARTLY if rises else DIFFERS, why)


STUDY = Study(
    "Linear probes behind each block",
    "Alain & Bengio 2016, arXiv 1610.01644, sections 3 and 4",
    "Without being trained for it, features become more and more linearly separable with depth: the error of a linear"
    " classifier behind each layer falls monotonically, in ResNet-50 and in Inception v3.",
    "A curve that rises from block to block: each makes the classes easier to tell apart with a flat cut, although only"
    " the last one was asked to. Dotted lines are blocks that widen the features.",
    f"Agrees if the accuracy of the linear probe rises from the first block to the last, and falls at none by more than"
    f" {100 * _FALL:.0f} points; in part if it only rises from the first to the last.",
    judge,
    measure,
    draw,
    shows,
    place=120,
    options=Options,
)
