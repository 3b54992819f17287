"""A recipe over preferences goes through every command that takes a recipe or a run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.run.test_preferences import make_recipe, pairs
from vlora.cli.main import main
from vlora.recipe.parse import dump_recipe

__all__ = ["pairs"]

CheckpointFactory = Callable[[str], Path]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_every_command_takes_it(
    objective: str, checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`inspect` shows both answers, `plan` their memory, `eval` the answers, `compare` and the report the margins."""
    model, recipes, pages = checkpoint("qwen3_vl"), [], []
    for name, beta in (("a", 0.1), ("b", 0.5)):
        keys = {"train__objective": objective, "preference__beta": beta, "output__report": True, "train__iters": 3}
        recipe = make_recipe(model, pairs, tmp_path / name, eval__max_new_tokens=2, **keys)
        recipes.append(tmp_path / f"{name}.toml")
        recipes[-1].write_text(dump_recipe(recipe), encoding="utf-8")
        assert main([str(recipes[-1]), "--quiet"]) == 0
        pages.append((tmp_path / name / "report.html").read_text(encoding="utf-8"))
    typed, page = str(recipes[0]), tmp_path / "rows.html"

    assert main(["inspect", typed, "--rows", "2"]) == 0
    shown = capsys.readouterr().out
    assert "a red square" in shown
    assert "the worse answer:" in shown
    assert main(["inspect", typed, "--html", str(page)]) == 0
    assert "a red square" in page.read_text(encoding="utf-8")
    assert main(["plan", typed, "--memory-gb", "4"]) == 0
    assert "fits into" in capsys.readouterr().out
    assert main(["eval", typed, "--rows", "3"]) == 0
    assert "rows: 3 of" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    compared = capsys.readouterr().out
    assert "preference.beta" in compared
    assert "best validation margin" in compared
    assert all("Margin of rewards" in text and "validation margin" in text for text in pages)
