#!/usr/bin/env bash
# PyTorch: antialias=True changes an image that is enlarged with mode="bicubic", by up to a tenth of its range.
#
# Antialiasing widens the kernel where an image is reduced, so that one would guess that the flag does nothing where it is
# enlarged; with mode="bilinear" that is so. But bicubic has the coefficient -0.75 without the flag and -0.5 with it, as
# Pillow has always. CIFAR images enlarged for a network of ImageNet's size are up to 22 of 255 levels apart, and only those
# with the flag are what a PIL transform gives the same network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5 pillow==12.3.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch
from PIL import Image

image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
planes = torch.tensor(image).permute(2, 0, 1)[None].float()


def enlarged(mode, antialias):
    larger = torch.nn.functional.interpolate(planes, size=(224, 224), mode=mode, antialias=antialias)
    return larger[0].permute(1, 2, 0).clamp(0, 255).numpy()


for mode in ("bilinear", "bicubic"):
    print(f"{mode}: the flag changes values by up to {np.abs(enlarged(mode, True) - enlarged(mode, False)).max():.2f}")
pillow = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC), np.float32)
far = {flag: np.abs(enlarged("bicubic", flag) - pillow).mean() for flag in (False, True)}
print(f"bicubic, mean distance from Pillow: without {far[False]:.2f}, with {far[True]:.2f}")
assert np.abs(enlarged("bilinear", True) - enlarged("bilinear", False)).max() < 0.01
assert np.abs(enlarged("bicubic", True) - enlarged("bicubic", False)).max() > 20
assert far[True] < 0.5 and far[False] > 3
PYTHON
