"""Kinds of optimizers: their fields and defaults, what another kind changes, and that each of them trains."""

import dataclasses
import inspect
import json
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from experiments.configs import Config, ModelConfig, OptimizerConfig, ScheduleConfig
from experiments.configs.base import OPTIMIZER_KINDS
from experiments.configs.cifar import CONFIGS
from experiments.configs.named import changed_fields, compare, with_optimizer_kind
from experiments.configs.programs import CIFAR
from experiments.launch.checks import check_values
from experiments.launch.command_line import parse
from experiments.launch.dry_run import memory_estimate, print_dry_run
from experiments.training.optimizer import build_optimizer
from experiments.training.workdir import Workdir
from resjax import InputError, create_model, train

_FIELDS = {field.name: field for field in dataclasses.fields(OptimizerConfig)}
# Fields of an earlier version, which knew SGD alone.
_OF_SGD = """learning_rate momentum nesterov momentum_form weight_decay decay head_decay_factor clip_norm reset_momentum
    bias_factor scale_factor""".split()


def _parsed(flags, name="quickstart"):
    return parse(CIFAR, CONFIGS, ["--config", name, *flags.split()])[2]


def test_the_table_is_of_the_fields_and_of_what_makes_the_optimizers():
    kinds = typing.get_args(typing.get_type_hints(OptimizerConfig)["kind"])
    assert set(kinds) == set(OPTIMIZER_KINDS) == set(train.OPTIMIZERS)
    of_some = {name for name, field in _FIELDS.items() if field.default is None} - {"lookahead_step_size"}
    assert of_some == set().union(*OPTIMIZER_KINDS.values())
    for kind, own in OPTIMIZER_KINDS.items():
        taken = inspect.signature(train.OPTIMIZERS[kind]).parameters
        assert own.keys() - taken.keys() <= {"reset_momentum", "weight_decay"}
        # What only it takes has the same default there.
        same = own.keys() & taken.keys() - {"learning_rate", "weight_decay"}
        assert {name: own[name] for name in same} == {name: taken[name].default for name in same}


@pytest.mark.parametrize("kind", OPTIMIZER_KINDS)
def test_a_kind_has_its_defaults_and_takes_its_fields_alone(kind):
    config, own = OptimizerConfig(kind), OPTIMIZER_KINDS[kind]
    for name in (name for name, field in _FIELDS.items() if field.default is None):
        assert getattr(config, name) == own.get(name, False if _FIELDS[name].type is bool else None)
    for name in set().union(*OPTIMIZER_KINDS.values()) - own.keys():
        having = " or ".join(other for other, fields in OPTIMIZER_KINDS.items() if name in fields)
        value = {"trust_ratio": "all", "momentum_form": "torch"}.get(name, True)
        with pytest.raises(InputError, match=f"--optimizer.{name}: {kind} has no .*; it is of .*kind {having}$"):
            OptimizerConfig(kind, **{name: value})


def test_a_flag_of_another_kind_says_which_kind_has_it():
    for flags, told in (
        ("--optimizer.kind adamw --optimizer.momentum 0.5", "adamw has no such field; it is of"),
        ("--optimizer.b2 0.99", "sgd has no such field; it is of --optimizer.kind adamw or lamb or muon"),
        ("--optimizer.lookahead_step_size 0.8", "there is no lookahead"),
        ("--optimizer.kind adam", "expected sgd, adamw, lamb, lars or muon, got"),
    ):
        with pytest.raises(InputError, match=re.escape(told)):
            _parsed(flags)


def test_another_kind_starts_from_its_own_defaults():
    recipe = CONFIGS["speedrun"].config
    config = _parsed("--optimizer.b2 0.9 --optimizer.kind=muon --optimizer.no_nesterov", "speedrun")
    assert config.optimizer == OptimizerConfig(
        "muon", b2=0.9, nesterov=False, decay="kernels", bias_factor=64.0, scale_factor=0.0
    )
    for name in ("warmup_from", "final"):  # in proportion to the peak
        shares = [getattr(c.schedule, name) / c.optimizer.learning_rate for c in (config, recipe)]
        assert shares[0] == pytest.approx(shares[1]) and shares[0] > 0
    assert changed_fields(CONFIGS["speedrun"], config) == {
        "optimizer.kind": "muon",
        "optimizer.nesterov": False,
        "optimizer.b2": 0.9,
    }
    assert [*compare(CONFIGS["speedrun"], config.identity()).changes] == [
        "optimizer.kind",
        "optimizer.nesterov",
        "optimizer.b2",
    ]
    assert _parsed("--optimizer.kind sgd", "speedrun") == recipe == with_optimizer_kind(recipe, "sgd")


@pytest.mark.parametrize("kind", OPTIMIZER_KINDS)
def test_a_saved_config_is_read_as_it_was(kind):
    config = dataclasses.replace(Config(ModelConfig("resnet_20")), optimizer=OptimizerConfig(kind, lookahead_period=5))
    assert Config.from_identity(json.loads(json.dumps(config.identity()))) == config


def test_a_run_of_a_version_without_kinds_goes_on(tmp_path):
    config = CONFIGS["resnet_20"].config
    new = {f"optimizer.{name}" for name in _FIELDS if name not in _OF_SGD}
    earlier = {key: value for key, value in config.identity().items() if key not in new}
    workdir = Workdir(tmp_path)
    workdir.start({"program": CIFAR, "name": "resnet_20", "config": earlier})
    workdir.check_config(config)
    other = with_optimizer_kind(config, "adamw")
    with pytest.raises(InputError, match="optimizer.kind: 'sgd' there, 'adamw' here"):
        workdir.check_config(other)


def test_numbers_that_no_optimizer_can_have_are_named():
    for flags, told in (
        ("--optimizer.kind adamw --optimizer.b2 1", r"--optimizer.b2: expected a number in \[0, 1\), got 1"),
        ("--optimizer.kind adamw --optimizer.eps -1", "--optimizer.eps: expected a number >= 0"),
        ("--optimizer.kind muon --optimizer.newton_schulz_steps 0", "newton_schulz_steps: expected a number > 0"),
        ("--optimizer.kind lars --optimizer.trust_coefficient 0", "trust_coefficient: expected a number > 0"),
        ("--optimizer.lookahead_period -1", "--optimizer.lookahead_period: expected a number >= 0"),
        ("--optimizer.sam_rho nan", "--optimizer.sam_rho: expected a number >= 0, got nan"),
        ("--optimizer.lookahead_period 5 --optimizer.lookahead_step_size 0", r"step_size: expected .* \(0, 1\]"),
    ):
        with pytest.raises(InputError, match=told):
            check_values(_parsed(flags), 50_000)


def _config(kind="sgd", schedule=None, **fields):
    schedule = schedule or ScheduleConfig("constant")
    return Config(
        ModelConfig("resnet_8"), batch_size=10, optimizer=OptimizerConfig(kind, **fields), schedule=schedule, epochs=2
    )


CASES = {kind: {"kind": kind} for kind in OPTIMIZER_KINDS} | {
    "sam": {"sam_rho": 0.05},
    "lookahead": {"kind": "adamw", "lookahead_period": 4},
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_lowers_a_loss_in_20_steps(case):
    """Of a linear layer and a scale on data that a linear layer explains, with the rates of the recipe or their own."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 6)), jnp.float32)
    params = {
        "body": {"kernel": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32), "scale": jnp.ones(4)},
        "head": {"kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), "bias": jnp.zeros(3)},
    }
    labels = jnp.asarray((x @ rng.normal(size=(6, 3))).argmax(1))

    def loss(params):
        hidden = jnp.tanh(x @ params["body"]["kernel"] * params["body"]["scale"])
        logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer, _ = build_optimizer(_config(**CASES[case]), 100)
    update = optax.with_extra_args_support(optimizer).update

    @jax.jit
    def step(params, state):
        updates, state = update(jax.grad(loss)(params), state, params, gradient_at=jax.grad(loss))
        return optax.apply_updates(params, updates), state

    state, first = optimizer.init(params), loss(params)
    for _ in range(20):
        params, state = step(params, state)
    assert loss(params) < first - 0.01


@pytest.mark.parametrize("kind", OPTIMIZER_KINDS)
def test_schedules_and_a_warm_up_until_an_error_are_of_every_kind(kind):
    schedule = ScheduleConfig(
        boundaries=(1,), warmup="constant", warmup_from=OPTIMIZER_KINDS[kind]["learning_rate"] / 10
    )
    schedule = dataclasses.replace(schedule, warmup_until_error=80.0)
    fields = {"weight_decay": 0.0, "sam_rho": 0.1, "lookahead_period": 50}
    optimizer, rates = build_optimizer(_config(kind, schedule, **fields), 100)
    assert rates(10) == pytest.approx(rates(9) / 10)
    params = {"conv": {"kernel": jnp.ones((1, 1, 2, 2)).at[0, 0, 0, 0].set(2)}}
    state = optimizer.init(params)
    gradient = {"conv": {"kernel": jnp.arange(1.0, 5.0).reshape(1, 1, 2, 2)}}
    assert train.learning_rate_factor(state) == pytest.approx(0.1)
    known = {"gradient_at": lambda params: gradient}
    slow, _ = optimizer.update(gradient, state, params, error_of_batch=1.0, **known)
    _, state = optimizer.update(gradient, state, params, error_of_batch=-20.0, **known)
    fast, state = optimizer.update(
        gradient, optimizer.init(params)._replace(inner=state.inner), params, error_of_batch=1.0, **known
    )
    assert train.learning_rate_factor(state) == 1
    if kind in ("adamw", "lamb"):  # the same gradient again gives the same direction
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / 10, rtol=1e-4), slow, fast)


def test_the_dry_run_counts_the_state_and_the_second_pass():
    model = create_model("resnet_8")

    def estimate(**fields):
        config = _config(**fields)
        optimizer, schedule = build_optimizer(config, 100)
        console = Console(record=True, width=200, quiet=True)
        print_dry_run(config, model, optimizer, schedule, (8, 8, 3), 100, console)
        return memory_estimate(config, model, optimizer, (8, 8, 3), 100)

    sgd, adamw, muon = (estimate(kind=kind) for kind in ("sgd", "adamw", "muon"))
    params = sgd["gradients"]
    assert sgd["optimizer state"] - params < 64 and adamw["optimizer state"] - 2 * params < 64
    assert params < muon["optimizer state"] < 1.1 * params  # Adam's, of what is no kernel, is little
    both = estimate(sam_rho=0.05, lookahead_period=5)
    assert both["optimizer state"] - 2 * params < 64 and both["parameters and gradients uphill"] == 2 * params
