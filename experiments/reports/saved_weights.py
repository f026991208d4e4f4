"""`evaluate --save`: the weights of a finished run as a folder for `resjax.from_pretrained`, with a card."""

import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from experiments.configs.base import flatten
from experiments.configs.programs import IMAGENET, SavedRun
from experiments.evaluation.classifier import WeightsOptions, load_classifier
from experiments.evaluation.trained import read_network
from experiments.inputs.masks import MEAN, STD
from experiments.reports.model_card import card, facts_of_run, own_data
from experiments.reports.runs import read_run
from experiments.runtime.files import read_json, without_folders, write
from experiments.training.pretrained import input_of
from experiments.training.workdir import Workdir, read_saved_run
from resjax import save_pretrained
from resjax.data.images import image_dataset_info
from resjax.data.masks import mask_dataset_info
from resjax.errors import InputError


def facts_to_save(folder: pathlib.Path, run: str, checkpoint: str) -> dict[str, Any]:
    """What a finished run says about its weights, before they are evaluated.

    Raises:
      InputError: for a run that is not finished, and a `folder` that holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--save {folder}: a file is there; give a directory")
    if (folder / "README.md").exists() and not (folder / "config.json").exists():
        raise InputError(f"--save {folder}: holds a README.md of something else; give another directory")
    saved, finished = read_saved_run(run), read_run(pathlib.Path(run))
    summary = Workdir(run).read_summary("source", "published", "changed_from_named_config")
    return facts_of_run(saved.config, finished, summary, checkpoint) | {"run": _config_of(run)}


def _config_of(run: str) -> dict[str, Any]:
    """The run's config.json, which an audit compares with, without the folders of this machine."""
    config = read_json(pathlib.Path(run) / "config.json")
    fields = flatten(config["config"])
    if fields.get("pretrained"):
        fields["pretrained"] = without_folders(fields["pretrained"])
    return {key: value for key, value in config.items() if key != "run_options"} | {"config": fields}


def save_run(
    folder: pathlib.Path, run: str, checkpoint: str, facts: dict[str, Any], result: Mapping[str, Any], console: Console
) -> None:
    """Saves the network of a run on photographs or masks.

    Args:
      folder: where.
      run: its workdir.
      checkpoint: "latest" or "best".
      facts: of `facts_to_save`.
      result: what the evaluation of the run has found.
      console: prints where it is saved.
    """
    saved = read_saved_run(run)
    of = _photographs if saved.program == IMAGENET else _masks
    model, variables, about = of(saved, run, checkpoint, result)
    write_weights(folder, model, variables, facts | about, console)


def write_weights(folder: pathlib.Path, model: Any, variables: Any, about: dict[str, Any], console: Console) -> None:
    """Writes the folder; raises InputError where that fails."""
    try:
        save_pretrained(folder, model, variables, about)
        write(folder / "README.md", card(folder.name, about))
    except OSError as error:
        raise InputError(f"--save {folder}: cannot be written: {error}") from None
    console.print(f"saved: {folder}", highlight=False)


def _photographs(saved: SavedRun, run: str, checkpoint: str, result: Mapping[str, Any]):
    classifier, size = load_classifier(run, WeightsOptions(checkpoint=checkpoint)), saved.config.image_size
    errors = round(result["images"] * result["test_error"] / 100)
    about = {key: result[key] for key in ("test_error", "test_top5_error", "test_loss") if key in result}
    about |= {"errors": errors, "test_images": result["images"], "class_names": list(classifier.class_names)}
    about |= input_of(classifier.preprocess)
    known = image_dataset_info(saved.config.dataset)
    described = own_data("photographs", classifier.class_names) if known is None else known.description
    about["data"] = {"description": described, "image_shape": [size, size, 3]}
    return classifier.model, classifier.variables, about


def _masks(saved: SavedRun, run: str, checkpoint: str, result: Mapping[str, Any]):
    names = list(result["class_iou"])
    model = saved.config.create_model(len(names))
    variables, _ = read_network(run, checkpoint, model)
    about = {key: result[key] for key in ("test_mean_iou", "test_accuracy", "test_loss", "test_images", "class_iou")}
    about |= {"mean": list(MEAN), "std": list(STD), "class_names": names}
    described = mask_dataset_info(saved.config.dataset).description
    about["data"] = {"description": described, "image_shape": ["H", "W", 3]}
    return model, variables, about
