"""AdamW, LAMB, LARS and Muon against their formulas, written out in NumPy."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import InputError, train

DECAY, STEPS = 0.05, 5
RATES = [0.1, 0.1, 0.02, 0.02, 0.05]
SHAPES = {
    "conv": {"kernel": (3, 3, 2, 4)},
    "norm": {"scale": (4,), "bias": (4,)},
    "wide": {"kernel": (4, 30)},
    "head": {"linear": {"kernel": (4, 3), "bias": (3,)}},
}


def _schedule(step):
    return jnp.asarray(RATES)[step]


def _draw(rng):
    drawn = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(drawn, SHAPES, is_leaf=lambda node: isinstance(node, tuple))


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    return _draw(rng), [_draw(rng) for _ in range(STEPS)]


def _run(optimizer, params, gradients):
    params = jax.tree.map(jnp.asarray, params)
    state, update = optimizer.init(params), jax.jit(optimizer.update) if len(gradients) > 1 else optimizer.update
    for gradient in gradients:
        updates, state = update(jax.tree.map(jnp.asarray, gradient), state, params)
        params = optax.apply_updates(params, updates)
    return params


def _expected(of_leaf, params, gradients):
    """Runs `of_leaf(path, param)`, a generator that is sent (rate, gradient, param) and yields the update, per leaf."""

    def run(path, param, *gradients):
        name = "/".join(entry.key for entry in path)
        steps, value = of_leaf(name), np.asarray(param, np.float64)
        next(steps)
        for rate, gradient in zip(RATES, gradients, strict=True):
            value = value + steps.send((rate, np.asarray(gradient, np.float64), value))
        return value

    return jax.tree_util.tree_map_with_path(run, params, *gradients)


def _adam(b1, b2, eps):
    m = v = t = 0
    direction = None
    while True:
        gradient = yield direction
        m, v, t = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2, t + 1
        direction = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def _started(generator):
    next(generator)
    return generator


def _adamw(name, rate_factor=1.0, b1=0.8, b2=0.9, eps=1e-3, trust=False):
    direction, update = _started(_adam(b1, b2, eps)), None
    while True:
        rate, gradient, param = yield update
        step = direction.send(gradient) + DECAY * param
        ratio = np.linalg.norm(param) / np.linalg.norm(step) if trust and name.endswith("kernel") else 1
        update = -rate * rate_factor * ratio * step


def _lars(name, momentum=0.7, coefficient=0.01, eps=0.1, nesterov=True):
    velocity, update = 0, None
    while True:
        rate, gradient, param = yield update
        step = gradient + DECAY * param
        if name.endswith("kernel"):
            step = coefficient * np.linalg.norm(param) / (np.linalg.norm(step) + eps) * step
        velocity = momentum * velocity + rate * step
        update = -(rate * step + momentum * velocity if nesterov else velocity)


def _newton_schulz(matrix, steps):
    """Of Jordan's post, on whichever side is the smaller."""
    x = matrix / np.linalg.norm(matrix)
    x = x.T if len(matrix) > matrix.shape[1] else x
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


def _muon(name, momentum=0.6, steps=4, nesterov=True):
    if "head" in name or not name.endswith("kernel"):
        yield from _adamw(name, rate_factor=0.25)
    average, t, update = 0, 0, None
    while True:
        rate, gradient, param = yield update
        average, t = momentum * average + (1 - momentum) * gradient, t + 1
        step = average
        if nesterov:  # both without their bias, the average after one step more
            step = momentum * average / (1 - momentum ** (t + 1)) + (1 - momentum) * gradient / (1 - momentum**t)
        matrix = step.reshape(-1, step.shape[-1])
        scale = np.sqrt(max(1, matrix.shape[1] / matrix.shape[0]))
        step = scale * _newton_schulz(matrix, steps).reshape(step.shape)
        update = -rate * (step + DECAY * param)


CASES = {
    "adamw": (_adamw, {"b1": 0.8, "b2": 0.9, "eps": 1e-3}),
    "lamb": (lambda name: _adamw(name, trust=True), {"b1": 0.8, "b2": 0.9, "eps": 1e-3}),
    "lars": (_lars, {"momentum": 0.7, "nesterov": True, "trust_coefficient": 0.01, "eps": 0.1}),
    "muon": (
        _muon,
        {"momentum": 0.6, "newton_schulz_steps": 4, "adam_factor": 0.25, "b1": 0.8, "b2": 0.9, "eps": 1e-3},
    ),
}


@pytest.mark.quick
@pytest.mark.parametrize("kind", CASES)
def test_updates_are_those_of_the_formula(problem, kind):
    of_leaf, options = CASES[kind]
    got = _run(train.OPTIMIZERS[kind](_schedule, **options, weight_decay=DECAY), *problem)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), got, _expected(of_leaf, *problem))


@pytest.mark.parametrize("kind", CASES)
def test_decay_clipping_factors_and_warm_up_are_common(problem, kind):
    """Each against the same optimizer without it, in the first step."""
    params, gradients = problem
    make = train.OPTIMIZERS[kind]

    def step(gradient=gradients[0], **options):
        return jax.tree.map(np.subtract, _run(make(0.1, **options), params, [gradient]), params)

    def check(got, expected):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), got, expected)

    plain = step()
    kernels = step(weight_decay=DECAY, decay="kernels", head_decay_factor=3.0)
    every = step(weight_decay=DECAY)
    check(kernels["norm"], plain["norm"])
    check(kernels["conv"], every["conv"])
    check(kernels["head"]["linear"]["kernel"], step(weight_decay=3 * DECAY)["head"]["linear"]["kernel"])
    assert np.abs(every["norm"]["bias"] - plain["norm"]["bias"]).max() > 1e-5
    factors = train.learning_rate_factors(biases=0.5, scales=0.0)
    slower = step(factors=factors, warm_up=optax.scale(0.5))
    check(slower["norm"], {"scale": 0 * plain["norm"]["scale"], "bias": 0.25 * plain["norm"]["bias"]})
    check(slower["conv"]["kernel"], 0.5 * plain["conv"]["kernel"])
    norm = float(optax.tree.norm(gradients[0]))
    clipped = jax.tree.map(lambda leaf: leaf * 1e-3 / norm, gradients[0])
    check(step(clip_norm=1e-3, weight_decay=DECAY), step(clipped, weight_decay=DECAY))


@pytest.mark.parametrize("kind", ["lamb", "lars", "muon"])
def test_stacked_blocks_are_a_layer_each(problem, kind):
    params, gradients = problem
    apart = {f"block_{i}": tree for i, tree in enumerate([params, gradients[0], gradients[1]])}
    pushes = [{name: jax.tree.map(lambda leaf, k=k: leaf * k, g) for k, name in enumerate(apart, 1)} for g in gradients]
    stack = lambda tree: {"blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *tree.values())}  # noqa: E731
    optimizer = train.OPTIMIZERS[kind](_schedule, weight_decay=DECAY)
    expected = stack(_run(optimizer, apart, pushes))
    got = _run(optimizer, stack(apart), [stack(push) for push in pushes])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)


def test_a_bias_that_starts_at_zero_has_no_trust_ratio_and_kernels_have_by_default(problem):
    params, gradients = problem
    params = params | {"norm": jax.tree.map(np.zeros_like, params["norm"])}
    for trust_ratio in ("kernels", "all"):
        got = _run(train.lars(0.1, momentum=0.0, trust_ratio=trust_ratio), params, gradients[:1])
        np.testing.assert_allclose(got["norm"]["bias"], -0.1 * gradients[0]["norm"]["bias"], rtol=1e-5)
    ratio = 1e-3 * np.linalg.norm(params["wide"]["kernel"]) / np.linalg.norm(gradients[0]["wide"]["kernel"])
    moved = got["wide"]["kernel"] - params["wide"]["kernel"]
    np.testing.assert_allclose(moved, -0.1 * ratio * gradients[0]["wide"]["kernel"], rtol=2e-2, atol=1e-6)


def test_unknown_masks_are_named():
    with pytest.raises(InputError, match="trust_ratio: expected one of 'all', 'kernels', 'not_biases', got 'bn'"):
        train.lamb(0.1, trust_ratio="bn")
    with pytest.raises(InputError, match="decay: expected one of .* got 'bn'"):
        train.muon(0.1, decay="bn")


def test_every_optimizer_takes_what_is_common():
    options = {"weight_decay": 0.1, "decay": "kernels", "head_decay_factor": 2.0, "clip_norm": 1.0, "factors": None}
    for make in train.OPTIMIZERS.values():
        inspect.signature(make).bind(0.1, **options, warm_up=None)
        make(0.1, **options, warm_up=None)
