"""Lesions of blocks, of skips, and of the layers of a plain network."""

import numpy as np

from experiments.studies.study import Bench, Study, percent
from resjax import analysis
from resjax.data import dataset_info


def measure(bench: Bench):
    subject = bench.trained()
    shown = {"network": _errors(bench, subject)}
    if bench.plain is not None:
        shown["plain"] = _errors(bench, bench.plain)
    return shown


def _errors(bench, subject):
    lesions = bench.lesions(subject)
    errors = {name: analysis.error_rates(classes, subject.labels) for name, classes in lesions.items()}
    transitions = []
    if subject.model.num_blocks:
        transitions = analysis.transition_blocks(subject.model, subject.variables, subject.images)
    return {
        "name": subject.name,
        "images": len(subject.labels),
        "chance": 1 - 1 / dataset_info(subject.dataset).num_classes,
        "base": float(errors["base"]),
        "single": errors["single"],
        "skip": errors.get("skip"),
        "transitions": transitions,
        "quartiles": np.percentile(errors["random"], [25, 50, 75], axis=1),
        "random_mean": errors["random"].mean(1),
    }


def draw(figure, result):
    single, several = figure.subplots(1, 2)
    for (kind, errors), color in zip(result.items(), ("C0", "C3"), strict=False):
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
        several.fill_between(np.arange(n + 1), low, high, color=color, alpha=0.2, lw=0)
    for axes in (single, several):
        axes.axhline(100 * result["network"]["chance"], color="gray", lw=0.8, ls=":", label="chance")
        axes.set_ylabel("test error (%)")
        axes.set_ylim(0, 100)
        # Below: every part of the axes may have a curve.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    single.set(xlabel="deleted block or layer (dashed: none)", title="one deleted")
    several.set(xlabel="number deleted", title="several, at random (quartiles)")


def shows(result):
    sentences = []
    for errors in result.values():
        single, base = np.array(errors["single"]), errors["base"]
        inner = np.delete(single, errors["transitions"])
        if errors["skip"] is None:
            sentences.append(
                f"{errors['name']}: error {percent(base)} whole; without one layer {percent(np.median(single))} in the"
                f" median, {percent(single.min())} at the least (chance: {percent(errors['chance'])})."
            )
            continue
        sentences.append(
            f"{errors['name']}, {errors['images']} images: error {percent(base)} whole; without one block that keeps"
            f" the shape {percent(np.median(inner))} in the median, {percent(inner.max())} at the most."
        )
        if errors["transitions"]:
            down = single[errors["transitions"]]
            sentences.append(f"Without the branch of a down-sampling block: {', '.join(map(percent, down))}.")
        sentences.append(f"Without one skip instead: {percent(np.median(errors['skip']))} in the median.")
        half = len(single) // 2
        mean = np.array(errors["random_mean"])
        sentences.append(
            f"Without {half} of {len(single)} random blocks: {percent(mean[half])}; the largest step of the mean from"
            f" one number to the next is {percent(np.diff(mean).max())}."
        )
    return sentences


STUDY = Study(
    "Lesions: deleting blocks, skips and layers",
    "Veit et al. 2016, arXiv 1605.06431, section 4.1 and 4.2, figures 3 to 5",
    "Deleting any block that keeps the shape from a trained ResNet-110 changes its error hardly, down-sampling blocks"
    " modestly; deleting any layer of VGG leaves chance. With k random blocks deleted the error grows smoothly, about"
    " 0.2 at 10 of 54.",
    measure,
    draw,
    shows,
)
