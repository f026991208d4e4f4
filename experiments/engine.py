"""The training loop of every experiment: dispatch, watch, evaluate, save, stop, resume."""

import collections
import concurrent.futures
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console

from experiments.agreement import Agreement, Decision
from experiments.configs.base import RunConfig
from experiments.feeds import count_images
from experiments.interrupt import Interrupted, InterruptRequest
from experiments.pace import Pace
from experiments.progress import ProgressDisplay
from experiments.seed_run import SeedRun, step_to_go_on_from
from experiments.task import Task
from experiments.workdir import Workdir
from resjax import train
from resjax.data.images import StreamError
from resjax.errors import InputError
from resjax.train import NO_FAILURE, Sums, TrainState

_MOST_STEPS = 2**30


class TrainingError(RuntimeError):
    """Training had to stop; the message says where, why, what is saved, and the way out."""


class Engine:
    """One run of a task in a workdir, or those of several seeds at once.

    Args:
      config: the recipe.
      task: what is trained.
      workdir: where the files go; those of several seeds each into a workdir of its own inside, see `Workdir.of_seed`.
      resolved: JSON that is saved with each checkpoint.
      console: where progress is written.
      devices: to train on; default all.
      seeds: several to train together, each on one device; None is the config's alone, on all devices.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        workdir: Workdir,
        resolved: dict,
        console: Console,
        devices: Sequence[jax.Device] | None = None,
        seeds: Sequence[int] | None = None,
    ):
        self._config, self._task, self._workdir = config, task, workdir
        self._devices = jax.devices() if devices is None else devices
        # Each of several seeds has its batches on one device.
        self._mesh = train.data_mesh(self._devices[:1] if seeds is not None and len(seeds) > 1 else self._devices)
        train.check_batch_size(config.batch_size, self._mesh)
        train.check_batch_size(config.eval_batch_size, self._mesh)
        if seeds is None:
            self.runs = [SeedRun(config.seed, task, workdir, resolved)]
        else:
            self.runs = [SeedRun(seed, task, workdir.of_seed(seed), resolved_of_seed(resolved, seed)) for seed in seeds]
        self._steps_per_epoch = count_images(task.train_data) // config.batch_size
        self._display = ProgressDisplay(config.epochs, self._steps_per_epoch, console, task.measure)
        self._request = InterruptRequest()
        self._agreement = Agreement(self._mesh, self._request)
        self._pace, self._test_pace = Pace(), Pace()
        self._epoch_seconds = 0.0
        self._last_save = time.monotonic()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one for each completed epoch; of the first of several seeds."""
        return self.runs[0].records

    def run(self) -> TrainState | list[TrainState]:
        """Trains to the end, from the newest checkpoint of the workdir where there is one.

        Returns:
          The final state; of several seeds a list of theirs, on the host.

        Raises:
          TrainingError: at a loss that is not finite, or where a file cannot be written.
          InputError: where the checkpoints are those of another config.
          Interrupted: after SIGINT or SIGTERM, with the state saved.
        """
        task = self._task
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._request)
                # One thread for the curves of all seeds: matplotlib does not promise to draw in several at once.
                thread = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
                stack.enter_context(self._display)
                for run in self.runs:
                    run.open(stack, thread)
                self._set_up(stack)
                if self._config.tensorboard:
                    for run in self.runs:
                        run.open_events(stack, self._start)
                try:
                    while self._epoch < self._config.epochs:
                        self._train_epoch()
                        self._save()
                        self._record_epoch({split: self._evaluate(split) for split in task.held_out()})
                        self._agreement.check()
                except Interrupted as stop:
                    self._save()
                    for run in self.runs:
                        run.wait()
                    self._display.message(
                        f"stopped by {stop} at step {self._step}: saved in {self._where()};"
                        " run the same command again to go on from there"
                    )
                    raise
                states = self._feed.split(self._state)
                return states if len(states) > 1 else states[0]
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            raise TrainingError(
                f"the devices of another process no longer answer ({str(error).splitlines()[0][:200]})."
                f" {self._what_is_left()} The same commands, started again, go on from there."
            ) from error
        except StreamError as error:
            raise TrainingError(f"{error}. {self._what_is_left()} The same command goes on from there.") from error
        except (train.CheckpointError, OSError) as error:
            way_out = "Once it can be written again, the same command goes on from there."
            raise TrainingError(f"{error}. {self._what_is_left()} {way_out}") from error

    def _set_up(self, stack: contextlib.ExitStack) -> None:
        """Compiled functions, the feed, and the state: new, or the newest checkpoint's."""
        config, task, mesh = self._config, self._task, self._mesh

        def new_state(variables, seed):
            return task.new_state(config, variables, seed)

        variables = None if task.variables is None else train.put_whole(task.variables, mesh)
        shapes = jax.eval_shape(new_state, variables, config.seed)
        sharding = train.state_sharding(shapes, mesh, config.shard_state)
        new_state = jax.jit(new_state, out_shardings=sharding)
        states = [new_state(variables, run.seed) for run in self.runs]
        zero = train.put_whole(task.zero, mesh)
        totals = [zero for _ in self.runs]
        self._start = step_to_go_on_from([run.saved_steps for run in self.runs])
        if not train.same_everywhere(-1 if self._start is None else self._start):
            raise InputError(
                f"the processes of this run see different checkpoints in {self._where()} (process"
                f" {jax.process_index()}: step {self._start}): --workdir must be a folder that all of them share"
            )
        if self._start is None:
            raise InputError(
                f"the seeds in {self._workdir.path} are at different steps: go on with each by itself, as --seed S"
                f" --workdir {self._workdir.path}/seed_S"
            )
        if all(self._start in run.saved_steps for run in self.runs):
            try:
                restored = [run.restore(state, zero, self._start) for run, state in zip(self.runs, states, strict=True)]
            except train.CheckpointError as error:
                raise TrainingError(f"{error}, or start anew with --resume never") from error
            states, totals = ([getattr(each, name) for each in restored] for name in ("state", "totals"))
            self._epoch_seconds = restored[0].run["epoch_seconds"]
            self._display.message(f"resuming at step {self._start} from {self._where()}")
        for run in self.runs:
            run.start(self._start)
        seeds = [run.seed for run in self.runs]
        self._feed = task.feed(config, seeds, mesh, self._devices, sharding, self._start, self._display.message)
        stack.callback(self._feed.close)
        self._state, self._totals, self._zero = map(self._feed.join, (states, totals, [zero for _ in self.runs]))
        self._step = self._start
        trained, within = divmod(self._step, self._steps_per_epoch)
        evaluated = all(any(record["epoch"] == trained for record in run.records) for run in self.runs)
        self._epoch = trained - 1 if trained and not within and not evaluated else trained
        if self._epoch < trained:  # some of several seeds may be
            for run in self.runs:
                run.read_records(self._start - 1)
        if self._step == self._epoch * self._steps_per_epoch:
            self._totals, self._epoch_seconds = self._zero, 0.0
        if self._step < config.epochs * self._steps_per_epoch:
            # No step, only compilation, so that it doesn't count as training time.
            self._dispatch(0)

    def _train_epoch(self) -> None:
        """Takes the steps that the epoch under way still lacks."""
        end = (self._epoch + 1) * self._steps_per_epoch
        # Two dispatches in flight: the device never waits for the host.
        flight, mark = collections.deque(), 0.0
        while self._step < end or flight:
            decision = self._agreement.decide(self._own_decision(self._pace))
            stopping = decision.signum or decision.save_is_due
            if self._step < end and not stopping:
                if not flight:
                    mark = time.monotonic()
                count = min(decision.count, end - self._step)
                outcome, factor = self._dispatch(count)
                self._step += count
                flight.append((count, self._totals, outcome, factor, self._step))
                if len(flight) < 2 and self._step < end:
                    continue
            if flight:
                mark = self._observe(*flight.popleft(), mark)
            elif stopping:
                self._agreement.check()
                self._save()

    def _own_decision(self, pace: Pace) -> Decision:
        return Decision(pace.next(_MOST_STEPS), self._save_is_due())

    def _dispatch(self, count: int) -> tuple[jax.Array | None, jax.Array | float]:
        """Starts `count` steps, and a vote on what comes after; returns its outcome and the warm-up's factor."""
        first = self._step - self._epoch * self._steps_per_epoch
        self._state, totals = self._feed.train(self._state, self._totals, self._epoch, first, count)
        self._totals, outcome = self._agreement.vote(totals, self._own_decision(self._pace))
        return outcome, train.learning_rate_factor(self._state.opt_state)

    def _observe(self, count: int, totals: Sums, outcome: jax.Array | None, factor, step: int, mark: float) -> float:
        """Waits for a dispatch that ends at `step`, started or unblocked at `mark`; returns the time it was done."""
        each = jax.device_get(self._feed.split(totals))
        self._agreement.learn(outcome)
        now = time.monotonic()
        self._pace.observe(count, now - mark)
        self._epoch_seconds += (now - mark) / len(self.runs)
        for run, totals in zip(self.runs, each, strict=True):
            if totals.failed_step != NO_FAILURE:
                raise TrainingError(
                    f"{self._of_seed(run)}the loss or its gradient is not finite at step {int(totals.failed_step)}"
                    f" (epoch {self._epoch + 1}): training stopped. {self._what_is_left()} A smaller"
                    " --optimizer.learning_rate, a warm-up (--schedule.warmup_epochs) or --optimizer.clip_norm may help"
                )
        values = {
            "loss": np.mean([totals.mean_loss() for totals in each]),
            "accuracy": np.mean([totals.accuracy() for totals in each]),
            "learning_rate": np.mean(self._learning_rates(step, factor)),
            "images_per_second": self._config.batch_size * len(each) / self._pace.seconds_per_step,
        }
        done = step - self._epoch * self._steps_per_epoch
        self._display.training(self._epoch + 1, done, values, self._seconds_left(step))
        return now

    def _evaluate(self, split: str) -> tuple[list[Sums], float]:
        """Evaluates on all images of a split; returns the sums of each seed and its share of the seconds it took."""
        batches = -(-count_images(self._task.held_out()[split]) // self._config.eval_batch_size)
        begin = mark = time.monotonic()
        totals, done = self._zero, 0
        while done < batches:
            self._agreement.check()
            count = min(self._agreement.decide(self._own_decision(self._test_pace)).count, batches - done)
            totals = self._feed.evaluate(split, self._state.variables, totals, done, count)
            totals, outcome = self._agreement.vote(totals, self._own_decision(self._test_pace))
            jax.block_until_ready(totals)
            self._agreement.learn(outcome)
            done += count
            now = time.monotonic()
            self._test_pace.observe(count, now - mark)
            mark = now
            self._display.testing(self._epoch + 1, done, batches)
        return jax.device_get(self._feed.split(totals)), (time.monotonic() - begin) / len(self.runs)

    def _record_epoch(self, evaluated: dict[str, tuple[list[Sums], float]]) -> None:
        """Writes the epoch's line of each seed, and what else `SeedRun.record` writes."""
        trained = jax.device_get(self._feed.split(self._totals))
        rates = self._learning_rates(self._step, train.learning_rate_factor(self._state.opt_state))
        states, totals, records = self._feed.split(self._state), self._feed.split(self._totals), []
        last = self._epoch + 1 == self._config.epochs
        for i, run in enumerate(self.runs):
            record = {
                "epoch": self._epoch + 1,
                "step": self._step,
                "learning_rate": rates[i],
                "train_loss": trained[i].mean_loss(),
                "first_layer_gradient": trained[i].mean_first_layer_gradient(),
                **self._task.measure.record(trained[i], "train"),
                "images_per_second": int(trained[i].images) / max(self._epoch_seconds, 1e-9),
                "train_seconds": self._epoch_seconds,
                "test_seconds": sum(seconds for _, seconds in evaluated.values()),
            }
            for split, (sums, _) in evaluated.items():
                record |= {f"{split}_loss": sums[i].mean_loss(), **self._task.measure.record(sums[i], split)}
            run.record(record, states[i], totals[i], self._epoch_seconds, last)
            records.append(record)
        self._epoch += 1
        self._totals, self._epoch_seconds = self._zero, 0.0
        self._display.epoch_done(records)

    def _learning_rates(self, step: int, factor: jax.Array | float) -> list[float]:
        """Of each seed the learning rate of the last of `step` steps, which a warm-up multiplied by `factor`."""
        seeds, peak = len(self.runs), float(self._task.schedule(max(step - 1, 0)))
        factors = np.atleast_1d(factor)[:seeds]  # a stack may hold the last seed more than once
        # Seven digits are all that a float32 rate has: 0.1, not 0.10000000149011612.
        return [float(f"{float(each) * peak:.7g}") for each in np.broadcast_to(factors, seeds)]

    def _seconds_left(self, step: int) -> float:
        steps = self._config.epochs * self._steps_per_epoch - step
        tests = [record["test_seconds"] for record in self.records[-1:]]
        epochs = self._config.epochs - self._epoch
        return steps * self._pace.seconds_per_step + sum(tests) * len(self.runs) * epochs

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._last_save > 60 * self._config.checkpoint_minutes

    def _save(self) -> None:
        # Before any seed replaces an older checkpoint the last one is on disk for all: they share a step at any time.
        if len(self.runs) > 1:
            for run in self.runs:
                run.wait()
        states, totals = self._feed.split(self._state), self._feed.split(self._totals)
        for run, of_run in zip(self.runs, zip(states, totals, strict=True), strict=True):
            run.save(*of_run, self._epoch_seconds)
        self._last_save = time.monotonic()
        self._agreement.saved()

    def _of_seed(self, run: SeedRun) -> str:
        return f"seed {run.seed}: " if len(self.runs) > 1 else ""

    def _where(self) -> str:
        """The checkpoints, for a person."""
        several = len(self.runs) > 1
        return str(self._workdir.path / "seed_*" / "checkpoints") if several else str(self.runs[0].workdir.checkpoints)

    def _what_is_left(self) -> str:
        """What a run that failed leaves to go on from."""
        step = step_to_go_on_from([run.saved_steps for run in self.runs])
        if not step:
            return "No checkpoint was written yet."
        return f"The last good checkpoint is of step {step}, in {self._where()}."


def resolved_of_seed(resolved: dict[str, Any], seed: int) -> dict[str, Any]:
    """The resolved config of a run with another seed."""
    return resolved | {"config": resolved["config"] | {"seed": seed}}
