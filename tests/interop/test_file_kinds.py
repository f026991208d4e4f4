"""Files are told by what they hold, whatever they are called."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

from resjax import InputError, from_pretrained, load_torch_weights
from resjax.interop import file_kinds
from tests.helpers.repositories import POST_ACTIVATION, post_activation

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 46827520\n"
HTML = b"\n<!DOCTYPE html>\n<html><head><title>Sign in - GitHub</title></head><body>" + b"x" * 500
SAFE = save({name: array for name, array in post_activation().entries.items()})


def _zip(**files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return stream.getvalue()


def _tar(name):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


FILES = {
    "empty": (b"", "is empty (0 bytes)"),
    "zeros": (bytes(1000), "nothing but zeros"),
    "lfs": (LFS, "Git-LFS pointer to a file of 46,827,520 bytes", "git lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s9--aa.pth\n", "git-annex pointer", "git annex get"),
    "html": (HTML, "HTML page", "sign in - github", "download the file itself"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML document"),
    "json": (json.dumps({"error": "Repository \x1b[1m not found"}).encode(), "JSON text that says", "not found"),
    "text": (b"Not found\n", "text that begins 'Not found'"),
    "cut safetensors": (SAFE[:40], "safetensors file that is cut off"),
    "cut zip": (_zip(archive__data="x" * 999)[:300], "zip file that is cut off"),
    "zip": (_zip(readme="hello"), "zip archive that torch.save did not write"),
    "npz": (_zip(**{"conv1.npy": b""}), ".npz archive of NumPy"),
    "torchscript": (_zip(net__constants="", **{"net__data.pkl": ""}).replace(b"constants", b"constants"), ""),
    "keras": (_zip(**{"metadata.json": "", "config.json": "", "model.weights.h5": ""}), "Keras"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5", "Keras"),
    "gzip": (gzip.compress(SAFE), "compressed by gzip", "unpack it"),
    "tar": (_tar("weights.pth"), "tar archive", "unpack it"),
    "old torch": (_tar("sys_info"), "tar of PyTorch before 0.2"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xff" + bytes(50), "ONNX"),
    "saved model": (b"\x08\x01\x12\xf6\x8b\x01\x0a" + bytes(50), "SavedModel of TensorFlow"),
    "tensorflow": (bytes([1, 2, 3]) * 20 + struct.pack("<Q", 0xDB4775248B80FB57), "TensorFlow checkpoint"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
    "torch7": (struct.pack("<iii", 4, 1, 3) + b"V 1", "Lua Torch7"),
    "pickle": (pickle.dumps({"a": 1}, protocol=4), "pickle of Python that torch.save did not write"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(50), "single array of NumPy"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG image"),
    "noise": (np.random.default_rng(0).bytes(100), "no kind of file that is known here"),
}
FILES["torchscript"] = (_zip(**{"net__constants.pkl": "", "net__data.pkl": ""}), "TorchScript archive")


def _line(path):
    with pytest.raises(InputError) as raised:
        load_torch_weights(POST_ACTIVATION, path)
    message = str(raised.value)
    assert message.startswith(str(path)) and "\n" not in message and message.isprintable()
    return message


@pytest.mark.parametrize("suffix", ["", ".pth", ".safetensors"])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_weights_says_what_it_is(kind, suffix, tmp_path):
    content, *parts = FILES[kind]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    message = _line(path)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("suffix", ["", ".t7", ".pkl", ".pyth", ".bin", ".pth"])
def test_safetensors_are_read_under_any_name(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(SAFE)
    load_torch_weights(POST_ACTIVATION, path)


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "file").write_bytes(SAFE)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "pytorch_model.bin").touch()
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file; give a file of weights" in _line(tmp_path / "pipe")
    assert "no such file" in _line(tmp_path / "absent.pth")
    assert "file/below.pth: " in _line(tmp_path / "file" / "below.pth")
    assert "is a folder" in _line(tmp_path / "folder") and "pytorch_model.bin" in _line(tmp_path / "folder")


def test_a_file_that_the_system_refuses_to_open_is_said(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "w").write_bytes(SAFE)
    monkeypatch.setattr(file_kinds, "open", refuse, raising=False)
    assert _line(tmp_path / "w").endswith("w: cannot be read: Permission denied")


def test_arrays_of_eight_bits_are_named(tmp_path):
    header = json.dumps({"conv1.weight": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "F8_E4M3" in _line(tmp_path / "w")


@pytest.mark.parametrize(("content", "named"), [(b"", "empty"), (LFS, "git lfs pull"), (HTML, "HTML page")])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_stand_ins_in_a_folder_of_ours_are_told(name, content, named, saved):
    (saved / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: is .*{named}"):
        from_pretrained(saved)
