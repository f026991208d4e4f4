"""What has to be said to JAX before it starts: all cores of a CPU, and where compiled programs are kept."""

import os
import pathlib
from collections.abc import Sequence

import jax
import platformdirs

from resjax.errors import InputError


def prepare_backend(batch_sizes: Sequence[int], compilation_cache: str, processes: int = 1) -> None:
    """Sets up JAX for a command; to be called before anything is computed.

    On a CPU each core becomes a device, as far as their number divides the batches: XLA runs a convolution of few
    channels on one core alone, so that two halves of a batch on two devices are up to 1.4 times faster than the whole
    on one. A number of devices that JAX was told (JAX_NUM_CPU_DEVICES, XLA_FLAGS) is left alone; so is a JAX that has
    started.

    Args:
      batch_sizes: sizes of the batches that will be split over the devices.
      compilation_cache: folder of compiled programs; "auto" is the one that JAX was told (JAX_COMPILATION_CACHE_DIR),
        or else one in the user's cache folder; "off" adds none.
      processes: number of processes that share each batch.

    Raises:
      InputError: for a folder that cannot be made.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.config.jax_num_cpu_devices < 1 and "host_platform_device_count" not in flags:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        devices = max(
            n for n in range(1, cores + 1) if n == 1 or all(size % (n * processes) == 0 for size in batch_sizes)
        )
        try:
            jax.config.update("jax_num_cpu_devices", devices)
        except RuntimeError:  # already started, with the devices it has
            pass
    if compilation_cache == "auto" and jax.config.jax_compilation_cache_dir:
        return
    if compilation_cache != "off":
        users = platformdirs.user_cache_path("resjax") / "compiled"
        folder = users if compilation_cache == "auto" else pathlib.Path(compilation_cache)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--compilation_cache {folder} cannot be made: {error}; 'off' keeps none") from None
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
