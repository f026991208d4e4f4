"""Measures the input pipeline: the decoder, the loader, and training on loaded or on resident data."""

import dataclasses
import io
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from resjax.data import load_dataset
from resjax.data.images import (
    FolderImages,
    ImageSource,
    ImageStream,
    RandomResizedCrop,
    StreamConfig,
    default_workers,
    open_folder,
    require_decoders,
)
from resjax.errors import InputError

_HEIGHT, _WIDTH = 375, 500  # the most frequent size in ImageNet; its files average 110 kB
_DRAWN = 512
# Each generated file has this many names: Grain's shuffle is slow for a few hundred images, and no dataset has so few.
_NAMES = 20
_SIZE = 224


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """Options of the input benchmark.

    Attributes:
      data_dir: folder of class folders; None generates mosaics of embedded images.
      model, batch: the network to train, and its batch size.
      workers: number of decoding processes; None takes the default.
      rounds: number of rounds; medians are reported.
      seconds: length of each measurement in a round.
      dtype: computation dtype of training.
    """

    data_dir: str | None
    model: str
    batch: int
    workers: int | None
    rounds: int
    seconds: float
    dtype: str


def measure_input(options: InputOptions) -> dict[str, Any]:
    """Measures; returns the contents of results.json, with rates in images/s."""
    require_decoders()
    workers = default_workers() if options.workers is None else options.workers
    if workers < 1:
        raise InputError(f"--workers: the input pipeline is measured with one process or more, got {workers}")
    with tempfile.TemporaryDirectory() as folder:
        if options.data_dir is None:
            draw_mosaics(pathlib.Path(folder), _DRAWN)
        source = open_folder(options.data_dir or folder).train
        sizes = [len(source.read(index)[0]) for index in range(min(len(source), 64))]
        rates = {"decoder": [], "decoders": [], "loader": [], "resident": [], "streamed": []}
        config = StreamConfig((RandomResizedCrop(_SIZE),), options.batch, seed=0)
        training = _Training(options, source, config, workers)
        for _ in range(options.rounds):
            rates["decoder"] += _decoder_rates(source, 1, options.seconds)
            rates["decoders"].append(sum(_decoder_rates(source, workers, options.seconds)))
            with ImageStream(source, config, workers=workers) as stream:
                rates["loader"].append(_rate(lambda: next(stream), options, skip=2 * workers + 3))
            rates["resident"].append(training.resident())
            rates["streamed"].append(training.streamed())
    median = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "source": options.data_dir or f"{_DRAWN} drawn JPEG files of {_HEIGHT} x {_WIDTH} pixels",
        "bytes_per_image": float(np.mean(sizes)),
        "workers": workers,
        "cores": len(os.sched_getaffinity(0)),
        "model": options.model,
        "batch": options.batch,
        "images_per_second": median,
        "loader_to_decoder": _ratio(rates["loader"], [workers * rate for rate in rates["decoder"]]),
        "loader_to_decoders": _ratio(rates["loader"], rates["decoders"]),
        "streamed_to_resident": _ratio(rates["streamed"], rates["resident"]),
        "slower_side": "device" if median["resident"] < median["loader"] else "loader",
    }


def input_table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    rates = result["images_per_second"]
    rows = (
        ("decoder only, one process, whole images", rates["decoder"], ""),
        (f"decoder only, {result['workers']} processes at once", rates["decoders"], ""),
        (
            f"loader, {result['workers']} workers: read, decode, crop, resize, batch",
            rates["loader"],
            f"{_show(result['loader_to_decoder'])} of the decoder times workers,"
            f" {_show(result['loader_to_decoders'])} of as many decoders at once",
        ),
        (f"training {result['model']}, batch {result['batch']}, on resident data", rates["resident"], ""),
        ("training fed by the loader", rates["streamed"], f"{_show(result['streamed_to_resident'])} of resident data"),
    )
    lines = [
        f"{result['source']}, {result['bytes_per_image'] / 1000:.0f} kB each; {result['cores']} cores; the slower"
        f" side is the {result['slower_side']}",
        "",
        "| | images/s | ratio (range) |",
        "|---|---|---|",
        *(f"| {what} | {rate:.1f} | {ratio} |" for what, rate, ratio in rows),
    ]
    return "\n".join(lines)


def draw_mosaics(folder: pathlib.Path, count: int) -> None:
    """Writes JPEG files about as large and as hard to decode as ImageNet's: enlarged embedded images."""
    from PIL import Image

    images, labels = load_dataset("cifar10_mini", "train")
    rng = np.random.default_rng(0)
    for number in range(count):
        picked = rng.integers(len(images), size=12)
        mosaic = np.concatenate([np.concatenate(list(images[row]), axis=1) for row in picked.reshape(3, 4)])
        enlarged = Image.fromarray(mosaic).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
        noisy = np.asarray(enlarged) + rng.normal(0, 6, (_HEIGHT, _WIDTH, 1))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=96)
        for split in ("train",) if number >= 10 else ("train", "val"):
            path = folder / split / f"class_{number % 10}"
            path.mkdir(parents=True, exist_ok=True)
            first = path / f"{number:05d}_00.jpg"
            first.write_bytes(buffer.getvalue())
            for name in range(1, _NAMES):
                os.link(first, path / f"{number:05d}_{name:02d}.jpg")


class _Training:
    """The training step, on batches of the loader or on one batch repeatedly."""

    def __init__(self, options: InputOptions, source: ImageSource, config: StreamConfig, workers: int):
        from experiments.runtime.backend import prepare_backend

        prepare_backend((options.batch,), "off")
        import jax
        import jax.numpy as jnp

        from experiments.inputs.batches import StreamedImages
        from experiments.inputs.photographs import NORMALIZE
        from resjax import create_model, train
        from resjax.data.augment.photographs import PhotoAugmentation, augment_photos

        self._jax, self._options = jax, options
        self._mesh = mesh = train.data_mesh()
        model = create_model(options.model, num_classes=1000, dtype=jnp.dtype(options.dtype))
        optimizer = train.sgd(0.1, momentum=0.9, weight_decay=1e-4)
        augmentation = PhotoAugmentation(colour_jitter=0.4, lighting=0.1)
        step = train.make_train_step(
            *(model, optimizer),
            lambda key, images, labels: augment_photos(key, images, labels, 1000, NORMALIZE, augmentation),
            objective=train.top_classification(),
        )
        whole = train.replicated(mesh)
        self._run = train.make_run_batch(step, options.batch, mesh)
        self._state = jax.jit(lambda: train.create_state(model, optimizer, 0, (_SIZE, _SIZE, 3)), out_shardings=whole)()
        self._totals = jax.device_put(train.TopTotals.zero(), whole)
        self._images = StreamedImages(source, config.views, workers)

    def streamed(self) -> float:
        """Images/s on batches of the loader."""
        with self._images.stream(self._options.batch, 0, 0, self._mesh, lambda *_: None) as stream:
            return self._measure(lambda: next(stream)[0])

    def resident(self) -> float:
        """Images/s on data that is already on the device."""
        with self._images.stream(self._options.batch, 0, 0, self._mesh, lambda *_: None) as stream:
            batch, _ = next(stream)
        return self._measure(lambda: batch)

    def _measure(self, take) -> float:
        def step():
            waiting = self._totals
            self._state, self._totals = self._run(self._state, self._totals, take())
            # As in the engine, one step runs while one waits.
            self._jax.block_until_ready(waiting)

        return _rate(step, self._options, skip=2, end=lambda: self._jax.block_until_ready(self._totals))


def _rate(step, options: InputOptions, skip: int, end=lambda: None) -> float:
    """Images/s of calls that take one batch each, over the seconds of a measurement and at least five calls."""
    for _ in range(skip):
        step()
    end()
    started, done = time.perf_counter(), 0
    while done < 5 or time.perf_counter() - started < options.seconds:
        step()
        done += 1
    end()
    return options.batch * done / (time.perf_counter() - started)


def _decoder_rates(source: FolderImages, processes: int, seconds: float) -> list[float]:
    """Images/s of each of several processes that only decode whole images, all at once."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(processes), context.Queue()
    running = [context.Process(target=_decode, args=(source, seconds, barrier, rates)) for _ in range(processes)]
    for process in running:
        process.start()
    found = [rates.get() for _ in running]
    for process in running:
        process.join()
    return found


def _decode(source, seconds, barrier, rates):
    import simplejpeg

    data = [source.read(index)[0] for index in range(min(len(source), 256))]
    barrier.wait()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        simplejpeg.decode_jpeg(data[done % len(data)])
        done += 1
    rates.put(done / (time.perf_counter() - started))


def _ratio(ours: list[float], theirs: list[float]) -> list[float]:
    """Median, minimum and maximum of the ratios within a round."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def _show(ratio: list[float]) -> str:
    return f"{ratio[0]:.2f} ({ratio[1]:.2f} .. {ratio[2]:.2f})"
