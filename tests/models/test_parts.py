"""The parts of a network from its trace, against the exact counts."""

import jax.numpy as jnp
import pytest
from flax import linen as nn

import resjax
from resjax.models import create_segmentation_model, multiply_adds, outline, parameter_count, registry

NAMES = (
    "resnet_20", "plain_20", "preresnet_20", "wrn_16_2", "resnext_29_2x8d", "densenet_bc_40_12", "highway_19",
    "highway_10_8", "vgg_15", "speed_resnet", "wider_resnet_38_a", "resnet_18",
)  # fmt: skip


def _layers(part):
    yield part
    for inner in part.parts:
        yield from _layers(inner)


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_have_all_parameters_and_all_products(name):
    model = resjax.create_model(name)
    shape = registry.input_shape(model)
    shape = (64, 64, 3) if shape[0] == 224 else shape
    network = outline(model, shape)
    assert network.parameters == sum(part.parameters for part in network.parts) == parameter_count(model, shape)
    assert network.multiply_adds == multiply_adds(model, shape)
    assert network.parts[-1].name == "head" and network.shape == (model.num_classes,)
    blocks = [part for stage in network.parts for part in stage.parts if part.kind.endswith(("Block", "HighwayLayer"))]
    assert sum(part.repeats for part in blocks if part.shortcut) == model.num_blocks


@pytest.mark.parametrize(
    ("name", "fields", "texts"),
    [
        ("resnet_14", {"normalization": "fixup"}, ["one bias", "one bias ReLU"]),
        ("resnet_14", {"streams": resjax.HyperConnections(3, dynamic=True)}, ["3 streams mixed"]),
        ("preresnet_14", {"streams": resjax.AttentionResiduals()}, ["attention over earlier blocks"]),
    ],
)
def test_what_has_the_place_of_norms_and_of_one_stream_is_counted_and_named(name, fields, texts):
    model = resjax.create_model(name, widths=(2, 3, 4), **fields)
    network = outline(model, (32, 32, 3))
    assert network.parameters == sum(part.parameters for part in network.parts)
    assert network.multiply_adds == multiply_adds(model, (32, 32, 3))
    assert set(texts) <= {part.text for part in _layers(network)}


def test_a_scanned_network_has_the_parts_of_the_unrolled_one():
    scanned = outline(resjax.create_model("resnet_20", scan=True), (32, 32, 3))
    assert scanned == outline(resjax.create_model("resnet_20", scan=False), (32, 32, 3))


def test_what_is_no_module_is_seen_by_what_it_does():
    pooled = [part.text for part in _layers(outline(resjax.create_model("resnet_18"), (64, 64, 3)))]
    assert pooled.count("pooling") == 1 and pooled.count("global pooling") == 1
    first, second = outline(resjax.create_model("resnet_18"), (64, 64, 3)).parts[2].parts
    assert (first.shortcut, second.shortcut) == ("conv 1x1, 128 /2", "identity")
    for shortcut, text in (
        ("A", "every 2nd pixel, zero channels"),
        ("average_pool", "average of 2 x 2, zero channels"),
    ):
        stage = outline(resjax.create_model("resnet_8", shortcut=shortcut), (32, 32, 3)).parts[2]
        assert stage.parts[0].shortcut == text
    wide_stem = resjax.create_model("resnet_8", shortcut="A", stem_width=8)
    assert outline(wide_stem, (32, 32, 3)).parts[1].parts[0].shortcut == "zero channels"


def test_networks_of_other_kinds_have_parts_too():
    fields = {"widths": (4, 4, 8, 8), "head_width": 8, "head_dilation": 2}
    model = create_segmentation_model("resnet_18", num_classes=3, output_stride=8, **fields)
    network = outline(model, (32, 32, 3))
    assert [part.name or part.text for part in network.parts] == [
        "trunk",
        "head_conv_1",
        "head_conv_2",
        "interpolation",
    ]
    assert network.parts[1].text == "conv 3x3, 8 dilation 2"

    class Own(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            x = nn.Dropout(0.5, deterministic=True)(nn.Conv(4, (3, 3), strides=2, feature_group_count=1)(images))
            return nn.Dense(2)(jnp.mean(x, (1, 2)))

    network = outline(Own(), (8, 8, 3))
    assert [part.text for part in network.parts] == ["conv 3x3, 4 /2", "dropout 0.5", "global pooling", "linear 2"]
