"""Base classes of every network: inputs and their checks, named stages, gates, and the classifier."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from resjax.layers import (
    ORDERS,
    AttentionResiduals,
    BatchNorm,
    Bias,
    ClassifierHead,
    Conv,
    EffectivePaths,
    Gates,
    Initializer,
    ResidualBlock,
    Stage,
    StageSpec,
    Stem,
    StochasticDepth,
    Streams,
    plain_convolutions,
    relu,
    require_key,
)
from resjax.models.checks import (
    check_blocks,
    check_channels,
    check_common,
    check_images,
    check_size,
    check_streams,
    checked_gates,
    fitting_variables,
)
from resjax.models.published.torch_names import Dialect
from resjax.models.stacking import unrolled

# From this number of blocks on, a stage compiles faster as a loop, and runs no slower.
_DEEP_STAGE = 10


class Network(nn.Module):
    """Stem, named stages, and a classifier after the last stage. A family defines `trunk` and `num_blocks`.

    Attributes:
      num_classes: number of logits; 0 returns pooled features [N, C].
      dtype: computation dtype; parameters, BN statistics and logits are float32.
      kernel_init: initialiser of the convolutions: a name in `resjax.layers.INITIALIZERS` or a function; default:
        fan-out variance, as in fb.resnet.torch and the ResNeXt and DenseNet code, unless a family has another.
      head_kernel_init, head_bias_init: initialisers of the classifier, see `resjax.layers.ClassifierHead`.
      stochastic_depth: leaves out residual branches at random in training: `StochasticDepth` or `EffectivePaths`.
      features_only: return the stages' outputs by name instead of logits: "stem" (VGG has none), "stage_1" .. and
        "final", which the classifier pools. The variables are those of the classification network without its head;
        additional ones are ignored.
    """

    num_classes: int = 10
    dtype: Any = jnp.float32
    kernel_init: Initializer = "he_normal_fan_out"
    head_kernel_init: Initializer = "torch_linear"
    head_bias_init: Initializer = "zeros"
    stochastic_depth: StochasticDepth | EffectivePaths | None = None
    features_only: bool = False

    # A family overrides these where its own differ: the path in the variables of the kernel that reads the image, of
    # the first one that is trained, fields that a trunk for dense prediction has by default, and its PyTorch names.
    first_kernel: ClassVar[tuple[str, ...]] = ("params", "stem", "conv", "kernel")
    first_trained_kernel: ClassVar[tuple[str, ...]] = first_kernel
    dense_prediction: ClassVar[Mapping[str, Any]] = {}
    torch_names: ClassVar[tuple[Dialect, ...]] = ()

    def __post_init__(self):
        check_common(self)
        super().__post_init__()

    @nn.nowrap
    def tabulate(self, *args: Any, **kwargs: Any) -> str:
        """`flax.linen.Module.tabulate`, in which `compute_flops` and `compute_vjp_flops` count every block.

        XLA counts the body of a loop once. With either option, the table is therefore that of the unrolled network,
        `scan=False`, which has the same parameters. FLOPs are those of the given batch: two for each of
        `resjax.models.multiply_adds`, without the products with the padding around the image, which XLA leaves out.
        """
        counts = kwargs.get("compute_flops") or kwargs.get("compute_vjp_flops")
        with plain_convolutions():
            return nn.Module.tabulate(unrolled(self) if counts else self, *args, **kwargs)

    @property
    def num_blocks(self) -> int:
        """Number of residual blocks, the length of a gate array."""
        return 0

    @property
    def has_skips(self) -> bool:
        """Whether activations can bypass layers; False for a plain chain of layers."""
        return self.num_blocks > 0

    @property
    def minimum_size(self) -> int:
        """Minimum height and width of an image."""
        return 1

    @property
    def stacked_stages(self) -> frozenset[str]:
        """Names of the stages whose variables are stacked, see `resjax.models.restack`."""
        return frozenset()

    @nn.nowrap
    def trunk(self, images: jax.Array, train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The stages' outputs by name, [N, H', W', C'] each; "final" is what the classifier pools."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, gates: Gates | None = None
    ) -> jax.Array | dict[str, jax.Array]:
        """Maps images [N, H, W, C], float, to logits [N, num_classes], float32.

        Args:
          images: normalised images, of at least `minimum_size`.
          train: whether to normalise by batch statistics (`mutable=["batch_stats"]`), and to draw dropout and
            stochastic depth (`rngs={"dropout": key}`).
          gates: one entry per block; None leaves every branch and skip open.

        Returns:
          Logits; pooled features [N, C] for `num_classes=0`; a dictionary of stages for `features_only=True`.

        Raises:
          InputError: for images or gates of a wrong shape or dtype, or if train=True needs a key and has none.
        """
        with fitting_variables(self):
            return self._logits(images, train, gates)

    @nn.nowrap
    def _logits(self, images: jax.Array, train: bool, gates: Gates | None) -> jax.Array | dict[str, jax.Array]:
        check_images(images)
        kernel = flatten_dict(self.variables).get(self.first_kernel)  # None if it does not exist yet
        check_channels(images, kernel.shape[2] if getattr(kernel, "ndim", 0) == 4 else None)
        check_size(images, self.minimum_size)
        gates = self._drawn(checked_gates(gates, self.num_blocks, images.shape[0]), train, images.shape[0])
        stages = self.trunk(images, train, gates)
        if self.features_only:
            return stages
        return self.make_head()(stages["final"], train)

    @nn.nowrap
    def make_head(self) -> nn.Module:
        """The classifier."""
        return ClassifierHead(self.num_classes, self.head_kernel_init, self.head_bias_init, name="head")

    @nn.nowrap
    def _drawn(self, gates: Gates, train: bool, images: int) -> Gates:
        if self.stochastic_depth is None or self.is_initializing():
            return gates
        if not train:
            return gates.times(self.stochastic_depth.evaluation_gates(self.num_blocks))
        require_key(self, f"stochastic_depth={self.stochastic_depth}")
        return gates.times(self.stochastic_depth.training_gates(self.make_rng("dropout"), self.num_blocks, images))


class NormalizedNetwork(Network):
    """A network with batch normalisation.

    Attributes:
      norm_momentum: weight of the old running statistics in their update.
      norm_epsilon: added to the variance.
      unbiased_running_variance: whether it divides by n - 1, see `resjax.layers.BatchNorm`.
      norm_scale_init: initial BN scales: "ones", or "uniform", U(0, 1), Torch7's default.
      frozen_statistics: normalise by the running statistics in training, too, and leave them unchanged: for training
        a pretrained network in small batches.
      norm_scope: images that are normalised together in training: "global", the whole batch, or n consecutive images.
    """

    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    unbiased_running_variance: bool = True
    norm_scale_init: Initializer = "ones"
    frozen_statistics: bool = False
    norm_scope: Literal["global"] | int = "global"

    @nn.nowrap
    def conv_and_norm(self) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
        """Constructors of `Conv` and `BatchNorm` with this network's fields."""
        statistics: dict[str, Any] = {"frozen": self.frozen_statistics, "norm_scope": self.norm_scope}
        statistics |= {"momentum": self.norm_momentum, "unbiased_running_variance": self.unbiased_running_variance}
        scaling: dict[str, Any] = {"epsilon": self.norm_epsilon, "scale_init": self.norm_scale_init}
        norm = functools.partial(BatchNorm, dtype=self.dtype, **scaling, **statistics)
        return functools.partial(Conv, dtype=self.dtype, kernel_init=self.kernel_init), norm


class ResidualNetwork(NormalizedNetwork):
    """A stem and stages of residual blocks.

    Attributes:
      stem: "cifar", "cifar_max_pool" or "imagenet", see `resjax.layers.Stem`.
      scan: whether the blocks of one shape in a stage are one compiled loop with stacked variables
        (`resjax.models.restack` converts them): True, False, or "auto", from ten blocks per stage on.
      remat: what blocks keep for the gradient: "none" keeps all, "convs" their input, their convolutions' outputs and
        statistics, "full" only their input; the rest is recomputed. Scanned blocks keep "convs" at most, since kept
        values are copied. XLA's CPU backend merges repeated computations outside loops, so that on a CPU only scanned
        stages save memory.
      normalization: "batch"; or "none": a trained bias for each channel in BN's place.
      streams: how stages keep several residual streams, `HyperConnections`, or the outputs of all of their blocks,
        `AttentionResiduals`, which cannot be scanned. None has one stream.
    """

    stem: Literal["cifar", "cifar_max_pool", "imagenet"] = "cifar"
    scan: bool | Literal["auto"] = "auto"
    remat: Literal["none", "full", "convs"] = "none"
    normalization: Literal["batch", "none"] = "batch"
    streams: Streams | None = None

    def __post_init__(self):
        check_streams(self)
        super().__post_init__()

    @nn.nowrap
    def conv_and_norm(self) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
        """Constructors of `Conv` and of the normalisation, or of what has its place."""
        conv, norm = super().conv_and_norm()
        if self.normalization == "batch":
            return conv, norm
        return conv, functools.partial(Bias, shared=self.normalization == "fixup", dtype=self.dtype)

    @nn.nowrap
    def stages(self) -> list[StageSpec]:
        """The `BlockSpec`s of the stages."""
        raise NotImplementedError

    @nn.nowrap
    def make_block(self) -> Callable[..., nn.Module]:
        """Constructor of a block from its `BlockSpec`."""
        return functools.partial(ResidualBlock, *self.conv_and_norm())

    @property
    def num_blocks(self) -> int:
        """Number of residual blocks, the length of a gate array; 0 for a plain network."""
        return sum(spec.num_blocks for spec in self.stages() if spec.block.shortcut != "none")

    @property
    def stacked_stages(self) -> frozenset[str]:
        """Names of the stages that scan all blocks but the first, with stacked variables."""
        least = {True: 2, False: math.inf, "auto": _DEEP_STAGE}[self.scan]
        if isinstance(self.streams, AttentionResiduals):
            return frozenset()  # each block reads one source more than the one before it
        return frozenset(f"stage_{i}" for i, spec in enumerate(self.stages(), start=1) if spec.num_blocks >= least)

    @nn.nowrap
    def stem_and_stages(
        self, images: jax.Array, train: bool, gates: Gates, width: int, activate_stem: bool
    ) -> dict[str, jax.Array]:
        """The outputs by name of a stem of `width` channels, with BN and ReLU if `activate_stem`, and of the stages.

        "final" is the last; in the orders with pre-activation, their BN and ReLU follow it.
        """
        conv, norm = self.conv_and_norm()
        x = Stem(conv, norm, width, self.stem, activate_stem, name="stem")(images, train)
        outputs, stages, first = {"stem": x}, self.stages(), 0
        for i, spec in enumerate(stages, start=1):
            name, of_stage = f"stage_{i}", gates.block(slice(first, first + spec.num_blocks))
            if self.streams is not None:
                spec = spec._replace(block=dataclasses.replace(spec.block, streams=self.streams))
            if name not in self.stacked_stages:
                check_blocks(self.variables.get("params"), name, spec.num_blocks)
            stage = Stage(self.make_block(), spec, name in self.stacked_stages, self.remat, name=name)
            x = outputs[name] = stage(x, of_stage, train)
            first += spec.num_blocks
        match ORDERS[stages[-1].block.order].front:
            case "BR":
                x = norm(name="final_norm")(x, train, relu)
            case "B":  # a bias before the linear layer
                x = norm(name="final_norm")(x, train)
            case "R":
                x = relu(x)
        return outputs | {"final": x}
