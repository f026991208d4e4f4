"""A network as a chain of blocks that run one by one: what several measurements share is computed once."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from resjax.errors import InputError
from resjax.layers import Gates
from resjax.models import Network, restack, unrolled
from resjax.train.sharding import check_batch_size, data_mesh, put_batch, put_whole


class Chain:
    """The blocks of a network in evaluation mode, each a program of its own; blocks of one shape share it.

    Attributes:
      names: of the blocks, "stage_1/block_1" .., in the order in which they run.
      shapes: of their outputs, (H, W, C) each.
      variables: of the network, unrolled.
      parameters: of the blocks, their own variables.
      mesh: devices that batches are split over.
    """

    def __init__(self, model: Network, variables: Any, images: Any, mesh: Mesh | None = None):
        """Traces the network; nothing is run.

        Args:
          model, variables: a residual network, or its plain twin.
          images: [N, H, W, C]; only the shape matters.
          mesh: devices that batches are split over; default: all.

        Raises:
          InputError: for a network without blocks, or with several residual streams.
        """
        if getattr(model, "streams", None) is not None:
            raise InputError(f"{type(model).__name__}: has several residual streams; blocks are not one chain")
        self.mesh = mesh or data_mesh()
        self._model, self._image_shape = without_recomputation(unrolled(model)), tuple(np.shape(images)[1:])
        self.variables = put_whole(restack(variables, ()), self.mesh)
        found: list[tuple[str, nn.Module]] = []
        inputs: list[Any] = []
        outputs: list[Any] = []
        behind: list[bool] = []

        def observe(layer, args, kwargs, context):
            y = layer(*args, **kwargs)
            if context.method_name == "__call__" and is_block(context.module):
                # An input that is the output before it needs nothing between the two.
                behind.append(bool(outputs) and args[0] is outputs[-1])
                found.append(("/".join(context.module.path), context.module.clone(parent=None, name=None)))
                inputs.append(args[0])
                outputs.append(y)
            return y

        with nn.intercept_methods(observe):
            image = jax.ShapeDtypeStruct((1, *self._image_shape), jnp.float32)
            jax.eval_shape(self._model.apply, self.variables, image)
        if not found:
            raise InputError(f"{type(model).__name__}: its stages have no blocks; give a residual or plain network")
        self.names = tuple(name for name, _ in found)
        self.shapes = tuple(y.shape[1:] for y in outputs)
        self.parameters = [_subtree(self.variables, name.split("/")) for name in self.names]
        rule = model.stochastic_depth
        self._gates = Gates() if rule is None else rule.evaluation_gates(model.num_blocks)
        self._follows = behind
        # The first block of a stage may differ from the others in what no shape says: its stride, its activation.
        known: dict[Any, Block] = {}
        self._blocks: list[Block] = []
        for (name, module), x, own in zip(found, inputs, self.parameters, strict=True):
            stage, _, number = name.partition("/")
            key = (stage, number == "block_1", x.shape, str(jax.tree.map(jnp.shape, own)))
            self._blocks.append(known.setdefault(key, functools.partial(_run_block, module)))
        self._modules = tuple(module for _, module in found)
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, images: np.ndarray, batch_size: int) -> Iterator[tuple[jax.Array, int]]:
        """Batches on the devices, and how many of their images are not padding.

        Raises:
          InputError: for no images, or a batch that the devices do not divide.
        """
        check_batch_size(batch_size, self.mesh)
        if len(images) == 0:
            raise InputError("images: expected at least one")
        for start in range(0, len(images), batch_size):
            batch = np.asarray(images[start : start + batch_size], np.float32)
            padding = batch_size - len(batch)
            yield put_batch(np.pad(batch, ((0, padding), (0, 0), (0, 0), (0, 0))), self.mesh), len(batch)

    def start(self, images: jax.Array) -> jax.Array:
        """What the first block reads, of images [N, H, W, C]."""
        return self.compiled("start", self.before)(self.variables, images)

    def block(self, i: int, x: jax.Array, branch: bool = True, skip: bool = True) -> jax.Array:
        """The output [N, H', W', C'] of block i that reads x [N, H, W, C], without its branch or its shortcut.

        A branch that is left out is not run.
        """
        run = functools.partial(self._blocks[i], branch=branch, skip=skip)
        return self.compiled(("block", self._blocks[i], branch, skip), run)(self.parameters[i], x, self.gates(i))

    def behind(self, i: int, y: jax.Array) -> jax.Array:
        """What the block behind position i reads, of the output y there: pooling may be between them."""
        if i + 1 == len(self) or self.follows(i + 1):
            return y
        return self.compiled(("behind", i), functools.partial(self.between, i))(self.variables, y)

    def finish(self, y: jax.Array) -> jax.Array:
        """The logits [N, K] of the last block's output."""
        return self.compiled("finish", self.after)(self.variables, y)

    def program(self, i: int) -> Callable[..., jax.Array]:
        """(variables, x, gates) -> output of block i; the same object for blocks of one shape."""
        return self._blocks[i]

    def module(self, i: int) -> nn.Module:
        """Block i, unbound; its numbers are those of `parameters`."""
        return self._modules[i]

    def follows(self, i: int) -> bool:
        """Whether block i reads the output of the block before it as it is."""
        return i < len(self) and self._follows[i]

    def gates(self, i: int) -> Gates:
        """The gates of block i in evaluation: those of the network's stochastic depth, or none."""
        return self._gates.block(i)

    def predict(self, variants: Sequence[Sequence[tuple[int, bool, bool]]], images: np.ndarray, batch_size: int) -> Any:
        """The classes that each variant of the network predicts: int32 [V, N].

        Variants run in an order in which those that begin alike follow each other. Of each only what is behind the
        first difference runs. In memory are the outputs of all blocks for one batch.

        Args:
          variants: of each, the (block, branch, skip) at each position, see `block`.
          images: normalised, [N, H, W, C].
          batch_size: images at a time, over all devices.

        Raises:
          InputError: as `batches`.
        """
        order = sorted(range(len(variants)), key=lambda i: list(variants[i]))
        columns = []
        for batch, number in self.batches(images, batch_size):
            classes: list[Any] = [None] * len(variants)
            inputs, before = [self.start(batch)], order[0]
            for i in order:
                shared = _common(variants[before], variants[i]) if len(inputs) > 1 else 0
                del inputs[shared + 1 :]
                for position, (block, branch, skip) in enumerate(variants[i][shared:], shared):
                    inputs.append(self.behind(position, self.block(block, inputs[-1], branch, skip)))
                classes[i] = classes[before] if shared == len(self) else self._classes(inputs[-1])
                before = i
            columns.append(np.stack([np.asarray(found)[:number] for found in classes]))
        return np.concatenate(columns, axis=1)

    def _classes(self, y):
        def run(variables, y):
            return self.after(variables, y).argmax(-1).astype("int32")

        return self.compiled("classes", run)(self.variables, y)

    def compiled(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """jax.jit(function), compiled once for each `key`."""
        if key not in self._compiled:
            self._compiled[key] = jax.jit(function)
        return self._compiled[key]

    def before(self, variables: Any, images: jax.Array) -> jax.Array:
        """What the first block reads."""
        return self._traced(variables, images, None, None, 0)

    def between(self, i: int, variables: Any, y: jax.Array) -> jax.Array:
        """What block i + 1 reads, of the output y of block i."""
        return self._traced(variables, None, i, y, i + 1)

    def after(self, variables: Any, y: jax.Array) -> jax.Array:
        """The logits of the last block's output y."""
        return self._traced(variables, None, len(self) - 1, y, None)

    def _traced(self, variables, images, given, y, wanted):
        """What block `wanted` reads (None: the logits), of the images or of the output y of block `given`.

        The network is traced without its blocks. What is not read is dropped by the compiler.
        """
        found = []

        def without_blocks(layer, args, kwargs, context):
            if context.method_name != "__call__" or not is_block(context.module):
                return layer(*args, **kwargs)
            i, x = self.names.index("/".join(context.module.path)), args[0]
            if i == wanted:
                found.append(x)
            return y if i == given else jnp.zeros((x.shape[0], *self.shapes[i]), x.dtype)

        if images is None:
            images = jnp.zeros((y.shape[0], *self._image_shape), jnp.float32)
        with nn.intercept_methods(without_blocks):
            logits = self._model.apply(variables, images)
        return logits if wanted is None else found[0]


Block = Callable[..., jax.Array]


def is_block(module: nn.Module) -> bool:
    """Whether it is a block of a stage, in the unrolled form of a network."""
    path = module.path
    return len(path) == 2 and path[0].startswith("stage_") and path[1].startswith("block_")


def _run_block(
    module: nn.Module, variables: Any, x: jax.Array, gates: Gates, branch: bool = True, skip: bool = True
) -> jax.Array:
    lesion = Gates(active=None if branch else jnp.array(False), skip=None if skip else jnp.array(0.0))
    return module.apply(variables, x, gates.times(lesion), False)  # type: ignore[return-value]


def without_recomputation(model: Network) -> Network:
    """The network without recomputation, which would hide its values from the trace."""
    return model.clone(remat="none") if getattr(model, "remat", "none") != "none" else model


def _subtree(variables: Any, path: list[str]) -> Any:
    """The variables of one module."""
    found = {}
    for collection, tree in variables.items():
        for name in path:
            tree = tree.get(name, {})
        if tree:
            found[collection] = tree
    return found


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Number of leading entries in which two sequences agree."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
