"""One forward and backward pass, with every option, against PyTorch in float64: nothing but rounding separates them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax.models import ResNet, WideResNet
from tests.parity import twins

torch = twins.torch

RESNET_14 = {
    option: (
        ResNet(stage_sizes=(2, 2, 2), shortcut=option, dtype=jnp.float64),
        lambda option=option: twins.resnet(14, option),
    )
    for option in ("A", "B", "C", "none")
}
WRN_10_2 = {
    sizes: (
        WideResNet(depth=10, widening_factor=2, block_type=sizes, dtype=jnp.float64),
        lambda sizes=sizes: twins.wide_resnet(10, 2, sizes),
    )
    for sizes in ((3, 3), (3, 1, 3), (1, 3, 1), (1, 3), (3, 1), (3, 1, 1))
}
CASES = {f"resnet_14-{k}": v for k, v in RESNET_14.items()}
CASES |= {f"wrn_10_2-B({','.join(map(str, k))})": v for k, v in WRN_10_2.items()}


def _assert_close(ours, theirs, tolerance):
    """Each array, relative to its norm."""
    assert ours.keys() == theirs.keys()
    for key in ours:
        error = np.linalg.norm(ours[key] - theirs[key]) / np.linalg.norm(theirs[key])
        assert error < tolerance, (key, error)


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_statistics_are_torchs(name, in_float64, draw_variables):
    """From random parameters and running statistics, of images whose odd side each stride halves upwards."""
    model, build = CASES[name]
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(3, 10, 13, 3)), rng.integers(0, 10, 3)
    variables = draw_variables(model, images, dtype=np.float64)

    @jax.jit
    def run(params):
        def loss(params):
            logits, new = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (logits, new["batch_stats"])

        gradients, (logits, statistics) = jax.grad(loss, has_aux=True)(params)
        return model.apply(variables, images), logits, statistics, gradients

    evaluated, logits, statistics, gradients = run(variables["params"])
    twin = twins.load(build(), variables, torch.float64)
    inputs = torch.tensor(images.transpose(0, 3, 1, 2))
    _assert_close({"": evaluated}, {"": twin.eval()(inputs).detach().numpy()}, 1e-11)
    output = twin.train()(inputs)
    torch.nn.functional.cross_entropy(output, torch.tensor(labels)).backward()
    _assert_close({"": logits}, {"": output.detach().numpy()}, 1e-11)
    _assert_close(twins.to_torch(gradients), {k: p.grad.numpy() for k, p in twin.named_parameters()}, 1e-10)
    buffers = {k: b.numpy() for k, b in twin.named_buffers() if not k.endswith("num_batches_tracked")}
    _assert_close(twins.to_torch(statistics), buffers, 1e-11)


@pytest.mark.parametrize("name", ["resnet_14-A", "wrn_10_2-B(3,3)"])
def test_evaluation_in_float32_is_torchs(name, draw_variables):
    model, build = CASES[name]
    model = model.clone(dtype=jnp.float32)
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    variables = draw_variables(model, images)
    logits = jax.jit(model.apply)(variables, images)
    with torch.no_grad():
        expected = twins.load(build(), variables).eval()(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
