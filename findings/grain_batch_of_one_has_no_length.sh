#!/usr/bin/env bash
# Grain: a repeated dataset in batches of one element has no length, and fails where batches of two do not.
#
# An endless repetition has the length sys.maxsize. The number of batches is rounded up by adding the batch size less one
# before dividing, and `len` of batches of one returns what Python cannot hold. Whatever asks for the length (a sampler,
# a progress bar, the iterator of threads) fails for a batch size that is valid, and only for that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check grain==0.2.18
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import grain

seen = {}
for size in (1, 2):
    try:
        seen[size] = len(grain.MapDataset.range(7).repeat().batch(size))
    except Exception as error:
        seen[size] = type(error).__name__
    print(f"endless, in batches of {size}: len is {seen[size]}")
as_seen = seen[1] == "OverflowError" and isinstance(seen[2], int)
print("batches of one have no length" if as_seen else "this has changed")
sys.exit(not as_seen)
PYTHON
