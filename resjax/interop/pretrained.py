"""A network with its weights in a directory of two files: `config.json` and `model.safetensors`."""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save

import resjax
from resjax.errors import InputError, did_you_mean, printable, unknown_name
from resjax.interop.file_kinds import stand_in
from resjax.interop.hub import CONFIG_FILE, WEIGHTS_FILE
from resjax.interop.sources import TimmRepository, TorchvisionFile, nearest, resolve
from resjax.interop.state_dicts import not_finite_numbers
from resjax.interop.torch_files import read_safetensors
from resjax.layers import (
    AttentionResiduals,
    ConstantScaling,
    DepthScaling,
    EffectivePaths,
    Gating,
    HyperConnections,
    LearnedScaling,
    ShortcutDropout,
    StochasticDepth,
)
from resjax.models import Network, SegmentationNetwork, registry, restack, unrolled

if TYPE_CHECKING:
    from resjax.interop.network_input import Preprocessing

FORMAT_VERSION = 1

_OPTIONS = {
    option.__name__: option
    for option in (
        *(AttentionResiduals, ConstantScaling, DepthScaling, EffectivePaths, Gating, HyperConnections, LearnedScaling),
        *(ShortcutDropout, StochasticDepth),
    )
}
_DTYPES = {name: getattr(jnp, name) for name in ("bfloat16", "float16", "float32", "float64")}
_HEAD = ("params", "head")
_SHOWN = 8
_LARGEST_CONFIG = 1 << 28  # bytes; the mean of every pixel of photographs is a part of it


def save_pretrained(
    directory: str | os.PathLike[str],
    model: Network,
    variables: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network and its variables, to be read by `from_pretrained`.

    `model.safetensors` has the arrays, bit for bit, by path, e.g. "params/stage_1/block_1/conv_1/kernel", with
    separate blocks even if the network scans them. `config.json` has the class and the fields of the network, and the
    SHA-256 of the other file and of its own content. Initialisers given by name are written by name. Those given as
    functions are left out, since the weights are saved, and so are functions that are the default of their field.

    Both files are written completely under temporary names before either is renamed. If a save is interrupted between
    the two renames, the directory does not load. An earlier network there is replaced; other files stay.

    Args:
      directory: created if it does not exist.
      model: a network of `resjax.models`, also for segmentation, or of a class that `resjax.register_model` decorates.
      variables: {"params": .., "batch_stats": ..} of `model`, of NumPy or JAX, on any devices of this process; without
        a head (`num_classes=0`, `features_only=True`) the arrays of one may be among them, and are written too.
      about: JSON to be read by `pretrained_info`: what `preprocessing` needs (`mean`, `std`, `size`, `crop`,
        `interpolation`), `class_names`, the error, the licence, ..

    Raises:
      InputError: for a model of a class that is not registered; for variables that do not belong to `model` or are not
        finite; for an `about` that is not JSON; if `directory` is a file, holds a `config.json` or
        `model.safetensors` of another program, or cannot be written to.

    Example:
      >>> import tempfile
      >>> model = resjax.create_model("highway_10_2", num_classes=3)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     resjax.save_pretrained(folder, model, variables, about={"test_error": 1.5})
      ...     again, same = resjax.from_pretrained(folder)
      ...     resjax.pretrained_info(folder)["test_error"]
      1.5
      >>> again == model
      True
    """
    directory = pathlib.Path(directory)
    _check_place(directory)
    known = _networks()
    if known.get(type(model).__name__) is not type(model):
        raise InputError(
            f"model: expected a registered network ({', '.join(sorted(known))}), got {type(model).__name__}; decorate"
            " the class of your own with @resjax.register_model, so that files can name it"
        )
    if not isinstance(variables, Mapping):
        raise InputError(f"variables: expected what init or apply returns, a mapping, got {type(variables).__name__}")
    apart = restack(unfreeze(dict(variables)), ())
    # In C order: the format writes the memory as it is, without regard to strides.
    arrays = {path: np.asarray(array, order="C") for path, array in flatten_dict(apart).items()}
    _check(arrays, model, "variables", "give the model that they are of, and all of its collections")
    config = {
        "format_version": FORMAT_VERSION,
        "resjax_version": resjax.__version__,
        "network": type(model).__name__,
        "fields": _fields_as_json(model),
        "about": _plain(about or {}),
    }
    weights = save({"/".join(path): array for path, array in arrays.items()})
    config["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    config["config_sha256"] = _digest(config)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # The config comes last: until then, the old one's digest shows that it does not belong to these weights.
        _replace({directory / WEIGHTS_FILE: weights, directory / CONFIG_FILE: (_lines(config) + "\n").encode()})
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror or error}; what was there is kept") from None


def pretrained_info(name: str | os.PathLike[str]) -> dict[str, Any]:
    """What is known about trained weights, of the networks that come with the library how they were trained, too.

    Args:
      name: as `from_pretrained` takes it.

    Returns:
      JSON, but for a mean or deviation of every pixel, a float32 array [H, W, C]. Of weights by name at least what
      `preprocessing` computes with, `mean` and `std` of pixels 0 .. 255, `size` [height, width], `crop` and
      `interpolation`, and `class_names`; of the shipped ones also `dataset`, `test_error` in percent and `command`; of
      others' also `license`. Of a folder what `save_pretrained` was told.

    Raises:
      InputError: as of `from_pretrained`.

    Example:
      >>> resjax.pretrained_info("resnet_20-cifar10")["class_names"][:3]
      ['airplane', 'automobile', 'bird']
    """
    found = resolve(name)
    if isinstance(found, (TimmRepository, TorchvisionFile)):
        return found.about()
    about = _read_config(_file(found, CONFIG_FILE)).get("about", {})
    return about | {key: _pixels(about[key]) for key in ("mean", "std") if key in about}


class PixelConstants(np.ndarray):
    """A mean or deviation of every pixel, which prints its shape and range, not its thousands of numbers."""

    def __repr__(self) -> str:
        if self.ndim < 2:
            return super().__repr__()
        return f"<{self.dtype} {list(self.shape)} from {self.min():.4g} to {self.max():.4g}>"

    __str__ = __repr__


def _pixels(value: Any) -> Any:
    """An array of a mean of every pixel, nested lists in JSON; other values as they are."""
    if not (isinstance(value, list) and value and isinstance(value[0], list)):
        return value
    try:
        return np.asarray(value, np.float32).view(PixelConstants)
    except (TypeError, ValueError):  # said by those who compute with it
        return value


def preprocessing(name: str | os.PathLike[str]) -> "Preprocessing":
    """What the input of trained weights is: a function from images of any size, or files, to it.

    Args:
      name: as `from_pretrained` takes it.

    Raises:
      InputError: as of `from_pretrained`, and for weights that do not say by what their images are normalised.

    Example:
      >>> preprocess = resjax.preprocessing("resnet_20-cifar10")  # resizes, cuts the centre out, normalises
      >>> jax.jit(preprocess)(np.zeros((8, 480, 640, 3), np.uint8)).shape
      (8, 32, 32, 3)
    """
    from resjax.interop.network_input import preprocessing_of  # with the readers of images, which not everybody needs

    return preprocessing_of(pretrained_info(name), os.fspath(name))


def from_pretrained(name: str | os.PathLike[str], **overrides: Any) -> tuple[Network, dict[str, Any]]:
    """A trained network; nothing in the files is run, and no class but ours is made from them.

    Args:
      name: of a directory that `save_pretrained` wrote; a name of `list_pretrained()`; a repository of the Hugging Face
        hub with such files, "USER/REPO" or "USER/REPO@REVISION"; a network of timm, "timm/resnet50.a1_in1k"; or of
        torchvision, "torchvision/resnet50.IMAGENET1K_V2", whose file needs PyTorch to be read. The hub needs
        `pip install 'resjax[hub]'`. What was downloaded is read from the cache, also without a network.
      **overrides: fields of the network in place of the saved ones, e.g. `dtype=jnp.bfloat16`, `features_only=True`.
        `num_classes=0` leaves out the classifier; `replace_head` makes another.

    Returns:
      The network, and its variables on the default device in the saved dtypes (float64 if JAX has it enabled).

    Raises:
      InputError: for overrides that the network or the weights do not allow; for files that are missing, damaged, of
        an unknown version, or that name an unknown network or field; for arrays that are missing, unknown or of
        another shape; for a network whose layers are not ours; where the hub cannot be reached.
    """
    found = resolve(name)
    if isinstance(found, (TimmRepository, TorchvisionFile)):
        about = found.about()
        _check_classes(str(name), len(about["class_names"]), overrides)
        return found.load(overrides)
    config_file, weights_file = _file(found, CONFIG_FILE), _file(found, WEIGHTS_FILE)
    config = _read_config(config_file)
    arrays = _read_weights(weights_file, config["weights_sha256"])
    try:
        network = _registered(config["network"])
        fields = {name: _from_json(value) for name, value in config["fields"].items()}
        _check_magnitudes(config["fields"], arrays)
        model = _build(network, fields)
    except (InputError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise InputError(f"{config_file}: {error}; it may be of a newer resjax, or edited by hand") from None
    _check_classes(str(found), model.num_classes, overrides)
    if isinstance(model, SegmentationNetwork) and "num_classes" in overrides:
        raise InputError(f"num_classes: {found} holds a segmentation network, whose head cannot be left out")
    model = _build(network, fields | overrides)
    _check(arrays, model, str(weights_file), "leave out overrides that change shapes, or save the network again")
    # Copies, because the arrays may be a memory map of the file, which may change.
    kept = {path: jnp.array(array) for path, array in arrays.items() if not _is_unused_head(path, model)}
    return model, restack(unflatten_dict(kept), model.stacked_stages)


def replace_head(
    model: Network, variables: Mapping[str, Any], num_classes: int, key: jax.Array
) -> tuple[Network, dict[str, Any]]:
    """A network with a new classifier on its trained trunk, to be fine-tuned.

    Args:
      model, variables: e.g. of `from_pretrained`.
      num_classes: of the new classifier.
      key: draws its weights, as the network's own initialiser does.

    Returns:
      The network with `num_classes`, and variables: all arrays of the trunk as they are, and new ones of the head.

    Raises:
      InputError: for a number of classes below 1, for a key that is none, for a network that is no classifier, for
        variables of another one.

    Example:
      >>> model, variables = resjax.from_pretrained("resnet_20-cifar10")
      >>> model, variables = resjax.replace_head(model, variables, num_classes=5, key=jax.random.key(0))
      >>> model.num_classes, variables["params"]["head"]["linear"]["kernel"].shape
      (5, (64, 5))
    """
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise InputError(f"num_classes: expected an integer >= 1, got {num_classes!r}")
    if not hasattr(key, "dtype"):
        raise InputError(f"key: expected jax.random.key(0) or another, got {key!r}")
    if model.features_only:
        raise InputError("replace_head: a network with features_only=True has no classifier; create it without")
    new = model.clone(num_classes=num_classes)
    kernel = flatten_dict(unfreeze(dict(variables))).get(model.first_kernel)
    channels = 3 if kernel is None else kernel.shape[2]
    images = jax.ShapeDtypeStruct((1, new.minimum_size, new.minimum_size, channels), jnp.float32)
    expected = jax.eval_shape(new.init, key, images)
    kept = unfreeze(dict(variables))
    kept["params"] = {name: part for name, part in kept.get("params", {}).items() if name != "head"}
    trunk = {**expected, "params": {name: part for name, part in expected["params"].items() if name != "head"}}
    shapes = [{path: leaf.shape for path, leaf in flatten_dict(tree).items()} for tree in (trunk, kept)]
    if shapes[0] != shapes[1]:
        wrong = sorted({path for path, shape in set(shapes[0].items()) ^ set(shapes[1].items())})
        raise InputError(
            f"variables: not those of this {type(model).__name__}: {printable('/'.join(wrong[0]))} is missing, left"
            " over, or of another shape"
        )
    final = jax.eval_shape(new.clone(features_only=True).apply, trunk, images)["final"]
    kept["params"]["head"] = new.make_head().init(key, jnp.zeros(final.shape))["params"]
    return new, kept


def _check_classes(source: str, num_classes: int, overrides: Mapping[str, Any]) -> None:
    if overrides.get("num_classes", 0) not in (0, num_classes):
        raise InputError(
            f"num_classes: {source} was saved with {num_classes}, so its weights do not fit"
            f" {overrides['num_classes']!r}; num_classes=0 gives pooled features for a classifier of your own, and"
            " resjax.replace_head makes one"
        )


def _file(directory: pathlib.Path, name: str) -> pathlib.Path:
    """A file of a directory; raises InputError if it is missing."""
    try:
        found = (directory / name).is_file()
    except (OSError, ValueError):  # raised for text that cannot be a path
        found = False
    if not found:
        raise InputError(
            f"{printable(directory / name, 300)}: no such file; give a directory that resjax.save_pretrained wrote to"
            f" the end, which holds {CONFIG_FILE} and {WEIGHTS_FILE}{nearest(directory)}"
        )
    return directory / name


def _plain(about):
    """`about` after a round trip through JSON."""
    try:
        return json.loads(json.dumps(dict(about), allow_nan=False, default=_listed))
    except (TypeError, ValueError) as error:
        raise InputError(f"about: expected a mapping that JSON can hold: {error}") from None


def _listed(value: Any) -> Any:
    """An array as nested lists of the shortest decimals that its dtype reads back exactly."""
    if isinstance(value, (np.ndarray, np.floating)):
        return value.astype(str).astype(float).tolist()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _lines(value: Any, indent: str = "") -> str:
    """JSON with one line per key. Arrays, which may hold the mean of every pixel, stay on their key's line."""
    if not (isinstance(value, dict) and value):
        return json.dumps(value)
    inner = indent + "  "
    entries = (f"{inner}{json.dumps(key)}: {_lines(entry, inner)}" for key, entry in value.items())
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def _check(arrays: dict[tuple[str, ...], np.ndarray], model: Network, source: str, way_out: str) -> None:
    """Raises InputError, with all faults at once, unless `arrays` are those of `model` with separate blocks."""
    try:
        kernel = arrays.get(model.first_kernel)
        if kernel is not None and kernel.ndim == 4:
            shape = (model.minimum_size, model.minimum_size, kernel.shape[2])
        else:
            shape = registry.input_shape(model)
        images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        shapes = jax.eval_shape(lambda images: unrolled(model).init(jax.random.key(0), images), images)
    except InputError:
        raise
    except Exception as error:  # jax, flax and Python raise their own types for some fields
        reason = printable(str(error).strip().partition("\n")[0] or type(error).__name__, 200)
        raise InputError(f"{source}: no network can be built with these fields ({reason}): {way_out}") from None
    expected = {path: leaf.shape for path, leaf in flatten_dict(shapes).items()}
    wrong = []
    for path in sorted(expected.keys() | arrays.keys(), key=str):
        name, array = printable("/".join(map(str, path))), arrays.get(path)
        if array is None:
            wrong.append(f"{name} is missing")
        elif path not in expected:
            if not _is_unused_head(path, model):
                wrong.append(f"{name} is not in the network")
        elif array.shape != expected[path]:
            wrong.append(f"{name} has shape {array.shape}, the network {expected[path]}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            wrong.append(f"{name} has dtype {array.dtype}, no floating point")
        elif trouble := not_finite_numbers(array):
            wrong.append(f"{name} has {trouble}")
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise InputError(
            f"{source}: not the variables of this {type(model).__name__}: {'; '.join(wrong[:_SHOWN])}{more}: {way_out}"
        )


def _check_magnitudes(fields: Any, arrays: dict[tuple[str, ...], np.ndarray]) -> None:
    """Raises InputError, before the network is built, for fields that would make it larger than its weights."""
    numbers = sum(array.size for array in arrays.values())
    for name, value in fields.items():
        most = len(arrays) if name in ("depth", "stage_sizes") else max(numbers, 2**20)
        for item in _flat(value):
            if isinstance(item, int) and abs(item) > most:
                raise InputError(f"{name}: {item} is more than the {len(arrays)} arrays of {WEIGHTS_FILE} can be of")


def _flat(value):
    if isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _flat(item)
    else:
        yield value


def _is_unused_head(path, model):
    return path[:2] == _HEAD and (model.num_classes == 0 or getattr(model, "features_only", False))


def _fields_as_json(model):
    fields = {field: getattr(model, field) for field in registry.field_names(type(model))}
    if fields.get("dtype") is not None:
        fields["dtype"] = jnp.dtype(model.dtype).name
    kept = {
        name: value
        for name, value in fields.items()
        if not callable(value) or not (name.endswith("_init") or value == getattr(type(model), name, None))
    }
    return {name: _to_json(name, value) for name, value in kept.items()}


def _to_json(name, value):
    if type(value) in _OPTIONS.values():
        return {"class": type(value).__name__} | {
            field: _to_json(f"{name}.{field}", part) for field, part in dataclasses.asdict(value).items()
        }
    if isinstance(value, Network):
        return {"network": type(value).__name__, "fields": _fields_as_json(value)}
    if isinstance(value, (tuple, list)):
        return [_to_json(name, item) for item in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InputError(f"{name}: expected plain numbers, strings and tuples of them to write, got {value!r}")


def _from_json(value):
    if isinstance(value, list):
        return tuple(map(_from_json, value))
    if isinstance(value, dict) and "network" in value:
        fields: Any = value.get("fields")
        return _build(_registered(value["network"]), {key: _from_json(part) for key, part in dict(fields).items()})
    if isinstance(value, dict):
        options = {name: _from_json(part) for name, part in value.items() if name != "class"}
        return _build(_known(_OPTIONS, "class", str(value.get("class"))), options)
    return value


def _known(classes, kind, name):
    if name not in classes:
        raise unknown_name(kind, name, classes)
    return classes[name]


def _networks() -> dict[str, type]:
    """The classes that files may name."""
    return registry.modules() | {SegmentationNetwork.__name__: SegmentationNetwork}


def _registered(name):
    known = _networks()
    if name not in known:
        raise InputError(
            f"unknown network {name!r}{did_you_mean(name, known)} (known: {', '.join(sorted(known))}); a class of your"
            " own is known once the module that decorates it with @resjax.register_model is imported"
        )
    return known[name]


def _build(cls: type, fields: dict[str, Any]) -> Any:
    """cls(**fields); raises InputError for unknown names."""
    known = registry.field_names(cls)
    for name in fields:
        if name not in known:
            raise InputError(
                f"{cls.__name__} takes no {name!r}{did_you_mean(name, known)} (it takes {', '.join(sorted(known))})"
            )
    if isinstance(fields.get("dtype"), str):
        fields = fields | {"dtype": _DTYPES.get(fields["dtype"], fields["dtype"])}
    return cls(**fields)


def _read_config(file: pathlib.Path) -> dict[str, Any]:
    try:
        if (size := file.stat().st_size) > _LARGEST_CONFIG:
            raise InputError(f"{file}: has {size:,} bytes, more than a config; save or download it again")
        content = file.read_bytes()
        if (what := stand_in(content[:4096], len(content))) is not None:
            raise InputError(f"{file}: is {what[0]}; {what[1]}")
        config = json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({printable(error)}); save or download it again") from None
    version = config.get("format_version") if isinstance(config, dict) else None
    if version != FORMAT_VERSION:
        way_out = "upgrade resjax" if isinstance(version, int) else "give a directory that resjax.save_pretrained wrote"
        raise InputError(f"{file}: expected format_version {FORMAT_VERSION}, got {version!r}; {way_out}")
    for key, kind in (("network", str), ("fields", dict), ("weights_sha256", str), ("about", dict)):
        if not isinstance(config.get(key, {} if key == "about" else None), kind):
            raise InputError(f"{file}: {key} is missing or no {kind.__name__}; save or download it again")
    # Earlier versions did not write it.
    if config.get("config_sha256", _digest(config)) != _digest(config):
        raise InputError(
            f"{file}: not as it was saved: damaged or edited; save or download it again, give a field as an override of"
            " from_pretrained, or, where the edit is meant, take its line config_sha256 out"
        )
    return config


def _no_constant(name):
    raise ValueError(f"{name} is no JSON")


def _digest(config: dict[str, Any]) -> str:
    """The digest of a config's content, independent of its layout."""
    said = {key: value for key, value in config.items() if key != "config_sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_place(directory: pathlib.Path) -> None:
    """Raises InputError if a save would overwrite another program's files, or the directory cannot exist."""
    try:
        parent = next((path for path in (directory, *directory.parents) if path.exists()), pathlib.Path())
        if not parent.is_dir():
            raise InputError(
                f"{directory}: a file is there{'' if parent == directory else f', {parent}'}; give a directory to write"
                f" {CONFIG_FILE} and {WEIGHTS_FILE} to"
            )
        theirs = next((name for name in (CONFIG_FILE, WEIGHTS_FILE) if (directory / name).exists()), None)
        if theirs is not None and not _is_ours(directory / CONFIG_FILE):
            raise InputError(
                f"{directory}: holds a {theirs} that resjax.save_pretrained did not write; give another directory, or"
                " move it"
            )
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{printable(directory, 300)}: no directory can be written there: {error}") from None


def _is_ours(config_file):
    try:
        config = json.loads(config_file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and isinstance(config.get("network"), str) and "weights_sha256" in config


def _read_weights(file: pathlib.Path, digest: str) -> dict[tuple[str, ...], np.ndarray]:
    try:
        with open(file, "rb") as stream:
            head = stream.read(4096)
            if file.stat().st_size > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
                raise InputError(f"{file}: is larger than this machine's memory; download it again")
            if (what := stand_in(head, file.stat().st_size)) is not None:
                raise InputError(f"{file}: is {what[0]}; {what[1]}")
            stream.seek(0)
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != digest:
            raise InputError(
                f"{file}: not the file that {CONFIG_FILE} was written with: damaged, replaced, or left by a save that"
                " was interrupted; save or download both again"
            )
        return {tuple(name.split("/")): array for name, array in read_safetensors(file).items()}
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from None


def _replace(contents: dict[pathlib.Path, bytes]) -> None:
    """Writes all files under temporary names, and only then renames them."""
    partial = {file: file.with_name(f".{file.name}.partial") for file in contents}
    try:
        for file, content in contents.items():
            with open(partial[file], "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for file in contents:
            os.replace(partial[file], file)
    finally:
        for file in partial.values():
            file.unlink(missing_ok=True)
