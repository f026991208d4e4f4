"""2-D convolution, by the implementation that is fast on the platform it is compiled for."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from resjax.errors import InputError
from resjax.layers.backend import faster_forms, mesh_of_batch, placed_by_xla
from resjax.layers.cpu.conv import Geometry, conv_cpu, conv_xla
from resjax.layers.initializers import initializer

CONV_OUTPUT = "conv_output"
"""Name of every convolution's output, for policies of what to keep for the gradient."""


@flax.struct.dataclass
class Product:
    """A 1x1 convolution that is not computed yet.

    Attributes:
      x: images [N, H, W, C_in].
      kernel: [1, 1, C_in, C_out], float32.
      strides: stride along height and width.
    """

    x: jax.Array
    kernel: jax.Array
    strides: int = flax.struct.field(pytree_node=False, default=1)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H', W', C_out)."""
        n, height, width, _ = self.x.shape
        return n, -(-height // self.strides), -(-width // self.strides), self.kernel.shape[-1]

    def computed(self) -> jax.Array:
        """Its value [N, H', W', C_out], in the dtype of x."""
        y = conv2d(self.x, self.kernel.astype(self.x.dtype), self.strides, (0, 0))
        return checkpoint_name(y, CONV_OUTPUT)


class Conv(nn.Module):
    """Convolution with the parameters of `flax.linen.Conv`: `kernel` [kh, kw, C_in / groups, C_out], `bias` [C_out].

    Padding is explicit and symmetric, dilation (k - 1) / 2 by default: XLA's `SAME` pads (0, 1) at stride 2, which is
    shifted by a pixel against every published network.

    Attributes:
      features: output channels.
      kernel_size: (height, width) of the kernel.
      strides: stride along height and width.
      padding: zeros added on each side along (height, width); None means dilation (kernel_size - 1) / 2.
      dilation: distance between the taps of the kernel along height and width.
      groups: number of groups that input and output channels are split into; each is convolved separately.
      use_bias: whether to add a bias.
      dtype: computation dtype; parameters are float32.
      kernel_init, bias_init: initialisers, or their names in `INITIALIZERS`.
      init_scale: factor of the initial kernel.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: int = 1
    padding: tuple[int, int] | None = None
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Any = "he_normal_fan_out"
    bias_init: Any = "zeros"
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, factored: bool = False) -> Any:
        """Maps x [N, H, W, C_in] to [N, H', W', features].

        With `factored`, a 1x1 convolution of one group, without bias and padding, is not computed: its `Product` is
        the result, for the `BatchNorm` behind it.

        Raises:
          InputError: where C_in is not what the kernel holds, or `groups` does not divide C_in and `features`.
        """
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise InputError(
                f"{'/'.join(self.path)}: {self.groups} groups must divide the input channels, {x.shape[-1]}, and the"
                f" output channels, {self.features}"
            )
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        if self.has_variable("params", "kernel"):
            held: tuple[int, ...] = self.get_variable("params", "kernel").shape
            if held != shape:
                raise InputError(
                    f"{'/'.join(self.path)}: kernel of shape {held} takes {held[2] * self.groups} input channels, got"
                    f" {x.shape[-1]} (input {x.shape})"
                )
        kernel = self.param("kernel", self._scaled(initializer(self.kernel_init)), shape, jnp.float32)
        height, width = self.kernel_size
        padding = self.padding or (self.dilation * (height - 1) // 2, self.dilation * (width - 1) // 2)
        if factored:
            return Product(x.astype(self.dtype), kernel, self.strides)
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, padding, self.dilation, self.groups)
        y = checkpoint_name(y, CONV_OUTPUT)
        if self.use_bias:
            y += self.param("bias", initializer(self.bias_init), (self.features,), jnp.float32).astype(self.dtype)
        return y

    @nn.nowrap
    def _scaled(self, init):
        return init if self.init_scale == 1 else lambda *args: self.init_scale * init(*args)


def conv2d(
    x: jax.Array, kernel: jax.Array, strides: int, padding: tuple[int, int], dilation: int = 1, groups: int = 1
) -> jax.Array:
    """Convolves x [N, H, W, C_in] with kernel [kh, kw, C_in / groups, C_out], as `conv_cpu` or as XLA does.

    Raises:
      InputError: for an unknown value of RESJAX_CPU_OPERATORS.
    """
    (top, left) = padding
    geometry = Geometry(((top, top), (left, left)), strides, dilation, groups=groups)
    if not faster_forms():
        return conv_xla(x, kernel, geometry)
    mesh = mesh_of_batch()
    return placed_by_xla(lambda x, kernel: conv_cpu(x, kernel, geometry, mesh), x, kernel)
