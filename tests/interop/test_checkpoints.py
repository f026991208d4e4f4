"""Weights among whatever else a checkpoint holds: what is taken, what is said, and what is refused."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax import InputError, load_torch_weights
from resjax.models import ResNet
from tests.helpers.repositories import POST_ACTIVATION, post_activation, two_stages

ENTRIES = post_activation().entries
OTHERS = {name: array + 1 for name, array in ENTRIES.items()}


def _under(prefix, entries=ENTRIES):
    return {prefix + name: array for name, array in entries.items()}


def _load(state_dict, model=POST_ACTIVATION, **options):
    """The stem's kernel, which tells ENTRIES from OTHERS, and what was said."""
    said = []
    variables = load_torch_weights(model, state_dict, report=said.append, **options)
    return np.asarray(variables["params"]["stem"]["conv"]["kernel"]), said


def _is(kernel, entries):
    return np.array_equal(kernel, entries["conv1.weight"].transpose(2, 3, 1, 0))


def _refusal(state_dict, model=POST_ACTIVATION, **options):
    with pytest.raises(InputError) as raised:
        load_torch_weights(model, state_dict, **options)
    message = str(raised.value)
    assert "\n" not in message and message.isprintable()
    return message


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "module.", "model.", "backbone.", "encoder.", "net.", "1.", "model._orig_mod.module.", "a.b.c.d."],
)
def test_any_prefix_is_found_from_the_names_behind_it(prefix):
    kernel, said = _load(_under(prefix))
    assert _is(kernel, ENTRIES) and said == []


@pytest.mark.parametrize(
    "more",
    [
        {"n_averaged": np.array(7)},
        {"module.total_ops": np.zeros(1), "module.layer1.0.bn1.total_params": np.zeros(1)},
        {"epoch": 3, "arch": "resnet", "best": None, "classes": ["cat", "dog"], "hyper_parameters": {"lr": 0.1}},
        {"optimizer": {"state": {0: {"exp_avg": np.ones((3, 3))}}, "param_groups": [{"lr": 0.1, "params": [0]}]}},
        {"lr_scheduler": {"base_lrs": np.ones(3)}, "optimizer_states": [{"state": {0: {"buf": np.ones(4)}}}]},
    ],
    ids=["averaged", "profiled", "plain values", "optimizer", "lists"],
)
def test_bookkeeping_beside_the_weights_stops_nothing(more):
    kernel, said = _load({**_under("module."), **more})
    assert _is(kernel, ENTRIES) and said == []


def test_a_real_weight_is_never_dropped_in_silence():
    """Beside the prefix it is said, behind it refused."""
    _, said = _load({"state_dict": _under("backbone.") | {"head.weight": np.ones((3, 8)), "loss.scale": np.ones(5)}})
    (line,) = said
    assert "not read, beside 'state_dict.backbone'" in line
    assert "state_dict.head.weight [3, 8]" in line and "state_dict.loss.scale [5]" in line
    assert "1 left over: se.weight [3, 5]" in _refusal(_under("backbone.") | {"backbone.se.weight": np.ones((3, 5))})


@pytest.mark.parametrize("names", [("0.", "1."), ("normalize.", ""), ("normalizer.new_", "model.")], ids=str)
def test_the_constants_of_a_normalisation_in_the_file_are_said(names):
    before, prefix = names
    constants = {
        f"{before}mean": np.array([0.4914, 0.4822, 0.4465], "f4").reshape(3, 1, 1),
        f"{before}std": np.full((1, 3, 1, 1), 0.25),
    }
    kernel, (line,) = _load({**constants, **_under(prefix)})
    assert _is(kernel, ENTRIES)
    assert f"{before}mean = [0.4914, 0.4822, 0.4465]" in line and f"{before}std = [0.25, 0.25, 0.25]" in line


TWO_SETS = {
    "timm": ({"state_dict": ENTRIES, "state_dict_ema": OTHERS}, "state_dict_ema", "state_dict"),
    "torchvision": ({"model": ENTRIES, "model_ema": _under("module.", OTHERS)}, "model_ema", "model"),
    "ema_state_dict": ({"net": ENTRIES, "ema_state_dict": OTHERS}, "ema_state_dict", "net"),
    "in one mapping": (_under("model.") | _under("ema_model.", OTHERS), "ema_model", "model"),
    "ema_pytorch": (_under("online_model.") | _under("ema_model.module.", OTHERS), "ema_model", "online_model"),
    "at the top": (ENTRIES | _under("ema.", OTHERS), "ema", "."),
    "callback": (
        {"state_dict": _under("model."), "callbacks": {"EMA": {"ema_weights": _under("model.", OTHERS)}}},
        "ema_weights",
        "state_dict",
    ),
    "lightning's averaging": (
        {"state_dict": _under("model.", OTHERS), "current_model_state": _under("model.")},
        "state_dict",
        "current_model_state",
    ),
}


@pytest.mark.parametrize("name", TWO_SETS)
def test_of_raw_and_averaged_weights_it_is_said_which_are_taken_and_the_key_chooses(name):
    state_dict, averaged, raw = TWO_SETS[name]
    kernel, (line,) = _load(state_dict)
    assert _is(kernel, OTHERS)
    assert "weights taken from" in line and averaged in line and raw in line and "--weights_key" in line
    for key, expected in ((averaged, OTHERS), (raw, ENTRIES)):
        kernel, said = _load(state_dict, key=key)
        assert _is(kernel, expected) and said == []


def test_averaged_parameters_without_statistics_are_no_whole_network():
    partial = {name: array for name, array in OTHERS.items() if "running" not in name}
    kernel, (line,) = _load({"state_dict": ENTRIES, "model_ema": partial})
    assert _is(kernel, ENTRIES) and "taken from 'state_dict', not from model_ema (32 arrays)" in line


def test_what_cannot_be_told_apart_is_asked_for():
    queries = {"state_dict": _under("module.encoder_q.") | _under("module.encoder_k.", OTHERS)}
    message = _refusal(queries)
    assert "2 sets" in message and "state_dict.module.encoder_q, state_dict.module.encoder_k" in message
    assert _is(_load(queries, key="encoder_k")[0], OTHERS)


def test_the_same_arrays_under_two_names_are_no_choice():
    kernel, said = _load({"model": _under("module.model.") | _under("module.attacker.model.")})
    assert _is(kernel, ENTRIES) and said == []


def test_an_unknown_key_lists_those_that_are_there():
    message = _refusal({"state_dict": ENTRIES, "state_dict_ema": OTHERS, "optimizer": {"lr": 1}}, key="state_dct")
    assert "'state_dct'" in message and "did you mean 'state_dict'" in message
    assert "the keys are: state_dict, state_dict_ema, optimizer" in message


def test_without_a_report_what_is_said_is_a_warning():
    with pytest.warns(UserWarning, match="weights taken from 'state_dict_ema'"):
        load_torch_weights(POST_ACTIVATION, TWO_SETS["timm"][0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_torch_weights(POST_ACTIVATION, _under("module."))


@pytest.mark.parametrize(
    ("value", "named"), [(np.nan, "1 NaN of 8 numbers"), (-np.inf, "1 infinite of 8 numbers")], ids=str
)
def test_numbers_that_are_not_finite_are_named_with_their_array(value, named):
    bad = ENTRIES["layer2.0.bn2.running_var"].copy()
    bad[3] = value
    message = _refusal(_under("module.", ENTRIES | {"layer2.0.bn2.running_var": bad}))
    assert f"layer2.0.bn2.running_var has {named}" in message


def test_a_3x3_stem_that_may_pool_is_said():
    """huyvnphan's ResNet-18 max-pools behind conv1, timm's does not: names, shapes and numbers are the same."""
    widths = {"widths": (64, 8), "stage_sizes": (1, 1)}
    entries = two_stages(64, 8)
    for stem in ("cifar", "cifar_max_pool"):
        _, (line,) = _load(entries, ResNet(**widths, shortcut="B", stem=stem))
        assert "huyvnphan/PyTorch_CIFAR10" in line and f"stem='{stem}'" in line
    model = ResNet(**widths, shortcut="B")
    images, variables = jnp.ones((1, 8, 8, 3)), load_torch_weights(model, entries, report=lambda line: None)
    stems = [
        jax.eval_shape(model.clone(stem=stem, features_only=True).apply, variables, images)["stem"].shape
        for stem in ("cifar", "cifar_max_pool")
    ]
    assert stems == [(1, 8, 8, 64), (1, 4, 4, 64)]
