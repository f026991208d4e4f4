#!/usr/bin/env bash
# augmax: RandomCrop cuts between pixels, so that every crop is a blurred image and none is a part of its source.
#
# Its corner is a random real number, and pixels are interpolated linearly from the four around. A crop of the same size at
# random positions is the usual augmentation of CIFAR images, where pad-and-crop moves by whole pixels: here noise loses a
# third of its deviation in training and none in evaluation, without an error. CenterCrop does the same by half a pixel
# where an odd size is cut from an even one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check augmax==0.4.1 jax==0.10.1 jaxlib==0.10.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import augmax
import jax
import numpy as np

image = np.random.default_rng(0).uniform(size=(40, 40, 1)).astype(np.float32)
windows = np.lib.stride_tricks.sliding_window_view(image[..., 0], (32, 32)).reshape(81, 32, 32)
crop = jax.jit(augmax.Chain(augmax.RandomCrop(32, 32)))
crops = [np.asarray(crop(key, image))[..., 0] for key in jax.random.split(jax.random.PRNGKey(0), 50)]
exact = sum(np.abs(windows - each).max(axis=(1, 2)).min() < 1e-4 for each in crops)
blurred = np.mean([each.std() for each in crops]) / image.std()
print(f"of 50 random crops {exact} are among the 81 parts of the image; their deviation is {blurred:.2f} of the image's")
ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[None, :, None], (8, 8, 1))
middle = np.asarray(augmax.Chain(augmax.CenterCrop(5, 5))(jax.random.PRNGKey(0), ramp))[0, :, 0]
print(f"the middle five of columns 0 .. 7: {middle}")
assert exact == 0 and 0.55 < blurred < 0.75
assert np.allclose(middle, [1.5, 2.5, 3.5, 4.5, 5.5])
PYTHON
