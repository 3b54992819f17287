"""A recipe over pairs of answers from several sources goes through every command that takes a recipe or a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.run.test_preferences import make_recipe, pairs
from tests.training import picture
from vlora.cli.main import main
from vlora.recipe.parse import dump_recipe
from vlora.recipe.sources import SourceSection

__all__ = ["pairs"]

CheckpointFactory = Callable[[str], Path]


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Write pairs of another layout."""
    picture(32, 32, 7).save(tmp_path / "talk.png")
    turns = [{"role": "user", "content": "<image>Name it."}, {"role": "assistant", "content": "a talk"}]
    row = {"messages": turns, "rejected_response": "nothing", "images": ["talk.png"]}
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps(row | {"n": n}) + "\n" for n in range(4)), encoding="utf-8")
    return file


@pytest.mark.slow
@pytest.mark.parametrize("is_streamed", [False, True])
def test_preferences_of_several_sources(
    is_streamed: bool,
    checkpoint: CheckpointFactory,
    pairs: Path,
    talks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`inspect` names the sources, `plan` and `eval` take them, and `compare` shows their shares beside the margins."""
    model, recipes = checkpoint("qwen3_vl"), []
    for name, weight in (("a", 3.0), ("b", 1.0)):
        sources = (SourceSection(path=str(pairs), weight=weight), SourceSection(path=str(talks), weight=1.0))
        recipe = make_recipe(model, pairs, tmp_path / name, eval__max_new_tokens=2, train__iters=4)
        held_out: dict[str, Any] = {"valid_fraction": 0.25}
        if is_streamed:
            held_out = {"streaming": True, "split": "train[1:]", "valid_split": "train[:1]"}
        data = attrs.evolve(recipe.data, path=None, valid_path=None, sources=sources)
        data = attrs.evolve(data, **held_out)
        recipes.append(tmp_path / f"{name}.toml")
        recipes[-1].write_text(dump_recipe(attrs.evolve(recipe, data=data)), encoding="utf-8")
        assert main([str(recipes[-1]), "--quiet"]) == 0

    def say(*arguments: str) -> str:
        capsys.readouterr()
        assert main([*arguments]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert f"{talks.name}" in say("inspect", str(recipes[0]), "--all")
    assert "fits into" in say("plan", str(recipes[0]), "--memory-gb", "4")
    assert "rows: 2 of" in say("eval", str(recipes[0]), "--rows", "2")
    compared = say("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert "best validation margin" in compared
    assert f"rows of {pairs.name}" in compared
    assert f"rows of {talks.name}" in compared
