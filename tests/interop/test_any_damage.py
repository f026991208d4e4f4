"""Whatever happens to weights on their way: the network that was meant comes out, exactly, or one line says why not."""

import random
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from resjax import InputError, from_pretrained, load_torch_weights, save_pretrained
from tests.helpers.pretrained_networks import MODEL, bits
from tests.helpers.repositories import POST_ACTIVATION, post_activation

ENTRIES = post_activation().entries
EXPECTED = bits(load_torch_weights(POST_ACTIVATION, ENTRIES))
ODD_VALUES = (
    None,
    3,
    "text",
    b"bytes",
    True,
    [[1, 2], [3]],
    [],
    {},
    {"weight": None},
    np.array(["a"]),
    np.array([None, {}]),
    np.zeros((2, 3), np.int8),
    np.zeros(0),
    np.full(4, np.nan),
    np.array(1 + 2j),
    np.zeros(3, "M8[s]"),
    np.zeros(3, [("a", "f4")]),
    jnp.ones(3, jnp.float8_e4m3fn),
    object(),
    lambda: 0,
    float("inf"),
    2**63,
)
ODD_NAMES = ("", ".", "conv1", "conv1.weight.below", "x" * 9999, "\x1b[31mred", "a\nb", 7, None, ("a", 1), 2.5)
PREFIXES = ("module.", "_orig_mod.", "model.", "1.", "a.b.")
CONTAINERS = ("state_dict", "model", "net", "ema", "params")


def _outcome(load):
    """The variables' bits, or None for an InputError of one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return bits(load())
        except InputError as error:
            message = str(error)
            assert message and message.isprintable() and len(message) < 4000, message
            return None


def _harmless(rng, state_dict):
    """Wrapped as training programs wrap it: it must be loaded."""
    for _ in range(rng.randrange(4)):
        if rng.random() < 0.5:
            prefix = rng.choice(PREFIXES)
            state_dict = {prefix + name: value for name, value in state_dict.items()} | {"n_averaged": np.array(1)}
            continue
        state_dict = {rng.choice(CONTAINERS): state_dict, "epoch": 3, "optimizer": {"state": {0: {"m": np.ones(5)}}}}
        break
    return state_dict


def _damaged(rng, state_dict):
    for _ in range(rng.randrange(1, 4)):
        names = list(state_dict)
        name, value = rng.choice(names or ["x"]), rng.choice(ODD_VALUES)
        kind = rng.randrange(8)
        if kind == 0:
            state_dict = state_dict | {name: value}
        elif kind == 1:
            state_dict = state_dict | {rng.choice(ODD_NAMES): value}
        elif kind == 2:
            state_dict = {other: array for other, array in state_dict.items() if other != name}
        elif kind == 3:
            state_dict = dict(state_dict)
            state_dict[rng.choice(("self", name))] = state_dict
        elif kind == 4:
            state_dict = {rng.choice(CONTAINERS): state_dict, rng.choice(CONTAINERS): value}
        elif kind == 5:
            state_dict = state_dict | {name: {name: value}}
        elif kind == 6 and isinstance(state_dict.get(name), np.ndarray):
            state_dict = state_dict | {name: state_dict[name].astype(rng.choice(["f2", "f8", "i4", "?", "c8"]))}
        elif kind == 7 and isinstance(state_dict.get(name), np.ndarray):
            state_dict = state_dict | {name: state_dict[name].reshape(-1)[: rng.randrange(9)]}
    return state_dict


@pytest.mark.parametrize("seed", range(4))
def test_wrapped_state_dicts_are_the_weights(seed):
    rng = random.Random(seed)
    for _ in range(10):
        given = _harmless(rng, ENTRIES)
        assert _outcome(lambda given=given: load_torch_weights(POST_ACTIVATION, given)) == EXPECTED


def test_a_state_dict_that_holds_itself_is_refused_and_not_walked_without_end():
    loop = dict(ENTRIES)
    loop["inner"] = {"loop": loop}
    with pytest.raises(InputError):
        load_torch_weights(POST_ACTIVATION, loop)
    with pytest.raises(InputError):
        load_torch_weights(POST_ACTIVATION, ENTRIES | {"fc.weight": np.ones((1,) * 40)})


@pytest.mark.parametrize("seed", range(8))
def test_damaged_state_dicts_are_the_weights_or_refused(seed):
    """Fewer numbers, as of half precision, are the weights that were given."""
    rng = random.Random(100 + seed)
    refused = 0
    for _ in range(15):
        given = _damaged(rng, _harmless(rng, ENTRIES))
        found = _outcome(lambda given=given: load_torch_weights(POST_ACTIVATION, given))
        refused += found is None
        assert found is None or found.keys() == EXPECTED.keys()
        for name, (dtype, shape, _) in (found or {}).items():
            assert (dtype, shape) == EXPECTED[name][:2]
    assert refused


def _torn(rng, content):
    """Bytes as they arrive from a bad disk or line."""
    kind = rng.randrange(5)
    place = rng.randrange(len(content))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    if kind == 2:
        return content[:place] + rng.randbytes(8) + content[place + 8 :]
    if kind == 3:
        return rng.randbytes(9) + content
    header = int.from_bytes(content[:8], "little")
    place = rng.randrange(8, 8 + max(1, min(header, len(content) - 9)))
    return content[:place] + bytes([rng.choice(b'0129-{}[]",:EF')]) + content[place + 1 :]


@pytest.mark.parametrize("seed", range(4))
def test_torn_files_are_refused_or_the_arrays_that_they_hold(seed, tmp_path):
    rng, path, whole = random.Random(200 + seed), tmp_path / "weights", save(ENTRIES)
    for _ in range(15):
        path.write_bytes(_torn(rng, whole))
        found = _outcome(lambda: load_torch_weights(POST_ACTIVATION, path))
        assert found is None or found == _outcome(lambda: load_torch_weights(POST_ACTIVATION, load_file(path)))


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_folder_is_the_network_or_refused(seed, tmp_path, variables):
    """Without an edit of both a file and its digest, nothing but what was saved is ever read."""
    rng = random.Random(400 + seed)
    folder = tmp_path / "saved"
    save_pretrained(folder, MODEL, variables)
    expected = bits(variables)
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    for _ in range(8):
        name = rng.choice(list(whole))
        (folder / name).write_bytes(_torn(rng, whole[name]))
        found = _outcome(lambda: _same_network(folder))
        assert found is None or found == expected
        (folder / name).write_bytes(whole[name])
    assert _outcome(lambda: _same_network(folder)) == expected


def _same_network(folder):
    model, loaded = from_pretrained(folder)
    assert model == MODEL
    return loaded


@pytest.mark.parametrize("seed", range(4))
def test_any_config_beside_sound_weights_is_no_crash(seed, edit, variables):
    """Without the config's digest, as an older folder: another network of the same arrays at most."""
    rng = random.Random(500 + seed)
    values = (None, 0, -1, 2**63, 10**30, 1e308, "x", [], [[1]], {}, {"class": "Gating"}, True, 0.5, "A", "none")
    for _ in range(6):

        def change(config):
            fields = config["fields"]
            fields.pop("unknown", None)
            fields[rng.choice([*fields, "unknown"])] = rng.choice(values)

        folder = edit(change)
        found = _outcome(lambda folder=folder: from_pretrained(folder)[1])
        assert found is None or found.keys() <= bits(variables).keys()


def test_names_that_a_safetensors_file_can_hold_are_no_crash(tmp_path):
    for name in ("", "/", ".", "conv1.weight.", "\x1b[31m", "é", "a/b"):
        save_file(ENTRIES | {name: np.zeros(2, np.float32)}, tmp_path / "weights")
        assert _outcome(lambda: load_torch_weights(POST_ACTIVATION, tmp_path / "weights")) is None
