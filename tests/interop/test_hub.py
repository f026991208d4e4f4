"""Weights by name, through the real client of the Hugging Face hub, of a server on the loopback."""

import importlib
import json
import os
import sys

import numpy as np
import pytest
from safetensors.numpy import save

import resjax
from resjax import InputError
from resjax.interop import hub, timm_weights
from tests.helpers.hub_server import ask, serving_as_hub
from tests.helpers.pretrained_networks import MODEL, bits

client = pytest.importorskip("huggingface_hub", reason="the hub's client: pip install 'resjax[hub]'")
importlib.import_module("huggingface_hub.constants")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The hub, with an empty cache."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits for no server that is gone
    with serving_as_hub(monkeypatch, tmp_path / "hub") as server:
        yield server


@pytest.fixture
def files(tmp_path, variables):
    """What `save_pretrained` writes of `MODEL`."""
    folder = tmp_path / "folder"
    about = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "class_names": ["a", "b", "c"]}
    resjax.save_pretrained(folder, MODEL, variables, about)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


TIMM = {
    "architecture": "resnet18",
    "num_classes": 3,
    "pretrained_cfg": {
        "tag": "x",
        "input_size": [3, 160, 160],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.25],
        "num_classes": 3,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "mit",
    },
}


def test_a_repository_of_ours_is_loaded_and_then_read_from_the_cache(server, files, variables, monkeypatch):
    first = server.commit("me/net", files)
    model, loaded = resjax.from_pretrained("me/net")
    assert model == MODEL and bits(loaded) == bits(variables)
    assert resjax.pretrained_info("me/net")["class_names"] == ["a", "b", "c"]
    np.testing.assert_array_equal(resjax.preprocessing("me/net").mean, [1, 2, 3])
    bodies = [path for method, path in server.asked if method == "GET" and "/resolve/" in path]
    assert len(bodies) == 2  # each file once
    ask(monkeypatch, "http://127.0.0.1:9")  # a network that is gone
    assert bits(resjax.from_pretrained("me/net")[1]) == bits(variables)
    assert bits(resjax.from_pretrained(f"me/net@{first}")[1]) == bits(variables)


def test_a_revision_is_pinned(server, files, variables):
    first = server.commit("me/net", files)
    server.commit("me/net", {"model.safetensors": b"something else"})
    assert bits(resjax.from_pretrained(f"me/net@{first}")[1]) == bits(variables)
    with pytest.raises(InputError, match="not the file that config.json was written with"):
        resjax.from_pretrained("me/net")


@pytest.mark.parametrize(
    "name, message",
    [
        ("me/nothing", "me/nothing: no such folder here, and no such repository on the hub, or a private one"),
        ("me/net@v9", "me/net: has no revision 'v9'"),
        ("me/empty", "me/empty: has no config.json"),
        (
            "me/pickles",
            r"has no model.safetensors \(weights in other formats, such as pytorch_model.bin, are not read\)",
        ),
        ("me/bert", "expected format_version 1, got None"),
        ("me/broken", "config.json: no JSON .*; download it again"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(name, message, server, files):
    server.commit("me/net", files)
    server.commit("me/empty", {"README.md": b""})
    server.commit("me/pickles", {"config.json": json.dumps(TIMM).encode(), "pytorch_model.bin": b"x"})
    server.commit("me/bert", {"config.json": b'{"architectures": ["Bert"]}', "model.safetensors": b"x"})
    server.commit("me/broken", {"config.json": b"{"})
    with pytest.raises(InputError, match=message) as caught:
        resjax.from_pretrained(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_the_way_out_is_said(offline, server, monkeypatch):
    monkeypatch.setattr(client.constants, "HF_HUB_OFFLINE", offline)
    ask(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(
        InputError, match="not in the cache of huggingface_hub, and the hub cannot be reached"
    ) as caught:
        resjax.from_pretrained("timm/resnet18.a1_in1k")
    assert "\n" not in str(caught.value) and ("HF_HUB_OFFLINE" in str(caught.value)) == offline


def test_a_name_in_a_folder_that_exists_is_of_that_folder(tmp_path, monkeypatch):
    """So a mistyped run is said at once, and not looked for on the hub; with a revision it is of the hub."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "fetch", None)
    with pytest.raises(InputError, match="runs/none/config.json: no such file"):
        resjax.from_pretrained("runs/none")


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"no such folder here; .* pip install 'resjax\[hub\]'"):
        resjax.from_pretrained("me/net")


def test_a_network_of_timm_is_ours_with_its_preprocessing(server, draw_variables):
    model = resjax.create_model("resnet_18", num_classes=3)
    variables = draw_variables(model, np.zeros((1, 32, 32, 3), np.float32))
    weights = save(resjax.to_torch(model, variables, names="timm"))
    commit = server.commit(
        "timm/resnet18.a1_in1k", {"config.json": json.dumps(TIMM).encode(), "model.safetensors": weights}
    )
    for name in ("timm/resnet18.a1_in1k", "resnet18.a1_in1k", f"timm/resnet18.a1_in1k@{commit}"):
        loaded, same = resjax.from_pretrained(name)
        assert loaded == model and bits(same) == bits(variables)
    about = resjax.pretrained_info("resnet18.a1_in1k")
    assert (
        about["mean"] == [127.5, 102.0, 76.5] and about["license"] == "mit" and about["class_names"] == ["0", "1", "2"]
    )
    assert about["weights"] == f"timm/resnet18.a1_in1k@{commit[:12]}"
    view = resjax.preprocessing("resnet18.a1_in1k").view
    assert (view.covered, view.size, view.interpolation) == ((168, 168), (160, 160), "bicubic")
    assert resjax.from_pretrained("resnet18.a1_in1k", num_classes=0)[0].num_classes == 0
    with pytest.raises(InputError, match="saved with 3, so its weights do not fit 5"):
        resjax.from_pretrained("resnet18.a1_in1k", num_classes=5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"architecture": "resnet18d"}, "timm's resnet18d: not one of the networks here, or with other layers"),
        ({"architecture": "resnet32"}, "timm's resnet32: not one"),
        ({"architecture": "resnetblur50"}, "timm's resnetblur50: not one"),
        ({"model_args": {"aa_layer": "blurpool"}}, "layers of its own .aa_layer='blurpool'., which resnet18 here"),
        ({"global_pool": "catavgmax"}, "global_pool='catavgmax'"),
        ({"pretrained_cfg": TIMM["pretrained_cfg"] | {"first_conv": "conv1.0"}}, "first_conv='conv1.0'"),
        ({"pretrained_cfg": TIMM["pretrained_cfg"] | {"crop_mode": "squash"}}, "crop_mode 'squash'"),
        ({"pretrained_cfg": {}}, "config.json is none of timm's .KeyError: 'mean'."),
        ({"pretrained_cfg": None}, "config.json is none of timm's"),
    ],
)
def test_networks_of_timm_whose_layers_differ_are_refused_by_config(change, message):
    with pytest.raises(InputError, match=message):
        timm_weights.about_of(TIMM | change, "me/net")


def test_what_timm_says_of_its_classes_is_kept():
    names = ["n1", "n2", "n3"]
    described = {"n1": "tench", "n3": "shark"}
    assert timm_weights.about_of(TIMM | {"label_names": names, "label_descriptions": described}, "x")[
        "class_names"
    ] == ["tench", "n2", "shark"]
    imagenet = {"pretrained_cfg": TIMM["pretrained_cfg"] | {"tag": "a1_in1k", "num_classes": 1000}}
    classes = timm_weights.about_of(TIMM | {"num_classes": 1000} | imagenet, "x")["class_names"]
    assert len(classes) == 1000 and classes[0] == "tench" and classes[-1] == "toilet tissue"


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # between the client and its HTTP library
def test_a_folder_is_pushed_and_comes_back(server, files, tmp_path, variables):
    (tmp_path / "folder" / "README.md").write_text('# net\n\n```python\nresjax.from_pretrained("folder")\n```\n')
    address = resjax.push_to_hub(tmp_path / "folder", "me/net", license="apache-2.0", token="hf_x")
    commit, pushed = server.repositories["me/net"][-1]
    assert address.endswith(f"me/net/commit/{commit}")
    assert {name: pushed[name] for name in files} == files and pushed.keys() == {*files, "README.md"}
    card = pushed["README.md"].decode()
    assert (
        card.startswith('---\nlicense: "apache-2.0"\nlibrary_name: "resjax"') and '.from_pretrained("me/net")' in card
    )
    assert bits(resjax.from_pretrained("me/net")[1]) == bits(variables)
    (tmp_path / "folder" / "README.md").unlink()
    resjax.push_to_hub(tmp_path / "folder", "me/net", license="mit", token="hf_x")  # once more, over what is there
    card = server.repositories["me/net"][-1][1]["README.md"].decode()
    assert 'license: "mit"' in card and 'resjax.preprocessing("me/net")' in card


def test_what_cannot_be_pushed_is_told(server, files, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    with pytest.raises(InputError, match='license="apache-2.0"'):
        resjax.push_to_hub(folder, "me/net")
    with pytest.raises(InputError, match="expected a repository as USER/REPO, got 'net'"):
        resjax.push_to_hub(folder, "net", license="mit")
    with pytest.raises(InputError, match="no such folder"):
        resjax.push_to_hub(tmp_path / "nothing", "me/net", license="mit")
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="model.safetensors"):
        resjax.push_to_hub(folder, "me/net", license="mit")
    assert server.asked == []


def test_names_that_people_type_get_the_right_suggestion():
    with pytest.raises(InputError, match=r"resnet50 names a network, resnet_50, not trained weights; of it there are"):
        resjax.from_pretrained("resnet50")
    with pytest.raises(InputError, match="its name here is 'wrn_28_10'"):
        resjax.create_model("WRN-28-10")
    with pytest.raises(InputError, match="torchvision/resnet18: no weights of torchvision; these are"):
        resjax.from_pretrained("torchvision/resnet18")
    assert "timm/resnet50.a1_in1k" in resjax.list_pretrained("timm/*")
    assert hub.repository("/data/net") is hub.repository("a/b/c") is hub.repository("../net") is None


def test_every_listed_name_is_a_network_of_ours():
    names = {name.partition("/")[2].partition(".")[0] for name in resjax.list_pretrained("*/*")}
    assert {"resnet18", "resnet26", "resnext101_32x16d", "wide_resnet101_2", "densenet201"} <= names
    for name in names:
        assert timm_weights.create(name, num_classes=7).num_classes == 7


def test_a_config_of_timm_without_end_or_bounds_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "list").write_text("[]")
    for name, message in (("pipe", "no regular file; download it again"), ("list", "expected a JSON object")):
        with pytest.raises(InputError, match=f"{name}: {message}"):
            timm_weights.read_config(tmp_path / name)
    for classes in (0, 2**40, True, "3"):
        with pytest.raises(InputError, match=f"none of timm's .ValueError: num_classes {classes}"):
            timm_weights.about_of(_with_classes(classes), "someone/net")


def _with_classes(number):
    config = json.loads(json.dumps(TIMM))
    config["pretrained_cfg"]["num_classes"] = number
    return config


def _raising(error):
    def call(*arguments, **options):
        raise error

    return call


def test_a_gated_repository_and_an_error_of_any_kind_are_one_line(monkeypatch, tmp_path):
    gated = client.errors.GatedRepoError.__new__(client.errors.GatedRepoError)  # it is made of an answer of the server
    for error, message in (
        (gated, "someone/net: needs its owner's leave: ask for it on its page, then run `hf auth login`"),
        (RuntimeError("of a library\nand more"), r"someone/net at v1: config.json cannot be loaded \(of a library\)"),
    ):
        monkeypatch.setattr(client, "hf_hub_download", _raising(error))
        with pytest.raises(InputError, match=message):
            hub.fetch("someone/net", "v1", "config.json")


def test_an_upload_that_fails_is_one_line(monkeypatch, tmp_path, draw_variables):
    variables = draw_variables(MODEL, np.zeros((1, 32, 32, 3), np.float32))
    resjax.save_pretrained(tmp_path, MODEL, variables, {"license": "mit"})
    monkeypatch.setattr(client, "HfApi", _raising(RuntimeError("no way")))
    with pytest.raises(InputError, match=r"push_to_hub: someone/net: the upload failed \(no way\); run `hf"):
        resjax.push_to_hub(tmp_path, "someone/net")
