"""`python -m experiments.export`: networks as files for other software, read again and compared."""

import json

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

import resjax
from experiments.export import main
from tests.helpers.command import outcome

NAME = "resnet_20-cifar10"


@pytest.mark.parametrize("form", ["stablehlo", "onnx", "torch", "savedweights"])
def test_a_shipped_network_is_written_in_each_form(form, capsys, tmp_path):
    """The command reads the file again, and fails where its logits differ."""
    output = tmp_path / "out"
    code, out, err = outcome(main, capsys, NAME, "--to", form, "--output", output, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["difference"] < 1e-5 and said["parameters"] == 269_722 and said["size"] == [32, 32]
    assert said["class_names"] == resjax.pretrained_info(NAME)["class_names"]
    if form == "savedweights":
        preprocess, own = resjax.preprocessing(output), resjax.preprocessing(NAME)
        np.testing.assert_array_equal(preprocess.mean, own.mean)
    else:
        about = json.loads((tmp_path / "out.json").read_text())
        np.testing.assert_allclose(about["mean"], resjax.preprocessing(NAME).mean, rtol=1e-6)
        assert about["class_names"] == said["class_names"]
    if form == "torch":
        assert "layer1.0.conv1.weight" in load_file(output)


def test_pixels_go_in_where_it_is_asked_for(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = outcome(main, capsys, NAME, "--to", "onnx", "--normalize")
    assert code == 0, err
    assert f"{NAME}.onnx: ResNet, 269,722 parameters" in out and "input: uint8 [n, 32, 32, 3], pixels 0 .. 255" in out
    pixels = resjax.data.load_dataset("cifar10_mini", "test").images[:4]
    (logits,) = onnxruntime.InferenceSession(tmp_path / f"{NAME}.onnx").run(None, {"images": pixels})
    model, variables = resjax.from_pretrained(NAME)
    expected = np.asarray(model.apply(variables, resjax.preprocessing(NAME)(pixels)))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def test_a_file_of_pytorchs_weights_is_taken_with_its_networks_usual_name(capsys, tmp_path):
    model, variables = resjax.from_pretrained(NAME)
    save_file(resjax.to_torch(model, variables, "kuangliu"), tmp_path / "net.safetensors")
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    arguments = ("--to", "onnx", "--output", tmp_path / "net.onnx", "--model", "ResNet-20", "--json")
    numbers = ("--mean", 125, 123, 114, "--std", 63, 62, 67, "--class_names", tmp_path / "names.txt")
    code, out, err = outcome(main, capsys, tmp_path / "net.safetensors", *arguments, *numbers)
    assert code == 0, err
    assert json.loads(out)["class_names"] == list("abcdefghij")
    # The file beside the network goes where the network goes: it names no folder of this machine.
    assert json.loads(out)["of"] == "net.safetensors" and str(tmp_path) not in (tmp_path / "net.onnx.json").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((NAME, "--to", "onnx", "--image_size", "0", "32"), "--image_size: expected a height and width in pixels"),
        ((NAME, "--to", "torch", "--names", "kears"), "names: expected one of the repositories"),
        ((NAME, "--to", "torch", "--model", "resnet_20"), "--model: only for a file of PyTorch's weights"),
        (("net.pth", "--to", "onnx"), "net.pth: say with --model which network these weights are of"),
        (("resent_20-cifar10", "--to", "onnx"), "did you mean 'resnet_20-cifar10'"),
        ((NAME, "--to", "onnx", "--output", "no/such/folder/x"), "--output no/such/folder/x: cannot be written"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = outcome(main, capsys, *arguments)
    assert code == 2 and not out
    assert err.strip().splitlines()[-1].startswith("error: ") and message in err


def test_a_file_without_its_numbers_says_which(capsys, tmp_path):
    model, variables = resjax.from_pretrained(NAME)
    file = tmp_path / "net.safetensors"
    save_file(resjax.to_torch(model, variables, "kuangliu"), file)
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    for arguments, message in (
        ((), "--mean and --std: give both"),
        (("--mean", 1, 2, 3, "--std", 1, 2, 0), "--mean and --std: expected 3 finite numbers each, std > 0"),
        (("--class_names", tmp_path / "names.txt"), "--class_names: 2 names, and"),
    ):
        code, _, err = outcome(main, capsys, file, "--to", "onnx", "--model", "resnet_20", *arguments)
        assert code == 2 and message in err


def test_a_file_that_computes_something_else_is_no_success(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(main.__globals__["_READERS"], "onnx", lambda *_: np.zeros((2, 10), np.float32))
    code, _, err = outcome(main, capsys, NAME, "--to", "onnx", "--output", tmp_path / "x")
    assert code == 2 and "read again, its logits differ by 1.0e+00 of the largest one" in err


def test_without_onnx_runtime_nothing_is_claimed(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    code, out, err = outcome(main, capsys, NAME, "--to", "onnx", "--output", tmp_path / "x")
    assert code == 0 and "not run: ONNX Runtime is not installed" in err and "read again" not in out


def test_a_program_that_does_not_run_is_no_success(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(main.__globals__["_WRITERS"], "stablehlo", lambda *_: b"no program")
    code, _, err = outcome(main, capsys, NAME, "--to", "stablehlo", "--output", tmp_path / "x")
    assert code == 2 and "x: a new process cannot run it (" in err
