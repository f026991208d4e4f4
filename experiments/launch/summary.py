"""Builds summary.json for any task."""

import datetime
from collections.abc import Sequence
from typing import Any

from experiments.configs.base import RunConfig
from experiments.configs.named import NamedRun, changed_fields, command
from experiments.runtime.machine import describe_devices, git_commit, hardware, versions
from experiments.training.metric import Metric
from experiments.training.workdir import Workdir


def summarize(
    program: str,
    name: str,
    named: NamedRun,
    config: RunConfig,
    records: Sequence[dict[str, Any]],
    workdir: Workdir,
    metric: Metric,
    description: str,
) -> dict[str, Any]:
    """The contents of summary.json; `hours` covers training and evaluation, without compilation."""
    changed = changed_fields(named, config)
    best, chosen = metric.best(records), "validation_loss" in records[-1]
    seconds, tested = (sum(record[key] for record in records) for key in ("train_seconds", "test_seconds"))
    return {
        "name": name,
        "command": command(program, name, changed),
        "model": config.model.name,
        "dataset": config.dataset,
        "dataset_description": description,
        "epochs": records[-1]["epoch"],
        "steps": records[-1]["step"],
        "seed": config.seed,
        f"final_{metric.key}": records[-1][metric.key],
        f"best_{metric.key}": best[metric.key],
        "best_epoch": best["epoch"],
        "best_is_chosen_on": "the validation images" if chosen else "the test images",
        f"reported_{metric.key}": (best if chosen else records[-1])[metric.key],
        "source": named.source,
        "deviations": list(named.deviations),
        "changed_from_named_config": changed,
        "train_seconds": seconds,
        "test_seconds": tested,
        "hours": (seconds + tested) / 3600,
        "images_per_second": records[-1]["step"] * config.batch_size / max(seconds, 1e-9),
        "devices": describe_devices(),
        "hardware": hardware(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git_commit": git_commit(),
        "workdir": str(workdir.path),
    }
