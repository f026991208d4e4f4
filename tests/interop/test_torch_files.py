"""Files of weights: what is read, and that nothing in them is ever run."""

import pickle
import re
import sys
import types
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from resjax import InputError, load_torch_weights
from tests.helpers.repositories import POST_ACTIVATION, post_activation

_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # the magic number of torch.save's older format


def _message(path):
    with pytest.raises(InputError) as raised:
        load_torch_weights(POST_ACTIVATION, path)
    return str(raised.value)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_safetensors_file(dtype, tmp_path):
    path = tmp_path / "weights.safetensors"
    entries = {name: array.astype(dtype) for name, array in post_activation().entries.items()}
    save_file(entries, path)
    expected = load_torch_weights(POST_ACTIVATION, entries)
    for given in (path, str(path)):
        loaded = load_torch_weights(POST_ACTIVATION, given)
        assert jax.tree.all(
            jax.tree.map(lambda a, b: a.dtype == jnp.float32 and bool((a == b).all()), loaded, expected)
        )


class Crafted:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("kind", ["bare", "zip", "safetensors"])
@pytest.mark.parametrize("has_torch", [True, False], ids=["as installed", "without torch"])
def test_a_crafted_file_is_refused_and_not_run(kind, has_torch, tmp_path, monkeypatch):
    if not has_torch:
        monkeypatch.setitem(sys.modules, "torch", None)
    path, marker = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pth'}", tmp_path / "marker"
    crafted = pickle.dumps({"conv1.weight": Crafted(marker)}, protocol=2)
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", crafted)
            archive.writestr("archive/version", "3\n")
    else:
        path.write_bytes(crafted)
    message = _message(path)
    assert str(path) in message and not marker.exists()
    pickle.loads(crafted)["conv1.weight"].close()
    assert marker.exists()  # it would have been


def test_without_torch_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pth").write_bytes(_LEGACY)
    assert re.search("install torch.*safetensors", _message(tmp_path / "weights.pth"))


@pytest.mark.parametrize("version", ["2.5.1+cpu", "2.9.1"])
def test_a_torch_that_reads_unsafely_is_not_used(tmp_path, monkeypatch, version):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__=version))
    (tmp_path / "weights.pth").write_bytes(_LEGACY)
    assert "torch>=2.10" in _message(tmp_path / "weights.pth")
