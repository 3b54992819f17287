"""The command that checks a model: its table, its objects, its status."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vlora.cli import model_checks
from vlora.cli.main import main
from vlora.cli.model_checks import make_recipe, write_lines
from vlora.cli.screen import Screen
from vlora.doctor.checks import Outcome
from vlora.doctor.model.checks import Begun
from vlora.errors import RecipeError

PLACE = "language_model.model.layers.0.self_attn.q_proj.lora_b"
GOOD = Outcome(name="opens", is_ok=True, found="llava, 169,792 parameters", seconds=0.31)
BAD = Outcome(name="rows", is_ok=False, found=f"logits {PLACE} change by 0.5; report it", seconds=61.2)
LEFT = [
    Outcome(name=name, is_ok=True, found="not checked; see rows", seconds=0.0, is_left_out=True)
    for name in ("padding", "packing")
]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """Let a model have these outcomes; a test may take some out."""
    outcomes = [GOOD, BAD, *LEFT]

    def check(*_: object) -> Iterator[Begun | Outcome]:
        for number, outcome in enumerate(outcomes, start=1):
            yield Begun(name=outcome.name, number=number, n_checks=len(outcomes))
            yield outcome

    monkeypatch.setattr("vlora.doctor.model.checks.check_model", check)
    return outcomes


@pytest.mark.usefixtures("found")
def test_a_table_says_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines break between words within 79 columns; checks that were not asked are one line; the status is 1."""
    assert main(["doctor", "some/model"]) == 1

    printed = capsys.readouterr().out
    table = printed[printed.index("check  ") :]

    assert "1 of 15 opens: ok" in printed
    assert "2 of 15 rows: FAIL" in printed
    assert "opens        ok          0.3 s  llava, 169,792 parameters" in table
    assert "rows         FAIL         61 s  logits" in table
    assert "language_model.model.layers.0.self_attn.q_proj.\n" in table
    assert "2 others     left out    0.0 s  not checked; see rows" in table
    assert "some/model: 1 of 4 checks failed: rows" in table
    assert all(len(line) <= 79 for line in printed.splitlines())


def test_a_sound_model_ends_with_0(found: list[Outcome], capsys: pytest.CaptureFixture[str]) -> None:
    """The verdict is the last line."""
    del found[1:]

    assert main(["doctor", "some/model"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("some/model: can be trained (")


@pytest.mark.usefixtures("found")
def test_quiet_shows_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """And the verdict; nothing of what holds."""
    assert main(["doctor", "some/model", "--quiet"]) == 1

    lines = capsys.readouterr().out.splitlines()

    assert lines[0].startswith("rows         FAIL")
    assert lines[-1].startswith("some/model: 1 of 4 checks failed")
    assert not [line for line in lines if line.startswith("opens")]


@pytest.mark.usefixtures("found")
def test_programs_get_objects(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One when a check begins, one when it ends, and the verdict; the file has the outcomes and the machine."""
    file = tmp_path / "doctor.json"

    assert main(["doctor", "some/model", "--json", "--write", str(file)]) == 1

    events: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = json.loads(file.read_text())

    assert [event["event"] for event in events] == [*["Begun", "Outcome"] * 4, "Verdict"]
    assert events[3] == {
        "event": "Outcome", "name": "rows", "is_ok": False, "found": BAD.found, "seconds": 61.2, "is_left_out": False
    }  # fmt: skip
    assert events[-1]["is_trainable"] is False
    assert events[-1]["failed"] == ["rows"]
    assert written["machine"]["model"] == "some/model"
    assert [check["is_left_out"] for check in written["checks"]] == [False, False, True, True]
    assert written["is_proven"] is False


@pytest.mark.usefixtures("found")
def test_a_terminal_shows_how_far_it_is() -> None:
    """A bar with the check that runs; no lines but those of the table stay."""
    file = io.StringIO()
    screen = Screen(file=file, force_terminal=True, width=80, color_system=None, legacy_windows=False)

    assert model_checks.show_model_checks("some/model", None, [], None, screen) == 1

    assert "checks packing" in file.getvalue()
    assert "1 of 15" not in file.getvalue()


def test_keys_say_how_the_model_is_trained(tmp_path: Path) -> None:
    """Those that count are taken, with a hub id's version; others are refused, as is a recipe."""
    recipe = make_recipe("a/model", "abc", ["model.quantize_bits=4", "lora.rank = 16"], tmp_path)

    assert (recipe.model.path, recipe.model.revision, recipe.model.quantize_bits) == ("a/model", "abc", 4)
    assert recipe.lora.rank == 16
    for wrong in ("train.iters=3", "lora.dropout=0.1", "model.path=b", "data.path=b"):
        with pytest.raises(RecipeError, match=f"found {wrong.partition('=')[0]}, which does not count"):
            make_recipe("a/model", None, [wrong], tmp_path)
    with pytest.raises(RecipeError, match="expected section"):
        make_recipe("a/model", None, ["lora.rank"], tmp_path)
    with pytest.raises(RecipeError, match=r"lora\.rnak"):
        make_recipe("a/model", None, ["lora.rnak=3"], tmp_path)
    (tmp_path / "my.toml").write_text("")
    with pytest.raises(RecipeError, match="which is a recipe; give the folder or the hub id of its model"):
        make_recipe(str(tmp_path / "my.toml"), None, [], tmp_path)


def test_options_of_a_model_need_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The machine's checks have no use for them."""
    assert main(["doctor", "--revision", "main"]) == 2
    assert "--revision: belongs to the checks of a model; name one" in capsys.readouterr().err
    assert main(["doctor", "--set", "lora.rank=3"]) == 2


def test_a_narrow_screen_still_has_room_for_words() -> None:
    """The last column has 20 characters at least."""
    lines = list(write_lines(GOOD, 30))

    assert lines[0].endswith("llava, 169,792")
    assert lines[1].strip() == "parameters"
