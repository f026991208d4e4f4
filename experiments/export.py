"""Writes a trained network for other software: `python -m experiments.export resnet_20-cifar10 --to onnx`."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
from safetensors.numpy import load_file, save

from experiments.evaluation.classifier import WeightsOptions, load_classifier
from experiments.evaluation.overlays import is_segmenter, load_segmenter
from experiments.runtime.arguments import read_options
from experiments.runtime.backend import prepare_backend
from experiments.runtime.exit_codes import exit_code
from experiments.runtime.files import without_folders, write
from experiments.training.workdir import is_run
from resjax import (
    from_pretrained,
    load_torch_weights,
    pretrained_info,
    save_pretrained,
    to_onnx,
    to_stablehlo,
    to_torch,
)
from resjax.errors import InputError
from resjax.interop.network_input import Preprocessing

PROGRAM = "python -m experiments.export"
SUFFIXES = {"stablehlo": ".stablehlo", "onnx": ".onnx", "torch": ".safetensors", "savedweights": ""}
TOLERANCE = 1e-5
_IMAGES = 2
_MOST_USED = ("to", "output", "normalize", "image_size", "names", "checkpoint", "model", "json")
# Without this library: nothing but the file, NumPy and JAX.
_RUN_STABLEHLO = """
import sys, numpy as np
from jax import export
program = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
np.save(sys.argv[3], program.call(np.load(sys.argv[2])))
assert "resjax" not in sys.modules
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(WeightsOptions):
    """Writes a trained network for other software, reads the file again, and compares the logits.

    Beside the file, FILE.json says what the input of the network is: its mean, std, size, crop and class names.
    """

    of: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|NAME|FILE")]
    """A run, by its workdir, or trained weights: a name of resjax.list_pretrained(), also of timm, torchvision or the
    hub; a folder of resjax.save_pretrained; or a file of PyTorch's weights, with --model."""
    to: Literal["stablehlo", "onnx", "torch", "savedweights"]
    """What to write; stablehlo: one program of jax.export for CPU, CUDA and TPU. onnx: for ONNX Runtime and others.
    torch: a .safetensors that timm or torchvision loads. savedweights: a folder of resjax.from_pretrained."""
    output: pathlib.Path | None = None
    """The file, or the folder of savedweights, to write; default: the name of the network, here."""
    normalize: bool = False
    """Take uint8 pixels, and normalise them inside (stablehlo, onnx)."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images (stablehlo, onnx); default: both are free, as their number is."""
    names: str | None = None
    """Whose names the arrays get (torch), e.g. timm, torchvision, kuangliu; default: torchvision where it has any."""
    json: bool = False
    """Print one JSON object, and nothing else on standard output."""


class Network(NamedTuple):
    """What is exported."""

    model: Any
    variables: Any
    preprocess: Preprocessing
    class_names: Sequence[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for bad input."""

    def command():
        run(read_options(Options, PROGRAM, arguments, most_used=_MOST_USED))

    return exit_code(command, kept="nothing was written")


def run(options: Options) -> dict[str, Any]:
    """Writes the file; prints and returns what it is: "file", "bytes", "images", "difference" and others.

    Raises:
      InputError: for a network that cannot be read, or not be written in this form; where the file, read again, does
        not compute the same logits.
    """
    prepare_backend((), "auto")
    network = _load(options)
    output = options.output or pathlib.Path(_plain(options.of) + (SUFFIXES[options.to] or "-weights"))
    shape, fixed = _image_shape(options, network)
    about = _about(options, network)
    if options.to in ("stablehlo", "onnx"):
        about["input"] = {
            "name": "images",
            "shape": ["n", *(size or name for size, name in zip(shape, ("height", "width", "channels"), strict=True))],
            "dtype": "uint8" if options.normalize else "float32",
            "normalized_inside": options.normalize,
        }
    images = _images(options, network, fixed)
    try:
        content = _WRITERS[options.to](options, network, shape, output, about)
        if content is not None:
            write(output, content)
            write(output.with_name(f"{output.name}.json"), about)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written: {error.strerror or error}") from None
    normalized = network.preprocess(images) if images.dtype == np.uint8 else images
    expected = np.asarray(jax.jit(network.model.apply)(network.variables, normalized))
    found = _READERS[options.to](options, network, output, images)
    result = {"file": str(output), "form": options.to, **about}
    result["bytes"] = sum(path.stat().st_size for path in output.iterdir()) if output.is_dir() else len(content)
    if found is None:
        said = f"not run: ONNX Runtime is not installed; `pip install 'resjax[onnx]'` compares the logits of {output}"
        print(said, file=sys.stderr)
        result["difference"] = None
    else:
        result["difference"] = float(np.abs(found - expected).max() / np.abs(expected).max())
        if not result["difference"] <= TOLERANCE:
            raise InputError(
                f"{output}: read again, its logits differ by {result['difference']:.1e} of the largest one; expected at"
                f" most {TOLERANCE:g}: do not use it"
            )
    if options.json:
        print(json.dumps({key: value for key, value in result.items() if key not in ("mean", "std")}))
    else:
        _print(result, options)
    return result


def _load(options: Options) -> Network:
    if is_segmenter(options.of):
        model, variables, preprocess, _, class_names = load_segmenter(options.of, options.checkpoint)
        return Network(model, variables, preprocess, class_names)
    return Network(*load_classifier(options.of, options))


def _plain(of: str) -> str:
    """The last part of a name or a path, without a suffix of weights."""
    return re.sub(r"\.(safetensors|pth?|bin|ckpt)$", "", pathlib.Path(of).resolve().name if "/" in of else of)


def _image_shape(options: Options, network: Network) -> tuple[tuple[int | None, int | None, int], tuple[int, int]]:
    """(H, W, C) of the input, None where it is free, and a size to compare with."""
    preprocess = network.preprocess
    per_pixel = np.shape(preprocess.mean)[:-1]
    size = options.image_size or (per_pixel if per_pixel and options.normalize else (None, None))
    if options.image_size is not None and min(options.image_size) < 1:
        raise InputError(f"--image_size: expected a height and width in pixels, got {options.image_size}")
    return (*size, preprocess.channels), size if None not in size else preprocess.size or (64, 64)


def _about(options: Options, network: Network) -> dict[str, Any]:
    preprocess = network.preprocess
    is_own = is_run(pathlib.Path(options.of)) or options.model is not None
    about = ({} if is_own else pretrained_info(options.of)) | {
        "of": without_folders(options.of),
        "network": type(network.model).__name__,
        "parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(network.variables["params"])),
        "mean": np.asarray(preprocess.mean, np.float32).tolist(),
        "std": np.asarray(preprocess.std, np.float32).tolist(),
        "crop": preprocess.crop,
        "interpolation": preprocess.interpolation,
        "class_names": list(network.class_names),
    }
    return about | ({} if preprocess.size is None else {"size": list(preprocess.size)})


def _images(options: Options, network: Network, size: tuple[int, int]) -> np.ndarray:
    """Images to compare with, drawn at random."""
    rng, shape = np.random.default_rng(0), (_IMAGES, *size, network.preprocess.channels)
    if options.normalize:
        return rng.integers(0, 256, shape, np.uint8)
    return rng.normal(size=shape).astype(np.float32)


def _print(result: dict[str, Any], options: Options) -> None:
    print(f"{result['file']}: {result['network']}, {result['parameters']:,} parameters, {result['bytes'] / 1e6:.1f} MB")
    if "input" in result:
        shape = ", ".join(map(str, result["input"]["shape"]))
        normalized = "pixels 0 .. 255" if options.normalize else "normalised by mean and std"
        print(f"input: {result['input']['dtype']} [{shape}], {normalized}")
    if options.to != "savedweights":
        print(f"{result['file']}.json: its mean, std, size, crop and class names")
    if result["difference"] is not None:
        print(f"read again: logits equal to {result['difference']:.1e} of the largest")


def _write_stablehlo(options, network, shape, output, about) -> bytes:
    normalize = network.preprocess if options.normalize else None
    return bytes(to_stablehlo(network.model, network.variables, shape, normalize).serialize())


def _read_stablehlo(options, network, output, images) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        of_images, of_logits = (str(pathlib.Path(folder, f"{name}.npy")) for name in ("images", "logits"))
        np.save(of_images, images)
        command = [sys.executable, "-c", _RUN_STABLEHLO, str(output.resolve()), of_images, of_logits]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise InputError(f"{output}: a new process cannot run it ({said})")
        return np.load(of_logits)


def _write_onnx(options, network, shape, output, about) -> bytes:
    normalize = network.preprocess if options.normalize else None
    return to_onnx(network.model, network.variables, shape, normalize, _plain(options.of)).SerializeToString()


def _read_onnx(options, network, output, images) -> np.ndarray | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def _write_torch(options, network, shape, output, about) -> bytes:
    dialects = getattr(network.model, "torch_names", ())
    names = options.names or (re.search(r"[\w.-]+", dialects[0].source).group() if dialects else "torchvision")
    return save(to_torch(network.model, network.variables, names), {"format": "pt"})


def _read_torch(options, network, output, images) -> np.ndarray:
    return _logits(network.model, load_torch_weights(network.model, load_file(output)), images)


def _write_savedweights(options, network, shape, output, about) -> None:
    save_pretrained(output, network.model, network.variables, {key: about[key] for key in about if key != "network"})


def _read_savedweights(options, network, output, images) -> np.ndarray:
    return _logits(*from_pretrained(output), images)


def _logits(model, variables, images) -> np.ndarray:
    return np.asarray(jax.jit(model.apply)(variables, images))


_WRITERS = {
    "stablehlo": _write_stablehlo,
    "onnx": _write_onnx,
    "torch": _write_torch,
    "savedweights": _write_savedweights,
}
_READERS = {
    "stablehlo": _read_stablehlo,
    "onnx": _read_onnx,
    "torch": _read_torch,
    "savedweights": _read_savedweights,
}


if __name__ == "__main__":
    sys.exit(main())
