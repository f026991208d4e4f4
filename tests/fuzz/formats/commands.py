"""Command lines, and the files that they name beside data and weights."""

import contextlib
import functools
import importlib
import importlib.util
import io
import json
import random
import re
from pathlib import Path
from typing import Any

from tests.fuzz.files import pixels
from tests.fuzz.formats.format import Format
from tests.fuzz.formats.images import odd_image
from tests.fuzz.formats.weights import random_variables
from tests.helpers.voc_folder import encoded

_OFF = ("--compilation_cache", "off")
# Each ends soon, also with sound flags. {} is the case's folder.
_COMMANDS = {
    "experiments.cifar": ["--config", "quickstart", "--dry_run", *_OFF],
    "experiments.imagenet": ["--config", "resnet_50", "--dry_run", *_OFF],
    "experiments.segmentation": ["--config", "quickstart", "--dry_run", *_OFF],
    "experiments.evaluate": ["resnet_20-cifar10", "--dataset", "arrays", "--data_dir", "{}", *_OFF],  # reads no images
    "experiments.analyse": ["lesion", "nothing-there"],
    "experiments.predict": ["{}/weights", "{}/images/im0.png", "--workers", "0", "--overlays", "{}/overlays", *_OFF],
    "experiments.export": ["{}/weights", "--to", "savedweights", "--output", "{}/exported"],
    "experiments.models": ["--show", "resnet_20"],
    "experiments.report": ["{}/run", "--output", "{}/report"],
    "experiments.pack": ["{}/run", "--output", "{}/packed"],
    "experiments.audit": ["{}/run"],  # has no checkpoint
    "experiments.sweep": ["{}/study", "--vary", "seed=1,2", "cifar", "quickstart", "--nothing"],  # trains nothing
}
# Places that a person names are written to; a coordinator is waited for, as is asked.
_NOT_TRIED = re.compile(
    "dir|dry_run|output|overlays|sheet|svg|readme|save|cache|coordinator|process|profile|tracker|scaling|device|host"
    "|target|fit|worker|help"
)


@functools.cache
def _flags(module: str) -> list[tuple[str, str]]:
    """The flags of a command and what its help says that they take, e.g. ("--epochs", "INT")."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        importlib.import_module(module).main(["--help", "all"])
    said = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    found = {*re.findall(r"(--[a-z][a-z_.0-9]*)(?: ([A-Z{][^\s│]*))?", said), ("--nothing", "")}
    return sorted((flag, kind) for flag, kind in found if not _NOT_TRIED.search(flag))


def _read_command(folder: Path, rng: random.Random) -> Any:
    from tests.fuzz.worker import run_command

    path = folder / "command.json"
    module, arguments = json.loads(path.read_text())
    return run_command(module, [argument.replace("{}", str(folder)) for argument in arguments])


def _command(folder: Path) -> None:
    from tests.helpers.finished_run import write_run

    (folder / "command.json").write_text(json.dumps(["experiments.report", ["--help"]]))
    _images_to_predict(folder)
    write_run(folder / "run", "resnet_20")


def _odd_command(rng: random.Random, folder: Path) -> None:
    module = rng.choice(list(_COMMANDS))
    arguments = list(_COMMANDS[module])
    whole = ("0", "-1", "1", "3", "7", "2147483648", "1000000000", "99999999999999999999", "9" * 400)
    numbers = (*whole, "1e9", "1e308", "-1e308", "nan", "inf", "-inf", "0.5", "1e-320")
    names = ("resnet_20", "wrn_10_1", "seed=1..9", "", "{}/none", "{}/images", "{}")
    others = ("None", "True", "x", "[bold]", "{}", "1,2", "é", "a" * 300, "\x1b[31m", *names)
    # A sweep's own flags stand before the training command's.
    at = 1 if module == "experiments.sweep" else len(arguments)
    for _ in range(rng.choice((1, 1, 1, 2))):
        flag, kind = rng.choice(_flags(module))
        if not kind and rng.random() < 0.9:  # a switch
            arguments.insert(at, flag)
            continue
        pools = {"INT": whole, "FLOAT": numbers, "STR": others}
        choices = [value for word in re.findall(r"\w+", kind) for value in pools.get(word, (word,))]
        value = rng.choice(choices if choices and rng.random() < 0.9 else (*numbers, *others))
        arguments[at:at] = [flag, *[value] * rng.choice((1, 1, 1, 1, 1, 2, 0))]
    if rng.random() < 0.1:  # what is named first
        arguments[rng.randrange(2)] = rng.choice((*numbers, *others))
    (folder / "command.json").write_text(json.dumps([module, arguments]))


def _class_names(folder: Path) -> None:
    (folder / "lines.txt").write_text("0 cat\n1 dog\n2 n01440764 tench\n")
    (folder / "names.json").write_text(json.dumps({"0": ["n01440764", "tench"], "1": "cat", "2": ["dog"]}))


def _read_class_names(folder: Path, rng: random.Random) -> Any:
    from experiments.evaluation.classes import match_classes, read_class_names

    found = [read_class_names(folder / name) for name in ("lines.txt", "names.json")]
    return [found, *(match_classes(names, ["cat", "dog"], "the network") for names in found)]


def _images_to_predict(folder: Path) -> None:
    import resjax

    model = resjax.create_model("highway_10_2", num_classes=2)
    about = {"mean": [99.0] * 3, "std": [50.0] * 3, "size": [32, 32], "class_names": ["a", "b"]}
    resjax.save_pretrained(folder / "weights", model, random_variables(model), about)
    (folder / "images").mkdir()
    for number, (kind, suffix) in enumerate((("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("BMP", "bmp"))):
        (folder / "images" / f"im{number}.{suffix}").write_bytes(encoded(pixels(20, 24 + number, 3), kind))


def _predict(folder: Path, rng: random.Random) -> Any:
    from tests.fuzz.worker import run_command

    arguments = [str(folder / "weights"), str(folder / "images"), "--compilation_cache", "off"]
    return run_command("experiments.predict", [*arguments, *rng.choice(([], ["--json"])), "--workers", "0"])


FORMATS = {
    "commands": Format(_command, _read_command, (_odd_command,), weight=0.4, is_made=True),
    "classes": Format(_class_names, _read_class_names),
    "predict": Format(_images_to_predict, _predict, (odd_image,), weight=0.1),
}
