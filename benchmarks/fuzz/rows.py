"""Questions and answers in files of every kind: values that look like others, values that are none, broken files."""

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from .broken import DEPTH
from .talks import Turn, draw_text, dump, spell_talk
from .trials import Trial

RowDataset = list[tuple[str, Any]]
MODEL = "builtin:tiny-qwen3-vl"

SPOILED_TABLES: dict[str, tuple[str, bytes]] = {
    "too many values": ("rows.csv", b"question,answer\nq,a\nq,a,b,c\n"),
    "too few values": ("rows.csv", b"question,answer\nq,a\nq\n"),
    "an open quote": ("rows.csv", b'question,answer\nq,"a\nb\n'),
    "no header": ("rows.csv", b""),
    "a header alone": ("rows.csv", b"question,answer\n"),
    "a column twice": ("rows.csv", b"question,answer,answer\nq,a,b\n"),
}
"""Tables that are refused, read whole and as a stream: what is wrong, the file's name and what it holds."""

NUMBERS = ("12.50", "1e3", "-0.0", "3", "12345678901234567890123", "0.1", "1E-7", "100.00")
"""Numbers of JSON, learned as they are written."""


def generate(rng: random.Random, work: Path, _: Path) -> Trial:
    """Write rows into a file, and look at all of them."""
    return rng.choice(WAYS)(rng, work)


def inspecting(path: str, n_rows: int, *sets: str) -> tuple[str, ...]:
    """Give the arguments of a look at a file."""
    keys = ("data.train_on_completions=true", "data.workers=0", *sets)
    return (
        *("inspect", "--dataset", path, "--model-path", MODEL, "--output-path", "out/a.safetensors"),
        *("--rows", str(n_rows), *(part for key in keys for part in ("--set", key))),
    )


def learned(what: str, path: str, rows: list[tuple[str, str] | None], *sets: str) -> Trial:
    """Say that rows are learned as they were put in; None stands for a row that is refused."""
    return Trial(
        what=what,
        arguments=inspecting(path, len(rows), *sets),
        expected="learned",
        conversations=tuple(
            None if row is None else spell_talk([Turn("user", (row[0],)), Turn("assistant", (row[1],))]) for row in rows
        ),
    )


def texts(rng: random.Random, work: Path) -> Trial:
    """Write texts into a file of some kind."""
    rows = [(draw_text(rng), draw_text(rng)) for _ in range(rng.randrange(1, 8))]
    kind = rng.choice(list(WRITERS))
    path = work / f"rows{kind}"
    WRITERS[kind](rng, path, rows)
    return learned(f"texts in {kind}", path.name, list(rows))


def write_jsonl(rng: random.Random, path: Path, rows: list[tuple[str, str]]) -> None:
    """Write a line for each row, with or without what else a file may have."""
    is_ascii = rng.random() < 0.5  # noqa: PLR2004 - one or the other
    lines = [json.dumps(_in_any_order(rng, row), ensure_ascii=is_ascii) for row in rows]
    text = ("\r\n" if rng.random() < 0.2 else "\n").join(lines)  # noqa: PLR2004 - now and then
    begin = "\ufeff" if rng.random() < 0.2 else ""  # noqa: PLR2004 - now and then
    path.write_bytes((begin + text + rng.choice(("", "\n", "\n\n"))).encode())


def write_json(rng: random.Random, path: Path, rows: list[tuple[str, str]]) -> None:
    """Write one list."""
    indent = rng.choice((None, 2))
    path.write_text(json.dumps([_in_any_order(rng, row) for row in rows], indent=indent), encoding="utf-8")


def write_csv(rng: random.Random, path: Path, rows: list[tuple[str, str]]) -> None:
    """Write a table; the reader finds out how."""
    delimiter = "\t" if path.suffix == ".tsv" else rng.choice((",", ";", "\t", "|"))
    buffer = io.StringIO()
    quotings: tuple[Literal[0, 1], ...] = (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    quoting = rng.choice(quotings)
    end = rng.choice(("\n", "\r\n"))
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([("question", "answer"), *rows])
    path.write_bytes((("\ufeff" if rng.random() < 0.2 else "") + buffer.getvalue()).encode())  # noqa: PLR2004


def write_parquet(rng: random.Random, path: Path, rows: list[tuple[str, str]]) -> None:
    """Write typed columns of text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"question": [row[0] for row in rows], "answer": [row[1] for row in rows]}
    kind = rng.choice((pa.string(), pa.large_string()))
    pq.write_table(pa.table({name: pa.array(values, kind) for name, values in columns.items()}), path)


WRITERS: dict[str, Callable[[random.Random, Path, list[tuple[str, str]]], None]] = {
    ".jsonl": write_jsonl,
    ".json": write_json,
    ".csv": write_csv,
    ".tsv": write_csv,
    ".parquet": write_parquet,
}


def json_values(rng: random.Random, work: Path) -> Trial:
    """Give answers that are other values of JSON than text."""
    lines, rows = [], []
    for _ in range(rng.randrange(1, 6)):
        kind = rng.choice(("number", "truth", "tree", "text"))
        question = draw_text(rng)
        if kind == "number":
            written = text = rng.choice(NUMBERS)
        elif kind == "truth":
            written = text = rng.choice(("true", "false"))
        elif kind == "tree":
            value = rng.choice(([draw_text(rng)], {"a": draw_text(rng), "b": [1, None, True]}, [], [["x"], {"y": {}}]))
            text = dump(value)
            written = json.dumps(value)
        else:
            text = draw_text(rng)
            written = json.dumps(text)
        lines.append(f'{{"question": {json.dumps(question)}, "answer": {written}}}')
        rows.append((question, text))
    (work / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return learned("other values of JSON", "rows.jsonl", list(rows))


def nothing_there(rng: random.Random, work: Path) -> Trial:
    """Give rows that have no answer among others that have one: each is refused by itself."""
    rows: list[tuple[str, str] | None] = []
    lines = []
    for _ in range(rng.randrange(2, 6)):
        question, answer = draw_text(rng), draw_text(rng)
        bad = rng.choice((None, None, "null", "absent", "line", "number", "list"))
        found: dict[str, str] = {
            "null": dump({"question": question, "answer": None}),
            "absent": dump({"question": question}),
            "line": "null",
            "number": "3",
            "list": dump([question, answer]),
        }
        lines.append(dump({"question": question, "answer": answer}) if bad is None else found[bad])
        rows.append((question, answer) if bad is None else None)
    if rows[0] is None or "null" not in "".join(lines):
        question, answer = draw_text(rng), draw_text(rng)
        lines.insert(0, dump({"question": question, "answer": answer}))
        rows.insert(0, (question, answer))
    (work / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    is_row = all(line.startswith("{") for line in lines)
    if not is_row:
        # A line that is no object is a fault of the file, at its start or where it is met.
        return Trial(what="lines that are no objects", arguments=inspecting("rows.jsonl", 9), expected="refused")
    return learned("rows without answers", "rows.jsonl", rows)


def broken_file(rng: random.Random, work: Path) -> Trial:
    """Write a file that is none."""
    row = dump({"question": "q", "answer": "a"})
    deep = "[" * DEPTH + "]" * DEPTH
    ways: dict[str, tuple[str, bytes]] = {
        "empty JSONL": ("rows.jsonl", b""),
        "cut off": ("rows.jsonl", f"{row}\n{row[:-4]}".encode()),
        "nested deeply": ("rows.jsonl", f'{row}\n{{"question": "q", "answer": {deep}}}'.encode()),
        "only nesting": ("rows.jsonl", deep.encode()),
        "nested deeply in JSON": ("rows.json", f'[{row}, {{"question": "q", "answer": {deep}}}]'.encode()),
        "Latin-1": ("rows.jsonl", f'{row}\n{{"question": "\xe4", "answer": "b"}}'.encode("latin-1")),
        "UTF-16": ("rows.jsonl", row.encode("utf-16")),
        "UTF-16 CSV": ("rows.csv", "question,answer\nq,a\n".encode("utf-16")),
        "Latin-1 CSV": ("rows.csv", "question,answer\nq,\xe4\n".encode("latin-1")),
        **SPOILED_TABLES,
        "zeros": ("rows.jsonl", bytes(100)),
        "no Parquet": ("rows.parquet", b"PAR1" + bytes(50)),
        "an empty Parquet": ("rows.parquet", b""),
        "JSON of a number": ("rows.json", b"3"),
        "JSON of nothing": ("rows.json", b""),
        "an unknown ending": ("rows.xyz", row.encode()),
        "two values on a line": ("rows.jsonl", f"{row} {row}".encode()),
        "half of a surrogate": ("rows.jsonl", b'{"question": "q", "answer": "\\ud800"}'),
    }
    what = rng.choice(list(ways))
    name, data = ways[what]
    (work / name).write_bytes(data)
    return Trial(what=f"{name}: {what}", arguments=inspecting(name, 9), expected="refused")


WAYS: tuple[Callable[[random.Random, Path], Trial], ...] = (
    texts,
    texts,
    texts,
    json_values,
    nothing_there,
    broken_file,
)


def _in_any_order(rng: random.Random, row: tuple[str, str]) -> dict[str, str]:
    keys = [("question", row[0]), ("answer", row[1])]
    rng.shuffle(keys)
    return dict(keys)
