"""Machines that programs are compiled for on a computer without them: TPU slices and GPUs, by name."""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence

import jax
from jax.experimental import topologies

from resjax.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      memory: bytes that a program can use.
      bandwidth: bytes per second between the device and its memory.
      bfloat16, float32: dense matrix FLOP per second in computations of that dtype.
      source: source of the numbers.
      shapes: topologies of TPU slices, smallest first; others are tried too.
      compiler: the compiler's description of a GPU.
    """

    memory: float
    bandwidth: float
    bfloat16: float
    float32: float
    source: str
    shapes: tuple[str, ...] = ()
    compiler: str = ""


def _gpu(name: str, major: int, cores: int, memory: int, bandwidth: int, l2: int, clock: float, tensor: float) -> Chip:
    """A GPU; `tensor` is its dense bfloat16 rate. JAX computes float32 products in TF32, at half that rate."""
    # The fields of XLA's GpuTargetConfigProto that its passes read.
    compiler = f"""
      gpu_device_info {{
        threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
        shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
        core_count: {cores} fpus_per_core: 128 clock_rate_ghz: {clock}
        registers_per_core_limit: 65536 registers_per_block_limit: 65536
        block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
        thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
        memory_bandwidth: {bandwidth} l2_cache_size: {l2} device_memory_size: {memory}
        cuda_compute_capability {{ major: {major} feature_extension: ACCELERATED_FEATURES }}
        device_address_bits: 64 pcie_bandwidth: 34359738368 ecc_enabled: true name: "{name}"
        driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
        dnn_version: "9.10.0" device_interconnect_info {{ active_links: 18 }}
        collective_memory_granularity: 2097152
      }}
      platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{name}"
    """
    # JAX takes three quarters of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
    source = "NVIDIA's data sheet and OpenXLA's xla/backends/gpu/target_config/specs; 75 % of its memory, as JAX takes"
    fraction = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75))
    return Chip(fraction * memory, bandwidth, tensor, tensor / 2, source, compiler=compiler)


def _tpu(gib: float, bandwidth: float, flops: float, shapes: str) -> Chip:
    """A TPU chip. JAX computes float32 products in bfloat16 there, unless a higher precision is asked for."""
    source = "Google Cloud's page of this TPU; memory as its compiler counts it"
    return Chip(gib * 2**30, bandwidth, flops, flops, source, tuple(shapes.split()))


_FLAT = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_CUBES = "1x1x1 2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16 16x16x24"
CHIPS = {
    "h100": _gpu("NVIDIA H100 80GB HBM3", 9, 132, 84942979072, 3352320000000, 52428800, 1.98, 989.4e12),
    "h200": _gpu("NVIDIA H200 141GB HBM3e", 9, 132, 151397597184, 4800000000000, 52428800, 1.98, 989.4e12),
    "b200": _gpu("NVIDIA B200", 10, 148, 191514411008, 7672320000000, 132644864, 1.965, 2250e12),
    "tpu_v5e": _tpu(15.75, 819e9, 197e12, _FLAT),
    "tpu_v5p": _tpu(95.74, 2765e9, 459e12, _CUBES),
    "tpu_v6e": _tpu(31.25, 1640e9, 918e12, _FLAT),
}
"""Devices by the first part of a target's name."""

EXAMPLES = ("h200", "h200:8", "tpu_v5e:1x1", "tpu_v5e:4x4", "tpu_v5p:2x2x2", "tpu_v6e:2x4")
"""Names of targets, for messages."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine to compile for.

    Attributes:
      name: as `target` takes it.
      chip: one of its devices.
      devices: all of them. Programs are compiled for them; nothing can run on them here.
    """

    name: str
    chip: Chip
    devices: Sequence[jax.Device]


def target(name: str) -> Target:
    """Makes the machine that a name describes, e.g. h200, h200:8, tpu_v5e:4x4 or tpu_v5p:2x2x2.

    A GPU alone is one device, with :N there are N in one server, with :MxN there are M such servers. A TPU alone is one
    chip. No accelerator is used. On a machine that has one, call `stay_on_cpu` first, and JAX will not start it.

    Raises:
      InputError: for an unknown name, or a compiler that is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        # `h200-8` or `tpuv5e` should find their names.
        raise InputError(
            f"--target {name}: unknown machine{did_you_mean(kind, CHIPS)}; expected one of {', '.join(CHIPS)}, with a"
            f" number of GPUs or a topology: {', '.join(EXAMPLES)}"
        )
    chip = CHIPS[kind]
    return Target(name, chip, _tpu_devices(name, chip, shape) if chip.shapes else _gpu_devices(name, chip, shape))


def _gpu_devices(name: str, chip: Chip, shape: str) -> Sequence[jax.Device]:
    if not re.fullmatch(r"([1-9]\d{0,3}x)?[1-9]\d{0,2}", shape or "1"):
        raise InputError(f"--target {name}: expected the GPUs of a server, or SERVERSxGPUS, e.g. {_kind(name)}:2x8")
    plugins = importlib.util.find_spec("jax_plugins")
    found = {module for path in (plugins.submodule_search_locations if plugins else ()) for module in os.listdir(path)}
    if not found & {"xla_cuda12", "xla_cuda13"}:
        raise InputError(f"--target {name}: the CUDA compiler is missing: pip install -e '.[cuda-compile]'")
    hosts, _, gpus = (shape or "1").rpartition("x")
    sizes = {"topology": f"1x{hosts or 1}x{gpus}", "target_config": chip.compiler}
    try:
        with _quiet():
            return topologies.get_topology_desc("", platform="cuda", **sizes).devices
    except NotImplementedError:  # JAX has started without its plugin for GPUs, because it found no cuDNN
        raise InputError(
            f"--target {name}: JAX started without its GPU part: set JAX_PLATFORMS=cpu on a machine without a GPU, or"
            " install CUDA's libraries: pip install -r requirements-cuda.txt"
        ) from None


def _tpu_devices(name: str, chip: Chip, shape: str) -> Sequence[jax.Device]:
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"--target {name}: the TPU compiler is missing: pip install -e '.[tpu]'")
    # libtpu would ask the metadata server of a TPU, and let only one process of a machine load it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    shape = shape or chip.shapes[0]
    # A host has four chips; of a single chip the compiler must be told.
    one = {"chips_per_host_bounds": [1, 1, 1]} if set(shape.split("x")) == {"1"} else {}
    wrong = f"--target {name}: expected a topology, {_kind(name)}: and one of {', '.join(chip.shapes)}"
    if not re.fullmatch(r"[1-9]\d{0,2}" + r"x[1-9]\d{0,2}" * chip.shapes[0].count("x"), shape):
        raise InputError(f"{wrong}{did_you_mean(shape, chip.shapes)}")
    try:
        with _quiet():
            kind = _kind(name).removeprefix("tpu_")
            return topologies.get_topology_desc(f"{kind}:{shape}", platform="tpu", **one).devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"{wrong} ({str(error).splitlines()[0][:120]})") from None


def _kind(name: str) -> str:
    return name.partition(":")[0]


def stay_on_cpu() -> None:
    """JAX starts no accelerator, also where there is one. Call it before anything is computed."""
    jax.config.update("jax_platforms", "cpu")


def compiler_versions() -> dict[str, str]:
    """Versions of the compilers of `target` that are installed, and of JAX."""
    found = {}
    for package in ("jax", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cuda-nvcc-cu12"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The compilers' libraries write to the process's standard error that they found no accelerator."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
