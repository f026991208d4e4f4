"""Weights of PyTorch networks as variables of ours."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resjax.errors import InputError
from resjax.interop.torch_files import read_state_dict
from resjax.interop.torch_names import Dialect, Path, dialects_of
from resjax.models import Network, ResNet, ResNeXt, convert_form, restack, unrolled

_SHOWN = 6
_STEM = ("params", "stem", "conv", "kernel")
_HEAD = ("params", "head", "linear", "kernel")


def load_torch_weights(
    model: Network, state_dict: Mapping[str, Any] | str | os.PathLike[str]
) -> dict[str, dict[str, Any]]:
    """The variables of `model` with the weights and running statistics of a PyTorch network of the same function.

    Understood are the names of torchvision and timm (ResNet, ResNeXt, Wide ResNet, DenseNet) and of the usual
    repositories for CIFAR, see `resjax.interop.torch_names`. Every array of the network must be there, in its shape,
    and nothing else, but for `num_batches_tracked`, and the classifier where `model` has none (`num_classes=0`,
    `features_only=True`). What weights do not show is the caller's to get right: strides, the order of activation,
    `norm_epsilon`. akamaster's shortcut A puts half of its zero channels first, ours puts all last: the channels of
    its weights are brought into our order.

    Args:
      model: a ResNet, ResNeXt (in any form), PreActResNet, WideResNet or DenseNet.
      state_dict: names with arrays of NumPy, JAX or PyTorch, or the path of a `.safetensors` file, or of a file of
        `torch.save` (`.pth`, `.pt`, ..), which is read with `weights_only=True` and needs PyTorch.

    Returns:
      {"params": .., "batch_stats": ..}, float32; float64 where the arrays given and JAX are.

    Raises:
      InputError: for a family without known names, for a file that cannot be read, and where the weights do not fit:
        one error with all entries that are missing, left over or of another shape.
    """
    dialects = dialects_of(model)
    found = read_state_dict(state_dict)
    found = {name: array for name, array in found.items() if not name.endswith("num_batches_tracked")}
    shapes = _shapes(unrolled(model))
    dialect = _choose(model, dialects, shapes, found)
    names = {path: dialect.name(path) for path in shapes}
    if getattr(found.get(names[_STEM]), "ndim", 0) == 4:  # a network takes as many channels as its first kernel
        shapes[_STEM] = (*shapes[_STEM][:2], found[names[_STEM]].shape[1], shapes[_STEM][3])
    _check(model, dialect, dialects, names, shapes, found)

    orders = _split_zeros_orders(model, shapes) if _splits_zeros(model, dialect) else {}
    converted = {}
    for path, name in names.items():
        array = _to_ours(found[name])
        if path in orders:
            axis, order = orders[path]
            array = np.take(array, order, axis)
        wanted = np.float64 if array.dtype == np.float64 else np.float32
        converted[path] = jnp.asarray(array.astype(wanted))  # float64 where JAX has it
    variables = unflatten_dict(converted)
    if isinstance(model, ResNeXt):
        variables = convert_form(variables, model.form, model.cardinality)
    return restack(variables, model.stacked_stages)


def _shapes(model: Network) -> dict[Path, tuple[int, ...]]:
    """The shapes of the variables by path, for three input channels; of a ResNeXt in the form that PyTorch has."""
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
    return {4: lambda h, w, i, o: (o, i, h, w), 2: lambda i, o: (o, i)}.get(len(shape), lambda *s: s)(*shape)


def _choose(model, dialects, shapes, found) -> Dialect:
    """The dialect that has a name for the most entries found."""
    if not any(d.name(path) in found for d in dialects for path in shapes if path[1] != "head"):
        sought = "; ".join(f"{d.name(_STEM)}, {d.head[0]} ({d.source})" for d in dialects)
        raise InputError(
            f"load_torch_weights: no entry has a name that is known for {type(model).__name__}: looked for {sought};"
            f" found {_some([repr(name) for name in found]) or 'nothing'}"
        )
    counts = [len({*d.head, *map(d.name, shapes)} & found.keys()) for d in dialects]
    best = [d for d, count in zip(dialects, counts, strict=True) if count == max(counts)]
    if len({_splits_zeros(model, d) for d in best}) > 1:
        raise InputError(
            "load_torch_weights: shortcut A differs between repositories that only the classifier's name tells apart:"
            f" keep it among the entries ({' or '.join(d.head[0] for d in best)})"
        )
    return best[0]


def _check(model, dialect, dialects, names, shapes, found):
    """Raises InputError with everything that keeps `found` from being the weights of `model`."""
    missing, misfits, only_classes_differ = [], [], []
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
    known = {*names.values(), *(dialect.head if _HEAD not in shapes else ())}
    extra = [
        f"{name} {_list(array.shape)}" + (" (this network has no such bias)" if _is_bias(name, known) else "")
        for name, array in found.items()
        if name not in known
    ]
    if not missing and not extra and not misfits:
        return
    lines = [
        f"load_torch_weights: these weights do not fit this {type(model).__name__}, by the names of {dialect.source}:"
    ]
    for what, entries in (("missing", missing), ("left over", extra), ("of another shape", misfits)):
        if entries:
            lines.append(f"  {len(entries)} {what}: {_some(entries)}")
    if not missing and not extra and all(only_classes_differ):
        classes = found[names[_HEAD]].shape[0]
        lines.append(f"  give the network num_classes={classes}, or num_classes=0 for its features alone")
    else:
        others = ", ".join(d.source for d in dialects if d is not dialect)
        lines.append(f"  compare the network's fields with those of the weights; also known are the names of {others}")
    raise InputError("\n".join(lines))


def _list(shape):
    return str(list(shape))


def _is_bias(name, known):
    return name.endswith(".bias") and name.removesuffix("bias") + "weight" in known


def _some(entries):
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return "; ".join(entries[:_SHOWN]) + more


def _splits_zeros(model, dialect):
    return dialect.splits_zeros and isinstance(model, ResNet) and model.shortcut == "A"


def _split_zeros_orders(model: ResNet, shapes: dict[Path, tuple[int, ...]]) -> dict[Path, tuple[int, np.ndarray]]:
    """For arrays along a stage's channels the axis, and `order`: our channel c is theirs of index order[c]."""
    orders, order = {}, np.arange(shapes[_STEM][-1])
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
