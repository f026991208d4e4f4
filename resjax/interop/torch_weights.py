"""Converts weights of PyTorch networks to variables of this library."""

import os
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resjax.errors import InputError, printable
from resjax.interop.state_dicts import Chosen, as_numpy, choose, flatten, not_finite_numbers
from resjax.interop.torch_files import read_file
from resjax.models import Network, ResNet, ResNeXt, convert_form, restack, unrolled
from resjax.models.published.torch_names import Dialect, Path
from resjax.models.registry import modules

_SHOWN = 6
_HEAD = ("params", "head", "linear", "kernel")


def load_torch_weights(
    model: Network,
    state_dict: Mapping[str, Any] | str | os.PathLike[str],
    key: str | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """The variables of `model` with the weights and running statistics of a PyTorch network of the same function.

    It knows the names of torchvision and timm (ResNet, ResNeXt, Wide ResNet, DenseNet) and of the usual repositories
    for CIFAR, see `resjax.models.published.torch_names`; a class of your own gives its names in `torch_names`. They may
    follow any prefix, in any container, next to other entries of a training run, see `resjax.interop.state_dicts`.
    Under that prefix every array of the network must be there, with its shape and finite numbers, and nothing else,
    except counters of profilers and of BN, constants of an input's normalisation, and the classifier if `model` has
    none (`num_classes=0`, `features_only=True`). The caller must set what weights do not show: strides, the order of
    activation, `norm_epsilon`. akamaster's shortcut A puts half of its zero channels first, ours puts all last: the
    channels of its weights are permuted to our order.

    Args:
      model: a ResNet, ResNeXt (in any form), PreActResNet, WideResNet or DenseNet.
      state_dict: mapping of names to arrays of NumPy, JAX or PyTorch; or the path of a file, with any suffix, of
        safetensors, or of `torch.save`, which is read with `weights_only=True` and needs PyTorch.
      key: the container or prefix of the weights, e.g. "state_dict", "model_ema", "module.encoder_q"; "." is the
        top. If a file has raw and averaged weights of the network, None takes the averaged.
      report: called with each note for the user: which of several weights are taken, what is not read, and how the
        file itself normalises images; None warns.

    Returns:
      {"params": .., "batch_stats": ..}, float32; float64 if the given arrays are float64 and JAX has it enabled.

    Raises:
      InputError: for a family without known names, for a file that cannot be read, for a missing key, for weights that
        only `key` can tell apart, for NaN and infinity, and for weights that do not fit: one error with all entries
        that are missing, left over or of another shape.
    """
    dialects = _dialects_of(model, "load_torch_weights")
    file = state_dict if isinstance(state_dict, (str, os.PathLike)) else None
    try:
        source = state_dict if file is None else read_file(pathlib.Path(os.path.expanduser(file)))
        variables, said = _load(model, dialects, source, key)
    except InputError as error:
        named = file is not None and os.fspath(file) not in str(error)
        raise InputError(f"{file}: {error}" if named else str(error)) from None
    for line in said:
        (report or _warn)(f"{file}: {line}" if file is not None else f"load_torch_weights: {line}")
    return variables


def classes_in_file(model: Network, file: str | os.PathLike[str], key: str | None = None) -> int | None:
    """The number of classes of the network in a file of weights, see `load_torch_weights`; None without a classifier.

    Raises:
      InputError: as `load_torch_weights` for a file or a `key`.
    """
    dialects = _dialects_of(model, "load_torch_weights")
    names = [{d.name(path): path[1] for path in _shapes(unrolled(model))} for d in dialects]
    known = [
        dict.fromkeys(d.head, "head") | {name: part for name, part in of.items() if name}
        for d, of in zip(dialects, names, strict=True)
    ]
    chosen = choose(flatten(read_file(pathlib.Path(os.path.expanduser(file)))), known, key)
    heads = [chosen.values.get(dialects[i].head[0]) for i in chosen.dialects]
    return next((int(head.shape[0]) for head in heads if head is not None), None)


def _dialects_of(model: Network, caller: str) -> tuple[Dialect, ...]:
    """The sets of names that the family of `model` has; raises InputError if it has none."""
    if (normalization := getattr(model, "normalization", "batch")) != "batch":
        raise InputError(f"{caller}: normalization {normalization!r}: the networks of all known PyTorch names have BN")
    if dialects := tuple(getattr(model, "torch_names", ())):
        return dialects
    known = [name for name, module in modules().items() if getattr(module, "torch_names", ())]
    raise InputError(
        f"{caller}: no PyTorch names are known for {type(model).__name__}, only for {', '.join(known)}; a"
        " class says them in `torch_names`"
    )


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)


def to_torch(model: Network, variables: Mapping[str, Any], names: str = "torchvision") -> dict[str, np.ndarray]:
    """A state dict for a PyTorch network of the same function: the way back of `load_torch_weights`, bit for bit.

    torchvision, timm or the repository loads it with `strict=True`, as tensors or from a file:
    `safetensors.numpy.save_file(resjax.to_torch(model, variables), "model.safetensors")`.

    Args:
      model, variables: a ResNet, ResNeXt (in any form), PreActResNet, WideResNet, DenseNet, or a class of your own with
        `torch_names`.
      names: whose names the arrays get: "torchvision", "timm", or another repository of
        `resjax.models.published.torch_names`, e.g. "kuangliu".

    Returns:
      By name the arrays, C-contiguous: kernels [out, in, H, W], the counter `num_batches_tracked` of each BN.

    Raises:
      InputError: for a family or names that are not known, an array that the repository's network does not have, and
        variables that are not those of `model`.

    Example:
      >>> model, variables = resjax.from_pretrained("resnet_20-cifar10")
      >>> resjax.to_torch(model, variables, names="kuangliu")["linear.weight"].shape
      (10, 64)
    """
    dialects = _dialects_of(model, "to_torch")
    named = [d for d in dialects if names and re.search(rf"(^|[\s,(/]){re.escape(names)}\b", d.source)]
    if not named:
        known = "; ".join(d.source for d in dialects)
        raise InputError(f"names: expected one of the repositories {known}; got {printable(names)!r}")
    dialect = named[0]
    plain = variables
    if isinstance(model, ResNeXt):
        plain = convert_form(dict(variables), "grouped_convolution", model.cardinality)
    arrays = {path: np.asarray(leaf) for path, leaf in flatten_dict(restack(dict(plain), ())).items()}
    shapes = _shapes(unrolled(model))
    first = model.first_kernel
    if first in arrays:  # a network takes as many channels as its first kernel
        shapes[first] = (*shapes[first][:2], arrays[first].shape[2], shapes[first][3])
    wrong = sorted({path for path, shape in {(p, a.shape) for p, a in arrays.items()} ^ set(shapes.items())})
    if wrong:
        raise InputError(
            f"variables: not those of this {type(model).__name__}: {printable('/'.join(wrong[0]))} is missing, left"
            " over, or of another shape"
        )
    orders = _split_zeros_orders(model, shapes) if _splits_zeros(model, dialect) else {}
    converted: dict[str, np.ndarray] = {}
    for path, array in arrays.items():
        name = dialect.name(path)
        if name is None:
            raise InputError(f"names: {dialect.source} has no {'/'.join(path)}; give the names of another repository")
        if path in orders:
            axis, order = orders[path]
            array = np.take(array, np.argsort(order), axis)
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
        converted[name] = np.array(array.transpose(axes) if axes else array, order="C")
        if path[-1] == "var":
            converted[f"{name.removesuffix('running_var')}num_batches_tracked"] = np.zeros((), np.int64)
    return converted


def _load(model, dialects, source, key):
    """The variables, and notes on them."""
    shapes = _shapes(unrolled(model))
    named = [{path: d.name(path) for path in shapes} for d in dialects]
    parts = [
        dict.fromkeys(d.head, "head") | {name: path[1] for path, name in names.items() if name}
        for d, names in zip(dialects, named, strict=True)
    ]
    chosen = choose(flatten(source), parts, key)
    dialect = _dialect(model, dialects, chosen)
    names = named[dialects.index(dialect)]
    of_head = dialect.head[0].removesuffix("weight") if _HEAD not in shapes else None
    found = {
        name: as_numpy(name, value)
        for name, value in chosen.values.items()
        if of_head is None or not name.startswith(of_head)
    }
    first = model.first_kernel
    if getattr(found.get(names.get(first)), "ndim", 0) == 4:  # a network has as many input channels as its first kernel
        shapes[first] = (*shapes[first][:2], found[names[first]].shape[1], shapes[first][3])
    _check(model, dialect, dialects, names, shapes, found)

    orders = _split_zeros_orders(model, shapes) if _splits_zeros(model, dialect) else {}
    converted = {}
    for path, name in names.items():
        array = _to_ours(found[name])
        if path in orders:
            axis, order = orders[path]
            array = np.take(array, order, axis)
        wanted = np.float64 if array.dtype == np.float64 else np.float32
        converted[path] = jnp.asarray(array.astype(wanted))  # float64 if JAX has it enabled
    variables = unflatten_dict(converted)
    if isinstance(model, ResNeXt):
        variables = convert_form(variables, model.form, model.cardinality)
    return restack(variables, model.stacked_stages), chosen.said + _doubts(model, dialect)


def _shapes(model: Network) -> dict[Path, tuple[int, ...]]:
    """The shapes of the variables by path, for three input channels; a ResNeXt has PyTorch's form."""
    if isinstance(model, ResNeXt):
        model = model.clone(form="grouped_convolution")
    size = max(32, model.minimum_size)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return {path: leaf.shape for path, leaf in flatten_dict(variables).items()}


def _to_ours(array: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, [out, in] to [in, out]."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
    return array.transpose(axes) if axes else array


def _to_theirs(shape: tuple[int, ...]) -> tuple[int, ...]:
    """HWIO to OIHW, [in, out] to [out, in]."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), range(len(shape)))
    return tuple(shape[axis] for axis in axes)


def _dialect(model: Network, dialects: tuple[Dialect, ...], chosen: Chosen) -> Dialect:
    """The dialect whose names match the most entries."""
    if not chosen.dialects:
        sought = "; ".join(f"{d.name(model.first_kernel)}, {d.head[0]} ({d.source})" for d in dialects)
        raise InputError(
            f"load_torch_weights: no entry has a name that is known for {type(model).__name__}: looked for {sought};"
            f" found {_some([repr(printable(name, 60)) for name in chosen.values]) or 'nothing'}"
        )
    best = [dialects[i] for i in chosen.dialects]
    if len({_splits_zeros(model, d) for d in best}) > 1:
        raise InputError(
            "load_torch_weights: shortcut A differs between repositories that only the classifier's name tells apart:"
            f" keep it among the entries ({' or '.join(d.head[0] for d in best)})"
        )
    return best[0]


def _doubts(model: Network, dialect: Dialect) -> list[str]:
    """Notes on what names and shapes cannot tell."""
    if dialect.pools_small_stem and model.stem in ("cifar", "cifar_max_pool") and model.widths[0] == 64:
        return [
            "a network with these names and a 3x3 stem pools behind it (huyvnphan/PyTorch_CIFAR10) or does not (timm,"
            f" most others), and weights do not show which; this one is built with stem={model.stem!r}: check its error"
        ]
    return []


def _check(model, dialect, dialects, names, shapes, found):
    """Raises InputError with every reason why `found` are not the weights of `model`."""
    missing, misfits, only_classes_differ, not_finite = [], [], [], []
    for path, name in names.items():
        shape = _to_theirs(shapes[path])
        ours = "/".join(path)
        if name not in found:
            missing.append(f"{name} {_list(shape)}" if name else f"{ours} (these repositories have none)")
        elif found[name].shape != shape:
            misfits.append(f"{name} {_list(found[name].shape)}, expected {_list(shape)} for {ours}")
            only_classes_differ.append(path[1] == "head" and found[name].shape[1:] == shape[1:])
        elif not jnp.issubdtype(found[name].dtype, jnp.floating):
            misfits.append(f"{name} of {found[name].dtype}, expected floating point")
            only_classes_differ.append(False)
        elif trouble := not_finite_numbers(found[name]):
            not_finite.append(f"{name} has {trouble}")
    known = {*names.values(), *(dialect.head if _HEAD not in shapes else ())}
    extra = [
        f"{printable(name, 60)} {_list(array.shape)}" + " (this network has no such bias)" * _is_bias(name, known)
        for name, array in found.items()
        if name not in known
    ]
    if not (missing or extra or misfits or not_finite):
        return
    wrong = [
        f"{len(entries)} {what}: {_some(entries)}"
        for what, entries in (
            ("missing", missing),
            ("left over", extra),
            ("of another shape", misfits),
            ("not finite", not_finite),
        )
        if entries
    ]
    if not_finite and len(wrong) == 1:
        raise InputError(
            f"load_torch_weights: weights that are no finite numbers: {_some(not_finite)}: the training"
            " diverged, or the file is damaged: give an earlier checkpoint, or download it again"
        )
    if misfits and len(wrong) == 1 and all(only_classes_differ):
        classes = found[names[_HEAD]].shape[0]
        way_out = f"give the network num_classes={classes}, or num_classes=0 for its features alone"
    else:
        others = ", ".join(d.source for d in dialects if d is not dialect)
        way_out = f"compare the network's fields with those of the weights; also known are the names of {others}"
    raise InputError(
        f"load_torch_weights: these weights do not fit this {type(model).__name__}, by the names of {dialect.source}:"
        f" {'. '.join(wrong)}: {way_out}"
    )


def _list(shape):
    return str(list(shape))


def _is_bias(name, known):
    return name.endswith(".bias") and name.removesuffix("bias") + "weight" in known


def _some(entries):
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return "; ".join(entries[:_SHOWN]) + more


def _splits_zeros(model, dialect):
    return dialect.splits_zeros and isinstance(model, ResNet) and model.shortcut == "A"


def _split_zeros_orders(model: Any, shapes: dict[Path, tuple[int, ...]]) -> dict[Path, tuple[int, np.ndarray]]:
    """For arrays along a stage's channels the axis, and `order`: our channel c is their channel order[c]."""
    orders, order = {}, np.arange(shapes[model.first_kernel][-1])
    last = len(model.branch_convs(model.widths[0]))
    for i, num_blocks in enumerate(model.stage_sizes, start=1):
        for j in range(1, num_blocks + 1):
            block = (f"stage_{i}", f"block_{j}")
            orders["params", *block, "conv_1", "kernel"] = (2, order)
            features = shapes["params", *block, f"conv_{last}", "kernel"][-1]
            carried = (features - len(order)) // 2 + order
            order = np.concatenate([carried, np.setdiff1d(np.arange(features), carried)])
            orders["params", *block, f"conv_{last}", "kernel"] = (3, order)
            for leaf in ("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var"):
                orders[leaf[0], *block, f"norm_{last}", leaf[1]] = (0, order)
    return orders | {_HEAD: (0, order)}
