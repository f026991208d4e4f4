"""A network as a chain of blocks that run one by one: what several measurements share is computed once."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
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

# Images at a time on a CPU. Of 256, the outputs of a block of 16 channels at 32x32 leave its caches, which takes 1.4
# times as long.
_CACHED_IMAGES = 64


class Chain:
    """The blocks of a network in evaluation mode, each a program of its own; blocks of one shape share it.

    Programs are compiled once in a process, for all chains of one network.

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
            self._blocks.append(known.setdefault(key, Block(self._model, name, module)))
        self.rest = Rest(self._model, self._image_shape, self.names, self.shapes)

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
        return _run_rest(self.rest, None, 0, self.variables, images)

    def block(self, i: int, x: jax.Array, branch: bool = True, skip: bool = True) -> jax.Array:
        """The output [N, H', W', C'] of block i that reads x [N, H, W, C], without its branch or its shortcut.

        A branch that is left out is not run.
        """
        return _run_block(self._blocks[i], branch, skip, self.parameters[i], x, self.gates(i))

    def behind(self, i: int, y: jax.Array) -> jax.Array:
        """What the block behind position i reads, of the output y there: pooling may be between them."""
        if i + 1 == len(self) or self.follows(i + 1):
            return y
        return _run_rest(self.rest, i, i + 1, self.variables, y)

    def finish(self, y: jax.Array) -> jax.Array:
        """The logits [N, K] of the last block's output."""
        return _run_rest(self.rest, len(self) - 1, None, self.variables, y)

    def program(self, i: int) -> "Block":
        """(variables, x, gates) -> output of block i; equal for blocks of one shape, also of other chains."""
        return self._blocks[i]

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
          batch_size: images at a time, over all devices, at most; a CPU takes no more than fit into its caches.

        Raises:
          InputError: as `batches`.
        """
        check_batch_size(batch_size, self.mesh)
        if self.mesh.devices.flat[0].platform == "cpu":
            batch_size = min(batch_size, _CACHED_IMAGES * self.mesh.size)
        order = sorted(range(len(variants)), key=lambda i: list(variants[i]))
        columns = []
        for batch, number in self.batches(images, batch_size):
            classes: list[Any] = [None] * len(variants)
            inputs, before = [self.start(batch)], order[0]
            for i in order:
                shared = common(variants[before], variants[i]) if len(inputs) > 1 else 0
                del inputs[shared + 1 :]
                for position, (block, branch, skip) in enumerate(variants[i][shared:], shared):
                    inputs.append(self.behind(position, self.block(block, inputs[-1], branch, skip)))
                same = shared == len(self)
                classes[i] = classes[before] if same else _run_classes(self.rest, self.variables, inputs[-1])
                before = i
            columns.append(np.stack([np.asarray(found)[:number] for found in classes]))
        return np.concatenate(columns, axis=1)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block in evaluation mode, as a function.

    Attributes:
      model: its network.
      name: the first of the blocks that are alike.
      module: that block, which these two determine: it compares its constructors by identity.
    """

    model: Network
    name: str
    module: nn.Module = dataclasses.field(compare=False)

    def __call__(self, variables: Any, x: jax.Array, gates: Gates, branch: bool = True, skip: bool = True) -> jax.Array:
        """The output of x [N, H, W, C] by the block's own variables, without its branch or its shortcut."""
        lesion = Gates(active=None if branch else jnp.array(False), skip=None if skip else jnp.array(0.0))
        return self.module.apply(variables, x, gates.times(lesion), False)  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Rest:
    """A network without its blocks, as functions of the variables of all of it.

    Attributes:
      model: the network.
      image_shape: (H, W, C).
      names, shapes: of the blocks, see `Chain`.
    """

    model: Network
    image_shape: tuple[int, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def before(self, variables: Any, images: jax.Array) -> jax.Array:
        """What the first block reads."""
        return self(None, 0, variables, images)

    def between(self, i: int, variables: Any, y: jax.Array) -> jax.Array:
        """What block i + 1 reads, of the output y of block i."""
        return self(i, i + 1, variables, y)

    def after(self, variables: Any, y: jax.Array) -> jax.Array:
        """The logits of the last block's output y."""
        return self(len(self.names) - 1, None, variables, y)

    def __call__(self, given: int | None, wanted: int | None, variables: Any, x: jax.Array) -> jax.Array:
        """What block `wanted` reads (None: the logits), of the output x of block `given` (None: of the images x).

        The network is traced without its blocks. What is not read is dropped by the compiler.
        """
        found = []

        def without_blocks(layer, args, kwargs, context):
            if context.method_name != "__call__" or not is_block(context.module):
                return layer(*args, **kwargs)
            i = self.names.index("/".join(context.module.path))
            if i == wanted:
                found.append(args[0])
            return x if i == given else jnp.zeros((len(x), *self.shapes[i]), args[0].dtype)

        images = x if given is None else jnp.zeros((len(x), *self.image_shape), jnp.float32)
        with nn.intercept_methods(without_blocks):
            logits = self.model.apply(variables, images)
        return logits if wanted is None else found[0]  # type: ignore[return-value]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run_block(block: Block, branch: bool, skip: bool, variables: Any, x: jax.Array, gates: Gates) -> jax.Array:
    return block(variables, x, gates, branch, skip)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run_rest(rest: Rest, given: int | None, wanted: int | None, variables: Any, x: jax.Array) -> jax.Array:
    return rest(given, wanted, variables, x)


@functools.partial(jax.jit, static_argnums=0)
def _run_classes(rest: Rest, variables: Any, y: jax.Array) -> jax.Array:
    return rest.after(variables, y).argmax(-1).astype("int32")


def is_block(module: nn.Module) -> bool:
    """Whether it is a block of a stage, in the unrolled form of a network."""
    path = module.path
    return len(path) == 2 and path[0].startswith("stage_") and path[1].startswith("block_")


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


def common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Number of leading entries in which two sequences agree."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
