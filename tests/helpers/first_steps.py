"""The first 20 steps of recipes, by their commands, on small made data in the formats of their data sets.

Networks, batches and images are cut to what two cores can do, see `CUT` and `network_cut`. All else is the recipe's.
The schedule has its whole length, as the engine ends after 20 steps. Recipes that are the same with these cuts are one
run; of a class of networks, one recipe also runs on each other data set that it has a result of.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cifar, imagenet, segmentation
from experiments.configs.programs import CIFAR, IMAGENET, PROGRAMS, SEGMENTATION
from experiments.training.engine import Engine
from experiments.training.workdir import Workdir
from resjax import create_model, save_pretrained, train
from tests.helpers import made_data
from tests.helpers.photographs import write_folder

STEPS = 20
COMMANDS = {CIFAR: cifar.main, IMAGENET: imagenet.main, SEGMENTATION: segmentation.main}
# Flags of every recipe of a command. Those of photographs also say where they are decoded: in this process.
CUT = {
    CIFAR: {"batch_size": 16, "eval_batch_size": 16},
    IMAGENET: {"batch_size": 8, "eval_batch_size": 8, "image_size": 32, "shortest_side": 36, "longest_side": 68}
    | {"workers": 0},
    SEGMENTATION: {"batch_size": 2, "eval_batch_size": 2, "augmentation.crop": 64, "longer_side": 128},
}
FOLLOWING = {"eval_size", "eval_resize", "eval_scales"}  # what a command makes of another --image_size
VALIDATION_IMAGES = 15
# What a person has to choose, whose network stays whole.
CHOSEN = {"finetune": {"pretrained": "resnet_20-cifar10"}}
# Images of each split: enough for 20 batches, and an incomplete batch to test on.
MADE = {
    "cifar10": {"train": 335, "test": 24},
    "cifar100": {"train": 335, "test": 24},
    "svhn_cropped": {"train": 200, "extra": 135, "test": 24},
    "mnist": {"train": 320, "test": 24},
    "imagenet2012": {"train": 160, "validation": 12},
    made_data.CITYSCAPES: {"train": 40, "validation": 3},
    made_data.ADE20K: {"train": 40, "test": 3},
}


VOC, CONTEXT = ("SegmentationClass", "Segmentation"), ("SegmentationClassContext", "SegmentationContext")


def network_cut(config):
    """Fields of the network: two stages where there may be as many, one block in each, few channels."""
    cut = {}
    for cls, fields in config.model.networks():
        stages = len(fields.get("stage_sizes", ()))
        if cls.__name__ not in ("Highway", "WiderResNet"):  # the former's pooling fits its head
            stages = min(stages, 2)
        narrow = tuple(4 * 2**i for i in range(stages))
        convolutions = (fields | config.model.fields).get("deepening_factor", 0)  # of a block, as depths are counted
        cut |= {"stage_sizes": (1,) * stages} if stages else {}
        cut |= {
            "ResNet": {"widths": narrow},
            "PreActResNet": {"widths": narrow},
            "ResNeXt": {"widths": narrow, "cardinality": 2, "base_width": 16},
            "WideResNet": {"depth": 4 + 3 * convolutions, "widening_factor": 1},
            "DenseNet": {"growth_rate": 4, "stem_width": 8},
            "VGG": {"width": 8},
            "SpeedResNet": {"widths": (8, 8, 16)},
            "Highway": {"widths": (8,) * stages} | ({"head_width": 8} if fields.get("head_width") else {}),
            "WiderResNet": {"widths": ("8,8", "8,8", "8,8", "8,16", "8,8,16", "8,8,16"), "stem_width": 8},
            "SegmentationNetwork": {"head_width": 8},
        }[cls.__name__]
    if config.model.fields.get("stochastic_depth.active_blocks"):
        cut["stochastic_depth.active_blocks"] = 1
    return {f"model.{field}": value for field, value in cut.items()}


def changes(program, name, dataset):
    """What is changed in a recipe, by flag."""
    config = PROGRAMS[program][name].config
    flags = CUT[program] | (CHOSEN.get(name) or network_cut(config)) | {"dataset": dataset}
    return flags | ({"validation_images": VALIDATION_IMAGES} if getattr(config, "validation_images", 0) else {})


def distinct(*programs):
    """(program, dataset, recipes that are the same run) of all runs of some commands, as parameters of a test."""
    runs, elsewhere = {}, set()
    for program in programs:
        for name, named in PROGRAMS[program].items():
            networks = named.config.model.networks()
            classes = "+".join(cls.__name__ for cls, _ in networks)
            own = {f"model.{field}": value for _, fields in networks for field, value in fields.items()}
            fields = named.config.identity() | own | {f"model.{k}": v for k, v in named.config.model.fields.items()}
            for dataset in dict.fromkeys([named.config.dataset, *named.to_compare()]):
                if dataset != named.config.dataset:
                    if (classes, dataset) in elsewhere:
                        continue
                    elsewhere.add((classes, dataset))
                key = str([classes, fields | changes(program, name, dataset) | {"model.name": None}])
                runs.setdefault(key, (program, dataset, []))[2].append(name)
    return [pytest.param(*run, id=f"{run[2][0]}-{run[1]}") for run in runs.values()]


def made_folders(root):
    """A function from a data set to the folder to give as --data_dir; it is made when it is first asked for."""

    @functools.cache
    def folder(dataset):
        match dataset:
            case "cifar10_mini" | "shapes":
                return None
            case "folder":
                return write_folder(root / "folder", per_class=90)
            case "voc":
                return made_data.write_pascal(root / "voc", VOC, 21, {"trainaug": 40, "val": 3})
            case "pascal_context":
                return made_data.write_pascal(root / "context", CONTEXT, 60, {"train": 40, "val": 3})
        name = next(name for name in MADE if name.partition("/")[0] == dataset)
        return made_data.write_prepared(root / "tfds", name, MADE[name])

    return folder


class FirstSteps(Engine):
    """Ends after `STEPS` steps of the first epoch. Keeps its task and what a step receives."""

    made = None

    def __init__(self, config, task, *arguments, **options):
        received = []

        @functools.wraps(task.prepare)
        def prepare(key, *arrays, **epoch):
            prepared = task.prepare(key, *arrays, **epoch)
            received.append([[(array.shape, array.dtype.name) for array in each] for each in (arrays, prepared)])
            return prepared

        short, watched = dataclasses.replace(config, epochs=1), dataclasses.replace(task, prepare=prepare)
        super().__init__(short, watched, *arguments, **options)
        assert self._steps_per_epoch >= STEPS
        self._steps_per_epoch = STEPS
        FirstSteps.made = config, task, received


def rate(config, steps_per_epoch, step):
    """The learning rate of a step in the first epochs, before any drop."""
    schedule, peak, length = config.schedule, config.optimizer.learning_rate, config.epochs * steps_per_epoch
    assert not schedule.per_epoch and all(boundary > 1 for boundary in schedule.boundaries)
    if schedule.warmup_until_error:  # of random labels
        return schedule.warmup_from
    warm_up = round((schedule.warmup_epochs or 0.3 * config.epochs * (schedule.kind == "one_cycle")) * steps_per_epoch)
    if step < warm_up:
        return schedule.warmup_from + (schedule.warmup == "linear") * (peak - schedule.warmup_from) * step / warm_up
    done = (step - warm_up) / (length - warm_up)
    left = {"piecewise": 1, "linear": 1 - done, "one_cycle": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return schedule.final + (peak - schedule.final) * left[schedule.kind]


def check_first_steps(program, dataset, name, folder, workdir, monkeypatch, capsys):
    """Trains a recipe for `STEPS` steps, and checks what the steps received, what they left, and the files.

    Args:
      program, dataset, name: the command, its --dataset and --config.
      folder: its --data_dir.
      workdir: an empty folder.
      monkeypatch, capsys: pytest's.
    """
    monkeypatch.setattr("experiments.launch.run.Engine", FirstSteps)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *backend: one)
    changed = changes(program, name, dataset)
    places = {"workdir": workdir} | ({} if folder is None else {"data_dir": folder})
    if program == SEGMENTATION and name != "quickstart":  # starts with a trained trunk
        places["pretrained"] = write_trunk(workdir.with_name("trunk"), name)
    words = ["--config", name]
    for flag, value in (changed | places).items():
        words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    assert COMMANDS[program](words) == 0, capsys.readouterr().err

    config, task, received = FirstSteps.made
    run = Workdir(workdir)
    summary, (record,) = run.read_summary(), run.records()
    assert (summary["name"], summary["steps"]) == (name, STEPS)
    assert set(summary["changed_from_named_config"]) <= {*changed, *places, *FOLLOWING}
    assert all(np.isfinite(record[f"{split}_loss"]) for split in ("train", *task.held_out()))
    check_received(config, task, received)
    steps_per_epoch = summary["train_images"] // config.batch_size
    expected = [rate(config, steps_per_epoch, step) for step in range(STEPS)]
    rounding = {"rtol": 1e-5, "atol": 1e-6 * config.optimizer.learning_rate}
    np.testing.assert_allclose(record["learning_rate"], expected[-1], **rounding)
    if not config.schedule.warmup_until_error:
        np.testing.assert_allclose([task.schedule(step) for step in range(STEPS)], expected, **rounding)
    assert run.saved_steps() == [STEPS]
    arrays = train.read_arrays(run.checkpoints, STEPS, run.check_checkpoint)
    assert all(np.isfinite(array).all() for array in arrays.values())


def check_received(config, task, received):
    """The images and labels of a step, before and after they are prepared."""
    size, classes = config.batch_size, task.model.num_classes
    side = getattr(config, "image_size", 32 if config.dataset != "mnist" else 28)
    channels = 1 if config.dataset == "mnist" else 3
    assert received
    for stored, (images, *labels) in received:
        if config.PROGRAM == SEGMENTATION:
            crop = config.augmentation.crop
            (shape, kind), masks, sizes = stored
            assert (kind, masks) == ("uint8", (shape[:3], "uint8")) and sizes == ((size, 2), "int32")
            assert images == ((size, crop, crop, 3), "float32") and labels == [((size, crop, crop), "int32")]
        else:
            assert stored == [((size, side, side, channels), "uint8"), ((size,), "int32")]
            assert images == ((size, side, side, channels), "float32")
            assert labels in ([((size,), "int32")], [((size, classes), "float32")])


def write_trunk(folder, name):
    """Weights of the trunk of a recipe for masks, cut, as ImageNet's training leaves them."""
    config = PROGRAMS[SEGMENTATION][name].config
    cut = network_cut(config).items()
    fields = {field.removeprefix("model."): value for field, value in cut if field != "model.head_width"}
    widths = tuple(tuple(map(int, group.split(","))) for group in fields["widths"])
    trunk = create_model(config.model.name, **fields | {"widths": widths}, num_classes=1000)
    save_pretrained(folder, trunk, trunk.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))), {})
    return folder
