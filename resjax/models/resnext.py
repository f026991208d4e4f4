"""ResNeXt (Xie et al. 2016, arXiv 1611.05431) in the three equivalent forms of its block (figure 3)."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from resjax.errors import InputError
from resjax.layers import ConvSpec, ResidualBlock, initializer, relu
from resjax.models.checks import blocks_of_depth, check_choice
from resjax.models.published import XIE_2016
from resjax.models.published.cifar import CIFAR_NETWORKS
from resjax.models.published.imagenet import IMAGENET_NETWORKS
from resjax.models.registry import IMAGENET_SHAPE, NUMBER, register_model
from resjax.models.resnet import CIFAR_DEPTH, IMAGENET_STAGES, ResNet, imagenet_fields
from resjax.models.stacking import restack, stacked_stages

FORMS = ("split_transform_sum", "early_concatenation", "grouped_convolution")


class ResNeXt(ResNet):
    """ResNet of bottlenecks whose 3x3 convolution is cut into `cardinality` groups, with stride in the 3x3.

    Attributes, beside those of `ResNet`:
      form: how a block is computed, figure 3 (a), (b) or (c): "split_transform_sum", a 1x1, 3x3, 1x1 path for each
        group, summed before BN; "early_concatenation", a 1x1, 3x3 path for each group, concatenated before one 1x1;
        or "grouped_convolution". All are the same function; parameter shapes differ, see `convert_form`.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    block: Literal["basic", "bottleneck"] = "bottleneck"
    shortcut: Literal["A", "B", "C", "average_pool", "none"] = "B"
    cardinality: int = 8
    form: Literal["split_transform_sum", "early_concatenation", "grouped_convolution"] = "grouped_convolution"

    def __post_init__(self):
        if self.form != "grouped_convolution" and self.block != "bottleneck":
            raise InputError(f"form: {self.form!r} is for bottlenecks")
        super().__post_init__()

    @nn.nowrap
    def make_block(self) -> Callable[..., nn.Module]:
        """Constructor of a block from its `BlockSpec`."""
        if self.form == "grouped_convolution":
            return super().make_block()
        options: dict[str, Any] = {"cardinality": self.cardinality, "sums_paths": self.form == FORMS[0]}
        return functools.partial(MultiPathBlock, *self.conv_and_norm(), kernel_init=self.kernel_init, **options)


class MultiPathBlock(ResidualBlock):
    """A bottleneck with a separate path for each group, forms (a) and (b).

    Attributes, beside those of `ResidualBlock`:
      kernel_init: initialiser of the convolutions.
      cardinality: number of paths.
      sums_paths: whether each path has its own last 1x1 convolution and their outputs are summed (a), or not (b).
    """

    kernel_init: Any = "he_normal_fan_out"
    cardinality: int = 1
    sums_paths: bool = True

    @nn.nowrap
    def branch(self, x: jax.Array, train: bool) -> jax.Array:
        """The residual branch of x [N, H, W, C], before the addition."""
        paths = nn.vmap(
            Path,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=self.cardinality,
        )
        spec = self.spec
        convs = spec.convs if self.sums_paths else spec.convs[:2]
        y = paths(self.conv, self.norm, convs, spec.strides, self.cardinality, self.kernel_init, name="paths")(x, train)
        if self.sums_paths:
            y = y.sum(0)
        else:
            y = jnp.concatenate(list(y), axis=-1)
            y = self._conv("conv_3", spec.convs[2], y)
        return self._activate("B", 2, y, train)


class Path(nn.Module):
    """One group's path of a bottleneck: 1x1 and 3x3, each with BN and ReLU, and for form (a) the last 1x1.

    Attributes:
      conv, norm: constructors of the convolution and of the normalisation.
      convs: the convolutions of the whole block.
      strides: stride of the block.
      cardinality: number of paths; a path has 1 / cardinality of the block's inner channels.
      kernel_init: initialiser of the convolutions.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    convs: tuple[ConvSpec, ...]
    strides: int
    cardinality: int
    kernel_init: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps x [N, H, W, C] to [N, H', W', features]."""
        for i, spec in enumerate(self.convs):
            is_last = i == 2
            x = self.conv(
                spec.features if is_last else spec.features // self.cardinality,
                kernel_size=(spec.size, spec.size),
                strides=self.strides if spec.strided else 1,
                dilation=spec.dilation,
                kernel_init=self._share_of_whole(-2 if is_last else -1),
                name=f"conv_{i + 1}",
            )(x)
            if not is_last:
                x = self.norm(name=f"norm_{i + 1}")(x, train, relu)
        return x

    @nn.nowrap
    def _share_of_whole(self, axis):
        """Initialiser with the fan-in and fan-out of all paths together, as in the grouped form."""

        def draw(key, shape, dtype):
            whole = list(shape)
            whole[axis] *= self.cardinality
            kernel = initializer(self.kernel_init)(key, tuple(whole), dtype)
            return jax.lax.slice_in_dim(kernel, 0, shape[axis], axis=axis)

        return draw


def convert_form(variables: dict[str, Any], form: str, cardinality: int) -> dict[str, Any]:
    """The variables of a ResNeXt, or gradients of its parameters, as those of the same function in another form.

    Nothing is computed: arrays are split along the groups, stacked, or concatenated.

    Args:
      variables: {"params": .., "batch_stats": ..}, or one of the two, of a network in any form.
      form: the form wanted, one of `FORMS`.
      cardinality: number of groups.

    Raises:
      InputError: for an unknown form, or if the number of groups or paths is not `cardinality`.
    """
    check_choice("form", form, FORMS)
    stacked = stacked_stages(variables)
    variables = restack(variables, ())
    grouped = {}
    for path, array in flatten_dict(variables).items():
        if "paths" in path:
            if array.shape[0] != cardinality:
                raise InputError(f"cardinality: {'/'.join(path)} holds {array.shape[0]} paths, not {cardinality}")
            axis = _group_axis(path, array.ndim - 1)
            array = jnp.concatenate(list(array), axis=axis)
            path = tuple(key for key in path if key != "paths")
        grouped[path] = array
    if form == "grouped_convolution":
        return restack(unflatten_dict(grouped), stacked)
    in_paths = ("conv_1", "norm_1", "conv_2", "norm_2") + (("conv_3",) if form == "split_transform_sum" else ())
    converted = {}
    for path, array in grouped.items():
        if len(path) > 2 and path[-3].startswith("block_") and path[-2] in in_paths:
            axis = _group_axis(path, array.ndim)
            if array.shape[axis] % cardinality:
                raise InputError(f"cardinality: {cardinality} does not divide {'/'.join(path)} of shape {array.shape}")
            if path[-2:] == ("conv_2", "kernel") and array.shape[-1] != cardinality * array.shape[-2]:
                groups = array.shape[-1] // array.shape[-2]
                raise InputError(
                    f"cardinality: {'/'.join(path)} of shape {array.shape} has {groups} groups, not {cardinality}"
                )
            array = jnp.stack(jnp.split(array, cardinality, axis=axis))
            path = (*path[:-2], "paths", *path[-2:])
        converted[path] = array
    return restack(unflatten_dict(converted), stacked)


def _group_axis(path, ndim):
    """The axis of a grouped form's array that is grouped: input channels of the last convolution, else output."""
    return ndim - 2 if path[-2] == "conv_3" else ndim - 1


@register_model(
    "resnext_<9n+2>_<C>x<d>d",
    f"resnext_{CIFAR_DEPTH}_{NUMBER}x{NUMBER}d",
    module=ResNeXt,
    paper=XIE_2016,
    facts=CIFAR_NETWORKS,
)
def _cifar(depth: int, cardinality: int, base_width: int) -> dict[str, Any]:
    return {"stage_sizes": (blocks_of_depth(depth, 9, 2),) * 3, "cardinality": cardinality, "base_width": base_width}


@register_model(
    "resnext_<50|101|152|200>_<C>x<d>d",
    f"resnext_(18|34|50|101|152|200)_{NUMBER}x{NUMBER}d",
    module=ResNeXt,
    paper=XIE_2016,
    input_shape=IMAGENET_SHAPE,
    facts=IMAGENET_NETWORKS,
)
def _imagenet(depth: int, cardinality: int, base_width: int) -> dict[str, Any]:
    if IMAGENET_STAGES[depth][0] == "basic":
        raise InputError(f"depth: ResNeXt has bottlenecks, in depths 50, 101, 152, 200 for ImageNet; got {depth}")
    return imagenet_fields(depth, cardinality=cardinality, base_width=base_width)
