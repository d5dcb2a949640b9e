"""Fixtures for all tests: real images where they are at hand, caches kept apart, skips that must not be."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
from filelock import FileLock

# The tests' models are small: more threads only wait for each other, for minutes where something else needs the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# On a GPU float32 is to be float32: by default convolutions round their products to TF32's 10 bits.
os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "float32"
# The same small nets are compiled again and again: once for each process of pytest and those that its tests start.
# Each has a folder of its own, as JAX does not lock it.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="kcifar-tests-compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import kcifar  # noqa: F401  (chooses the backend before any test imports keras)

ROOT = Path(__file__).parents[1]
# The folder with all images of CIFAR-10 and the program `unpack`, beside the checkout.
IMAGES = Path(os.environ.get("KCIFAR_TEST_IMAGES", ROOT.parent / "shared" / "cifar10"))
NO_IMAGES = f"needs the images of CIFAR-10: no 'unpack' in {IMAGES}"
# The files that take longest: half a minute or more. Begun first, none is left to one process while others have ended.
LONG = [
    "tests/parity/test_backends.py",
    "tests/test_train_together.py",
    "tests/test_train.py",
    "tests/models/test_pretrained_networks.py",
    "tests/backend/test_accelerate_applications.py",
    "tests/experiment/test_part.py",
    "tests/callbacks/test_unfreeze.py",
    "tests/models/test_small_networks.py",
    "tests/evaluation/test_onnx.py",
    "tests/test_notebooks.py",
    "tests/test_throughput.py",
    "tests/test_fuzz.py",
]
NO_GPU = "needs a GPU"
NO_CHROMIUM = "needs Chromium and its driver (Debian's packages chromium and chromium-driver)"
NO_POSTGRESQL = "needs PostgreSQL and its driver (Debian's package postgresql, Python's psycopg[binary])"
NO_KERAS_CV = "needs KerasCV, which is not installed here: make test-cv"


def postgresql_programs():
    """The folder of PostgreSQL's programs; None where they or Python's driver are not installed."""
    if not importlib.util.find_spec("psycopg"):
        return None
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in folders[::-1] if (folder / "pg_ctl").exists()), None)


def pytest_collection_modifyitems(items):
    place = {ROOT / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def cifar10_folder(pytestconfig):
    """A folder that holds `cifar-10-batches-py` with all 60,000 images of CIFAR-10; unpacked once a checkout."""
    if not (IMAGES / "unpack").exists():
        pytest.skip(NO_IMAGES)
    folder = Path(pytestconfig.cache.mkdir("cifar10-published"))
    with FileLock(folder / "lock"):  # several processes may run tests
        subprocess.run([sys.executable, IMAGES / "unpack", folder], check=True)
    return folder


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache, or sees the user's KCIFAR_DATA."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "caches" / uuid.uuid4().hex))
    monkeypatch.delenv("KCIFAR_DATA", raising=False)


@pytest.fixture(scope="module")
def quick_compilation():
    """For tests of small nets on JAX, whose time is XLA's compiling: it optimises little. On torch, nothing."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of processes that the tests start
        if os.environ["KERAS_BACKEND"] != "jax":
            yield
            return
        import jax

        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def blank_pictures():
    """For tests of runs whose pictures nobody looks at. Those of tests/runs/ are."""
    from tests.blank_pictures import blanked

    with blanked():
        yield


def pytest_unconfigure():
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in skipped]
    terminalreporter.write_line(f"{len(reasons)} skipped on backend {os.environ['KERAS_BACKEND']}")


def pytest_sessionfinish(session):
    """In CI a test that is skipped although it could have run fails the whole run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    wrong = [report.nodeid for report in skipped if not _may_skip(report.longrepr[2])]
    if wrong and os.environ.get("CI"):
        reporter.write_line(f"\nskipped although they could have run: {wrong}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _may_skip(reason):
    return (
        NO_GPU in reason
        or (NO_IMAGES in reason and not (IMAGES / "unpack").exists())
        or (NO_CHROMIUM in reason and not (shutil.which("chromium") and shutil.which("chromedriver")))
        or (NO_POSTGRESQL in reason and postgresql_programs() is None)
        or (NO_KERAS_CV in reason and not importlib.util.find_spec("keras_cv"))
    )
