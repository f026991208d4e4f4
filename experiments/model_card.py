"""What is said about saved weights: as JSON beside them, and as a page for a person."""

from typing import Any

from experiments.configs.base import Config
from experiments.image_splits import input_channels
from experiments.ledger_runs import PROGRAMS, changes_of, command_of, program_of
from resjax.data import dataset_info


def facts_of_run(config: Config, run: dict[str, Any], summary: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """What a finished run says about its weights.

    Args:
      config: of the run.
      run: see `experiments.ledger_runs.read_run`.
      summary: its summary.json.
      checkpoint: "latest" or "best", whose weights they are.
    """
    kept = ("model", "dataset", "parameters", "seed", "hours", "hardware", "finished", "commit")
    changes = changes_of(run)
    if changes is None:
        recipe = {"source": summary["source"], "deviations": run["deviations"]}
    else:  # as the command beside them: those of the recipe as it is today
        named = PROGRAMS[program_of(run)][run["name"]]
        recipe = {"source": named.source, "deviations": list(named.deviations)}
    return {key: run[key] for key in kept} | {
        "command": command_of(run),
        "epoch": run["epochs"] if checkpoint == "latest" else run["best_epoch"],
        "epochs": run["epochs"],
        "chosen": "the last epoch"
        if checkpoint == "latest"
        else f"the epoch that was best on {summary.get('best_is_chosen_on', 'the test images')}",
        "normalization": config.normalization,
        "train_images": run["train_images"],
        **recipe,
        "changed_from_recipe": summary["changed_from_named_config"] if changes is None else changes,
        "published": summary["published"],
    }


def card(name: str, about: dict[str, Any]) -> str:
    """The page, Markdown; `about` is what `facts_of_run` says, the error, and the constants of the input."""
    info = dataset_info(about["dataset"])
    when = f", {about['finished'][:10]}" if about["finished"] else ""
    changed = "; ".join(f"{key} {value}" for key, value in about["changed_from_recipe"].items() if key != "seed")
    published = about["published"]
    with_tta = {}
    if "tta_error" in about:
        errors = f"{about['tta_error']:.2f} % ({about['tta_errors']:,} of {about['test_images']:,} images)"
        with_tta["with test-time augmentation"] = f"{errors}, see `--tta`"
    lines = {
        "network": f"`{about['model']}`, {about['parameters']:,} parameters, weights of {about['chosen']}"
        f" ({about['epoch']} of {about['epochs']})",
        "data": f"{info.description}; trained on {about['train_images']:,} images",
        "test error": f"{about['test_error']:.2f} % ({about['errors']:,} of {about['test_images']:,} images)",
        **with_tta,
        "published error": "none of this network"
        if published is None
        else f"{published['test_error']:.2f} % ({published['statistic']}; {published['source']})",
        "recipe": about["source"],
        "changed from it": changed or "nothing",
        "deviations of the recipe": "; ".join(about["deviations"]) or "none",
        "trained by": f"`{about['command']}`",
        "evaluated by": f"`python -m experiments.evaluate {name} --data_dir DIR`",
        "on": f"{about['hardware']}, {about['hours']:.2f} hours{when}; commit {about['commit']}",
    }
    # Gray images are repeated for a network of three channels.
    channels = input_channels(about["dataset"], about["model"])
    colours, size = "gray" if channels == 1 else "RGB", ", ".join(map(str, info.image_shape[:2]))
    table = "".join(f"| {key} | {text} |\n" for key, text in lines.items())
    return f"""# {name}

| | |
|---|---|
{table}
```python
import jax.numpy as jnp
import resjax

model, variables = resjax.from_pretrained("{name}")
about = resjax.pretrained_info("{name}")
mean, std = (jnp.array(about[key]) for key in ("mean", "std"))
images = (jnp.float32(images) - mean) / std  # of {colours} images 0 .. 255, [N, {size}, {channels}]
logits = model.apply(variables, images)  # [N, {len(about["class_names"])}], see about["class_names"]
```
"""
