"""The spectrum of the Hessian of the loss."""

import dataclasses
import pathlib

import numpy as np

from experiments.evaluation.trained import read_network, read_records
from experiments.runtime.figures import whole_numbers
from experiments.studies.study import AGREES, DIFFERS, Measurements, Study, Verdict
from experiments.training.workdir import Workdir, is_run
from resjax import analysis
from resjax.errors import InputError

_APART = 10  # from so many times the other's range of eigenvalues on, the axis is logarithmic outside of that one
_TOP = 10  # of the eigenvalues are listed
_ISOLATED = 10  # an eigenvalue stands apart from so many times the tenth largest on


@dataclasses.dataclass(frozen=True)
class Options:
    """The Hessian. Ghorbani et al. take 10 starts of 90 steps, and all training images."""

    images: int = 128
    """Number of test images."""
    steps: int = 30
    """Products with the Hessian for each random start."""
    starts: int = 1
    """Number of random starts."""
    checkpoints: int = 6
    """Of a run that kept several (--keep_every), number of checkpoints at which the largest eigenvalues are drawn."""

    def __post_init__(self):
        if self.images < 2 or self.steps < 2 or self.starts < 1 or self.checkpoints < 0:
            raise InputError(
                "--curvature.images, --curvature.steps, --curvature.starts, --curvature.checkpoints: expected at least"
                f" 2, 2, 1 and 0, got {self.images}, {self.steps}, {self.starts} and {self.checkpoints}"
            )


def measure(measurements: Measurements):
    options, result = measurements.options.curvature, {}
    for kind, network in (("network", measurements.trained()), ("plain", measurements.plain)):
        if network is None:
            continue
        found = _spectrum(measurements, network, network.variables)
        spread = found.largest - found.smallest
        grid = np.linspace(found.smallest - 0.05 * spread, found.largest + 0.05 * spread, 600)
        result[kind] = {
            "name": network.name,
            "images": len(network.labels[: options.images]),
            "parameters": found.size,
            "largest": found.largest,
            "smallest": found.smallest,
            "trace": found.trace,
            "top": _top(found),
            "grid": grid,
            "density": found.density(grid, max(0.004 * spread, 1e-12)),
            "negative": (found.weights * (found.nodes < 0)).sum(-1).mean(),
            "along": _along(measurements, network, kind),
        }
    return result


def _spectrum(measurements, network, variables):
    options = measurements.options.curvature
    images, labels = network.images[: options.images], network.labels[: options.images]
    product, size = analysis.loss_hessian(network.model, variables, images, labels, **measurements.predict_options)
    return analysis.lanczos_spectrum(product, size, measurements.options.seed, options.starts, options.steps)


def _top(spectrum):
    return np.sort(spectrum.nodes[0])[::-1][:_TOP]


def _along(measurements, network, kind):
    """The largest eigenvalues at the checkpoints that a run kept; None for weights, and for the last two, as of any."""
    options = measurements.options
    run = options.plain if kind == "plain" else (options.of or (None,))[0]
    if run is None or not is_run(pathlib.Path(run).expanduser()):
        return None
    steps = Workdir(run).saved_steps()
    if min(len(steps), options.curvature.checkpoints) < 3:
        return None
    last = read_records(run)[-1]
    kept = np.unique(np.linspace(0, len(steps) - 1, options.curvature.checkpoints).round().astype(int))
    along = {"epochs": [], "top": []}
    for i in measurements.track(kept.tolist(), "curvature along training"):
        variables, step = read_network(run, steps[i], network.model)
        along["epochs"].append(step * last["epoch"] / last["step"])
        along["top"].append(_top(_spectrum(measurements, network, variables)))
    return along


def draw(figure, result):
    has_training = any(found["along"] for found in result.values())
    density, top, *along = figure.subplots(1, 2 + has_training)
    for (kind, found), color in zip(result.items(), ("C0", "C1"), strict=False):
        values = np.array(found["density"])
        density.semilogy(found["grid"], np.maximum(values, 1e-9), color=color, label=found["name"])
        top.plot(np.arange(len(found["top"])) + 1, found["top"], "o-", ms=4, color=color, label=f"{kind}: Ritz values")
        for panel in along:
            if found["along"]:
                values = np.array(found["along"]["top"])
                panel.plot(found["along"]["epochs"], values[:, 0], "o-", ms=4, color=color, label=f"{kind}: largest")
                panel.plot(found["along"]["epochs"], values[:, -1], "s:", ms=4, color=color, label=f"{_TOP}th largest")
    for panel in along:
        panel.set(xlabel="epoch", ylabel="eigenvalue", title="along training")
        whole_numbers(panel)
        panel.legend(fontsize=7)
    spreads = [found["grid"][-1] - found["grid"][0] for found in result.values()]
    if max(spreads) > _APART * min(spreads):
        density.set_xscale("symlog", linthresh=min(spreads) / 2)
    density.set(xlabel="eigenvalue", ylabel="density", ylim=(1e-7, None), title="spectral density")
    top.set(xlabel="rank", ylabel="eigenvalue", title="largest, from below")
    whole_numbers(top)
    density.legend(fontsize=7)
    top.legend(fontsize=7)


def shows(result):
    sentences = []
    for found in result.values():
        sentences.append(
            f"{found['name']}: on {found['images']} images and of {found['parameters']:,} parameters, the largest"
            f" eigenvalue of the Hessian is {found['largest']:.3g}, the smallest {found['smallest']:.3g}, the trace"
            f" {found['trace']:.3g}."
        )
        if found["along"]:
            epochs, largest = found["along"]["epochs"], [values[0] for values in found["along"]["top"]]
            sentences.append(
                f"Along training, the largest was {max(largest):.3g} at most, after {epochs[np.argmax(largest)]:.3g}"
                f" epochs, and went from {largest[0]:.3g} at {epochs[0]:.3g} to {largest[-1]:.3g} at {epochs[-1]:.3g}."
            )
    network = result["network"]
    if "plain" in result:
        plain, own = (max(abs(found["largest"]), abs(found["smallest"])) for found in (result["plain"], network))
        sentences.append(
            f"Without skips, the largest eigenvalue by magnitude is {'larger' if plain > own else 'not larger'}"
            f" ({plain:.3g} and {own:.3g})."
        )
    return sentences


def judge(result):
    network = result["network"]
    tenth = network["top"][-1]
    isolated = network["largest"] > _ISOLATED * tenth
    why = f"with BN, the largest eigenvalue {'stands' if isolated else 'does not stand'} apart; it is"
    why += f" {network['largest']:.3g}, the {len(network['top'])}th largest {tenth:.3g}"
    return Verdict(DIFFERS if isolated else AGREES, why)


def _about(measurements):
    networks = [network.name for network in (measurements.network, measurements.plain) if network is not None]
    return f"{'; plain: '.join(networks)}; {measurements.options.curvature.images:,} test images"


STUDY = Study(
    "Curvature: the spectrum of the Hessian",
    "Ghorbani et al. 2019, arXiv 1901.10159, sections 3 to 5; Yao et al. 2020, arXiv 1912.07145",
    "Without BN, large isolated eigenvalues appear early in training, and gradients concentrate in their eigenspaces."
    " With BN by the statistics of the batch, both are almost absent; with those of the population they come back. For"
    " ResNet-20, BN does not make the loss smoother (Yao et al.), for deeper networks it does.",
    "An eigenvalue is how fast the slope changes in one direction. Left: nearly all are close to zero, which are"
    " directions without effect. A bump far to the right would be a direction much steeper than the others. Right: the"
    " largest, in order.",
    f"Agrees if the largest eigenvalue is at most {_ISOLATED} times the tenth largest.",
    judge,
    measure,
    draw,
    shows,
    place=140,
    about=_about,
    options=Options,
)
