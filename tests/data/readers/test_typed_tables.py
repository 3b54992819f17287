"""Rows of typed tables: labels by name, numbers as long as they are, nothing decoded."""

import datetime as dt
import decimal
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, ClassLabel, Features, Json, LargeList, List, Nifti, Pdf, Value, Video

from vlora.data.opening import read_rows
from vlora.data.rows import RowDataset
from vlora.errors import SampleError
from vlora.recipe.schema import DataSection

MEDIA = (Audio, Video, Pdf, Nifti, datasets.Image, datasets.Mesh)
COLOURS = ClassLabel(names=["red", "green", "blue"])
PROMPT = json.dumps({"user": "{question}", "assistant": "{answer}"})


def store(folder: Path, features: dict[str, Any], rows: list[dict[str, Any]], **data: Any) -> RowDataset:
    """Write rows as Parquet, as they are stored, and read them."""
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=Features(features).arrow_schema), path)
    return read_rows(DataSection(path=str(path), **data))[0]


def answers_of(rows: RowDataset) -> list[str]:
    return [rows[index].turns[1].text for index in range(len(rows))]


def test_labels_are_their_names(tmp_path: Path) -> None:
    """A class label is learned by its name, alone and within lists and objects."""
    features = {
        "question": COLOURS,
        "answer": List({"colour": COLOURS, "of": Value("string"), "more": LargeList(COLOURS)}),
    }
    row = {"question": 2, "answer": [{"colour": 0, "of": "sky", "more": [1, None]}, {"colour": None, "more": []}]}
    rows = store(tmp_path, features, [row])

    assert rows[0].turns[0].text == "blue"
    assert json.loads(rows[0].turns[1].text) == [
        {"colour": "red", "of": "sky", "more": ["green", None]},
        {"colour": None, "of": None, "more": []},
    ]
    assert rows.kinds == {"question": "label", "answer": "list"}


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_no_number_is_no_text(kind: str, value: float, tmp_path: Path) -> None:
    """A gap in a column of numbers is not learned as "nan", however many bytes they have."""
    rows = store(tmp_path, {"question": Value("string"), "answer": Value(kind)}, [{"question": "q", "answer": value}])
    with pytest.raises(SampleError, match="found the number"):
        rows[0]


def test_arrow_fills_in_no_arguments_of_calls_and_no_parameters_of_tools(tmp_path: Path) -> None:
    """Keys that only other calls or tools have are not learned as null; JSON in a text says null where it does."""
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "tool_calls": [{"name": "look", "arguments": arguments}]},
            ],
            "tools": [{"name": "look", "parameters": {"properties": {key: {"type": "string"} for key in arguments}}}],
            "note": json.dumps([{"name": "look", "parameters": {"default": None}}]),
        }
        for arguments in ({"at": "sky"}, {"near": "sea", "far": "isle"})
    ]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert "None" in str(pq.read_table(path).to_pylist()[0]["messages"])

    found, _ = read_rows(DataSection(path=str(path)))
    for row, sample in zip(rows, [found[0], found[1]], strict=True):
        assert sample.turns[1].calls == tuple(row["messages"][1]["tool_calls"])
        assert [tool["function"] for tool in sample.tools] == row["tools"]
    texts, _ = read_rows(DataSection(path=str(path), columns={"note": "tools", "tools": "unused"}))
    assert texts[0].tools[0]["function"]["parameters"] == {"default": None}


def test_a_label_that_is_not_there_is_no_number(tmp_path: Path) -> None:
    """-1 stands for a missing label; a number beyond the names is a bad row."""
    rows = store(tmp_path, {"question": Value("string"), "answer": COLOURS}, [{"question": "q", "answer": -1}])
    with pytest.raises(SampleError, match=r"^rows.parquet train row 0: "):
        rows[0]

    stored = datasets.Dataset.from_dict({"question": ["q"], "answer": [7]})
    stored.info.features["answer"] = COLOURS
    stored.save_to_disk(tmp_path / "saved")
    rows, _ = read_rows(DataSection(path=str(tmp_path / "saved")))
    with pytest.raises(SampleError, match=r"^saved train row 0: .*no class label 7"):
        rows[0]


@pytest.mark.parametrize("kind", MEDIA, ids=lambda kind: str(kind.__name__))
@pytest.mark.parametrize("nested", [False, True])
def test_media_are_not_decoded(kind: Any, nested: bool, tmp_path: Path) -> None:
    """A column of any medium stays what is stored, broken or not, and is told by its kind; text is refused of it."""
    feature = List(kind()) if nested else kind()
    value: Any = {"bytes": b"neither sound nor picture", "path": None}
    row = {"question": "What?", "answer": "a", "extra": [value] if nested else value}
    features = {"question": Value("string"), "answer": Value("string"), "extra": feature}

    rows = store(tmp_path, features, [row], columns={"extra": "unused"})
    assert answers_of(rows) == ["a"]
    assert rows.kinds["extra"] == kind.__name__.lower()
    assert rows.kinds["question"] == "text"

    lost = store(tmp_path, features, [row])
    if kind.__name__ == "Image":
        with pytest.raises(SampleError, match=r"row 0: the column 'extra' looks like images"):
            lost[0]
    else:
        assert answers_of(lost) == ["a"]

    prompt = json.dumps({"user": "{question}", "assistant": "{extra}"})
    with pytest.raises(SampleError, match=r"row 0: column 'extra': found"):
        store(tmp_path, features, [row], custom_prompt_format=prompt)[0]


@pytest.mark.parametrize(
    ("feature", "value", "text"),
    [
        (Value("int8"), 5, "5"),
        (Value("uint64"), 2**64 - 1, str(2**64 - 1)),
        (Value("float32"), 0.1, "0.1"),
        (Value("float16"), 2.5, "2.5"),
        (Value("float64"), 0.1, "0.1"),
        (Value("bool"), True, "true"),
        (Value("decimal128(10, 2)"), decimal.Decimal("12.50"), "12.50"),
        (Value("date32"), dt.date(2024, 3, 5), "2024-03-05"),
        (Value("timestamp[s]"), dt.datetime(2024, 3, 5, 10, 20), "2024-03-05T10:20:00"),  # noqa: DTZ001
        (Value("timestamp[us, tz=UTC]"), dt.datetime(2024, 3, 5, tzinfo=dt.UTC), "2024-03-05T00:00:00+00:00"),
        (Value("large_string"), "007", "007"),
        (List(Value("float32")), [0.1, 3.0], "[0.1, 3.0]"),
        ({"a": Value("float32"), "b": Value("string")}, {"a": 0.3, "b": "é"}, '{"a": 0.3, "b": "é"}'),
        (Json(), '{"a": [12.50, true]}', '{"a": [12.50, true]}'),
    ],
)
def test_typed_values_are_written_by_one_rule(feature: Any, value: Any, text: str, tmp_path: Path) -> None:
    """Each type of a typed table has one spelling."""
    features = {"question": Value("string"), "answer": feature}

    assert answers_of(store(tmp_path, features, [{"question": "q", "answer": value}])) == [text]


def test_a_date_that_no_calendar_has_is_a_bad_row(tmp_path: Path) -> None:
    """What Arrow stores and Python cannot say is one row's error."""
    stored = datasets.Dataset.from_dict({"question": ["q", "q"], "answer": [1, 2**62]})
    stored = stored.cast_column("answer", Value("timestamp[us]"))
    stored.save_to_disk(tmp_path / "saved")
    rows, _ = read_rows(DataSection(path=str(tmp_path / "saved")))

    assert rows[0].turns[1].text == "1970-01-01T00:00:00.000001"
    with pytest.raises(SampleError, match=r"^saved train row 1: cannot read the values"):
        rows[1]


def test_reading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A bar of another package would stand in a log, and within a run's own on a terminal."""
    pq.write_table(pa.table({"question": ["Well?"] * 3, "answer": ["Yes."] * 3}), tmp_path / "rows.parquet")
    datasets.enable_progress_bars()
    rows, _ = read_rows(DataSection(path=str(tmp_path / "rows.parquet")))

    assert len(rows) == 3
    assert capfd.readouterr().err == ""
    assert not datasets.utils.are_progress_bars_disabled()
