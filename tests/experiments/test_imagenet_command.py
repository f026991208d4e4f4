"""`python -m experiments.imagenet` on a small folder: it learns, resumes bit for bit, and says what is wrong."""

import dataclasses
import json
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

from experiments import evaluate as experiments_evaluate
from experiments import imagenet, predict
from experiments.configs.base import ModelConfig
from experiments.configs.imagenet import CONFIGS
from experiments.configs.imagenet.fields import ImagenetConfig
from experiments.inputs import photographs
from experiments.inputs.batches import StreamedImages
from experiments.programs.imagenet import evaluate
from experiments.training.workdir import IMAGENET_KEYS, Workdir
from resjax import InputError, create_model, pretrained_info, save_pretrained, train
from resjax.models import model_info
from tests.helpers.command import outcome
from tests.helpers.counting import counts
from tests.helpers.photographs import write_folder
from tests.helpers.problem import assert_same_bits
from tests.helpers.repositories import two_stages

SMALL = ["--config", "quickstart", "--model.name", "resnet_8", "--batch_size", "8", "--eval_batch_size", "8"]
SMALL += ["--epochs", "2", "--image_size", "16", "--eval_resize", "18", "--eval_size", "16", "--workers", "0"]
SMALL += ["--model.stage_sizes", "1", "--model.widths", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"), 10)


def _run(capsys, folder, workdir, *more):
    return outcome(imagenet.main, capsys, *SMALL, "--data_dir", folder, "--workdir", workdir, *more)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """Workdir of a run of two epochs on `folder`; nobody trains in it again."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert imagenet.main([*SMALL, "--data_dir", str(folder), "--workdir", str(workdir)]) == 0
    return workdir


def test_predict_makes_as_many_errors_as_the_test_of_the_run(capsys, finished, folder):
    code, out, _ = outcome(predict.main, capsys, finished, folder / "val", "--json", "--top", 1)
    found = [json.loads(line) for line in out.splitlines()]
    wrong = sum(line["classes"][0] != pathlib.Path(line["image"]).parent.name for line in found)
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert code == 0 and len(found) == 20 and 100 * wrong / 20 == last["test_error"]


def test_a_run_becomes_a_folder_of_weights_with_its_input_classes_and_card(capsys, finished, tmp_path):
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    options = ("evaluate", finished, "--workers", 0, "--batch_size", 16)
    code, _, err = outcome(imagenet.main, capsys, *options, "--save", tmp_path / "saved")
    assert code == 0, err
    about, card = pretrained_info(tmp_path / "saved"), (tmp_path / "saved" / "README.md").read_text()
    assert about["class_names"] == ["airplane", "automobile"] and about["test_error"] == last["test_error"]
    assert (about["size"], about["crop"]) == ([16, 16], 16 / 18)
    assert f"{last['test_error']:.2f} % ({about['errors']} of 20 images)" in card
    assert "| data | photographs of 2 classes (airplane, automobile); trained on " in card
    (data_dir,) = _own_folder(finished)
    for place in (data_dir, pathlib.Path(data_dir).parent.name, str(finished)):  # what is published names no folder
        assert place not in card + (tmp_path / "saved" / "config.json").read_text()
    # The folder sees what the run sees: the other command gives the same error.
    weights = (tmp_path / "saved", "--data_dir", *_own_folder(finished))
    code, out, err = outcome(imagenet.main, capsys, "evaluate", *weights, "--workers", 0, "--attack", "fgsm")
    assert code == 0 and f"error {last['test_error']:.2f}%" in out and "error under FGSM of epsilon" in out, err
    code, _, err = outcome(experiments_evaluate.main, capsys, *weights, "--tta")
    assert code == 2 and "--tta: only on small images; `python -m experiments.imagenet evaluate` has more" in err
    for more, message in (
        ((tmp_path / "saved",), "is no run; only those are saved"),
        ((finished, "--split", "test"), "leave out --dataset, --split"),
    ):
        code, _, err = outcome(imagenet.main, capsys, "evaluate", *more, "--save", tmp_path / "other")
        assert code == 2 and message in err


def _own_folder(workdir):
    return [json.loads((workdir / "config.json").read_text())["run_options"]["data_dir"]]


def test_a_run_on_a_folder_writes_what_a_run_writes(capsys, folder, finished):
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4] and set(records[0]) == set(IMAGENET_KEYS) - {
        "test_top5_error"
    }
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["test_images"] == 20 and summary["class_names"] == ["airplane", "automobile"]
    assert (finished / "curves.png").is_file()
    for mode in ("centre", "ten_crops", "multi_scale"):
        options = ("evaluate", finished, "--eval_mode", mode, "--workers", 0, "--batch_size", 16)
        code, out, err = outcome(
            imagenet.main, capsys, *options, *(("--eval_scales", 16, 20) if mode[0] == "m" else ())
        )
        assert code == 0 and "top 5" not in out, err
        found = json.loads((finished / f"evaluation_{mode}.json").read_text())
        assert found["images"] == 20
        if mode == "centre":
            np.testing.assert_allclose(found["test_loss"], records[-1]["test_loss"], rtol=1e-5)
        else:
            assert found["test_loss"] != records[-1]["test_loss"]
    # The command for all runs does the same.
    centre = json.loads((finished / "evaluation_centre.json").read_text())
    asked = ("--report", "--attack", "fgsm", "--ood", folder / "val" / "airplane")
    code, out, err = outcome(experiments_evaluate.main, capsys, finished, "--batch_size", 16, *asked)
    assert code == 0 and f"error {centre['test_error']:.2f}%" in out and "of 20 images" in out, err
    assert "error under FGSM of epsilon 8/255" in out and "told from 10 images of" in out
    report = json.loads((finished / "evaluation" / "evaluation.json").read_text())
    assert report["attacked_error"] >= report["test_error"] == centre["test_error"]
    assert [row["class"] for row in report["class_table"]] == ["airplane", "automobile"]
    assert json.loads((finished / "evaluation_centre.json").read_text()) == centre
    code, _, err = outcome(experiments_evaluate.main, capsys, finished, "--tta")
    assert code == 2 and "--tta: only for runs of `python -m experiments.cifar`" in err and err.count("\n") == 1


def test_a_run_is_of_its_images_and_of_how_they_are_turned(capsys, folder, finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert _run(capsys, copy, finished)[0] == 0  # the same images elsewhere
    code, _, err = _run(capsys, copy, finished, "--exif_orientation", "apply")
    assert code == 2 and "exif_orientation: 'ignore' there, 'apply' here" in err, err
    (copy / "train" / "airplane" / "more.jpg").write_bytes((copy / "train" / "airplane" / "001.jpg").read_bytes())
    code, _, err = _run(capsys, copy, finished)
    assert code == 2 and "train: 20 images there, 21 here, 1 more" in err, err


def test_other_photographs_are_evaluated_by_the_names_of_their_classes(capsys, folder, finished, tmp_path):
    """Trained on two classes; evaluated on them renamed, on one of them, on a bare folder, and on unknown ones."""

    def errors(data, *more):
        options = ("evaluate", finished, "--data_dir", data, "--workers", 0, "--batch_size", 8)
        code, out, err = outcome(imagenet.main, capsys, *options, *more)
        if code:
            return err
        return json.loads((finished / "evaluation_centre.json").read_text()) | {"out": out}

    whole = errors(folder)
    assert (whole["images"], whole["classes"], whole["split"]) == (20, 2, "val")
    assert errors(folder / "val")["test_loss"] == whole["test_loss"]  # without training images beside it
    swapped = tmp_path / "swapped"  # each class under the other's name: right and wrong change places
    for old, new in (("airplane", "automobile"), ("automobile", "airplane")):
        shutil.copytree(folder / "val" / old, swapped / new)
    assert errors(swapped)["test_error"] == pytest.approx(100 - whole["test_error"])
    shutil.copytree(folder / "val" / "automobile", tmp_path / "one" / "automobile")
    one = errors(tmp_path / "one")
    assert one["images"] == 10 and one["test_error"] == 0 and "among the 1 classes of the images, of 2" in one["out"]
    for name in ("aeroplane", "car"):
        shutil.copytree(folder / "val" / "automobile", tmp_path / "others" / name)
    message = errors(tmp_path / "others")
    assert "It knows airplane, automobile; the images are of aeroplane, car" in message and message.count("\n") == 1
    (tmp_path / "names.txt").write_text("aeroplane\ncar\n")
    named = errors(tmp_path / "others", "--class_names", tmp_path / "names.txt")
    assert named["images"] == 20 and named["classes"] == 2


def test_images_that_a_run_was_trained_on_are_not_its_test_images(capsys, tmp_path):
    bare = write_folder(tmp_path / "bare", 10, splits=())
    assert _run(capsys, bare, tmp_path / "run", "--epochs", "1", "--validation_fraction", "0.3")[0] == 0
    options = ("evaluate", tmp_path / "run", "--workers", 0, "--batch_size", 8)
    moved = tmp_path / "moved"
    shutil.copytree(bare, moved)
    for more in ((), ("--data_dir", bare), ("--data_dir", moved)):
        assert outcome(imagenet.main, capsys, *options, *more)[0] == 0
        found = json.loads((tmp_path / "run" / "evaluation_centre.json").read_text())
        assert (found["images"], found["split"]) == (6, "held_out"), more
    assert outcome(imagenet.main, capsys, *options, "--split", "all")[0] == 0
    assert json.loads((tmp_path / "run" / "evaluation_centre.json").read_text())["images"] == 20
    other = tmp_path / "other"  # cannot be divided, and need not be
    shutil.copytree(bare / "airplane", other / "airplane")
    assert outcome(imagenet.main, capsys, *options, "--data_dir", other)[0] == 0
    assert json.loads((tmp_path / "run" / "evaluation_centre.json").read_text())["images"] == 10
    shutil.copy(bare / "airplane" / "000.jpg", bare / "airplane" / "added.jpg")
    for more in ((), ("--split", "held_out"), ("--data_dir", bare)):
        code, _, err = outcome(imagenet.main, capsys, *options, *more)
        assert code == 2 and "its folder has changed since it was trained (test images: " in err, err


def test_a_stopped_run_ends_as_if_never_stopped(capsys, folder, finished, tmp_path, monkeypatch):
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
    whole, stopped = (train.read_variables(run / "checkpoints") for run in (finished, tmp_path / "stopped"))
    assert_same_bits(whole, stopped)
    lines = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (finished, tmp_path / "stopped")
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
        flags = f"--dataset folder --data_dir {folder} {tmp_path / 'weights'} --workers 0 --batch_size 16"
        return evaluate([*flags.split(), "--eval_size", "16", "--eval_resize", "18"], Console(quiet=True))["test_loss"]

    mean, std = np.float32([10, 20, 30]), np.float32([40, 50, 60])
    own = loss(variables, mean=mean, std=std)
    np.testing.assert_allclose(loss(halved, mean=mean, std=std / 2), own, rtol=1e-5)
    np.testing.assert_allclose(loss(variables, mean=mean + np.zeros((16, 16, 3)), std=std), own, rtol=1e-5)
    assert loss(variables) == loss(variables, mean=photographs.NORMALIZE.mean, std=photographs.NORMALIZE.std) != own
    with pytest.raises(InputError, match=r"a mean of \(32, 32\) pixels; crops have 16"):
        loss(variables, mean=np.zeros((32, 32, 3)), std=std)


def test_every_recipe_names_a_network_and_counts_its_steps(capsys):
    for name, named in CONFIGS.items():
        config = named.config
        assert ImagenetConfig.from_identity(config.identity()).identity() == config.identity()
        if name != "quickstart":
            model = create_model(config.model.name, **config.model.overrides())
            facts = model_info(config.model.name)
            if config.model.overrides():
                assert counts(model, (224, 224, 3)) == (named.facts.parameters, named.facts.multiply_adds), name
            else:
                assert (facts.parameters, facts.multiply_adds) == (named.facts.parameters, named.facts.multiply_adds)
            # wider_resnet_38_a2 is published for segmentation alone; finetune is our own.
            assert (named.published is None) == (name in ("wider_resnet_38_a2", "finetune")), name
            assert named.source and (named.deviations or name == "finetune")
            photographs.check_options(config)
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
        assert isinstance(config.model, ModelConfig)
        assert (config.augmentation.policy, config.eval_resize, config.eval_size) == ("trivial_augment", 232, 224)
        same = {"model": config.model, "image_size": config.image_size, "repeats": config.repeats}
        assert dataclasses.replace(first, **same) == config


def test_a_key_chooses_in_a_file_of_weights_alone(folder, tmp_path):
    """And there it is passed on: an unknown one lists what the file holds."""
    Workdir(tmp_path / "run").start(CONFIGS["quickstart"].config.resolved("quickstart"))
    with pytest.raises(InputError, match="--weights_key: .* is a run, which has its own"):
        evaluate([str(tmp_path / "run"), "--weights_key", "ema"], Console(quiet=True))
    save_file(two_stages(64, 8), tmp_path / "weights")
    flags = f"--dataset folder --data_dir {folder} {tmp_path / 'weights'} --model resnet_18 --workers 0"
    with pytest.raises(InputError, match="weights key 'ema'.*the keys are: \\."):
        evaluate([*flags.split(), "--weights_key", "ema"], Console(quiet=True))
