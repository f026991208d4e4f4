"""Every study that reads trained networks, from its measurement to its figure and sentences."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.evaluation.trained import TrainedModel
from experiments.runtime.files import to_json
from experiments.studies import STUDIES, Measurements, Options
from experiments.studies.figures import render
from experiments.studies.study import AGREES, DIFFERS, OPEN, PARTLY
from resjax import AttentionResiduals, HyperConnections, InputError
from resjax.data import Dataset, dataset_info
from resjax.models import PreActResNet, ResNet

FEW = {
    "probes": {"images": 40, "neighbours": 3},
    "landscape": {"points": 3, "images": 8},
    "curvature": {"images": 8, "steps": 12},
    "connectivity": {"images": 8, "points": 3},
    "linearise": {"images": 8, "draws": 1, "counts": 3},
    "jacobians": {"images": 1, "count": 2, "steps": 1},
}


@pytest.fixture(scope="module")
def measurements():
    """A residual network and its plain twin at initialisation, on 16 images."""
    rng, networks = np.random.default_rng(0), []
    test = Dataset(rng.integers(0, 256, (16, 32, 32, 3)).astype(np.uint8), rng.integers(0, 10, 16).astype(np.int32))
    info = dataset_info("cifar10_mini")
    for shortcut in ("A", "none"):
        model = ResNet(stage_sizes=(1, 3), widths=(3, 4), shortcut=shortcut)
        variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
        name = f"<{shortcut}>"
        networks.append(
            TrainedModel(name, model, variables, test, lambda x: np.float32(x) / 128 - 1, "cifar10_mini", info)
        )
    own = {name: STUDIES[name].options(**fields) for name, fields in FEW.items()}
    return Measurements(Options(batch_size=8, path_images=8, draws=2, **own), *networks)


@pytest.mark.parametrize("name", ["lesion", "reorder", "ensembles", "responses", "similarity", "refinement", *FEW])
def test_a_study_is_measured_drawn_and_said(measurements, name):
    """With its plain twin, with its verdict, the same twice, and without the twin."""
    study = STUDIES[name]
    result = to_json(study.measure(measurements))
    png, numbers = render(study, result, study.about(measurements))
    assert png.startswith(b"\x89PNG") and len(numbers) > 3
    for number in numbers:
        assert -10 < number.left < 1010 and -10 < number.top < 1010 and "nan" not in number.text
    text = " ".join(study.shows(result))
    assert "<A>" in text and "<none>" in text and "nan" not in text
    verdict = study.judge(result)
    assert verdict.says in (AGREES, PARTLY, DIFFERS, OPEN) and "nan" not in verdict.why
    assert study.sentences(result) == [*study.shows(result), str(verdict)]
    alone = {key: value for key, value in result.items() if key == "network"}
    assert render(study, alone) and "<none>" not in " ".join(study.sentences(alone))


@pytest.mark.parametrize("rule", [HyperConnections(2, dynamic=True), AttentionResiduals()], ids=str)
def test_streams_are_drawn_and_said(measurements, rule):
    """At first: branches are read once, with two streams as with one, or all sources alike."""
    model = PreActResNet(stage_sizes=(1, 3), widths=(3, 4), streams=rule)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    network = dataclasses.replace(measurements.network, name="<streams>", model=model, variables=variables)
    study, own = STUDIES["streams"], Measurements(measurements.options, network, None)
    result = to_json(study.measure(own))
    assert render(study, result, study.about(own))[0].startswith(b"\x89PNG")
    assert study.judge(result).says == OPEN
    text = " ".join(study.shows(result))
    (stage,) = result["stages"]
    if isinstance(rule, HyperConnections):
        assert (
            np.allclose(stage["connections"], np.tril(np.ones((3, 3)))) and "differ from the identity by 0.000" in text
        )
    else:
        assert np.allclose(stage["connections"], [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])
        assert "differ from the equal ones at first by 0.000" in text
    with pytest.raises(InputError, match="<A>: has one residual stream; train one with --model.streams.count 4"):
        study.measure(measurements)
    shallow = dataclasses.replace(network, model=model.clone(stage_sizes=(1, 1)))
    shallow.variables["params"]["stage_2"] = {"block_1": variables["params"]["stage_2"]["block_1"]}
    with pytest.raises(InputError, match="its stages have one block each"):
        study.measure(Measurements(measurements.options, shallow, None))


@pytest.mark.quick
def test_one_draw_has_no_two_networks_that_could_differ():
    ensembles, errors = STUDIES["ensembles"], np.array([0.1, 0.2, 0.9])
    found = {"name": "a", "log2_valid_paths": [2, 1, 0], "error": errors, "vote_error": errors}
    for disagreement, differs in ((np.nan, False), (0.25, True)):
        result = to_json({"network": found | {"smoothness_index": 0.125, "disagreement": np.full(3, disagreement)}})
        text = " ".join(ensembles.sentences(result))
        assert ("Two networks with 1 of 2 parts deleted differ on 25.0 %" in text) == differs and "nan" not in text
        assert render(ensembles, result)[0].startswith(b"\x89PNG")


@pytest.mark.quick
def test_studies_are_found_in_order_and_bring_their_options():
    assert list(STUDIES)[:2] == ["lesion", "reorder"]
    places = [study.place for study in STUDIES.values()]
    assert len(set(places)) == len(places) and places == sorted(places)
    assert dataclasses.replace(Options(), probes=STUDIES["probes"].options(images=5)).probes.images == 5
    for name, fields, message in (
        ("landscape", {"points": 4}, "--landscape.points, .*: expected an odd number"),
        ("curvature", {"steps": 1}, "--curvature.images, --curvature.steps, .* expected at least 2, 2, 1 and 0"),
        ("jacobians", {"count": 0}, "--jacobians.images, --jacobians.count, .* got 4, 0 and 6"),
        ("connectivity", {"points": 2}, "--connectivity.images, .* got 256 and 2"),
        ("linearise", {"counts": 1}, "--linearise.images, .* got 128, 3 and 1"),
        ("probes", {"neighbours": 0}, "--probes.neighbours"),
        ("streams", {"images": 0}, "--streams.images: expected a positive integer, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            STUDIES[name].options(**fields)
