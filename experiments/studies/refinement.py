"""Whether blocks refine their input: cosines with the gradient, and a block that runs more often than trained."""

import numpy as np

from experiments.runtime.figures import whole_numbers
from experiments.studies.study import AGREES, DIFFERS, PARTLY, Measurements, Study, Verdict, percent
from resjax import analysis

_REPEATS = 6


def measure(measurements: Measurements):
    result = {}
    for kind, network in (("network", measurements.trained()), ("plain", measurements.plain)):
        if network is None:
            continue
        parts = (network.model, network.variables, network.images)
        found = analysis.block_refinement(*parts, network.labels, **measurements.predict_options)
        result[kind] = {
            "name": network.name,
            "blocks": found.blocks,
            "cosine": np.nanmean(found.cosines, axis=1),
            "quartiles": np.nanpercentile(found.cosines, [25, 75], axis=1),
            "downhill": np.nanmean(found.cosines < 0),
            "ratio": np.nanmean(found.ratios, axis=1),
            "unrolled": analysis.error_rates(
                analysis.predict_unrolled(*parts, _REPEATS, **measurements.predict_options), network.labels
            ),
        }
    return result


def draw(figure, result):
    cosine, ratio, unrolled = figure.subplots(1, 3)
    for (kind, found), color in zip(result.items(), ("C0", "C1"), strict=False):
        place = np.array(found["blocks"]) + 1
        cosine.plot(place, found["cosine"], "o-", ms=3.5, color=color, label=found["name"])
        cosine.fill_between(place, *np.array(found["quartiles"]), color=color, alpha=0.2, lw=0)
        ratio.plot(place, found["ratio"], "o-", ms=3.5, color=color, label=kind)
        errors = 100 * np.array(found["unrolled"])
        unrolled.plot(np.arange(len(errors)), errors, "o-", ms=3.5, color=color, label=kind)
    of_blocks = "block (without those that change the shape)"
    cosine.axhline(0, color="gray", lw=0.8, ls=":")
    cosine.set(
        xlabel=of_blocks, ylabel="cosine of block(h) - h with the gradient", title="mean and quartiles of images"
    )
    ratio.set(xlabel=of_blocks, ylabel="|block(h) - h| / |h|", ylim=(0, None), title="size of the change")
    unrolled.set(xlabel="times that the last block runs", ylabel="test error (%)", ylim=(0, 100), title="unrolled")
    for axes in (cosine, ratio, unrolled):
        whole_numbers(axes)
    cosine.legend(fontsize=6)
    unrolled.legend()


def shows(result):
    sentences = []
    for found in result.values():
        cosine, ratio, errors = (np.array(found[key], float) for key in ("cosine", "ratio", "unrolled"))
        sentences.append(
            f"{found['name']}: {percent(found['downhill'])} of the changes by blocks that keep the shape go down the"
            f" loss. The mean cosine with the gradient is {cosine.mean():.3f}, that of the last block {cosine[-1]:.3f}."
            f" A change is {ratio.mean():.2f} times its input on average. With the last block twice, the error is"
            f" {percent(errors[2])}; without it {percent(errors[0])}; as trained {percent(errors[1])}."
        )
    return sentences


def judge(result):
    cosine = np.array(result["network"]["cosine"], float)
    down = (cosine < 0).mean()
    why = f"{(cosine < 0).sum()} of {len(cosine)} blocks move their input down the gradient of the loss on average"
    return Verdict(AGREES if down == 1 else PARTLY if down > 0.5 else DIFFERS, why)


STUDY = Study(
    "Iterative refinement",
    "Jastrzebski et al. 2018, arXiv 1710.04773, sections 3 to 5; Greff et al. 2017, arXiv 1612.07771",
    "Residual blocks move representations along the negative gradient of the loss. Blocks near the input learn features"
    " and change much, those near the output refine and change little. A block that runs more often than it was trained"
    " overshoots; normalisation of its own for each step helps.",
    "Left: below zero, a block moves the features in the direction in which the loss falls. Middle: how large its"
    " change is. Right: the error if the last block runs never, once as trained, twice, and so on.",
    "Agrees if all blocks have a negative mean cosine with the gradient, in part if more than half have.",
    judge,
    measure,
    draw,
    shows,
    size=(12, 4.2),
    place=160,
)
