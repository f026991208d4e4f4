"""Nonlinearities replaced by the identity after training."""

import dataclasses

import numpy as np

from experiments.runtime.figures import whole_numbers
from experiments.studies.study import AGREES, DIFFERS, OPEN, Measurements, Study, Verdict, percent
from resjax import analysis
from resjax.errors import InputError

_AT_CHANCE = 0.8  # a network that errs more than so many times as often as chance is compared with none


@dataclasses.dataclass(frozen=True)
class Options:
    """Nonlinearities that are replaced. The papers train on, with PReLU whose slopes are drawn to 1; this does not."""

    images: int = 128
    """Number of test images, which are one batch, by whose statistics BN normalises."""
    draws: int = 3
    """Random orders in which nonlinearities are replaced."""
    counts: int = 12
    """Numbers of nonlinearities that are left, at most."""

    def __post_init__(self):
        if self.images < 2 or self.draws < 1 or self.counts < 2:
            raise InputError(
                "--linearise.images, --linearise.draws, --linearise.counts: expected at least 2, 1 and 2, got"
                f" {self.images}, {self.draws} and {self.counts}"
            )


def measure(measurements: Measurements):
    result = {}
    for kind, network in (("network", measurements.trained()), ("plain", measurements.plain)):
        if network is not None:
            result[kind] = _errors(measurements, network)
    return result


def _errors(measurements, network):
    options = measurements.options.linearise
    images, labels = network.images[: options.images], network.labels[: options.images]
    n = analysis.count_nonlinearities(network.model, network.variables, images)
    replaced = np.unique(np.linspace(0, n, min(options.counts, n + 1)).round().astype(int))

    def errors(linear):
        classes = analysis.predict_linearised(network.model, network.variables, images, linear, len(images))
        return analysis.error_rates(classes, labels)

    single = errors(np.eye(n, dtype=bool))
    rng = np.random.default_rng(measurements.options.seed)
    # Of several that harm alike, the last go first.
    harmless_first = np.lexsort((-np.arange(n), single)).argsort()
    ranks = np.stack([harmless_first, *(rng.permutation(n) for _ in range(options.draws))])
    several = errors((ranks[:, None] < replaced[:, None]).reshape(-1, n)).reshape(len(ranks), -1)
    lesions = analysis.error_rates(measurements.lesions(network)["random"], network.labels).mean(1)
    return {
        "name": network.name,
        "images": len(labels),
        "part": "blocks" if network.model.num_blocks else "layers",
        "chance": 1 - 1 / network.model.num_classes,
        "nonlinearities": n,
        "single": single,
        "left": n - replaced,
        "harmless_first": several[0],
        "random": several[1:].mean(0),
        "lesions": lesions,
    }


def draw(figure, result):
    single, several = figure.subplots(1, 2)
    for (kind, found), color in zip(result.items(), ("C0", "C1"), strict=False):
        n = found["nonlinearities"]
        single.plot(np.arange(n) + 1, 100 * np.array(found["single"]), "o-", ms=3, color=color, label=found["name"])
        single.axhline(100 * found["random"][0], color=color, lw=0.8, ls="--")
        left = np.array(found["left"]) / n
        several.plot(
            left, 100 * np.array(found["harmless_first"]), "o-", ms=3.5, color=color, label=f"{kind}: harmless first"
        )
        several.plot(left, 100 * np.array(found["random"]), "x--", ms=4, color=color, label=f"{kind}: random order")
        lesions = 100 * np.array(found["lesions"])
        kept = np.linspace(1, 0, len(lesions))
        several.plot(kept, lesions, ":", color=color, label=f"{kind}: {found['part']} deleted instead")
    for panel in (single, several):
        panel.axhline(100 * result["network"]["chance"], color="gray", lw=0.8, ls=":", label="chance")
        panel.set(ylabel="test error (%)", ylim=(0, 100))
        panel.legend(fontsize=6)
    single.set(xlabel="nonlinearity replaced (dashed: none)", title="one replaced by the identity")
    several.set(xlabel="fraction of nonlinearities, or blocks, left", title="several")
    several.invert_xaxis()
    whole_numbers(single)


def shows(result):
    sentences = []
    for found in result.values():
        errors, left = np.array(found["harmless_first"]), np.array(found["left"])
        sentences.append(
            f"{found['name']}, {found['images']} images: error {percent(errors[0])} with all {found['nonlinearities']}"
            f" nonlinearities, BN by the statistics of the batch. With one replaced by the identity, the median is"
            f" {percent(np.median(found['single']))} and the maximum {percent(np.max(found['single']))}. The error"
            f" stays below {percent(_bound(found))}, a third of the way to chance, with {_least(found)} of"
            f" {left[0]} left; in random order it is {percent(found['random'][len(left) // 2])} with"
            f" {left[len(left) // 2]} left."
        )
    network = result["network"]
    half = len(network["lesions"]) // 2
    random = np.interp(0.5, np.array(network["left"])[::-1] / network["nonlinearities"], network["random"][::-1])
    sentences.append(
        f"With half of its nonlinearities replaced at random, the error is {percent(random)}; with half of its"
        f" {network['part']} deleted at random, {percent(network['lesions'][half])}. The papers find that many can go"
        " where training goes on, which it does not here."
    )
    return sentences


def judge(result):
    if "plain" not in result:
        return Verdict(OPEN, "a plain network is missing (--plain)")
    if any(found["harmless_first"][0] > _AT_CHANCE * found["chance"] for found in result.values()):
        return Verdict(OPEN, "a network is near chance")
    fractions = [_least(found) / found["nonlinearities"] for found in result.values()]
    why = f"of variable depth, with skips, the network needs {percent(fractions[0])} of its nonlinearities, of fixed"
    return Verdict(AGREES if fractions[0] < fractions[1] else DIFFERS, f"{why} depth {percent(fractions[1])}")


def _bound(found):
    base = found["harmless_first"][0]
    return base + (found["chance"] - base) / 3


def _least(found):
    """The smallest number left up to which the error stays below the bound."""
    above = np.flatnonzero(np.array(found["harmless_first"]) > _bound(found))
    return found["left"][above[0] - 1 if above.size else -1]


def _about(measurements):
    networks = [network.name for network in (measurements.network, measurements.plain) if network is not None]
    return f"{'; plain: '.join(networks)}; {measurements.options.linearise.images:,} test images"


STUDY = Study(
    "Nonlinearities replaced after training",
    "Mehmeti-Goepel & Wand 2025, ResNets Are Deeper Than You Think, NeurIPS, arXiv 2506.14386; 2022, arXiv 2211.17180",
    "After training, many nonlinear units can be made linear at little cost, if training goes on under a penalty on"
    " their number. Networks of variable depth, such as residual ones, then err less than those of fixed depth,"
    " although neither is harder to train.",
    "Left: the error with one ReLU replaced by the identity; peaks are those that matter. Right: how long the error"
    " stays low while more and more are replaced, the harmless ones first. The longer, the more of the depth is spare.",
    "Agrees if the network keeps its error within a third of the way to chance with a smaller fraction of its"
    f" nonlinearities than the plain one. Open if one of them errs on more than {100 * _AT_CHANCE:.0f} % of chance.",
    judge,
    measure,
    draw,
    shows,
    place=190,
    about=_about,
    options=Options,
)
