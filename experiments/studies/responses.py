"""Standard deviations of layer responses."""

import numpy as np

from experiments.runtime.figures import whole_numbers
from experiments.studies.study import AGREES, DIFFERS, OPEN, Measurements, Study, Verdict
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
    return sentences


def judge(result):
    if "plain" not in result:
        return Verdict(OPEN, "a plain network is missing (--plain)")
    means = [np.mean(found["deviations"]) for found in result.values()]
    smaller = means[0] < means[1]
    why = f"the network's responses are {'smaller' if smaller else 'not smaller'} than the plain network's"
    return Verdict(AGREES if smaller else DIFFERS, f"{why} on average ({means[0]:.2f} and {means[1]:.2f})")


STUDY = Study(
    "Layer responses",
    "He et al. 2015, arXiv 1512.03385, section 4.2, figure 7",
    "After BN and before the nonlinearity, responses of ResNets are generally smaller than those of plain"
    " counterparts, and smaller still in deeper ResNets. Residual functions are closer to zero, and each layer"
    " modifies the signal less.",
    "Each point is a layer: how much its output varies. A curve of the residual network below that of the plain one"
    " means that its layers make smaller changes.",
    "Agrees if the mean standard deviation is smaller than that of the plain network.",
    judge,
    measure,
    draw,
    shows,
    place=60,
)
