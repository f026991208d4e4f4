"""Weights: saved folders, safetensors and PyTorch files."""

import functools
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz import mutators
from tests.fuzz.files import pixels
from tests.fuzz.formats.format import Format


def random_variables(model: Any) -> Any:
    import jax

    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes)


def _save(folder: Path, about: dict[str, Any]) -> None:
    from resjax import save_pretrained
    from tests.helpers.pretrained_networks import NETWORKS

    save_pretrained(folder, NETWORKS["vgg"], random_variables(NETWORKS["vgg"]), about)


def _weights(folder: Path) -> None:
    _save(folder, {"mean": [1, 2, 3], "class_names": ["a"]})


def _read_weights(folder: Path, rng: random.Random) -> Any:
    from resjax import from_pretrained, pretrained_info

    model, variables = from_pretrained(folder)
    return [repr(model), variables, pretrained_info(folder)]


def _config_without_digest(rng: random.Random, folder: Path) -> None:
    """As an older folder, or one that was edited by someone who knows of the digest."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    del content["config_sha256"]
    fields = content["fields"]
    values = (*mutators.ODD_VALUES, [10**9], [[1] * 99], {"class": "Gating"}, {"class": "eval"}, [2**20] * 50)
    if rng.random() < 0.8:
        fields[rng.choice([*fields, "kernel_init", "norm_epsilon", "depth", "unknown"])] = rng.choice(values)
    else:
        content = mutators.edited_json(rng, content)
    path.write_text(json.dumps(content))


@functools.cache
def _published_network() -> tuple[Any, dict[str, np.ndarray]]:
    from tests.helpers.repositories import POST_ACTIVATION, post_activation

    return POST_ACTIVATION, {name: np.asarray(array) for name, array in post_activation().entries.items()}


def _safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file(_published_network()[1], folder / "w.safetensors")


def _read_file(folder: Path, rng: random.Random) -> Any:
    from resjax import load_torch_weights

    (path,) = folder.iterdir() if len(list(folder.iterdir())) == 1 else [folder / "w"]
    return load_torch_weights(_published_network()[0], path)


def _odd_header(rng: random.Random, folder: Path) -> None:
    """A safetensors file whose header is sound JSON that says something else."""
    path = folder / "w.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    entry = header[rng.choice(list(header))]
    change = rng.randrange(5)
    if change == 0 and isinstance(entry, dict) and "dtype" in entry:
        entry["dtype"] = rng.choice(("F8_E4M3", "F8_E5M2", "F64", "I8", "BOOL", "BF16", "U64", "F4", "C64", "X"))
    elif change == 1 and "shape" in entry:
        entry["shape"] = rng.choice(([], [1] * 70, [2**62, 2**62], [-1], [0], entry["shape"][::-1]))
    elif change == 2 and "data_offsets" in entry:
        entry["data_offsets"] = rng.choice(([0, 2**62], [4, 0], [0, 0], [-1, 4], [0, 4]))
    elif change == 3:
        header[rng.choice(mutators.ODD_STRINGS)] = entry
    else:
        header = mutators.edited_json(rng, header)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def _odd_numbers(rng: random.Random, folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = folder / "w.safetensors"
    arrays = load_file(path)
    name = rng.choice(list(arrays))
    array = arrays[name].copy()
    if array.size and array.dtype.kind == "f":
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 1e38))
    arrays[rng.choice((name, name, name + ".below", "module." + name))] = array
    save_file(arrays, path)


def _torch_file(folder: Path) -> None:
    import torch

    torch.save({name: torch.from_numpy(array) for name, array in _published_network()[1].items()}, folder / "w.pth")


def _odd_tensors(rng: random.Random, folder: Path) -> None:
    import torch

    given: dict[Any, Any] = {name: torch.from_numpy(array) for name, array in _published_network()[1].items()}
    name = rng.choice(list(given))
    odd = (
        lambda: given[name].to_sparse(),
        lambda: given[name].to("meta"),
        lambda: given[name].to(torch.complex64).conj(),
        lambda: given[name].to(torch.float8_e4m3fn),
        lambda: given[name].to(torch.bfloat16),
        lambda: given[name].to(torch.int64),
        lambda: torch.full(given[name].shape, float(rng.choice(("nan", "inf")))),
        lambda: torch.zeros((1,) * 64),
        lambda: given,
        lambda: [[1.0], [2.0, 3.0]],
        lambda: rng.choice(mutators.ODD_VALUES),
    )
    given[rng.choice((name, name, name + ".below", name.split(".")[0], 7))] = rng.choice(odd)()
    whole = rng.choice(
        (given, given, {"state_dict": given}, {"model": given, "ema": None}, [given], {"a": [given] * 3})
    )
    torch.save(whole, folder / "w.pth", _use_new_zipfile_serialization=rng.random() < 0.7)


def _read_preprocessing(folder: Path, rng: random.Random) -> Any:
    from resjax import preprocessing

    preprocess = preprocessing(folder)
    size = preprocess.size or (16, 16)
    # Many pixels are what a person may ask for; to compute them here would take long.
    found = [preprocess([pixels(9, 12, 3)])] if size[0] * size[1] < 1 << 16 else []
    return [size, preprocess.crop, preprocess.interpolation, preprocess.mean, preprocess.std, *found]


def _about(folder: Path) -> None:
    numbers = {"mean": [1, 2, 3], "std": [9, 9, 9], "size": [32, 32], "crop": 0.9}
    _save(folder, {**numbers, "interpolation": "bicubic", "class_names": ["a", "b"]})


def _odd_about(rng: random.Random, folder: Path) -> None:
    """What is said about the weights, edited by someone who knows of the digest."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    del content["config_sha256"]
    content["about"] = mutators.edited_json(rng, content["about"])
    path.write_text(json.dumps(content))


def _timm_config(folder: Path) -> None:
    images = {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic", "crop_mode": "center"}
    said = {"tag": "a1_in1k", "num_classes": 3, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2], "first_conv": "conv1"}
    names = {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "cat", "n2": "dog"}, "license": "mit"}
    config = {"architecture": "resnet18", "num_classes": 3, "model_args": {"num_classes": 3}, "global_pool": "avg"}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": said | images | names}))


def _read_timm_config(folder: Path, rng: random.Random) -> Any:
    from resjax.interop.network_input import preprocessing_of
    from resjax.interop.timm_weights import about_of, read_config

    about = about_of(read_config(folder / "config.json"), "timm/resnet18")
    preprocess = preprocessing_of(about, "timm/resnet18")
    return [about, preprocess.size, preprocess.mean, preprocess.std]


FORMATS = {
    "weights": Format(
        _weights,
        _read_weights,
        (_config_without_digest,),
        ("*",),
        2,
        special_is_told=True,
        may_not_differ=lambda folder: "config_sha256" in (folder / "config.json").read_text(errors="replace"),
    ),
    "safetensors": Format(_safetensors, _read_file, (_odd_header, _odd_numbers), weight=2),
    "torch": Format(_torch_file, _read_file, (_odd_tensors,), weight=2, needs="torch"),
    "preprocessing": Format(_about, _read_preprocessing, (_odd_about,), weight=1),
    "timm": Format(_timm_config, _read_timm_config, weight=1),
}
