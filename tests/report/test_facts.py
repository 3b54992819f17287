"""What is found out about rows: for layouts of other people's, each of which trains as it is."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vlora
from tests.commands import complaint
from tests.training import picture
from vlora.cli.main import main
from vlora.errors import RecipeError
from vlora.estimate.planner import Planner
from vlora.events import StepReport
from vlora.models.load.tiny import build_tiny_qwen3_vl
from vlora.recipe.parse import parse_recipe
from vlora.recipe.suggest import RowFacts
from vlora.report.facts import FIRST, look_at_fit, look_at_rows
from vlora.report.guessing import find_objective, find_pair

N = 12
ANSWERS = ("four wheels", "two doors", "a tree", "red", "no", "yes")


def draw(folder: Path, name: str) -> str:
    """Write a picture; give its name."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(name)).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / name)
    return name


def rows_of(folder: Path, **columns: str) -> list[dict[str, Any]]:
    """Make rows whose columns are named so: image, question and answer under the names that are given."""
    values = {"image": lambda i: draw(folder, f"{i}.png"), "question": lambda i: f"What is {i}?", "answer": _answer}
    return [{name: values[what](number) for what, name in columns.items()} for number in range(N)]


def _answer(number: int) -> str:
    return f"{ANSWERS[number % len(ANSWERS)]}, {number}"


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def _question_answer(folder: Path) -> Path:
    return write_jsonl(folder / "rows.jsonl", rows_of(folder, image="image", question="question", answer="answer"))


def _messages(folder: Path) -> Path:
    rows = rows_of(folder, image="image", question="question", answer="answer")
    turns = [
        {
            "images": [row["image"]],
            "messages": [
                {"role": "user", "content": f"<image>{row['question']}"},
                {"role": "assistant", "content": row["answer"]},
            ],
        }
        for row in rows
    ]
    return write_jsonl(folder / "chats.jsonl", turns)


def _sharegpt(folder: Path) -> Path:
    turns = [
        {
            "image": row["image"],
            "conversations": [
                {"from": "human", "value": f"<image>\n{row['question']}"},
                {"from": "gpt", "value": row["answer"]},
            ],
        }
        for row in rows_of(folder, image="image", question="question", answer="answer")
    ]
    (folder / "llava.json").write_text(json.dumps(turns))
    return folder / "llava.json"


def _csv_captions(folder: Path) -> Path:
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows([draw(folder, f"{number}.jpg"), f"a long tale of {_answer(number)}"] for number in range(N))
    return folder / "captions.csv"


def _prompt_completion(folder: Path) -> Path:
    return write_jsonl(folder / "trl.jsonl", rows_of(folder, image="image", question="prompt", answer="completion"))


def _alpaca(folder: Path) -> Path:
    return write_jsonl(folder / "alpaca.jsonl", rows_of(folder, image="image", question="instruction", answer="output"))


def _query_response(folder: Path) -> Path:
    return write_jsonl(folder / "swift.jsonl", rows_of(folder, image="image", question="query", answer="response"))


def _metadata(folder: Path) -> Path:
    rows = rows_of(folder / "photos", image="file_name", question="question", answer="answer")
    write_jsonl(folder / "photos" / "metadata.jsonl", rows)
    return folder / "photos"


def _classes(folder: Path) -> Path:
    for kind in ("cat", "dog", "bird"):
        for number in range(4):
            draw(folder / "pets", f"{kind}/{number}.png")
    return folder / "pets"


def _split_classes(folder: Path) -> Path:
    for split in ("train", "test"):
        for kind in ("oak", "elm"):
            for number in range(4):
                draw(folder / "trees", f"{split}/{kind}/{number}.png")
    return folder / "trees"


def _other_names(folder: Path) -> Path:
    return write_jsonl(folder / "own.jsonl", rows_of(folder, image="photo", question="ask", answer="reply"))


def _unnamed(folder: Path) -> Path:
    rows = [{"id": f"row_{i}", **row} for i, row in enumerate(rows_of(folder, answer="p3", image="p1", question="p2"))]
    return write_jsonl(folder / "unnamed.jsonl", rows)


def _pictures_aside(folder: Path) -> Path:
    return write_jsonl(folder / "aside.jsonl", rows_of(folder, image="snapshot", question="question", answer="answer"))


def _captions_aside(folder: Path) -> Path:
    return write_jsonl(folder / "captioned.jsonl", rows_of(folder, image="a", answer="b"))


def _train_and_valid(folder: Path) -> Path:
    rows = rows_of(folder, image="picture", question="problem", answer="solution")
    write_jsonl(folder / "val.jsonl", rows[:3])
    return write_jsonl(folder / "train.jsonl", rows[3:])


def _saved_splits(folder: Path) -> Path:
    import datasets

    rows = rows_of(folder, image="image", question="question", answer="answer")
    rows = [{**row, "image": str(folder / row["image"])} for row in rows]
    parts = {"all": datasets.Dataset.from_list(rows[:9]), "dev": datasets.Dataset.from_list(rows[9:])}
    datasets.DatasetDict(parts).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def _json_splits(folder: Path) -> Path:
    rows = rows_of(folder, image="photo", question="ask", answer="reply")
    (folder / "both.json").write_text(json.dumps({"training": rows[:8], "validation": rows[8:]}))
    return folder / "both.json"


def _parquet(folder: Path) -> Path:
    import datasets

    rows = rows_of(folder, image="image", question="question", answer="answer")
    rows = [{**row, "image": str(folder / row["image"])} for row in rows]
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "rows.parquet"))
    return folder / "rows.parquet"


def _preferences(folder: Path) -> Path:
    rows = rows_of(folder, image="image", question="prompt", answer="chosen")
    return write_jsonl(folder / "rows.jsonl", [{**row, "rejected": "a worse one"} for row in rows])


def _asked_preferences(folder: Path) -> Path:
    rows = rows_of(folder, image="image", question="ask", answer="chosen")
    return write_jsonl(folder / "rows.jsonl", [{**row, "rejected": "a worse one"} for row in rows])


def _marked(folder: Path) -> Path:
    rows = rows_of(folder, image="image", question="prompt", answer="completion")
    return write_jsonl(folder / "rows.jsonl", [{**row, "label": i % 2 == 0} for i, row in enumerate(rows)])


def _boxes(folder: Path) -> Path:
    rows = [
        {
            "images": [draw(folder, f"{number}.png")],
            "messages": [
                {"role": "user", "content": "<image>Where is the <ref-object>?"},
                {"role": "assistant", "content": "<bbox>"},
            ],
            "objects": {"ref": ["car"], "bbox": [[1, 2, 3 + number, 20]]},
        }
        for number in range(N)
    ]
    return write_jsonl(folder / "boxes.jsonl", rows)


def _objects(folder: Path) -> Path:
    rows = rows_of(folder, image="image", question="question")
    return write_jsonl(folder / "bills.jsonl", [{**row, "answer": '{"sum": "12.50"}'} for row in rows])


FREQUENT = ("question and answer", "messages", "a folder per class", "metadata.jsonl")
"""Layouts that are tried by default; the others take the same way."""
LAYOUTS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "question and answer": (_question_answer, {"columns": {}, "question": None, "n_rows": N}),
    "messages": (_messages, {"columns": {}, "question": None}),
    "conversations": (_sharegpt, {"columns": {}, "question": None}),
    "captions in a CSV": (_csv_captions, {"question": "Describe this image.", "answer": "caption", "classes": ()}),
    "prompt and completion": (_prompt_completion, {"columns": {}}),
    "Alpaca": (_alpaca, {"columns": {}}),
    "query and response": (_query_response, {"columns": {}}),
    "metadata.jsonl": (_metadata, {"columns": {}, "question": None, "split": "train"}),
    "a folder per class": (
        _classes,
        {
            "answer": "label",
            "classes": ["bird", "cat", "dog"],
            "question": "What is shown in this image? Answer with one of: bird, cat, dog.",
        },
    ),
    "folders per split and class": (_split_classes, {"valid_split": "test", "classes": ["elm", "oak"], "n_rows": 8}),
    "other names": (_other_names, {"columns": {"photo": "image", "ask": "question", "reply": "answer"}}),
    "names that say nothing": (
        _unnamed,
        {"columns": {"p1": "image", "p2": "question", "p3": "answer"}, "question": None, "unused": ("id",)},
    ),
    "captions under another name": (
        _captions_aside,
        {"columns": {"a": "image", "b": "caption"}, "question": "Describe this image.", "answer": "caption"},
    ),
    "a file to validate on": (
        _train_and_valid,
        {"columns": {"picture": "image", "problem": "question", "solution": "answer"}, "n_rows": N - 3},
    ),
    "splits of other names, saved": (_saved_splits, {"split": "all", "valid_split": "dev", "n_rows": 9}),
    "splits of other names, JSON": (
        _json_splits,
        {
            "split": "training",
            "valid_split": "validation",
            "columns": {"photo": "image", "ask": "question", "reply": "answer"},
        },
    ),
    "boxes": (_boxes, {"columns": {}, "question": None, "kind": "boxes"}),
    "JSON objects": (_objects, {"columns": {}, "question": None, "kind": "json"}),
    "two answers": (_preferences, {"objective": "dpo", "columns": {}, "question": None, "unused": ()}),
    "two answers to an unnamed question": (
        _asked_preferences,
        {"objective": "dpo", "columns": {"ask": "question"}, "unused": ()},
    ),
    "marked answers": (_marked, {"objective": "kto", "columns": {}, "question": None, "unused": (), "answer": None}),
    "Parquet": (_parquet, {"columns": {}, "question": None}),
}

PLANNED = ("question and answer", "boxes")
"""Layouts whose memory is planned in full."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a tiny model."""
    return build_tiny_qwen3_vl(tmp_path_factory.mktemp("model") / "tiny", seed=0)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FREQUENT else pytest.mark.slow) for name in LAYOUTS]
)
def test_recipes_train_unchanged(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`init DATA --model M` says what the rows are, and what it writes trains two steps as it is."""
    monkeypatch.chdir(tmp_path)
    if name not in PLANNED:
        # What a step of these rows needs is not asked here; it takes half of the time.
        monkeypatch.setattr(Planner, "parts", lambda *_: {"weights": 10**7})
        monkeypatch.setattr("vlora.estimate.plan._plan_phases", lambda *_: iter(()))
    write, expected = LAYOUTS[name]
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data")
    facts = look_at_rows(str(path))
    assert {key: getattr(facts, key) for key in expected} == expected

    assert main(["init", str(path), "my.toml", "--model", str(model)]) == 0
    recipe = parse_recipe((tmp_path / "my.toml").read_text())
    steps = 0

    def is_enough() -> bool:
        return steps >= 2

    for event in vlora.fit(recipe, should_stop=is_enough):
        steps += isinstance(event, StepReport)

    assert "written to my.toml" in capsys.readouterr().out
    assert steps >= 2
    assert recipe.data.train_on_completions == (facts.objective == "sft")
    assert recipe.train.objective == facts.objective
    assert recipe.data.valid_path or recipe.data.valid_split or recipe.data.valid_fraction or facts.n_rows < 10
    assert recipe.data.max_seq_length >= 128


@pytest.mark.parametrize("answers", [("A red car.", "A blue car."), ("one of the two red cars", "no car")])
def test_sentences_are_no_classes(answers: tuple[str, ...], tmp_path: Path) -> None:
    """Captions that come again are still captions."""
    rows = rows_of(tmp_path, image="image")
    captions = write_jsonl(tmp_path / "rows.jsonl", [{**row, "caption": answers[i % 2]} for i, row in enumerate(rows)])

    facts = look_at_rows(str(captions))

    assert (facts.question, facts.classes) == ("Describe this image.", ())


def test_what_is_not_understood_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns without a meaning, a data set that is not there, a file that is there: a sentence each."""
    rows = write_jsonl(tmp_path / "odd.jsonl", [{"x": f"a{row}", "y": row} for row in range(N)])
    with pytest.raises(RecipeError, match="its columns are x, y, and neither their names nor their values say"):
        look_at_rows(str(rows))
    target = tmp_path / "there.toml"
    target.write_text("")

    assert "none.jsonl" in complaint(["init", str(tmp_path / "none.jsonl"), str(tmp_path / "new.toml")], capsys)
    assert "is there already" in complaint(["init", str(rows), str(target)], capsys)
    assert not (tmp_path / "new.toml").exists()


@pytest.mark.parametrize(
    ("row", "columns", "unused"),
    [
        # The layout reads `input`, too.
        ({"picture": "", "instruction": "do", "input": "this", "output": "o"}, {"picture": "image"}, ()),
        (
            {"pic": "", "task": "vqa", "q": "why", "reply": "so"},
            {"pic": "image", "q": "question", "reply": "answer"},
            ("task",),
        ),
        ({"img": "", "desc": "long", "title": "short"}, {"img": "image", "desc": "caption"}, ("title",)),
        ({"pics": "", "q": "why", "a": "so"}, {"pics": "image", "q": "question", "a": "answer"}, ()),
        ({"file": "a.pdf", "q": "why", "a": "so"}, {"q": "question", "a": "answer"}, ("file",)),
        (
            {"b": "", "a": "", "ask": "why", "reply": "so"},
            {"b": "image", "a": "image", "ask": "question", "reply": "answer"},
            (),
        ),
        ({"image": "", "question": "why", "answer": "so", "note": "n"}, {}, ("note",)),
    ],
)
def test_columns_are_taken_for_the_likeliest(
    row: dict[str, str], columns: dict[str, str], unused: tuple[str, ...], tmp_path: Path
) -> None:
    """Where a layout reads more than the names would, it does; what is not used is named."""
    picture = draw(tmp_path, "picture.png")
    rows = write_jsonl(tmp_path / "rows.jsonl", [{name: value or picture for name, value in row.items()}] * N)
    found = look_at_rows(str(rows))

    assert found.columns == columns
    assert list(found.columns) == list(columns)
    assert found.unused == unused


@pytest.mark.parametrize("names", [("ash", "elm", "oak"), tuple(f"leaf {number}" for number in range(30))])
def test_a_question_names_all_classes_or_none(names: tuple[str, ...], tmp_path: Path) -> None:
    """Also those that come behind the rows that are looked at, as in a folder for each class; many are not listed."""
    picture = draw(tmp_path, "picture.png")
    rows = [{"image": picture, "label": name} for name in names for _ in range(FIRST)]
    found = look_at_rows(str(write_jsonl(tmp_path / "rows.jsonl", rows)))

    assert found.classes == sorted(names)
    listed = "Answer with one of: ash, elm, oak." if len(names) < 20 else "Answer with its class."
    assert found.question == f"What is shown in this image? {listed}"

    texts = ["blurred"] * FIRST + [f"{number}" for number in range(99)]
    captions = [{"image": picture, "caption": text} for text in texts]
    found = look_at_rows(str(write_jsonl(tmp_path / "captions.jsonl", captions)))
    assert found.question == "Describe this image."


def test_lists_are_no_answers(tmp_path: Path) -> None:
    """Answers of several people are not learned as one text that looks like JSON."""
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"image": "a.png", "q": "why", "answers": ["so", "so"]}] * N)
    with pytest.raises(RecipeError, match="of which 'answers' holds lists, and neither their names nor"):
        look_at_rows(str(rows))


def test_pictures_beside_questions_are_not_left_out(tmp_path: Path) -> None:
    """Rows that can be read without their pictures get them all the same, under whatever name."""
    facts = look_at_rows(str(_pictures_aside(tmp_path)))

    assert dict(facts.columns) == {"snapshot": "image"}
    assert facts.question is None


def test_what_was_guessed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """On the screen and in the recipe's comments: each column, what it is taken for, and why; those left out, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["init", str(_unnamed(tmp_path)), "my.toml", "--model", str(tmp_path / "no-model")]) == 0
    printed = capsys.readouterr().out
    comments = " ".join(line.strip("# ") for line in (tmp_path / "my.toml").read_text().splitlines() if line[:1] == "#")

    for said in (
        "'p1' is the image: its values name picture files",
        "'p2' is the question: 12 of 12 end with a question mark",
        "'p3' is the answer: the longest and most varied text (12 different values in 12, ",
        "columns that are not used: id",
    ):
        assert said in printed
        assert said in comments
    assert "change what was guessed wrong" in comments


def test_bad_rows_are_said_and_do_not_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe fits the other rows, and a user hears of those at which a run would end."""
    monkeypatch.chdir(tmp_path)
    rows = rows_of(tmp_path, image="image", question="question", answer="answer")
    rows[3]["answer"] = ""
    rows[5]["question"] = "word " * 4_000
    write_jsonl(tmp_path / "rows.jsonl", rows)

    assert main(["init", "rows.jsonl", "my.toml", "--model", "builtin:tiny-qwen3-vl"]) == 0
    printed = capsys.readouterr().out
    said = (
        'of the first rows 1 row cannot be learned from, which the recipe leaves out (data.on_bad_row = "skip"): rows.'
    )
    assert said in printed
    recipe = parse_recipe((tmp_path / "my.toml").read_text())
    assert (recipe.train.batch_size, recipe.data.on_bad_row) == (8, "skip")


def test_images_that_cannot_be_read_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged picture and a missing one are left out as an empty answer is; many have one cause, and are not."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", rows_of(tmp_path, image="image", question="question", answer="answer"))
    (tmp_path / "3.png").write_bytes(b"no picture")
    (tmp_path / "5.png").unlink()

    assert main(["init", "rows.jsonl", "my.toml", "--model", "builtin:tiny-qwen3-vl"]) == 0
    printed = capsys.readouterr().out
    assert '2 rows cannot be learned from, which the recipe leaves out (data.on_bad_row = "skip"): rows.js' in printed
    for number in range(6, 9):
        (tmp_path / f"{number}.png").unlink()
    assert main(["init", "rows.jsonl", "other.toml", "--model", "builtin:tiny-qwen3-vl"]) == 0
    printed = capsys.readouterr().out
    said = "of the first rows 5 rows cannot be learned from, which ends a run: rows.jsonl train row 3: "
    assert said + "line 4 of rows.jsonl: cannot read " in printed
    assert 'leave them out with data.on_bad_row = "skip"' in printed
    assert parse_recipe((tmp_path / "other.toml").read_text()).data.on_bad_row == "raise"


def test_rows_that_only_the_model_refuses_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A question longer than any row, and texts with the image's own token, also in a short row: the recipe runs."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"Number {number}?", "answer": "yes" if number % 2 else "no"} for number in range(12)]
    rows[3]["question"] = "Well? " * 20_000
    rows[5]["answer"] = "It is <|image_pad|>."
    rows += [{"question": f"What is the number behind {number}, please?", "answer": "one more"} for number in range(40)]
    rows[8] = {"question": "<|image_pad|>", "answer": "no"}
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["init", "rows.jsonl", "my.toml", "--model", "builtin:tiny-qwen3-vl"]) == 0
    printed = capsys.readouterr().out
    recipe = parse_recipe(Path("my.toml").read_text())

    assert (
        'of the first rows 3 rows cannot be learned from, which the recipe leaves out (data.on_bad_row = "skip")'
        in (printed)
    )
    assert recipe.data.on_bad_row == "skip"
    assert main(["my.toml", "--set", "train.iters=2", "--quiet"]) == 0


def test_a_model_that_is_not_there_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe is written all the same, and says why lengths and batch are not known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = _question_answer(tmp_path)

    assert main(["init", str(rows), "my.toml", "--model", str(tmp_path / "no-model")]) == 0
    recipe = parse_recipe((tmp_path / "my.toml").read_text())

    assert recipe.train.batch_size == 1
    assert recipe.train.gradient_accumulation_steps == 8
    facts = look_at_rows(str(rows))
    assert isinstance(facts, RowFacts)

    for file in tmp_path.glob("*.png"):
        file.write_bytes(b"no picture")
    build_tiny_qwen3_vl(tmp_path / "model")
    assert "cannot read the image" in str(look_at_fit(facts, str(tmp_path / "model"), "out"))


@pytest.mark.parametrize("name", ["part-*.jsonl", "c[1].jsonl"])
def test_several_files_and_odd_names_are_looked_at(name: str, tmp_path: Path) -> None:
    """Rows that a recipe reads by their numbers are looked at, whatever stands in the path."""
    made = ("part-1.jsonl", "part-2.jsonl") if "*" in name else (name,)
    for file in made:
        write_jsonl(tmp_path / file, rows_of(tmp_path, image="image", question="question", answer="answer"))

    assert look_at_rows(str(tmp_path / name)).n_rows == len(made) * N


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("better", "worse"),
        ("Chosen_Response", "rejected_response"),
        ("y_w", "y_l"),
        ("preferred_output", "rejected_output"),
    ],
)
@pytest.mark.parametrize("question", ["prompt", "question", "ask", "conversations"])
def test_two_answers_under_the_names_of_others(better: str, worse: str, question: str, tmp_path: Path) -> None:
    """Both are told by their names, and the question is not taken for one of them."""
    asked = [{"from": "human", "value": "Which?"}] if question == "conversations" else "Which?"
    rows = [{"img": f"{number}.png", question: asked, better: f"a {number}", worse: "none"} for number in range(4)]
    for number in range(4):
        picture(24, 24, number).save(tmp_path / f"{number}.png")
    found = look_at_rows(str(write_jsonl(tmp_path / "rows.jsonl", rows)))

    assert found.objective == "dpo"
    assert (found.columns[better], found.columns[worse]) == ("chosen", "rejected")
    assert found.reasons[better] == f"by its name, beside {worse!r}"
    assert not found.bad
    assert not found.unused


@pytest.mark.parametrize("row", [{"better": 1, "worse": 2}, {"winner": "a"}, {"winner": "model_a", "loser": 3}])
def test_names_alone_make_no_answers(row: dict[str, Any]) -> None:
    """Marks and numbers are none, and one answer is no two."""
    assert find_pair([{"question": "q", "answer": "a", **row}]) == []


@pytest.mark.parametrize(
    ("row", "objective"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "dpo"),
        ({"question": "q", "answer": "a", "rejected_response": "b"}, "dpo"),
        ({"prompt": "q", "completion": "a", "kto_tag": False}, "kto"),
        ({"image": "1.png", "label": True}, "sft"),
        ({"question": "q", "answer": "a", "label": 1}, "sft"),
        ({"question": "q", "answer": "a", "label": ""}, "sft"),
        ({"question": "q", "answer": "a", "rejected": None, "chosen": None}, "sft"),
    ],
)
def test_a_worse_answer_is_never_taken_for_the_answer(row: dict[str, Any], objective: str) -> None:
    """Two answers are compared, marks beside an answer are learned by, and a mark alone is the answer."""
    assert find_objective([row, row]) == objective
