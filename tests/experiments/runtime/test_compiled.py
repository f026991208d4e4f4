"""Bytes, operations and kernels of a program, against a count by hand and against XLA's own."""

import types

import jax
import jax.numpy as jnp
import pytest

from experiments.runtime.compiled import Needs, Program, needs
from experiments.runtime.targets import CHIPS

pytestmark = pytest.mark.fully_compiled

TEXT = """HloModule step, is_scheduled=true

%fused_slice (p0: f32[100,4], p1: s32[]) -> f32[1,4] {
  %p0 = f32[100,4]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,4]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,4}
}

%fused_update (q0: f32[100,4], q1: f32[1,4], q2: s32[]) -> f32[100,4] {
  %q0 = f32[100,4]{1,0} parameter(0)
  %q1 = f32[1,4]{1,0} parameter(1)
  %q2 = s32[] parameter(2)
  %nought = s32[] constant(0)
  ROOT %updated = f32[100,4]{1,0} dynamic-update-slice(%q0, %q1, %q2, %nought)
}

%body (c: (s32[], f32[100,4])) -> (s32[], f32[100,4]) {
  %c = (s32[], f32[100,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = f32[100,4]{1,0} get-tuple-element(%c), index=1
  %slice_fusion = f32[1,4]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused_slice
  %update_fusion = f32[100,4]{1,0} fusion(%x, %slice_fusion, %i), kind=kLoop, calls=%fused_update
  ROOT %t = (s32[], f32[100,4]{1,0}) tuple(%i, %update_fusion)
}

%condition (d: (s32[], f32[100,4])) -> pred[] {
  %d = (s32[], f32[100,4]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%d), index=0
  ROOT %less = pred[] compare(%j, %j), direction=LT
}

%small (s: bf16[8]) -> bf16[8] {
  %s = bf16[8]{0} parameter(0)
  ROOT %copied = bf16[8]{0} copy(%s)
}

%large (l: bf16[8]) -> bf16[8] {
  %l = bf16[8]{0} parameter(0)
  %once = bf16[8]{0} copy(%l)
  ROOT %twice = bf16[8]{0} copy(%once)
}

ENTRY %main (a: (s32[], f32[100,4]), b: bf16[2,8,8,6], k: bf16[12,3,3,2]) -> bf16[2,8,8,12] {
  %a = (s32[], f32[100,4]{1,0}) parameter(0)
  %b = bf16[2,8,8,6]{3,2,1,0} parameter(1)
  %k = bf16[12,3,3,2]{3,2,1,0} parameter(2)
  %w = (s32[], f32[100,4]{1,0}) while(%a), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %v = bf16[8]{0} constant({...})
  %p = pred[] constant(true)
  %chosen = bf16[8]{0} conditional(%p, %v, %v), true_computation=%small, false_computation=%large
  %conv = (bf16[2,8,8,12]{3,2,1,0}, u8[64]{0}) custom-call(%b, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, feature_group_count=3, custom_call_target="__cudnn$convForward"
  %start = ((s32[]), s32[]) copy-start(%p)
  %done = s32[] copy-done(%start)
  ROOT %out = bf16[2,8,8,12]{3,2,1,0} get-tuple-element(%conv), index=0
}
"""


def test_a_program_is_counted_as_by_hand():
    program = Program(TEXT)
    in_loop = (16 + 4 + 16) + (16 + 16 + 4)  # a row is read and written, with its number; the rest stays in place
    branch = 4 * 16  # two copies of eight
    conv = 2 * (2 * 8 * 8 * 6 + 12 * 3 * 3 * 2 + 2 * 8 * 8 * 12) + 64
    assert program.bytes == 5 * in_loop + branch + conv + 2
    assert program.flops == 2 * (2 * 8 * 8 * 12) * (3 * 3 * 2)
    assert program.kernels == 5 * 2 + 2 + 1 + 1


def test_a_slice_of_what_is_computed_elementwise_reads_no_more_than_itself():
    """And the whole of it is read where it is summed up, too."""
    text = """
%sliced (p0: bf16[8,64], p1: bf16[8,64]) -> SHAPE {
  %p0 = bf16[8,64]{1,0} parameter(0)
  %p1 = bf16[8,64]{1,0} parameter(1)
  %wide = f32[8,64]{1,0} convert(%p0)
  %other = f32[8,64]{1,0} convert(%p1)
  %product = f32[8,64]{1,0} multiply(%wide, %other)
  %zero = f32[] constant(0)
  ROOT_SLICE%part = f32[8,16]{1,0} slice(%product), slice={[0:8], [0:16]}
  REDUCE
}

ENTRY %main (a: bf16[8,64], b: bf16[8,64]) -> SHAPE {
  %a = bf16[8,64]{1,0} parameter(0)
  %b = bf16[8,64]{1,0} parameter(1)
  ROOT %f = SHAPE fusion(%a, %b), kind=kLoop, calls=%sliced
}
"""
    slice_only = text.replace("ROOT_SLICE", "ROOT ").replace("  REDUCE\n", "").replace("SHAPE", "f32[8,16]{1,0}")
    assert Program(slice_only).bytes == 2 * 8 * 16 * 2 + 8 * 16 * 4
    sums = "%sum = f32[8]{0} reduce(%wide, %zero), dimensions={1}, to_apply=%add\n"
    both = text.replace("ROOT_SLICE", "").replace("SHAPE", "(f32[8,16]{1,0}, f32[8]{0})")
    both = both.replace("REDUCE\n", sums + "  ROOT %t = (f32[8,16]{1,0}, f32[8]{0}) tuple(%part, %sum)\n")
    assert Program(both).bytes == 8 * 64 * 2 + 8 * 16 * 2 + 8 * 16 * 4 + 8 * 4


def test_gradients_of_a_convolution_cost_what_the_convolution_does():
    forward = Program(TEXT).flops
    gradients = {
        "convBackwardInput": ("(bf16[2,8,8,6]{3,2,1,0}, u8[64]{0})", "%y, %k"),
        "convBackwardFilter": ("(bf16[12,3,3,2]{3,2,1,0}, u8[64]{0})", "%b, %y"),
    }
    for kind, (result, operands) in gradients.items():
        text = TEXT.replace(
            "(bf16[2,8,8,12]{3,2,1,0}, u8[64]{0}) custom-call(%b, %k)", f"{result} custom-call({operands})"
        )
        text = text.replace("  %w =", "  %y = bf16[2,8,8,12]{3,2,1,0} parameter(3)\n  %w =").replace(
            "convForward", kind
        )
        assert Program(text).flops == forward


def test_a_compiled_program_has_the_operations_that_its_shapes_say():
    def loop(x, kernel):
        step = lambda y, _: (jnp.tanh(y @ kernel), None)  # noqa: E731
        return jax.lax.scan(step, x, length=7)[0]

    shapes = jax.ShapeDtypeStruct((32, 64), jnp.float32), jax.ShapeDtypeStruct((64, 64), jnp.float32)
    compiled = jax.jit(loop).lower(*shapes).compile()
    found = needs(
        types.SimpleNamespace(
            **{name: getattr(compiled, name) for name in ("memory_analysis", "as_text")}, cost_analysis=lambda: None
        )
    )
    assert found.flops == 7 * 2 * 32 * 64 * 64
    # Each step reads the kernel and x, and writes x.
    assert found.bytes >= 7 * 4 * (64 * 64 + 2 * 32 * 64) and found.kernels >= 7
    assert found.peak >= 4 * (64 * 64 + 2 * 32 * 64) and not found.collectives


def test_the_bound_is_the_slower_of_memory_and_arithmetic():
    chip = CHIPS["h200"]
    slow = Needs(0, 0, flops=chip.bfloat16, bytes=chip.bandwidth / 2, kernels=1)
    assert slow.bound(chip, "bfloat16") == 1 and slow.bound(chip, "float32") == 2
    assert Needs(0, 0, flops=0, bytes=3 * chip.bandwidth, kernels=1).bound(chip, "bfloat16") == 3
