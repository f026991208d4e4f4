"""What is asked of a classifier beyond its error, of a linear one whose answers are known."""

import csv
import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from experiments.evaluation import robustness
from experiments.evaluation.figures import draw_confusion
from experiments.evaluation.outputs import Subject, compiled, on_images, outputs
from experiments.evaluation.report import Questions, answer
from experiments.evaluation.robustness import (
    corruption_errors,
    epsilon_of,
    error_under_attack,
    unknown_images,
)
from experiments.evaluation.scores import scores
from resjax import InputError
from resjax.data import Dataset

SIZE, CLASSES = 16, 3
RNG = np.random.default_rng(0)
# Images of three brightnesses, that a linear network tells by their mean, and errs about those between.
LABELS = np.arange(30, dtype=np.int32) % CLASSES
LEVELS = 60 + 60 * LABELS + RNG.normal(0, 30, 30)
IMAGES = np.clip(LEVELS[:, None, None, None] + RNG.normal(0, 6, (30, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
CENTRES = np.array([60, 120, 180]) / 255


def _logits(pixels):
    """Of squared distances to the centres, linear after what all classes share is dropped."""
    means = pixels.astype(jnp.float32).mean((1, 2, 3))[:, None] / 255
    return 200 * (means * CENTRES - CENTRES**2 / 2)


def _track(batches, total):
    return batches


def _subject(batch_size=8):
    forward = compiled(lambda variables, views: _logits(views[0]) + variables, batch_size)
    bare = Subject(
        *("a linear network", ["dark", "grey", "light"], jnp.float32(0), forward),
        *(lambda variables, pixels: _logits(pixels), lambda: iter(()), 0, (SIZE, SIZE, 3)),
    )
    return on_images(bare, Dataset(IMAGES, LABELS), batch_size)


SUBJECT = _subject()
WRONG = np.asarray(_logits(IMAGES)).argmax(-1) != LABELS


def test_a_pass_counts_each_image_once_in_order_and_keeps_the_surest_mistakes():
    expected = np.asarray(_logits(IMAGES))
    confidence = np.exp(expected).max(-1) / np.exp(expected).sum(-1)
    order = [i for i in np.argsort(-confidence, kind="stable") if WRONG[i]]
    assert len(order) > 3
    for batch_size in (8, 32):
        found = outputs(_subject(batch_size), keep=3)
        np.testing.assert_allclose(found.logits, expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(found.labels, LABELS)
        assert [mistake.position for mistake in found.mistakes] == order[:3]
        np.testing.assert_allclose([one.confidence for one in found.mistakes], confidence[order[:3]], rtol=1e-4)
        np.testing.assert_array_equal(found.mistakes[2].picture, IMAGES[order[2]])


def test_errors_under_corruptions_are_the_same_in_any_batch(monkeypatch):
    monkeypatch.setattr(robustness, "CORRUPTIONS", ("gaussian_noise", "brightness"))
    errors = corruption_errors(SUBJECT, _track)
    assert corruption_errors(_subject(32), _track) == errors
    # Noise keeps the mean of an image, and brightness moves it by 13 to 76 of the 60 between two classes.
    assert errors["gaussian_noise"] == pytest.approx([100 * WRONG.mean()] * 5, abs=3.4)
    for strength, error in zip((0.05, 0.1, 0.15, 0.2, 0.3), errors["brightness"], strict=True):
        pixels = np.float64(IMAGES) / 255
        value = pixels.max(-1, keepdims=True)
        brighter = np.round(255 * pixels * np.minimum(value + strength, 1) / np.maximum(value, 1e-9))
        assert error == pytest.approx(100 * (np.asarray(_logits(brighter)).argmax(-1) != LABELS).mean(), abs=3.4)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_a_linear_network_under_attack_errs_where_a_border_is_within_epsilon(attack):
    """The mean moves by epsilon, but for values at 0 and 255; borders are half way between the centres."""
    epsilon = 8 / 255
    low, high = (np.clip(IMAGES / 255 + shift, 0, 1).mean((1, 2, 3)) for shift in (-epsilon, epsilon))
    borders = np.array([0, 90 / 255, 150 / 255, 1.01])
    lost = WRONG | (low < borders[LABELS]) | (high > borders[LABELS + 1])
    assert WRONG.sum() < lost.sum() < 30
    assert error_under_attack(SUBJECT, attack, epsilon, _track) == pytest.approx(100 * lost.mean())


@pytest.mark.parametrize("kind", ["npz", "files", "catalog"])
def test_images_of_other_things_come_from_arrays_files_and_known_data_sets(tmp_path, kind):
    place, number = "cifar10_mini", 1000
    if kind == "npz":
        place, number = tmp_path / "black.npz", 20
        np.savez(place, x_test=np.eye(9, dtype=np.uint8)[None].repeat(20, 0), y_test=np.arange(20) % 4)
    elif kind == "files":
        place, number = tmp_path, 5
        for i in range(5):
            Image.fromarray(np.zeros((20 + i, 30, 3), np.uint8)).save(tmp_path / f"{i}.png")
        (tmp_path / "broken.png").write_bytes(b"no image")
    broken = []
    report = lambda *reason: broken.append(reason)  # noqa: E731
    found = unknown_images(SUBJECT, outputs(SUBJECT), str(place), None, 8, report, _track)
    assert found["images"] == number and len(broken) == (kind == "files")
    if kind != "catalog":  # black images are surely dark, and their energy is the lowest
        assert found["max_softmax"]["auroc"] < 20 and found["energy"]["auroc"] > 95 and found["energy"]["fpr95"] == 0


def test_a_report_has_the_numbers_the_tables_and_the_pictures(tmp_path):
    found = outputs(SUBJECT, keep=36)
    lines = Console(file=open(tmp_path / "said.txt", "w"), soft_wrap=True)
    questions = Questions(tmp_path / "report", attack="fgsm", epsilon=8 / 255, ood="cifar10_mini")
    result = answer(questions, SUBJECT, found, scores(found.logits, found.labels), 8, lines)
    lines.file.close()
    assert "FGSM of epsilon 8/255" in (tmp_path / "said.txt").read_text()
    text = (tmp_path / "report" / "README.md").read_text()
    written = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert written["test_error"] == result["test_error"] == pytest.approx(100 * WRONG.mean())
    assert written["attacked_error"] > written["test_error"] and "temperature" in written["temperature_scaling"]
    with open(tmp_path / "report" / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["dark", "grey", "light"] and sum(int(r["images"]) for r in rows) == 30
    for name in ("reliability", "confusion", "mistakes"):
        assert f"({name}.png)" in text
        with Image.open(tmp_path / "report" / f"{name}.png") as picture:
            assert min(picture.size) > 200
    for part in ("| error |", "PGD" not in text and "FGSM", "AUROC", f"The {WRONG.sum()} surest mistakes"):
        assert part in text


def test_of_many_classes_those_with_the_most_mistakes_are_drawn():
    confusion = np.diag(np.full(40, 5))
    confusion[39, 38] = 3
    assert draw_confusion(confusion, [f"$class_{i}" for i in range(40)], "$about_").startswith(b"\x89PNG")


def test_epsilon_is_a_fraction_or_a_number():
    assert epsilon_of("8/255") == 8 / 255 and epsilon_of("0.03") == 0.03
    for wrong in ("8", "0", "-1/255", "1/0", "eight"):
        with pytest.raises(InputError, match=f"--epsilon: expected a fraction .* got {wrong}"):
            epsilon_of(wrong)


def test_what_cannot_be_answered_is_said_in_a_line(tmp_path):
    crops = dataclasses.replace(SUBJECT, shape=(5, SIZE, SIZE, 3), from_pixels=None)
    found = outputs(SUBJECT)
    gray = dataclasses.replace(SUBJECT, shape=(SIZE, SIZE, 1))
    (tmp_path / "files").mkdir()
    Image.fromarray(IMAGES[0]).save(tmp_path / "files" / "a.png")
    np.savez(tmp_path / "colours.npz", x_test=IMAGES, y_test=LABELS)
    (tmp_path / "taken").write_text("")

    def unknown(subject, place):
        return lambda: unknown_images(subject, found, str(place), None, 8, print, _track)

    def report():
        result = scores(found.logits, found.labels)
        answer(Questions(tmp_path / "taken"), SUBJECT, found, result, 8, Console(stderr=True))

    for call, message in (
        (lambda: corruption_errors(crops, _track), "--corruptions: .* several crops"),
        (
            lambda: error_under_attack(crops, "pgd", 0.1, _track),
            "--attack pgd: .* several crops",
        ),
        (unknown(crops, "cifar10_mini"), "--ood: .* several crops"),
        (unknown(gray, tmp_path / "files"), "--ood .*: image files are of 3 channels, the network's of 1"),
        (unknown(gray, tmp_path / "colours.npz"), "--ood .*: images of 3 channels, the network's have 1"),
        (unknown(SUBJECT, "cifar01"), "did you mean 'cifar10'"),
        (report, "--report: .*taken cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            call()
