"""The training loop of every experiment: dispatch, watch, evaluate, save, stop, resume."""

import collections
import concurrent.futures
import contextlib
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.configs.base import RunConfig
from experiments.inputs.batches import count_images
from experiments.runtime.exit_codes import TrainingError
from experiments.runtime.interrupt import Interrupted, InterruptRequest
from experiments.runtime.memory import give_back_memory
from experiments.training.agreement import Agreement, Decision, Pace
from experiments.training.curves import Rates
from experiments.training.progress import ProgressDisplay
from experiments.training.seed_run import SeedRuns
from experiments.training.task import Task
from experiments.training.workdir import Workdir
from resjax import train
from resjax.data.images import StreamError
from resjax.train import NO_FAILURE, Sums, TrainState


class Engine:
    """Trains a task in a workdir, with one seed or several at once.

    Args:
      config: the config of the run.
      task: network, data and metric.
      workdir: where the files go. Each of several seeds has a workdir inside it, see `Workdir.of_seed`.
      resolved: JSON that is saved with each checkpoint.
      console: where progress is printed.
      devices: devices to train on; default: all.
      seeds: seeds to train together, each on one device. None trains the config's seed on all devices.
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
        self._config, self._task = config, task
        self._devices = jax.devices() if devices is None else devices
        # Each of several seeds has its batches on one device.
        self._mesh = train.data_mesh(self._devices[:1] if seeds is not None and len(seeds) > 1 else self._devices)
        train.check_batch_size(config.batch_size, self._mesh)
        train.check_batch_size(config.eval_batch_size, self._mesh)
        self.runs = SeedRuns(config, task, workdir, resolved, seeds)
        self._steps_per_epoch = count_images(task.train_data) // config.batch_size
        self._display = ProgressDisplay(config.epochs, self._steps_per_epoch, console, task.metric)
        self._request = InterruptRequest()
        self._agreement = Agreement(self._mesh, self._request)
        self._pace, self._test_pace = Pace(), Pace()
        self._epoch_seconds = 0.0
        self._last_save = time.monotonic()

    def run(self) -> TrainState | list[TrainState]:
        """Trains to the end, from the newest checkpoint of the workdir if there is one.

        Returns:
          The final state; of several seeds, a list of their states, on the host.

        Raises:
          TrainingError: if the loss is not finite, or a file cannot be written.
          InputError: if the checkpoints belong to another config.
          Interrupted: after SIGINT or SIGTERM, with the state saved.
        """
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._request)
                # One thread draws the curves of all seeds: matplotlib is not thread-safe.
                thread = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
                stack.enter_context(self._display)
                rates = self._schedule()
                for run in self.runs:
                    run.open(stack, thread, rates, self._config.keep_every * self._steps_per_epoch or None)
                self._set_up(stack)
                try:
                    while self._epoch < self._config.epochs:
                        self._train_epoch()
                        self._save()
                        self._record_epoch({split: self._evaluate(split) for split in self._task.held_out()})
                        self._agreement.check()
                    for run in self.runs:
                        run.finish()
                except Interrupted as stop:
                    self._save()
                    self.runs.wait()
                    for run in self.runs:
                        run.finish()
                    self._display.message(
                        f"stopped by {stop} at step {self._step}: saved in {self.runs.where};"
                        " run the same command again to resume"
                    )
                    raise
                states = self._source.split(self._state)
                return states if len(states) > 1 else states[0]
        except (jax.errors.JaxRuntimeError, ValueError, StreamError, train.CheckpointError, OSError) as error:
            what, way_out = str(error), "Run the same command again to resume."
            if not isinstance(error, (StreamError, train.CheckpointError, OSError)):
                # A failed message is a ValueError where XLA runs the program before it returns.
                is_runtime = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in what
                if jax.process_count() == 1 or not is_runtime:
                    raise
                what = f"the devices of another process no longer answer ({what.splitlines()[0][:200]})"
                way_out = "Run the same commands again to resume."
            elif not isinstance(error, StreamError):
                way_out = "Once it can be written again, run the same command to resume."
            raise TrainingError(f"{what}. {self.runs.what_is_left} {way_out}") from error

    def _set_up(self, stack: contextlib.ExitStack) -> None:
        """Compiles the functions, opens the batch source, and creates the state or reads the newest checkpoint."""
        config, task, mesh = self._config, self._task, self._mesh
        variables = None if task.variables is None else train.put_whole(task.variables, mesh)
        new_state = functools.partial(task.new_state, config)
        shapes = jax.eval_shape(new_state, variables, config.seed)
        sharding = train.state_sharding(shapes, mesh, config.shard_state)
        new_state = jax.jit(new_state, out_shardings=sharding)
        with self._display.phase("initialising the network"):
            states = [new_state(variables, run.seed) for run in self.runs]
        zero = train.put_whole(task.zero.with_gradient_metrics(config.gradient_metrics), mesh)
        totals = zeros = [zero for _ in self.runs]
        self._step, restored = self.runs.restore(states, zero, self._display.message)
        if restored:
            states, totals = ([getattr(each, name) for each in restored] for name in ("state", "totals"))
            self._epoch_seconds = restored[0].run["epoch_seconds"]
            self._display.message(f"resuming at step {self._step} from {self.runs.where}")
        for run in self.runs:
            run.start(self._step)
            run.open_trackers(stack, config.tracker, self._step, self._display.message)
        seeds, report = [run.seed for run in self.runs], self._display.message
        self._source = task.batch_source(config, seeds, mesh, self._devices, sharding, self._step, report)
        stack.callback(self._source.close)
        self._state, self._totals, self._zero = map(self._source.join, (states, totals, zeros))
        self._epoch, within = divmod(self._step, self._steps_per_epoch)
        if not within:
            if all(self._epoch in [0, *(record["epoch"] for record in run.records)] for run in self.runs):
                self._totals, self._epoch_seconds = self._zero, 0.0
            else:  # the epoch is still to be evaluated, of some seeds
                self._epoch -= 1
                for run in self.runs:
                    run.read_records(self._step - 1)
        if self._step < config.epochs * self._steps_per_epoch:
            # Zero steps: this only compiles, so that compilation does not count as training time.
            with self._display.phase("compiling the training step"):
                self._dispatch(0)

    def _train_epoch(self) -> None:
        """Takes the remaining steps of the epoch."""
        end = (self._epoch + 1) * self._steps_per_epoch
        # Two dispatches are in flight, so that the device never waits for the host.
        flight, mark = collections.deque[tuple[int, Sums, Any, int]](), 0.0
        while self._step < end or flight:
            decision = self._agreement.decide(self._own_decision(self._pace))
            stopping = decision.signum or decision.save_is_due
            if stopping and not flight:
                self._agreement.check()
                self._save()
            elif stopping or self._step == end or len(flight) == 2:
                mark = self._observe(*flight.popleft(), mark)
            else:
                mark = mark if flight else time.monotonic()
                flight.append(self._dispatch(min(decision.count, end - self._step)))

    def _own_decision(self, pace: Pace) -> Decision:
        return Decision(pace.count, time.monotonic() - self._last_save > 60 * self._config.checkpoint_minutes)

    def _dispatch(self, count: int) -> tuple[int, Sums, jax.Array | None, int]:
        """Starts `count` steps and a vote on what comes next; returns what `_observe` takes."""
        first = self._step - self._epoch * self._steps_per_epoch
        self._state, totals = self._source.train(self._state, self._totals, self._epoch, first, count)
        self._totals, outcome = self._agreement.vote(totals, self._own_decision(self._pace))
        self._step += count
        return count, self._totals, outcome, self._step

    def _observe(self, count: int, totals: Sums, outcome: jax.Array | None, step: int, mark: float) -> float:
        """Waits for the `count` steps up to `step` that began at `mark`; returns the time at which they were done.

        `outcome` is that of the vote behind them.
        """
        each = jax.device_get(self._source.split(totals))
        self._agreement.learn(outcome)
        now = time.monotonic()
        self._pace.observe(count, now - mark)
        self._epoch_seconds += (now - mark) / len(self.runs)
        self._check_finite([int(totals.failed_step) for totals in each], "the loss or its gradient is not finite at")
        metric = self._task.metric
        values = {
            "loss": np.mean([totals.mean_loss() for totals in each]),
            "metric": np.mean([metric.of_training(metric.record(totals, "train")) for totals in each]),
            "images_per_second": self._config.batch_size * len(each) / self._pace.seconds_per_step,
        }
        done = step - self._epoch * self._steps_per_epoch
        left = self._seconds_left(step) if self._pace.observed > 1 else None
        self._display.training(self._epoch + 1, done, values, left)
        return now

    def _check_finite(self, failed: list[int], what: str) -> None:
        """Raises TrainingError for a step that is not `NO_FAILURE`, of any seed; its checkpoint is set aside."""
        for run, step in zip(self.runs, failed, strict=True):
            if step != NO_FAILURE:
                self.runs.wait()
                if any(step in each.saved_steps for each in self.runs):
                    self.runs.set_aside(step)
                seed = f"seed {run.seed}: " if len(self.runs) > 1 else ""
                raise TrainingError(
                    f"{seed}{what} step {step} (epoch {self._epoch + 1}): training stopped. {self.runs.what_is_left} A"
                    " smaller --optimizer.learning_rate, a warm-up (--schedule.warmup_epochs) or --optimizer.clip_norm"
                    " may help"
                )

    def _evaluate(self, split: str) -> tuple[list[Sums], float]:
        """Evaluates on all images of a split; returns the sums of each seed and the seconds per seed."""
        batches = -(-count_images(self._task.held_out()[split]) // self._config.eval_batch_size)
        begin = mark = time.monotonic()
        totals, done = self._zero, 0
        while done < batches:
            self._agreement.check()
            count = min(self._agreement.decide(self._own_decision(self._test_pace)).count, batches - done)
            first = self._test_pace.observed == 0
            with self._display.phase("compiling the evaluation") if first else contextlib.nullcontext():
                totals = self._source.evaluate(split, self._state.variables, totals, done, count)
            totals, outcome = self._agreement.vote(totals, self._own_decision(self._test_pace))
            jax.block_until_ready(totals)
            self._agreement.learn(outcome)
            done += count
            now = time.monotonic()
            self._test_pace.observe(count, now - mark)
            mark = now
            self._display.testing(self._epoch + 1, done, batches)
        sums = jax.device_get(self._source.split(totals))
        failed = [NO_FAILURE if np.isfinite(own.loss) else self._step for own in sums]
        self._check_finite(failed, f"the {split} loss is not finite after")
        return sums, (time.monotonic() - begin) / len(self.runs)

    def _record_epoch(self, evaluated: dict[str, tuple[list[Sums], float]]) -> None:
        """Writes each seed's line for the epoch, and the other files of `SeedRun.record`."""
        rates = self._learning_rates(self._step, train.learning_rate_factor(self._state.opt_state))
        states, totals = self._source.split(self._state), self._source.split(self._totals)
        for i, run in enumerate(self.runs):
            record = {
                "epoch": self._epoch + 1,
                "step": self._step,
                "learning_rate": rates[i],
                "train_loss": totals[i].mean_loss(),
                **totals[i].mean_gradient_metrics(),
                **self._task.metric.record(totals[i], "train"),
                "images_per_second": int(totals[i].images) / max(self._epoch_seconds, 1e-9),
                "train_seconds": self._epoch_seconds,
                "test_seconds": sum(seconds for _, seconds in evaluated.values()),
            }
            for split, (sums, _) in evaluated.items():
                record |= {f"{split}_loss": sums[i].mean_loss(), **self._task.metric.record(sums[i], split)}
            run.record(record, states[i], totals[i], self._epoch_seconds, self._epoch + 1 == self._config.epochs)
        self._epoch += 1
        self._totals, self._epoch_seconds = self._zero, 0.0
        self._display.epoch_done([run.records for run in self.runs], self._seconds_left(self._step))

    def _learning_rates(self, step: int, factor: jax.Array | float) -> list[float]:
        """Each seed's learning rate at the last of `step` steps; `factor` is the warm-up's factor."""
        seeds, peak = len(self.runs), float(self._task.schedule(max(step - 1, 0)))
        factors = np.atleast_1d(factor)[:seeds]  # the last seed may be repeated to fill the devices
        # A float32 rate has seven digits: 0.1, not 0.10000000149011612.
        return [float(f"{float(each) * peak:.7g}") for each in np.broadcast_to(factors, seeds)]

    def _schedule(self) -> Rates:
        """The learning rate over the whole run, at most 400 points."""
        steps = np.unique(np.linspace(0, self._config.epochs * self._steps_per_epoch - 1, 400).astype(int))
        rates = jax.vmap(lambda step: jnp.asarray(self._task.schedule(step), jnp.float32))(jnp.asarray(steps))
        return list(zip((steps / self._steps_per_epoch).tolist(), np.asarray(rates).tolist(), strict=True))

    def _seconds_left(self, step: int) -> float:
        steps = self._config.epochs * self._steps_per_epoch - step
        evaluations = len(self.runs) * (self._config.epochs - self._epoch)
        if evaluations == 0:
            return 0.0
        pace = self._pace.seconds_per_step or 0.0
        if records := self.runs[0].records:
            test = min(record["test_seconds"] for record in records[-2:])  # the first one also compiles
        else:  # a forward pass is a third of a step
            images = sum(map(count_images, self._task.held_out().values()))
            test = images * pace / (3 * self._config.batch_size * len(self.runs))
        return steps * pace + test * evaluations

    def _save(self) -> None:
        """Starts to write a checkpoint; raises TrainingError if a number of the state is not finite."""
        states = self._source.split(self._state)
        failed = [NO_FAILURE if train.is_finite(state) else self._step for state in states]
        self._check_finite(failed, "a parameter, or a statistic, is not finite after")
        self.runs.save(states, self._source.split(self._totals), self._epoch_seconds)
        give_back_memory()
        self._last_save = time.monotonic()
        self._agreement.saved()
