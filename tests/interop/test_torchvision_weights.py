"""Files of torchvision by name, from a server on the loopback."""

import functools
import hashlib
import http.server
import threading

import numpy as np
import pytest
from safetensors.numpy import save

import resjax
from resjax import InputError
from resjax.interop import torchvision_weights
from tests.helpers.pretrained_networks import bits

NAME = "torchvision/resnet18.IMAGENET1K_V1"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the server has; caches are empty."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setattr(torchvision_weights, "ADDRESS", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    yield tmp_path / "served"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_is_downloaded_once_and_checked(folder, monkeypatch, draw_variables):
    model = resjax.create_model("resnet_18")
    variables = draw_variables(model, np.zeros((1, 32, 32, 3), np.float32))
    content = save(resjax.to_torch(model, variables))  # read by what it holds, whatever its name
    digest = hashlib.sha256(content).hexdigest()[:8]
    monkeypatch.setitem(torchvision_weights._FILES, "resnet18.IMAGENET1K_V1", (digest, 256))
    file = folder / f"resnet18-{digest}.pth"
    file.write_bytes(content)
    loaded, same = resjax.from_pretrained(NAME)
    assert loaded == model and bits(same) == bits(variables)
    file.unlink()
    assert bits(resjax.from_pretrained("resnet18.IMAGENET1K_V1")[1]) == bits(variables)


def test_another_file_than_the_name_says_is_refused(folder):
    (folder / "resnet18-f37072fd.pth").write_bytes(b"a page that asks to log in")
    with pytest.raises(InputError, match="not the file whose SHA-256 begins with f37072fd") as caught:
        resjax.from_pretrained(NAME)
    assert "\n" not in str(caught.value)
    assert not [path for path in folder.parent.rglob("*.p*") if path.is_file() and folder not in path.parents]


def test_without_a_network_the_way_out_is_said(folder, monkeypatch):
    with pytest.raises(InputError, match="cannot be downloaded .*404.*; download it elsewhere and put it at"):
        resjax.from_pretrained(NAME)
    monkeypatch.setattr(torchvision_weights, "ADDRESS", "http://127.0.0.1:9/")
    with pytest.raises(InputError, match="cannot be downloaded .*refused.*; download it elsewhere"):
        resjax.from_pretrained(NAME)


def test_the_preprocessing_is_known_without_a_file():
    view = resjax.preprocessing("torchvision/resnet50.IMAGENET1K_V2").view
    assert (view.covered, view.size, view.interpolation) == ((232, 232), (224, 224), "bilinear")
    assert resjax.pretrained_info(NAME)["class_names"][1] == "goldfish"
