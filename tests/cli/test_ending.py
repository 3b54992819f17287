"""The last lines of a run."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from tests import run_events
from vlora import Recipe
from vlora.cli.ending import show_end
from vlora.cli.screen import Mode, Screen
from vlora.cuts import CutCounts
from vlora.events import Best, FeatureCounts, Finished
from vlora.facts import DeviceUse
from vlora.recipe.schema import DataSection

FINISHED = attrs.evolve(
    run_events.FINISHED,
    step=10,
    n_steps=10,
    model="base model",
    adapter=Path("out/adapters.safetensors"),
    metrics=Path("out/metrics.jsonl"),
    example_image=Path("a b.png"),
    example_question="What is it?",
    trace_s=2.0,
)


def shown(event: Finished, mode: Mode = "all", **data: Any) -> str:
    """Give what is printed."""
    console = Screen(mode=mode, record=True, width=300)
    with console.result():
        show_end(event, Recipe(data=DataSection(path="x", **data)), console, "python -m vlora r.toml --resume")
    return console.export_text()


def test_a_finished_run_says_how_its_model_is_asked() -> None:
    """The command can be pasted; where the metrics are stands above it."""
    lines = shown(FINISHED).splitlines()

    assert lines[0] == "1 shape of batches was traced, in 2.0 s"
    assert lines[1] == "metrics: out/metrics.jsonl"
    assert lines[-1].startswith("  python -m mlx_vlm.generate --model 'base model' --adapter-path out/adapters.saf")
    assert "--image 'a b.png' --prompt 'What is it?' --max-tokens 8 --temperature 0" in lines[-1]
    assert "--image" not in shown(attrs.evolve(FINISHED, example_image=None))
    assert "--adapter-path" not in shown(attrs.evolve(FINISHED, adapter=None))


@pytest.mark.parametrize("is_there", [True, False])
def test_where_the_report_is(is_there: bool, tmp_path: Path) -> None:
    """Below the metrics, where there is one."""
    event = attrs.evolve(FINISHED, metrics=tmp_path / "metrics.jsonl")
    if is_there:
        (tmp_path / "report.html").write_text("")

    assert (f"report: {tmp_path / 'report.html'}" in shown(event).splitlines()) == is_there


@pytest.mark.parametrize("adapter", [FINISHED.adapter, None])
def test_the_best_state_is_asked_too(adapter: Path | None) -> None:
    """Before the last one, by its own command, even where the run has stopped early; once where it is the last one."""
    best = Best(judged_by="valid_loss", step=4, value=0.25, path=Path("out/best"))
    event = attrs.evolve(FINISHED, step=6, stopped_early=True, adapter=adapter, best=best)
    lines = shown(event).splitlines()

    assert lines[2] == "best: valid loss 0.2500 after step 4, kept in out/best"
    assert lines[3] == "ask the best one:"
    assert ("--model out/best" in lines[4]) == (adapter is None)
    assert ("--adapter-path out/best" in lines[4]) == (adapter is not None)
    assert "out/best" not in lines[6]
    again = shown(attrs.evolve(event, best=attrs.evolve(best, step=6)))
    assert "best: valid loss 0.2500 after step 6, the last one, kept in out/best\nask it:" in again
    worse = shown(attrs.evolve(event, best=attrs.evolve(best, path=None, untrained=0.2)))
    assert "; output.keep_best would have kept it; the untrained model has 0.2000, which is no worse\n" in worse


def test_a_stopped_run_says_how_it_goes_on() -> None:
    """And not how a model is asked that is not done."""
    said = shown(attrs.evolve(FINISHED, step=4))

    assert said.endswith("stopped after step 4 of 10; this goes on:\n  python -m vlora r.toml --resume\n")
    assert "mlx_vlm.generate" not in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_skipped": 3}, "rows skipped, in all epochs together: 3"),
        ({"n_passed": 2}, "steps passed over, since none of their rows can be learned from: 2 of 10\n"),
        ({"cuts": CutCounts(n_rows=2, n_lost=5)}, "rows cut by data.max_seq_length, in all epochs together: 2; "),
        (
            {"devices": (DeviceUse(n_rows=1480, n_computed=480), DeviceUse(n_rows=5))},
            "device 0: rows learned: 1,480, features of images computed: 480\ndevice 1: rows learned: 5\n",
        ),
        ({"unasked": "answers nothing"}, "the trained model answers nothing"),
        ({"difference": "its mask"}, "differs from the one that was trained: its mask"),
        ({"config_differs_upstream": True}, "read another rotary embedding from the config.json of base model"),
        (
            {"features": FeatureCounts(n_memory=5, n_disk=2, n_computed=3)},
            "features of 10 images: 5 from memory, 2 from disk, 3 computed",
        ),
    ],
)
def test_what_there_is_to_know(changes: dict[str, Any], words: str) -> None:
    """Each has its line, and no line where there is nothing to say."""
    assert words in shown(attrs.evolve(FINISHED, **changes))
    assert words[:20] not in shown(FINISHED)


def test_a_template_of_the_recipes_own_is_not_known_to_others() -> None:
    """mlx-vlm's programs would ask otherwise."""
    assert "know nothing of data.chat_template" in shown(FINISHED, chat_template="plain")


@pytest.mark.parametrize(("mode", "where"), [("all", "their reasons stand above"), ("quiet", "`inspect` says why")])
def test_where_reasons_are(mode: Mode, where: str) -> None:
    """Nothing stands above the last lines where they are the only ones."""
    assert f"rows skipped, in all epochs together: 3; {where}\n" in shown(attrs.evolve(FINISHED, n_skipped=3), mode)


def test_what_was_left_off_behind_the_last_step() -> None:
    """The command that does it is printed, and none that asks the model as if the run were over."""
    printed = shown(attrs.evolve(FINISHED, left_off=("answers after training",)))

    assert printed.endswith(
        "stopped after step 10 of 10, without answers after training; this goes on:\n"
        "  python -m vlora r.toml --resume\n"
    )
