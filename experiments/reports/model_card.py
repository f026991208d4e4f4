"""The description of saved weights: JSON beside them, and a page to read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.configs.base import RunConfig
from experiments.configs.named import command
from experiments.configs.programs import IMAGENET, PROGRAMS
from experiments.inputs.splits import input_channels
from experiments.reports.runs import changes_of, compare_run, program_of
from experiments.runtime.files import markdown_code, markdown_text, without_folders
from resjax.data import dataset_info

_CLASSES_SHOWN = 10


def facts_of_run(config: RunConfig, run: dict[str, Any], summary: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """Collects what a finished run says about its weights, for anybody to read: no folder of this machine is named.

    Args:
      config: the config of the run.
      run: see `experiments.reports.runs.read_run`.
      summary: its summary.json.
      checkpoint: "latest" or "best": the checkpoint that is saved.
    """
    kept = ("model", "dataset", "parameters", "seed", "hours", "hardware", "finished", "commit")
    changes = changes_of(run)
    if changes is None:
        recipe = {"source": summary["source"], "deviations": run["deviations"], "published": summary["published"]}
    else:  # like the command, from the recipe of today
        named = PROGRAMS[program_of(run)][run["name"]]
        recipe = {"source": named.source, "deviations": list(named.deviations), **compare_run(named, run).to_json()}
    changed = _without_places(summary["changed_from_named_config"] if changes is None else changes)
    return {key: run[key] for key in kept} | {
        "command": command(program_of(run), run["name"], changed),
        "epoch": run["epochs"] if checkpoint == "latest" else run["best_epoch"],
        "epochs": run["epochs"],
        "chosen": "the last epoch"
        if checkpoint == "latest"
        else f"the epoch that was best on {summary.get('best_is_chosen_on', 'the test images')}",
        "normalization": getattr(config, "normalization", "imagenet"),
        "train_images": run["train_images"],
        **recipe,
        "changed_from_recipe": changed,
    }


def _without_places(changed: Mapping[str, Any]) -> dict[str, Any]:
    return {field: without_folders(value) if field == "pretrained" else value for field, value in changed.items()}


def own_data(kind: str, class_names: Sequence[str]) -> str:
    """A person's own images in words: their kind and classes, not their place.

    Args:
      kind: e.g. "photographs".
      class_names: all of them; the first ten are named.
    """
    more = len(class_names) - _CLASSES_SHOWN
    named = ", ".join(class_names[:_CLASSES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
    return f"{kind} of {len(class_names):,} classes ({named})"


def card(name: str, about: dict[str, Any]) -> str:
    """The page, in Markdown; `about` has the facts of `facts_of_run`, the error, and the constants of the input."""
    if own := about.get("data"):  # a user's own arrays: only the weights describe them
        description, (*size, channels) = own["description"], own["image_shape"]
    else:
        info = dataset_info(about["dataset"])
        description, size = info.description, info.image_shape[:2]
        # Gray images are repeated for a network of three channels.
        channels = input_channels(info, about["model"])
    when = f", {about['finished'][:10]}" if about["finished"] else ""
    changed = "; ".join(f"{key} {value}" for key, value in about["changed_from_recipe"].items() if key != "seed")
    published = about["published"]
    of_recipe = "; of the recipe, from which this run differs" if about.get("not_the_recipe") else ""
    with_tta = {}
    if "tta_error" in about:
        errors = f"{about['tta_error']:.2f} % ({about['tta_errors']:,} of {about['test_images']:,} images)"
        with_tta["with test-time augmentation"] = f"{errors}, see `--tta`"
    colours = {1: "gray", 3: "RGB"}.get(channels, f"{channels}-channel")
    shape = ", ".join(map(str, (*size, channels)))
    resized = "" if "test_mean_iou" in about else "; of another size they are resized"
    lines = {
        "network": f"{markdown_code(about['model'])}, {about['parameters']:,} parameters, weights of {about['chosen']}"
        f" ({about['epoch']} of {about['epochs']})",
        "data": f"{markdown_text(description)}; trained on {about['train_images']:,} images",
        "input": f"{colours} images 0 .. 255, [N, {shape}]{resized}",
        **_measured(about),
        **with_tta,
        "published mean IoU" if "test_mean_iou" in about else "published error": "none of this network"
        if published is None
        else markdown_text(f"{published['value']:.2f} % ({published['statistic']}; {published['source']}){of_recipe}"),
        "recipe": markdown_text(about["source"]),
        "changed from it": markdown_text(changed or "nothing"),
        "deviations of the recipe": markdown_text("; ".join(about["deviations"]) or "none"),
        "trained by": markdown_code(about["command"]),
        "evaluated by": markdown_code(_evaluated_by(name, about)),
        "on": markdown_text(f"{about['hardware']}, {about['hours']:.2f} hours{when}; commit {about['commit']}"),
    }
    table = "".join(f"| {key} | {text} |\n" for key, text in lines.items())
    quoted = json.dumps(name)
    pixels = "N, H, W" if "test_mean_iou" in about else "N"
    shape_of_logits = f"[{pixels}, {len(about['class_names'])}]"
    return f"""# {markdown_text(name)}

| | |
|---|---|
{table}
```python
import resjax

model, variables = resjax.from_pretrained({quoted})
preprocess = resjax.preprocessing({quoted})  # of uint8 images of any size, or files
about = resjax.pretrained_info({quoted})
logits = model.apply(variables, preprocess(images))  # {shape_of_logits}, see about["class_names"]
```
"""


def _measured(about: dict[str, Any]) -> dict[str, str]:
    if "test_mean_iou" in about:
        return {"mean IoU": f"{about['test_mean_iou']:.2f} % ({about['test_images']:,} images)"}
    top5 = f"; top 5: {about['test_top5_error']:.2f} %" if "test_top5_error" in about else ""
    return {"test error": f"{about['test_error']:.2f} % ({about['errors']:,} of {about['test_images']:,} images){top5}"}


def _evaluated_by(name: str, about: dict[str, Any]) -> str:
    if "test_mean_iou" in about:
        return "python -m experiments.evaluate RUN"
    if about["command"].startswith(IMAGENET):
        return f"python -m experiments.imagenet evaluate {name} --data_dir DIR"
    return f"python -m experiments.evaluate {name} --data_dir DIR"
