#!/usr/bin/env bash
# Muon: biases, scales and heads get Nesterov's Adam of optax.contrib.muon, as long as Muon's own momentum is Nesterov's.
#
# `nesterov` is documented for Muon's momentum, and is True by default; it also goes to the optimizer of all parameters
# that are no matrices. Their updates are then not those of `optax.adam` with the same b1, b2 and eps: where a gradient
# turns round, the next one is ten times as large. With nesterov=False they are Adam's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.7.1 jaxlib==0.7.1 optax==0.2.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import sys

import jax.numpy as jnp
import optax


def second_update(optimizer):
    params = {"bias": jnp.zeros(1)}
    state = optimizer.init(params)
    for gradient in (1.0, -1.0):
        updates, state = optimizer.update({"bias": jnp.full(1, gradient)}, state, params)
    return float(updates["bias"][0])


adam = second_update(optax.adam(0.1))
nadam = second_update(optax.nadam(0.1))
muon = second_update(optax.contrib.muon(0.1))
plain = second_update(optax.contrib.muon(0.1, nesterov=False))
print("optax", optax.__version__)
print(f"second update of a bias whose gradient is 1, then -1: optax.adam {adam:+.5f}, optax.nadam {nadam:+.5f}")
print(f"optax.contrib.muon {muon:+.5f}, with nesterov=False {plain:+.5f}")
as_seen = abs(muon - nadam) < 1e-6 < abs(muon - adam) and abs(plain - adam) < 1e-6
print("Muon's Adam is Nesterov's" if as_seen else "this has changed")
sys.exit(not as_seen)
PYTHON
