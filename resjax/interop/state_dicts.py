"""Finds the arrays of a network in a checkpoint by the network's own names, under any containers and prefixes.

A checkpoint is a tree of containers ("state_dict", "model_ema"), of wrappers' prefixes ("module.", "_orig_mod.",
"backbone.", "1."), or of both. When it is flattened, both become a prefix, and the network's names follow one prefix.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resjax.errors import InputError, did_you_mean, printable

_LARGEST_TREE = 1_000_000  # entries, and
_DEEPEST = 40  # levels: more than any checkpoint has
_SHOWN = 6

# Counters that PyTorch (BN), thop and torch.optim.swa_utils add to a module's arrays.
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")
# Other entries that a training run saves with its weights.
_OF_TRAINING = re.compile(r"(^|\.)(lr_?|amp_?)?(optim|sched|scaler|callbacks|loops|rng|random_state)", re.IGNORECASE)
_NORMALIZATION = re.compile(r"(^|\.)_?(new_|pixel_|image_|channel_|rgb_)?(mean|std|mu|sigma)s?$")
_AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averaged?|polyak|shadow)([._]|$)", re.IGNORECASE)
_NOT_AVERAGED = re.compile(r"(^|[._])(online|raw|current_model_state)([._]|$)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A value of a checkpoint, and the prefix of its mapping: "" or "state_dict."."""

    value: Any
    container: str

    @property
    def is_array(self) -> bool:
        return _shape(self.value) is not None


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A network's part of a checkpoint.

    Attributes:
      dialects: the sets of names that match the most entries; the first one is used.
      prefix: the prefix of its names.
      values: the entries under the prefix, by name without it: the network's, and others that are left over.
      said: notes on the choice for the user, one line each.
    """

    dialects: tuple[int, ...]
    prefix: str
    values: dict[str, Any]
    said: list[str]


def flatten(source: Any) -> dict[str, Entry]:
    """The entries of a checkpoint by name, prefixed with the names of nested mappings and lists and dots.

    Raises:
      InputError: if it is not a mapping, holds itself, or has more entries than a checkpoint can have.
    """
    if hasattr(source, "state_dict") and not isinstance(source, Mapping):
        raise InputError(f"state_dict: got a {type(source).__name__}; give its state_dict()")
    if not _is_tree(source):
        raise InputError(
            "state_dict: expected a mapping from names to arrays, or the path of a file of weights (.safetensors, or"
            f" of torch.save), got {type(source).__name__}"
        )
    entries: dict[str, Entry] = {}
    waiting: list[tuple[Any, str, tuple[int, ...]]] = [(source, "", (id(source),))]
    visited = 0
    while waiting:
        tree, container, above = waiting.pop()
        for key, value in _items(tree):
            name, visited = container + str(key), visited + 1
            if visited > _LARGEST_TREE:
                raise InputError(
                    f"state_dict: more than {_LARGEST_TREE:,} entries; give the mapping of a network's arrays"
                )
            if _is_tree(value):
                if id(value) in above or len(above) > _DEEPEST:
                    how = "holds itself" if id(value) in above else f"is nested more than {_DEEPEST} deep"
                    raise InputError(f"state_dict: {printable(name)!r} {how}; give names and arrays alone")
                waiting.append((value, name + ".", (*above, id(value))))
            elif name in entries:
                raise InputError(f"state_dict: two entries are named {printable(name)!r}; give one mapping of arrays")
            else:
                entries[name] = Entry(value, container)
    return entries


def _is_tree(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, (list, tuple))
        and any(isinstance(item, Mapping) or _shape(item) is not None for item in value)
    )


def _items(tree: Any) -> list[tuple[Any, Any]]:
    if not isinstance(tree, Mapping):
        return list(enumerate(tree))
    params, stats = tree.get("params"), tree.get("stats")
    if isinstance(params, Mapping) and isinstance(stats, Mapping):
        # szagoruyko's earlier checkpoints have parameters and running statistics in separate mappings.
        return [*((key, tree[key]) for key in tree if key not in ("params", "stats")), ("params", {**params, **stats})]
    return list(tree.items())


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of an array; None for other values."""
    try:
        return tuple(value.shape) if hasattr(value, "dtype") else None
    except Exception:  # nested tensors of PyTorch have a dtype, but raise here
        return (-1,)


def choose(entries: dict[str, Entry], names: Sequence[Mapping[str, str]], key: str | None) -> Chosen:
    """The part of a checkpoint with a network's names.

    Args:
      entries: from `flatten`.
      names: for each dialect the possible names of the network's arrays, each with its part of the network:
        "stem", "stage_1", .., "head". A classifier alone does not count as a network; nor, after a prefix, does a stem.
      key: the container or prefix to take; None takes the one with the most names, and of equal ones the averaged.

    Returns:
      The choice; without `dialects` if no entry has a known name.

    Raises:
      InputError: for a key that is missing, and if several equally good ones cannot be told apart.
    """
    found = _found(entries, names)
    found = {
        (i, prefix): got
        for (i, prefix), got in found.items()
        if any(names[i][name].startswith("stage") or (not prefix and names[i][name] != "head") for name in got)
    }
    allowed = {place for place in found if key is None or _has_key(place[1], key)}
    if key is not None and not allowed:
        raise _unknown_key(entries, found, key)
    if not found:
        return Chosen((), "", {name: entry.value for name, entry in entries.items()}, [])
    most = max(len(found[place]) for place in allowed)
    dialects = tuple(sorted({i for i, prefix in allowed if len(found[i, prefix]) == most}))
    rivals = {prefix: got for (i, prefix), got in found.items() if i == dialects[0] and 2 * len(got) > most}
    best = [prefix for prefix, got in rivals.items() if len(got) == most and (dialects[0], prefix) in allowed]
    prefix, taken = _preferred(entries, best, rivals)
    values, said = _separate(entries, prefix, rivals, names[dialects[0]])
    return Chosen(dialects, prefix, values, (taken if key is None else []) + said)


def _found(entries: dict[str, Entry], names: Sequence[Mapping[str, str]]) -> dict[tuple[int, str], set[str]]:
    """For each dialect and prefix, the names that follow it; of several known ends of a name, the longest."""
    found: dict[tuple[int, str], set[str]] = {}
    for name, entry in entries.items():
        if isinstance(entry.value, (str, bytes, bool, type(None))):
            continue
        parts = name.split(".")
        for i, known in enumerate(names):
            for start in range(max(len(parts) - 12, 0), len(parts)):
                end = ".".join(parts[start:])
                if end in known:
                    found.setdefault((i, name.removesuffix(end)), set()).add(end)
                    break
    return found


def _label(prefix):
    return prefix.rstrip(".") or "."


def _has_key(prefix, key):
    return prefix == "" if key == "." else f".{key.strip('.')}." in f".{prefix}"


def _unknown_key(entries, found, key):
    places = sorted({_label(prefix) for _, prefix in found})
    tops = sorted({name.partition(".")[0] for name, entry in entries.items() if entry.container})
    listed = [*places, *(top for top in tops if top not in places)]
    more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
    shown = ", ".join(printable(name, 60) for name in listed[:20]) or "none"
    return InputError(
        f"weights key {printable(key)!r}: no weights of this network are there{did_you_mean(key, listed)}; the keys"
        f" are: {shown}{more}"
    )


def _preferred(entries: dict[str, Entry], best: list[str], rivals: Mapping[str, set[str]]) -> tuple[str, list[str]]:
    """One of several prefixes with equally many names, and a note on the choice."""
    distinct: list[str] = []
    for prefix in best:
        if not any(_same(entries, prefix, other, rivals[prefix]) for other in distinct):
            distinct.append(prefix)
    if len(distinct) == 1:
        # The same arrays under two names, as of one module, need no choice.
        prefix = min((p for p in best), key=lambda p: (p.count("."), len(p)))
        others = [p for p in rivals if p not in best]
    else:
        averaged = [p for p in distinct if _AVERAGED.search(p.rstrip("."))]
        plain = [p for p in distinct if not _NOT_AVERAGED.search(p.rstrip("."))]
        one = averaged if len(averaged) == 1 else plain
        if len(averaged) > 1 or len(one) != 1:
            raise InputError(
                f"{len(distinct)} sets of weights of this network lie here:"
                f" {', '.join(printable(_label(p), 60) for p in distinct)}; say which with key= (--weights_key)"
            )
        prefix = one[0]
        others = [p for p in rivals if p != prefix and (p in distinct or p not in best)]
    if not others:
        return prefix, []
    kind = " (averaged weights)" if _AVERAGED.search(prefix.rstrip(".")) else ""
    listed = ", ".join(
        printable(_label(p), 60) + ("" if len(rivals[p]) == len(rivals[prefix]) else f" ({len(rivals[p])} arrays)")
        for p in others
    )
    return prefix, [
        f"weights taken from {printable(_label(prefix), 60)!r}{kind}, not from {listed}; key= (--weights_key) chooses"
    ]


def _same(entries, prefix, other, names):
    """Whether the arrays called `names` are equal at two prefixes."""
    for name in names:
        one, two = entries.get(prefix + name), entries.get(other + name)
        if one is None or two is None:
            return False
        if one.value is not two.value:
            a, b = as_numpy(prefix + name, one.value), as_numpy(other + name, two.value)
            if a.shape != b.shape or a.tobytes() != b.tobytes():
                return False
    return True


def _separate(
    entries: dict[str, Entry], prefix: str, rivals: Mapping[str, set[str]], known: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """The values by name under `prefix`; and notes on the arrays that are not read."""
    values: dict[str, Any] = {}
    unread: list[str] = []
    constants: list[str] = []
    others = [rival for rival in rivals if rival != prefix and rival.startswith(prefix)]
    elsewhere = {rival + name for rival, names in rivals.items() if rival != prefix for name in names}
    for name, entry in entries.items():
        short = name.removeprefix(prefix)
        inside = name.startswith(prefix)
        if inside and short in known:
            values[short] = entry.value
        elif not entry.is_array or name in elsewhere or any(name.startswith(rival) for rival in others):
            continue
        elif _is_one(entry.value) and name.rpartition(".")[2] in _COUNTERS:
            continue
        elif _NORMALIZATION.search(name) and _is_few(entry.value):
            constants.append(f"{printable(name, 60)} = {_numbers(name, entry.value)}")
        elif inside and prefix.startswith(entry.container):
            values[short] = entry.value
        elif not (_OF_TRAINING.search(name) or _is_one(entry.value)):
            unread.append(f"{printable(name, 60)} {list(_shape(entry.value) or ())}")
    said = []
    if constants:
        said.append(
            f"the file normalises its images itself, by {', '.join(constants[:4])}; the network here does not:"
            " normalise by the same numbers"
        )
    if unread:
        more = f" and {len(unread) - _SHOWN} more" if len(unread) > _SHOWN else ""
        said.append(f"not read, beside {printable(_label(prefix), 60)!r}: {', '.join(unread[:_SHOWN])}{more}")
    return values, said


def _size(value: Any) -> int:
    return math.prod(_shape(value) or ())


def _is_one(value: Any) -> bool:
    return _size(value) in (0, 1)


def _is_few(value: Any) -> bool:
    return 1 <= _size(value) <= 4


def _numbers(name, value):
    return [float(f"{number:.6g}") for number in as_numpy(name, value).ravel().astype(float)]


def as_numpy(name: str, value: Any) -> np.ndarray:
    """Converts an array of NumPy, JAX or PyTorch, or nested lists of numbers, to a dense NumPy array.

    Raises:
      InputError: for any other value; says `name`.
    """
    try:
        if hasattr(value, "detach"):  # a tensor of PyTorch, which need not be installed otherwise
            trouble = _torch_trouble(value)
            if trouble:
                raise InputError(f"{printable(name)}: {trouble}; save dense arrays of numbers")
            value = value.detach().cpu()
            if value.is_floating_point() and value.element_size() < 4:
                value = value.float()  # NumPy has no bfloat16
            value = value.resolve_conj().resolve_neg().numpy()
        array = np.asarray(value)
    except InputError:
        raise
    except Exception as error:  # arrays of other libraries raise any type if they hold no numbers
        reason = printable(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__, 160)
        raise InputError(f"{printable(name)}: no array of numbers ({reason})") from None
    if array.dtype.kind in "OSUMmV" and not _is_extension_float(array.dtype):
        raise InputError(f"{printable(name)}: expected an array of numbers, got {_kind_of(value, array)}")
    return array


def _is_extension_float(dtype):
    return dtype.kind == "V" and dtype.names is None and dtype.name.startswith(("bfloat", "float"))


def _kind_of(value, array):
    return f"a {type(value).__name__} of objects" if array.dtype.kind == "O" and array.ndim else type(value).__name__


def _torch_trouble(tensor):
    if getattr(tensor, "is_meta", False):
        return "a tensor on PyTorch's meta device, which has a shape and no numbers"
    if getattr(tensor, "is_quantized", False):
        return "a quantised tensor"
    if getattr(tensor, "is_nested", False):
        return "a nested tensor"
    layout = str(getattr(tensor, "layout", "torch.strided"))
    return "" if layout == "torch.strided" else f"a sparse tensor ({layout.removeprefix('torch.')})"


def not_finite_numbers(array: np.ndarray) -> str:
    """The number of NaN and infinite values of a floating array, in words; "" for none."""
    array = array if array.dtype.itemsize > 1 else array.astype(np.float32)
    with np.errstate(invalid="ignore"):  # casts of signalling NaN
        finite, nan = int(np.isfinite(array).sum()), int(np.isnan(array).sum())
    counts = [f"{count:,} {what}" for count, what in ((nan, "NaN"), (array.size - finite - nan, "infinite")) if count]
    return f"{' and '.join(counts)} of {array.size:,} numbers" if counts else ""
