"""The spectrum of the Hessian of the loss."""

import dataclasses

import numpy as np

from experiments.runtime.figures import whole_numbers
from experiments.studies.study import Measurements, Study
from resjax import analysis
from resjax.errors import InputError

_APART = 10  # from so many times the other's range of eigenvalues on, the axis is logarithmic outside of that one
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

    def __post_init__(self):
        if self.images < 2 or self.steps < 2 or self.starts < 1:
            raise InputError(
                "--curvature.images, --curvature.steps, --curvature.starts: expected at least 2, 2 and 1, got"
                f" {self.images}, {self.steps} and {self.starts}"
            )


def measure(measurements: Measurements):
    options, result = measurements.options.curvature, {}
    for kind, network in (("network", measurements.trained()), ("plain", measurements.plain)):
        if network is None:
            continue
        images, labels = network.images[: options.images], network.labels[: options.images]
        product, size = analysis.loss_hessian(
            network.model, network.variables, images, labels, **measurements.predict_options
        )
        found = analysis.lanczos_spectrum(product, size, measurements.options.seed, options.starts, options.steps)
        spread = found.largest - found.smallest
        grid = np.linspace(found.smallest - 0.05 * spread, found.largest + 0.05 * spread, 600)
        result[kind] = {
            "name": network.name,
            "images": len(labels),
            "parameters": size,
            "largest": found.largest,
            "smallest": found.smallest,
            "trace": found.trace,
            "top": np.sort(found.nodes[0])[::-1][:10],
            "grid": grid,
            "density": found.density(grid, max(0.004 * spread, 1e-12)),
            "negative": (found.weights * (found.nodes < 0)).sum(-1).mean(),
        }
    return result


def draw(figure, result):
    density, top = figure.subplots(1, 2)
    for (kind, found), color in zip(result.items(), ("C0", "C1"), strict=False):
        values = np.array(found["density"])
        density.semilogy(found["grid"], np.maximum(values, 1e-9), color=color, label=found["name"])
        top.plot(np.arange(len(found["top"])) + 1, found["top"], "o-", ms=4, color=color, label=f"{kind}: Ritz values")
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
    network = result["network"]
    tenth = network["top"][-1]
    isolated = network["largest"] > _ISOLATED * tenth
    sentences.append(
        f"{'Does not agree with' if isolated else 'Agrees with'} the paper: with BN, the largest eigenvalue"
        f" {'stands' if isolated else 'does not stand'} apart; the {len(network['top'])}th largest is {tenth:.3g}."
    )
    if "plain" in result:
        plain, own = (max(abs(found["largest"]), abs(found["smallest"])) for found in (result["plain"], network))
        sentences.append(
            f"Without skips, the largest eigenvalue by magnitude is {'larger' if plain > own else 'not larger'}"
            f" ({plain:.3g} and {own:.3g})."
        )
    return sentences


def _about(measurements):
    networks = [network.name for network in (measurements.network, measurements.plain) if network is not None]
    return f"{'; plain: '.join(networks)}; {measurements.options.curvature.images:,} test images"


STUDY = Study(
    "Curvature: the spectrum of the Hessian",
    "Ghorbani et al. 2019, arXiv 1901.10159, sections 3 to 5; Yao et al. 2020, arXiv 1912.07145",
    "Without BN, large isolated eigenvalues appear early in training, and gradients concentrate in their eigenspaces."
    " With BN by the statistics of the batch, both are almost absent; with those of the population they come back. For"
    " ResNet-20, BN does not make the loss smoother (Yao et al.), for deeper networks it does.",
    measure,
    draw,
    shows,
    place=140,
    about=_about,
    options=Options,
)
