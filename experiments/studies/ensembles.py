"""The ensemble of paths: how smoothly it shrinks, and how its members disagree."""

import numpy as np

from experiments.studies.study import AGREES, DIFFERS, PARTLY, Measurements, Study, Verdict, percent
from resjax import analysis


def measure(measurements: Measurements):
    measurements.residual()
    result = {}
    for kind, network in (("network", measurements.network), ("plain", measurements.plain)):
        if network is None:
            continue
        classes = measurements.lesions(network)["random"]
        error = analysis.error_rates(classes, network.labels).mean(1)
        votes = np.stack([analysis.majority_vote(drawn) for drawn in classes])
        result[kind] = {
            "name": network.name,
            "log2_valid_paths": analysis.valid_paths(len(error) - 1) if kind == "network" else None,
            "error": error,
            "smoothness_index": analysis.smoothness_index(error),
            "disagreement": [analysis.disagreement(drawn) for drawn in classes],
            "vote_error": analysis.error_rates(votes, network.labels),
        }
    return result


def draw(figure, result):
    smooth, disagree = figure.subplots(1, 2)
    network = result["network"]
    paths = np.array(network["log2_valid_paths"])
    index = f"index {network['smoothness_index']:.2f}"
    smooth.plot(paths, 100 * np.array(network["error"]), "o-", ms=3, color="C0", label=f"mean error, {index}")
    smooth.plot(
        paths, 100 * np.array(network["vote_error"]), "^:", ms=3, color="C2", label="majority vote of lesioned networks"
    )
    smooth.set(xlabel="valid paths left (log2)", ylabel="test error (%)")
    smooth.invert_xaxis()
    smooth.legend()
    for (kind, found), color in zip(result.items(), ("C0", "C1"), strict=False):
        fraction = np.array(found["disagreement"], float)
        removed = np.arange(len(fraction)) / (len(fraction) - 1)
        fraction[[0, -1]] = np.nan  # with nothing deleted, or everything, there is one network, which is no agreement
        disagree.plot(removed, 100 * fraction, "o-", ms=3, color=color, label=f"{kind}: two lesioned networks differ")
    disagree.plot(
        np.linspace(0, 1, len(paths)), 100 * np.array(network["error"]), color="0.5", ls="--", label="error (network)"
    )
    disagree.set(xlabel="fraction of blocks or layers deleted", ylabel="fraction of images (%)")
    disagree.legend()


def shows(result):
    sentences = []
    for found in result.values():
        n = len(found["error"]) - 1
        fraction = np.array(found["disagreement"], float)
        sentences.append(
            f"{found['name']}: smoothness index {found['smoothness_index']:.2f} of at most {1 - 1 / n:.2f} (0: one"
            " removal does all the damage)."
        )
        if np.isfinite(fraction[n // 4 or 1]):  # of one draw there are no two networks
            sentences.append(
                f"Two networks with {n // 4 or 1} of {n} parts deleted differ on {percent(fraction[n // 4 or 1])} of"
                " the images."
            )
    network = result["network"]
    gain = np.array(network["error"]) - np.array(network["vote_error"])
    best = int(np.argmax(gain))
    sentences.append(
        f"A majority vote of networks without {best} block{'s' if best > 1 else ''} errs on"
        f" {percent(network['vote_error'][best])}, a single one of them on {percent(network['error'][best])}."
    )
    return sentences


def judge(result):
    index = result["network"]["smoothness_index"]
    why = f"the smoothness index is {index:.2f}"
    smoother = True
    if "plain" in result:
        plain = result["plain"]["smoothness_index"]
        smoother, why = index > plain, f"{why}, that of the plain network {plain:.2f}"
    return Verdict(AGREES if index > 0.5 and smoother else PARTLY if index > 0.5 or smoother else DIFFERS, why)


STUDY = Study(
    "Ensembles of paths",
    "Veit et al. 2016, arXiv 1605.06431, section 4",
    "Residual networks behave like ensembles: their error depends smoothly on the number of valid paths, which each"
    " deleted block halves. A plain network has one path.",
    "Left: each step to the right deletes a block, which halves the number of paths. A slope without a cliff is an"
    " ensemble that shrinks. Right: how often two networks with different blocks deleted disagree, against how often"
    " they err.",
    "Agrees if the smoothness index is above 0.5 and above that of the plain network; in part if one of the two holds."
    " The index is 1 minus the largest rise of the mean error by one more deletion, as a fraction of the whole rise.",
    judge,
    measure,
    draw,
    shows,
    place=50,
)
