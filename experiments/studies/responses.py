"""Standard deviations of layer responses."""

import numpy as np

from experiments.runtime.figures import whole_numbers
from experiments.studies.study import Measurements, Study
from resjax import analysis


def measure(measurements: Measurements):
    result = {}
    for kind, network in (("network", measurements.trained()), ("plain", measurements.plain)):
        if network is not None:
            found = analysis.layer_responses(
                network.model, network.variables, network.images, **measurements.predict_options
            )
            result[kind] = {"name": network.name, "layers": found.layers, "deviations": found.deviations}
    return result


def draw(figure, result):
    in_order, sorted_ = figure.subplots(1, 2, sharey=True)
    for found, color in zip(result.values(), ("C0", "C1"), strict=False):
        deviations = np.array(found["deviations"])
        place = np.arange(1, len(deviations) + 1)
        in_order.plot(place, deviations, "o-", ms=3, color=color, label=found["name"])
        sorted_.plot(place, np.sort(deviations)[::-1], "o-", ms=3, color=color, label=found["name"])
    in_order.set(xlabel="layer, in order", ylabel="standard deviation of the response", ylim=(0, None))
    sorted_.set(xlabel="layer, sorted by magnitude")
    for axes in (in_order, sorted_):
        whole_numbers(axes)
    in_order.legend(loc="lower left")


def shows(result):
    sentences = []
    for found in result.values():
        deviations = np.array(found["deviations"])
        sentences.append(
            f"{found['name']}: {len(deviations)} layers, mean standard deviation {np.mean(deviations):.2f}"
            f" ({deviations.min():.2f} to {deviations.max():.2f})."
        )
    if "plain" in result:
        means = [np.mean(found["deviations"]) for found in result.values()]
        smaller = "smaller" if means[0] < means[1] else "not smaller"
        sentences.append(f"On average, the network's are {smaller} than the plain network's.")
    return sentences


STUDY = Study(
    "Layer responses",
    "He et al. 2015, arXiv 1512.03385, section 4.2, figure 7",
    "After BN and before the nonlinearity, responses of ResNets are generally smaller than those of plain"
    " counterparts, and smaller still in deeper ResNets. Residual functions are closer to zero, and each layer"
    " modifies the signal less.",
    measure,
    draw,
    shows,
    place=60,
)
