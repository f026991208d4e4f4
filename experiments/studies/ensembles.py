"""The ensemble of paths: how smoothly it shrinks, and how its members disagree."""

import numpy as np

from experiments.studies.study import Bench, Study, percent
from resjax import analysis


def measure(bench: Bench):
    bench.residual()
    result = {}
    for kind, subject in (("network", bench.subject), ("plain", bench.plain)):
        if subject is None:
            continue
        classes = bench.lesions(subject)["random"]
        error = analysis.error_rates(classes, subject.labels).mean(1)
        votes = np.stack([analysis.majority_vote(drawn) for drawn in classes])
        result[kind] = {
            "name": subject.name,
            "log2_valid_paths": analysis.valid_paths(len(error) - 1) if kind == "network" else None,
            "error": error,
            "smoothness_index": analysis.smoothness_index(error),
            "disagreement": [analysis.disagreement(drawn) for drawn in classes],
            "vote_error": analysis.error_rates(votes, subject.labels),
        }
    return result


def draw(figure, result):
    smooth, disagree = figure.subplots(1, 2)
    network = result["network"]
    paths = np.array(network["log2_valid_paths"])
    index = f"index {network['smoothness_index']:.2f}"
    smooth.plot(paths, 100 * np.array(network["error"]), "o-", ms=3, color="C0", label=f"mean error, {index}")
    smooth.plot(
        paths, 100 * np.array(network["vote_error"]), "^:", ms=3, color="C2", label="majority vote of the lesioned"
    )
    smooth.set(xlabel="valid paths left (log2)", ylabel="test error (%)")
    smooth.invert_xaxis()
    smooth.legend()
    for (kind, found), color in zip(result.items(), ("C0", "C3"), strict=False):
        share = np.array(found["disagreement"])
        removed = np.arange(len(share)) / (len(share) - 1)
        disagree.plot(removed, 100 * share, "o-", ms=3, color=color, label=f"{kind}: two lesioned networks differ")
    disagree.plot(
        np.linspace(0, 1, len(paths)), 100 * np.array(network["error"]), color="0.5", ls="--", label="error (network)"
    )
    disagree.set(xlabel="share of blocks or layers deleted", ylabel="share of images (%)")
    disagree.legend()


def shows(result):
    sentences = []
    for found in result.values():
        n = len(found["error"]) - 1
        share = np.array(found["disagreement"])
        sentences.append(
            f"{found['name']}: smoothness index {found['smoothness_index']:.2f} of at most {1 - 1 / n:.2f} (0: one"
            f" removal does all the damage). Two networks with {n // 4 or 1} of {n} parts deleted differ on"
            f" {percent(share[n // 4 or 1])} of the images."
        )
    network = result["network"]
    gain = np.array(network["error"]) - np.array(network["vote_error"])
    best = int(np.argmax(gain))
    sentences.append(
        f"A majority vote of networks without {best} blocks errs on {percent(network['vote_error'][best])}, they alone"
        f" on {percent(network['error'][best])}."
    )
    return sentences


STUDY = Study(
    "Ensembles of paths",
    "Veit et al. 2016, arXiv 1605.06431, section 4",
    "Residual networks behave like ensembles: their error depends smoothly on the number of valid paths, which a"
    " deleted block halves, where a plain network has one path.",
    measure,
    draw,
    shows,
)
