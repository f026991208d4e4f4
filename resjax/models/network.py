"""What every network has in common: its inputs and their checks, named stages, gates, and the classifier."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import (
    REMAT_POLICIES,
    STEMS,
    BatchNorm,
    ClassifierHead,
    Conv,
    EffectivePaths,
    Gates,
    Stage,
    StageSpec,
    Stem,
    StochasticDepth,
    initializer,
    relu,
)
from resjax.models.inputs import check_choice, check_common, check_images, check_positive, check_size, checked_gates

# From so many blocks on a stage compiles faster as a loop, and runs no slower.
_DEEP_STAGE = 10


# Where the convolution is that reads the image: in networks with a stem, that of whitened patches too, in Highway, in
# VGG; the last is also the first that is trained behind a whitening stem.
_FIRST_KERNELS = (
    ("stem", "conv", "kernel"),
    ("stem", "kernel"),
    ("conv_1", "kernel"),
    ("stage_1", "conv_1", "kernel"),
)


def first_kernel(params: Mapping[str, Any]) -> jax.Array | None:
    """The kernel [kh, kw, C_in, C_out] that reads the image, or its whitened patches, of any network of this library.

    `params` are its parameters; of its `batch_stats`, the kernel of a whitening stem. None for others; a tree in the
    structure of parameters, such as their gradients, will do.
    """
    trunk = params.get("trunk", params)  # of a segmentation network
    for path in _FIRST_KERNELS:
        leaf = trunk
        for name in path:
            leaf = leaf.get(name) if isinstance(leaf, Mapping) else None
        if getattr(leaf, "ndim", 0) == 4:
            return leaf
    return None


class Network(nn.Module):
    """Stem, named stages, and a classifier behind the last. A family gives the first two: `trunk` and `num_blocks`.

    Attributes:
      num_classes: number of logits; 0 returns pooled features [N, C].
      dtype: computation dtype; parameters, BN statistics and logits are float32.
      kernel_init: initialiser of the convolutions: a name in `resjax.layers.INITIALIZERS` or a function; default:
        variances of fan-out, as in fb.resnet.torch and the ResNeXt and DenseNet code, where a family has no other.
      head_kernel_init, head_bias_init: initialisers of the classifier, see `resjax.layers.ClassifierHead`.
      stochastic_depth: leaves out residual branches at random in training: `StochasticDepth` or `EffectivePaths`.
      features_only: return the stages' outputs by name instead of logits: "stem" (VGG has none), "stage_1" .. and
        "final", which the classifier pools. The variables are those of the classifier's network without its head; more
        may be given.
    """

    num_classes: int = 10
    dtype: Any = jnp.float32
    kernel_init: Any = "he_normal_fan_out"
    head_kernel_init: Any = "torch_linear"
    head_bias_init: Any = "zeros"
    stochastic_depth: StochasticDepth | EffectivePaths | None = None
    features_only: bool = False

    def __post_init__(self):
        check_common(self)
        for field in ("kernel_init", "norm_scale_init", "head_kernel_init", "head_bias_init"):
            initializer(getattr(self, field, "ones"), field)
        if self.stochastic_depth is not None:
            if not isinstance(self.stochastic_depth, (StochasticDepth, EffectivePaths)):
                raise InputError(
                    "stochastic_depth: expected resjax.StochasticDepth or resjax.EffectivePaths, got"
                    f" {self.stochastic_depth!r}"
                )
            if self.num_blocks == 0:
                raise InputError("stochastic_depth: this network has no residual blocks")
            self.stochastic_depth.survival_probabilities(self.num_blocks)
        super().__post_init__()

    @property
    def num_blocks(self) -> int:
        """Number of residual blocks, the length of a gate array."""
        return 0

    @property
    def minimum_size(self) -> int:
        """Least height and width of an image."""
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
          InputError: for images or gates of a wrong shape or dtype, or where train=True lacks a key to draw from.
        """
        check_images(images)
        check_size(images, self.minimum_size)
        gates = self._drawn(checked_gates(gates, self.num_blocks, images.shape[0]), train, images.shape[0])
        stages = self.trunk(images, train, gates)
        if self.features_only:
            return stages
        return self.make_head()(stages["final"], train)

    @nn.nowrap
    def make_head(self) -> ClassifierHead:
        """The classifier."""
        return ClassifierHead(self.num_classes, self.head_kernel_init, self.head_bias_init, name="head")

    @nn.nowrap
    def _drawn(self, gates: Gates, train: bool, images: int) -> Gates:
        if self.stochastic_depth is None or self.is_initializing():
            return gates
        if not train:
            return gates.times(self.stochastic_depth.evaluation_gates(self.num_blocks))
        self.require_key(f"stochastic_depth={self.stochastic_depth}")
        key = self.make_rng("dropout")
        return gates.times(self.stochastic_depth.training_gates(key, self.num_blocks, images))

    @nn.nowrap
    def require_key(self, what: str) -> None:
        if not self.has_rng("dropout"):
            raise InputError(f"{what} with train=True draws: pass rngs={{'dropout': key}}")


class NormalizedNetwork(Network):
    """A network with batch normalisation.

    Attributes:
      norm_momentum, norm_epsilon, unbiased_running_variance: see `resjax.layers.BatchNorm`.
      norm_scale_init: initial BN scales: "ones", or "uniform", U(0, 1), Torch7's default.
      frozen_statistics: normalise by the running statistics in training, too, and leave them as they are: for small
        batches of a network that was trained before.
      norm_scope: images that are normalised together in training: "global", the whole batch, or n consecutive ones.
    """

    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    unbiased_running_variance: bool = True
    norm_scale_init: Any = "ones"
    frozen_statistics: bool = False
    norm_scope: str | int = "global"

    def __post_init__(self):
        if self.norm_scope != "global":
            check_positive("norm_scope", self.norm_scope)
        super().__post_init__()

    @nn.nowrap
    def conv_and_norm(self) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
        """Constructors of `Conv` and `BatchNorm` with this network's fields."""
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=self.kernel_init)
        norm = functools.partial(
            BatchNorm,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            unbiased_running_variance=self.unbiased_running_variance,
            dtype=self.dtype,
            scale_init=self.norm_scale_init,
            frozen=self.frozen_statistics,
            norm_scope=self.norm_scope,
        )
        return conv, norm


class ResidualNetwork(NormalizedNetwork):
    """A stem and stages of residual blocks.

    Attributes:
      stem: "cifar" or "imagenet", see `resjax.layers.Stem`.
      scan: whether the blocks of one shape in a stage are one compiled loop with stacked variables (see
        `resjax.models.restack` for the way between the forms): True, False, or "auto", from ten blocks a stage on.
      remat: what blocks keep for the gradient: "none" means all, "convs" their input, their convolutions' outputs and
        statistics, "full" their input alone; the rest is computed again. Scanned blocks keep "convs" at most, since
        what they keep is copied. XLA's CPU backend merges what is computed twice outside loops, so that there it saves
        memory in scanned stages only.
    """

    stem: str = "cifar"
    scan: bool | str = "auto"
    remat: str = "none"

    def __post_init__(self):
        check_choice("stem", self.stem, STEMS)
        check_choice("scan", self.scan, (True, False, "auto"))
        check_choice("remat", self.remat, tuple(REMAT_POLICIES))
        super().__post_init__()

    @nn.nowrap
    def make_stem(self, features: int, activate: bool) -> Stem:
        """The stem, with BN and ReLU where `activate`."""
        conv, norm = self.conv_and_norm()
        return Stem(conv, norm, features, self.stem, activate, name="stem")

    @nn.nowrap
    def stages(self) -> list[StageSpec]:
        """What the stages consist of."""
        raise NotImplementedError

    @property
    def stacked_stages(self) -> frozenset[str]:
        """Names of the stages whose blocks but the first are scanned, and their variables stacked."""
        least = {True: 2, False: math.inf, "auto": _DEEP_STAGE}[self.scan]
        return frozenset(f"stage_{i}" for i, spec in enumerate(self.stages(), start=1) if spec.num_blocks >= least)

    @nn.nowrap
    def run_stages(self, x: jax.Array, stages: list[StageSpec], train: bool, gates: Gates) -> dict[str, jax.Array]:
        """The outputs by name of a stem, whose output is x, and of the stages behind it."""
        outputs, first = {"stem": x}, 0
        for i, spec in enumerate(stages):
            name = f"stage_{i + 1}"
            x = outputs[name] = Stage(spec, first, name in self.stacked_stages, self.remat, name=name)(x, gates, train)
            first += spec.num_blocks
        return outputs | {"final": x}

    @nn.nowrap
    def activate_last(self, stages: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """BN and ReLU behind the last block, for networks with pre-activation."""
        _, norm = self.conv_and_norm()
        return stages | {"final": relu(norm(name="final_norm")(stages["final"], train))}
