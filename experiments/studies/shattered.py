"""Correlations of gradients at initialisation."""

import numpy as np

from experiments.runtime.figures import look
from experiments.studies.study import AGREES, DIFFERS, PARTLY, Measurements, Study, Verdict
from resjax import analysis
from resjax.analysis import RandomNetwork

DEPTHS = (2, 4, 6, 10, 24, 50)
LAGS = 16
_FLOOR = 1e-5  # of the logarithmic axis of correlations, at which a band that reaches below zero ends
DATA_INPUTS = 32
KINDS = {
    "plain": {},
    "plain, BN": {"batch_norm": True},
    "residual": {"residual": True},
    "residual, BN": {"residual": True, "batch_norm": True},
    "residual, BN, scale 0.1": {"residual": True, "batch_norm": True, "branch_scale": 0.1},
}
SHOWN_DEPTHS = {"plain": 24, "plain, BN": 24, "residual": 50, "residual, BN": 50, "residual, BN, scale 0.1": 50}
"""Depths of the covariances, as in the paper: 24 for plain networks, 50 for residual ones."""


def measure(measurements: Measurements):
    options = measurements.options
    sizes = {"seed": options.seed, "networks": options.networks, "points": options.points}
    inputs = np.random.default_rng(options.seed).normal(size=(DATA_INPUTS, 3072))
    source = "normal noise"
    if measurements.network is not None and len(measurements.network.images) >= DATA_INPUTS:
        inputs, source = (
            measurements.network.images[:DATA_INPUTS].reshape(DATA_INPUTS, -1),
            measurements.network.dataset,
        )
    # At unit scale under any normalisation: large inputs would dominate the branches, which BN keeps small.
    inputs = (inputs - inputs.mean()) / inputs.std()
    about = {**sizes, "inputs": inputs, "source": source, "kinds": KINDS, "depths": DEPTHS, "lags": LAGS}
    # Nothing but the inputs is the network's, and they are those of every network on the same images.
    return measurements.kept("shattered", about, lambda: _measure(measurements, sizes, inputs, source))


def _measure(measurements, sizes, inputs, source):
    options = measurements.options
    noise = {"white noise": analysis.white_noise(**sizes), "brown noise": analysis.brown_noise(**sizes)}
    result = {
        "depths": DEPTHS,
        "inputs": source,
        "autocorrelation": {name: {"-": analysis.autocorrelation(series, LAGS)} for name, series in noise.items()},
        "covariance": {name: analysis.covariance(series) for name, series in noise.items()},
        "correlation": {},
        "standard_error": {},
        "fit": {},
    }
    for kind, fields in measurements.track(list(KINDS.items()), "shattered"):
        result["autocorrelation"][kind], found = {}, []
        for depth in DEPTHS:
            network = RandomNetwork(depth, **fields)
            series = analysis.grid_derivatives(network, **sizes)
            result["autocorrelation"][kind][str(depth)] = analysis.autocorrelation(series, LAGS)
            if depth == SHOWN_DEPTHS[kind]:
                result["covariance"][kind] = analysis.covariance(series)
            found.append(analysis.data_correlations(network, options.seed, options.networks, inputs))
        mean, error = np.mean(found, 1), np.std(found, 1, ddof=1) / np.sqrt(options.networks)
        result["correlation"][kind], result["standard_error"][kind] = mean, error
        # From the depth at which new networks could change its sign, the correlation is noise and follows no law.
        kept = np.logical_and.accumulate(mean > 2 * error)
        if kept.sum() >= 3:
            fit = analysis.fit_decay(np.array(DEPTHS)[kept], mean[kept])
            result["fit"][kind] = {"depths": np.array(DEPTHS)[kept], **vars(fit)}
    return result


def draw(figure, result):
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 0.62))
    curves, decay = top.subplots(1, 2)
    lags = np.arange(LAGS)
    for color, kind in zip(("0.6", "0.3"), ("white noise", "brown noise"), strict=True):
        curves.plot(lags, result["autocorrelation"][kind]["-"], color=color, ls="--", label=kind)
    depths = np.array(result["depths"])
    for i, kind in enumerate(KINDS):
        depth = SHOWN_DEPTHS[kind]
        label = f"{kind}, {depth} layers"
        curves.plot(lags, result["autocorrelation"][kind][str(depth)], ms=3, label=label, **look(i))
        correlation, error = (np.array(result[key][kind]) for key in ("correlation", "standard_error"))
        positive = correlation > 0
        decay.loglog(depths[positive], correlation[positive], ms=3, label=kind, **look(i))
        low, high = np.maximum([correlation - error, correlation + error], _FLOOR)
        decay.fill_between(depths, low, high, color=look(i)["color"], alpha=0.2, lw=0)
    smooth = np.linspace(2, depths[-1], 200)
    decay.plot(smooth, 2.0**-smooth, "k--", lw=0.8, label="$2^{-L}$")
    decay.plot(smooth, smooth**-0.5, "k:", lw=0.8, label="$L^{-1/2}$")
    curves.set(xlabel="lag (grid points)", ylabel="autocorrelation of df/dx", title="on a grid of [-2, 2]")
    negative = any(value <= 0 for values in result["correlation"].values() for value in values)
    decay.set(
        xlabel=f"layers L{' (not drawn: correlations below 0)' if negative else ''}",
        ylabel="correlation of gradients",
        title=f"between inputs: {result['inputs']}",
    )
    decay.set_ylim(_FLOOR, 2)
    decay.set_xticks(depths, depths, minor=False)
    decay.set_xticks([], minor=True)
    for axes in (curves, decay):  # below: a curve or a band may be anywhere in the axes
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=7)
    panels = bottom.subplots(1, len(result["covariance"]))
    for axes, (kind, matrix) in zip(panels, result["covariance"].items(), strict=True):
        axes.imshow(np.abs(np.array(matrix)), cmap="magma", vmin=0, vmax=1.5)
        depth = f", L = {SHOWN_DEPTHS[kind]}" if kind in SHOWN_DEPTHS else ""
        axes.set_title(f"{kind}{depth}", fontsize=7)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
    panels[0].set_ylabel("|covariance|, black 0\nto yellow 1.5", fontsize=8)


def shows(result):
    sentences = []
    for kind, fit in result["fit"].items():
        better = "exponential" if fit["exponential_residual"] < fit["power_residual"] else "power"
        sentences.append(
            f"{kind}: correlation as {fit['base']:.2f}^L or as L^{fit['power']:.2f} over L ="
            f" {', '.join(str(depth) for depth in fit['depths'])}. The {better} law fits better (residuals"
            f" {fit['exponential_residual']:.2f} and {fit['power_residual']:.2f})."
        )
    for kind in result["correlation"].keys() - result["fit"].keys():
        sentences.append(f"{kind}: below the noise at too many depths for a fit.")
    white, brown = (_at_lag_1(result, name, "-") for name in ("white noise", "brown noise"))
    plain, residual = _at_lag_1(result, "plain, BN", 24), _at_lag_1(result, "residual, BN, scale 0.1", 50)
    sentences.append(
        f"Autocorrelation at lag 1: white noise {white:.2f}; plain with BN, 24 layers, {plain:.2f}; residual with BN"
        f" and scale 0.1, 50 layers, {residual:.2f}; brown noise {brown:.2f}."
    )
    return sentences


def judge(result):
    plain = _at_lag_1(result, "plain, BN", 24)
    residual = _at_lag_1(result, "residual, BN, scale 0.1", 50)
    white, brown = (_at_lag_1(result, name, "-") for name in ("white noise", "brown noise"))
    correlation = result["correlation"]
    at = [correlation[kind][-1] for kind in ("plain", "residual, BN")]
    holds = [abs(plain - white) < abs(plain - brown), abs(residual - brown) < abs(residual - white), at[0] < at[1]]
    why = f"at lag 1, gradients of the plain network ({plain:.2f}) are nearer to {'white' if holds[0] else 'brown'}"
    why += f" noise, those of the residual one ({residual:.2f}) to {'brown' if holds[1] else 'white'} noise; at"
    why += f" {result['depths'][-1]} layers, gradients correlate by {at[0]:.1g} and {at[1]:.1g}"
    return Verdict(AGREES if all(holds) else PARTLY if any(holds) else DIFFERS, why)


def _at_lag_1(result, name, depth):
    return result["autocorrelation"][name][str(depth)][1]


def _about(measurements):
    return f"{measurements.options.networks} random networks of each depth, at initialisation"


STUDY = Study(
    "Shattered gradients, at initialisation",
    "Balduzzi et al. 2017, arXiv 1702.08591, theorems 1 to 3, figures 1 and 2",
    "In a plain network, the correlation of gradients at two inputs halves with every layer, and gradients come to"
    " look like white noise. With skips and BN it falls only as 1 / (beta sqrt(L)), and gradients look like brown"
    " noise. A small branch scale beta strengthens this.",
    "These networks are not trained: the figure does not depend on yours. Left: curves that drop to zero at once are"
    " gradients that change wildly from one input to the next. Right: how fast the gradients at two images lose their"
    " likeness with depth. Below: the same as matrices; a thin diagonal is noise.",
    "Agrees if gradients of the plain network are nearer to white than to brown noise at lag 1, those of the residual"
    " one nearer to brown, and those of the deepest residual network with BN correlate more than those of the plain"
    " one; in part if some of the three hold.",
    judge,
    measure,
    draw,
    shows,
    size=(11, 7),
    place=90,
    about=_about,
)
