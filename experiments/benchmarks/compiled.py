"""`--compiled`: the training step compiled for machines that are not here, beside plain Flax's of the same network."""

import datetime
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks.flax_networks import flax_network
from experiments.benchmarks.workers import create_network
from experiments.runtime.compiled import Needs, needs
from experiments.runtime.targets import Target, stay_on_cpu, target
from resjax import model_info, train
from resjax.layers import split_batch

NETWORKS = (
    "h200/resnet_50:256",
    "h200/wrn_28_10:512",
    "h200/densenet_121:128",
    "h200/resnext_50_32x4d:128",
    "tpu_v5e/resnet_50:128",
    "tpu_v5e/wrn_28_10:512",
)
"""TARGET/NAME:BATCH, as `--models` takes them."""


def compile_step(model: Any, optimizer: optax.GradientTransformation, name: str, batch: int, machine: Target) -> Needs:
    """Compiles the training step of a network on images of its paper's size; returns what it needs on each device."""
    info = model_info(name.partition("@")[0])
    mesh = train.data_mesh(machine.devices)
    train.check_batch_size(batch, mesh)
    step = train.make_train_step(
        model, optimizer, lambda key, images, labels: (images, jax.nn.one_hot(labels, info.num_classes))
    )
    whole, split = train.replicated(mesh), train.batch_sharding(mesh)

    def shapes(tree, sharding):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    state = jax.eval_shape(lambda: train.create_state(model, optimizer, 0, info.input_size))
    images = jax.ShapeDtypeStruct((batch, *info.input_size), jnp.float32)
    data = shapes((images, jax.ShapeDtypeStruct((batch,), jnp.int32)), split)
    with split_batch(mesh):
        lowered = jax.jit(step, donate_argnums=0, out_shardings=whole).lower(shapes(state, whole), data)
    return needs(lowered.compile())


def measure(networks: Sequence[tuple[str, str, int]], dtype: str, form: dict[str, Any], report) -> list[dict[str, Any]]:
    """Compiles each (target, network, batch) with this library and with plain Flax; returns the rows of the table.

    Raises:
      InputError: for an unknown target, or a compiler that is not installed.
    """
    stay_on_cpu()
    rows = []
    for where, name, batch in networks:
        machine = target(where)
        row: dict[str, Any] = {"target": where, "network": name, "batch": batch}
        row["date"] = datetime.date.today().isoformat()
        own = create_network(name, dtype=jnp.dtype(dtype), **form)
        sides = {
            "resjax": (own, train.sgd(0.1, momentum=0.9, weight_decay=1e-4)),
            "flax": (flax_network(own), optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))),
        }
        for side, (model, optimizer) in sides.items():
            if model is None:
                continue
            report(f"compiling {name}, batch {batch}, for {where}: {side}")
            started = time.perf_counter()
            found = compile_step(model, optimizer, name, batch, machine)
            bound = {"seconds_at_least": found.bound(machine.chip, dtype)}
            row[side] = found.to_json() | bound | {"compile_s": time.perf_counter() - started}
            report(line(row, side))
        rows.append(row)
    return rows


def with_recorded(rows: list[dict[str, Any]], about: dict[str, Any], path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows, and those of other targets, networks and batches in the file `path`, if its compilers are the same.

    A table takes minutes a row, and can be written row by row.
    """
    recorded = json.loads(path.read_text()) if path.exists() else {}
    if any(recorded.get(key) != about[key] for key in ("versions", "dtype")):
        return rows

    def key(row):
        return tuple(row[name] for name in ("target", "network", "batch"))

    known = {key(row): {"date": recorded["date"]} | row for row in recorded["networks"]}
    known |= {key(row): row for row in rows}
    return sorted(known.values(), key=key)


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    lines = [
        f"All rows: {results['dtype']}, {', '.join(f'{k} {v}' for k, v in results['versions'].items())}",
        "",
        "| target, network, batch | side | GB moved | temporaries MiB | peak MiB | TFLOP | kernels | least ms | date |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [line(row, side) for row in results["networks"] for side in ("resjax", "flax") if side in row]
    return "\n".join(lines)


def line(row: dict[str, Any], side: str) -> str:
    """One side of a row of the table."""
    found = row[side]
    cells = (
        f"{row['target']}, {row['network']}, {row['batch']}",
        side,
        f"{found['bytes'] / 1e9:.2f}",
        f"{found['temporaries'] / 2**20:,.0f}",
        f"{found['peak'] / 2**20:,.0f}",
        f"{found['flops'] / 1e12:.2f}",
        f"{found['kernels']:,}",
        f"{1e3 * found['seconds_at_least']:.1f}",
        row["date"],
    )
    return f"| {' | '.join(cells)} |"
