"""SGD against the update that Torch documents, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import InputError
from resjax.train import kernels, learning_rate_factors, sgd

LR, MOMENTUM, DECAY = 0.3, 0.9, 0.05


def _torch_sgd(params, gradients, nesterov, decayed, resets=()):
    """v = m v + (g + w p); p -= lr v, or lr (g + w p + m v)."""
    params = {name: value.copy() for name, value in params.items()}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    for step, gradient in enumerate(gradients):
        for name in params:
            if step in resets:
                velocity[name] *= 0
            g = gradient[name] + (DECAY * params[name] if name in decayed else 0)
            velocity[name] = MOMENTUM * velocity[name] + g
            params[name] -= LR * (g + MOMENTUM * velocity[name] if nesterov else velocity[name])
    return params


def _run(optimizer, params, gradients):
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradient), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 4), "scale": (4,), "bias": (4,)}
    draw = lambda: {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}  # noqa: E731
    return draw(), [draw() for _ in range(6)]


@pytest.mark.quick
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", ["all", "kernels"])
@pytest.mark.parametrize("resets", [(), (2, 4)])
def test_sgd_is_torchs(problem, nesterov, decay, resets):
    params, gradients = problem
    decayed = params.keys() if decay == "all" else {"kernel"}
    expected = _torch_sgd(params, gradients, nesterov, decayed, resets)
    optimizer = sgd(LR, MOMENTUM, nesterov, DECAY, decay, momentum_resets=resets)
    got = _run(optimizer, params, gradients)
    for name in params:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize("nesterov", [False, True])
def test_caffes_velocity_keeps_the_steps_of_the_old_rate(problem, nesterov):
    """Against Caffe's SGDSolver and NesterovSolver in NumPy, through a drop of the rate, a reset and a warm-up."""
    params, gradients = problem
    expected = {name: value.copy() for name, value in params.items()}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    rates = [0.03, 0.3, 0.3, 0.03, 0.03, 0.03]
    for step, (rate, gradient) in enumerate(zip(rates, gradients, strict=True)):
        for name, value in expected.items():
            old = velocity[name] * (step != 2)
            velocity[name] = MOMENTUM * old + rate * (gradient[name] + DECAY * value)
            value -= (1 + MOMENTUM) * velocity[name] - MOMENTUM * old if nesterov else velocity[name]
    schedule = optax.piecewise_constant_schedule(0.3, {3: 0.1})
    warm_up = optax.scale_by_schedule(lambda step: jnp.where(step == 0, 0.1, 1.0))
    options = {"momentum_resets": (2,), "warm_up": warm_up, "momentum_form": "caffe"}
    got = _run(sgd(schedule, MOMENTUM, nesterov, DECAY, **options), params, gradients)
    torchs = _run(sgd(schedule, MOMENTUM, nesterov, DECAY, **options | {"momentum_form": "torch"}), params, gradients)
    for name in params:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-6)
        assert np.abs(torchs[name] - expected[name]).max() > 0.1


def test_factors_slow_biases_down_and_hold_scales(problem):
    params, gradients = problem
    factors = learning_rate_factors(biases=0.5, scales=0.0)
    got = _run(sgd(LR, MOMENTUM, True, factors=factors), params, gradients)
    plain = _run(sgd(LR, MOMENTUM, True), params, gradients)
    np.testing.assert_array_equal(got["scale"], params["scale"])
    np.testing.assert_array_equal(got["kernel"], plain["kernel"])
    np.testing.assert_allclose(got["bias"] - params["bias"], (plain["bias"] - params["bias"]) / 2, rtol=1e-5)


def test_clipping_bounds_the_gradient_before_decay(problem):
    params, gradients = problem
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients[0].values()))
    assert norm > 0.5
    clipped = {name: g * 0.5 / norm for name, g in gradients[0].items()}
    got = _run(sgd(LR, 0.0, weight_decay=DECAY, clip_norm=0.5), params, gradients[:1])
    for name in params:
        np.testing.assert_allclose(got[name], params[name] - LR * (clipped[name] + DECAY * params[name]), rtol=1e-5)


@pytest.mark.parametrize("decay", ["all", "kernels"])
def test_the_head_decays_by_its_own_factor(problem, decay):
    layer, gradients = problem
    params = {"head": {"linear": layer}, "head_conv_1": layer, "trunk": layer, "final_conv": layer}
    gradients = [jax.tree.map(lambda _, g=g: g, params, is_leaf=lambda node: node is layer) for g in gradients]
    got = _run(sgd(LR, MOMENTUM, False, DECAY, decay, head_decay_factor=10.0), params, gradients)
    plain = _run(sgd(LR, MOMENTUM, False, DECAY, decay), params, gradients)
    tenfold = _run(sgd(LR, MOMENTUM, False, 10 * DECAY, decay), params, gradients)
    for name in ("head", "head_conv_1"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got[name], tenfold[name])
    for name in ("trunk", "final_conv"):
        jax.tree.map(np.testing.assert_array_equal, got[name], plain[name])
    assert np.abs(tenfold["trunk"]["kernel"] - plain["trunk"]["kernel"]).max() > 0.1


def test_kernels_masks_convolution_and_linear_weights_alone():
    from resjax import create_model

    variables = jax.eval_shape(create_model("resnet_8").init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    mask = kernels(variables["params"])
    paths = jax.tree_util.tree_flatten_with_path(mask)[0]
    assert {path[-1].key for path, chosen in paths if chosen} == {"kernel"}
    assert {path[-1].key for path, chosen in paths if not chosen} == {"scale", "bias"}


def test_unknown_names_are_named():
    with pytest.raises(InputError, match="'all', 'kernels', 'not_biases', got 'bn'"):
        sgd(0.1, decay="bn")
    with pytest.raises(InputError, match="momentum_form: expected 'torch' or 'caffe', got 'mxnet'"):
        sgd(0.1, momentum_form="mxnet")
