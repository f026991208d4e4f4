#!/usr/bin/env bash
# JAX: x[::2] of an array whose size is a symbol, as jax.export takes it, becomes a gather where x[::2] of a known size is
# a slice.
#
# Indices of every second pixel are written down by iota and multiplied, and pixels are gathered one by one. lax.slice
# takes the same array, symbol and stride, and is a slice. A network with subsampling shortcuts that is exported for
# images of any size is slower for it, and cannot be converted by what knows slices only; results are the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import sys

import jax
from jax import export, lax

(size,) = export.symbolic_shape("n")
seen = {}
for name, function, length in (
    ("x[::2] of 8", lambda x: x[::2], 8),
    ("x[::2] of n", lambda x: x[::2], size),
    ("lax.slice of n", lambda x: lax.slice(x, (0,), x.shape, (2,)), size),
):
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((length,), "float32"))
    seen[name] = [eqn.primitive.name for eqn in traced.eqns]
    print(f"{name}: {', '.join(seen[name])}")
as_seen = seen["x[::2] of 8"] == ["slice"] == seen["lax.slice of n"] and "gather" in seen["x[::2] of n"]
print("a free size turns a slice into a gather" if as_seen else "this has changed")
sys.exit(not as_seen)
PYTHON
