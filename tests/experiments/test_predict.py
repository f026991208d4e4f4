"""`python -m experiments.predict`: what a classifier sees in files."""

import dataclasses
import io
import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import resjax
from experiments import export
from experiments.configs.cifar import CONFIGS
from experiments.configs.segmentation import CONFIGS as OF_MASKS
from experiments.evaluation.classifier import WeightsOptions, load_classifier
from experiments.evaluation.explanations import Explainer, heat
from experiments.evaluation.figures import draw_sheet
from experiments.evaluation.overlays import class_colours
from experiments.evaluation.trained import load_run
from experiments.predict import main
from experiments.training.workdir import Workdir
from resjax import train
from resjax.analysis import grad_cam
from resjax.data import load_dataset
from tests.conftest import ROOT
from tests.helpers.command import outcome
from tests.helpers.finished_run import write_run

NAME = "resnet_20-cifar10"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight images of CIFAR-10 as PNG files, and one that is none."""
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(load_dataset("cifar10_mini", "test").images[:8]):
        Image.fromarray(image).save(folder / f"{i}.png")
    (folder / "a.jpg").write_bytes(b"no image")
    return folder


def test_files_get_the_probabilities_of_the_network(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.predict._MANY", 8)
    arguments = (NAME, folder, "--json", "--sheet", tmp_path / "sheet.png", "--top", 3, "--batch_size", 5)
    code, out, err = outcome(main, capsys, *arguments)
    found = {line["image"]: line for line in map(json.loads, out.splitlines())}
    assert code == 0 and len(found) == 9 and "broken" in err and "sheet of 8 images" in err
    assert re.search(r"^9 images in [\d.]+ s: [\d.,]+ a second after the first batch of 5$", err, re.M)
    assert "error" in found[str(folder / "a.jpg")]
    model, variables = resjax.from_pretrained(NAME)
    images = load_dataset("cifar10_mini", "test").images[:8]
    logits = jax.jit(model.apply)(variables, resjax.preprocessing(NAME)(images))
    names = resjax.pretrained_info(NAME)["class_names"]
    for i, expected in enumerate(np.asarray(jax.nn.softmax(logits))):
        line = found[str(folder / f"{i}.png")]
        order = np.argsort(-expected)[:3]
        assert line["classes"] == [names[label] for label in order]
        np.testing.assert_allclose(line["probabilities"], expected[order], atol=1e-4)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 600


def test_names_of_files_come_from_a_pipe_and_photographs_are_turned_upright(capsys, folder, monkeypatch):
    photo = ROOT / "tests" / "real_files" / "images" / "hopper_orientation_6.jpg"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder / '0.png'}\n{photo}\n"))
    code, out, _ = outcome(main, capsys, NAME, "-", "--top", 1)
    assert code == 0 and [line.split(":")[0] for line in out.splitlines()] == [str(folder / "0.png"), str(photo)]
    with Image.open(photo) as stored:
        turned = np.asarray(stored.convert("RGB").rotate(-90, expand=True))
    model, variables = resjax.from_pretrained(NAME)
    logits = jax.jit(model.apply)(variables, resjax.preprocessing(NAME)(turned))
    best = resjax.pretrained_info(NAME)["class_names"][int(logits[0].argmax())]
    assert f"hopper_orientation_6.jpg: {best} " in out


def test_a_run_on_small_images_sees_what_it_was_trained_to_see(capsys, folder, tmp_path, draw_variables):
    """Normalised by the numbers of its training images, as its evaluation is."""
    model = CONFIGS["quickstart"].config.model.replace(name="resnet_8")
    run = write_run(tmp_path / "run", "quickstart", train_images=5000, draw_variables=draw_variables, model=model)
    code, out, _ = outcome(main, capsys, run, folder, "--json", "--top", 1)
    network = load_run(str(run), "latest", 8, None)
    logits = np.asarray(jax.jit(network.model.apply)(network.variables, network.images))
    found = [line for line in map(json.loads, out.splitlines()) if "classes" in line]
    names = network.info.class_names
    assert code == 0 and [line["classes"][0] for line in found] == [names[label] for label in logits.argmax(-1)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no_such_folder"], "no_such_folder: no such file or folder"),
        ([ROOT / "README.md"], "none of the images could be read|every other image"),
        ([ROOT / "experiments"], "no image files"),
        ([ROOT / "tests" / "real_files" / "images", "--workers", "-1"], "--workers: expected a number >= 0, got -1"),
        ([ROOT / "tests" / "real_files" / "images", "--top", "0"], "--top: expected a positive integer, got 0"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, message):
    code, out, err = outcome(main, capsys, NAME, *arguments)
    assert code == 2 and not out
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and any(part in last for part in message.split("|"))


def test_weights_that_are_none_are_told(capsys, folder):
    code, _, err = outcome(main, capsys, "resnet50", folder)
    assert code == 2 and "resnet50 names a network, resnet_50, not trained weights" in err


def test_a_sheet_of_one_picture_has_its_text():
    picture = np.zeros((8, 8, 3), np.uint8)
    assert draw_sheet("a $title_", [(picture, "a $name_ with \\ math\n99 %")]).startswith(b"\x89PNG")


@pytest.mark.parametrize("method", ["grad_cam", "occlusion", "integrated_gradients"])
def test_an_answer_is_explained_in_a_picture_for_each_image(method, capsys, folder, tmp_path):
    (tmp_path / "two").mkdir()
    for name in ("0.png", "1.png"):
        shutil.copy(folder / name, tmp_path / "two")
    arguments = (NAME, folder / "0.png", tmp_path / "two", "--explain", method, "--batch_size", 2)
    code, out, err = outcome(main, capsys, *arguments, "--overlays", tmp_path / "overlays", "--top", 1)
    assert code == 0 and f"3 overlays in {tmp_path / 'overlays'}" in err
    assert {path.name for path in (tmp_path / "overlays").iterdir()} == {"0.png", "1.png", "0_2.png"}
    with Image.open(tmp_path / "overlays" / "0.png") as picture:
        assert picture.size[0] > 600 and np.asarray(picture.convert("L")).std() > 20


def test_the_map_is_that_of_the_answer_in_the_size_of_the_picture():
    classifier = load_classifier(NAME, WeightsOptions())
    pictures = load_dataset("cifar10_mini", "test").images[:3]
    explain = Explainer(classifier, "grad_cam", 4)  # a batch that is not full
    found = explain(pictures, np.array([3, 8, 0], np.int32))
    assert found.shape == (3, 32, 32)
    images = classifier.preprocess(pictures)
    small = jax.jit(lambda *arrays: grad_cam(classifier.model, *arrays))(
        classifier.variables, images, np.array([3, 8, 0])
    )
    np.testing.assert_allclose(found, jax.image.resize(small, (3, 32, 32), "bilinear"), rtol=1e-3, atol=1e-6)
    other = explain(pictures, np.array([4, 8, 0], np.int32))
    assert not np.allclose(found[0], other[0]) and np.allclose(found[1:], other[1:])


def test_heat_is_bright_where_the_map_is_high_and_leaves_the_rest():
    picture, values = np.full((20, 20, 3), 100, np.uint8), np.zeros((20, 20), np.float32)
    values[:5], values[10:] = 2.0, -1.0
    shown = heat(picture, values).astype(int)
    assert (shown[:5].sum(-1) > 400).all() and (shown[5:] == shown[5]).all() and (shown[5:].sum(-1) < 300).all()


@pytest.fixture(scope="module")
def run_on_masks(tmp_path_factory, draw_variables):
    """A run of a small segmentation network, of random weights."""
    named = OF_MASKS["quickstart"]
    model = named.config.model.replace(name="resnet_8", head_width=4, widths=(4, 4, 8))
    config = dataclasses.replace(named.config, model=model)
    workdir = Workdir(tmp_path_factory.mktemp("masks") / "run")
    names = resjax.data.mask_dataset_info("shapes").class_names
    workdir.start(config.resolved("quickstart") | {"data": {"class_names": list(names), "splits": {}}})
    network = config.create_model(len(names))
    variables = draw_variables(network, np.zeros((1, 32, 32, 3), np.float32))
    state = train.create_state(network, train.sgd(0.1), 0, (32, 32, 3), variables=variables)
    with train.Checkpoints(workdir.checkpoints) as checkpoints:
        checkpoints.save(state, train.PixelTotals.zero(len(names)), {})
    return workdir.path, network, variables, names


def test_a_run_on_masks_says_how_much_of_an_image_each_class_is(run_on_masks, capsys, folder, tmp_path):
    path, network, variables, names = run_on_masks
    arguments = (path, folder, "--json", "--top", 2, "--sheet", tmp_path / "sheet.png")
    code, out, err = outcome(main, capsys, *arguments, "--overlays", tmp_path / "overlays")
    found = {line["image"]: line for line in map(json.loads, out.splitlines())}
    assert code == 0 and len(found) == 9 and "8 overlays in" in err
    assert "error" in found[str(folder / "a.jpg")] and "a.jpg" not in found[str(folder / "a.jpg")]["error"]
    pixels = load_dataset("cifar10_mini", "test").images[:1]
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    images = ((pixels - mean) / std).astype(np.float32)
    labels = np.asarray(jax.jit(network.apply)(variables, images)).argmax(-1)[0]
    with Image.open(tmp_path / "overlays" / "masks" / "0.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), labels)
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), class_colours(256)[labels])
    line = found[str(folder / "0.png")]
    best = np.bincount(labels.ravel(), minlength=len(names)).argmax()
    assert line["classes"][0] == names[best] and line["fractions"][0] == pytest.approx(
        (labels == best).mean(), rel=1e-4
    )


def test_saved_weights_of_pixels_see_what_their_run_sees(run_on_masks, capsys, folder, tmp_path):
    path, network, variables, names = run_on_masks
    about = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "class_names": list(names)}
    resjax.save_pretrained(tmp_path / "saved", network, variables, about)
    said = [outcome(main, capsys, place, folder / "0.png")[1] for place in (path, tmp_path / "saved")]
    assert said[0] == said[1] and " %" in said[0]


def test_a_run_on_masks_is_exported(run_on_masks, capsys, tmp_path):
    path = run_on_masks[0]
    arguments = (path, "--to", "onnx", "--image_size", 32, 40, "--normalize", "--output", tmp_path / "x.onnx", "--json")
    code, out, err = outcome(export.main, capsys, *arguments)
    assert code == 0 and json.loads(out)["difference"] < 1e-5, err


def test_a_file_of_weights_is_taken_with_the_name_of_its_network(capsys, folder, tmp_path):
    model, variables = resjax.from_pretrained(NAME)
    save_file(resjax.to_torch(model, variables, "kuangliu"), tmp_path / "net.safetensors")
    numbers = ("--mean", 125, 123, 114, "--std", 63, 62, 67)
    arguments = (tmp_path / "net.safetensors", folder / "0.png", "--model", "resnet20", *numbers, "--json")
    code, out, _ = outcome(main, capsys, *arguments)
    assert code == 0 and set(json.loads(out)["classes"]) < set(map(str, range(10)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([NAME, "--overlays", "x"], "--overlays: a classifier's are of --explain grad_cam"),
        ([NAME, "--explain", "grad_cam", "--overlays", "0.png"], "--overlays 0.png"),
        (["MASKS", "--explain", "grad_cam"], "--explain: of a classifier;"),
    ],
)
def test_what_does_not_fit_together_is_told(arguments, message, capsys, folder, run_on_masks, monkeypatch):
    monkeypatch.chdir(folder)
    arguments = [str(run_on_masks[0]) if word == "MASKS" else word for word in arguments]
    code, _, err = outcome(main, capsys, arguments[0], folder / "0.png", *arguments[1:])
    assert code == 2 and message in err.strip().splitlines()[-1]
