"""A network in a directory: what is damaged or foreign is not read, and what could not be read is not written."""

import hashlib
import resource

import jax
import numpy as np
import pytest
from pretrained_networks import MODEL, TWO

from resjax import InputError, from_pretrained, save_pretrained
from resjax.models import ResNet


def test_all_that_is_wrong_with_the_arrays_is_told_at_once(edit):
    def change(arrays):
        del arrays["params/stem/norm/scale"]
        arrays["params/extra"] = np.zeros(1, np.float32)
        arrays["params/stem/norm/bias"] = np.zeros((4, 1), np.float32)
        arrays["batch_stats/stem/norm/mean"] = np.zeros(4, np.int32)

    with pytest.raises(InputError, match="model.safetensors: not the variables of this ResNet") as error:
        from_pretrained(edit(arrays=change))
    for part in (
        "params/stem/norm/scale is missing",
        "params/extra is not in the network",
        "params/stem/norm/bias has shape (4, 1), the network (4,)",
        "batch_stats/stem/norm/mean has dtype int32, no floating point",
    ):
        assert part in str(error.value)


def _set(*path, to):
    def change(config):
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = to

    return change


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format_version", to=2), "format_version 1, got 2; upgrade resjax"),
        (_set("format_version", to=None), "got None; give a directory that resjax.save_pretrained wrote"),
        (_set("network", to="ResNets"), "unknown network 'ResNets'; did you mean 'ResNet'"),
        (_set("network", to="Network"), "unknown network 'Network'"),
        (_set("network", to="os.system"), "unknown network 'os.system'"),
        (_set("network", to=3), "network is missing or no str"),
        (_set("fields", to=None), "fields is missing or no dict"),
        (_set("weights_sha256", to=None), "weights_sha256 is missing"),
        (_set("fields", "stage_size", to=[1]), "ResNet takes no 'stage_size'; did you mean 'stage_sizes'"),
        (_set("fields", "parent", to=None), "ResNet takes no 'parent'"),
        (_set("fields", "stage_sizes", to=[1, 0]), r"stage_sizes: expected positive integers, got \(1, 0\)"),
        (_set("fields", "dtype", to="int32"), "dtype: expected a floating-point dtype"),
        (_set("fields", "kernel_init", to="evil"), "kernel_init 'evil'"),
        (_set("fields", "stochastic_depth", "class", to="Popen"), "unknown class 'Popen'"),
        (_set("fields", "stochastic_depth", "class", to="Gating"), "Gating takes no 'survival_probability'"),
        (_set("fields", "stochastic_depth", "rate", to=1), "StochasticDepth takes no 'rate'"),
        (_set("fields", "stochastic_depth", "survival_probability", to=0), r"expected a number in \(0, 1\], got 0"),
    ],
)
def test_a_wrong_config_is_named_with_what_is_wrong(change, message, edit):
    with pytest.raises(InputError, match=f"config.json: .*{message}"):
        from_pretrained(edit(change))


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", '"text"', "[" * 100_000, "\x00"])
def test_a_file_that_is_no_config_is_no_crash(content, saved):
    (saved / "config.json").write_text(content)
    with pytest.raises(InputError, match="config.json: "):
        from_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(name, saved):
    (saved / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file; give a directory that resjax.save_pretrained wrote"):
        from_pretrained(saved)


def test_truncated_or_altered_weights_are_not_read(saved):
    """A flipped bit as well, which the format itself does not show."""
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for damaged in (b"", whole[:5], whole[:-1], whole + b"\0", flipped):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="model.safetensors: not the file .*damaged"):
            from_pretrained(saved)
    file.write_bytes(whole)
    from_pretrained(saved)


@pytest.mark.parametrize("content", [b"", b"no weights", b"\xff" * 64])
def test_weights_that_are_no_safetensors_are_not_read(content, saved, edit):
    (saved / "model.safetensors").write_bytes(content)
    edit(_set("weights_sha256", to=hashlib.sha256(content).hexdigest()))
    with pytest.raises(InputError, match="model.safetensors: not readable as safetensors"):
        from_pretrained(saved)


def test_two_saves_never_mix(tmp_path, saved, draw_variables):
    """New weights beside the old config, as between the two renames, though their shapes agree."""
    other = MODEL.clone(norm_epsilon=0.1)
    save_pretrained(tmp_path / "new", other, draw_variables(other, np.zeros((1, 4, 4, 3), np.float32), seed=1))
    (tmp_path / "new" / "model.safetensors").rename(saved / "model.safetensors")
    with pytest.raises(InputError, match="model.safetensors: not the file .*interrupted"):
        from_pretrained(saved)


def test_a_save_that_finds_the_disk_full_leaves_what_was_there(saved, variables):
    expected = {file.name: file.read_bytes() for file in saved.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # bytes in a file
    try:
        with pytest.raises(OSError):
            save_pretrained(saved, MODEL, jax.tree.map(np.zeros_like, variables))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == expected


class _Other(ResNet):
    pass


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (_Other(**TWO, num_classes=3), lambda v: v, "expected one of resjax.models .*got _Other"),
        (MODEL, lambda v: 3, "variables: expected what init or apply returns, a mapping, got int"),
        (MODEL, lambda v: v["params"], "variables: not the variables of this ResNet: .* is missing"),
        (MODEL, lambda v: {"params": v["params"]}, "batch_stats/stage_1/block_1/norm_1/mean is missing; .*and 6 more"),
        (MODEL, lambda v: v | {"cache": {"x": np.ones(1)}}, "variables: .*cache/x is not in the network"),
        (MODEL.clone(num_classes=4), lambda v: v, r"head/linear/bias has shape \(3,\), the network \(4,\)"),
        (MODEL.clone(norm_epsilon=np.float32(1e-5)), lambda v: v, "norm_epsilon: expected plain numbers"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(model, change, message, tmp_path, variables):
    with pytest.raises(InputError, match=message):
        save_pretrained(tmp_path / "new", model, change(variables))
    assert not (tmp_path / "new").exists()


def test_a_file_is_not_overwritten_by_a_directory(tmp_path, variables):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: a file is there; give a directory"):
        save_pretrained(tmp_path / "file", MODEL, variables)
    with pytest.raises(InputError, match="config.json: no such file"):
        from_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
