"""Whether two networks lie in one valley once their channels are in one order.

Ainsworth et al. 2023, Git Re-Basin, arXiv 2209.04836; Jordan et al. 2023, REPAIR, arXiv 2211.08403.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.extend.core import Literal
from jax.sharding import Mesh
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from resjax.analysis.landscape import whole_batches, without_noise
from resjax.errors import InputError
from resjax.layers.backend import plain_convolutions
from resjax.models import Network, restack, unrolled
from resjax.train.sharding import put_batch, put_whole

_ELEMENTWISE = frozenset(
    "add sub mul div max min pow integer_pow square rsqrt sqrt exp log tanh logistic neg abs sign erf erfc le lt ge gt"
    " eq ne or and not select_n convert_element_type copy name stop_gradient".split()
)
_REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_and reduce_or".split())
_WINDOWS = frozenset("reduce_window_max reduce_window_sum".split())
_CALLS = frozenset("jit pjit closed_call core_call custom_jvp_call custom_vjp_call remat checkpoint".split())

Axis = tuple[tuple[str, ...], int]
"""The path of an array in the unrolled variables, and one of its axes."""


@dataclasses.dataclass(frozen=True)
class Channels:
    """n channels of a network that can be put into any order without a change of its function.

    Attributes:
      places: of the axes that have them, their n indices; the m-th index of each is the same channel.
    """

    places: dict[Axis, np.ndarray]

    @property
    def size(self) -> int:
        """n."""
        return len(next(iter(self.places.values())))


def exchangeable_channels(model: Network, variables: Any, images: Any) -> list[Channels]:
    """The groups of channels that a network treats alike, read off its computation.

    The network is traced once; nothing is run. Channels that are added, multiplied or convolved with each other are
    one, and those that appear on the same axes of the same arrays form a group. A residual stream with appended zero
    channels has a group for each width, a dense block one for each layer. The channels of grouped convolutions, and
    those that pass through an operation that is not known to treat channels alike, stay in their places.

    Args:
      model, variables: the network.
      images: [N, H, W, C]; only the shape matters.
    """
    model, variables = unrolled(model), restack(variables, ())
    flat = flatten_dict(variables)
    shapes = {path: jax.ShapeDtypeStruct(np.shape(leaf), jnp.float32) for path, leaf in flat.items()}
    image = jax.ShapeDtypeStruct((1, *np.shape(images)[1:]), jnp.float32)

    def run(leaves, image):
        return model.apply(unflatten_dict(dict(zip(shapes, leaves, strict=True))), image)

    with plain_convolutions():
        program = jax.make_jaxpr(run)(list(shapes.values()), image)
    trace = _Labels()
    inputs = [trace.fresh(shape.shape) for shape in shapes.values()]
    outputs = trace.run(program.jaxpr, program.consts, [*inputs, trace.fixed(image.shape)])
    trace.freeze(*outputs)
    return trace.groups({path: label for path, label in zip(shapes, inputs, strict=True)})


class _Labels:
    """Follows channels through a program. A label has, for each axis of an array, the identity of each entry.

    The identity -1, or None for a whole axis, is that of equal entries, which no order changes.
    """

    def __init__(self):
        self.number = 0
        self.equal: list[np.ndarray] = []
        self.frozen: list[np.ndarray] = []

    def fresh(self, shape):
        label = []
        for size in shape:
            label.append(np.arange(self.number, self.number + size))
            self.number += size
        return label

    def fixed(self, shape):
        label = self.fresh(shape)
        self.freeze(label)
        return label

    def freeze(self, *labels):
        self.frozen += [ids for label in labels for ids in label if ids is not None]

    def same(self, *axes):
        """One identity for the entries of several axes."""
        found = None
        for ids in axes:
            if ids is None:
                continue
            if found is None:
                found = ids
                continue
            both = (found >= 0) & (ids >= 0)
            self.equal.append(np.stack([found[both], ids[both]]))
            found = np.where(found >= 0, found, ids)
        return found

    def run(self, jaxpr, consts, inputs):
        known = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            known[var] = self.fixed(np.shape(const))
        for equation in jaxpr.eqns:
            labels = [self.label(known, var) for var in equation.invars]
            known |= zip(equation.outvars, self.apply(equation, labels), strict=True)
        return [self.label(known, var) for var in jaxpr.outvars]

    def label(self, known, var):
        return [None] * np.ndim(var.val) if isinstance(var, Literal) else known[var]

    def apply(self, equation, labels):
        name, params = equation.primitive.name, equation.params
        shape = equation.outvars[0].aval.shape if equation.outvars else ()
        if name in _ELEMENTWISE:
            whole = [label for label in labels if len(label) == len(shape)]
            return [[self.same(*axes) for axes in zip(*whole, strict=True)] if shape else []]
        if name == "optimization_barrier":
            return labels
        if name in _REDUCTIONS:
            return [[ids for axis, ids in enumerate(labels[0]) if axis not in params["axes"]]]
        if name in _WINDOWS and all(
            ids is None or window == 1 for ids, window in zip(labels[0], params["window_dimensions"], strict=True)
        ):
            return labels[:1]
        if name in _CALLS:
            inner = params.get("jaxpr", params.get("call_jaxpr", params.get("fun_jaxpr")))
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), labels)
        if name == "cond":
            found = [self.run(branch.jaxpr, branch.consts, labels[1:]) for branch in params["branches"]]
            return [[self.same(*axes) for axes in zip(*outputs, strict=True)] for outputs in zip(*found, strict=True)]
        if hasattr(self, f"_{name}"):
            return [getattr(self, f"_{name}")(labels, params, equation)]
        self.freeze(*labels)
        return [self.fixed(var.aval.shape) for var in equation.outvars]

    def _broadcast_in_dim(self, labels, params, equation):
        found = [None] * len(params["shape"])
        for axis, ids in zip(params["broadcast_dimensions"], labels[0], strict=True):
            if ids is not None and len(ids) == params["shape"][axis]:
                found[axis] = ids
        return found

    def _reshape(self, labels, params, equation):
        """An axis stays one if as many numbers lie before it, and it is as long."""
        before, after = equation.invars[0].aval.shape, params["new_sizes"]
        found = [None] * len(after)
        starts = {(int(np.prod(after[:axis])), size): axis for axis, size in enumerate(after)}
        for axis, ids in enumerate(labels[0]):
            if ids is not None and len(ids) > 1:
                place = starts.get((int(np.prod(before[:axis])), before[axis]))
                if place is None:
                    self.freeze(labels[0])
                    return self.fixed(after)
                found[place] = ids
        return found

    def _squeeze(self, labels, params, equation):
        return [ids for axis, ids in enumerate(labels[0]) if axis not in params["dimensions"]]

    def _transpose(self, labels, params, equation):
        return [labels[0][axis] for axis in params["permutation"]]

    def _slice(self, labels, params, equation):
        strides = params["strides"] or (1,) * len(labels[0])
        spans = map(slice, params["start_indices"], params["limit_indices"], strides)
        return [ids if ids is None else ids[span] for ids, span in zip(labels[0], spans, strict=True)]

    def _pad(self, labels, params, equation):
        found = []
        for ids, (low, high, interior) in zip(labels[0], params["padding_config"], strict=True):
            if ids is not None and (low, high, interior) != (0, 0, 0):
                wide = np.full(max(0, len(ids) + (len(ids) - 1) * interior), -1)
                wide[:: interior + 1] = ids
                wide = wide[max(0, -low) : len(wide) - max(0, -high)]
                ids = np.pad(wide, (max(0, low), max(0, high)), constant_values=-1)
            found.append(ids)
        return found

    def _concatenate(self, labels, params, equation):
        found = []
        for axis, parts in enumerate(zip(*labels, strict=True)):
            if axis != params["dimension"]:
                found.append(self.same(*parts))
                continue
            sizes = [var.aval.shape[axis] for var in equation.invars]
            found.append(
                np.concatenate([np.full(n, -1) if ids is None else ids for ids, n in zip(parts, sizes, strict=True)])
            )
        return found

    def _conv_general_dilated(self, labels, params, equation):
        (x, kernel), numbers = labels, params["dimension_numbers"]
        _, channels, *_ = numbers.lhs_spec
        features, inputs, *window = numbers.rhs_spec
        self.freeze([kernel[axis] for axis in window])
        if params["feature_group_count"] > 1 or params["batch_group_count"] > 1 or x[channels] is None:
            self.freeze([x[channels], kernel[features], kernel[inputs]])
        else:
            self.same(x[channels], kernel[inputs])
        found = [None] * len(x)
        found[numbers.out_spec[1]] = kernel[features]
        return found

    def _dot_general(self, labels, params, equation):
        (contracted, batch), free = params["dimension_numbers"], []
        for label, axes, of_batch in zip(labels, contracted, batch, strict=True):
            self.freeze([label[axis] for axis in of_batch])
            free += [ids for axis, ids in enumerate(label) if axis not in (*axes, *of_batch)]
        for one, other in zip(*contracted, strict=True):
            if labels[0][one] is None or labels[1][other] is None:
                self.freeze([labels[0][one], labels[1][other]])
            else:
                self.same(labels[0][one], labels[1][other])
        return [labels[0][axis] for axis in batch[0]] + free

    def groups(self, labels):
        """The `Channels` among the axes of `labels`: {path: label}."""
        pairs = np.concatenate([np.zeros((2, 0), int), *self.equal], axis=1)
        matrix = coo_matrix((np.ones(pairs.shape[1]), pairs), shape=(self.number, self.number))
        _, roots = connected_components(matrix, directed=False)
        fixed = set(roots[np.concatenate([np.zeros(0, int), *(ids[ids >= 0] for ids in self.frozen)])].tolist())
        places: dict[int, list[tuple[Axis, int]]] = {}
        for path, label in labels.items():
            for axis, ids in enumerate(label):
                found = roots[ids].tolist()
                if len(set(found)) < len(found):
                    fixed |= {root for root in found if found.count(root) > 1}
                for index, root in enumerate(found):
                    places.setdefault(root, []).append(((path, axis), index))
        alike: dict[Any, list[list[tuple[Axis, int]]]] = {}
        for root, found in places.items():
            if root not in fixed:
                alike.setdefault(tuple(axis for axis, _ in found), []).append(found)
        return [
            Channels({axis: np.array([channel[i][1] for channel in group]) for i, axis in enumerate(axes)})
            for axes, group in alike.items()
            if len(group) > 1
        ]


def permuted(variables: Any, groups: Sequence[Channels], orders: Sequence[np.ndarray]) -> Any:
    """The network with its channels in other orders: place m of a group gets the channel orders[..][m].

    Args:
      variables: of the network; the result is unrolled.
      groups: from `exchangeable_channels`.
      orders: a permutation int [n] for each group.
    """
    flat = {path: np.array(leaf) for path, leaf in flatten_dict(restack(variables, ())).items()}
    for group, order in zip(groups, orders, strict=True):
        _reorder(flat, group, order)
    return unflatten_dict(flat)


def match_weights(
    params: Any, others: Any, groups: Sequence[Channels], seed: int = 0, starts: int = 5
) -> list[np.ndarray]:
    """Orders of the channels of one network in which its weights are most like those of another.

    The sum of products of all weights grows from step to step, each the best order of one group while the others are
    kept (Ainsworth et al. 2023, section 3.2, algorithm 1). Groups come in random order.

    Args:
      params: {"params": ..} of the network whose order is kept; other collections are not read.
      others: of the one to reorder by `permuted`.
      groups: from `exchangeable_channels` of either.
      seed: of the order of the groups, and of the orders of channels from which all but the first start begin.
      starts: how often to begin; the result is that with the largest sum.

    Raises:
      InputError: for networks of different shapes.
    """
    kept, moved = (flatten_dict(restack({"params": tree["params"]}, ())) for tree in (params, others))
    if {path: np.shape(leaf) for path, leaf in kept.items()} != {path: np.shape(leaf) for path, leaf in moved.items()}:
        raise InputError("params, others: expected two networks of one architecture, their parameters differ in shape")
    kept, moved = ({path: np.array(leaf, np.float64) for path, leaf in flat.items()} for flat in (kept, moved))
    best, most = [np.arange(group.size) for group in groups], -np.inf
    for start in range(starts):
        orders, alike = _ascend(kept, moved, groups, np.random.default_rng((seed, start)), start > 0)
        if alike > most:
            best, most = orders, alike
    return best


def _ascend(kept, moved, groups, rng, shuffles):
    """Orders from which no change of one group's gains, and the sum of products of all weights."""
    moved = dict(moved)
    orders = [rng.permutation(group.size) if shuffles else np.arange(group.size) for group in groups]
    for group, order in zip(groups, orders, strict=True):
        _reorder(moved, group, order)
    improved = True
    while improved:
        improved = False
        for i in rng.permutation(len(groups)):
            places = {place: found for place, found in groups[i].places.items() if place[0] in kept}
            paths = [path for path, _ in places]
            products = {place: _products(kept, moved, place, found) for place, found in places.items()}
            # A kernel whose inputs are its outputs is quadratic in the order: what is linear may know better.
            linear = [found for (path, _), found in products.items() if paths.count(path) == 1]
            for terms in [list(products.values())] + [linear] * (0 < len(linear) < len(products)):
                _, order = linear_sum_assignment(sum(terms), maximize=True)
                tried = {path: moved[path] for path in paths}
                _reorder(tried, groups[i], order)
                gain = sum(np.vdot(kept[path], tried[path] - moved[path]) for path in tried)
                if gain > 1e-9 * sum(np.vdot(kept[path], kept[path]) for path in tried):
                    moved |= tried
                    orders[i], improved = orders[i][order], True
                    break
    return orders, sum(np.vdot(kept[path], moved[path]) for path in kept)


def _products(kept, moved, place, indices):
    """Of each channel of one network with each of the other, along one axis of one array: [n, n]."""
    path, axis = place
    a, b = (np.moveaxis(flat[path], axis, 0)[indices].reshape(len(indices), -1) for flat in (kept, moved))
    return a @ b.T


def _reorder(flat, group, order):
    """Puts the channels of a group into another order, in those arrays of `flat` that have them."""
    for (path, axis), places in group.places.items():
        if path in flat:
            source = np.arange(flat[path].shape[axis])
            source[places] = places[order]
            flat[path] = flat[path].take(source, axis)


def with_statistics_of(
    model: Network, variables: Any, images: np.ndarray, batch_size: int = 256, mesh: Mesh | None = None
) -> Any:
    """The network with the BN statistics of `images`, which those between two networks lack (REPAIR, section 3).

    Each layer has the mean and variance of its inputs over all whole batches, each normalised by its own statistics.

    Args:
      model, variables: the network, in the form of its variables.
      images: normalised, [N, H, W, C].
      batch_size: images at a time, over all devices; fewer images are one batch.
      mesh: devices that a batch is split over; default: all.

    Raises:
      InputError: for no images, or a batch that the devices do not divide.
    """
    mesh, parts = whole_batches(images, np.zeros(len(images), int), batch_size, mesh)
    return _reset(model, variables, images, parts, mesh)


@functools.partial(jax.jit, static_argnums=0)
def _statistics_of_batch(quiet, variables, images):
    return quiet.apply(variables, images, train=True, mutable=["batch_stats"])[1]["batch_stats"]


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_error(model, variables, images, labels):
    logits = model.apply(variables, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.stack([losses.mean(), (logits.argmax(-1) != labels).mean()])


def _reset(model, variables, images, parts, mesh):
    if "batch_stats" not in variables:
        return variables
    quiet = without_noise(model).clone(norm_momentum=0.0)
    placed, found = put_whole(variables, mesh), []
    for part in parts:
        batch = put_batch(np.asarray(images[part], np.float32), mesh)
        found.append(flatten_dict(jax.device_get(_statistics_of_batch(quiet, placed, batch))))
    statistics = {}
    for path in found[0]:
        values = np.stack([each[path] for each in found]).astype(np.float64)
        statistics[path] = values.mean(0)
        if path[-1] == "var":
            statistics[path] += np.stack([each[(*path[:-1], "mean")] for each in found]).astype(np.float64).var(0)
    return {**variables, "batch_stats": unflatten_dict({path: np.float32(leaf) for path, leaf in statistics.items()})}


def losses_between(
    model: Network,
    variables: Any,
    others: Any,
    fractions: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    resets_statistics: bool = False,
    batch_size: int = 256,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy and error of networks on the line between two, in evaluation mode, float64 [P] each.

    One network and one batch are in memory at a time, beside the two.

    Args:
      model, variables, others: two networks of one architecture, in the form of their variables.
      fractions: float [P]; 0 is the first network, 1 the other.
      images: normalised, [N, H, W, C].
      labels: int [N].
      resets_statistics: whether each network gets the BN statistics of `images`, see `with_statistics_of`.
      batch_size: images at a time, over all devices; fewer images are one batch, and the last N % batch_size of more
        are not read.
      mesh: devices that a batch is split over; default: all.

    Raises:
      InputError: for no images, labels that do not fit, or a batch that the devices do not divide.
    """
    mesh, parts = whole_batches(images, labels, batch_size, mesh)
    found = np.zeros((len(fractions), 2))
    for row, fraction in zip(found, fractions, strict=True):
        point = between(variables, others, fraction)
        if resets_statistics:
            point = _reset(model, point, images, parts, mesh)
        point = put_whole(point, mesh)
        for part in parts:
            batch = put_batch((np.asarray(images[part], np.float32), np.asarray(labels[part])), mesh)
            row += np.asarray(_loss_and_error(model, point, *batch), np.float64) / len(parts)
    return found[:, 0], found[:, 1]


def between(variables: Any, others: Any, fraction: float) -> Any:
    """(1 - fraction) variables + fraction others, leaf by leaf."""
    return jax.tree.map(lambda a, b: np.asarray((1 - fraction) * a + fraction * b, np.float32), variables, others)


def barrier(values: np.ndarray) -> float:
    """How far a curve [P] over equally spaced points rises above the line between its ends, at most.

    Example:
      >>> barrier(np.array([1.0, 4.0, 2.0]))
      2.5
    """
    values = np.asarray(values, np.float64)
    return float((values - np.linspace(values[0], values[-1], len(values))).max())
