"""The networks by name, and one of them drawn: `python -m experiments.models "wrn*"`, `--show resnet_20`."""

import dataclasses
import fnmatch
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from rich.table import Table

from experiments.configs.model import ModelConfig
from experiments.launch.flags import REGISTRY, FieldsError, check_flags
from experiments.reports.drawing import amount, as_svg, as_text, size_of
from experiments.runtime.arguments import read_options, width
from experiments.runtime.console import plain_console
from experiments.runtime.exit_codes import exit_code
from experiments.runtime.files import write
from resjax import create_model, list_models, list_pretrained, model_info, pretrained_info
from resjax.errors import InputError, did_you_mean
from resjax.models import outline
from resjax.models.registry import familiar_name

PROGRAM = "python -m experiments.models"
_MOST_USED = ("show", "svg", "image_size", "num_classes", "json")
_WIDE = 110  # columns from which on there is room for the papers


@dataclasses.dataclass(frozen=True)
class Options:
    """Lists the networks of the papers with their size, cost, errors and trained weights; --show draws one of them.

    With --show, every field of the network is a flag: `--show resnet_20 --model.widths 32 64 128`.
    """

    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*"
    """Which networks to list: a name, or shell wildcards."""
    show: str | None = None
    """A network to draw, by its name here or in other libraries: resnet_20, wrn_28_10, resnet50, .."""
    svg: pathlib.Path | None = None
    """SVG file to draw the network of --show to."""
    image_size: tuple[int, int] | None = None
    """Height and width of the image of --show; default: the paper's."""
    num_classes: int | None = None
    """Number of classes of the network of --show; default: the paper's."""
    json: bool = False
    """Print one JSON object, and nothing else."""
    model: ModelConfig = ModelConfig("")
    """With --show: fields of the network."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for bad input."""

    def command():
        run(parse(sys.argv[1:] if arguments is None else arguments))

    return exit_code(command, kept="nothing was written")


def parse(arguments: Sequence[str]) -> Options:
    """Reads the command line: the flags of the network that --show names are among its own.

    Raises:
      InputError: for a network that there is not, or a flag that it does not have.
    """
    named = [word.partition("=")[2] for word in arguments if word.startswith("--show=")]
    named += [after for word, after in zip(arguments, arguments[1:], strict=False) if word == "--show"]
    if named:
        default = Options(model=ModelConfig(familiar_name(named[-1]) or named[-1]))
        check_flags([word for word in arguments if word.startswith("--model.")], default)
    else:
        default = Options()
        if wrong := [word for word in arguments if word.startswith("--model")]:
            raise InputError(f"{wrong[0]}: of a network that is drawn: give --show NAME, too")
    try:
        return read_options(Options, PROGRAM, list(arguments), default=default, registry=REGISTRY, most_used=_MOST_USED)
    except FieldsError as error:
        raise InputError(str(error)) from None


def run(options: Options) -> dict[str, Any] | list[dict[str, Any]]:
    """Prints the catalogue, or a network; returns what was printed, as JSON has it.

    Raises:
      InputError: where no network has such a name, and for images that it does not take.
    """
    if options.show is not None:
        return _show(options)
    for field in ("svg", "image_size", "num_classes"):
        if getattr(options, field) is not None:
            raise InputError(f"--{field}: of a network that is drawn: give --show NAME, too")
    weights = _weights()
    shipped = {name for name, known in weights.items() if any("/" not in each for each in known)}
    names = fnmatch.filter(sorted({*list_models(), *shipped}), options.pattern)
    if not names and (name := familiar_name(options.pattern)) is not None:
        names = [name]
    if not names:
        raise InputError(
            f"{options.pattern}: no network of the papers has such a name{did_you_mean(options.pattern, list_models())}"
            " (* stands for any text)"
        )
    rows = [_row(name, weights.get(name, [])) for name in names]
    if options.json:
        print(json.dumps(rows))
    else:
        console = plain_console(width(), soft_wrap=False)
        console.print(_table(rows))
        console.print("Errors are test errors: of the first published result, and of the weights that come with us.")
    return rows


def _weights() -> dict[str, list[str]]:
    """Names of trained weights by network; those that come with the library first."""
    found: dict[str, list[str]] = {}
    for weights in [*list_pretrained(), *list_pretrained("t*/*")]:
        text = weights.rpartition("/")[2]
        network = text.split("-")[0] if "/" not in weights else text.partition(".")[0]
        name = familiar_name(network)
        if name is not None:
            found.setdefault(name, []).append(weights)
    return found


def _row(name: str, weights: Sequence[str]) -> dict[str, Any]:
    info = model_info(name)
    published = info.published[0] if info.published else None
    ours = [about for about in map(pretrained_info, (w for w in weights if "/" not in w)) if "test_error" in about]
    return {
        "name": name,
        "paper": None if info.paper is None else str(info.paper),
        "parameters": info.parameters,
        "multiply_adds": info.multiply_adds,
        "input_size": list(info.input_size),
        "num_classes": info.num_classes,
        "published": [result.to_json() for result in info.published],
        "published_error": None if published is None else published.test_error,
        "dataset": None if published is None else published.dataset,
        "our_error": ours[0]["test_error"] if ours else None,
        "our_dataset": ours[0].get("dataset") if ours else None,
        "pretrained": list(weights),
    }


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    is_wide = width() >= _WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("network", no_wrap=True)
    for head in ("parameters", "mult-\nadds", "published\nerror %", "our\nerror %"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("trained weights", overflow="fold")
    if is_wide:
        table.add_column("paper", overflow="fold")
    for row in rows:
        first = row["pretrained"][0].removeprefix("timm/") if row["pretrained"] else ""
        more = f" +{len(row['pretrained']) - 1}" if len(row["pretrained"]) > 1 else ""
        errors = ["" if row[key] is None else f"{row[key]:.2f}" for key in ("published_error", "our_error")]
        cells = [row["name"], f"{row['parameters']:,}", amount(row["multiply_adds"]), *errors, first + more]
        table.add_row(*cells, *([row["paper"] or "-"] if is_wide else []))
    return table


def _show(options: Options) -> dict[str, Any]:
    name, overrides = options.model.name, options.model.overrides()
    if options.num_classes is not None:
        overrides["num_classes"] = options.num_classes
    model = create_model(name, **overrides)
    info = model_info(name)
    height, across, channels = info.input_size
    image_shape = (*(options.image_size or (height, across)), channels)
    if min(image_shape) < 1:
        raise InputError(f"--image_size: expected a height and width in pixels, got {options.image_size}")
    network = outline(model, image_shape)
    changes = ", ".join(f"{field} {value}" for field, value in options.model.fields.items())
    title = name + (f" with {changes}" if changes else "")
    if options.svg is not None:
        try:
            write(options.svg, as_svg(network, title, image_shape))
        except OSError as error:
            raise InputError(f"--svg {options.svg}: cannot be written: {error.strerror or error}") from None
    weights = _weights().get(name, [])
    result = {"name": name, "changes": options.model.fields, "image_size": list(image_shape), "pretrained": weights}
    result |= {"paper": None if info.paper is None else str(info.paper), "network": dataclasses.asdict(network)}
    if options.json:
        print(json.dumps(result))
        return result
    print(title)
    if info.paper is not None:
        print(f"{info.paper.title} ({info.paper})")
    print(
        f"{network.parameters:,} parameters, {amount(network.multiply_adds)} multiply-adds for an image of"
        f" {size_of(image_shape)}, {model.num_classes} classes"
    )
    if weights:
        print(f"trained weights: {', '.join(weights[:3])}" + (f" and {len(weights) - 3} more" if weights[3:] else ""))
    print("\n" + as_text(network, min(width(), 120)))
    if options.svg is not None:
        print(f"\ndrawn: {options.svg}")
    return result


if __name__ == "__main__":
    sys.exit(main())
