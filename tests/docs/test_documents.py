"""What README and the other documents say: their Python runs, their commands parse, their links lead somewhere."""

import contextlib
import functools
import importlib
import io
import re

import jax
import numpy as np
import pytest
import tyro
from flax import linen as nn
from safetensors.numpy import save_file

import resjax
from resjax.models import registry
from tests.conftest import ROOT
from tests.helpers.documents import Command, anchors, blocks, commands, links, markdown_files

DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in markdown_files()}
CARDS = [name for name in DOCUMENTS if re.fullmatch(r"resjax/weights/[^/]+/README\.md", name)]
WITH_PYTHON = [name for name, text in DOCUMENTS.items() if blocks(text, "python") and name not in CARDS]
_WEIGHTS = re.compile(r'"((?:wide_)?resnet\d+(?:_\d)?|densenet\d+)\.safetensors"')


def test_there_are_documents_with_python_and_cards():
    assert "README.md" in WITH_PYTHON
    assert {name.split("/")[2] for name in CARDS} == set(resjax.list_pretrained())


def torch_weights(file):
    """Random weights of one of torchvision's networks under torchvision's names, as `torch.save` would order them."""
    model = resjax.create_model(re.sub(r"(?<=net)(?=\d)", "_", file.stem))
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, model.minimum_size, model.minimum_size, 3)))
    dialect = model.torch_names[0]
    rng, arrays = np.random.default_rng(0), {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(resjax.models.restack(shapes, ())):
        *_, last = names = tuple(key.key for key in path)
        order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim, (0,))
        drawn = rng.uniform(0.5, 1.5, leaf.shape) if last in ("scale", "var") else 0.05 * rng.normal(size=leaf.shape)
        arrays[dialect.name(names)] = np.ascontiguousarray(drawn.transpose(order), np.float32)
    save_file(arrays, file)


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_blocks_run_in_order(name, tmp_path, monkeypatch):
    """In one namespace, as a reader types them, beside the files that a reader has downloaded."""
    monkeypatch.chdir(tmp_path)
    program = blocks(DOCUMENTS[name], "python")
    for stem in set(_WEIGHTS.findall("".join(program))):
        torch_weights(tmp_path / f"{stem}.safetensors")
    namespace, families = {"__name__": "__main__"}, set(registry._FAMILIES)
    for number, block in enumerate(program, 1):
        exec(compile(block, f"{name}, Python block {number}", "exec"), namespace)
    for names in set(registry._FAMILIES) - families:  # what a document registers is its own
        registry.unregister_model(names)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_computes_logits_of_images(name, tmp_path, monkeypatch):
    """In one program: operation by operation, each of those of a hundred layers would be compiled by itself."""
    monkeypatch.chdir(tmp_path)
    apply = nn.Module.apply
    monkeypatch.setattr(nn.Module, "apply", lambda model, *arrays: jax.jit(functools.partial(apply, model))(*arrays))
    (program,) = blocks(DOCUMENTS[name], "python")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    namespace = {"__name__": "__main__", "images": images}
    exec(compile(program, name, "exec"), namespace)
    assert namespace["logits"].shape == (2, len(namespace["about"]["class_names"]))
    assert np.isfinite(namespace["logits"]).all()


class Parsed(BaseException):
    """Raised where a command has read its flags; no `except Exception` of a command takes it."""


@pytest.fixture
def outcome_of(monkeypatch):
    """outcome_of(command) -> "" where its name, its config and its flags exist, else what it prints. Runs nothing."""
    cli = tyro.cli

    def parse_and_stop(*args, **kwargs):
        cli(*args, **kwargs)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse_and_stop)

    def outcome(command: Command) -> str:
        module = importlib.import_module(f"experiments.{command.name}")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                return f"exit code {module.main(list(command.arguments))}: {printed.getvalue()}"
            except Parsed:
                return ""
            except SystemExit as stop:
                return printed.getvalue() if stop.code else ""

    return outcome


@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if any(commands(text))])
def test_commands_parse(name, outcome_of):
    wrong = {str(command): said for command in commands(DOCUMENTS[name]) if (said := outcome_of(command))}
    assert not wrong, "\n".join(f"{command}\n{said}" for command, said in wrong.items())


@pytest.mark.parametrize(
    "line, said",
    [
        ("cifar --config resnet_21", "resnet_20"),
        ("cifar --config resnet_20 --epocs 3", "epocs"),
        ("imagenet evaluate RUN --modes ten_crops", "modes"),
        ("analyse lesions RUN", "lesion"),
        ("evaluate", "missing"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line, said, outcome_of):
    (command,) = commands(f"```bash\npython -m experiments.{line}   # a comment\n```")
    assert said in outcome_of(command)


def test_commands_are_read_from_every_way_of_writing_them():
    text = (
        "`python -m experiments.cifar --seed 1` and `python -m experiments.NAME`\n```bash\n"
        "gcloud ssh --command 'cd x && python -m experiments.cifar --workdir A'\n"
        'for i in 0 1; do ssh host$i "python -m experiments.imagenet \\\n  --process_id $i" & done; wait\n```\n'
        "python -m experiments.report runs --name 'a b' > file\n"
    )
    assert [str(command).removeprefix("python -m experiments.") for command in commands(text)] == [
        "cifar --seed 1",
        "cifar --workdir A",
        "imagenet --process_id 0",
        "report runs --name a b",
    ]


@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if any(links(text))])
def test_links_lead_to_files_and_headings(name):
    broken = []
    for file, anchor in links(DOCUMENTS[name]):
        target = (ROOT / name).parent / file if file else ROOT / name
        if not target.exists():
            broken.append(f"{file}: no such file")
        elif anchor and anchor not in anchors(target.read_text()):
            broken.append(f"{file}#{anchor}: no such heading")
    assert broken == []
