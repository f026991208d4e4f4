#!/usr/bin/env bash
# TensorStore: what `to_json()` and `experimental_collect_matching_metrics()` return is never freed, so every Orbax save
# leaves memory behind: Orbax calls the first for each array, and the second for its log.
#
# An expert who sees a training process grow looks for arrays, caches and the collector of garbage; these objects have no
# referrer, and no collection takes them. A state of 600 arrays that is saved every minute grows by some 200 MB a day.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.1 jaxlib==0.10.1 orbax-checkpoint==0.12.8 tensorstore==0.1.86
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import gc
import logging
import pathlib
import shutil
import sys
import tracemalloc

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

logging.disable(logging.CRITICAL)
folder = pathlib.Path(sys.argv[1])


def left_by_each(call, times):
    """Bytes of Python's memory that each call leaves behind, when all garbage is collected."""
    for _ in range(20):
        call()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(times):
        call()
    gc.collect()
    return (tracemalloc.get_traced_memory()[0] - before) / times


def save(arrays):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder / "saved", arrays)
    shutil.rmtree(folder / "saved")


tracemalloc.start()
spec = ts.KvStore.Spec({"driver": "file", "path": "/any/"})
json = left_by_each(spec.to_json, 1000)
few, many = ({f"a{i}": np.ones(4, np.float32) for i in range(n)} for n in (1, 101))
first, second = (left_by_each(lambda arrays=arrays: save(arrays), 100) for arrays in (few, many))
metrics = left_by_each(lambda: ts.experimental_collect_matching_metrics("/tensorstore"), 200)
array = (second - first) / 100
print(f"one to_json() leaves {json:.0f} bytes, one collection of metrics {metrics:.0f}")
print(f"one save of 1 array leaves {first:.0f} bytes, of 101 arrays {second:.0f}: {array:.0f} for each array")
assert 100 < json < 1000 and 3000 < metrics < 30000, "changed: TensorStore frees it"
assert array > json / 2, "changed: a save leaves less behind"
PYTHON
