"""What a result depends on besides its config: machine, versions, commit."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

import resjax


def describe_devices() -> str:
    """E.g. "8 x TPU v5e"."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version(), "resjax": resjax.__version__}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def git_commit() -> str | None:
    """The commit of this checkout, with "-dirty" appended if files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def hardware() -> str:
    """E.g. "8 x TPU v5e", or "2 x cpu (64 cores of AMD EPYC 7763 64-Core Processor)"."""
    devices = describe_devices()
    return f"{devices} ({cpu()})" if jax.default_backend() == "cpu" else devices


def machine_identity() -> dict[str, Any]:
    """What must be the same for training to give the same numbers bit for bit: devices and versions of packages."""
    return {"hardware": hardware(), "versions": versions()}


def cpu() -> str:
    """E.g. "64 cores of AMD EPYC 7763 64-Core Processor"."""
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {name}"
