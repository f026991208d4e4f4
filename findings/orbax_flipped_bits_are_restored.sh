#!/usr/bin/env bash
# Orbax: a checkpoint with one flipped bit in its array data restores other numbers, without an error: 30 times of 30.
#
# Arrays are stored in compressed chunks, in a key-value store that has checksums of its index; an expert would guess that
# the numbers are covered, too. They are not: trained float32 weights hardly compress, the compressor stores them as they
# are, and a flipped bit is a flipped bit of a weight. Whoever copies or keeps checkpoints needs a digest of the files.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.1 jaxlib==0.10.1 orbax-checkpoint==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import collections
import logging
import pathlib
import random
import shutil
import sys

import numpy as np
import orbax.checkpoint as ocp

logging.disable(logging.CRITICAL)
folder = pathlib.Path(sys.argv[1])
arrays = {"kernel": np.random.default_rng(0).normal(size=(64, 1024)).astype(np.float32), "bias": np.zeros(64)}
checkpointer = ocp.PyTreeCheckpointer()
checkpointer.save(folder / "good", arrays)
sizes = {file: file.stat().st_size for file in (folder / "good").rglob("*") if file.is_file()}
data = max(sizes, key=sizes.get)
print(f"{len(sizes)} files, the largest of {sizes[data]:,} bytes: {data.relative_to(folder / 'good')}")
chosen, outcomes = random.Random(0), collections.Counter()
for trial in range(30):
    copy = folder / f"copy{trial}"
    shutil.copytree(folder / "good", copy)
    file = copy / data.relative_to(folder / "good")
    contents = bytearray(file.read_bytes())
    contents[chosen.randrange(len(contents))] ^= 1 << chosen.randrange(8)
    file.write_bytes(contents)
    try:
        restored = ocp.PyTreeCheckpointer().restore(copy)
    except Exception:
        outcomes["an error"] += 1
        continue
    same = all(np.array_equal(restored[name], array) for name, array in arrays.items())
    outcomes["the same numbers" if same else "other numbers, in silence"] += 1
    shutil.rmtree(copy)
print("one flipped bit, 30 times:", ", ".join(f"{count} x {what}" for what, count in outcomes.items()))
as_seen = outcomes["other numbers, in silence"] > 0
print("flipped bits are restored" if as_seen else "this has changed")
sys.exit(not as_seen)
PYTHON
