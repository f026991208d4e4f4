"""A config's network: every field of it is a flag, with the type, the value and the description of its own class."""

import json
from dataclasses import fields as dc_fields

import flax.linen as nn
import pytest

import resjax
from experiments import cifar
from experiments.configs.base import Config, ModelConfig
from experiments.configs.cifar import CONFIGS
from experiments.configs.model import canonical, described_fields
from experiments.configs.named import changed_fields, command
from experiments.configs.programs import CIFAR, IMAGENET, PROGRAMS, SEGMENTATION
from experiments.configs.segmentation import SegmentationModelConfig
from experiments.launch.command_line import parse
from resjax import (
    AttentionResiduals,
    ConstantScaling,
    DepthScaling,
    EffectivePaths,
    Gating,
    HyperConnections,
    InputError,
    LearnedScaling,
    ShortcutDropout,
    StochasticDepth,
)
from resjax.models import DenseNet, ResNeXt, registry
from tests.helpers.command import outcome

# What flags of the run decide.
OF_THE_RUN = {"num_classes", "dtype", "scan", "remat", "features_only"}
# The fields of a network that hold an object, and the classes of it.
OBJECTS = {
    "stochastic_depth": (StochasticDepth, EffectivePaths),
    "shortcut_variant": (ConstantScaling, DepthScaling, Gating, LearnedScaling, ShortcutDropout),
    "streams": (HyperConnections, AttentionResiduals),
}
ONE_OF_EACH = {type(resjax.create_model(name)): name for name in resjax.list_models()}
# What every version's config.json up to the one before held of a network.
OLDER_KEYS = (
    *("name", "stage_sizes", "block", "shortcut", "order", "shortcut_scaling", "gating", "gate_bias"),
    *("shortcut_dropout", "block_type", "deepening_factor", "dropout_rate", "kernel_init", "norm_scale_init", "width"),
    *("survival_probability", "active_blocks", "norm_scope"),
)


STOCHASTIC = {"kernel_init": "he_normal_fan_in", "norm_scale_init": "uniform", "shortcut": "average_pool"}


def _parsed(*flags, config="resnet_20", configs=CONFIGS, program=CIFAR):
    return parse(program, configs, ["--config", config, *flags])[2].model


@pytest.mark.quick
@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_every_field_is_a_flag_with_the_networks_value_and_description(name):
    module, fields = resjax.create_model(name), ModelConfig(name).network_fields()
    own = set(registry.field_names(type(module))) - OF_THE_RUN
    held = {f"{name}.{each.name}" for name in own & set(OBJECTS) for cls in OBJECTS[name] for each in dc_fields(cls)}
    assert own - set(OBJECTS) | held == set(fields)
    for field, entry in fields.items():
        assert len(entry.help) > 3, field
        assert entry.default == getattr(module, field, None)


@pytest.mark.quick
def test_descriptions_are_those_of_the_docstrings_and_of_their_bases():
    described = described_fields(ResNeXt)
    assert described["stage_sizes"] == "blocks in each stage."
    assert described["form"].startswith("how a block is computed, figure 3 (a), (b) or (c):")
    assert described["form"].endswith("see `convert_form`.")
    assert described["head_kernel_init"] == described["head_bias_init"] != ""
    assert "with its square (Pleiss" in described_fields(DenseNet)["memory_efficient"]
    assert "Fields of every network" not in " ".join(described.values())


@pytest.mark.quick
@pytest.mark.parametrize(
    ("config", "flags", "fields"),
    [
        ("resnet_20", "--model.shortcut B", {"shortcut": "B"}),
        ("resnet_20", "--model.shortcut A --model.widths 16 32 64", {}),
        ("resnet_20", "--model.widths 8 16 32 --model.stem imagenet", {"widths": (8, 16, 32), "stem": "imagenet"}),
        ("resnet_20", "--model.norm_momentum 0.99 --model.norm_scope 4", {"norm_momentum": 0.99, "norm_scope": 4}),
        ("resnet_20", "--model.norm-epsilon=1e-3", {"norm_epsilon": 1e-3}),
        (
            "resnet_20",
            "--model.stochastic_depth.decay constant --model.stochastic_depth.rescale True",
            {
                "stochastic_depth.survival_probability": 0.5,
                "stochastic_depth.decay": "constant",
                "stochastic_depth.rescale": True,
            },
        ),
        ("resnet_110_stochastic_depth", "--model.stochastic_depth.survival_probability None", STOCHASTIC),
        ("resnext_29_8x64d", "--model.cardinality 4 --model.norm_scope global", {"cardinality": 4}),
        ("densenet_40_12", "--model.memory_efficient --model.compression 0.5", {"memory_efficient": True}),
        ("highway_19", "--model.head_width None", {"head_width": None}),
        ("highway_19", "--model.dropout_rate 0.1 0.1 0.1 0.2", {"dropout_rate": (0.1, 0.1, 0.1, 0.2)}),
        ("wrn_40_2_b131", "--model.block_type None", {}),
        (
            "preresnet_110",
            "--model.shortcut_variant.bias_init -3",
            {"shortcut_variant.exclusive": True, "shortcut_variant.bias_init": -3.0},
        ),
        ("resnet_20", "--model.name vgg_15 --model.width 16", {"width": 16}),
        ("resnet_20", "--model.name wider_resnet_38_a --model.widths 1,2 2,3 3,4 4,5 5,6,7 6,7,8", None),
    ],
)
def test_flags_are_read_with_the_types_of_the_network(config, flags, fields):
    model = _parsed(*flags.split(), config=config)
    if fields is None:
        fields = {"widths": ((1, 2), (2, 3), (3, 4), (4, 5), (5, 6, 7), (6, 7, 8))}
    if "compression" in flags:
        fields = fields | {"compression": 0.5}
    assert model.fields == fields
    named = CONFIGS[config]
    read = parse(CIFAR, CONFIGS, ["--config", config, *flags.split()])[2]
    line = command(CIFAR, config, changed_fields(named, read))
    assert parse(CIFAR, CONFIGS, line.removeprefix(CIFAR).split())[2] == read
    again = Config.from_identity(json.loads(json.dumps(read.identity())))
    assert again.identity() == read.identity() and again.model == read.model


@pytest.mark.quick
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model.shortcuts B", "resnet_20 takes no 'shortcuts'; did you mean '--model.shortcut'"),
        ("--model.no_zero_init_residuals", "did you mean '--model.zero_init_residual'"),
        ("--model.name wrn_16_4 --model.width 3", r"--model.width: wrn_16_4 takes no 'width'.*it takes .*depth"),
        ("--model.name resnet_2O", "unknown model 'resnet_2O'; did you mean .*'resnet_20'"),
        ("--model.name", "--model.name needs a name"),
    ],
)
def test_a_flag_of_another_network_is_told_those_of_this_one(flags, message):
    with pytest.raises(InputError, match=message):
        _parsed(*flags.split())


@pytest.mark.parametrize(
    ("flags", "shown"), [("--model.shortcut D", "A, B, C, average_pool or none"), ("--model.widths x", "INT")]
)
def test_a_wrong_value_is_told_the_right_ones(capsys, flags, shown):
    code, out, err = outcome(cifar.main, capsys, "--config", "resnet_20", *flags.split())
    assert code == 2 and shown in out + err


def test_help_lists_the_fields_of_the_configs_network(capsys):
    code, out, _ = outcome(cifar.main, capsys, "--config", "densenet_40_12", "--help", "model")
    shown = " ".join(out.replace("│", " ").split())
    assert code == 0 and "--model.growth_rate INT k, channels that each layer adds. (default: 12)" in shown
    assert "--model.widths" not in shown
    code, out, _ = outcome(
        cifar.main, capsys, "--config", "densenet_40_12", "--model.name", "vgg_15", "--help", "model"
    )
    assert code == 0 and "--model.width INT" in out and "growth_rate" not in out


@pytest.mark.quick
def test_the_other_programs_have_the_fields_of_their_networks_too():
    of_photographs = _parsed(
        *("--model.zero_init_residual", "--model.base_width", "32"),
        config="resnet_50",
        configs=PROGRAMS[IMAGENET],
        program=IMAGENET,
    )
    assert of_photographs.overrides() == {"zero_init_residual": True, "base_width": 32}
    flags = ("--model.head_width", "16", "--model.output_stride", "4", "--model.norm_momentum", "0.5")
    masks = _parsed(*flags, config="quickstart", configs=PROGRAMS[SEGMENTATION], program=SEGMENTATION)
    expected = {"output_stride": 4, "head_width": 16, "head_dilation": 2, "norm_momentum": 0.5}
    assert masks.overrides() == expected
    assert SegmentationModelConfig("wider_resnet_38_a1").get("dropout_rates") == (0.3, 0.5)
    assert SegmentationModelConfig("resnet_50", output_stride=8, head_width=512).fields == {}


@pytest.mark.quick
def test_an_older_config_is_read_as_the_same_network():
    older = dict.fromkeys(OLDER_KEYS) | {"name": "wrn_16_4", "block_type": [3, 1, 3], "norm_scale_init": "uniform"}
    read = Config.from_identity({f"model.{key}": value for key, value in older.items()} | {"epochs": 3})
    assert read.model == ModelConfig("wrn_16_4", block_type=(3, 1, 3)) and read.epochs == 3
    flat = {f"model.{key}": value for key, value in older.items()} | {"epochs": 3}
    today = {"model.name": "wrn_16_4", "model.block_type": [3, 1, 3], "epochs": 3}
    assert canonical(flat, ModelConfig) == today == canonical(today, ModelConfig)
    with pytest.raises(InputError, match="wrn_16_4 takes no 'shortcut'"):
        Config.from_identity({"model.name": "wrn_16_4", "model.shortcut": "A"})


@pytest.mark.quick
@pytest.mark.parametrize(
    ("flags", "fields", "value"),
    [
        ("--model.survival_probability 0.7", {"survival_probability": 0.7}, StochasticDepth(0.7)),
        ("--model.active-blocks=3", {"active_blocks": 3}, EffectivePaths(3)),
        ("--model.shortcut_scaling 0.5 1", {"shortcut_scaling": [0.5, 1.0]}, ConstantScaling(0.5, 1.0)),
        (
            "--model.gating exclusive --model.gate_bias -3",
            {"gating": "exclusive", "gate_bias": -3.0},
            Gating(True, -3.0),
        ),
        ("--model.gating=shortcut_only", {"gating": "shortcut_only"}, Gating(exclusive=False)),
        ("--model.shortcut_dropout 0.2", {"shortcut_dropout": 0.2}, ShortcutDropout(0.2)),
    ],
)
def test_flags_and_files_of_earlier_versions_are_read(capsys, flags, fields, value):
    option = "stochastic_depth" if isinstance(value, OBJECTS["stochastic_depth"]) else "shortcut_variant"
    model = _parsed(*flags.split(), config="preresnet_110")
    assert model.overrides() == {option: value}
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == len(fields) and all(f" is now --model.{option}." in note for note in notes)
    flat = {"model.name": "preresnet_110"} | {f"model.{key}": each for key, each in fields.items()}
    assert Config.from_identity(flat).model == model
    assert canonical(flat, ModelConfig) == {f"model.{key}": each for key, each in model.identity().items()}


@pytest.mark.quick
def test_other_fields_have_their_names_of_today():
    flags = ["--config", "quickstart", "--validation_share", "0.3", "--least-area=0.5"]
    read = parse(IMAGENET, PROGRAMS[IMAGENET], flags)[2]
    assert (read.validation_fraction, read.min_area) == (0.3, 0.5)
    older = {"validation_share" if key == "validation_fraction" else key: each for key, each in read.identity().items()}
    assert type(read).from_identity(older) == type(read).from_identity(read.identity())
    with pytest.raises(InputError, match="--validation_fraction needs a value after it"):
        parse(IMAGENET, PROGRAMS[IMAGENET], ["--config", "quickstart", "--validation_share"])


@pytest.mark.quick
def test_an_object_that_a_network_has_anyway_is_changed_field_by_field():
    @resjax.register_model("own_depth")
    class OwnDepth(resjax.models.ResNet):
        stochastic_depth: StochasticDepth | EffectivePaths | None = StochasticDepth(0.8, per_sample=True)

    try:
        assert ModelConfig("own_depth", stochastic_depth=StochasticDepth(0.8, per_sample=True)).fields == {}
        changed = ModelConfig("own_depth", **{"stochastic_depth.survival_probability": 0.9})
        assert changed.overrides() == {"stochastic_depth": StochasticDepth(0.9, per_sample=True)}
        assert changed.identity() == {"name": "own_depth", "stochastic_depth.survival_probability": 0.9}
        other = ModelConfig("own_depth", **{"stochastic_depth.active_blocks": 2})
        assert other.overrides() == {"stochastic_depth": EffectivePaths(2)}
    finally:
        registry.unregister_model("own_depth")


@pytest.mark.quick
def test_the_fields_of_a_network_of_ones_own_are_flags():
    """Numbers are; a function is not."""

    @resjax.register_model("own_<units>")
    class Own(nn.Module):
        """Two layers.

        Attributes:
          units: features of the first.
        """

        num_classes: int = 10
        units: int = 5
        activation: object = nn.relu

        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(self.num_classes)(self.activation(nn.Dense(self.units)(images.mean((1, 2)))))

    try:
        fields = ModelConfig("own_7").network_fields()
        assert {name: (entry.default, entry.help) for name, entry in fields.items()} == {
            "units": (7, "features of the first.")
        }
        read = parse(CIFAR, CONFIGS, "--config resnet_20 --model.name own_7 --model.units 9".split())[2]
        assert read.create_model(10) == Own(units=9)
    finally:
        registry.unregister_model("own_<units>")
