"""Which command a saved run is of, and what is said of a folder that holds none."""

import dataclasses
import json

import pytest

from experiments.configs.named import for_images
from experiments.configs.programs import CIFAR, IMAGENET, PROGRAMS, SEGMENTATION, SavedRun, program_of_fields
from experiments.inputs.photographs import scales_for
from experiments.training.workdir import Workdir, is_run, read_saved_run
from resjax import InputError


def _write(path, content):
    path.mkdir(parents=True)
    (path / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_run_says_its_command_and_is_read_as_it_was(tmp_path, program):
    for name, named in PROGRAMS[program].items():
        config = named.config
        written = json.loads(json.dumps(config.resolved(name)))
        saved = SavedRun.from_json(written, "config.json")
        assert (saved.program, saved.name, saved.config) == (program, name, config)
        # Those of earlier versions do not say it.
        del written["program"]
        assert SavedRun.from_json(written, "config.json") == saved


def test_the_command_of_an_older_file_follows_from_its_fields(tmp_path):
    """Also where it lacks fields of this version, or has some that this version no longer has."""
    for program, configs in PROGRAMS.items():
        fields = next(iter(configs.values())).config.identity()
        assert program_of_fields({k: v for k, v in fields.items() if not k.startswith("optimizer.")}) == program
        assert program_of_fields({**fields, "of_old": 1}) == program
    with pytest.raises(ValueError, match="do not say which command"):
        program_of_fields({"epochs": 3})
    fields = {"model.name": "resnet_20", "normalization": "gcn", "extra": False, "of_old": 1}
    old = _write(tmp_path / "old", {"config": fields})
    assert read_saved_run(old, CIFAR).fields["of_old"] == 1
    with pytest.raises(InputError, match=r"old/config.json: Config: has no field 'of_old'; another version wrote it"):
        read_saved_run(old, CIFAR).config  # noqa: B018


def test_a_config_without_a_network_is_refused():
    with pytest.raises(InputError, match="^Config: .* missing .*'model'"):
        type(PROGRAMS[CIFAR]["resnet_20"].config).from_identity({"epochs": 3})


def test_options_that_are_gone_do_not_keep_a_run_from_being_read(tmp_path):
    resolved = PROGRAMS[CIFAR]["resnet_20"].config.resolved("resnet_20")
    resolved["run_options"] |= {"data_dir": "there", "of_old": True}
    assert read_saved_run(_write(tmp_path / "run", resolved)).config.data_dir == "there"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "run: no workdir of a run, holds no config.json$"),
        ("{", "run/config.json: cannot be read"),
        ("[]", "run/config.json: expected a JSON object, got list"),
        ("{}", "run/config.json: not the config of a run (no config of a run in it); restore it"),
        ('{"config": 3}', "not the config of a run"),
        ('{"config": {}, "data": [1]}', "its data are no JSON object"),
        ('{"config": {}, "program": "rm"}', "of the command 'rm', which this version does not have"),
        ('{"config": {}, "program": ["x"]}', "which this version does not have"),
    ],
)
def test_what_is_no_run_is_said(tmp_path, content, message):
    if content is None:
        (tmp_path / "run").mkdir()
    else:
        _write(tmp_path / "run", content)
    with pytest.raises(InputError) as error:
        read_saved_run(tmp_path / "run", CIFAR)
    assert message.rstrip("$") in str(error.value)
    assert not message.endswith("$") or str(error.value).endswith(message[-20:-1])


def test_a_folder_of_runs_says_which_it_holds(tmp_path):
    for name in ("seed_0", "seed_1"):
        _write(tmp_path / "run" / name, "{}")
    with pytest.raises(InputError, match="holds no config.json; runs are in its folders seed_0, seed_1: give one"):
        read_saved_run(tmp_path / "run")
    with pytest.raises(InputError, match="no such folder"):
        read_saved_run(tmp_path / "nowhere")
    (tmp_path / "cut" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="a damaged run, its config.json is missing"):
        read_saved_run(tmp_path / "cut")
    assert is_run(tmp_path / "cut") and not is_run(tmp_path / "run")


def test_a_run_of_another_command_is_told_who_takes_it(tmp_path):
    for program, takers in ((IMAGENET, "evaluate"), (SEGMENTATION, "segmentation predict"), (CIFAR, "analyse all")):
        folder = tmp_path / takers.split()[0]
        Workdir(folder).start(PROGRAMS[program]["quickstart"].config.resolved("quickstart"))
        assert read_saved_run(folder, program).program == read_saved_run(folder).program == program and is_run(folder)
        others = [each for each in PROGRAMS if each != program]
        with pytest.raises(InputError) as error:
            read_saved_run(folder, *others)
        assert f"a run of `{program}`; expected one of `{others[0]}` or `{others[1]}`" in str(error.value)
        assert f"{takers} {folder}`" in str(error.value)


@pytest.mark.quick
def test_a_first_run_follows_the_number_of_photographs():
    quickstart = PROGRAMS[IMAGENET]["quickstart"]
    assert quickstart.for_images(5000) is quickstart  # enough updates as it is
    for images in (20, 220, 700):
        config = quickstart.for_images(images).config
        updates = images // config.batch_size * config.epochs
        assert config.batch_size in quickstart.batch_sizes and (updates >= 300 or config.epochs == 60)
        assert config.optimizer.learning_rate == pytest.approx(0.1 * config.batch_size / 64)
    named, config = for_images(quickstart, quickstart.config, {"epochs"}, 220)
    assert (named.config.epochs, config.epochs, config.batch_size) == (24, 12, 16)
    other = PROGRAMS[CIFAR]["resnet_20"]
    assert for_images(other, other.config, (), 20) == (other, other.config)  # a paper's recipe follows nothing


@pytest.mark.quick
def test_evaluation_follows_the_size_of_training_images():
    recipe = PROGRAMS[IMAGENET]["quickstart"].config
    larger = dataclasses.replace(recipe, image_size=96)
    config, note = larger.following(recipe, {"image_size"})
    assert (config.eval_resize, config.eval_size, config.eval_scales[:2]) == (96, 96, (96, 111))
    assert "--eval_size 96" in note
    kept, note = larger.following(recipe, {"image_size", "eval_size", "eval_resize", "eval_scales"})
    assert (kept, note) == (larger, "")
    assert recipe.following(recipe, set()) == (recipe, "")
    assert scales_for(32, (224, 256, 384, 480, 640)) == (32, 37, 55, 69, 91) and scales_for(32, (40,)) == (40,)
