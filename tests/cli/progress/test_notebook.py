"""The live bar of a notebook, in a kernel of its own."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.cli.progress.test_state import STEP, Clock
from vlora.cli.progress.notebook import NotebookBar, is_notebook, write_html
from vlora.cli.progress.state import ProgressState
from vlora.events import Working

ROOT = Path(__file__).parents[3]

CODE = """
import vlora

recipe = vlora.parse_recipe("", {{
    "model.path": "builtin:tiny-qwen3-vl", "data.path": "builtin:digits", "data.split": "train[:40]",
    "train.iters": 3, "train.batch_size": 2, "train.steps_per_report": 1, "output.path": {out!r},
    "data.valid_fraction": 0.1, "features.disk_gb": 0.0,
}})
last = vlora.watch(vlora.fit(recipe))
print(type(last).__name__, last.step, last.n_steps)
"""


def test_what_is_no_notebook() -> None:
    """A program, and one that uses IPython for something else."""
    assert not is_notebook()


def test_what_it_shows() -> None:
    """A progress element with its numbers, and words that are no markup."""
    state = ProgressState()
    state.take(Working(what="reading <rows>"))
    assert "<progress aria-label" in write_html(state)
    assert "<code>reading &lt;rows&gt;</code>" in write_html(state)
    state.take(attrs.evolve(STEP, step=25))
    assert 'max="100" value="25"' in write_html(state)
    assert "training 25/100, 1:15:00 left, loss 1.0000" in write_html(state)


def test_it_is_updated_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at every event, but at the end."""
    clock, shown = Clock(), []

    class Handle:
        """What IPython gives."""

        def update(self, data: Any, *, raw: bool) -> None:
            """Show again."""
            shown.append((data, raw))

    bar = NotebookBar(ProgressState(), clock)
    monkeypatch.setattr("vlora.cli.progress.notebook.importlib.import_module", lambda _: Displaying)

    class Displaying:
        """IPython's module."""

        @staticmethod
        def display(data: Any, **_: Any) -> Handle:
            """Show."""
            shown.append((data, True))
            return Handle()

    for _ in range(10):
        bar.update()
    clock.now = 1.0
    bar.update()
    bar.update(is_over=True)
    assert len(shown) == 3


@pytest.mark.slow
def test_a_run_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A display with a bar that ends full, lines below it, and the run's last event."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    cell = nbformat.v4.new_code_cell(CODE.format(out=str(tmp_path / "out")))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs

    (bar,) = [output for output in outputs if output.output_type == "display_data"]
    assert "<progress" in bar.data["text/html"]
    assert 'max="3" value="3"' in bar.data["text/html"]
    assert bar.data["text/plain"].endswith("━ done 3/3")
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "step 3/3  loss" in text
    assert text.splitlines()[-1] == "Finished 3 3"
    assert "\x1b" not in text
    assert not [output for output in outputs if output.output_type == "error"]
