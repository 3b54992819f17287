"""A project from its rows to the comparison of two runs, by the commands that a user types and nothing else."""

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from vlora.cli.main import main

N_ROWS = 200
COLOURS = {"red": (200, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 200), "yellow": (225, 200, 50)}
NOISE = 25

TUNED = """extends = "my.toml"

[model]
full_finetune = true
train_vision = true

[data]
valid_fraction = 0.2

[optim]
learning_rate = 0.002
warmup_steps = 2

[train]
batch_size = 16
epochs = 3
steps_per_eval = 15
steps_per_save = 30
steps_per_report = 10

[eval]
answer_rows = 8

[output]
path = "runs/first"
"""
"""What the user changes of the recipe that was written: the built-in model is random, and has to learn to see."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Draw plain colours, of which every third is answered in a sentence; commands are typed in their folder."""
    rng, rows = random.Random(3), []
    for number in range(N_ROWS):
        colour = rng.choice(list(COLOURS))
        paint = tuple(min(255, max(0, value + rng.randint(-NOISE, NOISE))) for value in COLOURS[colour])
        Image.new("RGB", (32, 32), paint).save(tmp_path / f"{number}.png")
        answer = colour if rng.random() < 2 / 3 else f"It is {colour}."
        rows.append({"image": f"{number}.png", "question": "Which colour?", "answer": answer})
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def type_in(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Type a command, which ends well; give what it prints."""
    assert main(command.split()) == 0
    return capsys.readouterr().out


def read_score(file: Path) -> float:
    """Give the mean of a file of answers."""
    found = [json.loads(line)["scores"]["exact_match"] for line in file.read_text().splitlines()]
    return sum(found) / len(found)


@pytest.mark.slow
def test_a_project_by_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are looked at, learned, and asked; the worst answers show what to mend; then answers are better."""
    assert "written to my.toml" in type_in("init colours.jsonl my.toml --model builtin:tiny-qwen3-vl", capsys)
    (here / "tuned.toml").write_text(TUNED)
    type_in("inspect tuned.toml --html rows.html --rows 0-9", capsys)
    type_in("tuned.toml", capsys)
    said = type_in("eval tuned.toml", capsys)
    worst = type_in("inspect tuned.toml --worst runs/first/predictions-eval.jsonl --rows 8 --html worst.html", capsys)
    first = here / "runs/first"
    first_score = read_score(first / "predictions-eval.jsonl")

    assert "worst by exact_match" in said
    assert "worst.html" in worst

    # What the user sees there: the model answers in a word, and the rows are not all written so.
    answers = [json.loads(line) for line in (first / "predictions-eval.jsonl").read_text().splitlines()]
    data = (here / "colours.jsonl").read_text()
    for answer in answers:
        if answer["scores"]["exact_match"] == 0 and answer["answer"] in answer["expected"]:
            data = data.replace(json.dumps(answer["expected"]), json.dumps(answer["answer"]))
    (here / "colours.jsonl").write_text(data)

    type_in("tuned.toml --set output.path=runs/second", capsys)
    type_in("eval tuned.toml --set output.path=runs/second", capsys)
    compared = type_in("compare runs/first runs/second --html compared.html", capsys)
    second = here / "runs/second"
    second_score = read_score(second / "predictions-eval.jsonl")

    assert first_score < 0.8
    assert second_score > first_score + 0.2
    assert f"{second_score:.3f}" in compared
    for file in ("rows.html", "worst.html", "compared.html"):
        assert (here / file).read_text().startswith("<!DOCTYPE html>")
    for folder in (first, second):
        files = {file.name for file in folder.iterdir()}
        assert {"metrics.jsonl", "predictions.jsonl", "report.html", "loss.png", "recipe.toml", "best"} <= files
        assert {"model.safetensors", "predictions-eval.jsonl"} <= files
