"""Stochastic depth: active blocks in training, and the gradient that reaches the first layer."""

import numpy as np

from experiments.configs.named import network_text
from experiments.configs.programs import CIFAR, IMAGENET
from experiments.evaluation.trained import read_records
from experiments.runtime.figures import look, whole_numbers
from experiments.studies.study import AGREES, DIFFERS, OPEN, PARTLY, Measurements, Study, Verdict, about_runs
from experiments.training.workdir import read_saved_run
from resjax import StochasticDepth, analysis
from resjax.errors import InputError

KEY = "first_layer_gradient"
_RULE = "model.stochastic_depth."


def measure(measurements: Measurements):
    options = measurements.options
    if not options.compared:
        raise InputError("name the workdirs of networks with and without stochastic depth: RUN RUN ..")
    result, networks = {"runs": []}, []
    for run in options.compared:
        config = read_saved_run(run, CIFAR, IMAGENET).config
        records = read_records(run)
        if any(KEY not in record for record in records):
            raise InputError(f"{run}: its metrics.jsonl has no {KEY}; train it with --gradient_metrics {KEY}")
        model = config.create_model(10)  # its blocks do not depend on the number of classes
        if model.num_blocks:
            whole = model.clone(stochastic_depth=None)
            if whole not in networks:
                networks.append(whole)
            rule = model.stochastic_depth
            survival = rule.survival_probabilities(model.num_blocks) if rule else np.ones(model.num_blocks)
            fields = {key: value for key, value in config.identity().items() if not key.startswith(_RULE)}
            text = network_text(fields)
            result["runs"].append(
                {
                    "name": f"{text}, {rule or 'all blocks'}",
                    "model": text,
                    "network": networks.index(whole),
                    "blocks": model.num_blocks,
                    "expected_depth": survival.sum(),
                    "depths": analysis.depth_distribution(survival),
                    "is_stochastic": rule is not None,
                    "epochs": [record["epoch"] for record in records],
                    "gradients": [record[KEY] for record in records],
                }
            )
    if not result["runs"]:
        raise InputError("none of these networks has residual blocks")
    blocks = result["runs"][0]["blocks"]
    paper = StochasticDepth(0.5).survival_probabilities(blocks)
    result["with_rule"] = {
        "expected_depth": paper.sum(),
        "depths": analysis.depth_distribution(paper),
        "blocks": blocks,
    }
    return result


def draw(figure, result):
    depths, gradients = figure.subplots(1, 2)
    rule = result["with_rule"]
    label = f"linear decay to 0.5: {rule['expected_depth']:.1f} of {rule['blocks']}"
    depths.bar(np.arange(rule["blocks"] + 1), 100 * np.array(rule["depths"]), color="0.8", label=label)
    drawn = []
    for i, run in enumerate(result["runs"]):
        if run["is_stochastic"] and run["depths"] not in drawn:  # equal ones would cover each other
            place = np.arange(run["blocks"] + 1)
            color = look(i)["color"]
            depths.step(place, 100 * np.array(run["depths"]), where="mid", color=color, label=run["name"])
            drawn.append(run["depths"])
        gradients.plot(run["epochs"], run["gradients"], ms=3, label=run["name"], **look(i))
    depths.set(xlabel="active blocks in a mini-batch", ylabel="fraction of mini-batches (%)")
    gradients.set(xlabel="epoch", ylabel="mean |gradient| of the first convolution", ylim=(0, None))
    for axes in (depths, gradients):
        whole_numbers(axes)
    depths.legend()
    gradients.legend()


def shows(result):
    rule = result["with_rule"]
    sentences = [
        f"With linear decay to 0.5, {rule['expected_depth']:.2f} of {rule['blocks']} blocks would be active on average."
    ]
    for run in result["runs"]:
        sentences.append(
            f"{run['name']}: {run['expected_depth']:.2f} of {run['blocks']} blocks are active on average. The mean"
            f" absolute gradient of the first convolution is {np.mean(run['gradients']):.3g} over {len(run['epochs'])}"
            f" epochs, and {run['gradients'][-1]:.3g} in the last."
        )
    for text, ratio in _ratios(result):
        sentences.append(f"{text}: leaving out blocks makes the first layer's gradient {ratio:.2f} times as large.")
    return sentences


def judge(result):
    ratios = [ratio for _, ratio in _ratios(result)]
    if not ratios:
        return Verdict(OPEN, "a network trained both with and without stochastic depth is missing")
    larger = sum(ratio > 1 for ratio in ratios)
    why = f"the first layer's gradient is larger with stochastic depth for {larger} of {len(ratios)} networks"
    return Verdict(AGREES if larger == len(ratios) else PARTLY if larger else DIFFERS, why)


def _ratios(result):
    """Of each network that was trained both ways: its name, and its gradient with stochastic depth by that without."""
    found = []
    for network in sorted({run["network"] for run in result["runs"]}):
        means = {}
        for run in result["runs"]:
            if run["network"] == network:
                means.setdefault(run["is_stochastic"], []).append(np.mean(run["gradients"]))
                text = run["model"]
        if len(means) == 2:
            found.append((text, np.mean(means[True]) / np.mean(means[False])))
    return found


STUDY = Study(
    "Stochastic depth: expected depth, and gradients of the first layer",
    "Huang et al. 2016, arXiv 1603.09382, sections 3 and 5, figure 8",
    "With p_L = 0.5 about 40 of 54 blocks are active in a mini-batch. Throughout training, the gradients that reach"
    " the first convolution are larger with stochastic depth than without. The difference is largest after the"
    " learning rate drops.",
    "Left: how many blocks are left in a mini-batch. Right: a curve that is higher with stochastic depth means that"
    " more gradient reaches the first layer, as in a shorter network.",
    "Agrees if for every network trained both ways the gradient of the first layer, averaged over epochs, is larger"
    " with stochastic depth; in part if for some.",
    judge,
    measure,
    draw,
    shows,
    place=80,
    about=about_runs,
    compares_runs=True,
)
