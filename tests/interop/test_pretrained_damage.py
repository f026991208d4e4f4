"""A network in a directory: what is damaged or foreign is not read, and what could not be read is not written."""

import copy
import hashlib
import json
import pathlib
import resource

import jax
import numpy as np
import pytest

from resjax import InputError, from_pretrained, pretrained_info, save_pretrained
from resjax.interop import pretrained
from resjax.models import ResNet
from tests.helpers.pretrained_networks import MODEL, TWO


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
    for damaged in (whole[:5], whole[:-1], whole + b"\0", flipped):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="model.safetensors: not the file .*damaged"):
            from_pretrained(saved)
    file.write_bytes(whole)
    from_pretrained(saved)


@pytest.mark.parametrize("content", [b"no weights", b"\xff" * 64])
def test_weights_that_are_no_safetensors_are_not_read(content, saved, edit):
    (saved / "model.safetensors").write_bytes(content)
    edit(_set("weights_sha256", to=hashlib.sha256(content).hexdigest()))
    with pytest.raises(InputError, match="model.safetensors: not a readable safetensors file"):
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
        with pytest.raises(InputError, match="saved: cannot be written: File too large; what was there is kept"):
            save_pretrained(saved, MODEL, jax.tree.map(np.zeros_like, variables))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == expected


def test_a_config_that_was_changed_is_not_read(saved):
    """Fields that no shape shows, and what is said of the input, too."""
    file = saved / "config.json"
    whole = json.loads(file.read_text())
    for change in (_set("fields", "norm_epsilon", to=0.1), _set("about", to={"mean": [0.0]})):
        content = copy.deepcopy(whole)
        change(content)
        file.write_text(json.dumps(content))
        for read in (from_pretrained, pretrained_info):
            with pytest.raises(InputError, match="config.json: not as it was saved: damaged or edited"):
                read(saved)
    file.write_text(json.dumps(whole, indent=8, sort_keys=True))  # laid out anew it says the same
    from_pretrained(saved)


def test_folders_of_before_the_configs_digest_are_read(edit):
    folder = edit()
    assert "config_sha256" not in json.loads((folder / "config.json").read_text())
    assert from_pretrained(folder)[0] == MODEL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("fields", "norm_epsilon", to=2**63), "norm_epsilon: 9223372036854775808 is more than"),
        (_set("fields", "stage_sizes", to=[1, 10**9]), "stage_sizes: 1000000000 is more than the 37 arrays"),
        (_set("fields", "norm_epsilon", to=float("nan")), "not readable as JSON .NaN is no JSON"),
        (_set("fields", "norm_epsilon", to=float("inf")), "not readable as JSON .Infinity is no JSON"),
        (_set("fields", "norm_epsilon", to="small"), "norm_epsilon|no network can be built"),
        (_set("fields", "widths", to=None), "config.json: .* edited by hand"),
    ],
)
def test_fields_that_no_network_has_are_told(change, message, edit):
    with pytest.raises(InputError, match=message):
        from_pretrained(edit(change))


def test_a_name_below_another_is_told(edit):
    def change(arrays):
        arrays["params/stem/conv/kernel/below"] = np.zeros(1, np.float32)
        arrays["params"] = np.zeros(1, np.float32)

    with pytest.raises(InputError, match="params/stem/conv/kernel/below is not in the network; params is not in"):
        from_pretrained(edit(arrays=change))


@pytest.mark.parametrize(("value", "named"), [(np.nan, "1 NaN of 4 numbers"), (np.inf, "1 infinite of 4 numbers")])
def test_numbers_that_are_not_finite_are_neither_read_nor_written(value, named, edit, variables, tmp_path):
    def change(arrays):
        arrays["params/stem/norm/bias"][2] = value

    with pytest.raises(InputError, match=f"params/stem/norm/bias has {named}"):
        from_pretrained(edit(arrays=change))
    variables["params"]["stem"]["norm"]["bias"] = np.array([0, 0, value, 0], np.float32)
    with pytest.raises(InputError, match=f"variables: .*params/stem/norm/bias has {named}"):
        save_pretrained(tmp_path / "new", MODEL, variables)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_of_something_else_is_not_overwritten(name, tmp_path, variables):
    (tmp_path / name).write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match=f"holds a {name} that resjax.save_pretrained did not write; give another"):
        save_pretrained(tmp_path, MODEL, variables)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, '{"model_type": "bert"}')]


def test_a_file_on_the_way_is_named(tmp_path, variables):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file/below/new: a file is there, .*/file; give a directory"):
        save_pretrained(tmp_path / "file" / "below" / "new", MODEL, variables)
    with pytest.raises(InputError, match="config.json: no such file"):
        from_pretrained(tmp_path / "file" / "below")


class _Other(ResNet):
    pass


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (_Other(**TWO, num_classes=3), lambda v: v, "expected a registered network .*got _Other; decorate"),
        (MODEL, lambda v: 3, "variables: expected what init or apply returns, a mapping, got int"),
        (MODEL, lambda v: v["params"], "variables: not the variables of this ResNet: .* is missing"),
        (MODEL, lambda v: {"params": v["params"]}, "batch_stats/stage_1/block_1/norm_1/mean is missing; .*and 6 more"),
        (MODEL, lambda v: v | {"cache": {"x": np.ones(1)}}, "variables: .*cache/x is not in the network"),
        (MODEL.clone(num_classes=4), lambda v: v, r"head/linear/bias has shape \(3,\), the network \(4,\)"),
        (MODEL.clone(norm_epsilon=np.float32(1e-5)), lambda v: v, "norm_epsilon: expected plain numbers"),
        (
            ResNet(stage_sizes=(1, 1), widths=(8, 4), shortcut="A"),
            lambda v: v,
            "cannot go from 8 to 4: use shortcut B or C",
        ),
    ],
)
def test_what_could_not_be_read_again_is_not_written(model, change, message, tmp_path, variables):
    with pytest.raises(InputError, match=message):
        save_pretrained(tmp_path / "new", model, change(variables))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("about", [3, {"labels": {1, 2}}, {"test_error": float("nan")}])
def test_what_json_cannot_hold_is_not_written(about, tmp_path, variables):
    with pytest.raises(InputError, match="about: expected a mapping that JSON can hold: "):
        save_pretrained(tmp_path / "new", MODEL, variables, about)
    assert not (tmp_path / "new").exists()


def test_what_the_system_refuses_is_said(saved, variables, monkeypatch):
    def refuse(path, *mode):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "open", refuse, raising=False)
        with pytest.raises(InputError, match="model.safetensors: cannot be read: Permission denied"):
            from_pretrained(saved)
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "exists", refuse)
        with pytest.raises(InputError, match="new: no directory can be written there: .*Permission denied"):
            save_pretrained(saved / "new", MODEL, variables)


def test_a_file_is_not_overwritten_by_a_directory(tmp_path, variables):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: a file is there; give a directory"):
        save_pretrained(tmp_path / "file", MODEL, variables)
    with pytest.raises(InputError, match="config.json: no such file"):
        from_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_config_or_weights_beyond_all_bounds_are_refused_before_they_are_read(edit, monkeypatch):
    folder = edit()
    with monkeypatch.context() as patched:
        patched.setattr("os.sysconf", lambda name: 1)
        with pytest.raises(InputError, match="model.safetensors: is larger than this machine's memory"):
            from_pretrained(folder)
    with (folder / "config.json").open("r+b") as file:
        file.truncate(1 << 29)
    with pytest.raises(InputError, match="config.json: has 536,870,912 bytes, more than a config"):
        from_pretrained(folder)


def test_a_full_disk_is_said_and_what_was_there_is_kept(edit, monkeypatch):
    folder = edit()
    model, variables = from_pretrained(folder)

    def full(files):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "_replace", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device; what was there is kept"):
        save_pretrained(folder, model, variables)
    monkeypatch.undo()
    from_pretrained(folder)
