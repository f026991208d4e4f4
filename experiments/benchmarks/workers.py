"""The processes of the benchmark: one for resjax and one for PyTorch, which run on request."""

import resource
import sys
import time
import traceback
from typing import Any


class MeasurementError(RuntimeError):
    """A side cannot be measured here; the message says why."""


class Worker:
    """One side of the benchmark, in its own process.

    Args:
      context: a context of `multiprocessing`.
      side: "resjax", "torch_eager" or "torch_compile".
      request: name, batch and dtype; for resjax also form, the overrides of its network.

    Attributes:
      facts: what it measured while it was built.

    Raises:
      MeasurementError: if it cannot be built.
    """

    def __init__(self, context: Any, side: str, request: dict[str, Any]):
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, side, request), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.facts = self._answer()
        except MeasurementError:
            self.close()
            raise

    def round(self, kind: str, steps: int) -> float:
        """Runs "train" or "forward" steps; returns seconds per step, without the first step.

        While a side waits, other processes fill the caches, and the system may reclaim its pages. The first step after
        a pause is therefore slow, on both sides. It is excluded, because training never pauses.
        """
        return self._answer((kind, steps))

    def peak_memory(self) -> float:
        """Peak memory so far in MiB: of the device if it reports that, else of the process."""
        return self._answer("peak_memory")

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.terminate()

    def _answer(self, request: Any = None):
        try:
            if request is not None:
                self._pipe.send(request)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise MeasurementError("its process ended without an answer (out of memory?)") from None
        if isinstance(answer, MeasurementError):
            raise answer
        return answer


def _serve(pipe, side, request):
    try:
        sides = {"resjax": _Resjax, "torch_eager": _TorchEager, "torch_compile": _TorchCompiled}
        worker = sides[side](**request)
        pipe.send(worker.facts)
        while True:
            command = pipe.recv()
            pipe.send(worker.peak_memory() if command == "peak_memory" else worker.round(*command))
    except EOFError:
        pass
    except ImportError as error:
        pipe.send(MeasurementError(f"{error}; PyTorch comes with pip install 'resjax[parity]'"))
    except Exception as error:
        traceback.print_exc()
        pipe.send(MeasurementError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))


def _process_peak() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def machine() -> dict[str, str]:
    """Describes the machine that JAX runs on; starts JAX."""
    import jax

    from experiments.runtime.machine import cpu, describe_devices

    return {"cpu": cpu(), "devices": describe_devices(), "jax": jax.__version__}


def create_network(name: str, **overrides: Any) -> Any:
    """A network of `resjax.create_model`; NAME@STRIDE is dilated to that output stride."""
    from resjax import create_model

    name, _, stride = name.partition("@")
    return create_model(name, **({"output_stride": int(stride)} if stride else {}), **overrides)


class _Resjax:
    """The training step as the engine runs it: many steps in one dispatch, state donated, on all devices."""

    def __init__(self, name: str, batch: int, dtype: str, form: dict[str, Any]):
        from experiments.runtime.backend import prepare_backend
        from experiments.runtime.compiled import allocated_bytes

        prepare_backend((batch,), "off")
        import jax
        import jax.numpy as jnp
        import numpy as np
        from jax import lax

        from resjax import model_info, train
        from resjax.layers import split_batch

        info = model_info(name.partition("@")[0])
        model = create_network(name, dtype=jnp.dtype(dtype), **form)
        optimizer = train.sgd(0.1, momentum=0.9, weight_decay=1e-4)
        step = train.make_train_step(
            model, optimizer, lambda key, images, labels: (images, jax.nn.one_hot(labels, info.num_classes))
        )
        mesh = train.data_mesh()
        whole, split = train.replicated(mesh), train.batch_sharding(mesh)
        state = jax.jit(lambda: train.create_state(model, optimizer, 0, info.input_size), out_shardings=whole)()
        rng = np.random.default_rng(0)
        images = rng.normal(size=(batch, *info.input_size)).astype(np.float32)
        labels = rng.integers(0, info.num_classes, batch).astype(np.int32)
        self._batch = jax.device_put((images, labels), split)

        def run(state, batch, steps):
            with split_batch(mesh):
                return lax.fori_loop(0, steps, lambda _, state: step(state, batch)[0], state)

        started = time.perf_counter()
        traced = jax.jit(run, donate_argnums=0, out_shardings=whole).trace(state, self._batch, 1)
        traced_at = time.perf_counter()
        lowered = traced.lower()
        lowered_at = time.perf_counter()
        self._run = lowered.compile()
        self.facts = {
            "trace_s": traced_at - started,
            "lower_s": lowered_at - traced_at,
            "compile_s": time.perf_counter() - lowered_at,
            "program_mib": jax.device_count() * allocated_bytes(self._run) / 2**20,
            "ceiling_gflops": _matmul_rate(jnp.dtype(dtype)),
            "machine": machine(),
        }
        # Variables are an argument: a compiled program would hold those of its closure as constants.
        self._forward = jax.jit(model.apply, out_shardings=split)
        self._state, self._jax = state, jax
        self.round("forward", 1), self.round("train", 1)
        self.facts["seconds_per_step"] = self.round("train", 1)

    def round(self, kind: str, steps: int) -> float:
        """Seconds per step, without the first step; see `Worker.round`."""
        for count in (1, steps):
            started = time.perf_counter()
            if kind == "train":
                self._state = self._jax.block_until_ready(self._run(self._state, self._batch, count))
            else:
                for _ in range(count):
                    self._jax.block_until_ready(self._forward(self._state.variables, self._batch[0]))
        return (time.perf_counter() - started) / steps

    def peak_memory(self) -> float:
        """Peak memory in MiB."""
        stats = self._jax.devices()[0].memory_stats() or {}
        return stats["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in stats else _process_peak()


def _matmul_rate(dtype) -> float:
    """The highest measured rate of a matrix product, in GFLOP/s."""
    import jax
    import jax.numpy as jnp

    best = 0.0
    for size in (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192, 16384):
        a = jnp.ones((size, size), dtype)
        product = jax.jit(jnp.matmul)
        product(a, a).block_until_ready()
        for _ in range(5):
            started = time.perf_counter()
            product(a, a).block_until_ready()
            best = max(best, 2 * size**3 / (time.perf_counter() - started) / 1e9)
    return best


class _TorchEager:
    """The same training step in PyTorch, with channels last."""

    compiled = False

    def __init__(self, name: str, batch: int, dtype: str):
        import torch

        from experiments.benchmarks.torch_networks import torch_network
        from resjax import model_info

        self._torch, self._dtype = torch, getattr(torch, dtype)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        info = model_info(name.partition("@")[0])
        height, width, channels = info.input_size
        network = torch_network(create_network(name), channels).to(self._device, memory_format=torch.channels_last)
        self._optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
        images = torch.randn(batch, channels, height, width, device=self._device)
        self._images = images.to(memory_format=torch.channels_last)
        self._labels = torch.randint(0, info.num_classes, (batch,), device=self._device)
        self._network = torch.compile(network) if self.compiled else network
        started = time.perf_counter()
        self.round("train", 3), self.round("forward", 3)
        kind = torch.cuda.get_device_name() if self._device.type == "cuda" else f"{torch.get_num_threads()} threads"
        self.facts = {
            "first_steps_s": time.perf_counter() - started,
            "machine": {"torch": torch.__version__, "torch_device": kind},
        }

    def round(self, kind: str, steps: int) -> float:
        """Seconds per step, without the first step; see `Worker.round`."""
        for count in (1, steps):
            self._synchronize()
            started = time.perf_counter()
            for _ in range(count):
                self._train() if kind == "train" else self._forward()
            self._synchronize()
        return (time.perf_counter() - started) / steps

    def peak_memory(self) -> float:
        """Peak memory in MiB."""
        cuda = self._torch.cuda
        return cuda.max_memory_allocated() / 2**20 if self._device.type == "cuda" else _process_peak()

    def _train(self):
        self._network.train()
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            logits = self._network(self._images)
        self._torch.nn.functional.cross_entropy(logits.float(), self._labels).backward()
        self._optimizer.step()

    def _forward(self):
        self._network.eval()
        with self._torch.no_grad(), self._autocast():
            self._network(self._images)

    def _autocast(self):
        is_lower = self._dtype != self._torch.float32
        return self._torch.autocast(self._device.type, dtype=self._torch.bfloat16, enabled=is_lower)

    def _synchronize(self):
        if self._device.type == "cuda":
            self._torch.cuda.synchronize()


class _TorchCompiled(_TorchEager):
    compiled = True
