"""Linear operators with a form for each platform, differentiable in both modes and to any order.

Which form a program gets is chosen when it is lowered, by the platform that it is lowered for, not by the one that
traces it.

`jax.custom_vjp` rules out forward mode, and `jax.custom_derivatives.linear_call` rules out `jax.vmap` and second
derivatives; a primitive of JAX has neither gap.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import NamedSharding, PartitionSpec


def primitive(
    name: str,
    cpu: Callable[..., jax.Array],
    shape: Callable[..., tuple[int, ...] | jax.ShapeDtypeStruct],
    batch: Callable[..., jax.Array],
    plain: Callable[..., jax.Array] | None = None,
    gpu: Callable[..., jax.Array] | None = None,
) -> Primitive:
    """A primitive without rules of differentiation, which are to be added.

    Args:
      name: its name in a jaxpr.
      cpu: the computation on a CPU, of (*arrays, **parameters); its parameters are hashable.
      shape: of the result, from the same arguments; reads the shapes of the arrays. Where it says no dtype, the result
        has that of the last array.
      batch: the rule of `jax.vmap`: (arrays, axes, **parameters) -> the result with the mapped axis in front. `axes`
        are ints, None where an array is not mapped; one of them is.
      plain: the computation on every other platform, where it is another one.
      gpu: the computation on a GPU, where it is another one still.
    """
    operator = Primitive(name)

    def abstract(*arrays: Any, **parameters: Any) -> jax.core.ShapedArray:
        result = shape(*arrays, **parameters)
        if not isinstance(result, jax.ShapeDtypeStruct):
            result = jax.ShapeDtypeStruct(result, arrays[-1].dtype)
        varying = frozenset().union(*(getattr(array, "vma", frozenset()) for array in arrays))
        options: dict[str, Any] = {"vma": varying} if varying else {}
        # Of the same mesh as JAX's own operators would give it: the type of a tangent has to be that of its value.
        mesh = arrays[0].sharding.mesh
        options["sharding"] = NamedSharding(mesh, PartitionSpec(*(None,) * len(result.shape)))
        return jax.core.ShapedArray(result.shape, result.dtype, **options)

    @functools.cache
    def compiled(**parameters: Any) -> jax.stages.Wrapped:
        return jax.jit(functools.partial(operator.bind, **parameters))

    def run(*arrays: Any, **parameters: Any) -> jax.Array:
        with jax.disable_jit(False):  # as JAX's own operators are run: otherwise this would call itself for ever
            return compiled(**parameters)(*arrays)

    operator.def_impl(run)
    operator.def_abstract_eval(abstract)
    mlir.register_lowering(operator, mlir.lower_fun(plain or cpu, multiple_results=False))
    for platform, own in (("cpu", cpu), ("cuda", gpu), ("rocm", gpu)):
        if own is not None:
            mlir.register_lowering(operator, mlir.lower_fun(own, multiple_results=False), platform=platform)
    batching.primitive_batchers[operator] = lambda arrays, axes, **parameters: (batch(arrays, axes, **parameters), 0)
    return operator
