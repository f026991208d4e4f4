"""Similarity of the blocks' representations, within a network and with its plain twin."""

import numpy as np

from experiments.runtime.figures import whole_numbers
from experiments.studies.study import AGREES, DIFFERS, OPEN, Measurements, Study, Verdict
from resjax import analysis

_HIGH = 0.9  # from here on two representations count as alike


def measure(measurements: Measurements):
    networks = [network for network in (measurements.trained(), measurements.plain) if network is not None]
    entries = [(network.model, network.variables, network.images) for network in networks]
    names, cka = analysis.block_similarity(entries, measurements.options.batch_size)
    n = len(names[0])
    result = {"network": _of(networks[0].name, names[0], cka[:n, :n])}
    if len(networks) > 1:
        result["plain"] = _of(networks[1].name, names[1], cka[n:, n:])
        result["between"] = cka[:n, n:]
    return result


def _of(name, blocks, cka):
    stages = np.array([int(block.split("/")[0].removeprefix("stage_")) for block in blocks])
    pairs = np.triu_indices(len(blocks), 1)
    same = stages[pairs[0]] == stages[pairs[1]]
    return {
        "name": name,
        "blocks": blocks,
        "stages": stages,
        "cka": cka,
        "consecutive": np.diag(cka, 1),
        "within_stages": cka[pairs][same].mean() if same.any() else None,
        "between_stages": cka[pairs][~same].mean() if (~same).any() else None,
        "alike": (cka[pairs] > _HIGH).mean(),
        "first_and_last": cka[0, -1],
    }


def draw(figure, result):
    panels = [(found["name"], found, found, found["cka"]) for kind, found in result.items() if kind != "between"]
    if "between" in result:
        panels.append(("between the two", result["network"], result["plain"], result["between"]))
    beside, *axes = figure.subplots(1, 1 + len(panels))
    for (kind, found), color in zip(result.items(), ("C0", "C1"), strict=False):
        if kind != "between":
            consecutive = found["consecutive"]
            beside.plot(np.arange(len(consecutive)) + 1.5, consecutive, "o-", ms=3.5, color=color, label=kind)
    beside.set(xlabel="between blocks", ylabel="CKA", ylim=(0, 1.02), title="blocks that follow each other")
    whole_numbers(beside)
    beside.legend(loc="lower left")
    for panel, (title, rows, columns, cka) in zip(axes, panels, strict=True):
        image = panel.imshow(np.array(cka), origin="lower", vmin=0, vmax=1, cmap="magma")
        for found, line in ((columns, panel.axvline), (rows, panel.axhline)):
            for edge in np.flatnonzero(np.diff(found["stages"])):
                line(edge + 0.5, color="white", lw=0.8, ls=":")
        panel.set_title(title, fontsize=8)
        panel.set(xlabel="block", ylabel="block")
        for axis, found in ((panel.xaxis, columns), (panel.yaxis, rows)):
            ticks = np.unique(np.linspace(0, len(found["blocks"]) - 1, 6).round().astype(int))
            axis.set_ticks(ticks, ticks + 1)
        panel.grid(False)
    figure.colorbar(image, ax=axes[-1], shrink=0.7, label="CKA (dotted: stages)")


def shows(result):
    sentences = []
    for kind, found in result.items():
        if kind != "between":
            sentences.append(
                f"{found['name']}: consecutive blocks have a CKA of {np.mean(found['consecutive']):.2f} on average, the"
                f" first and the last {found['first_and_last']:.2f}. {100 * found['alike']:.0f} % of all pairs exceed"
                f" {_HIGH}."
            )
    network = result["network"]
    if "plain" in result:
        more = result["plain"]["alike"] > network["alike"]
        sentences.append(
            f"Of its plain network, {'more' if more else 'no more'} pairs are alike"
            f" ({100 * result['plain']['alike']:.0f} %)."
        )
    return sentences


def judge(result):
    within, between = (result["network"][key] for key in ("within_stages", "between_stages"))
    if within is None or between is None:
        return Verdict(OPEN, "the network has one stage, or one block in each")
    agrees = within > between
    why = f"blocks of one stage ({within:.2f} on average) are {'more' if agrees else 'not more'} alike than blocks of"
    return Verdict(AGREES if agrees else DIFFERS, f"{why} different stages ({between:.2f})")


STUDY = Study(
    "Similarity of the blocks' representations",
    "Kornblith et al. 2019, arXiv 1905.00414, sections 6.1 and 6.2; Nguyen et al. 2021, arXiv 2010.15327, sections 3 to"
    " 5",
    "CKA of residual networks is high within a stage and falls between stages. In plain networks that are too deep,"
    " many of the last layers have the same representation. In very wide or deep residual networks, a large block of"
    " layers becomes alike, which share their first principal component.",
    "Bright cells are pairs of blocks that see images alike. Bright squares along the diagonal are stages. A bright"
    " square that fills a corner means that the blocks in it add little.",
    "Agrees if two blocks of one stage are more alike on average than two of different stages.",
    judge,
    measure,
    draw,
    shows,
    place=110,
)
