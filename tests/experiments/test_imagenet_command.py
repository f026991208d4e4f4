"""`python -m experiments.imagenet` on a small folder: it learns, resumes bit for bit, and says what is wrong."""

import dataclasses
import functools
import json
import signal

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from experiments import imagenet
from experiments.configs.imagenet import CONFIGS
from experiments.configs.imagenet_fields import ImagenetConfig, ImagenetModelConfig
from experiments.evaluate_photos import evaluate
from experiments.feeds import StreamedImages
from experiments.workdir import IMAGENET_KEYS
from resjax import InputError, create_model, save_pretrained, train
from resjax.models import model_info, multiply_adds, parameter_count
from tests.data.photographs import write_folder
from tests.experiments.command import outcome
from tests.train.problem import assert_same_bits

SMALL = ["--config", "quickstart", "--model.name", "resnet_8", "--batch_size", "8", "--eval_batch_size", "8"]
SMALL += ["--epochs", "2", "--image_size", "16", "--eval_resize", "18", "--eval_size", "16", "--workers", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"), 10)


def _run(capsys, folder, workdir, *more):
    return outcome(imagenet.main, capsys, *SMALL, "--data_dir", folder, "--workdir", workdir, *more)


def test_a_run_on_a_folder_writes_what_a_run_writes(capsys, folder, tmp_path):
    code, out, err = _run(capsys, folder, tmp_path / "run")
    assert code == 0, err
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4] and set(records[0]) == set(IMAGENET_KEYS)
    assert records[0]["test_top5_error"] == 0  # there are two classes
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_images"] == 20 and summary["class_names"] == ["airplane", "automobile"]
    assert (tmp_path / "run" / "curves.png").is_file()
    for mode in ("centre", "ten_crops", "multi_scale"):
        options = ("evaluate", "--workdir", tmp_path / "run", "--mode", mode, "--workers", 0, "--batch_size", 16)
        code, out, err = outcome(imagenet.main, capsys, *options, *(("--scales", 16, 20) if mode[0] == "m" else ()))
        assert code == 0, err
        found = json.loads((tmp_path / "run" / f"evaluation_{mode}.json").read_text())
        assert found["images"] == 20
        if mode == "centre":
            np.testing.assert_allclose(found["test_loss"], records[-1]["test_loss"], rtol=1e-5)
        else:
            assert found["test_loss"] != records[-1]["test_loss"]


def test_a_stopped_run_ends_as_if_never_stopped(capsys, folder, tmp_path, monkeypatch):
    assert _run(capsys, folder, tmp_path / "whole")[0] == 0
    stream = StreamedImages.stream

    def stopping(self, batch_size, seed, start, *rest):
        batches = stream(self, batch_size, seed, start, *rest)
        if seed is not None and start == 0:
            original, taken = type(batches).__next__, []

            class Stopping(type(batches)):
                def __next__(self):
                    taken.append(1)
                    if len(taken) == 1:  # within an epoch, whatever the pace
                        signal.raise_signal(signal.SIGTERM)
                    return original(self)

            batches.__class__ = Stopping
        return batches

    monkeypatch.setattr(StreamedImages, "stream", stopping)
    code, _, err = _run(capsys, folder, tmp_path / "stopped")
    assert code == 143, err
    code, out, err = _run(capsys, folder, tmp_path / "stopped")
    assert code == 0 and "resuming at step 1" in out, out + err
    whole, stopped = (train.read_variables(tmp_path / name / "checkpoints") for name in ("whole", "stopped"))
    assert_same_bits(whole, stopped)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "stopped")
    ]
    for a, b in zip(*lines, strict=True):
        assert {key: a[key] for key in a if "second" not in key} == {key: b[key] for key in b if "second" not in key}


def test_what_cannot_be_run_is_said(capsys, folder, tmp_path):
    for more, said in (
        (("--data_dir", tmp_path / "nowhere"), "does not exist"),
        (("--dataset", "imagenette"), "imagenette has 10"),
        (("--dataset", "imagenette", "--data_dir", tmp_path), "imagenette not found"),
        (("--dataset", "imagenet"), "did you mean"),
        (("--workers", "-1"), "--workers"),
        (("--repeats", "3"), "--repeats"),
        (("--eval_size", "20"), "centre crop"),
        (("--batch_size", "32"), "20 training images"),
    ):
        code, _, err = _run(capsys, folder, tmp_path / "run", *more)
        assert code == 2 and said in err and "Traceback" not in err, err


def test_a_broken_image_is_reported_and_skipped_or_ends_the_run(capsys, tmp_path):
    folder = write_folder(tmp_path / "photos", 8)
    broken = folder / "train" / "airplane" / "003.jpg"
    broken.write_bytes(broken.read_bytes()[:-40])
    (folder / "train" / "airplane" / "004.jpg").write_bytes(b"")
    Image.new("RGB", (4, 4)).save(folder / "train" / "airplane" / "more.png")
    code, out, err = _run(capsys, folder, tmp_path / "skip", "--epochs", "1")
    assert code == 0, err
    assert (
        "004.jpg (empty), left out" in out and "003.jpg (" in out and "), a training image, replaced by the next" in out
    )
    for path in (folder / "train" / "airplane" / "004.jpg", broken):
        code, _, err = _run(capsys, folder, tmp_path / "fail", "--broken_images", "fail")
        assert code == 2 and str(path) in err and "Traceback" not in err, err
        path.unlink()


@pytest.mark.parametrize(
    ("name", "error", "epochs", "batch_size", "rate", "form", "drops", "crop"),
    [
        ("resnet_50", 23.9, 100, 256, 0.1, "torch", (30, 60, 90), "resized"),
        ("resnet_50_fb", 24.01, 90, 256, 0.1, "torch", (30, 60), "resized"),
        ("resnet_101_xie2016", 22.0, 100, 256, 0.1, "torch", (30, 60, 90), "resized"),
        ("resnet_50_he2015", 22.85, 120, 256, 0.1, "caffe", (30, 60, 90), "scale"),
        ("preresnet_152", 21.1, 90, 256, 0.1, "caffe", (30, 60), "scale"),
        ("preresnet_200_scale", 20.7, 90, 256, 0.1, "caffe", (30, 60), "scale"),
        ("preresnet_200", 20.1, 90, 256, 0.1, "torch", (30, 60), "resized"),
        ("resnet_152_he2016", 21.3, 120, 256, 0.1, "caffe", (30, 60, 90), "scale"),
        ("resnext_101_32x8d", 20.688, 100, 1024, 0.4, "torch", (30, 60, 90), "resized"),
        ("resnet_18_torchvision", 30.242, 90, 256, 0.1, "torch", (30, 60), "resized"),
        ("resnext_50_32x4d_torchvision", 22.382, 100, 256, 0.1, "torch", (30, 60, 90), "resized"),
        ("wrn_101_2", 21.152, 256, 256, 0.1, "torch", (), "resized"),
        ("resnet_152_modern", 17.716, 600, 1024, 0.5, "torch", (), "resized"),
        ("resnext_101_64x4d_modern", 16.754, 600, 1024, 0.5, "torch", (), "resized"),
        ("densenet_161", 22.33, 100, 128, 0.1, "torch", (30, 60, 90), "resized"),
        ("densenet_121", 25.02, 90, 256, 0.1, "torch", (30, 60), "resized"),
    ],
)
def test_recipes_are_those_of_their_sources(name, error, epochs, batch_size, rate, form, drops, crop):
    config = CONFIGS[name].config
    assert CONFIGS[name].published.test_error == error
    assert (config.epochs, config.batch_size, config.crop) == (epochs, batch_size, crop)
    assert (config.optimizer.learning_rate, config.optimizer.momentum_form) == (rate, form)
    assert config.schedule.boundaries == drops and (config.schedule.kind == "cosine") == (not drops)
    assert (config.augmentation.colour_jitter > 0) == (form == "torch" and "torchvision" not in CONFIGS[name].source)


def test_weights_are_given_images_as_they_were_trained(folder, tmp_path):
    """Those of a network with half the deviation and a first kernel half as large are the same; others' are not."""
    model = create_model("resnet_8", num_classes=2)
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32)))
    halved = jax.tree.map(np.copy, variables)
    halved["params"]["stem"]["conv"]["kernel"] /= 2

    def loss(of, **about):
        save_pretrained(tmp_path / "weights", model, of, {key: np.asarray(about[key]).tolist() for key in about})
        flags = f"--dataset folder --data_dir {folder} --weights {tmp_path / 'weights'} --workers 0 --batch_size 16"
        return evaluate([*flags.split(), "--size", "16", "--resize", "18"], Console(quiet=True))["test_loss"]

    mean, std = np.float32([10, 20, 30]), np.float32([40, 50, 60])
    own = loss(variables, mean=mean, std=std)
    np.testing.assert_allclose(loss(halved, mean=mean, std=std / 2), own, rtol=1e-5)
    np.testing.assert_allclose(loss(variables, mean=mean + np.zeros((16, 16, 3)), std=std), own, rtol=1e-5)
    assert loss(variables) == loss(variables, mean=imagenet.NORMALIZE.mean, std=imagenet.NORMALIZE.std) != own
    with pytest.raises(InputError, match=r"a mean of \(32, 32\) pixels; crops have 16"):
        loss(variables, mean=np.zeros((32, 32, 3)), std=std)


@functools.cache
def _counted(model):
    return parameter_count(model, (224, 224, 3)), multiply_adds(model, (224, 224, 3))


def test_every_recipe_names_a_network_and_counts_its_steps(capsys):
    for name, named in CONFIGS.items():
        config = named.config
        assert ImagenetConfig.from_identity(config.identity()).identity() == config.identity()
        if name != "quickstart":
            model = create_model(config.model.name, **config.model.overrides())
            facts = model_info(config.model.name)
            if config.model.overrides():
                assert _counted(model) == (named.facts.parameters, named.facts.multiply_adds), name
            else:
                assert (facts.parameters, facts.multiply_adds) == (named.facts.parameters, named.facts.multiply_adds)
            assert (named.published is None) == (name == "wider_resnet_38_a2"), name  # published for segmentation alone
            assert named.source and named.deviations
            imagenet.check_options(config)
    code, out, _ = outcome(imagenet.main, capsys, "--config", "resnet_50_modern", "--dry_run")
    assert code == 0 and f"{1_281_167 // 1024 * 600:,} = 600 epochs" in out and "25,557,032" in out


def test_the_modern_recipe_has_three_forms():
    """What the weights' `meta` of torchvision refers to: with crops of 224, smaller ones, and repeated images, too."""
    modern = {name.removesuffix("_modern"): CONFIGS[name].config for name in CONFIGS if name.endswith("_modern")}
    assert {name: (config.image_size, config.repeats) for name, config in modern.items()} == {
        **dict.fromkeys(("resnet_101", "resnet_152", "resnext_50_32x4d", "wrn_101_2"), (224, 1)),
        **dict.fromkeys(("wrn_50_2", "resnext_101_32x8d"), (176, 1)),
        **dict.fromkeys(("resnet_50", "resnext_101_64x4d"), (176, 4)),
    }
    first = modern["resnet_50"]
    assert (first.optimizer.weight_decay, first.optimizer.decay, first.optimizer.nesterov) == (2e-5, "kernels", False)
    assert (first.schedule.warmup_epochs, first.schedule.warmup_from) == (5, 0.005)
    assert (first.label_smoothing, first.average_decay) == (0.1, 1 - 2e-5 * 1024 / 600)
    view = first.augmentation
    assert (view.flip, view.random_erasing, view.mixup, view.cutmix) == (True, 0.1, 0.2, 1.0)
    for config in modern.values():
        assert isinstance(config.model, ImagenetModelConfig)
        assert (config.augmentation.policy, config.eval_resize, config.eval_size) == ("trivial_augment", 232, 224)
        same = {"model": config.model, "image_size": config.image_size, "repeats": config.repeats}
        assert dataclasses.replace(first, **same) == config
