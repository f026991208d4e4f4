"""Files of torch.save, of both formats and under any name."""

import argparse
import random

import jax
import numpy as np
import pytest

from resjax import InputError, load_torch_weights
from tests.helpers.repositories import POST_ACTIVATION, post_activation
from tests.interop.test_any_damage import EXPECTED, _outcome, _torn

torch = pytest.importorskip("torch", reason="writes files with PyTorch: pip install 'resjax[parity]'")

ENTRIES = post_activation().entries
TENSORS = {name: torch.tensor(array) for name, array in ENTRIES.items()}


def _line(source):
    with pytest.raises(InputError) as raised:
        load_torch_weights(POST_ACTIVATION, source)
    message = str(raised.value)
    assert "\n" not in message and message.isprintable()
    return message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", ["", ".t7", ".pkl", ".pyth", ".safetensors"])
def test_both_formats_are_read_under_any_name(suffix, zipped, tmp_path):
    path = tmp_path / f"weights{suffix}"
    torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=zipped)
    loaded, expected = load_torch_weights(POST_ACTIVATION, path), load_torch_weights(POST_ACTIVATION, ENTRIES)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, expected))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"state_dict": TENSORS, "args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"state_dict": TENSORS, "best": np.float64(3)}, "multiarray.scalar"),
    ],
    ids=["arguments", "module", "numpy scalar"],
)
def test_the_class_at_fault_is_named_in_our_words(content, named, zipped, tmp_path):
    torch.save(content, tmp_path / "weights.t7", _use_new_zipfile_serialization=zipped)
    message = _line(tmp_path / "weights.t7")
    assert named in message and "state_dict() alone" in message
    assert "weights_only" not in message and "allowlist" not in message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_cut_file_is_told(zipped, tmp_path):
    path = tmp_path / "weights"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-200])
    assert "cut off or damaged" in _line(path)


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        (torch.ones(10, 8).to_sparse(), "sparse"),
        (torch.empty(10, 8, device="meta"), "meta device"),
        (torch.ones(10, 8, dtype=torch.complex64).conj(), "complex64, expected floating point"),
        (torch.quantize_per_tensor(torch.ones(10, 8), 0.1, 0, torch.qint8), "quantised"),
        (torch.ones([1] * 65), "fc.weight"),
    ],
    ids=["sparse", "meta", "conjugated", "quantised", "65 dimensions"],
)
def test_tensors_without_plain_numbers_are_named(tensor, named):
    assert named in _line(TENSORS | {"fc.weight": tensor})


def test_eight_bits_are_read_as_the_numbers_they_are():
    tensors = {name: t.to(torch.float8_e4m3fn) if t.ndim else t for name, t in TENSORS.items()}
    loaded = load_torch_weights(POST_ACTIVATION, tensors)["params"]["head"]["linear"]["bias"]
    np.testing.assert_array_equal(loaded, tensors["fc.bias"].float().numpy())


def test_a_module_is_asked_for_its_state_dict():
    assert "give its state_dict()" in _line(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("seed", range(4))
def test_torn_files_of_torch_are_refused_or_whole(seed, tmp_path):
    rng, path = random.Random(300 + seed), tmp_path / "weights"
    torch.save({name: torch.tensor(array) for name, array in ENTRIES.items()}, path)
    whole = path.read_bytes()
    for _ in range(8):
        path.write_bytes(_torn(rng, whole))
        found = _outcome(lambda: load_torch_weights(POST_ACTIVATION, path))
        assert found is None or found.keys() == EXPECTED.keys()
