"""A network of one's own: named, listed, created, counted, trained, saved and read back; names are given once."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import resjax
from resjax import InputError, train
from resjax.models import Network, PublishedFacts, PublishedResult, create_segmentation_model, registry
from resjax.models.published import Dialect
from tests.helpers import problem


@pytest.fixture
def registers():
    """registers(names, ..)(decorated): `register_model` until the end of the test."""
    before = dict(registry._FAMILIES)
    yield resjax.register_model
    for names in set(registry._FAMILIES) - set(before):
        registry.unregister_model(names)
    assert registry._FAMILIES == before


def small_family(registers):
    """All that a new family takes: its module, its name, what was published of it."""
    error = PublishedResult(12.5, dataset="cifar10", origin="a paper", place="table 1")

    @registers("sketch_<width>", facts={"sketch_4": PublishedFacts(parameters=312, multiply_adds=1, results=(error,))})
    class Sketch(Network):
        width: int = 8
        first_kernel = first_trained_kernel = ("params", "conv", "kernel")
        torch_names = (Dialect("a/repository", {"conv": "net.0", "norm": "net.1", "head/linear": "fc"}),)

        @nn.nowrap
        def trunk(self, images, train, gates):
            x = nn.Conv(self.width, (3, 3), dtype=self.dtype, name="conv")(images)
            x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
            return {"final": nn.relu(x)}

    return Sketch


def plain_module(registers):
    """A linen module that knows nothing of resjax."""

    @registers("mlp_<units>", input_shape=(8, 6, 1))
    class Perceptron(nn.Module):
        num_classes: int = 10
        units: int = 5
        activation: object = nn.relu

        @nn.compact
        def __call__(self, images, train=False):
            x = self.activation(nn.Dense(self.units)(images.reshape(len(images), -1)))
            return nn.Dense(self.num_classes)(x)

    return Perceptron


def test_a_small_family_is_listed_created_and_described(registers):
    module = small_family(registers)
    assert resjax.list_models("sketch*") == ["sketch_4"]
    assert resjax.create_model("sketch_16", num_classes=3) == module(width=16, num_classes=3)
    assert resjax.model_info("sketch_4").published[0].test_error == 12.5
    info = resjax.model_info("sketch_2")
    assert (info.parameters, info.paper, info.published) == (27 * 2 + 2 + 4 + 30, None, ())
    with pytest.raises(InputError, match="sketch_4 takes no 'widht'; did you mean 'width'"):
        resjax.create_model("sketch_4", widht=3)


def test_a_small_family_trains_is_saved_and_is_read_back(registers, tmp_path):
    small_family(registers)
    model, optimizer = resjax.create_model("sketch_4", num_classes=10), train.sgd(0.1)
    state = train.create_state(model, optimizer, 0, (8, 8, 3))
    step = jax.jit(train.make_train_step(model, optimizer, problem.prepare))
    losses = []
    for _ in range(2):
        state, metrics = step(state, problem.images_and_labels(16))
        losses.append(float(metrics["loss"]))
    assert losses[1] < losses[0]
    resjax.save_pretrained(tmp_path, model, state.variables, about={"model": "sketch_4"})
    again, variables = resjax.from_pretrained(tmp_path)
    assert again == model
    problem.assert_same_bits(variables, state.variables)
    registry.unregister_model("sketch_<width>")
    with pytest.raises(InputError, match=r"unknown network 'Sketch'.*@resjax.register_model is imported"):
        resjax.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"got Sketch; decorate the class of your own with @resjax.register_model"):
        resjax.save_pretrained(tmp_path, model, state.variables)


@pytest.mark.quick
def test_a_small_family_says_how_pytorch_names_its_arrays(registers):
    model = small_family(registers)(width=2, num_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    variables = jax.tree.map(lambda leaf: np.random.default_rng(0).normal(size=leaf.shape).astype(np.float32), shapes)
    params, statistics = variables["params"], variables["batch_stats"]["norm"]
    theirs = {
        "net.0.weight": params["conv"]["kernel"].transpose(3, 2, 0, 1),
        "net.0.bias": params["conv"]["bias"],
        "net.1.weight": params["norm"]["scale"],
        "net.1.bias": params["norm"]["bias"],
        "net.1.running_mean": statistics["mean"],
        "net.1.running_var": statistics["var"],
        "fc.weight": params["head"]["linear"]["kernel"].T,
        "fc.bias": params["head"]["linear"]["bias"],
    }
    problem.assert_same_bits(resjax.load_torch_weights(model, theirs), variables)
    with pytest.raises(InputError, match="looked for net.0.weight, fc.weight .a.repository.; found 'other'"):
        resjax.load_torch_weights(model, {"other": theirs["fc.bias"]})
    with pytest.raises(
        InputError, match="no PyTorch names .* for Highway, only for .*ResNet, .*Sketch; a class says them"
    ):
        resjax.load_torch_weights(resjax.create_model("highway_19"), theirs)


@pytest.mark.quick
def test_any_linen_module_with_the_contract_will_do(registers, tmp_path):
    module = plain_module(registers)
    model = resjax.create_model("mlp_7", num_classes=3)
    assert model == module(num_classes=3, units=7) and resjax.list_models("mlp*") == []
    info = resjax.model_info("mlp_7")
    assert (info.input_size, info.num_blocks, info.parameters) == ((8, 6, 1), 0, 49 * 7 + 8 * 10)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 6, 1)))
    resjax.save_pretrained(tmp_path, model, variables)
    again, loaded = resjax.from_pretrained(tmp_path)
    images = np.random.default_rng(0).normal(size=(2, 8, 6, 1)).astype(np.float32)
    np.testing.assert_array_equal(again.apply(loaded, images), model.apply(variables, images))
    assert json.loads((tmp_path / "config.json").read_text())["fields"] == {"num_classes": 3, "units": 7}
    with pytest.raises(InputError, match="activation: expected plain"):
        resjax.save_pretrained(tmp_path, model.clone(activation=nn.gelu), variables)


class Contract(nn.Module):
    num_classes: int = 10

    def __call__(self, images, train=False):
        return images


class NoClasses(nn.Module):
    def __call__(self, images, train=False):
        return images


class OtherCall(nn.Module):
    num_classes: int = 10

    def __call__(self, images, deterministic):
        return images


@pytest.mark.quick
@pytest.mark.parametrize(
    ("names", "options", "decorated", "message"),
    [
        ("resnet_20", {}, Contract, r"'resnet_20' is already a name of resnet_<6n\+2> \(ResNet\): choose another"),
        ("resnet_62", {}, Contract, r"'resnet_62' is already a name of resnet_<6n\+2>"),
        ("vgg_15", {}, Contract, "'vgg_15' is already a name of vgg_15"),
        ("vgg_<depth>", {"module": Contract}, dict, "is already a name of vgg_15"),
        ("wrn_<a>_<b>", {"module": Contract}, dict, r"is already a name of wrn_"),
        ("highway_<10|11>_<b>", {"module": Contract}, dict, "is already a name of highway_10_<width>"),
        ("mine_<width>", {}, Contract, r"Contract has no field 'width'; name fields of it in <..>"),
        ("mine", {}, NoClasses, "NoClasses has no field num_classes"),
        (
            "mine",
            {},
            OtherCall,
            r"OtherCall is called with \(images, deterministic\): expected \(images, train=False\)",
        ),
        ("mine", {}, dict, "expected a flax.linen.Module"),
    ],
)
def test_what_cannot_be_registered_is_refused(registers, names, options, decorated, message):
    with pytest.raises(InputError, match=message):
        registers(names, **options)(decorated)


@pytest.mark.quick
def test_a_class_of_the_same_name_is_refused_and_the_same_class_again_is_not(registers):
    registers("mine")(Contract)
    registers("mine")(Contract)
    other = type("Contract", (Contract,), {"__module__": "elsewhere", "__qualname__": "Contract"})
    with pytest.raises(InputError, match="a class Contract is registered as mine.*rename yours"):
        registers("other")(other)


@pytest.mark.quick
def test_a_name_of_two_families_is_refused_where_it_is_used(registers):
    registers("mine_<n>", r"mine_(3\d*7)", module=Contract)(lambda n: {})
    registers("mine_<m>", r"mine_(\d*117)", module=Contract)(lambda n: {})
    with pytest.raises(InputError, match="mine_3117: a name of mine_<n> and of mine_<m>"):
        resjax.create_model("mine_3117")


@pytest.mark.quick
def test_modules_that_register_networks_are_named_in_the_environment(registers, tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "import resjax\n"
        "from flax import linen as nn\n\n\n"
        "@resjax.register_model('own_net')\n"
        "class OwnNet(nn.Module):\n"
        "    num_classes: int = 10\n\n"
        "    @nn.compact\n"
        "    def __call__(self, images, train=False):\n"
        "        return nn.Dense(self.num_classes)(images.mean((1, 2)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="unknown model 'own_net'.*its module in RESJAX_PLUGINS"):
        resjax.create_model("own_net")
    monkeypatch.setenv("RESJAX_PLUGINS", "own_networks")
    assert resjax.create_model("own_net", num_classes=4).num_classes == 4
    assert "own_net" in resjax.list_models()
    monkeypatch.setenv("RESJAX_PLUGINS", "own_networks, no_such_module")
    with pytest.raises(InputError, match="RESJAX_PLUGINS: cannot import 'no_such_module'"):
        resjax.list_models()


@pytest.mark.quick
def test_every_listed_name_has_one_family_that_tabulates_it():
    for name in resjax.list_models():
        family = registry.find_family(name)
        assert name in family.listed()
    for family in registry.families():
        assert list(family.samples()), family.names


def test_a_trunk_must_be_a_network(registers):
    @registers("flat")
    class Flat(nn.Module):
        num_classes: int = 10
        features_only: bool = False
        output_stride: int = 8

        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(self.num_classes)(images.mean((1, 2)))

    with pytest.raises(InputError, match=r"flat: expected a resjax.models.Network as the trunk, got Flat"):
        create_segmentation_model("flat", 3)
