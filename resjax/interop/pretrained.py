"""A network with its weights in a directory of two files: `config.json` and `model.safetensors`."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from resjax.errors import InputError, did_you_mean, unknown_name
from resjax.interop.shipped import locate, nearest
from resjax.layers import ConstantScaling, EffectivePaths, Gating, ShortcutDropout, StochasticDepth
from resjax.models import Network, first_kernel, restack, unrolled
from resjax.models.families import FAMILIES

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT_VERSION = 1

_NETWORKS = {family.module.__name__: family.module for family in FAMILIES}
_OPTIONS = {
    option.__name__: option for option in (ConstantScaling, EffectivePaths, Gating, ShortcutDropout, StochasticDepth)
}
_DTYPES = {name: getattr(jnp, name) for name in ("bfloat16", "float16", "float32", "float64")}
_INITIALIZERS = ("kernel_init", "head_kernel_init", "head_bias_init", "norm_scale_init")
_HEAD = ("params", "head")
_SHOWN = 8


def save_pretrained(
    directory: str | os.PathLike[str],
    model: Network,
    variables: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network and its variables, to be read by `from_pretrained`.

    `model.safetensors` has the arrays, bit for bit, under their paths, e.g. "params/stage_1/block_1/conv_1/kernel", of
    each block apart also where the network scans them; `config.json` the class of the network and its fields, and the
    SHA-256 of the other file. Initialisers given as names are written by name; those given as functions are left out,
    since the weights are there.

    Each file appears whole or not at all, and a directory in which a save was interrupted between them does not load.
    A network that was saved there before is replaced; other files stay.

    Args:
      directory: made where it does not exist.
      model: a network of `resjax.models`.
      variables: {"params": .., "batch_stats": ..} of `model`, of NumPy or JAX, on any devices of this process; without
        a head (`num_classes=0`, `features_only=True`) the arrays of one may be among them, and are written too.
      about: JSON to be read by `pretrained_info`: `mean` and `std` of its input, the classes' names, its error, ..

    Raises:
      InputError: for a model that is not of `resjax.models`, for variables that are not those of `model`, for an
        `about` that is no JSON, and where `directory` is a file.
    """
    directory = pathlib.Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: a file is there; give a directory to write {CONFIG_FILE} and {WEIGHTS_FILE} to")
    if _NETWORKS.get(type(model).__name__) is not type(model):
        raise InputError(
            f"model: expected one of resjax.models ({', '.join(sorted(_NETWORKS))}), got {type(model).__name__}; no"
            " other class can be told from its name"
        )
    if not isinstance(variables, Mapping):
        raise InputError(f"variables: expected what init or apply returns, a mapping, got {type(variables).__name__}")
    apart = restack(unfreeze(variables), ())
    # Row by row: the format keeps memory as it lies, whatever its strides.
    arrays = {path: np.asarray(array, order="C") for path, array in flatten_dict(apart).items()}
    _check(arrays, model, "variables", "give the model that they are of, and all of its collections")
    config = {
        "format_version": FORMAT_VERSION,
        "resjax_version": _library_version(),
        "network": type(model).__name__,
        "fields": _fields_as_json(model),
        "about": _plain(about or {}),
    }
    weights = save({"/".join(path): array for path, array in arrays.items()})
    config["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    directory.mkdir(parents=True, exist_ok=True)
    _replace(directory / WEIGHTS_FILE, weights)
    # Last: between the two, the old config is told by its digest from one that describes these weights.
    _replace(directory / CONFIG_FILE, (_lines(config) + "\n").encode())


def pretrained_info(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save_pretrained` was told `about` a network.

    Args:
      directory: as `from_pretrained` takes it.

    Returns:
      JSON; of the networks that come with the library at least `mean` and `std` (it takes (image - mean) / std, of RGB
      images 0 .. 255), `dataset`, `class_names`, `test_error` in percent, `command` (that trains it).

    Raises:
      InputError: for a config that is missing or damaged.
    """
    return _read_config(_file(locate(directory), CONFIG_FILE)).get("about", {})


def from_pretrained(directory: str | os.PathLike[str], **overrides: Any) -> tuple[Network, dict[str, Any]]:
    """Reads what `save_pretrained` wrote; nothing in the files is run, and no class but ours is made from them.

    Args:
      directory: that holds `config.json` and `model.safetensors`; or a name of `list_pretrained()`.
      **overrides: fields of the network in place of the saved ones, e.g. `dtype=jnp.bfloat16`, `features_only=True`.
        `num_classes=0` leaves out the classifier; another number of classes would need other weights.

    Returns:
      The network, and its variables on the default device in the dtypes that were saved (float64 where JAX has it).

    Raises:
      InputError: for overrides that the network or the weights do not allow; for files that are missing, damaged, of
        an unknown version, or that name an unknown network or field; for arrays that are missing, unknown or of
        another shape.
    """
    directory = locate(directory)
    config_file, weights_file = _file(directory, CONFIG_FILE), _file(directory, WEIGHTS_FILE)
    config = _read_config(config_file)
    try:
        network = _known(_NETWORKS, "network", config["network"])
        fields = {name: _from_json(value) for name, value in config["fields"].items()}
        model = _build(network, fields)
    except (InputError, TypeError) as error:
        raise InputError(f"{config_file}: {error}; it may be of a newer resjax, or edited by hand") from None
    if overrides.get("num_classes", 0) not in (0, model.num_classes):
        raise InputError(
            f"num_classes: {directory} was saved with {model.num_classes}, so its weights do not fit"
            f" {overrides['num_classes']!r}; num_classes=0 gives pooled features for a classifier of your own"
        )
    model = _build(network, fields | overrides)
    arrays = _read_weights(weights_file, config["weights_sha256"])
    _check(arrays, model, str(weights_file), "leave out overrides that change shapes, or save the network again")
    # Copies: what was read may be a map of the file, which may change.
    kept = {path: jnp.array(array) for path, array in arrays.items() if not _is_unused_head(path, model)}
    return model, restack(unflatten_dict(kept), model.stacked_stages)


def _file(directory: pathlib.Path, name: str) -> pathlib.Path:
    """A file of a directory; raises InputError where it is not there."""
    if not (directory / name).is_file():
        raise InputError(
            f"{directory / name}: no such file; give a directory that resjax.save_pretrained wrote to the end, which"
            f" holds {CONFIG_FILE} and {WEIGHTS_FILE}{nearest(directory)}"
        )
    return directory / name


def _plain(about):
    """`about` as JSON gives it back."""
    try:
        return json.loads(json.dumps(dict(about), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"about: expected a mapping that JSON can hold: {error}") from None


def _lines(value, indent: str = "") -> str:
    """JSON with a line for each key; arrays, which may hold the mean of every pixel, stay on the line of theirs."""
    if not (isinstance(value, dict) and value):
        return json.dumps(value)
    inner = indent + "  "
    entries = (f"{inner}{json.dumps(key)}: {_lines(entry, inner)}" for key, entry in value.items())
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def _check(arrays: dict[tuple[str, ...], np.ndarray], model: Network, source: str, way_out: str) -> None:
    """Raises InputError, with all that is wrong at once, unless `arrays` are those of `model` with its blocks apart."""
    collections = unflatten_dict(arrays)
    kernels = [first_kernel(collections.get(name, {})) for name in ("batch_stats", "params")]
    channels = next((kernel.shape[2] for kernel in kernels if kernel is not None), 3)
    images = jax.ShapeDtypeStruct((1, model.minimum_size, model.minimum_size, channels), jnp.float32)
    shapes = jax.eval_shape(lambda images: unrolled(model).init(jax.random.key(0), images), images)
    expected = {path: leaf.shape for path, leaf in flatten_dict(shapes).items()}
    wrong = []
    for path in sorted(expected.keys() | arrays.keys(), key=str):
        name, array = "/".join(map(str, path)), arrays.get(path)
        if array is None:
            wrong.append(f"{name} is missing")
        elif path not in expected:
            if not _is_unused_head(path, model):
                wrong.append(f"{name} is not in the network")
        elif array.shape != expected[path]:
            wrong.append(f"{name} has shape {array.shape}, the network {expected[path]}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            wrong.append(f"{name} has dtype {array.dtype}, no floating point")
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise InputError(
            f"{source}: not the variables of this {type(model).__name__}: {'; '.join(wrong[:_SHOWN])}{more}: {way_out}"
        )


def _is_unused_head(path, model):
    return path[:2] == _HEAD and (model.num_classes == 0 or model.features_only)


def _fields_as_json(model):
    fields = {field: getattr(model, field) for field in _field_names(type(model))}
    kept = {name: value for name, value in fields.items() if not (name in _INITIALIZERS and callable(value))}
    kept["dtype"] = jnp.dtype(model.dtype).name
    return {name: _to_json(name, value) for name, value in kept.items()}


def _to_json(name, value):
    if type(value) in _OPTIONS.values():
        return {"class": type(value).__name__} | {
            field: _to_json(f"{name}.{field}", part) for field, part in dataclasses.asdict(value).items()
        }
    if isinstance(value, (tuple, list)):
        return [_to_json(name, item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"{name}: expected plain numbers, strings and tuples of them to write, got {value!r}")


def _from_json(value):
    if isinstance(value, list):
        return tuple(map(_from_json, value))
    if isinstance(value, dict):
        options = {name: _from_json(part) for name, part in value.items() if name != "class"}
        return _build(_known(_OPTIONS, "class", str(value.get("class"))), options)
    return value


def _known(classes, kind, name):
    if name not in classes:
        raise unknown_name(kind, name, classes)
    return classes[name]


def _build(cls: Callable[..., Any], fields: dict[str, Any]) -> Any:
    """cls(**fields); raises InputError for names that it does not have."""
    known = _field_names(cls)
    for name in fields:
        if name not in known:
            raise InputError(
                f"{cls.__name__} takes no {name!r}{did_you_mean(name, known)} (it takes {', '.join(sorted(known))})"
            )
    if isinstance(fields.get("dtype"), str):
        fields = fields | {"dtype": _DTYPES.get(fields["dtype"], fields["dtype"])}
    return cls(**fields)


def _field_names(cls):
    return [field.name for field in dataclasses.fields(cls) if field.name not in ("parent", "name")]


def _read_config(file: pathlib.Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({error}); save or download it again") from None
    version = config.get("format_version") if isinstance(config, dict) else None
    if version != FORMAT_VERSION:
        way_out = "upgrade resjax" if isinstance(version, int) else "give a directory that resjax.save_pretrained wrote"
        raise InputError(f"{file}: expected format_version {FORMAT_VERSION}, got {version!r}; {way_out}")
    for key, kind in (("network", str), ("fields", dict), ("weights_sha256", str), ("about", dict)):
        if not isinstance(config.get(key, {} if key == "about" else None), kind):
            raise InputError(f"{file}: {key} is missing or no {kind.__name__}; save or download it again")
    return config


def _read_weights(file: pathlib.Path, digest: str) -> dict[tuple[str, ...], np.ndarray]:
    try:
        with open(file, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != digest:
            raise InputError(
                f"{file}: not the file that {CONFIG_FILE} was written with: damaged, replaced, or left by a save that"
                " was interrupted; save or download both again"
            )
        return {tuple(name.split("/")): array for name, array in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: not readable as safetensors ({error}); save or download it again") from None


def _replace(file, contents):
    """Writes beside `file`, and then puts the whole in its place."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_bytes(contents)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _library_version():
    try:
        return importlib.metadata.version("resjax")
    except importlib.metadata.PackageNotFoundError:  # imported from its source, not installed
        return None
