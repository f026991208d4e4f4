"""The common part of all training commands, from flags to the last line. A `Program` adds what differs."""

import abc
import dataclasses
import pathlib
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import optax
from flax import linen as nn
from rich.console import Console
from rich.table import Table

from experiments.configs.base import RunConfig
from experiments.configs.named import NamedRun, changed_fields, compare, for_images
from experiments.launch.checks import check_sizes, check_values
from experiments.launch.dry_run import print_dry_run
from experiments.launch.quick_answers import print_quick_answers
from experiments.launch.scaling import print_scaling_report
from experiments.launch.seeds import (
    check_seeds,
    describe_group,
    does_not_fit,
    finished_seeds,
    outcome,
    plan_seeds,
    print_fit,
    seeds_of,
)
from experiments.launch.summary import summarize
from experiments.launch.target import check_target, print_target_report
from experiments.runtime.arguments import width
from experiments.runtime.backend import prepare_backend
from experiments.runtime.exit_codes import TrainingError
from experiments.runtime.machine import describe_devices, machine_identity
from experiments.runtime.processes import join_processes
from experiments.training.engine import Engine
from experiments.training.features import is_cached, on_features
from experiments.training.metric import Metric
from experiments.training.optimizer import build_optimizer
from experiments.training.pretrained import Start, check_start, start_of
from experiments.training.task import Task
from experiments.training.trackers import check_trackers
from experiments.training.workdir import Workdir, data_digest, open_workdir
from resjax.errors import InputError
from resjax.models import parameter_count
from resjax.train import same_everywhere

_FEW_UPDATES = 100  # with fewer, BN's statistics and the weights are hardly more than their initial ones


@dataclasses.dataclass(frozen=True)
class Sources:
    """The data of a run.

    Attributes:
      description: the images in words.
      num_classes: number of classes.
      train_images: number of training images.
      test_images: number of test images; None if it is not known yet.
      image_shape: (H, W, C) of an image as the network sees it.
      resident_images: images on the device at once, of a stream; None: all training images.
      data: the data that `Program.task` reads; None if it was not opened: the task can then only be compiled.
      identity: identity of the data, see `experiments.training.workdir.data_differences`; None if it was not opened.
      start: what `--pretrained` gives to start from; None without it.
    """

    description: str
    num_classes: int
    train_images: int
    image_shape: tuple[int, int, int]
    resident_images: int | None = None
    test_images: int | None = None
    data: Any = None
    identity: Mapping[str, Any] | None = None
    start: Start | None = None

    @property
    def streamed(self) -> bool:
        """Whether the images come in batches; otherwise all of them are on each device."""
        return self.resident_images is not None


class Program(abc.ABC):
    """The part of a training command that `run` does not provide.

    Attributes:
      name: the command, e.g. "python -m experiments.cifar".
      configs: its named configs.
      metric: the number that its runs are judged by.
    """

    name: str
    configs: Mapping[str, NamedRun]
    metric: Metric

    @abc.abstractmethod
    def expected(self, config: RunConfig) -> Sources | None:
        """Checks the flags; returns the data as expected before any image is read, None if that is unknown."""

    @abc.abstractmethod
    def open(self, config: RunConfig, console: Console) -> Sources:
        """Opens the images."""

    @abc.abstractmethod
    def task(
        self,
        config: RunConfig,
        sources: Sources,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        schedule: optax.Schedule,
        console: Console,
    ) -> Task:
        """The task; `run` adds its title and the published value."""

    def summary(self, sources: Sources, record: Mapping[str, Any]) -> dict[str, Any]:
        """Entries of summary.json besides those of `summarize`; `record` is the last line of metrics.jsonl."""
        return {}

    def remarks(self, summary: Mapping[str, Any]) -> Sequence[str | Table]:
        """Printed before the last line of a run."""
        return ()


def run(
    program: Program,
    name: str,
    named: NamedRun,
    config: RunConfig,
    console: Console,
    given: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Trains as `config` says; returns each seed's summary, as its workdir has it; empty after a dry run.

    Fields that the user has `given` stay as they are in a recipe that follows the number of images.

    Raises:
      InputError: before training, if a value or the data cannot be used; during it, for a broken image that ends the
        run.
      TrainingError, Interrupted: see `experiments.training.engine.Engine.run`.
    """
    sources = program.expected(config)
    if sources is not None:
        check_sizes(config, sources.train_images)
    check_start(config)
    check_trackers(config.tracker)
    check_seeds(config)
    machine = check_target(config)
    processes = 1 if machine else join_processes(config)
    batch_sizes = (config.batch_size, config.eval_batch_size, *({} if "batch_size" in given else named.batch_sizes))
    prepare_backend(batch_sizes, config.compilation_cache, processes)
    console.quiet = jax.process_index() > 0
    check_seeds(config, processes)
    sources = sources or program.open(config, console)
    named, config = _for_images(named, config, given, sources.train_images, console)
    model, optimizer, schedule = _build(program, config, sources)
    if config.dry_run:
        _print_cost(named, config, sources, (model, optimizer, schedule), console)
    if machine:
        print_target_report(config, machine, task_of(program, sources, console), sources.streamed, console)
    if config.scaling_report:
        print_scaling_report(config, task_of(program, sources, console)(config), sources.streamed, console)
    if config.dry_run or machine or config.scaling_report:
        return []
    if sources.data is None:  # the data may differ from what was expected
        sources = program.open(config, console)
        model, optimizer, schedule = _build(program, config, sources)
    start = start_of(config, model, sources.image_shape, console)
    if start is not None:
        sources = dataclasses.replace(sources, start=start, identity={**(sources.identity or {}), **start.identity})
    _check_same_data(config, sources)
    if config.linear_probe or config.knn:
        plain = config.without_augmentation()
        task = program.task(plain, sources, model, optimizer, schedule, console)
        print_quick_answers(plain, dataclasses.replace(task, variables=start.variables), console)
        return []
    workdir = open_workdir(name, config, changed_fields(named, config), console, seeds_of(config), sources.identity)
    try:
        return _run_in(workdir, program, name, named, config, sources, (model, optimizer, schedule), console)
    finally:
        workdir.release()


def _run_in(
    workdir: Workdir,
    program: Program,
    name: str,
    named: NamedRun,
    config: RunConfig,
    sources: Sources,
    network: tuple[nn.Module, optax.GradientTransformation, optax.Schedule],
    console: Console,
) -> list[dict[str, Any]]:
    """Trains in a workdir that is open; see `run`."""
    model, optimizer, schedule = network
    seeds = seeds_of(config)
    parameters = parameter_count(model, sources.image_shape)
    about = f"{config.model.name}, {parameters:,} parameters, on {sources.description}"
    console.print(textwrap.fill(about, width(), subsequent_indent="  "), highlight=False)
    console.print(f"workdir {workdir.path}, devices {describe_devices()}", highlight=False)
    class_names = None if sources.identity is None else sources.identity["class_names"]
    compared = compare(named, config.identity(), sources.train_images, sources.test_images, class_names)
    task = dataclasses.replace(
        program.task(config, sources, model, optimizer, schedule, console),
        title=_title(name, config, sources),
        published=None if compared.published is None else compared.published.value,
        published_label=compared.label,
    )
    if sources.start is not None:
        task = dataclasses.replace(task, variables=sources.start.variables)
        if is_cached(config):
            task = on_features(task, config, console)
    workdir.make()
    about = {**compared.to_json(), "parameters": parameters}

    resolved = config.resolved(name) | {"data": sources.identity, "machine": machine_identity()}

    def train(group: Sequence[int] | None) -> dict[int, dict[str, Any]]:
        """Trains several seeds together, or the config's seed for None; returns the summary of each."""
        engine = Engine(config, task, workdir, resolved, console, seeds=group)
        try:
            engine.run()
        except jax.errors.JaxRuntimeError as error:
            if group is None or len(group) == 1 or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise TrainingError(does_not_fit(error, group, workdir)) from error
        summaries = {}
        for each in engine.runs:
            own = dataclasses.replace(config, seed=each.seed)
            told = (program.name, name, named, own, each.records, each.workdir, program.metric, sources.description)
            images = {"train_images": sources.train_images, "test_images": sources.test_images}
            summary = summarize(*told) | about | images
            summaries[each.seed] = summary | program.summary(sources, each.records[-1])
            each.workdir.write_summary(summaries[each.seed])
        return summaries

    summaries = _train_groups(config, seeds, workdir, (model, optimizer, sources), train, console)
    if seeds is None:
        for remark in program.remarks(summaries[0]):
            console.print(remark, highlight=False)
    console.print(_last_line(program, summaries, task, workdir), highlight=False)
    return summaries


def _for_images(
    named: NamedRun, config: RunConfig, given: Collection[str], train_images: int, console: Console
) -> tuple[NamedRun, RunConfig]:
    """See `for_images`; says what it changes, and where the updates are too few to learn anything."""
    named, followed = for_images(named, config, given, train_images)
    before, after = config.identity(), followed.identity()
    if changed := {key: after[key] for key in after if after[key] != before.get(key)}:
        flags = " ".join(f"--{key} {value:g}" for key, value in changed.items())
        console.print(f"for {train_images:,} training images: {flags}", highlight=False)
    updates = train_images // max(followed.batch_size, 1) * followed.epochs
    if 0 < updates < _FEW_UPDATES and config.pretrained is None:
        console.print(
            f"only {updates:,} updates in all: expect an error near chance; give more --epochs, a smaller --batch_size,"
            " or more images",
            highlight=False,
        )
    return named, followed


def task_of(program: Program, sources: Sources, console: Console) -> Callable[[RunConfig], Task]:
    """Makes the task of a config, to compile what `run` trains. Streams of images are not opened."""
    sources = dataclasses.replace(sources, data=None) if sources.streamed else sources

    def task(config: RunConfig) -> Task:
        return program.task(config, sources, *_build(program, config, sources), console)

    return task


def _build(program: Program, config: RunConfig, sources: Sources):
    """Builds the network, the optimizer and the schedule, which check their arguments."""
    check_values(config, sources.train_images)
    model = config.create_model(sources.num_classes)
    return model, *build_optimizer(config, sources.train_images)


def _print_cost(named: NamedRun, config: RunConfig, sources: Sources, network, console: Console) -> None:
    sizes = (sources.image_shape, sources.train_images)
    class_names = None if sources.identity is None else sources.identity["class_names"]
    compared = compare(named, config.identity(), sources.train_images, sources.test_images, class_names)
    tested = sources.test_images or named.whole_data(config.identity()).get("test", 0)
    about = {
        "data": f"{sources.description}; {sources.train_images:,} training images",
        "recipe": named.source,
        "published": compared.label.removeprefix("published ") or "no result to compare with",
        "your changes": list(compared.changes.values()) or "none",
        "deviates from it": list(named.deviations) or "nowhere",
    }
    print_dry_run(config, *network, *sizes, console, sources.resident_images, about, tested)
    model, optimizer, _ = network
    if config.seeds > 1:
        print_fit(config, model, optimizer, *sizes, console)


def _train_groups(config: RunConfig, seeds, workdir: Workdir, network, train, console: Console) -> list[dict[str, Any]]:
    """Trains as many seeds together as fit; returns each seed's summary. Finished seeds are not trained again."""
    if seeds is None:
        return list(train(None).values())
    model, optimizer, sources = network
    told = "final_test_error", "best_test_error"
    found = {seed: workdir.of_seed(seed).read_summary(*told) for seed in finished_seeds(seeds, workdir)}
    sizes = (sources.image_shape, sources.train_images)
    for group in plan_seeds(config, model, optimizer, *sizes, workdir, console):
        console.print(describe_group(group), highlight=False)
        found |= train(group)
    return [found[seed] for seed in seeds]


def _title(name: str, config: RunConfig, sources: Sources) -> str:
    """The title of the curves, without the seed; the second line is in smaller letters."""
    own = config.data_dir and config.dataset in ("folder", "arrays")
    data = f"{pathlib.Path(config.data_dir).name} ({config.dataset})" if own else config.dataset
    images = f"{sources.train_images:,} training and {sources.test_images:,} test images"
    epochs = f"{config.epochs} epoch{'s' if config.epochs != 1 else ''}"
    return f"{config.model.name} on {data}\nrecipe {name}, {epochs}, {images}"


def _last_line(program: Program, summaries, task: Task, workdir: Workdir) -> str:
    compared = f"; {task.published_label}" if task.published_label else ""
    best = "chosen" if task.validation_data else "best"
    if len(summaries) > 1:
        return f"{outcome(summaries, best)}{compared}. Runs: {workdir.path}"
    (summary,), metric = summaries, program.metric
    return (
        f"final test {metric.describe(summary, 'final')}, {best} {summary[f'best_{metric.key}']:.2f}% after epoch"
        f" {summary['best_epoch']}{compared}. Curves: {workdir.curves}"
    )


def _check_same_data(config: RunConfig, sources: Sources) -> None:
    """Raises InputError where the processes of a run have read different data."""
    if sources.identity is None or same_everywhere(int(data_digest(sources.identity)[:7], 16)):
        return
    images = ", ".join(f"{name} {split['images']:,}" for name, split in sources.identity["splits"].items())
    raise InputError(
        f"the processes of this run see different data (process {jax.process_index()}: {sources.description}; images:"
        f" {images}): --data_dir {config.data_dir} must hold the same files for all of them"
    )
