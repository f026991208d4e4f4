#!/usr/bin/env bash
# augmax: Resize to a larger size darkens the outermost pixels; a white image gets a gray frame, its corners 0.56.
#
# Beyond the outermost pixels' centres there is black to interpolate with, where Pillow, PyTorch and jax.image.resize go on
# with the nearest pixel. Reduced images have no frame, so that a test on photographs does not show it; CIFAR images
# enlarged four times for a network of ImageNet's size have one, two pixels wide, in training and evaluation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check augmax==0.4.1 jax==0.10.1 jaxlib==0.10.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import augmax
import jax
import numpy as np

white = np.ones((32, 32, 1), np.float32)


def resized(size):
    return np.asarray(augmax.Chain(augmax.Resize(size, size))(jax.random.PRNGKey(0), white))[..., 0]


for size in (16, 64, 128):
    first, middle = resized(size)[0, :4].round(2), resized(size)[size // 2, :4].round(2)
    print(f"white, 32x32 to {size}x{size}: first row begins {first}, middle row {middle}")
assert resized(16).min() > 0.999
assert np.allclose(resized(64)[0, 0], 0.5625) and np.allclose(resized(64)[32, :2], [0.75, 1])
assert np.allclose(jax.image.resize(white, (64, 64, 1), "linear"), 1)
assert (resized(128)[64] < 0.999).sum() == 4
PYTHON
