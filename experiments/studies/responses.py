"""Standard deviations of layer responses."""

import numpy as np

from experiments.studies.study import Bench, Study
from resjax import analysis


def measure(bench: Bench):
    result = {}
    for kind, subject in (("network", bench.trained()), ("plain", bench.plain)):
        if subject is not None:
            found = analysis.layer_responses(subject.model, subject.variables, subject.images, **bench.predict_options)
            result[kind] = {"name": subject.name, "layers": found.layers, "deviations": found.deviations}
    return result


def draw(figure, result):
    in_order, sorted_ = figure.subplots(1, 2, sharey=True)
    for found, color in zip(result.values(), ("C0", "C3"), strict=False):
        deviations = np.array(found["deviations"])
        place = np.arange(1, len(deviations) + 1)
        in_order.plot(place, deviations, "o-", ms=3, color=color, label=found["name"])
        sorted_.plot(place, np.sort(deviations)[::-1], "o-", ms=3, color=color, label=found["name"])
    in_order.set(xlabel="layer, in order", ylabel="standard deviation of the response", ylim=(0, None))
    sorted_.set(xlabel="layer, sorted by magnitude")
    in_order.legend()


def shows(result):
    sentences = []
    for found in result.values():
        deviations = np.array(found["deviations"])
        sentences.append(
            f"{found['name']}: {len(deviations)} layers, standard deviation {np.mean(deviations):.2f} in the mean,"
            f" {deviations.min():.2f} to {deviations.max():.2f}."
        )
    if "plain" in result:
        means = [np.mean(found["deviations"]) for found in result.values()]
        smaller = "smaller" if means[0] < means[1] else "not smaller"
        sentences.append(f"The network's are {smaller} than the plain network's, in the mean.")
    return sentences


STUDY = Study(
    "Layer responses",
    "He et al. 2015, arXiv 1512.03385, section 4.2, figure 7",
    "After BN and before the nonlinearity, ResNets' responses are generally smaller than their plain counterparts', and"
    " smaller in deeper ResNets: residual functions are closer to zero, and each layer modifies the signal less.",
    measure,
    draw,
    shows,
)
