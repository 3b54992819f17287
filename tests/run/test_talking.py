"""What a run has trained, opened to be asked."""

from collections.abc import Callable
from pathlib import Path

from tests.runs import make_recipe, run
from vlora.models import AnswerOptions
from vlora.run.talking import open_talk

Checkpoint = Callable[[str], Path]


def test_adapters_and_models(checkpoint: Checkpoint, rows: Path, tmp_path: Path) -> None:
    """An adapter is asked with the run's system prompt, and its base without anything."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", train__iters=1, data__system="Be brief.")
    run(recipe)
    options = AnswerOptions(max_new_tokens=4)
    asked = open_talk(str(tmp_path / "out"), options)
    assert (asked.talk.system, asked.note) == ("Be brief.", None)
    assert "".join(asked.talk.ask("Say hi")) is not None
    assert asked.talk.n_tokens
    assert open_talk(str(tmp_path / "out"), options, system="").talk.system is None
    base = open_talk(str(checkpoint("qwen3_vl")), options)
    assert base.talk.system is None
    assert not list(tmp_path.glob("unwritten*"))
