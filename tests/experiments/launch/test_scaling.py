"""The prediction of the scaling report, by hand; and the report of the command."""

import importlib.util
import math
import typing

import pytest

from experiments.cifar import main
from experiments.configs.base import InterconnectName
from experiments.launch.scaling import CHIPS, INTERCONNECTS, Interconnect, predict, sent, slices, transfer_seconds
from experiments.runtime.targets import CHIPS as TARGETS
from resjax.train.collectives import Collective
from tests.helpers.command import outcome

NET = Interconnect(4, 100.0, 10.0, inner_latency=0.5, outer_latency=2.0, chip="tpu_v5e", source="")
GRADIENT = Collective("all-reduce", (("f32", (100,)),))
SUMS = Collective("all-reduce", (("f32", (10,)),), times=2)


def test_a_ring_in_the_domain_then_a_ring_between_domains():
    assert transfer_seconds(400, 1, 1, NET) == 0
    assert transfer_seconds(400, 1, 2, NET) == pytest.approx(2 * 1 / 2 * 4 + 0.5)
    # Sixteen chips: 2 * 3/4 of the bytes within; a quarter of them, 2 * 3/4 times, between the four domains.
    assert transfer_seconds(400, 3, 16, NET) == pytest.approx(2 * 3 / 4 * 4 + 2 * 3 / 4 * 10 + 3 * 2.5)


def test_gradients_hide_behind_two_thirds_of_a_step_and_other_sums_do_not():
    step = (9.0, *sent({4: [GRADIENT, SUMS]}, 4))
    one, four = (predict(*step, gradient_bytes=400, chips=chips, net=NET) for chips in (1, 4))
    assert (one.chips, one.serial, one.overlapped) == (1, 9.0, 9.0)
    gradient = 1.5 * 4 + 0.5
    rest = 1.5 * 80 / 100 + 2 * 0.5
    assert four.serial == pytest.approx(9 + gradient + rest)
    assert four.overlapped == pytest.approx(9 + (gradient - 6) + rest)


def test_every_interconnect_gets_slower_with_chips_and_never_faster_than_one():
    assert tuple(INTERCONNECTS) == typing.get_args(InterconnectName)
    for net in INTERCONNECTS.values():
        times = [predict(0.1, *sent({1: [], 4: [GRADIENT, SUMS]}, chips), 400, chips, net).serial for chips in CHIPS]
        assert times == sorted(times) and times[0] == 0.1 and all(map(math.isfinite, times))


def test_sums_with_a_place_for_each_device_grow_beyond_the_slices_that_were_compiled():
    def step(chips):
        return [GRADIENT, Collective("all-reduce", (("f32", (chips, 10)),), times=2)]

    compiled = {1: [], **{chips: step(chips) for chips in (4, 16)}}
    assert [sent(compiled, chips)[0] for chips in (1, 4, 16)] == [0, 400 + 80 * 4, 400 + 80 * 16]
    for chips in (64, 4096):
        assert sent(compiled, chips) == (sum(c.bytes for c in step(chips)), 3)
    halves = {4: [Collective("all-gather", (("f32", (100,)),))]}
    assert sent(halves, 4) == sent(halves, 64) == (200, 1)


def test_the_step_is_compiled_for_slices_from_one_chip_to_the_largest():
    assert slices("tpu_v5e") == {n * n: f"tpu_v5e:{n}x{n}" for n in (1, 2, 4, 8, 16)}
    assert list(slices("tpu_v5p")) == [*CHIPS, 6144] and slices("tpu_v5p")[6144] == "tpu_v5p:16x16x24"
    assert slices("h100") == {1: "h100:1", 4: "h100:4", 16: "h100:2x8"}
    for net in INTERCONNECTS.values():
        assert net.chip in TARGETS


def test_without_the_compiler_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    flags = ("--config", "quickstart", "--model.name", "resnet_8", "--scaling_report", "--workdir", tmp_path / "run")
    code, _, err = outcome(main, capsys, *flags)
    assert code == 2 and err.count("\n") == 1 and "pip install -e '.[tpu]'" in err
    assert not (tmp_path / "run").exists()
