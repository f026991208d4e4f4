"""Replaces stride by dilation: the same variables give features at a higher resolution."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from resjax.errors import InputError
from resjax.layers import ConvSpec


class StageGeometry(NamedTuple):
    """Stride and dilation of a stage.

    Attributes:
      strides: stride of the stage's first block.
      first_dilation: dilation of the convolution that carries the stride.
      dilation: dilation of all convolutions after it.
    """

    strides: int = 1
    first_dilation: int = 1
    dilation: int = 1

    def of_first_block(self, convs: tuple[ConvSpec, ...]) -> tuple[ConvSpec, ...]:
        """The convolutions of the first block; those before the one with the stride have its dilation."""
        strided = next(i for i, conv in enumerate(convs) if conv.strided)
        return _dilate(convs[: strided + 1], self.first_dilation) + _dilate(convs[strided + 1 :], self.dilation)

    def of_other_blocks(self, convs: tuple[ConvSpec, ...]) -> tuple[ConvSpec, ...]:
        """The convolutions of the blocks after the first."""
        return _dilate(convs, self.dilation)


def stage_geometries(strides: Sequence[int], output_stride: int | None, stem_stride: int = 1) -> list[StageGeometry]:
    """Stride and dilation of each stage when the strides beyond `output_stride` become dilation.

    With r = total stride / output_stride, the trunk then computes r times as many rows and columns, and every r-th is
    what it computed before (Chen et al. 2015, arXiv 1412.7062, section 3.1; Wu et al. 2016, arXiv 1611.10080).

    Args:
      strides: strides of the stages.
      output_stride: pixels of the image per pixel of the last stage; None keeps all strides.
      stem_stride: stride of the stem.

    Raises:
      InputError: for an `output_stride` that is not the total stride after the stem or a stage.
    """
    on_the_way = list(itertools.accumulate(strides, lambda a, b: a * b, initial=stem_stride))
    if output_stride is not None and output_stride not in on_the_way:
        choices = ", ".join(map(str, sorted(set(on_the_way))))
        raise InputError(f"output_stride: expected one of {choices}, got {output_stride!r}")
    geometries, dilation = [], 1
    for stride, total in zip(strides, on_the_way[1:], strict=True):
        if output_stride is None or total <= output_stride:
            geometries.append(StageGeometry(stride))
            continue
        geometries.append(StageGeometry(1, dilation, dilation * stride))
        dilation *= stride
    return geometries


def _dilate(convs: Sequence[ConvSpec], dilation: int) -> tuple[ConvSpec, ...]:
    return tuple(dataclasses.replace(conv, dilation=dilation if conv.size > 1 else 1) for conv in convs)
