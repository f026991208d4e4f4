"""The package as a whole: what it imports, in which direction, and how light it is."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Imports point one way; data stands alone.
MAY_IMPORT = {
    "errors": set(),
    "layers": {"errors"},
    "models": {"errors", "layers"},
    "interop": {"errors", "layers", "models"},
    "train": {"errors", "layers", "models"},
    "analysis": {"errors", "layers", "models", "train"},
    "data": {"errors"},
}


def _imported(path) -> set[str]:
    """The rooms of resjax that a file imports."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        assert not any(name.partition(".")[0] == "experiments" for name in names), f"{path}: imports experiments"
        rooms |= {name.split(".")[1] for name in names if name.startswith("resjax.")}
    return rooms


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_one_way(room):
    files = list((ROOT / "resjax" / room).rglob("*.py")) or [ROOT / "resjax" / f"{room}.py"]
    for path in files:
        assert _imported(path) <= MAY_IMPORT[room] | {room}, path
        # The shipped weights lie beside the experiments.
        assert "experiments" not in path.read_text() or path.name == "shipped.py", path


@pytest.mark.quick
def test_import_is_light_and_offers_the_public_contract():
    program = (
        "import sys, resjax;"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'orbax', 'matplotlib', 'tyro', 'rich', 'torch', 'PIL'};"
        "print(sorted(heavy & sys.modules.keys()),"
        " all(hasattr(resjax, n) for n in ('Gates', 'create_model', 'list_models', 'model_info')))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy, complete = done.stdout.rsplit(" ", 1)
    # flax itself imports orbax and rich.
    assert set(ast.literal_eval(heavy)) <= {"orbax", "rich"} and complete.strip() == "True"


def test_rooms_that_do_not_import_each_other_agree_on_the_ignored_label():
    from resjax import train
    from resjax.data import augment_masks

    assert train.IGNORED == augment_masks.IGNORED == 255
