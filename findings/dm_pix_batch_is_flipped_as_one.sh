#!/usr/bin/env bash
# dm-pix: random functions take a batch (...HWC) and draw once for all of it: every image is flipped, or none is.
#
# The functions are named after those of tf.image, whose random flip draws for each image of a batch. Here a training step
# that augments its batch in one call sees flipped batches and plain ones in turns, all crops of a batch come from one
# place, and batch statistics see one kind only; the shapes are right and nothing is said. jax.vmap over as many keys as
# images draws for each.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check dm-pix==0.4.5 jax==0.10.1 jaxlib==0.10.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import dm_pix
import jax
import numpy as np

image = np.random.default_rng(0).uniform(size=(8, 8, 3)).astype(np.float32)
batch = np.stack([image] * 64)


def kinds(images):
    return len({each.tobytes() for each in np.asarray(images)})


flip = jax.jit(dm_pix.random_flip_left_right)
once = [flip(key, batch) for key in jax.random.split(jax.random.PRNGKey(0), 20)]
print(f"64 images in one call, 20 times: kinds of images in a batch {sorted({kinds(each) for each in once})}")
print(f"batches flipped whole: {sum((np.asarray(each) == batch[:, :, ::-1]).all() for each in once)} of 20")
crops = dm_pix.random_crop(jax.random.PRNGKey(0), batch, (64, 4, 4, 3))
each = jax.vmap(dm_pix.random_flip_left_right)(jax.random.split(jax.random.PRNGKey(0), 64), batch)
print(f"kinds of crops in a batch: {kinds(crops)}; flips of 64 keys under vmap: {kinds(each)}")
assert all(kinds(each) == 1 for each in once) and kinds(crops) == 1 and kinds(each) == 2
assert 0 < sum((np.asarray(each) == batch[:, :, ::-1]).all() for each in once) < 20
PYTHON
