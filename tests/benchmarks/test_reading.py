"""The count of what has to be read."""

from pathlib import Path

import pytest

from benchmarks.reading import BEFORE, ROOT, measure_way, read_list

PACKAGE = {
    "__init__.py": "",
    "__main__.py": "from vlora.cli import main\n\nmain()\n",
    "cli.py": """
from vlora import unused
from vlora.loop import TrainLoop


def fit():
    loss_fn(0)
    yield from TrainLoop().take()


def loss_fn(number):
    return number


def main():
    unused.early()
    for _ in fit():
        pass
""",
    "loop.py": """
class TrainLoop:
    def take(self):
        from vlora import losses

        yield losses.loss_fn(1)
""",
    "losses.py": "def loss_fn(number):\n    return number\n",
    "unused.py": "def early():\n    return 1\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write a package whose loss is two files away from `fit`."""
    (tmp_path / "vlora").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "vlora" / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_the_way_to_the_loss(root: Path) -> None:
    """Modules count whose functions run between `fit` and the loss of a training step, not those that are imported."""
    assert measure_way(root) == {"cli.py": 3, "loop.py": 2}


def test_a_run_that_ends_early(root: Path) -> None:
    """A run that never comes to the loss is an error that says why."""
    (root / "vlora" / "loop.py").write_text("raise ValueError('no loop')", encoding="utf-8")

    with pytest.raises(RuntimeError, match=r"the run ended before the loss was called: .*ValueError: no loop"):
        measure_way(root)


def test_the_list(root: Path) -> None:
    """The list is that of the package's README; a package without one has the files of before."""
    assert len(read_list(ROOT)) > 10
    for name in BEFORE:
        (root / "vlora" / name).write_text("a\nb\n", encoding="utf-8")

    assert read_list(root) == dict.fromkeys(BEFORE, 2)
