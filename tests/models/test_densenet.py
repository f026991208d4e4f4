"""DenseNet against a straight-line computation; its memory-saving form; dropout, compression and widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend import core as jax_core

from resjax import InputError, create_model
from resjax.layers import BatchNorm, Conv, Dropout
from resjax.models import DenseNet

BASIC = {"stage_sizes": (2, 2), "growth_rate": 3, "stem_width": 5, "bottleneck": False, "compression": 1.0}
BC = {"stage_sizes": (2, 1), "growth_rate": 3, "stem_width": 5}  # a transition from 11 channels to floor(5.5)
IMAGES = np.random.default_rng(0).normal(size=(2, 9, 7, 3))
LARGE_IMAGES = np.random.default_rng(1).normal(size=(2, 21, 14, 3))


def _max_pool(x):
    """3x3, stride 2, over the pixels that there are."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    shifted = [x[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    return jnp.stack(shifted).max(0)


def _straight_line(variables, images, model, train):
    """Logits of Huang et al. 2016, section 3, from the variables alone."""
    params, statistics = variables["params"], variables["batch_stats"]

    def at(tree, path):
        for key in path.split("/"):
            tree = tree[key]
        return tree

    def conv(x, path, stride=1):
        kernel = at(params, path)["kernel"]
        pad = (kernel.shape[0] // 2,) * 2
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), (pad, pad), dimension_numbers=layout)

    def norm_relu(x, path):
        scale, bias = at(params, path)["scale"], at(params, path)["bias"]
        mean, var = at(statistics, path)["mean"], at(statistics, path)["var"]
        if train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return jnp.maximum((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias, 0)

    x = conv(images, "stem/conv", 2 if model.stem == "imagenet" else 1)
    if model.stem == "imagenet":
        x = _max_pool(norm_relu(x, "stem/norm"))
    for i, layers in enumerate(model.stage_sizes, start=1):
        if i > 1:
            x = conv(norm_relu(x, f"transition_{i - 1}/norm"), f"transition_{i - 1}/conv")
            n, height, width, channels = x.shape
            x = x[:, : height // 2 * 2, : width // 2 * 2]
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
        for j in range(1, layers + 1):
            layer, new = f"stage_{i}/layer_{j}", x
            for k in (1, 2) if model.bottleneck else (1,):
                new = conv(norm_relu(new, f"{layer}/norm_{k}"), f"{layer}/conv_{k}")
            x = jnp.concatenate([x, new], axis=-1)
    pooled = norm_relu(x, "final_norm").mean((1, 2))
    return pooled @ params["head"]["linear"]["kernel"] + params["head"]["linear"]["bias"]


@pytest.mark.parametrize(
    ("fields", "images"),
    [(BASIC, IMAGES), (BC, IMAGES), (BC | {"stem": "imagenet"}, LARGE_IMAGES)],
    ids=["basic", "BC", "BC_imagenet"],
)
def test_network_is_the_papers_equations(fields, images, draw_variables, in_float64):
    """In evaluation and in training; an odd height loses its last row in the transition's pooling."""
    model = DenseNet(**fields, num_classes=4, dtype=jnp.float64)
    variables = draw_variables(model, images, dtype=np.float64)

    @jax.jit
    def run(variables):
        trained, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return model.apply(variables, images), trained

    expected = jax.jit(lambda v: [_straight_line(v, images, model, train) for train in (False, True)])(variables)
    for logits, reference in zip(run(variables), expected, strict=True):
        np.testing.assert_allclose(logits, reference, rtol=1e-10)


@pytest.fixture(scope="module")
def steps(float64, draw_variables):
    """steps[memory_efficient] -> one step with dropout: its jaxpr, its compiled program, and what it computes."""
    images = np.random.default_rng(2).normal(size=(4, 8, 8, 3))
    results = {}
    with float64():
        for efficient in (False, True):
            model = DenseNet(
                stage_sizes=(4,),
                growth_rate=4,
                stem_width=6,
                dropout_rate=0.2,
                memory_efficient=efficient,
                dtype=jnp.float64,
            )
            variables = draw_variables(model, images, dtype=np.float64)

            def run(variables, model=model):
                def loss(params):
                    own = {**variables, "params": params}
                    rngs = {"dropout": jax.random.key(5)}
                    logits, new = model.apply(own, images, train=True, mutable=["batch_stats"], rngs=rngs)
                    return jnp.sin(logits).sum(), (logits, new)

                return jax.grad(loss, has_aux=True)(variables["params"])

            traced = jax.jit(run).trace(variables)
            # Without this the CPU's compiler drops the barriers around what is computed again, and keeps the first.
            options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
            compiled = traced.lower().compile(compiler_options=options)
            results[efficient] = traced.jaxpr, compiled, jax.tree.map(np.asarray, compiled(variables))
    return results


def test_memory_efficient_computes_the_same(steps):
    """Logits, gradients and running statistics, with dropout drawn from the same key."""
    (gradients, (logits, statistics)), expected = steps[True][2], steps[False][2]
    np.testing.assert_allclose(logits, expected[1][0], rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), gradients, expected[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), statistics, expected[1][1])


def _is_jaxpr(value):
    return isinstance(value, (jax_core.Jaxpr, jax_core.ClosedJaxpr))


# XLA's, and those of the library's own operators on a CPU.
PRODUCTS = ("conv_general_dilated", "dot_general", "conv_cpu", "conv_cpu_input_gradient", "conv_cpu_kernel_gradient")


def _products(jaxpr):
    """Number of convolutions and matrix products of a jaxpr."""
    values = [value for eqn in jaxpr.eqns for value in jax.tree.leaves(eqn.params, is_leaf=_is_jaxpr)]
    inner = [getattr(value, "jaxpr", value) for value in values if _is_jaxpr(value)]
    own = sum(eqn.primitive.name in PRODUCTS for eqn in jaxpr.eqns)
    return own + sum(map(_products, inner))


def test_memory_efficient_computes_no_convolution_twice(steps):
    plain, efficient = (_products(steps[kind][0].jaxpr) for kind in (False, True))
    # Nine convolutions and the linear layer: forward and two gradients; that of the images may have been left out.
    assert plain == efficient >= 3 * 10 - 1


def test_memory_efficient_takes_less_memory(steps):
    plain, efficient = (steps[kind][1].memory_analysis().temp_size_in_bytes for kind in (False, True))
    assert efficient < 0.8 * plain


def _kept_channels(layers, efficient):
    """Channels of all the feature maps that a block of `layers` keeps for its gradient."""
    images = jnp.zeros((2, 6, 6, 3))
    model = DenseNet(stage_sizes=(layers,), growth_rate=4, stem_width=6, memory_efficient=efficient)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def backward(variables):
        def logits(params):
            return model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])[0]

        return jax.vjp(logits, variables["params"])[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, variables))
    return sum(leaf.shape[-1] for leaf in kept if leaf.shape[:-1] == (2, 6, 6))


def test_what_is_kept_grows_with_the_number_of_layers_not_with_its_square():
    """Pleiss et al. 2017, section 3."""
    plain, efficient = ([_kept_channels(layers, kind) for layers in (2, 4, 6)] for kind in (False, True))
    growth = np.diff(efficient)
    assert growth[0] == growth[1], efficient
    # The convolutions' 4k + k channels of each layer, and for the last BN and ReLU, six times its k more inputs; two of
    # them are masks.
    assert growth[0] <= 2 * (5 + 6) * 4
    assert np.diff(plain, 2)[0] > 0 and plain[-1] > 3 * efficient[-1], (plain, efficient)


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("efficient", [False, True])
def test_dropout_follows_every_convolution_but_the_stems(bottleneck, efficient):
    """Section 3, training; the form that saves memory keeps it, which the authors' own lost."""
    model = DenseNet(**BASIC | {"bottleneck": bottleneck}, dropout_rate=0.2, memory_efficient=efficient)
    kinds = {Conv: "C", BatchNorm: "B", Dropout: "D"}
    called = []

    def record(call, args, kwargs, context):
        if type(context.module) in kinds and context.method_name == "__call__":
            called.append(kinds[type(context.module)])
            if isinstance(context.module, nn.Dropout):
                assert context.module.rate == 0.2 and not context.module.deterministic
        return call(*args, **kwargs)

    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(IMAGES))
    with nn.intercept_methods(record):
        jax.eval_shape(
            lambda v: model.apply(v, IMAGES, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}),
            variables,
        )
    layer = "BCD" * (1 + bottleneck)
    once = "".join(called).replace("DD", "D")  # ours calls Flax's
    assert once == f"C {layer * 2} BCD {layer * 2} B".replace(" ", "")


@pytest.mark.parametrize("efficient", [False, True])
def test_dropout_leaves_its_share_of_zeros_in_the_features(efficient, draw_variables):
    images = np.random.default_rng(3).normal(size=(4, 16, 16, 3)).astype(np.float32)
    options = {"bottleneck": False, "dropout_rate": 0.2, "memory_efficient": efficient, "features_only": True}
    model = DenseNet(stage_sizes=(2,), growth_rate=4, stem_width=6, **options)
    variables = draw_variables(model, images)
    rngs = {"dropout": jax.random.key(1)}
    trained, _ = jax.jit(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"], rngs=rngs))(variables)
    share = (np.asarray(trained["stage_1"]) == 0).mean((0, 1, 2))
    assert np.all(share[:6] == 0)  # the stem's
    # 1,024 draws in each of the others: a standard deviation of 0.0125.
    np.testing.assert_allclose(share[6:], 0.2, atol=0.06)
    assert not np.any(np.asarray(jax.jit(model.apply)(variables, images)["stage_1"]) == 0)


def test_dropout_without_a_key_says_how():
    model = DenseNet(**BASIC, dropout_rate=0.2)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(IMAGES))
    with pytest.raises(InputError, match=r"dropout_rate=0.2 with train=True draws: pass rngs=\{'dropout': key\}"):
        jax.eval_shape(lambda v: model.apply(v, IMAGES, train=True, mutable=["batch_stats"]), variables)


@pytest.mark.parametrize(
    ("name", "stem", "transitions", "final"),
    # Stem: 16 channels, or 2k; transitions: the share theta of all channels so far, k for each layer.
    [
        ("densenet_40_12", 16, [160, 304], 448),
        ("densenet_bc_100_12", 24, [(24 + 16 * 12) // 2, (108 + 192) // 2], 150 + 192),
        ("densenet_121", 64, [128, 256, 512], 1024),
        ("densenet_161", 96, [192, 384, 1056], 2208),
    ],
)
def test_widths_of_stem_transitions_and_end(name, stem, transitions, final):
    params = jax.eval_shape(create_model(name).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert params["stem"]["conv"]["kernel"].shape[-1] == stem
    assert [params[f"transition_{i + 1}"]["conv"]["kernel"].shape[-1] for i in range(len(transitions))] == transitions
    assert params["head"]["linear"]["kernel"].shape[0] == final


def test_a_bottleneck_has_4k_channels_and_a_transition_rounds_down():
    """Section 3: 1x1 convolutions of 4k; floor(theta m), here of 11 / 2."""
    params = jax.eval_shape(DenseNet(**BC).init, jax.random.key(0), jnp.asarray(IMAGES))["params"]
    assert params["stage_1"]["layer_2"]["conv_1"]["kernel"].shape == (1, 1, 8, 12)
    assert params["stage_1"]["layer_2"]["conv_2"]["kernel"].shape == (3, 3, 12, 3)
    assert params["transition_1"]["conv"]["kernel"].shape == (1, 1, 11, 5)


@pytest.mark.parametrize(
    ("fields", "least"), [({}, 4), ({"stem": "imagenet"}, 13), ({"stem": "imagenet", "stage_sizes": (1,) * 4}, 29)]
)
def test_the_least_image_ends_in_one_pixel(fields, least):
    model = DenseNet(**{"stage_sizes": (1, 1, 1)} | fields, growth_rate=2, stem_width=2, features_only=True)
    assert model.minimum_size == least

    def final(size):
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0]["final"], images).shape

    assert final(least)[1:3] == (1, 1)
    with pytest.raises(InputError, match=f"at least {least} x {least} pixels"):
        final(least - 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compression": 0}, r"compression: expected a number in \(0, 1\], got 0"),
        ({"compression": 1.5}, "compression: .* got 1.5"),
        ({"growth_rate": 0}, "growth_rate: expected positive integers, got 0"),
        ({"stage_sizes": ()}, "stage_sizes: expected positive integers"),
        ({"dropout_rate": 1.0}, r"dropout_rate: expected a number in \[0, 1\), got 1.0"),
        ({"stem": "mnist"}, "stem: expected one of 'cifar', 'cifar_max_pool', 'imagenet', got 'mnist'"),
    ],
)
def test_wrong_options_are_told_what_is_right(fields, message):
    with pytest.raises(InputError, match=message):
        DenseNet(**fields)
