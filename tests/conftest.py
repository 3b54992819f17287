"""What all tests share: no network, caches in a temporary folder, tiny checkpoints built once per session."""

import os
import tempfile

# Read when the libraries are imported; what the tests start inherits them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="vlora-tests-")
os.environ["HF_DATASETS_CACHE"] = os.environ["HF_HOME"] + "/datasets"
# Where features of images are kept.
os.environ["XDG_CACHE_HOME"] = os.environ["HF_HOME"] + "/cache"
# Compiled once, and not for each session anew.
os.environ["VLORA_KERNELS"] = os.path.join(tempfile.gettempdir(), f"vlora-tests-kernels-{os.getuid()}")  # noqa: PTH118
# The processes that tests start find the package compiled, and need not compile it each for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# On CUDA: products in full float32, or no number could be compared.
os.environ["MLX_ENABLE_TF32"] = "0"
# Threads of OpenBLAS sleep between products. They spin otherwise, and take a third of what two processes of tests have.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

import vlora  # noqa: F401 - before anything imports mlx: it binds a fast BLAS

# isort: split

import atexit
import contextlib
import functools
import gc
import json
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import hypothesis
import mlx.core as mx
import pytest

from tests.checkpoints import build_checkpoint
from tests.report.browser import open_browser
from tests.training import picture
from vlora import Recipe, models
from vlora.compilation import kernel_list, known_kernels
from vlora.recipe.schema import DataSection, ModelSection

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SLOW_IS_FINE = (hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture)

hypothesis.settings.register_profile("dev", deadline=None, max_examples=30, suppress_health_check=SLOW_IS_FINE)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=30, suppress_health_check=SLOW_IS_FINE, derandomize=True, database=None
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000, suppress_health_check=SLOW_IS_FINE)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
datasets.disable_progress_bars()

KNOWN_KERNELS = Path(__file__).with_name("known_kernels.tsv")
"""What MLX compiles for the tests besides what runs need. `python -m benchmarks.kernels --for tests FOLDER` makes it,
where FOLDER has the kernels of a whole run of the tests."""
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
MANY_TESTS = 300
COMPUTE_LITTLE = ("data/", "models/encode/", "recipe/")
"""Folders whose tests need hardly any of these kernels. They come first, while workers compile for the others."""
COMPILATIONS: list[known_kernels.Compilation] = []
"""Those that are waited for before the first test that needs them."""


def computes_little(item: pytest.Item) -> bool:
    """Whether a test lies in one of those folders."""
    return item.path.relative_to(KNOWN_KERNELS.parent).as_posix().startswith(COMPUTE_LITTLE)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that need no kernels come first, otherwise in their order."""
    items.sort(key=lambda item: not computes_little(item))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile what all workers of pytest-xdist need before they start: each of them would compile it for itself."""
    if IS_WORKER or not session.config.getoption("numprocesses", default=None):
        return
    before = os.environ.get("TMPDIR")
    for model in (known_kernels.BUILT_IN, ""):
        begin(model).wait()
    # MLX's folder of kernels is not to be the workers' for all that is temporary; they tell MLX of it themselves.
    os.environ.pop("TMPDIR", None)
    if before is not None:
        os.environ["TMPDIR"] = before


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Search for no garbage while modules are imported and tests are collected: all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compile side by side what MLX would compile one after another: a second each on a CPU, and five on a GPU."""
    # What was imported and collected stays: it is not to be searched for garbage again and again.
    gc.collect()
    gc.freeze()
    if IS_WORKER:
        known_kernels.keep()
        return
    compilation = begin(known_kernels.BUILT_IN)
    if len(session.items) > MANY_TESTS or mx.default_device() == mx.Device(mx.gpu):
        COMPILATIONS.append(compilation)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Wait for the workers, where they can be of use."""
    if COMPILATIONS and not computes_little(item):
        COMPILATIONS.pop().wait()
        # What models of other types need besides.
        begin("").wait()


def begin(model: str) -> known_kernels.Compilation:
    """Have workers compile what is not there."""
    return known_kernels.begin(model, (kernel_list.KNOWN_KERNELS, KNOWN_KERNELS))


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Wait for no disk: no test loses power. Processes that tests start do wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a family's tiny checkpoint; read it, do not write into it."""

    @functools.cache
    def build(family: str) -> Path:
        return build_checkpoint(family, tmp_path_factory.mktemp("checkpoint") / family)

    return build


@pytest.fixture(scope="session")
def encoder(checkpoint: Callable[[str], Path]) -> Callable[..., models.Encoder]:
    """Make a family's encoder: `encoder("llava", max_seq_length=64)`; the keywords are the recipe's `[data]`."""

    @functools.cache
    def load(family: str) -> tuple[models.ModelFiles, Any]:
        section = ModelSection(path=str(checkpoint(family)))
        files = models.find_model(section)
        return files, models.load_processor(files, section)

    def make(family: str, **data: Any) -> models.Encoder:
        files, processor = load(family)
        return models.make_encoder(processor, files.config, files.family, DataSection(path="rows", **data))

    return make


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Start a Chromium that opens pages; `tests.report.browser` looks for their faults."""
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(open_browser())
        except (ImportError, FileNotFoundError) as error:
            pytest.skip(f"no browser opens pages here: {error}")
        yield opened


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Collect the recipes that would be trained, instead of training them."""
    found: list[Recipe] = []

    def train(recipe: Recipe, *_: Any, **__: Any) -> int:
        found.append(recipe)
        return 0

    monkeypatch.setattr("vlora.cli.train.train", train)
    monkeypatch.setattr("vlora.lora.train", train)
    return found


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write four rows: with an image, with a larger one, without one, and of several turns."""
    picture(48, 32, 0).save(tmp_path / "a.png")
    picture(64, 48, 1).save(tmp_path / "b.png")
    turns = ["Well?", "Yes.", "And now?", "No [really]."]
    roles = ["user", "assistant"] * 2
    lines = [
        {"image": "a.png", "question": "What is it?", "answer": "A red square."},
        {"image": "b.png", "question": "And this?", "answer": "[bold]markup[/bold]"},
        {"question": "Are there two?", "answer": "There are."},
        {"messages": [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
