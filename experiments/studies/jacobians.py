"""Residual alignment: the singular vectors of the blocks' residual Jacobians."""

import dataclasses

import numpy as np

from experiments.runtime.figures import whole_numbers
from experiments.studies.study import AGREES, DIFFERS, PARTLY, Measurements, Study, Verdict, percent
from resjax import analysis
from resjax.errors import InputError

_MORE = 5  # so many times the overlap of random spaces are an alignment


@dataclasses.dataclass(frozen=True)
class Options:
    """Residual Jacobians. Their singular vectors are those of one image each."""

    images: int = 4
    """Number of test images, over which is averaged."""
    count: int = 10
    """Number of singular values of each block."""
    steps: int = 6
    """Products with the Jacobian and its transpose for each block."""

    def __post_init__(self):
        if min(self.images, self.count, self.steps) < 1:
            raise InputError(
                "--jacobians.images, --jacobians.count, --jacobians.steps: expected positive integers, got"
                f" {self.images}, {self.count} and {self.steps}"
            )


def measure(measurements: Measurements):
    options, result = measurements.options.jacobians, {}
    for kind, network in (("network", measurements.trained()), ("plain", measurements.plain)):
        if network is None:
            continue
        found = analysis.residual_jacobians(
            network.model,
            network.variables,
            network.images[: options.images],
            measurements.options.seed,
            options.count,
            options.steps,
        )
        result[kind] = {
            "name": network.name,
            "blocks": found.blocks,
            "count": options.count,
            "singular_values": found.singular_values.mean(1),
            "energy": found.energy.mean(1),
            "within": found.within.mean(1),
            "left": found.left.mean(1),
            "right": found.right.mean(1),
            "random": options.count / np.array(found.sizes),
            "shared": found.shared,
        }
    return result


def draw(figure, result):
    kinds = list(result.items())
    axes = figure.subplots(1, 2 + len(kinds))
    for panel, (_, found) in zip(axes, kinds, strict=False):
        shared, n = np.array(found["shared"], float), len(found["blocks"])
        image = panel.imshow(shared, vmin=0, vmax=1, origin="lower", extent=(0.5, n + 0.5, 0.5, n + 0.5))
        panel.set(xlabel="singular vectors of j", ylabel="Jacobian of i")
        panel.set_title(found["name"], fontsize=8)
        panel.set_facecolor("0.9")
        panel.grid(False)
        whole_numbers(panel)
    figure.colorbar(image, ax=axes[len(kinds) - 1], shrink=0.7, label="shared (grey: other stage)")
    overlap, values = axes[-2:]
    for (kind, found), color in zip(kinds, ("C0", "C1"), strict=False):
        place = np.arange(len(found["blocks"])) + 1
        overlap.semilogy(place, found["within"], "o-", ms=3.5, color=color, label=f"{kind}: left and right of a block")
        for side, style in (("left", "s--"), ("right", "^:")):
            spaces = np.array(found[side], float)
            overlap.semilogy(
                place[:-1] + 0.5, spaces, style, ms=3.5, color=color, label=f"{kind}: {side} of neighbours"
            )
        values.semilogy(place, np.array(found["singular_values"])[:, 0], "o-", ms=3.5, color=color, label=kind)
        values.semilogy(place, np.array(found["singular_values"])[:, -1], ":", color=color)
    overlap.semilogy(place, found["random"], color="gray", lw=0.8, label="random spaces")
    overlap.set(xlabel="block that keeps the shape", title="overlap of singular spaces", ylim=(None, 1))
    values.set(xlabel="block that keeps the shape", title="largest, k-th (dotted) singular value")
    for panel in (overlap, values):
        whole_numbers(panel)
    # The legend is below: a curve may be anywhere in the axes.
    figure.legend(*overlap.get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=4)
    values.legend(fontsize=6)


def shows(result):
    sentences = []
    for kind, found in result.items():
        values = np.array(found["singular_values"])
        what = "Jacobian of a block" if kind == "plain" else "residual Jacobian"
        sentences.append(
            f"{found['name']}: the top {found['count']} left singular vectors of a block and of the next share"
            f" {percent(_neighbours(found))} of their space on average, those of random spaces"
            f" {percent(np.mean(found['random']))}. The largest singular value of a {what} is {values[:, 0].mean():.2f}"
            f" on average, {values[:, 0].mean() * len(values):.3g} times 1 / depth. The top {found['count']} hold"
            f" {percent(np.mean(found['energy']))} of the squared norm."
        )
    if "plain" in result:
        less = _neighbours(result["plain"]) < _neighbours(result["network"])
        sentences.append(f"Without skips, neighbours are {'less' if less else 'not less'} aligned.")
    return sentences


def judge(result):
    network = result["network"]
    aligned, random = _neighbours(network), np.mean(network["random"])
    why = f"neighbours of one stage are {aligned / random:.0f} times as aligned as random spaces; complete alignment"
    why += f" would be {1 / random:.0f} times"
    return Verdict(AGREES if aligned > 0.5 else PARTLY if aligned > _MORE * random else DIFFERS, why)


def _neighbours(found):
    spaces = np.array(found["left"], float)
    return np.nanmean(spaces) if np.isfinite(spaces).any() else 0.0


def _about(measurements):
    networks = [network.name for network in (measurements.network, measurements.plain) if network is not None]
    return f"{'; plain: '.join(networks)}; {measurements.options.jacobians.images:,} test images"


STUDY = Study(
    "Residual alignment: singular vectors of residual Jacobians",
    "Li & Papyan 2023, Residual Alignment, NeurIPS, arXiv 2401.09018",
    "In networks that generalise well, the top left and right singular vectors of residual Jacobians align with each"
    " other and across depth, and the top singular values fall as 1 / depth. Fully-connected networks have residual"
    " Jacobians of at most as many ranks as classes. Without skip connections, there is no such alignment.",
    "Bright cells off the diagonal are blocks that stretch the same directions. In the next panel, curves above the"
    " grey line are spaces that overlap more than random ones.",
    f"Agrees if the top left singular spaces of neighbours share more than half, in part if more than {_MORE} times as"
    " much as random ones.",
    judge,
    measure,
    draw,
    shows,
    size=(14, 3.9),
    place=170,
    about=_about,
    options=Options,
)
