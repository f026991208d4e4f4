"""The loss around a trained network, on a line and on a plane."""

import dataclasses

import numpy as np
from matplotlib import colors

from experiments.runtime.figures import logarithmic
from experiments.studies.study import AGREES, DIFFERS, PARTLY, Measurements, Study, Verdict
from resjax import analysis
from resjax.errors import InputError

_CEILING = 10.0  # of the loss in figures; a network at chance has log(classes)


@dataclasses.dataclass(frozen=True)
class Options:
    """The surface. The paper has 51 points along a side, and all training images."""

    points: int = 9
    """Points along each side of the plane; the line has four times as many."""
    images: int = 256
    """Number of test images."""
    extent: float = 1.0
    """How far from the network, in lengths of its filters."""

    def __post_init__(self):
        if self.points < 3 or self.points % 2 == 0 or self.images < 2 or not self.extent > 0:
            raise InputError(
                "--landscape.points, --landscape.images, --landscape.extent: expected an odd number from 3 on, two"
                f" images or more, and a positive number, got {self.points}, {self.images} and {self.extent}"
            )


def measure(measurements: Measurements):
    options, result = measurements.options.landscape, {}
    side = np.linspace(-options.extent, options.extent, options.points)
    line = np.linspace(-options.extent, options.extent, 4 * options.points + 1)
    plane = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    every = np.concatenate([np.stack([line, 0 * line], -1), plane])
    for kind, network in (("network", measurements.trained()), ("plain", measurements.plain)):
        if network is None:
            continue
        seed = measurements.options.seed
        directions = [analysis.filter_direction(seed + i, network.variables["params"]) for i in range(2)]
        images, labels = network.images[: options.images], network.labels[: options.images]
        losses, errors = analysis.loss_surface(
            network.model, network.variables, images, labels, directions, every, **measurements.predict_options
        )
        losses = np.nan_to_num(losses, nan=np.inf, posinf=np.finfo(np.float32).max)
        n = len(line)
        result[kind] = {
            "name": network.name,
            "images": len(labels),
            "line": line,
            "loss": losses[:n],
            "error": errors[:n],
            "side": side,
            "plane": losses[n:].reshape(len(side), len(side)),
            "bends": _bends(losses[:n]),
            "half_width": _half_width(line, losses[:n]),
        }
    return result


def _bends(losses):
    """Number of minima on the line besides the lowest: those from which the loss rises by more than 0.05 both ways."""
    count, lowest, highest = 0, losses[0], -np.inf
    falling = True
    for loss in losses[1:]:
        if falling:
            lowest = min(lowest, loss)
            if loss > lowest + 0.05:
                falling, highest, count = False, loss, count + 1
        else:
            highest = max(highest, loss)
            if loss < highest - 0.05:
                falling, lowest = True, loss
    return max(count - 1, 0)


def _half_width(line, losses):
    """Mean distance, to both sides, at which the loss is first 1 above that of the network; the extent if nowhere."""
    centre = len(line) // 2
    above = losses > losses[centre] + 1
    sides = []
    for side in (above[centre:], above[centre::-1]):
        first = np.argmax(side) if side.any() else len(side) - 1
        sides.append(line[centre + first])
    return np.mean(sides)


def draw(figure, result):
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    kinds = list(result.items())
    panels = top.subplots(1, 1 + len(kinds), squeeze=False)[0]
    lowest = min(np.min(found["plane"]) for _, found in kinds)
    levels = np.geomspace(max(lowest, 1e-2), _CEILING, 16)
    for (_, found), color, panel in zip(kinds, ("C0", "C1"), panels[1:], strict=False):
        panels[0].plot(found["line"], np.minimum(found["loss"], _CEILING), color=color, label=found["name"])
        plane = np.clip(np.array(found["plane"]), levels[0], _CEILING)
        drawn = panel.contour(found["side"], found["side"], plane.T, levels, cmap="viridis", norm=colors.LogNorm())
        panel.clabel(drawn, drawn.levels[::3], fontsize=6, fmt="%.2g")
        panel.plot(0, 0, "k+")
        panel.set_title(found["name"], fontsize=8)
        ends = [found["side"][0], 0, found["side"][-1]]
        panel.set(xlabel="first direction", ylabel="second direction", aspect="equal", xticks=ends, yticks=ends)
        panel.grid(False)
    panels[0].set(xlabel="distance (filter lengths)", ylabel="loss", title="on a line")
    logarithmic(panels[0], np.concatenate([np.minimum(found["loss"], _CEILING) for _, found in kinds]))
    panels[0].legend(fontsize=6, loc="upper center")
    panels[0].set_xticks(np.linspace(kinds[0][1]["line"][0], kinds[0][1]["line"][-1], 5))
    for i, (kind, found) in enumerate(kinds):
        axes = bottom.add_subplot(1, len(kinds), i + 1, projection="3d")
        x, y = np.meshgrid(found["side"], found["side"], indexing="ij")
        heights = np.log10(np.clip(np.array(found["plane"]), levels[0], _CEILING))
        axes.plot_surface(x, y, heights, cmap="viridis", vmin=np.log10(levels[0]), vmax=np.log10(_CEILING))
        axes.set_zlim(np.log10(levels[0]), np.log10(_CEILING))
        ends = [found["side"][0], 0, found["side"][-1]]
        axes.set(xticks=ends, yticks=ends, zlabel="log10 loss")
        axes.set_title(f"{kind}, a floor at {levels[0]:.2g} and a ceiling at {_CEILING:g}", fontsize=7)


def shows(result):
    sentences = []
    for found in result.values():
        centre = np.array(found["loss"])[len(found["loss"]) // 2]
        rise = (
            f"is 1 higher at {found['half_width']:.2f}"
            if _rises(found)
            else f"is not 1 higher up to {found['line'][-1]:g}"
        )
        more = f"{found['bends'] or 'no'} further minim{'um' if found['bends'] == 1 else 'a'}"
        sentences.append(
            f"{found['name']}: on {found['images']} images with the batch's own statistics, the loss is {centre:.2f}."
            f" It {rise} filter lengths, with {more} on the line."
        )
    network = result["network"]
    if "plain" in result and not (_rises(network) and _rises(result["plain"])):
        sentences.append("One of the two has no basin on this line, so that their widths are not compared.")
    elif "plain" in result:
        plain = result["plain"]
        wider = network["half_width"] > plain["half_width"]
        sentences.append(
            f"The basin of the network is {'wider' if wider else 'no wider'} than that of the plain one"
            f" ({network['half_width']:.2f} and {plain['half_width']:.2f}). In the paper, surfaces without skips are"
            " chaotic from 56 layers on, and still nearly convex at 20."
        )
    return sentences


def judge(result):
    network = result["network"]
    one_minimum, basin = network["bends"] == 0, _rises(network)
    found = "is smooth, with one basin" if one_minimum and basin else "has no basin" if one_minimum else "is not smooth"
    why = f"the surface around the network {found}"
    return Verdict(AGREES if one_minimum and basin else PARTLY if one_minimum or basin else DIFFERS, why)


def _rises(found):
    """Whether the loss is somewhere 1 above that of the network, on both sides."""
    losses = np.array(found["loss"], float)
    centre = len(losses) // 2
    return min(losses[:centre].max(), losses[centre:].max()) > losses[centre] + 1


def _about(measurements):
    networks = [network.name for network in (measurements.network, measurements.plain) if network is not None]
    return f"{'; plain: '.join(networks)}; {measurements.options.landscape.images:,} test images"


STUDY = Study(
    "The loss around the network",
    "Li et al. 2018, arXiv 1712.09913, sections 4 and 5, figures 1, 5 and 6",
    "With skips, the surface around a minimum stays smooth and nearly convex at any depth. Without, it becomes chaotic"
    " as depth grows: nearly convex at 20 layers, chaotic at 56 and 110. Flat, wide minima have smaller test errors.",
    "The network is in the middle; each point around it is the same network with its weights moved. Round contours and"
    " one bowl are a loss that is easy to descend. Ridges, or contours that close elsewhere, are hills and traps.",
    "Agrees if the line through the network has no further minimum and rises by 1 on both sides; in part if one of the"
    " two holds.",
    judge,
    measure,
    draw,
    shows,
    size=(11, 8),
    place=130,
    about=_about,
    options=Options,
)
