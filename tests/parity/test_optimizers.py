"""AdamW, Muon and SGD against those of PyTorch."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import train
from tests.parity import twins

torch = twins.torch

STEPS = 4
CASES = {
    "sgd": (
        lambda rate: train.sgd(rate, 0.8, True, 0.05),
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.05),
        1e-5,
    ),
    "adamw": (
        lambda rate: train.adamw(rate, 0.8, 0.9, 1e-4, weight_decay=0.05),
        lambda params: torch.optim.AdamW(params, lr=0.1, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.05),
        1e-5,
    ),
    # Without Nesterov's form, where optax takes both averages without their bias; PyTorch iterates in bfloat16.
    "muon": (
        lambda rate: train.muon(rate, 0.8, nesterov=False, weight_decay=0.05),
        lambda params: torch.optim.Muon(params, lr=0.1, momentum=0.8, nesterov=False, weight_decay=0.05),
        0.02,
    ),
}


@pytest.mark.parametrize("shape", [(6, 30), (30, 6)])
@pytest.mark.parametrize("kind", CASES)
def test_updates_are_pytorchs(kind, shape):
    make, torchs, tolerance = CASES[kind]
    rng = np.random.default_rng(0)
    start, *gradients = rng.normal(size=(STEPS + 1, *shape)).astype(np.float32)
    optimizer = make(lambda step: jnp.where(step < 2, 0.1, 0.03))
    params = {"kernel": jnp.asarray(start)}
    state = optimizer.init(params)
    weight = torch.nn.Parameter(torch.tensor(start.T.copy()))  # [outputs, inputs]
    twin = torchs([weight])
    for step, gradient in enumerate(gradients):
        twin.param_groups[0]["lr"] = 0.1 if step < 2 else 0.03
        weight.grad = torch.tensor(gradient.T.copy())
        twin.step()
        updates, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
    moved, expected = np.asarray(params["kernel"]) - start, weight.detach().numpy().T - start
    assert np.linalg.norm(moved - expected) < tolerance * np.linalg.norm(expected)
