"""Every recipe of small images takes its first 20 steps, see `tests.helpers.first_steps`."""

import pytest

from experiments.configs.programs import CIFAR
from tests.helpers.first_steps import check_first_steps, distinct, made_folders

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    return made_folders(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize(("program", "dataset", "names"), distinct(CIFAR))
def test_first_steps(program, dataset, names, folder_of, tmp_path, monkeypatch, capsys):
    check_first_steps(program, dataset, names[0], folder_of(dataset), tmp_path / "run", monkeypatch, capsys)
