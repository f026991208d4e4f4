"""One run in several processes: how they find each other, and how the end of one ends the others."""

import json
import os
import sys
import threading
import time
from typing import Any

import jax

# Neither the store of jax.distributed, which Orbax reads as well, nor what finds a cluster has a public name.
from jax._src import distributed
from jax._src.clusters import cloud_tpu_cluster

from experiments.configs.base import RunConfig
from resjax.errors import InputError

SILENCE_SECONDS = 10.0
"""A process that was not heard of for so long counts as dead."""
_BEAT_SECONDS = 1.0
# JAX's own watch ends a process with an abort and a stack trace: it is there for when this one cannot.
_JAX_SILENCE_SECONDS = 60
_JOIN_SECONDS = 300


class Processes:
    """This process among those of a run: each tells the others once a second that it lives, or how it ended.

    Args:
      count, index: number of processes, and which this one is.
      silence: seconds without a sign of life after which a process counts as dead.
    """

    def __init__(self, count: int, index: int, silence: float = SILENCE_SECONDS):
        self.count, self.index, self._silence = count, index, silence
        self._store = distributed.global_state.client
        self._closing = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def check_same(self, config: RunConfig) -> None:
        """Raises InputError with every field in which this process was started otherwise than process 0."""
        own = config.identity() | config.run_options()
        for field in ("process_id", "data_dir"):
            del own[field]
        if self.index == 0:
            self._store.key_value_set("resjax/config", json.dumps(own))
            return
        theirs = json.loads(self._store.blocking_key_value_get("resjax/config", 120_000))
        differing = [field for field in own if theirs.get(field) != own[field]]
        if differing:
            listed = "; ".join(f"--{field}: {theirs.get(field)!r} there, {own[field]!r} here" for field in differing)
            raise InputError(f"process {self.index} was started otherwise than process 0 ({listed})")

    def leave(self, reason: str | None) -> None:
        """Tells the others that this process ends: as all do (None), or alone, for a reason that ends them, too."""
        self._closing.set()
        self._say(self.index, "done" if reason is None else f"failed {reason}")
        if reason is not None and self.index == 0:
            # The store ends with process 0: the others need a moment to read.
            deadline = time.monotonic() + 3 * _BEAT_SECONDS
            while time.monotonic() < deadline and not all(self._has_ended(state) for state in self._read().values()):
                time.sleep(0.1)

    def _watch(self):
        heard = dict.fromkeys(range(self.count), (None, time.monotonic()))
        beat = 0
        while not self._closing.wait(_BEAT_SECONDS):
            began = time.monotonic()
            beat += 1
            try:
                self._say(self.index, f"beat {beat}")
                states = self._read()
            except jax.errors.JaxRuntimeError:
                if not self._closing.is_set():
                    self._end(0, "cannot be reached", heard)
                return
            now = time.monotonic()
            for other in range(self.count):
                state, since = heard[other]
                latest = states.get(other)
                if latest != state:
                    heard[other] = latest, now
                elif self._has_ended(latest):
                    if latest != "done" and not self._closing.is_set():
                        self._end(other, f"ended: {latest.removeprefix('failed ')}", heard)
                elif now - since > self._silence and not self._closing.is_set():
                    self._end(other, f"has not been heard of for {now - since:.0f} s", heard)
            if time.monotonic() - began > self._silence / 2:  # this process slept: the others are not to blame
                heard = {other: (state, time.monotonic()) for other, (state, _) in heard.items()}

    def _end(self, other, what, heard):
        print(
            f"error: process {other} of {self.count} {what}. Process {self.index} ends, too; the same commands, started"
            " again, go on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        try:
            self.leave(f"process {other} {what}" if self.index == 0 else "after another")
        finally:
            os._exit(1)

    def _say(self, index, state):
        self._store.key_value_set(f"resjax/process/{index}", state, allow_overwrite=True)

    def _read(self):
        entries = self._store.key_value_dir_get("resjax/process/")
        return {int(key.rsplit("/", 1)[1]): value for key, value in entries}

    @staticmethod
    def _has_ended(state):
        return state is not None and not state.startswith("beat")


_current: Processes | None = None


def join_processes(config: RunConfig) -> int:
    """Starts `jax.distributed` where the run has several processes; to be called before anything is computed.

    They are found by `--coordinator`, or by what SLURM, Open MPI, GKE and TPU pods tell their processes.

    Returns:
      The number of processes.

    Raises:
      InputError: for flags that do not fit, or where the other processes cannot be found.
    """
    global _current
    given = {name: getattr(config, name) for name in ("coordinator", "num_processes", "process_id")}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < 3:
        raise InputError(
            f"{' and '.join(missing)}: missing; a run of several processes needs --coordinator HOST:PORT"
            " --num_processes N --process_id I in each"
        )
    if missing and not _in_cluster():
        return 1
    options: dict[str, Any] = {}
    if not missing:
        host, _, port = config.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise InputError(f"--coordinator: expected HOST:PORT of process 0, got {config.coordinator!r}")
        if not 0 <= config.process_id < config.num_processes:
            raise InputError(
                f"--process_id: expected a number from 0 to {config.num_processes - 1} (--num_processes less 1), got"
                f" {config.process_id}"
            )
        options = {
            "coordinator_address": config.coordinator,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=_JOIN_SECONDS,
            heartbeat_timeout_seconds=_JAX_SILENCE_SECONDS,
            shutdown_timeout_seconds=_JAX_SILENCE_SECONDS,
        )
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        where = config.coordinator or "the address that the cluster names"
        raise InputError(f"the other processes were not found at {where}: {str(error).splitlines()[0]}") from None
    state = distributed.global_state
    if state.num_processes > 1:
        _current = Processes(state.num_processes, state.process_id)
        _current.check_same(config)
    return state.num_processes


def leave_processes(reason: str | None = None, code: int = 0) -> None:
    """Tells the other processes of the run, where there are any, that this one ends.

    Args:
      reason: why it ends before its time, which ends the others, too, and this one at once, with `code`: it would wait
        for them. None where all of them have done their work.
      code: exit code.
    """
    if _current is None:
        return
    try:
        _current.leave(reason)
    except jax.errors.JaxRuntimeError:  # process 0, where the store is, has ended
        pass
    if reason is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def process_prefix() -> str:
    """What stands before an error's text: which process it is of, where there are several."""
    return "" if _current is None else f"process {_current.index}: "


def _in_cluster() -> bool:
    """Whether this process was started as one of several, in a way that `jax.distributed` knows."""
    environment = os.environ
    counts = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    several = [name for name in counts if environment.get(name, "1") not in ("", "0", "1")]
    if "SLURM_NTASKS" in several and "SLURM_STEP_NODELIST" not in environment:
        several.remove("SLURM_NTASKS")  # a batch script itself, not what srun started
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    if several or "," in hosts or "JAX_COORDINATOR_ADDRESS" in environment:
        return True
    if "COLAB_RELEASE_TAG" in environment or "KAGGLE_KERNEL_RUN_TYPE" in environment:
        return False  # one machine, whose metadata server does not answer
    # A TPU VM learns from Google's metadata server alone whether it is one of a pod.
    gce = cloud_tpu_cluster.GceTpuCluster
    return gce.is_env_present() and gce.get_process_count() > 1
