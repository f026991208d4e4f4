"""Lesions of blocks, of skips, and of the layers of a plain network."""

import numpy as np

from experiments.runtime.figures import whole_numbers
from experiments.studies.study import AGREES, DIFFERS, PARTLY, Measurements, Study, Verdict, percent
from resjax import analysis

_HARMLESS = 0.1  # of the way from the error to chance: so much a deleted block may cost


def measure(measurements: Measurements):
    network = measurements.trained()
    shown = {"network": _errors(measurements, network)}
    if measurements.plain is not None:
        shown["plain"] = _errors(measurements, measurements.plain)
    return shown


def _errors(measurements, network):
    lesions = measurements.lesions(network)
    errors = {name: analysis.error_rates(classes, network.labels) for name, classes in lesions.items()}
    transitions = []
    if network.model.num_blocks:
        transitions = analysis.transition_blocks(network.model, network.variables, network.images)
    return {
        "name": network.name,
        "images": len(network.labels),
        "chance": 1 - 1 / network.model.num_classes,
        "base": float(errors["base"]),
        "single": errors["single"],
        "skip": errors.get("skip"),
        "transitions": transitions,
        "quartiles": np.percentile(errors["random"], [25, 50, 75], axis=1),
        "random_mean": errors["random"].mean(1),
    }


def draw(figure, result):
    single, several = figure.subplots(1, 2)
    for (kind, errors), color in zip(result.items(), ("C0", "C1"), strict=False):
        n = len(errors["single"])
        part = "block" if errors["skip"] is not None else "layer"
        place = np.arange(n) + 1
        single.plot(place, 100 * np.array(errors["single"]), "o-", ms=3.5, color=color, label=f"{kind}: {part} deleted")
        if errors["skip"] is not None:
            single.plot(place, 100 * np.array(errors["skip"]), "x:", ms=4, color="C2", label="skip removed instead")
            down = np.array(errors["transitions"], int)
            single.plot(
                down + 1,
                100 * np.array(errors["single"])[down],
                "s",
                ms=8,
                mfc="none",
                color=color,
                label="down-sampling",
            )
        single.axhline(100 * errors["base"], color=color, lw=0.8, ls="--")
        low, median, high = 100 * np.array(errors["quartiles"])
        several.plot(np.arange(n + 1), median, "o-", ms=3.5, color=color, label=f"{kind}, {part}s: median")
        several.fill_between(np.arange(n + 1), low, high, color=color, alpha=0.2, lw=0, label="quartiles")
    for axes in (single, several):
        axes.axhline(100 * result["network"]["chance"], color="gray", lw=0.8, ls=":", label="chance")
        axes.set_ylabel("test error (%)")
        axes.set_ylim(0, 100)
        whole_numbers(axes)
        # The legend is below: a curve may be anywhere in the axes.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    single.set(xlabel="deleted block or layer (dashed: none)", title="one deleted")
    several.set(xlabel="number deleted", title="several, at random")


def shows(result):
    sentences = []
    for errors in result.values():
        single, base = np.array(errors["single"]), errors["base"]
        inner = _inner(errors)
        if errors["skip"] is None:
            sentences.append(
                f"{errors['name']}: error {percent(base)} without deletions. With one layer deleted, the median is"
                f" {percent(np.median(single))} and the minimum {percent(single.min())} (chance:"
                f" {percent(errors['chance'])})."
            )
            continue
        sentences.append(
            f"{errors['name']}, {errors['images']} images: error {percent(base)} without deletions. With one block"
            f" deleted that keeps the shape, the median is {percent(np.median(inner))} and the maximum"
            f" {percent(inner.max())}."
        )
        if errors["transitions"]:
            down = single[errors["transitions"]]
            sentences.append(f"Without the branch of a down-sampling block: {', '.join(map(percent, down))}.")
        sentences.append(f"Without one skip instead, the median is {percent(np.median(errors['skip']))}.")
        half = len(single) // 2
        mean = np.array(errors["random_mean"])
        sentences.append(
            f"Without {half} of {len(single)} random blocks: {percent(mean[half])} on average. The mean error grows by"
            f" at most {percent(np.diff(mean).max())} from one number of blocks to the next."
        )
    return sentences


def judge(result):
    errors = result["network"]
    if errors["skip"] is None:
        return Verdict(DIFFERS, "the network that is named first has no residual blocks")
    block, skip = np.median(_inner(errors)), np.median(errors["skip"])
    harmless = errors["base"] + _HARMLESS * (errors["chance"] - errors["base"])
    why = f"without a block, the median error is {percent(block)}, without a skip {percent(skip)}"
    worse = [skip]
    if "plain" in result:
        worse.append(np.median(result["plain"]["single"]))
        why += f", without a layer of the plain network {percent(worse[-1])}"
    fewer = block < min(worse)
    return Verdict(AGREES if fewer and block <= harmless else PARTLY if fewer else DIFFERS, why)


def _inner(errors):
    """The errors without one of the blocks that keep the shape."""
    return np.delete(np.array(errors["single"]), errors["transitions"])


STUDY = Study(
    "Lesions: deleting blocks, skips and layers",
    "Veit et al. 2016, arXiv 1605.06431, section 4.1 and 4.2, figures 3 to 5",
    "Deleting any block that keeps the shape from a trained ResNet-110 hardly changes its error. Deleting a"
    " down-sampling block changes it modestly. Deleting any layer of VGG leaves chance. With k random blocks deleted,"
    " the error grows smoothly, to about 0.2 at 10 of 54.",
    "Left: a flat curve near the dashed line means that no single block matters much. Squares are the blocks that halve"
    " the resolution. The plain network's curve, near chance, is what happens where every layer is needed. Right: the"
    " error of a residual network grows step by step; a plain one is broken by the first deletion.",
    "Agrees if the median error without one block that keeps the shape is below those without one skip and without one"
    " layer of the plain network, and at most a tenth of the way from the error to chance; in part if only below.",
    judge,
    measure,
    draw,
    shows,
    place=10,
)
