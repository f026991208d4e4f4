"""Sets up JAX before it starts: CPU devices and the compilation cache."""

import os
import pathlib
import sys
from collections.abc import Sequence

import jax
import jaxlib
import platformdirs

from resjax.errors import InputError
from resjax.jax_versions import say_known_issues

_PATIENCE, _HALF_AN_HOUR = "--xla_cpu_collective_call_terminate_timeout_seconds", 1_800
# XLA ends a process whose flags it does not know.
_PATIENT = (0, 8)


def prepare_backend(batch_sizes: Sequence[int], compilation_cache: str, processes: int = 1) -> None:
    """Sets up JAX for a command. Call it before anything is computed.

    On a CPU, each core becomes a device if that number divides every batch; otherwise the largest smaller number does.
    XLA runs a convolution of few channels on one core. Two halves of a batch on two devices are therefore up to 1.4
    times faster than the whole batch on one. A number of devices set by the user (JAX_NUM_CPU_DEVICES, XLA_FLAGS) is
    kept, and so is a JAX that has already started. A jaxlib with a known fault causes a warning on standard error.

    Devices of a CPU wait for each other for half an hour, from JAX 0.8 on: XLA ends a program, without a word to its
    user, where one of them comes 40 seconds after another, as happens on a machine that others use.

    Args:
      batch_sizes: sizes of the batches that will be split over the devices.
      compilation_cache: folder of compiled programs. "auto" takes JAX_COMPILATION_CACHE_DIR, or else a folder in the
        user's cache folder. "off" sets none.
      processes: number of processes that share each batch.

    Raises:
      InputError: if the folder cannot be made.
    """
    platform = (jax.config.jax_platforms or "cpu").split(",")[0]  # asking for the devices would start JAX
    if faulty := say_known_issues(jaxlib.__version__, {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)):
        print(faulty, file=sys.stderr)
    flags = os.environ.get("XLA_FLAGS", "")
    if _PATIENCE not in flags and jax.__version_info__ >= _PATIENT:
        os.environ["XLA_FLAGS"] = f"{flags} {_PATIENCE}={_HALF_AN_HOUR}".strip()
    if jax.config.jax_num_cpu_devices < 1 and "host_platform_device_count" not in flags:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        devices = max(
            n for n in range(1, cores + 1) if n == 1 or all(size % (n * processes) == 0 for size in batch_sizes)
        )
        try:
            jax.config.update("jax_num_cpu_devices", devices)
        except RuntimeError:  # JAX has already started and keeps its devices
            pass
    if compilation_cache == "auto" and jax.config.jax_compilation_cache_dir:
        return
    if compilation_cache != "off":
        users = platformdirs.user_cache_path("resjax") / "compiled"
        folder = users if compilation_cache == "auto" else pathlib.Path(compilation_cache)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--compilation_cache {folder} cannot be made: {error}; use 'off' for no cache") from None
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
