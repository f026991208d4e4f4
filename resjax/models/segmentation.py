"""Semantic segmentation: a dilated trunk and two dilated convolutions (Wu et al. 2016, arXiv 1611.10080, section 4)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from resjax.errors import InputError
from resjax.layers import Conv, Initializer, initializer
from resjax.models.checks import check_positive
from resjax.models.network import Network
from resjax.models.registry import create_model
from resjax.models.stacking import restack, stacked_stages

HEAD_FIELDS = ("head_width", "head_dilation")
"""Fields of the head that `create_segmentation_model` takes besides the trunk's."""


class SegmentationNetwork(nn.Module):
    """A trunk, then a 3x3 convolution with bias and ReLU, then a 3x3 convolution with bias to the classes.

    Output pixel (i, j) of a trunk of output stride s is centred on pixel (s i, s j) of the image, as its strided
    convolutions are: labels[:, ::s, ::s] are the labels of the coarse logits, and `upsample` keeps these positions.

    Attributes:
      trunk: a network with `features_only=True`, usually of output stride 8; its variables are `trunk`.
      num_classes: number of logits per pixel.
      head_width: channels of the first convolution.
      head_dilation: dilation of both convolutions.
      kernel_init: initialiser of both convolutions.
      coarse_training: whether logits keep the resolution of the trunk's output in training, with subsampled labels, as
        the authors do.
    """

    trunk: Network
    num_classes: int = 21
    head_width: int = 512
    head_dilation: int = 12
    kernel_init: Initializer = "he_normal_fan_in"
    coarse_training: bool = False

    tabulate = Network.tabulate

    def __post_init__(self):
        if not isinstance(self.trunk, Network) or not self.trunk.features_only:
            raise InputError("trunk: expected a network with features_only=True, as create_segmentation_model makes it")
        if not getattr(self.trunk, "output_stride", None):
            raise InputError("trunk: expected a network with an output_stride, e.g. 8")
        for field in ("num_classes", "head_width", "head_dilation"):
            check_positive(field, getattr(self, field))
        initializer(self.kernel_init, "kernel_init")
        super().__post_init__()

    @property
    def dtype(self) -> Any:
        """Computation dtype of the trunk; logits are float32."""
        return self.trunk.dtype

    @property
    def output_stride(self) -> int:
        """Pixels of the image per pixel of the coarse logits."""
        return self.trunk.output_stride

    @property
    def norm_scope(self) -> str | int:
        """Number of images that the trunk normalises together."""
        return self.trunk.norm_scope

    @property
    def first_kernel(self) -> tuple[str, ...]:
        """Path of the trunk's kernel that reads the image."""
        collection, *path = self.trunk.first_kernel
        return collection, "trunk", *path

    @property
    def first_trained_kernel(self) -> tuple[str, ...]:
        """Path of the trunk's first kernel that is trained."""
        collection, *path = self.trunk.first_trained_kernel
        return collection, "trunk", *path

    @property
    def minimum_size(self) -> int:
        """Minimum height and width of an image."""
        return self.trunk.minimum_size

    @property
    def stacked_stages(self) -> frozenset[str]:
        """Names of the trunk's stages whose variables are stacked."""
        return self.trunk.stacked_stages

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images [N, H, W, C], float, to logits, float32 [N, H, W, num_classes]; or coarser, `coarse_training`.

        Raises:
          InputError: as the trunk does.
        """
        x = self.trunk(images, train)["final"]
        options: dict[str, Any] = {"dilation": self.head_dilation, "use_bias": True, "kernel_init": self.kernel_init}
        x = nn.relu(Conv(self.head_width, dtype=self.dtype, name="head_conv_1", **options)(x))
        # The last sums of a network in bfloat16 are float32, as a classifier's are.
        precise = jnp.promote_types(self.dtype, jnp.float32)
        logits = Conv(self.num_classes, dtype=precise, name="head_conv_2", **options)(x)
        size = (images.shape[1], images.shape[2])
        return logits if train and self.coarse_training else upsample(logits, size, self.output_stride)


def upsample(x: jax.Array, size: tuple[int, int], stride: int) -> jax.Array:
    """Bilinear interpolation of x [N, h, w, C] to [N, H, W, C], where row and column i of x lie at i * stride.

    Beyond the last row and column, these are repeated.
    """
    rows, columns = (_interpolation(small, large, stride) for small, large in zip(x.shape[1:3], size, strict=True))
    x = jnp.einsum("Hh,nhwc->nHwc", jnp.asarray(rows, x.dtype), x)
    return jnp.einsum("Ww,nHwc->nHWc", jnp.asarray(columns, x.dtype), x)


def _interpolation(small: int, large: int, stride: int) -> np.ndarray:
    """Weights [large, small] of linear interpolation."""
    places = np.minimum(np.arange(large) / stride, small - 1)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(small)), 0)


def create_segmentation_model(name: str, num_classes: int, output_stride: int = 8, **overrides: Any) -> nn.Module:
    """Creates a segmentation network with the trunk of a classification network.

    Args:
      name: name of a network with dilation: `"wider_resnet_38_a1"`, `"resnet_50"`, `"resnet_101"`, ...
      num_classes: classes of a pixel.
      output_stride: pixels of the image per pixel of the trunk's output.
      **overrides: fields of `SegmentationNetwork` (`head_width`, `head_dilation`, `coarse_training`) and of the trunk
        (`dtype`, `frozen_statistics`, ...). A Wider ResNet has the dropout of the paper unless `dropout_rates` is
        given.

    Returns:
      A `SegmentationNetwork`, which maps images [N, H, W, C] to logits [N, H, W, num_classes].

    Raises:
      InputError: for an unknown name, or a field or value that the network does not have.
    """
    head = {field: overrides.pop(field) for field in (*HEAD_FIELDS, "coarse_training") if field in overrides}
    trunk = create_model(name, features_only=True, output_stride=output_stride, **overrides)
    if not isinstance(trunk, Network):
        raise InputError(f"{name}: expected a resjax.models.Network as the trunk, got {type(trunk).__name__}")
    for_pixels = {field: value for field, value in trunk.dense_prediction.items() if field not in overrides}
    return SegmentationNetwork(trunk.clone(**for_pixels), num_classes, **head)


def load_trunk(variables: Any, classifier: Any) -> Any:
    """The variables of a segmentation network, with the trunk's taken from a classifier.

    Args:
      variables: variables of a `SegmentationNetwork`.
      classifier: variables of the trunk's classification network, with or without head, stacked or not.

    Returns:
      Variables in the structure of `variables`; the head's are unchanged.

    Raises:
      InputError: if variables are missing or have another shape; names all of them.
    """
    wanted = {kind: tree["trunk"] for kind, tree in variables.items()}
    classifier = restack(classifier, stacked_stages(wanted))
    given = {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree_util.tree_flatten_with_path(classifier)[0]}
    wrong = []

    def take(path, leaf):
        name = jax.tree_util.keystr(path)
        found = given.get(name)
        if found is None or found.shape != leaf.shape:
            wrong.append(f"{name}: expected {leaf.shape}, got {'nothing' if found is None else found.shape}")
            return leaf
        return found

    trunk = jax.tree_util.tree_map_with_path(take, wanted)
    if wrong:
        raise InputError(f"these weights are not those of the segmentation network's trunk: {'; '.join(wrong[:20])}")
    return {kind: {**tree, "trunk": trunk[kind]} for kind, tree in variables.items()}
