"""The plain Flax networks that compiled steps are compared with are those of this library, layer for layer."""

import json

import jax
import pytest

from experiments import benchmark
from experiments.benchmarks.compiled import NETWORKS, line, table, with_recorded
from experiments.benchmarks.flax_networks import flax_network
from experiments.runtime.targets import CHIPS
from resjax import create_model, model_info, models
from tests.helpers.command import outcome


# Small ones of the table's families; ResNet-18 has ImageNet's stem.
@pytest.mark.parametrize("name", ["resnet_8", "wrn_10_1", "resnext_11_4x16d", "densenet_bc_16_12", "resnet_18"])
def test_a_counterpart_has_the_same_parameters_and_work(name):
    model, shape = create_model(name), model_info(name).input_size
    plain = flax_network(model)
    variables = jax.eval_shape(plain.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), "float32"))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == models.parameter_count(model, shape)
    assert models.multiply_adds(plain, shape) == models.multiply_adds(model, shape)


def test_a_network_without_a_counterpart_has_none():
    assert flax_network(create_model("highway_19")) is None


def test_the_networks_of_the_table_are_for_known_machines():
    assert {text.partition("/")[0] for text in NETWORKS} <= set(CHIPS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet_20:8", "--models resnet_20:8: with --compiled expected TARGET/NAME:BATCH, e.g. h200/resnet_50:256"),
        ("h200/resnet_20", "expected NAME:BATCH"),
        ("h201/resnet_8:8", "unknown machine"),
    ],
)
def test_what_cannot_be_compiled_is_one_line(text, message, capsys, tmp_path):
    flags = ("--compiled", "--models", text, "--output", tmp_path / "out")
    code, out, err = outcome(benchmark.main, capsys, *flags)
    assert code == 2 and message in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_table_has_a_line_for_each_side():
    side = {"bytes": 45.8e9, "temporaries": 4606 * 2**20, "peak": 5000 * 2**20, "flops": 16.1e12, "kernels": 668}
    row = {"target": "h200", "network": "wrn_28_10", "batch": 512, "date": "2026-11-30"}
    row["resjax"] = side | {"seconds_at_least": 0.0163}
    row["flax"] = row["resjax"] | {"bytes": 50e9}
    assert (
        line(row, "resjax")
        == "| h200, wrn_28_10, 512 | resjax | 45.80 | 4,606 | 5,000 | 16.10 | 668 | 16.3 | 2026-11-30 |"
    )
    text = table({"dtype": "bfloat16", "versions": {"jax": "1"}, "networks": [row]})
    assert line(row, "resjax") in text and "| flax | 50.00 |" in text and "jax 1" in text


def test_a_table_keeps_its_other_rows_and_their_dates_if_the_compilers_are_the_same(tmp_path):
    path, about = tmp_path / "compiled.json", {"versions": {"jax": "1"}, "dtype": "bfloat16"}
    row = {"target": "h200", "network": "resnet_50", "batch": 256, "date": "2026-12-01", "resjax": {"bytes": 2}}
    other = row | {"batch": 128, "date": "2026-11-29"}
    undated = {key: value for key, value in row.items() if key != "date"} | {"batch": 64}
    assert with_recorded([row], about, path) == [row]
    recorded = {"networks": [row | {"resjax": {"bytes": 1}}, other, undated], "date": "2026-11-30"}
    path.write_text(json.dumps(about | recorded))
    assert with_recorded([row], about, path) == [undated | {"date": "2026-11-30"}, other, row]
    assert with_recorded([row], about | {"versions": {"jax": "2"}}, path) == [row]
