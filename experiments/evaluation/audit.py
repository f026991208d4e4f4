"""What saved weights say of themselves, checked: their files, the data of their run, the evaluation of their card."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from experiments.configs.programs import SavedRun
from experiments.evaluation.outputs import outputs, subject_of
from experiments.evaluation.scores import scores
from experiments.evaluation.trained import load_weights, read_network
from experiments.inputs.splits import load_splits
from experiments.training.workdir import Workdir, data_differences, read_saved_run
from resjax import from_pretrained, pretrained_info
from resjax.data import dataset_info, identity
from resjax.data.images import list_image_datasets
from resjax.errors import InputError

BATCH_SIZE = 512
_LOSS = 1e-3  # relative difference of a test loss that rounding makes on other machines


@dataclasses.dataclass(frozen=True)
class Checked:
    """One thing that was checked.

    Attributes:
      said: what was found, in words.
      is_right: whether it is as the weights say; None if it could not be checked.
    """

    said: str
    is_right: bool | None


def check_weights(weights: str, data_dir: str | None) -> Iterator[Checked]:
    """Checks a folder of `resjax.save_pretrained`, or a name of `resjax.list_pretrained`, as far as it can be.

    Raises:
      InputError: for data that cannot be found or read.
    """
    try:
        model, _ = from_pretrained(weights)
        about = pretrained_info(weights)
    except InputError as error:
        yield Checked(f"files: {error}", False)
        return
    yield Checked("files: weights and facts are as they were saved (SHA-256)", True)
    if "errors" not in about or about.get("dataset") in list_image_datasets():
        yield Checked("data and card: checked only for classifiers of small images", None)
        return
    run = run_of(about, weights)
    if run is None:
        yield Checked("data: saved without the checksums, config and versions of the run", None)
    else:
        read = load_splits(dataclasses.replace(run.config, data_dir=data_dir))._asdict()
        read = {name: data for name, data in read.items() if data is not None}
        info = dataset_info(run.config.dataset, data_dir)
        differing = data_differences(run.data or {}, identity(info, read))
        same = f"{sum(len(part.labels) for part in read.values()):,} images and labels are those of the run (SHA-256)"
        yield Checked(f"data: {'; '.join(differing) or same}", not differing)
    yield _evaluated(weights, about, data_dir)


def run_of(about: Mapping[str, Any], weights: str) -> SavedRun | None:
    """The run that trained weights, of its config.json that they carry; None if they carry none.

    Raises:
      InputError: if it is not one.
    """
    if "run" not in about:
        return None
    try:
        if not isinstance(about["run"], dict):
            raise ValueError("it is no JSON object")
        return SavedRun.from_json(about["run"], weights)
    except ValueError as error:
        raise InputError(f"{weights}: what it says of its run is not the config of one ({error})") from None


def check_run(weights: str, path: str) -> Iterator[Checked]:
    """Checks that weights are those of the run in a workdir, bit for bit, and of its config and data."""
    (model, variables), about = from_pretrained(weights), pretrained_info(weights)
    checkpoint = "latest" if about.get("chosen") == "the last epoch" else "best"
    there, _ = read_network(path, checkpoint, model)
    here, there = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (variables, there))
    differing = [jax.tree_util.keystr(name) for name in {**here, **there} if not _same(here.get(name), there.get(name))]
    if differing:
        said = (
            f"weights: {len(differing)} arrays are not those of the {checkpoint} checkpoint, the first {differing[0]}"
        )
        yield Checked(said, False)
    else:
        yield Checked(f"weights: the run's {checkpoint} checkpoint, bit for bit", True)
    own, saved = run_of(about, weights), read_saved_run(path)
    if own is not None:
        try:
            Workdir(path).check_same(own.fields, saved.fields)
            differing = data_differences(own.data or {}, saved.data or {})
        except InputError as error:
            differing = [str(error)]
        yield Checked(f"config and data: {'; '.join(differing) or 'those of the run'}", not differing)


def _evaluated(weights: str, about: Mapping[str, Any], data_dir: str | None) -> Checked:
    network = load_weights(None, weights, None, 0, data_dir)
    if network.further:
        return Checked("card: its test images are not one split", None)
    logits, labels, _ = outputs(subject_of(network, BATCH_SIZE), 0)
    found = scores(logits, labels, whole=False)
    same = all(found[key] == about[key] for key in ("errors", "test_images"))
    same &= math.isclose(found["test_loss"], about["test_loss"], rel_tol=_LOSS)
    here, card = (
        f"{each['errors']:,} errors on {each['test_images']:,} test images, loss {each['test_loss']:.5f}"
        for each in (found, about)
    )
    return Checked(f"card: {here}{', as it says' if same else f'; it says {card}'}", same)


def _same(here: Any, there: Any) -> bool:
    if here is None or there is None:
        return False
    here, there = np.asarray(here), np.asarray(there)
    return here.dtype == there.dtype and here.shape == there.shape and here.tobytes() == there.tobytes()
