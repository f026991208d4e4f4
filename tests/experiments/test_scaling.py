"""The prediction of the scaling report, by hand; and the report of the command."""

import math
import typing

import pytest

from experiments.cifar import main
from experiments.configs.base import InterconnectName
from experiments.scaling import CHIPS, INTERCONNECTS, Interconnect, predict, transfer_seconds
from resjax.train.collectives import Collective
from tests.experiments.command import outcome

NET = Interconnect(domain=4, inner=100.0, outer=10.0, inner_latency=0.5, outer_latency=2.0, source="")
GRADIENT = Collective("all-reduce", (("f32", (100,)),))
SUMS = Collective("all-reduce", (("f32", (10,)),), times=2)


def test_a_ring_in_the_domain_then_a_ring_between_domains():
    assert transfer_seconds(400, 1, 1, NET) == 0
    assert transfer_seconds(400, 1, 2, NET) == pytest.approx(2 * 1 / 2 * 4 + 0.5)
    # Sixteen chips: 2 * 3/4 of the bytes within; a quarter of them, 2 * 3/4 times, between the four domains.
    assert transfer_seconds(400, 3, 16, NET) == pytest.approx(2 * 3 / 4 * 4 + 2 * 3 / 4 * 10 + 3 * 2.5)


def test_gradients_hide_behind_two_thirds_of_a_step_and_other_sums_do_not():
    one, four, *_ = predict(9.0, [GRADIENT, SUMS], gradient_bytes=400, net=NET)
    assert (one.chips, one.serial, one.overlapped) == (1, 9.0, 9.0)
    gradient = 1.5 * 4 + 0.5
    rest = 1.5 * 80 / 100 + 2 * 0.5
    assert four.serial == pytest.approx(9 + gradient + rest)
    assert four.overlapped == pytest.approx(9 + (gradient - 6) + rest)


def test_every_interconnect_gets_slower_with_chips_and_never_faster_than_one():
    assert tuple(INTERCONNECTS) == typing.get_args(InterconnectName)
    for net in INTERCONNECTS.values():
        times = [p.serial for p in predict(0.1, [GRADIENT, SUMS], 400, net)]
        assert times == sorted(times) and times[0] == 0.1 and all(map(math.isfinite, times))


def test_the_command_reports_and_trains_nothing(tmp_path, capsys):
    code, out, _ = outcome(
        main,
        capsys,
        *("--config", "quickstart", "--model.name", "resnet_8", "--batch_size", "16", "--eval_batch_size", "16"),
        *("--model.norm_scope", "2", "--scaling_report", "--interconnect", "tpu_v6e", "--workdir", tmp_path / "run"),
    )
    assert code == 0 and not (tmp_path / "run").exists()
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == [f"{chips:,}" for chips in CHIPS]
    assert "BN scope 2" in out and "Assumptions" in out and "all-reduce" in out
