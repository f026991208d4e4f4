"""timm's own networks, saved by timm itself, and read by name from a server on the loopback."""

import json
import sys
import types

import jax
import numpy as np
import pytest

import resjax
from resjax.interop import timm_weights
from tests.helpers.hub_server import serving
from tests.parity import twins
from tests.parity.random_state import randomize, to_nchw

torch = twins.torch  # without PyTorch, `twins` skips this module
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("_meta_registrations"))
timm = pytest.importorskip("timm", reason="parity is with timm: pip install 'resjax[parity]'")
client = pytest.importorskip("huggingface_hub", reason="the hub's client: pip install 'resjax[hub]'")
from safetensors.torch import load_file, save_file  # noqa: E402
from timm.models import save_for_hf  # noqa: E402


def made(name, **options):
    net = timm.create_model(name, **options).eval()
    randomize(net.state_dict())
    return net


@pytest.fixture
def published(tmp_path, monkeypatch):
    """published(net) puts what timm saves of it on the hub as me/net."""
    import huggingface_hub.constants as constants

    with serving() as server:
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

        def publish(net):
            save_for_hf(net, tmp_path / "saved", safe_serialization=True)
            server.commit("me/net", {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()})

        yield publish


@pytest.mark.parametrize("name", ["resnet18", "resnet26", "resnext50_32x4d", "densenet121"])
def test_logits_of_a_network_that_timm_saved_and_the_way_back(name, published, tmp_path):
    net = made(name, num_classes=5)
    published(net)
    model, variables = resjax.from_pretrained("me/net")
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = net(to_nchw(images)).numpy()
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    resjax_saved = {key: torch.from_numpy(array) for key, array in resjax.to_torch(model, variables, "timm").items()}
    save_file(resjax_saved, tmp_path / "back.safetensors")
    again = timm.create_model(name, num_classes=5).eval()
    again.load_state_dict(load_file(tmp_path / "back.safetensors"), strict=True)
    assert resjax_saved.keys() == net.state_dict().keys()
    with torch.no_grad():
        np.testing.assert_array_equal(again(to_nchw(images)).numpy(), expected)


def test_the_preprocessing_is_that_of_timm(published):
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    net = made("resnet18", num_classes=5)
    net.pretrained_cfg |= {"crop_pct": 0.9, "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3)}
    published(net)
    transform = create_transform(**resolve_data_config({}, model=net))
    image = np.random.default_rng(0).integers(0, 256, (300, 411, 3), np.uint8)
    expected = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
    got = np.asarray(resjax.preprocessing("me/net")(image)[0])
    level = 1 / (255 * min(net.pretrained_cfg["std"]))
    assert got.shape == expected.shape and np.abs(got - expected).max() <= level * 1.001
    assert (np.abs(got - expected) > level / 2).mean() < 0.001


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet18d", {}),
        ("resnetblur18", {}),
        ("resnetaa50", {}),
        ("densenetblur121d", {}),
        ("resnet18", {"stem_type": "deep"}),
        ("resnet18", {"act_layer": "silu"}),
        ("seresnet18", {}),
        ("resnet18", {"global_pool": "max"}),
    ],
)
def test_networks_with_other_layers_are_refused_by_what_timm_saves(name, options, published):
    published(timm.create_model(name, num_classes=5, **options))
    with pytest.raises(resjax.InputError, match="other layers|layers of its own|not one of the networks here"):
        resjax.from_pretrained("me/net")


def test_every_published_name_is_listed_and_no_other_exists():
    ours = {name.removeprefix("timm/") for name in timm_weights.published()}
    theirs = set(timm.list_pretrained())
    assert ours <= theirs
    missing = set()
    for name in theirs - ours:
        try:
            timm_weights.create(name.partition(".")[0])
            missing.add(name)
        except resjax.InputError:
            pass
    assert not missing


@pytest.mark.parametrize("name", ["wide_resnet50_2", "resnext101_32x4d"])
def test_wide_and_grouped_architectures_have_the_arrays_of_timm(name):
    with torch.device("meta"):
        theirs = {key: tuple(value.shape) for key, value in timm.create_model(name).state_dict().items()}
    model = timm_weights.create(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    assert {key: array.shape for key, array in resjax.to_torch(model, zeros, names="timm").items()} == theirs


def test_a_config_of_timm_is_read_as_timm_wrote_it(tmp_path):
    save_for_hf(made("resnet18"), tmp_path, safe_serialization=True)
    about = timm_weights.about_of(json.loads((tmp_path / "config.json").read_text()), "x")
    assert about["size"] == [224, 224] and len(about["class_names"]) == 1000
