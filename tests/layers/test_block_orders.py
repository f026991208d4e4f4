"""ResidualBlock against NumPy that reads figure 4 and table 1 of He et al. 2016 (arXiv 1603.05027) sign by sign."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import ConstantScaling, Gates, Gating, InputError, ShortcutDropout
from resjax.layers import BatchNorm, BlockSpec, Conv, ConvSpec, ResidualBlock, average_and_pad

# Convolution, BN, ReLU, and where the shortcut is added.
FIGURE_4 = {
    ("basic", "original"): "C B R C B + R",
    ("basic", "bn_after_addition"): "C B R C + B R",
    ("basic", "relu_before_addition"): "C B R C B R +",
    ("basic", "relu_only_pre_activation"): "R C B R C B +",
    ("basic", "full_pre_activation"): "B R C B R C +",
    ("bottleneck", "original"): "C B R C B R C B + R",
    ("bottleneck", "bn_after_addition"): "C B R C B R C + B R",
    ("bottleneck", "relu_before_addition"): "C B R C B R C B R +",
    ("bottleneck", "relu_only_pre_activation"): "R C B R C B R C B +",
    ("bottleneck", "full_pre_activation"): "B R C B R C B R C +",
}
PRE_ACTIVATION = ("relu_only_pre_activation", "full_pre_activation")
CHANNELS = 4
EVEN, ODD = (3, 6, 8, CHANNELS), (3, 5, 7, CHANNELS)
SHAPES = [(CHANNELS, 1), (6, 2), (6, 1), (CHANNELS, 2)]  # features and strides; the first keeps the input's shape
GATES = Gates(branch=np.float64(0.7), skip=np.float64(1.3))


def _conv(x, kernel, strides):
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::strides, ::strides]
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


def _pool(x, size):
    """The mean of each window, of those pixels that it has."""
    rows, columns = (range(0, extent, size) for extent in x.shape[1:3])
    windows = [[x[:, i : i + size, j : j + size].mean((1, 2)) for j in columns] for i in rows]
    return np.array(windows).transpose(2, 0, 1, 3)


def _add_both(x, shortcut, branch, params):
    return 1.3 * shortcut + 0.7 * branch


class Reference:
    """A block of figure 4: called with x, it returns the output and fills `moved` with the new running statistics."""

    def __init__(self, block, kind, variables, train, add=_add_both):
        self.block, self.train, self.add = block.spec, train, add
        self.signs = FIGURE_4[kind, block.spec.order].split()
        self.params, self.stats, self.moved = variables["params"], variables["batch_stats"], {}

    def norm(self, name, x):
        mean, var = self.stats[name]["mean"], self.stats[name]["var"]
        if self.train:
            new = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2), ddof=1)}
            self.moved[name] = {key: 0.9 * self.stats[name][key] + 0.1 * new[key] for key in new}
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / np.sqrt(var + 1e-5) * self.params[name]["scale"] + self.params[name]["bias"]

    def shortcut(self, x):
        option, strides = self.block.shortcut, self.block.strides
        appended = self.block.features - x.shape[3]
        if option == "C" or (option == "B" and (appended or strides > 1)):
            x = _conv(x, self.params["shortcut_conv"]["kernel"], strides)
            return x if self.block.order in PRE_ACTIVATION else self.norm("shortcut_norm", x)
        x = _pool(x, strides) if option == "average_pool" else x[:, ::strides, ::strides]
        return np.pad(x, ((0, 0), (0, 0), (0, 0), (0, appended)))

    def __call__(self, x, is_shared=False, is_done=False):
        """`is_shared`: what comes before the first convolution comes before the shortcut too; `is_done`: it is in x."""
        y, to_shortcut, convs, norms = x, x, 0, 0
        for sign in self.signs:
            skipped = is_done and convs == 0
            if sign == "C":
                if convs == 0 and is_shared:
                    to_shortcut = y
                strides = self.block.strides if self.block.convs[convs].strided else 1
                convs += 1
                y = _conv(y, self.params[f"conv_{convs}"]["kernel"], strides)
            elif sign == "B":
                norms += 1
                y = y if skipped else self.norm(f"norm_{norms}", y)
            elif sign == "R":
                y = y if skipped else np.maximum(y, 0)
            elif self.block.shortcut != "none":
                y = self.add(to_shortcut, self.shortcut(to_shortcut), y, self.params)
        return y


def _block(kind, features, strides, dtype=np.float64, **options):
    convs = (ConvSpec(3, features, strided=True), ConvSpec(3, features))
    if kind == "bottleneck":
        convs = (ConvSpec(1, 3), ConvSpec(3, 3, strided=True), ConvSpec(1, features))
    conv, norm = (functools.partial(layer, dtype=dtype) for layer in (Conv, BatchNorm))
    return ResidualBlock(conv, norm, BlockSpec(convs, strides=strides, **options))


@pytest.fixture
def check(draw_variables, in_float64):
    """check(block, kind, shape, ..): outputs in training and evaluation, and statistics, are the reference's."""

    def run(block, kind, shape=ODD, add=_add_both, **reference_options):
        x = np.random.default_rng(0).normal(size=shape)
        variables = draw_variables(block, x, GATES, False, dtype=np.float64)

        # Op by op: the cases share nearly all their operations, compiled once.
        evaluated = block.apply(variables, x, GATES, False)
        trained, new = block.apply(variables, x, GATES, True, mutable=["batch_stats"])
        reference = Reference(block, kind, variables, False, add)
        np.testing.assert_allclose(evaluated, reference(x, **reference_options), rtol=0, atol=1e-11)
        reference = Reference(block, kind, variables, True, add)
        np.testing.assert_allclose(trained, reference(x, **reference_options), rtol=0, atol=1e-11)
        assert new["batch_stats"].keys() == reference.moved.keys()
        compare = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-11)
        jax.tree.map(compare, dict(new["batch_stats"]), reference.moved)
        return variables

    return run


@pytest.mark.quick
@pytest.mark.parametrize(("features", "strides"), SHAPES[:2])
@pytest.mark.parametrize(("kind", "order"), FIGURE_4)
def test_orders_of_figure_4(kind, order, features, strides, check):
    variables = check(_block(kind, features, strides, order=order), kind)
    projects = (features, strides) != (CHANNELS, 1)
    assert ("shortcut_norm" in variables["params"]) == (projects and order not in PRE_ACTIVATION)


@pytest.mark.quick
@pytest.mark.parametrize(("features", "strides"), SHAPES)
@pytest.mark.parametrize(("is_shared", "is_done"), [(True, False), (False, True)], ids=["shared", "done"])
@pytest.mark.parametrize("order", PRE_ACTIVATION)
def test_first_activation(order, is_shared, is_done, features, strides, check):
    """Shared with the shortcut, or done before the block."""
    block = _block("basic", features, strides, order=order, shares_activation=is_shared, is_activated=is_done)
    variables = check(block, "basic", is_shared=is_shared, is_done=is_done)
    has_first_norm = order == "full_pre_activation" and not is_done
    assert ("norm_1" in variables["params"]) == (has_first_norm or order == "relu_only_pre_activation")


@pytest.mark.parametrize(("features", "strides"), SHAPES[:2])
@pytest.mark.parametrize("shape", [EVEN, ODD], ids=["even", "odd"])
@pytest.mark.parametrize("shortcut", ["A", "C", "average_pool", "none"])
def test_shortcuts(shortcut, shape, features, strides, check):
    check(_block("basic", features, strides, shortcut=shortcut), "basic", shape)


@pytest.mark.quick
@pytest.mark.parametrize("size", [EVEN, ODD], ids=["even", "odd"])
@pytest.mark.parametrize("strides", [1, 2, 3])
def test_average_pooling_divides_by_the_pixels_of_the_window(size, strides):
    """So that a constant stays what it is up to the edge, and the size is that of a strided convolution."""
    pooled = average_and_pad(np.full(size, 3.0, np.float32), CHANNELS + 1, strides)
    extents = tuple(-(-extent // strides) for extent in size[1:3])
    assert pooled.shape == (size[0], *extents, CHANNELS + 1)
    np.testing.assert_allclose(pooled[..., :CHANNELS], 3)
    np.testing.assert_array_equal(pooled[..., CHANNELS:], 0)


def _scaled(x, shortcut, branch, params):
    return 1.3 * 0.25 * shortcut + 0.7 * 0.5 * branch


def _gated(strides, is_exclusive):
    def add(x, shortcut, branch, params):
        conv = params["gate_conv"]
        gate = 1 / (1 + np.exp(-(_conv(x, conv["kernel"], strides) + conv["bias"])))
        return 1.3 * (1 - gate) * shortcut + 0.7 * (gate * branch if is_exclusive else branch)

    return add


@pytest.mark.quick
@pytest.mark.parametrize(("features", "strides"), SHAPES[:2])
@pytest.mark.parametrize(
    "variant", [ConstantScaling(0.25, 0.5), Gating(exclusive=True), Gating(exclusive=False)], ids=str
)
def test_shortcut_variants_of_table_1(variant, features, strides, check):
    add = _scaled if isinstance(variant, ConstantScaling) else _gated(strides, variant.exclusive)
    check(_block("basic", features, strides, shortcut="A", variant=variant), "basic", add=add)


@pytest.mark.quick
@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_shortcut_dropout_drops_the_shortcut_alone_and_in_training_alone(rate, draw_variables):
    """In training each value of the shortcut is 0 or 1 / (1 - rate) of itself; the branch is untouched."""
    x = np.random.default_rng(0).normal(size=(4, 16, 16, CHANNELS)).astype(np.float32)
    plain, dropped = (
        _block("basic", CHANNELS, 1, np.float32, order="full_pre_activation", variant=variant)
        for variant in (None, ShortcutDropout(rate))
    )
    variables = draw_variables(plain, x, Gates(), False)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(block, train, branch, skip):
        gates, rngs = Gates(branch, skip), {"dropout": jax.random.key(1)}
        return block.apply(variables, x, gates, train, mutable=["batch_stats"], rngs=rngs)[0]

    np.testing.assert_array_equal(run(dropped, False, 1.0, 1.0), run(plain, False, 1.0, 1.0))
    np.testing.assert_allclose(run(dropped, True, 1.0, 0.0), run(plain, True, 1.0, 0.0), atol=1e-6)
    shortcut = np.asarray(run(dropped, True, 0.0, 1.0))
    kept = shortcut != 0
    np.testing.assert_allclose(shortcut[kept], x[kept] / (1 - rate), rtol=1e-5)
    assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / x.size)


@pytest.mark.parametrize("rate", [1.0, -0.1, 1.5])
def test_a_dropout_rate_outside_its_range_is_named(rate):
    with pytest.raises(InputError, match=rf"ShortcutDropout: expected a rate in \[0, 1\), got {rate}"):
        ShortcutDropout(rate)


def test_average_pooling_cannot_narrow():
    with pytest.raises(InputError, match="cannot go from 8 to 4: use shortcut B or C"):
        average_and_pad(jnp.zeros((1, 4, 4, 8)), 4, 2)
