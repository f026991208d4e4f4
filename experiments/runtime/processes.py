"""One run in several processes: they find each other, and when one ends the others end.

Commands end through this module even where they only printed help: JAX is imported where a run needs it.
"""

import json
import os
import socket
import sys
import threading
import time
from typing import Any

from experiments.configs.base import RunConfig
from resjax.errors import InputError

SILENCE_SECONDS = 10.0
"""Seconds of silence after which a process counts as dead."""
_BEAT_SECONDS = 1.0
# JAX's own watch ends a process with an abort and a stack trace. It is the fallback if this watch fails.
_JAX_SILENCE_SECONDS = 60
_JOIN_SECONDS = 300


class Processes:
    """This process of a multi-process run. Each tells the others once a second that it lives, or how it ended.

    Args:
      count, index: number of processes, and the index of this one.
      silence: seconds without a sign of life after which a process counts as dead.
    """

    def __init__(self, count: int, index: int, silence: float = SILENCE_SECONDS):
        self.count, self.index, self._silence = count, index, silence
        self._store = _state().client
        self._closing = threading.Event()
        self._answered = time.monotonic()
        for work in self._watch, self._guard:
            threading.Thread(target=work, daemon=True).start()

    def check_same(self, config: RunConfig) -> None:
        """Raises InputError with every field in which this process differs from process 0."""
        own = config.identity() | config.run_options()
        for field in ("process_id", "data_dir", "coordinator"):  # process 0 may go by several names
            del own[field]
        if self.index == 0:
            self._store.key_value_set("resjax/config", json.dumps(own))
            return
        theirs = json.loads(self._store.blocking_key_value_get("resjax/config", 120_000))
        differing = [field for field in own if theirs.get(field) != own[field]]
        if differing:
            listed = "; ".join(f"--{field}: {theirs.get(field)!r} there, {own[field]!r} here" for field in differing)
            raise InputError(f"process {self.index} has other flags than process 0 ({listed})")

    def leave(self, reason: str | None) -> None:
        """Tells the others that this process ends. None: all are done. A reason: this one failed, and the others end
        too."""
        self._closing.set()
        self._say(self.index, "done" if reason is None else f"failed {reason}")
        if reason is not None and self.index == 0:
            # The store ends with process 0, so the others need a moment to read it.
            deadline = time.monotonic() + 3 * _BEAT_SECONDS
            while time.monotonic() < deadline and not self._all_have_ended(self._read()):
                time.sleep(0.1)

    def _watch(self):
        import jax

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
            now = self._answered = time.monotonic()
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
            if time.monotonic() - began > self._silence / 2:  # this process was suspended: do not blame others
                heard = {other: (state, time.monotonic()) for other, (state, _) in heard.items()}

    def _guard(self):
        """Ends this process if the store of process 0 does not answer: calls over a cut line never return."""
        last = time.monotonic()
        while not self._closing.wait(_BEAT_SECONDS):
            now = time.monotonic()
            if now - last > _BEAT_SECONDS + self._silence / 2:  # this process was suspended
                self._answered = now
            last = now
            if now - self._answered > 2 * self._silence:
                self._tell(0, f"has not answered for {now - self._answered:.0f} s")
                os._exit(1)

    def _tell(self, other, what):
        print(
            f"error: process {other} of {self.count} {what}. Process {self.index} ends, too. Run the same commands"
            " again to resume from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )

    def _end(self, other, what, heard):
        self._tell(other, what)
        try:
            self.leave(f"process {other} {what}" if self.index == 0 else "after another")
        finally:
            os._exit(1)

    def _say(self, index, state):
        self._store.key_value_set(f"resjax/process/{index}", state, allow_overwrite=True)

    def _read(self):
        entries = self._store.key_value_dir_get("resjax/process/")
        return {int(key.rsplit("/", 1)[1]): value for key, value in entries}

    def _all_have_ended(self, states):
        # Also those that have said nothing yet: a run can fail in its first second.
        return all(self._has_ended(states.get(index)) for index in range(self.count))

    @staticmethod
    def _has_ended(state):
        return state is not None and not state.startswith("beat")


_current: Processes | None = None


def join_processes(config: RunConfig) -> int:
    """Starts `jax.distributed` if the run has several processes. Call it before anything is computed.

    Processes find each other by `--coordinator`, or by what SLURM, Open MPI, GKE and TPU pods provide.

    Returns:
      The number of processes.

    Raises:
      InputError: if flags do not fit together, or the other processes cannot be found.
    """
    global _current
    import jax

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
    joined = threading.Event()
    if not missing and config.process_id > 0:
        address = (host.strip("[]"), int(port))
        _wait_until_reachable(config.coordinator, *address)
        threading.Thread(target=_watch_start, args=(*address, config.process_id, joined), daemon=True).start()
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=_JOIN_SECONDS,
            heartbeat_timeout_seconds=_JAX_SILENCE_SECONDS,
            shutdown_timeout_seconds=_JAX_SILENCE_SECONDS,
        )
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        where = config.coordinator or "the address that the cluster names"
        raise InputError(f"the other processes cannot be joined at {where}: {str(error).splitlines()[0]}") from None
    finally:
        joined.set()
    state = _state()
    if state.num_processes > 1:
        _current = Processes(state.num_processes, state.process_id)
        _current.check_same(config)
    return state.num_processes


def _state() -> Any:
    """The state of `jax.distributed` with its store, which Orbax reads as well; it has no public name."""
    from jax._src import distributed

    return distributed.global_state


def _wait_until_reachable(coordinator: str, host: str, port: int) -> None:
    """Waits until process 0 listens: if nobody answers JAX, it ends the process with an abort and a stack trace."""
    deadline = time.monotonic() + _JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=_BEAT_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"--coordinator {coordinator}: process 0 was not reached there in {_JOIN_SECONDS:g} s"
                    f" ({error.strerror or error}); start it, or check the address and the firewall"
                ) from None
        time.sleep(_BEAT_SECONDS / 4)


def _watch_start(host: str, port: int, index: int, joined: threading.Event) -> None:
    """Ends this process if process 0, which was reached, can be reached no longer before all have joined.

    JAX waits for a process 0 that is not there as long as for one that has not started yet.
    """
    reached = time.monotonic()
    while not joined.wait(_BEAT_SECONDS):
        try:
            socket.create_connection((host, port), timeout=_BEAT_SECONDS).close()
            reached = time.monotonic()
        except OSError:
            if time.monotonic() - reached > SILENCE_SECONDS and not joined.is_set():
                print(
                    f"error: process {index}: process 0 at {host}:{port} ended before all processes had joined. Look at"
                    " what it says, and run the same commands again",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)


def leave_processes(reason: str | None = None, code: int = 0) -> None:
    """Tells the other processes of the run, if there are any, that this one ends.

    Args:
      reason: why this process ends early. The others then end too, and this one exits at once with `code`, because it
        would wait for them otherwise. None: all work is done.
      code: exit code.
    """
    if _current is None:
        return
    import jax

    try:
        _current.leave(reason)
    except jax.errors.JaxRuntimeError:  # process 0, which holds the store, has ended
        pass
    if reason is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def process_prefix() -> str:
    """The prefix of an error message that names this process; empty in a run of one process."""
    return "" if _current is None else f"process {_current.index}: "


def _in_cluster() -> bool:
    """Whether this process was started as one of several, in a way that `jax.distributed` detects."""
    environment = os.environ
    counts = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    several = [name for name in counts if environment.get(name, "1") not in ("", "0", "1")]
    if "SLURM_NTASKS" in several and "SLURM_STEP_NODELIST" not in environment:
        several.remove("SLURM_NTASKS")  # this is the batch script itself, not started by srun
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    if several or "," in hosts or "JAX_COORDINATOR_ADDRESS" in environment:
        return True
    if "COLAB_RELEASE_TAG" in environment or "KAGGLE_KERNEL_RUN_TYPE" in environment:
        return False  # one machine, whose metadata server does not answer
    # Only Google's metadata server tells a TPU VM whether it belongs to a pod.
    from jax._src.clusters import cloud_tpu_cluster  # it has no public name

    gce = cloud_tpu_cluster.GceTpuCluster
    return gce.is_env_present() and gce.get_process_count() > 1
