"""The page of a run reads well in a browser, says what there is to say, and shows what rows hold as text."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.report.browser import LONGEST_WAIT_MS, find_faults, measure_charts
from tests.report.run.test_answers import DATA, Rows, write_answers
from tests.report.run.test_run_files import START, write_run
from tests.report.test_page import HOSTILE
from vlora.facts import SourceUse
from vlora.recipe.parse import dump_recipe, parse_recipe
from vlora.report.run.answers import RowPictures, read_answers
from vlora.report.run.run_files import RunRecord, read_run
from vlora.report.run.run_page import RunFacts, format_seconds, list_scores, list_sources, make_page, split_recipe

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NOW = datetime(2026, 11, 29, 12, 30, tzinfo=UTC)
FACTS = RunFacts(status="training", n_steps=400)


def make_run(folder: Path, n_steps: int = 300, **keys: Any) -> RunRecord:
    """Make a run with reports, validations, and answers with intervals."""
    lines: list[dict[str, Any]] = [START]
    for step in range(0, n_steps + 1, 10):
        if step % 50 == 0:
            value = step / (n_steps + 1)
            lines.append({"step": step, "valid_loss": 3 / (1 + step / 20) + step / 1000})
            lines.append(
                {"step": step, "eval_anls": value, "eval_anls_low": value - 0.1, "eval_anls_high": value + 0.1}
            )
        report = {"step": step, "loss": 3 / (1 + step / 10), "running_loss": 3 / (1 + step / 20), "grad_norm": 2.0}
        lines.append({**report, "learning_rate": 1e-4, "tokens_per_s": 900.0, "peak_memory_gb": 2.5, "seconds": step})
    write_run(folder, *lines)
    recipe = parse_recipe("", {"data.path": "rows.jsonl", "train.iters": 400, **keys})
    (folder / "recipe.toml").write_text(dump_recipe(recipe))
    return read_run(folder)


def write_page(folder: Path, **changes: Any) -> Path:
    """Write the page of such a run, eight rows with pictures and answers on it."""
    run = make_run(folder / "run")
    answers = read_answers(write_answers(folder / "answers", 8, (0, 100, 200, 300)))
    pictures = RowPictures(Rows(8), DATA)
    page = make_page(run, attrs.evolve(FACTS, **changes), [pictures.add(row) for row in answers], NOW)
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def test_in_a_browser(browser: "Browser", tmp_path: Path) -> None:
    """Wide and narrow, light and dark: pictures load, nothing is asked of a network, all can be read and reached."""
    path = write_page(
        tmp_path,
        facts=(("model", "a/model"),),
        versions={"vlora": "0.1.0"},
        notes=("a warning",),
        go_on="python -m vlora a.toml --resume",
        ask="python -m mlx_vlm.generate " + "--long option " * 40,
    )

    assert find_faults(browser, path, pictures=8) == []
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("width", [1280, 1000, 400])
def test_charts_take_the_width_of_the_page(width: int, browser: "Browser", tmp_path: Path) -> None:
    """No part of the screen is left empty beside them."""
    assert 0.95 < measure_charts(browser, write_page(tmp_path), width) <= 1


def test_hostile_rows_are_text(browser: "Browser", tmp_path: Path) -> None:
    """In answers, questions, recipes and notes; the page stays small and reads well."""
    keys: dict[str, Any] = {"data.system": HOSTILE[0], "output.path": HOSTILE[1]}
    run = make_run(tmp_path / "run", **keys)
    [row] = read_answers(write_answers(tmp_path / "answers", 1, (0,)))
    hostile = [
        attrs.evolve(
            row,
            row=text[:100] or "-",
            question=text,
            expected=text,
            answers=(attrs.evolve(row.answers[0], text=text, scores={text[:50]: 0.5}),),
        )
        for text in HOSTILE
    ]
    facts = attrs.evolve(FACTS, facts=((HOSTILE[0], HOSTILE[2]),), notes=HOSTILE, go_on=HOSTILE[0], versions={})
    path = tmp_path / "report.html"
    path.write_text(make_page(run, facts, hostile, NOW), encoding="utf-8")

    assert find_faults(browser, path) == []
    shown = browser.new_page()
    shown.goto(path.as_uri(), timeout=LONGEST_WAIT_MS)
    assert shown.title() == "/".join((tmp_path / "run").parts[-2:])
    assert not shown.query_selector_all("script, [onerror], main b")
    assert shown.inner_text("pre") == HOSTILE[0]
    shown.close()


def test_before_the_first_report(browser: "Browser", tmp_path: Path) -> None:
    """A page is there all the same, without charts."""
    path = tmp_path / "report.html"
    path.write_text(make_page(RunRecord(folder=tmp_path), FACTS, [], NOW), encoding="utf-8")

    assert find_faults(browser, path, pictures=0) == []
    assert "No step has been reported yet" in path.read_text()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("training", "Training. Written 2026-11-29 12:30:00"),
        ("over", "Training is over."),
        ("stopped", "Stopped before its end."),
        ("failed", "Ended by an error."),
    ],
)
def test_how_far_a_run_is(status: str, said: str, tmp_path: Path) -> None:
    """The first sentence says it."""
    assert said in make_page(make_run(tmp_path), attrs.evolve(FACTS, status=status), [], NOW)


def test_what_differs_from_the_defaults_comes_first(tmp_path: Path) -> None:
    """With the default beside it; keys that are not known differ, too."""
    run = make_run(tmp_path, **{"lora.rank": 4})

    changed, others = split_recipe({**run.recipe, "new.key": 1})

    assert changed == [
        ("data.path", '"rows.jsonl"', ""),
        ("lora.rank", "4", "8"),
        ("train.iters", "400", "1000"),
        ("new.key", "1", ""),
    ]
    assert ("lora.alpha", "16.0") in others
    assert len(changed) + len(others) == len(run.recipe) + 1


def test_scores_have_their_first_best_and_last_value(tmp_path: Path) -> None:
    """And the interval of the last one."""
    validation, anls = list_scores(make_run(tmp_path))

    assert (validation.name, validation.first) == ("validation loss", "3.0000 at step 0")
    assert validation.best.endswith("at step 250")
    assert (anls.name, anls.best, anls.last) == ("ANLS", "0.9967 at step 300", "0.9967 (0.8967 to 1.0967) at step 300")


def test_what_was_learned_of_each_source(tmp_path: Path) -> None:
    """By the last report, in the order of the recipe; a run of one source has no such table."""
    of_one = {"epochs/a.jsonl train": 1.5, "rows/a.jsonl train": 30, "tokens/a.jsonl train": 900}
    lines = [{"step": step, "loss": 1.0, **of_one, "rows/b train": 5 * step} for step in (1, 2)]
    run = read_run(write_run(tmp_path / "mixed", *lines))

    assert list(list_sources(run)) == [
        SourceUse(name="a.jsonl train", n_rows=30, epochs=1.5, n_tokens=900),
        SourceUse(name="b train", n_rows=10, epochs=None, n_tokens=0),
    ]
    assert "Sources of rows" in make_page(run, FACTS, [], NOW)
    assert "Sources of rows" not in make_page(make_run(tmp_path / "one"), FACTS, [], NOW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (59.94, "59.9 s"), (200, "3 min 20 s"), (3725, "1 h 02 min"), (1e7, "2,777 h 46 min")],
)
def test_times(seconds: float, text: str) -> None:
    """As people read them."""
    assert format_seconds(seconds) == text
