"""Writes what JAX traces of a network as an ONNX graph."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from onnx import helper, numpy_helper

from resjax.errors import InputError

_OPSET, _IR_VERSION = 18, 8  # of ONNX 1.13; every runtime since 2023 reads them

_ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "and": "And",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
_REDUCTIONS = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_sum": "ReduceSum"}
_SAME = ("copy", "copy_p", "name", "optimization_barrier", "stop_gradient")
# Of constants too, these may be computed before their last shape is known: sizes of 1 stand for it.
_FOLDED_SMALL = {
    *_ELEMENTWISE,
    "convert_element_type",
    "integer_pow",
    "ne",
    "eq",
    "rsqrt",
    "select_n",
    "square",
    "erfc",
}


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A value that is computed from the images.

    Attributes:
      name: in the graph.
      order: the axis, as JAX counts them, that lies at each place there: (0, 3, 1, 2) is [N, C, H, W] of [N, H, W, C].
        Transposing is then a change of names, until an operator asks for an order.
      summed: for a sum, the number of its summands, and the same of their mean.
    """

    name: str
    order: tuple[int, ...]
    summed: tuple[Any, str] | None = None


@dataclasses.dataclass(frozen=True)
class _Size:
    """A number of pixels that is known when the graph runs."""

    dim: Any


def write_graph(
    traced: ClosedJaxpr,
    constants: Sequence[tuple[str, Any]],
    inputs: dict[str, jax.ShapeDtypeStruct],
    outputs: Sequence[str],
    name: str,
) -> onnx.ModelProto:
    """The ONNX model of a traced function.

    Args:
      traced: of (*constants, *inputs) to the outputs. A size that is a symbol is free in the graph.
      constants: name and array of each.
      inputs: by name.
      outputs: their names.
      name: of the graph.

    Raises:
      InputError: for an operation that has no counterpart here.
    """
    graph = _Graph()
    known: list[Any] = []
    for constant, array in constants:
        known.append(np.asarray(array))
        graph.names[id(known[-1])] = constant
    known += [_Tensor(each, tuple(range(len(inputs[each].shape)))) for each in inputs]
    found = graph.run(traced.jaxpr, traced.consts, known)
    for output, value, aval in zip(outputs, found, traced.out_avals, strict=True):
        order = tuple(range(len(aval.shape)))
        graph.nodes.append(helper.make_node("Identity", [graph.ordered(value, order)], [output], name=output))
    described = {each: (struct.shape, struct.dtype) for each, struct in inputs.items()}
    results = {each: (aval.shape, aval.dtype) for each, aval in zip(outputs, traced.out_avals, strict=True)}
    nodes, initializers = graph.needed(outputs)
    proto = helper.make_graph(nodes, name, _infos(described), _infos(results), initializers)
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="resjax"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _infos(described: dict[str, tuple[tuple, Any]]) -> list[onnx.ValueInfoProto]:
    """Types and shapes; a size that only arithmetic on others gives has no name."""

    def size(dim: Any) -> Any:
        return dim if isinstance(dim, int) else str(dim) if str(dim).isidentifier() else None

    return [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(map(size, shape)))
        for name, (shape, dtype) in described.items()
    ]


class _Graph:
    """Nodes and initialisers, and the operation of JAX that is being written."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.names: dict[int, str] = {}
        self.at_zero: dict[str, Any] = {}  # name of `x <= 0` -> x
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._written: dict[tuple[int, tuple[int, ...]], str] = {}
        self._kept: list[np.ndarray] = []  # whose identity is a key
        self._scope = ""

    def run(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """The outputs of a jaxpr: an array where it depends on constants only, else a `_Tensor`."""
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        known |= zip(jaxpr.invars, inputs, strict=True)

        def value_of(atom):
            return np.asarray(atom.val) if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            found = self._equation(eqn, [value_of(atom) for atom in eqn.invars])
            known |= zip(eqn.outvars, found, strict=True)
        return [value_of(atom) for atom in jaxpr.outvars]

    def ordered(self, value: Any, order: tuple[int, ...]) -> str:
        """The name of a value whose axes lie in this order; a number has none."""
        if isinstance(value, _Tensor):
            if value.order == order or not value.order:
                return value.name
            return self._node("Transpose", [value.name], perm=[value.order.index(axis) for axis in order])
        return self._constant(value, order if value.ndim == len(order) else tuple(range(value.ndim)))

    def needed(self, outputs: Sequence[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """The nodes that the outputs depend on, and their initialisers."""
        wanted, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                nodes.append(node)
                wanted |= set(node.input)
        return nodes[::-1], [tensor for name, tensor in self._initializers.items() if name in wanted]

    def _equation(self, eqn: Any, values: list[Any]) -> list[Any]:
        primitive = eqn.primitive.name
        if primitive == "cond" and "platform_index" in str(values[0]):
            return self._inner(eqn.params["branches"][int(values[0].item().rpartition(" ")[2])], values[1:])
        if primitive == "platform_index":  # what is written is no platform's own form
            return [np.asarray(f"platform_index {eqn.params['platforms'].index(None)}")]
        inner = [sub for sub in jax.tree.leaves(eqn.params, is_leaf=_is_jaxpr) if _is_jaxpr(sub)]
        if primitive != "cond" and inner and len(getattr(inner[0], "jaxpr", inner[0]).invars) == len(values):
            return self._inner(inner[0], values)
        scope, self._scope = self._scope, str(eqn.source_info.name_stack)
        try:
            if primitive == "dim_as_value":
                return [_Size(eqn.params["dim"])]
            if primitive in _SAME:
                return values
            if primitive == "broadcast_in_dim" and not isinstance(values[0], _Tensor):
                return [_unsqueezed(values[0], eqn.params["broadcast_dimensions"], len(eqn.params["shape"]))]
            if primitive == "convert_element_type" and isinstance(values[0], _Size):
                return values
            if all(isinstance(value, np.ndarray) for value in values):
                return self._folded(eqn, values)
            rule = _RULES.get(primitive)
            if rule is None and primitive in _ELEMENTWISE:
                return [self.elementwise(_ELEMENTWISE[primitive], *values)]
            if rule is None or any(isinstance(value, _Size) for value in values if primitive != "div"):
                raise self.unknown(eqn)
            return [rule(self, eqn, *values)]
        finally:
            self._scope = scope

    def _inner(self, jaxpr: Any, values: Sequence[Any]) -> list[Any]:
        return self.run(getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ()), values)

    def _folded(self, eqn: Any, values: Sequence[np.ndarray]) -> list[Any]:
        """What depends on constants only is computed now."""
        shapes = [getattr(atom.aval, "shape", ()) for atom in eqn.invars]
        if eqn.primitive.name in _FOLDED_SMALL:
            arrays = list(np.broadcast_arrays(*values))
        elif all(map(_is_known, shapes)) or _has_no_window_there(eqn.params, shapes[0]):
            arrays = [np.broadcast_to(v, _with_ones(shape)) for v, shape in zip(values, shapes, strict=True)]
        else:
            raise self.unknown(eqn)
        found = eqn.primitive.bind(*map(jax.numpy.asarray, arrays), **eqn.params)
        return [np.asarray(each) for each in (found if eqn.primitive.multiple_results else [found])]

    def unknown(self, eqn: Any) -> InputError:
        shown = ", ".join(str(atom.aval) for atom in eqn.invars)
        where = f" in {self._scope}" if self._scope else ""
        return InputError(
            f"to_onnx: {eqn.primitive.name} of {shown}{where} is not among the operations that are written here;"
            " to_stablehlo exports any network"
        )

    def elementwise(self, op: str, *values: Any, **attributes: Any) -> _Tensor:
        order = max((value.order for value in values if isinstance(value, _Tensor)), key=len)
        return self.node(op, [self.ordered(value, order) for value in values], order, **attributes)

    def node(self, op: str, inputs: Sequence[str], order: tuple[int, ...], **attributes: Any) -> _Tensor:
        return _Tensor(self._node(op, inputs, **attributes), order)

    def _node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{self._scope}/{op}_{len(self.nodes)}".lstrip("/")
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def integers(self, values: Sequence[int]) -> str:
        return self._constant(np.asarray(values, np.int64), (0,))

    def _constant(self, array: np.ndarray, order: tuple[int, ...]) -> str:
        key = (id(array), order)
        if key not in self._written:
            self._kept.append(array)
            name = self.names.get(id(array), f"constant_{len(self._initializers)}")
            name = name if name not in self._initializers else f"{name}_{len(self._initializers)}"
            stored = np.ascontiguousarray(array.transpose(order)).reshape([array.shape[axis] for axis in order])
            self._initializers[name] = numpy_helper.from_array(stored, name)
            self._written[key] = name
        return self._written[key]


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (Jaxpr, ClosedJaxpr))


def _is_known(shape: Sequence[Any]) -> bool:
    return all(isinstance(dim, int) for dim in shape)


def _has_no_window_there(params: dict[str, Any], shape: Sequence[Any]) -> bool:
    """Whether what is pooled has free sizes only where nothing is pooled."""
    window = params.get("window_dimensions", ())
    return bool(window) and all(isinstance(d, int) or w == 1 for d, w in zip(shape, window, strict=True))


def _with_ones(shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else 1 for dim in shape)


def _unsqueezed(array: np.ndarray, axes: Sequence[int], ndim: int) -> np.ndarray:
    """With its axes at these places of `ndim`; whoever reads it repeats it along the others."""
    shape = [1] * ndim
    for axis, size in zip(axes, array.shape, strict=True):
        shape[axis] = size
    return array.reshape(shape)


def _at(order: tuple[int, ...], by_axis: Sequence[Any]) -> list[Any]:
    return [by_axis[axis] for axis in order]


def _conv(graph: _Graph, eqn: Any, x: Any, kernel: Any) -> _Tensor:
    params = eqn.params
    numbers = params["dimension_numbers"]
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise graph.unknown(eqn)
    names = [graph.ordered(x, tuple(numbers.lhs_spec)), graph.ordered(kernel, tuple(numbers.rhs_spec))]
    low, high = zip(*params["padding"], strict=True)
    return graph.node(
        "Conv",
        names,
        tuple(numbers.out_spec),
        strides=params["window_strides"],
        pads=[*low, *high],
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
    )


def _pooling(op: str) -> Callable[..., _Tensor]:
    def rule(graph: _Graph, eqn: Any, x: Any) -> _Tensor:
        params = eqn.params
        window, strides, dilation = (params[f"window_{what}"] for what in ("dimensions", "strides", "dilation"))
        # Channels and images, which have no window, come first.
        order = tuple(sorted(range(len(window)), key=lambda axis: (window[axis] != 1, axis != 0, axis != 3)))
        moved = [each for axis in order[:2] for each in (window[axis], strides[axis], *params["padding"][axis])]
        if moved != [1, 1, 0, 0] * 2 or set((*params["base_dilation"], *dilation)) != {1}:
            raise graph.unknown(eqn)
        low, high = zip(*_at(order[2:], params["padding"]), strict=True)
        size = _at(order[2:], window)
        options: dict[str, Any] = {"kernel_shape": size, "strides": _at(order[2:], strides), "pads": [*low, *high]}
        if op == "MaxPool":
            return graph.node(op, [graph.ordered(x, order)], order, **options)
        mean = graph.node(op, [graph.ordered(x, order)], order, count_include_pad=1, **options)
        return graph.elementwise("Mul", mean, np.asarray(math.prod(size), eqn.outvars[0].aval.dtype))

    return rule


def _reduction(op: str) -> Callable[..., _Tensor]:
    def rule(graph: _Graph, eqn: Any, x: Any) -> _Tensor:
        axes = eqn.params["axes"]
        places = graph.integers([x.order.index(axis) for axis in axes])
        rest = [axis for axis in x.order if axis not in axes]
        order = tuple(sorted(rest).index(axis) for axis in rest)
        result = graph.node(op, [x.name, places], order, keepdims=0)
        if op != "ReduceSum":
            return result
        mean = graph.node("ReduceMean", [x.name, places], order, keepdims=0)
        number = math.prod(eqn.invars[0].aval.shape[axis] for axis in axes)
        return dataclasses.replace(result, summed=(number, mean.name))

    return rule


def _divide(graph: _Graph, eqn: Any, x: Any, y: Any) -> _Tensor:
    if isinstance(y, _Size):
        if not (isinstance(x, _Tensor) and x.summed is not None and x.summed[0] == y.dim):
            raise graph.unknown(eqn)
        return _Tensor(x.summed[1], x.order)
    return graph.elementwise("Div", x, y)


def _subtract(graph: _Graph, eqn: Any, x: Any, y: Any) -> _Tensor:
    # Runtimes merge the addition of a constant into the convolution before it, not a subtraction.
    if isinstance(y, np.ndarray) and y.dtype.kind == "f":
        return graph.elementwise("Add", x, -y)
    return graph.elementwise("Sub", x, y)


def _at_most(graph: _Graph, eqn: Any, x: Any, y: Any) -> _Tensor:
    result = graph.elementwise("LessOrEqual", x, y)
    if isinstance(y, np.ndarray) and not y.any():
        graph.at_zero[result.name] = x
    return result


def _select(graph: _Graph, eqn: Any, which: Any, *cases: Any) -> _Tensor:
    if len(cases) != 2 or eqn.invars[0].aval.dtype != bool:
        raise graph.unknown(eqn)
    no, yes = cases
    if isinstance(which, _Tensor) and isinstance(yes, np.ndarray) and not yes.any():
        if graph.at_zero.get(which.name) == no and isinstance(no, _Tensor):
            return graph.elementwise("Relu", no)
    return graph.elementwise("Where", which, yes, no)


def _cast(graph: _Graph, eqn: Any, x: Any) -> _Tensor:
    new = np.dtype(eqn.params["new_dtype"])
    if new == eqn.invars[0].aval.dtype:
        return x
    return graph.elementwise("Cast", x, to=helper.np_dtype_to_tensor_dtype(new))


def _concatenate(graph: _Graph, eqn: Any, *parts: Any) -> _Tensor:
    order = next(part.order for part in parts if isinstance(part, _Tensor))
    names = []
    for part, atom in zip(parts, eqn.invars, strict=True):
        if isinstance(part, np.ndarray):
            if not _is_known(atom.aval.shape):
                raise graph.unknown(eqn)
            part = np.broadcast_to(part, atom.aval.shape)
        names.append(graph.ordered(part, order))
    return graph.node("Concat", names, order, axis=order.index(eqn.params["dimension"]))


def _pad(graph: _Graph, eqn: Any, x: Any, value: Any) -> _Tensor:
    config = eqn.params["padding_config"]
    if any(interior for *_, interior in config) or not isinstance(x, _Tensor):
        raise graph.unknown(eqn)
    low, high, _ = zip(*_at(x.order, config), strict=True)
    return graph.node("Pad", [x.name, graph.integers([*low, *high]), graph.ordered(value, ())], x.order)


def _slice(graph: _Graph, eqn: Any, x: Any) -> _Tensor:
    params, shape = eqn.params, eqn.invars[0].aval.shape
    strides = params["strides"] or (1,) * len(shape)
    cut = [
        axis
        for axis, size in enumerate(shape)
        if (params["start_indices"][axis], params["limit_indices"][axis], strides[axis]) != (0, size, 1)
    ]
    limits = [params["limit_indices"][axis] for axis in cut]
    ends = [np.iinfo(np.int64).max if limit == shape[axis] else limit for axis, limit in zip(cut, limits, strict=True)]
    if not all(isinstance(end, int) for end in ends):
        raise graph.unknown(eqn)
    starts, steps = [params["start_indices"][axis] for axis in cut], [strides[axis] for axis in cut]
    where = [graph.integers(each) for each in (starts, ends, [x.order.index(axis) for axis in cut], steps)]
    return graph.node("Slice", [x.name, *where], x.order) if cut else x


def _reshape(graph: _Graph, eqn: Any, x: Any) -> _Tensor:
    shape = eqn.outvars[0].aval.shape
    if sum(not isinstance(dim, int) for dim in shape) > 1:
        raise graph.unknown(eqn)
    name = graph.ordered(x, tuple(range(len(x.order))))
    sizes = graph.integers([dim if isinstance(dim, int) else -1 for dim in shape])
    return graph.node("Reshape", [name, sizes], tuple(range(len(shape))))


def _transpose(graph: _Graph, eqn: Any, x: Any) -> _Tensor:
    permutation = eqn.params["permutation"]
    return dataclasses.replace(x, order=tuple(permutation.index(axis) for axis in x.order))


def _broadcast(graph: _Graph, eqn: Any, x: Any) -> _Tensor:
    """New axes, and pixels that are repeated along an axis; a size that is free has to be there already."""
    axes, shape, old = eqn.params["broadcast_dimensions"], eqn.params["shape"], eqn.invars[0].aval.shape
    new = [axis for axis in range(len(shape)) if axis not in axes]
    order = (*new, *(axes[axis] for axis in x.order))
    if new:
        x = graph.node("Unsqueeze", [x.name, graph.integers(range(len(new)))], order)
    kept = {axis for axis, size in zip(axes, old, strict=True) if shape[axis] == size}
    sizes = [1 if axis in kept else shape[axis] for axis in order]
    if not all(isinstance(size, int) for size in sizes):
        raise graph.unknown(eqn)
    x = dataclasses.replace(x, order=order)
    return x if set(sizes) == {1} else graph.node("Expand", [x.name, graph.integers(sizes)], order)


def _product(graph: _Graph, eqn: Any, x: Any, y: Any) -> _Tensor:
    """A matrix product, or as Einstein's sum."""
    (contracted, batch), ranks = eqn.params["dimension_numbers"], [len(atom.aval.shape) for atom in eqn.invars]
    if ranks == [2, 2] and contracted == ((1,), (0,)):
        return graph.node("MatMul", [graph.ordered(each, (0, 1)) for each in (x, y)], (0, 1))
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    of_x = [next(letters) for _ in range(ranks[0])]
    of_y = [next(letters) for _ in range(ranks[1])]
    for axes_x, axes_y in (contracted, batch):
        for i, j in zip(axes_x, axes_y, strict=True):
            of_y[j] = of_x[i]
    shared = [of_x[axis] for axis in batch[0]]
    gone = {of_x[axis] for axis in contracted[0]}
    result = shared + [letter for letter in of_x + of_y if letter not in gone and letter not in shared]
    orders = [each.order if isinstance(each, _Tensor) else tuple(range(each.ndim)) for each in (x, y)]
    terms = ["".join(_at(order, of)) for order, of in zip(orders, (of_x, of_y), strict=True)]
    names = [graph.ordered(each, order) for each, order in zip((x, y), orders, strict=True)]
    return graph.node("Einsum", names, tuple(range(len(result))), equation=f"{','.join(terms)}->{''.join(result)}")


_RULES: dict[str, Callable[..., _Tensor]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "convert_element_type": _cast,
    "div": _divide,
    "dot_general": _product,
    "eq": lambda graph, eqn, x, y: graph.elementwise("Equal", x, y),
    "erfc": lambda graph, eqn, x: graph.elementwise("Sub", np.ones((), np.float32), graph.elementwise("Erf", x)),
    "integer_pow": lambda graph, eqn, x: graph.elementwise("Pow", x, np.asarray(float(eqn.params["y"]), np.float32)),
    "le": _at_most,
    "ne": lambda graph, eqn, x, y: graph.elementwise("Not", graph.elementwise("Equal", x, y)),
    "pad": _pad,
    "reduce_window_max": _pooling("MaxPool"),
    "reduce_window_sum": _pooling("AveragePool"),
    "reshape": _reshape,
    "rsqrt": lambda graph, eqn, x: graph.elementwise("Reciprocal", graph.elementwise("Sqrt", x)),
    "select_n": _select,
    "slice": _slice,
    "square": lambda graph, eqn, x: graph.elementwise("Mul", x, x),
    "sub": _subtract,
    "transpose": _transpose,
    **{primitive: _reduction(op) for primitive, op in _REDUCTIONS.items()},
}
