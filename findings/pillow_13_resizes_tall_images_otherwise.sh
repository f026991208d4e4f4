#!/usr/bin/env bash
# Pillow 13 resizes a tall image to other pixels than Pillow 12: rows first, where every version before began with columns.
#
# Both passes round to 8 bits, so their order shows: a fifth of the values of a portrait of 300x400 at 224x224 differ, by
# one level with bilinear, and a quarter by up to 10 with bicubic (of noise). Landscapes are the same in both. A network's inputs,
# and so its last digits of accuracy, depend on the version of Pillow, for some shapes of images only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
for version in 12.3.0 13.0.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "pillow==$version" numpy==2.3.5
  "$folder/$version/bin/python" - "$folder/$version.npz" <<'PYTHON'
import sys

import numpy as np
from PIL import Image

noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
images = {"portrait 300x400": noise[:, :300], "landscape 400x300": noise[:300], "strip 100x333": noise[:333, :100]}
resized = {
    f"{name}, {method.name.lower()}": np.asarray(Image.fromarray(pixels).resize((224, 224), method))
    for name, pixels in images.items()
    for method in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
}
np.savez(sys.argv[1], **resized)
PYTHON
done
"$folder/13.0.0/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np

before, after = (np.load(f"{sys.argv[1]}/{version}.npz") for version in ("12.3.0", "13.0.0"))
as_seen = True
for name in before:
    apart = np.abs(before[name].astype(int) - after[name])
    print(f"{name} to 224x224, Pillow 12.3.0 and 13.0.0: {np.mean(apart > 0):.1%} of values differ, by at most {apart.max()}")
    as_seen &= (apart.max() == 0) if name.startswith("landscape") else bool(np.mean(apart > 0) > 0.1)
print("tall images are other pixels, landscapes the same" if as_seen else "this has changed")
sys.exit(not as_seen)
PYTHON
