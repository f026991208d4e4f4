"""Eight CPU devices for every test, so that one device and eight can be compared in one process."""

import functools
import gc
import os
import pathlib
import signal

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from jax._src import compiler

jax.config.update("jax_num_cpu_devices", 8)
# Programs without the Python lines that each operation came from, which nobody reads here: a fifth of lowering.
jax.config.update("jax_traceback_in_locations_limit", 0)

# A shell that starts a program in the background has it ignore Ctrl-C, and so would every process of a test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing makes many objects that live long. Python's own 700 lets a sixth of its time go to looking for garbage.
gc.set_threshold(100_000)

# The same few examples in every run. Each compiles a program: to look for a smaller one that fails would take minutes.
settings.register_profile(
    "few",
    max_examples=10,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("few")

ROOT = pathlib.Path(__file__).parent.parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests run in one process: what its fixtures train and its functions compile is made once."""
    from xdist.scheduler import LoadFileScheduling

    # By the number of tests, the longest files, which have few, would start last, and the other workers wait for them.
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes a user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Tests that compile the same program share it, also between the processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    jax.config.update("jax_compilation_cache_dir", str(shared / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


# Options of XLA for programs that run once or twice. Workers use all cores already.
LIGHT = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}
# On a CPU the fusion emitters, which are built on MLIR, take two thirds of the time of compiling a training step. XLA
# can do without them up to here; jaxlib 0.12 ends a process whose XLA_FLAGS say so.
if jax.__version_info__ < (0, 11):
    LIGHT["xla_cpu_use_fusion_emitters"] = False
# A step takes four times as long to compile, and is eight times as fast.
MANY_STEPS = LIGHT | {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": False}


@pytest.fixture(scope="module", autouse=True)
def compiled_lightly(request):
    """XLA without most of its optimisations, in an eighth of the time, also in processes that a test starts.

    Modules marked `fully_compiled` compile as users do, and those marked `many_steps` for programs that run often.
    """
    if request.node.get_closest_marker("fully_compiled"):
        yield
        return
    light = MANY_STEPS if request.node.get_closest_marker("many_steps") else LIGHT
    options_of = compiler.get_compile_options

    def light_options(*arguments, env_options_overrides=None, **options):
        return options_of(*arguments, env_options_overrides=light | (env_options_overrides or {}), **options)

    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in light.items())
    with pytest.MonkeyPatch.context() as patch:
        # XLA reads XLA_FLAGS once in a process; JAX takes options of a single program only.
        patch.setattr(compiler, "get_compile_options", light_options)
        patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip())
        yield


@pytest.fixture(scope="session")
def real_data_dir() -> pathlib.Path:
    """A TFDS data directory with the real CIFAR-10."""
    path = os.environ.get("RESJAX_TEST_DATA")
    if not path:
        pytest.skip("RESJAX_TEST_DATA is not set: give it a TFDS data directory with the real CIFAR-10")
    return pathlib.Path(path)


@pytest.fixture(scope="session")
def float64():
    """float64() -> a context in which jax computes in float64."""
    # jax 0.8 moved the context manager out of jax.experimental.
    enable_x64 = getattr(jax, "enable_x64", None)
    if enable_x64 is None:
        from jax.experimental import enable_x64
    return functools.partial(enable_x64, True)


@pytest.fixture
def in_float64(float64):
    """A test in which jax computes in float64."""
    with float64():
        yield


@pytest.fixture(scope="session")
def draw_variables():
    """draw_variables(module, *args) -> variables, all random: a scale of 1 would hide that nobody reads it."""

    def draw(module, *args, seed=0, dtype=np.float32, **kwargs):
        rng = np.random.default_rng(seed)

        def leaf(path, shape):
            name, size = path[-1].key, shape.shape
            if name == "kernel":
                return dtype(rng.normal(size=size) * np.sqrt(2 / np.prod(size[:-1])))
            low, high = (0.5, 1.5) if name in ("scale", "var") else (-0.5, 0.5)
            return dtype(rng.uniform(low, high, size))

        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))
        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return draw


def pytest_sessionfinish(session, exitstatus):
    """Under RESJAX_SKIPS_ALLOWED=FOLDER:FOLDER, a test skipped elsewhere fails the run."""
    allowed = os.environ.get("RESJAX_SKIPS_ALLOWED")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if allowed and reporter:
        skipped = [
            report.nodeid
            for report in reporter.stats.get("skipped", [])
            if not report.nodeid.startswith(tuple(allowed.split(":")))
        ]
        if skipped:
            reporter.write_line(
                f"skipped, which RESJAX_SKIPS_ALLOWED={allowed} forbids: {', '.join(skipped)}", red=True
            )
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
