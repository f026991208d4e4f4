"""A small network on small learnable images, shared by the tests of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from resjax import create_model, train

SHAPE = (8, 8, 3)
CLASSES = 10


def images_and_labels(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 8, 8, 3] with a brightness that tells the label, int32 [n]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n).astype(np.int32)
    images = rng.integers(0, 60, (n, *SHAPE)) + 19 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def normalize(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 64 - 2


def prepare(key: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Noise that depends on the key, so that a wrong key shows."""
    noise = jax.random.normal(key, images.shape) / 8
    return normalize(images) + noise, jax.nn.one_hot(labels, CLASSES)


def small_network(**fields):
    """A ResNet of one block with an identity as its shortcut and one with zero padding: a third layer of each kind
    would only take longer to trace and compile."""
    return create_model("resnet_8", **{"stage_sizes": (1, 1), "widths": (16, 32)} | fields)


@functools.cache
def build(learning_rate: float = 0.1, model: str = "", **step_options):
    """(model, optimizer, train_step)."""
    network = create_model(model) if model else small_network()
    optimizer = train.sgd(learning_rate, weight_decay=1e-3)
    return network, optimizer, train.make_train_step(network, optimizer, prepare, **step_options)


def new_state(network, optimizer, mesh=None, seed: int = 3, moving_average: bool = False) -> train.TrainState:
    """The state at step 0, on every device of the mesh."""
    state = _initial_state(network, optimizer, seed, moving_average)
    return jax.device_put(jax.tree.map(jnp.copy, state), train.replicated(mesh or one_device()))


@functools.cache
def _initial_state(network, optimizer, seed, moving_average):
    with jax.ensure_compile_time_eval():  # the first call may be one that is traced: its tracers would be kept
        return jax.jit(lambda: train.create_state(network, optimizer, seed, SHAPE, moving_average))()


def one_device():
    """A mesh of one device."""
    return train.data_mesh(jax.devices()[:1])


def assert_same_bits(a, b) -> None:
    """Every leaf of two trees is the same, bit for bit."""
    leaves_a, leaves_b = jax.tree_util.tree_flatten_with_path(a)[0], jax.tree_util.tree_flatten_with_path(b)[0]
    assert [path for path, _ in leaves_a] == [path for path, _ in leaves_b]
    for (path, x), (_, y) in zip(leaves_a, leaves_b, strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))
