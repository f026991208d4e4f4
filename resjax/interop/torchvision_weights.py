"""Weights that torchvision publishes, by name: downloaded once, checked by the hash in their files' names."""

import hashlib
import os
import pathlib
import re
import shutil
from typing import Any

from resjax.errors import InputError, did_you_mean
from resjax.interop.timm_weights import create, imagenet_classes
from resjax.interop.torch_weights import load_torch_weights

ADDRESS = "https://download.pytorch.org/models/"
PREFIX = "torchvision/"
_TIMEOUT_SECONDS = 30.0
# torchvision 0.28: first digits of the SHA-256 of each file, as its name has them, and the shorter side that images are
# resized to; the crop is 224.
_FILES = {
    "resnet18.IMAGENET1K_V1": ("f37072fd", 256),
    "resnet34.IMAGENET1K_V1": ("b627a593", 256),
    "resnet50.IMAGENET1K_V1": ("0676ba61", 256),
    "resnet50.IMAGENET1K_V2": ("11ad3fa6", 232),
    "resnet101.IMAGENET1K_V1": ("63fe2227", 256),
    "resnet101.IMAGENET1K_V2": ("cd907fc2", 232),
    "resnet152.IMAGENET1K_V1": ("394f9c45", 256),
    "resnet152.IMAGENET1K_V2": ("f82ba261", 232),
    "resnext50_32x4d.IMAGENET1K_V1": ("7cdf4587", 256),
    "resnext50_32x4d.IMAGENET1K_V2": ("1a0047aa", 232),
    "resnext101_32x8d.IMAGENET1K_V1": ("8ba56ff5", 256),
    "resnext101_32x8d.IMAGENET1K_V2": ("110c445d", 232),
    "resnext101_64x4d.IMAGENET1K_V1": ("173b62eb", 232),
    "wide_resnet50_2.IMAGENET1K_V1": ("95faca4d", 256),
    "wide_resnet50_2.IMAGENET1K_V2": ("9ba9bcbe", 232),
    "wide_resnet101_2.IMAGENET1K_V1": ("32ee1156", 256),
    "wide_resnet101_2.IMAGENET1K_V2": ("d733dc28", 232),
    "densenet121.IMAGENET1K_V1": ("a639ec97", 256),
    "densenet161.IMAGENET1K_V1": ("8d451a50", 256),
    "densenet169.IMAGENET1K_V1": ("b2777c0a", 256),
    "densenet201.IMAGENET1K_V1": ("c1103571", 256),
}


def published() -> list[str]:
    """The names, "torchvision/resnet50.IMAGENET1K_V2" .., of torchvision's weights that our networks take."""
    return [PREFIX + name for name in _FILES]


def about_of(name: str) -> dict[str, Any]:
    """What is known of "torchvision/NAME", as `resjax.pretrained_info` gives it; raises InputError for another name."""
    _, resized = _known(name)
    return {
        "model": name.removeprefix(PREFIX).partition(".")[0],
        "weights": name,
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "size": [224, 224],
        "crop": 224 / resized,
        "interpolation": "bilinear",
        "class_names": list(imagenet_classes()),
        "license": "bsd-3-clause",
    }


def load(name: str, overrides: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The network of "torchvision/NAME" and its variables; reading the file needs PyTorch."""
    digest, _ = _known(name)
    model = create(name.removeprefix(PREFIX).partition(".")[0], **overrides)
    return model, load_torch_weights(model, _fetch(name, digest))


def _known(name: str) -> tuple[str, int]:
    short = name.removeprefix(PREFIX)
    if short not in _FILES:
        same = [known for known in _FILES if known.partition(".")[0] == short]
        near = f"; these are {' and '.join(PREFIX + known for known in same)}" if same else did_you_mean(short, _FILES)
        raise InputError(f"{name}: no weights of torchvision{near}; resjax.list_pretrained('torchvision/*') lists them")
    return _FILES[short]


def _fetch(name: str, digest: str) -> pathlib.Path:
    """The file, of PyTorch's own cache or ours, or downloaded into ours."""
    # Nobody else should wait for these.
    import http.client
    import urllib.request

    import platformdirs

    file_name = f"{name.removeprefix(PREFIX).partition('.')[0]}-{digest}.pth"
    own = platformdirs.user_cache_path("resjax") / "torchvision" / file_name
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    for path in (own, pathlib.Path(home).expanduser() / "hub" / "checkpoints" / file_name):
        if path.is_file() and _has(path, digest):
            return path
    address = ADDRESS + file_name
    partial = own.with_name(f".{file_name}.{os.getpid()}.partial")
    way_out = f"download it elsewhere and put it at {own}"
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.build_opener().open(address, timeout=_TIMEOUT_SECONDS) as answer,
            open(partial, "wb") as file,
        ):
            shutil.copyfileobj(answer, file)
        if not _has(partial, digest):
            raise InputError(
                f"{name}: what {address} sent is not the file whose SHA-256 begins with {digest}: cut off, or changed"
                f" on the way; try again, or {way_out}"
            )
        os.replace(partial, own)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, InputError):
            raise
        reason = re.sub(r"\s+", " ", str(error if hasattr(error, "code") else getattr(error, "reason", error)))
        raise InputError(f"{name}: {address} cannot be downloaded ({reason}); {way_out}") from None
    finally:
        partial.unlink(missing_ok=True)
    return own


def _has(path: pathlib.Path, digest: str) -> bool:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(digest)
