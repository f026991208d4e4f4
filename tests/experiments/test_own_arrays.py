"""Arrays of a person's own through the commands: trained on, resumed, tested on; corrupted images by severity."""

import functools
import json
import re
import shutil

import jax
import numpy as np
import pytest

import resjax
from experiments import cifar, evaluate
from experiments.evaluation.trained import load_run
from resjax.data import dataset_info, load_dataset
from tests.helpers.command import outcome

_train = functools.partial(outcome, cifar.main)


def _evaluate(capsys, *arguments):
    return outcome(evaluate.main, capsys, *arguments, "--batch_size", 40)


RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.arange(240) % 3)
# Classes that differ in brightness: learnt in an epoch.
IMAGES = (RNG.integers(0, 50, (240, 12, 8, 4)) + 80 * LABELS[:, None, None, None]).astype(np.uint8)
ARGUMENTS = (
    *("--config", "quickstart"),
    *("--model.name", "resnet_8", "--model.stage_sizes", "1", "--model.widths", "8"),
    *("--dataset", "arrays", "--batch_size", "32", "--eval_batch_size", "40"),
)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """(npz with four channels and a validation split, workdir of a run on it)."""
    folder = tmp_path_factory.mktemp("own")
    bounds = {"train": slice(0, 160), "val": slice(160, 200), "test": slice(200, 240)}
    arrays = {f"{name}_images": IMAGES[part] for name, part in bounds.items()}
    np.savez(folder / "own.npz", **arrays, **{f"{name}_labels": LABELS[part, None] for name, part in bounds.items()})
    assert (
        cifar.main(
            [*ARGUMENTS, "--epochs", "1", "--data_dir", f"{folder / 'own.npz'}", "--workdir", f"{folder / 'run'}"]
        )
        == 0
    )
    return folder / "own.npz", folder / "run"


def _wrong(model, variables, images, labels, info):
    """Errors, normalised by NumPy."""
    images = (images.astype(np.float32) - np.float32(info.mean)) / np.float32(info.std)
    return int((np.asarray(jax.jit(model.apply)(variables, images)).argmax(-1) != labels).sum())


def _counts(out):
    return [
        tuple(int(n.replace(",", "")) for n in found) for found in re.findall(r"\(([\d,]+) of ([\d,]+) images\)", out)
    ]


def test_arrays_of_any_size_and_channels_are_trained_on_and_tested_on(own, capsys):
    path, run = own
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["train_images"], summary["test_images"]) == (160, 40)
    subject = load_run(str(run), "latest", 0, None)
    assert subject.variables["params"]["stem"]["conv"]["kernel"].shape[2] == 4
    info = dataset_info("arrays", path)
    for split, flags in (("test", ()), ("validation", ("--split", "validation")), ("test", ("--data_dir", path))):
        expected = load_dataset("arrays", split, path)
        code, out, err = _evaluate(capsys, run, *flags)
        assert code == 0, err
        assert _counts(out) == [(_wrong(subject.model, subject.variables, *expected, info), 40)]


def test_another_file_is_normalised_as_the_network_was_trained(own, tmp_path, capsys):
    """Its own mean and std would hide that it is darker."""
    path, run = own
    dark = IMAGES // 3
    np.savez(tmp_path / "dark.npz", x_train=dark[:200], y_train=LABELS[:200], x_test=dark[200:], y_test=LABELS[200:])
    subject = load_run(str(run), "latest", 0, None)
    wrong = _wrong(subject.model, subject.variables, dark[200:], LABELS[200:], dataset_info("arrays", path))
    code, out, err = _evaluate(capsys, run, "--data_dir", tmp_path / "dark.npz")
    assert code == 0, err
    assert _counts(out) == [(wrong, 40)] and wrong > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES[..., :3]}, "does not take images of 12x8x3"),
        ({"labels": LABELS + 1}, "labels 0 to 3, the network has 3 classes"),
        (
            {"train_images": IMAGES, "train_labels": LABELS, "images": None, "labels": None},
            "--split: .*choose one of train",
        ),
    ],
)
def test_images_that_do_not_fit_the_network_are_said(own, tmp_path, capsys, changes, message):
    arrays = {
        key: array for key, array in ({"images": IMAGES, "labels": LABELS} | changes).items() if array is not None
    }
    np.savez(tmp_path / "other.npz", **arrays)
    code, _, err = _evaluate(capsys, own[1], "--data_dir", tmp_path / "other.npz")
    assert code == 2 and err.splitlines()[-1].startswith("error: ") and re.search(message, err), err


@pytest.fixture(scope="module")
def shipped():
    model, variables = resjax.from_pretrained("resnet_20-cifar10")
    about = resjax.pretrained_info("resnet_20-cifar10")
    predict = jax.jit(lambda images: model.apply(variables, images).argmax(-1))

    def wrong(images, labels):
        normal = (images.astype(np.float32) - np.float32(about["mean"])) / np.float32(about["std"])
        return int((np.asarray(predict(normal)) != labels).sum())

    return wrong


def test_a_shipped_network_on_cifar_10_c_by_corruption_and_severity(tmp_path, capsys, shipped, monkeypatch):
    monkeypatch.setattr(evaluate, "CORRUPTIONS", ("fog",))  # those of the benchmark; others come with it
    data = load_dataset("cifar10_mini", "test")
    images, labels = data.images[:40], data.labels[:40]
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    parts = {
        "fog": [(images * (1 - s / 6) + 200 * s / 6).astype(np.uint8) for s in range(1, 6)],
        "contrast": [(images / (1 + s)).astype(np.uint8) for s in range(1, 6)],
    }
    for name, severities in parts.items():
        np.save(folder / f"{name}.npy", np.concatenate(severities))
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    wrong = {name: [shipped(part, labels) for part in severities] for name, severities in parts.items()}
    code, out, err = _evaluate(capsys, "resnet_20-cifar10", "--dataset", "arrays", "--data_dir", folder)
    assert code == 0, err
    fog, contrast = sum(wrong["fog"]), sum(wrong["contrast"])
    assert _counts(out) == [(contrast, 200), (fog, 200), (contrast + fog, 400)]
    severities = [line.split(": ")[1] for line in out.splitlines() if "severity 1 to 5" in line]
    mean = [(a + b) / 2 for a, b in zip(wrong["fog"], wrong["contrast"], strict=True)]
    assert severities == [
        ", ".join(f"{100 * n / 40:.2f}%" for n in row) for row in (wrong["contrast"], wrong["fog"], mean)
    ]
    assert f"the 1 corruptions of the benchmark: mean error {fog / 2:.2f}%" in out
    one = ("--dataset", "arrays", "--data_dir", folder / "fog.npy")
    assert _counts(_evaluate(capsys, "resnet_20-cifar10", *one)[1]) == [(fog, 200)]
    code, _, err = _evaluate(capsys, "resnet_20-cifar10", "--dataset", "arrays", "--data_dir", folder, "--tta")
    assert code == 2 and "--tta: needs a single split; give --split one of contrast, fog" in err


def test_classes_with_names_are_matched_by_them(tmp_path, capsys, shipped):
    data = load_dataset("cifar10_mini", "test")
    names = dataset_info("cifar10").class_names
    chosen = np.flatnonzero(np.isin(data.labels, (2, 5)))  # bird, dog
    mine = np.where(data.labels[chosen] == 5, 0, 1)
    np.savez(tmp_path / "pets.npz", images=data.images[chosen], labels=mine, class_names=np.array(["dog", "bird"]))
    command = ("resnet_20-cifar10", "--dataset", "arrays", "--data_dir", tmp_path / "pets.npz")
    expected = shipped(data.images[chosen], data.labels[chosen])
    assert _counts(_evaluate(capsys, *command)[1]) == [(expected, 200)] and expected < 60
    np.savez(tmp_path / "pets.npz", images=data.images[chosen], labels=mine, class_names=np.array(["dog", "wolf"]))
    code, _, err = _evaluate(capsys, *command)
    assert code == 2 and "has no class 'wolf'" in err and all(name in err for name in names)


def test_a_run_is_of_its_arrays_wherever_they_lie(own, tmp_path, capsys):
    path, run = own
    moved = tmp_path / "moved.npz"
    moved.write_bytes(path.read_bytes())
    again = (*ARGUMENTS, "--epochs", "1", "--workdir", run)
    assert _train(capsys, *again, "--data_dir", moved)[0] == 0
    with np.load(path) as stored:
        arrays = dict(stored)
    for name, change, message in (
        ("train_labels", lambda labels: labels[::-1], "train: as many images there and here, 160, but not the same"),
        ("test_images", lambda images: images ^ 1, "test: as many images there and here, 40, but not the same"),
    ):
        np.savez(tmp_path / "other.npz", **arrays | {name: change(arrays[name])})
        code, _, err = _train(capsys, *again, "--data_dir", tmp_path / "other.npz")
        assert code == 2 and message in err, err
    gone = tmp_path / "run"
    shutil.copytree(run, gone)
    config = json.loads((gone / "config.json").read_text())
    config["run_options"]["data_dir"] = str(tmp_path / "gone.npz")
    (gone / "config.json").write_text(json.dumps(config))
    assert _counts(_evaluate(capsys, gone, "--data_dir", moved)[1]) == _counts(_evaluate(capsys, run)[1])
    code, _, err = _evaluate(capsys, gone, "--data_dir", tmp_path / "other.npz")
    assert code == 2 and "are gone, and" in err and "put its own back" in err
    shutil.copy(tmp_path / "other.npz", tmp_path / "gone.npz")  # another file under its name
    code, _, err = _evaluate(capsys, gone)
    assert code == 2 and "have changed since (test: as many images there and here, 40, but not the same" in err


def test_a_pair_without_test_images_is_told_again_by_the_weights_that_were_trained_on_it(tmp_path, capsys, caplog):
    path, run, saved = tmp_path / "pair.npz", tmp_path / "run", tmp_path / "saved"
    np.savez(path, images=IMAGES, labels=LABELS)
    assert _train(capsys, *ARGUMENTS, "--epochs", "1", "--data_dir", path, "--workdir", run)[0] == 0
    code, out, err = _evaluate(capsys, run, "--save", saved)
    assert code == 0, err
    (own,) = _counts(out)
    assert own[1] == 24
    copy = tmp_path / "copy.npz"
    copy.write_bytes(path.read_bytes())
    of_copy = ("--dataset", "arrays", "--data_dir", copy)
    assert _counts(_evaluate(capsys, saved, *of_copy)[1]) == [own]
    assert "is tested on those that were kept apart" in caplog.text
    assert _counts(_evaluate(capsys, saved, *of_copy, "--split", "all")[1])[0][1] == 240
    assert "--split all takes those, too" in caplog.text
    # Of a run on arrays that lie elsewhere, too, those that it was trained on are told.
    _, out, _ = _evaluate(capsys, run, "--data_dir", copy)
    assert "copy.npz: 216 of 240 test images are training images, too" in caplog.text and "tested on copy.npz" in out
    caplog.clear()
    np.savez(tmp_path / "other.npz", images=IMAGES ^ 1, labels=LABELS)
    code, out, _ = _evaluate(capsys, saved, "--dataset", "arrays", "--data_dir", tmp_path / "other.npz")
    assert code == 0 and _counts(out)[0][1] == 240 and "trained on" not in caplog.text


def test_training_needs_images_to_train_on(tmp_path, capsys):
    np.savez(tmp_path / "test.npz", x_test=IMAGES, y_test=LABELS)
    for flags, message in (
        (("--data_dir", tmp_path / "test.npz"), "no images to train on"),
        ((), "say with --data_dir"),
    ):
        code, _, err = _train(capsys, *ARGUMENTS, *flags)
        assert code == 2 and message in err
