"""What a network is called with: images of another layout, type or number of channels are named with the way out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import InputError, create_model
from resjax.models import VGG, DenseNet, Highway, PreActResNet, ResNet, SpeedResNet
from resjax.models.segmentation import create_segmentation_model

TWO = {"stage_sizes": (1, 1), "widths": (4, 6)}
NETWORKS = {
    "resnet": ResNet(**TWO),
    "scanned": ResNet(stage_sizes=(1, 3), widths=(4, 6), scan=True),
    "imagenet": ResNet(**TWO, stem="imagenet"),
    "preresnet": PreActResNet(**TWO),
    "densenet": DenseNet(stage_sizes=(1, 1), growth_rate=2, stem_width=4),
    "highway": Highway(stage_sizes=(1, 1), widths=(3, 4), head_width=None),
    "vgg": VGG(stage_sizes=(1, 2), width=3),
    "speed": SpeedResNet(widths=(3, 4)),
    "segmentation": create_segmentation_model("resnet_50", 2, head_width=4),
}


def _init(model, *shape):
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_first_is_named_with_its_way_out(name):
    model = NETWORKS[name]
    for channels in (1, 3, 4):
        with pytest.raises(
            InputError, match=rf"shape \(2, {channels}, 32, 32\) would make .* 32 input channels.*transp"
        ):
            _init(model, 2, channels, 32, 32)
    variables = _init(model, 2, 32, 32, 3)
    with pytest.raises(InputError, match=r"expected \[N, H, W, 3\].*got shape \(2, 3, 32, 32\); jnp.transpose"):
        jax.eval_shape(model.apply, variables, jnp.zeros((2, 3, 32, 32)))


def test_the_way_out_makes_the_same_network():
    model, images = NETWORKS["resnet"], jnp.ones((2, 3, 32, 24))
    with pytest.raises(InputError, match="transpose"):
        _init(model, *images.shape)
    right = jnp.transpose(images, (0, 2, 3, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), right)
    assert jax.eval_shape(model.apply, variables, right).shape == (2, 10)


@pytest.mark.parametrize(
    "shape",
    [(1, 32, 32, 3), (1, 64, 64, 13), (1, 8, 8, 200), (1, 4, 4, 8), (1, 3, 100, 12), (1, 1, 128, 64), (2, 16, 16, 16)],
    ids=str,
)
def test_images_of_many_channels_and_flat_ones_are_taken(shape):
    """Satellites' bands, features of another network, signals with a height of 1."""
    model = NETWORKS["resnet"]
    variables = _init(model, *shape)
    assert variables["params"]["stem"]["conv"]["kernel"].shape == (3, 3, shape[-1], 4)
    # At apply the kernel says what the channels are, though the layout might be the other.
    assert jax.eval_shape(model.apply, variables, jnp.zeros(shape)).shape == (shape[0], 10)


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (np.zeros((2, 32, 32, 1), "f4"), r"jnp.repeat\(images, 3, axis=-1\)"),
        (np.zeros((2, 32, 32, 4), "f4"), r"images\[..., :3\] leaves an alpha"),
        (np.zeros((2, 32, 32, 5), "f4"), "give images of its channels"),
        (np.zeros((32, 32, 3), "f4"), r"images\[None\]"),
        (np.zeros((2, 32, 32), "f4"), r"images\[..., None\]"),
        (np.zeros((32, 32), "f4"), r"images\[None, :, :, None\]"),
        (np.zeros((2, 32, 32, 3), "u1"), "expected floating point .*, got uint8; normalise first"),
        (np.zeros((2, 32, 32, 3), bool), "expected floating point .*, got bool"),
        ([[1.0]], "got list"),
        (None, "got NoneType"),
    ],
)
def test_other_images_are_told_what_is_right(images, named):
    model = NETWORKS["resnet"]
    variables = _init(model, 2, 32, 32, 3)
    with pytest.raises(InputError, match=f"images: .*{named}"):
        model.apply(variables, images)


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_other_floating_types_give_the_logits_of_float32(dtype):
    model = create_model("resnet_8")
    images = np.random.default_rng(0).integers(-2, 3, (2, 8, 8, 3)) / 4  # exact in every type
    variables = model.init(jax.random.key(0), jnp.asarray(images, jnp.float32))
    logits = model.apply(variables, images.astype(dtype))
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, model.apply(variables, images.astype("f4")))
