"""A guard against miscompilation: one training step as XLA fuses it, against the same operations one by one.

jaxlib has had fused reductions on CPU go wrong beyond 32k rows; batch statistics of 34 images of 32x32 have 34,816.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.models import ResNet
from resjax.train import create_state, make_train_step, sgd

pytestmark = pytest.mark.fully_compiled


def _prepare(key, images, labels):
    return images.astype(jnp.float32) / 64 - 2, jax.nn.one_hot(labels, 10)


def test_one_step_compiled_is_the_step_op_by_op(draw_variables):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (34, 32, 32, 3), np.uint8), rng.integers(0, 10, 34)
    model = ResNet(stage_sizes=(1,), widths=(16,), shortcut="C")  # op by op, each layer more takes seconds to compile
    optimizer = sgd(1.0, momentum=0.0)  # at rate 1 the step is the gradient
    step = make_train_step(model, optimizer, _prepare)
    shapes = jax.eval_shape(lambda: create_state(model, optimizer, 0, (32, 32, 3)))
    step_zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    state = step_zero.replace(**draw_variables(model, jnp.zeros((1, 32, 32, 3))))
    compiled, compiled_metrics = jax.jit(step)(state, (images, labels))
    with jax.disable_jit():
        eager, eager_metrics = step(state, (jnp.asarray(images), jnp.asarray(labels)))
    np.testing.assert_allclose(compiled_metrics["loss"], eager_metrics["loss"], rtol=1e-5)
    assert compiled_metrics["correct"] == eager_metrics["correct"]
    np.testing.assert_allclose(compiled_metrics["gradient_norm"], eager_metrics["gradient_norm"], rtol=1e-4)
    for part in ("params", "batch_stats"):
        moves = [jax.tree.map(jnp.subtract, getattr(after, part), getattr(state, part)) for after in (compiled, eager)]
        flat = [jax.tree_util.tree_flatten_with_path(move)[0] for move in moves]
        for (path, ours), (_, theirs) in zip(*flat, strict=True):
            error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
            assert error < 1e-4, (jax.tree_util.keystr(path), error)
