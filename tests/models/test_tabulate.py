"""The FLOPs of a table are those of every block, whatever the form of the stages."""

import re

import jax
import jax.numpy as jnp
import pytest

from resjax.models import ResNet, SegmentationNetwork, multiply_adds

SHAPE = (8, 8, 3)


def table(model):
    return model.tabulate(
        jax.random.key(0), jnp.zeros((1, *SHAPE)), depth=0, compute_flops=True, console_kwargs={"width": 400}
    )


@pytest.mark.parametrize("kind", ["classifier", "segmentation"])
def test_a_scanned_stage_counts_as_often_as_it_runs(kind):
    def build(scan):
        fields = {"stage_sizes": (3,), "widths": (4,), "scan": scan}
        if kind == "classifier":
            return ResNet(**fields)
        return SegmentationNetwork(ResNet(**fields, features_only=True, output_stride=1), 3, head_width=4)

    scanned = table(build(True))
    assert scanned == table(build(False))
    (flops,) = (int(number) for number in re.findall(r"│ (\d{5,}) ", scanned))
    wanted = 2 * multiply_adds(build(True), SHAPE)
    # XLA leaves out the products with the zeros around an image, about a tenth of a 3x3 convolution on 8 x 8 pixels.
    assert 0.75 * wanted < flops < 1.1 * wanted
