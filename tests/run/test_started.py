"""What a run says of itself before its first step."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import make_recipe
from vlora import fit
from vlora.events import Started
from vlora.output.paths import STATE_NAME, output_paths
from vlora.recipe.parse import parse_recipe
from vlora.run.started import describe_added, describe_earlier

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize("is_full", [False, True])
def test_where_an_earlier_run_is(is_full: bool, tmp_path: Path) -> None:
    """And how it goes on from there, if it can."""
    keys = {"output.path": str(tmp_path / "out"), "model.full_finetune": is_full}
    paths = output_paths(parse_recipe('[data]\npath = "-"', keys))
    earlier = tmp_path / "out" / "earlier-1"
    assert describe_earlier(paths, earlier).endswith(f"has left in {tmp_path / 'out'} is in {earlier} now")

    (earlier / STATE_NAME).parent.mkdir(parents=True)
    (earlier / STATE_NAME).write_text("")
    output = earlier if is_full else earlier / "adapters.safetensors"
    assert describe_earlier(paths, earlier).endswith(f"--resume --set output.path={output}")


@pytest.mark.parametrize(("tokens", "named"), [(("<a>",), "'<a>'"), (("<a>", "<b>"), "'<a>' to '<b>' (2 tokens)")])
def test_tokens_that_a_model_got(tokens: tuple[str, ...], named: str) -> None:
    """One by its name, several by the first, the last and their number."""
    assert describe_added(tokens).startswith(f"added to the model, from the mean of its tokens: {named};")


def test_held_out_rows_are_there_to_be_looked_at(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """As many as there are, each read by its place; none without validation."""
    for share, count in ((0.5, 4), (0.0, 0)):
        recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / str(count), data__valid_fraction=share)
        run = fit(recipe)
        started = next(event for event in run if isinstance(event, Started))
        run.close()

        assert (started.n_valid_rows, len(started.held_out)) == (count, count)
        assert [started.held_out[index].source.startswith("rows") for index in range(count)] == [True] * count
