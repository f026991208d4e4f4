"""The package as a whole: what it imports, in which direction, and how light it is."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest

import resjax
from tests.conftest import ROOT

# Imports point one way; data stands alone.
MAY_IMPORT = {
    "errors": set(),
    "layers": {"errors"},
    "models": {"errors", "layers"},
    "interop": {"errors", "layers", "models", "data"},
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
        assert "experiments" not in path.read_text(), path


# Each takes long to import, and neither a network nor a help text needs it.
HEAVY = {
    *("tensorflow", "tensorflow_datasets", "orbax", "tensorstore", "grain", "array_record", "matplotlib", "pandas"),
    *("tensorboardX", "wandb", "mlflow", "huggingface_hub", "onnx", "onnxruntime", "scipy", "sklearn", "torch"),
    *("PIL", "cv2", "simplejpeg"),
}


@pytest.mark.quick
def test_import_and_help_are_light_and_offer_the_public_contract():
    program = f"""
import contextlib, sys
from experiments import cifar, imagenet, segmentation
for command in cifar, imagenet, segmentation:
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
        command.main(["--help"])
    command.main(["--config", "quikstart"])
loaded = lambda: {{name.partition(".")[0] for name in sys.modules}}
by_help = loaded() & {HEAVY | {"jax", "flax", "optax"}}
import flax.linen, optax
known = loaded()  # some versions of flax import orbax
import resjax
resjax.create_model("resnet_20")
light = not {{"resjax.interop", "resjax.train"}} & sys.modules.keys()
offers = all(hasattr(resjax, name) for name in ("Gates", "create_model", "from_pretrained", "model_info"))
print([sorted(by_help), sorted((loaded() - known) & {HEAVY}), light, offers])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == [[], [], True, True]
    assert done.stderr.count("Most used flags") == done.stderr.count("did you mean 'quickstart'?") == 3


def test_rooms_that_do_not_import_each_other_agree_on_the_ignored_label():
    from resjax import train
    from resjax.data.augment import masks as augment_masks

    assert train.IGNORED == augment_masks.IGNORED == 255


def test_the_version_is_one_and_pyproject_reads_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "resjax.__version__"}
    # setuptools takes a plain string without importing the package, whose requirements it has not installed yet.
    assigned = [
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "resjax" / "__init__.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert assigned == [resjax.__version__] and re.fullmatch(r"\d+\.\d+\.\d+", resjax.__version__)


# Of experiments: configs and runtime are the ground, commands stand above all and nobody imports them.
EXPERIMENTS_MAY_IMPORT = {
    "configs": set(),
    "runtime": {"configs"},
    "inputs": {"configs", "runtime"},
    "training": {"configs", "runtime", "inputs"},
    "launch": {"configs", "runtime", "inputs", "training"},
    "evaluation": {"configs", "runtime", "inputs", "training"},
    "reports": {"configs", "runtime", "inputs", "training", "evaluation"},
    "studies": {"configs", "runtime", "inputs", "training", "evaluation"},
    "programs": {"configs", "runtime", "inputs", "training", "launch", "evaluation", "reports"},
    "benchmarks": {"configs", "runtime", "inputs", "training"},
}
COMMANDS = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__"}


def _names(path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_folder_of_experiments_has_its_rule():
    folders = {path.parent.name for path in (ROOT / "experiments").glob("*/__init__.py")}
    assert folders == set(EXPERIMENTS_MAY_IMPORT)


@pytest.mark.parametrize("folder", EXPERIMENTS_MAY_IMPORT)
def test_imports_of_experiments_point_one_way(folder):
    for path in (ROOT / "experiments" / folder).rglob("*.py"):
        imported = {name.split(".")[1] for name in _names(path) if name.startswith("experiments.")}
        assert imported <= EXPERIMENTS_MAY_IMPORT[folder] | {folder}, path


def test_nobody_imports_a_command():
    assert {"cifar", "imagenet", "segmentation", "evaluate", "analyse", "report", "benchmark"} <= COMMANDS
    for path in (ROOT / "experiments").rglob("*.py"):
        assert not {f"experiments.{command}" for command in COMMANDS} & _names(path), path


def test_modules_of_experiments_import_in_no_circle():
    """Among modules, not folders: of two that need each other neither could be read, or loaded, first."""
    files = {}
    for path in (ROOT / "experiments").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        files[name] = _names(path)
    arrows = {name: (imported & files.keys()) - {name} for name, imported in files.items()}
    finished = set()
    while ready := {name for name in arrows.keys() - finished if arrows[name] <= finished}:
        finished |= ready
    assert finished == arrows.keys(), sorted(arrows.keys() - finished)


def test_reports_load_neither_the_engine_nor_the_studies_nor_matplotlib():
    program = (
        "import pkgutil, importlib, sys, experiments.reports as reports;"
        "[importlib.import_module(f'experiments.reports.{m.name}') for m in pkgutil.iter_modules(reports.__path__)];"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] == 'matplotlib'"
        " or name.startswith(('experiments.training.engine', 'experiments.studies', 'experiments.launch'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []
