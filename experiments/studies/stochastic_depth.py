"""Stochastic depth: how deep networks are in training, and the gradient that reaches their first layer."""

import numpy as np

from experiments.studies.study import Bench, Study
from experiments.subject import read_config, read_records
from resjax import StochasticDepth, analysis, create_model
from resjax.errors import InputError

KEY = "first_layer_gradient"


def measure(bench: Bench):
    options = bench.options
    runs = options.runs or ((options.run,) if options.run else ())
    if not runs:
        raise InputError("give --runs with workdirs of networks with and without stochastic depth (or --run)")
    result = {"runs": []}
    for run in runs:
        records, config = read_records(run), read_config(run)
        if any(KEY not in record for record in records):
            raise InputError(f"{run}: its metrics.jsonl has no {KEY}; train it with this version")
        model = create_model(config.model.name, **config.model.overrides())
        if model.num_blocks:
            rule = model.stochastic_depth
            survival = rule.survival_probabilities(model.num_blocks) if rule else np.ones(model.num_blocks)
            result["runs"].append(
                {
                    "name": f"{config.model.name}, {rule or 'all blocks'}",
                    "model": config.model.name,
                    "blocks": model.num_blocks,
                    "expected_depth": survival.sum(),
                    "depths": analysis.depth_distribution(survival),
                    "is_stochastic": rule is not None,
                    "epochs": [record["epoch"] for record in records],
                    "gradients": [record[KEY] for record in records],
                }
            )
    if not result["runs"]:
        raise InputError("--runs: none of these networks has residual blocks")
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
    for i, run in enumerate(result["runs"]):
        if run["is_stochastic"]:
            place = np.arange(run["blocks"] + 1)
            depths.step(place, 100 * np.array(run["depths"]), where="mid", color=f"C{i}", label=run["name"])
        gradients.plot(run["epochs"], run["gradients"], "o-", ms=3, color=f"C{i}", label=run["name"])
    depths.set(xlabel="active blocks in a mini-batch", ylabel="share of mini-batches (%)")
    gradients.set(xlabel="epoch", ylabel="mean |gradient| of the first convolution", ylim=(0, None))
    depths.legend()
    gradients.legend()


def shows(result):
    rule = result["with_rule"]
    sentences = [
        f"With linear decay to 0.5, {rule['expected_depth']:.2f} of {rule['blocks']} blocks would be active in the"
        f" mean."
    ]
    for run in result["runs"]:
        sentences.append(
            f"{run['name']}: {run['expected_depth']:.2f} of {run['blocks']} blocks active in the mean; mean absolute"
            f" gradient of the first convolution {np.mean(run['gradients']):.3g} over {len(run['epochs'])} epochs,"
            f" {run['gradients'][-1]:.3g} in the last."
        )
    for model in sorted({run["model"] for run in result["runs"]}):
        means = {}
        for run in result["runs"]:
            if run["model"] == model:
                means.setdefault(run["is_stochastic"], []).append(np.mean(run["gradients"]))
        if len(means) == 2:
            ratio = np.mean(means[True]) / np.mean(means[False])
            sentences.append(
                f"{model}: leaving out blocks makes the first layer's gradient {ratio:.2f} times as large."
            )
    return sentences


STUDY = Study(
    "Stochastic depth: expected depth, and gradients of the first layer",
    "Huang et al. 2016, arXiv 1603.09382, sections 3 and 5, figure 8",
    "With p_L = 0.5 about 40 of 54 blocks are active in a mini-batch. The gradients that reach the first convolution"
    " are larger with stochastic depth than without throughout training, most after the learning rate drops.",
    measure,
    draw,
    shows,
)
