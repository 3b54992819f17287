"""Streams: rows spread over files, damaged files and rows, keys that streams cannot have, runs that go on."""

import io
import json
import os
import random
import shutil
import struct
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .images import draw
from .rows import SPOILED_TABLES, WRITERS, inspecting, learned
from .states import STATE
from .talks import Turn, draw_text, dump, spell_talk
from .trials import Trial

Way = Callable[[random.Random, Path, Path], Trial]
Rows = list[tuple[str, str]]

STREAMED = ("data.streaming=true", "train.iters=1")
KINDS = (".jsonl", ".csv", ".tsv", ".parquet", ".tar")
FOLDER = "shards"
IN_ORDER = "data.shuffle=false"


def generate(rng: random.Random, work: Path, shared: Path) -> Trial:
    """Write files, and stream them."""
    return rng.choice(WAYS)(rng, work, shared)


def build(shared: Path, *, is_short: bool) -> None:
    """Make the run that is copied: one step over two files, with its state."""
    del is_short
    from vlora.cli.main import main

    home = shared / "streams"
    (home / FOLDER).mkdir(parents=True)
    for number in range(2):
        lines = [dump({"question": f"{number} {place}", "answer": "a"}) for place in range(4)]
        (home / FOLDER / f"part-{number}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    os.chdir(home)
    given = training(f"{FOLDER}/*.jsonl", 1)
    if main((*given, "--set", "model.path=builtin:tiny-qwen3-vl")) or main(given):
        msg = "no streamed run to go on with"
        raise RuntimeError(msg)


def training(path: str, n_steps: int, *sets: str) -> tuple[str, ...]:
    """Give the arguments of a run that learns from a stream, two rows a step."""
    keys = (
        *("data.streaming=true", "data.workers=0", "features.cache=false", "train.steps_per_report=1"),
        *("output.report=false", "lora.rank=2", *sets),
    )
    return (
        *("--dataset", path, "--iters", str(n_steps), "--batch-size", "2", "--output-path", "out/a.safetensors"),
        *("--model-path", "tiny-qwen3-vl"),
        *(part for one in keys for part in ("--set", one)),
    )


def draw_rows(rng: random.Random, most: int = 5) -> Rows:
    """Draw rows of a file."""
    return [(draw_text(rng), draw_text(rng)) for _ in range(rng.randrange(1, most + 1))]


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], kind: str = "w") -> None:
    """Write an archive."""
    with tarfile.open(path, kind) as archive:  # type: ignore[call-overload]
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def list_members(rng: random.Random, rows: Rows, *, n_pictures: int = 0) -> list[tuple[str, bytes]]:
    """List the members of an archive: of each row its JSON and, of the first ones, a picture, in any order."""
    prefix = rng.choice(("", "a/", "./", "deep/er/", "caf\u00e9 "))
    members = []
    for number, (question, answer) in enumerate(rows):
        stem = f"{prefix}{number:04}"
        own = [(f"{stem}.json", dump({"question": question, "answer": answer}).encode())]
        if number < n_pictures:
            kind = rng.choice(("PNG", "JPEG", "WEBP"))
            own.append((f"{stem}.{kind.lower()}", draw(rng, kind)))
        rng.shuffle(own)
        members += own
    return members


def texts(rng: random.Random, work: Path, _: Path) -> Trial:
    """Spread rows over files of one kind: they are learned in the order of the files' names."""
    (work / FOLDER).mkdir()
    kind, rows = rng.choice(KINDS), []
    n_files = rng.randrange(1, 4)
    conversations: list[str | None] = []
    for number in range(n_files):
        own = draw_rows(rng)
        path = work / FOLDER / f"part-{number}{kind}"
        n_pictures = rng.randrange(len(own) + 1) if kind == ".tar" else 0
        if kind == ".tar":
            # A backslash before a mark makes the mark a word.
            own = [(question.rstrip("\\") or "a", answer) for question, answer in own]
            write_tar(path, list_members(rng, own, n_pictures=n_pictures))
        else:
            WRITERS[kind](rng, path, own)
        rows += own
        for place, (question, answer) in enumerate(own):
            asked = (None, question) if place < n_pictures else (question,)
            conversations.append(spell_talk([Turn("user", asked), Turn("assistant", (answer,))]))
    named = f"{FOLDER}/part-0{kind}" if n_files == 1 else rng.choice((FOLDER, f"{FOLDER}/*{kind}"))
    return Trial(
        what=f"{n_files} files of {kind}",
        arguments=inspecting(named, len(rows), *STREAMED),
        expected="learned",
        conversations=tuple(conversations),
    )


def bad_rows(rng: random.Random, work: Path, _: Path) -> Trial:
    """Give rows that cannot be learned from among others: each is refused by itself."""
    rows: list[tuple[str, str] | None] = []
    lines = []
    for _number in range(rng.randrange(2, 7)):
        question, answer = draw_text(rng), draw_text(rng)
        # A list at the beginning would be a document.
        bad = rng.choice((None, None, "null", "absent", "line", "number", "cut", *["list"] * bool(rows)))
        found = {
            "null": dump({"question": question, "answer": None}),
            "absent": dump({"question": question}),
            "line": "null",
            "number": "3",
            "list": dump([question, answer]),
            "cut": dump({"question": question, "answer": answer})[:-3],
        }
        lines.append(dump({"question": question, "answer": answer}) if bad is None else found[bad])
        rows.append((question, answer) if bad is None else None)
    (work / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return learned("rows of a stream without answers", "rows.jsonl", rows, *STREAMED)


def no_file(rng: random.Random, work: Path, _: Path) -> Trial:
    """Stream a file that is damaged, or is none; what stands before the damage may be learned."""
    row = dump({"question": "q", "answer": "a"})
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}.json")
            member.size = len(row)
            archive.addfile(member, io.BytesIO(row.encode()))
    tar = whole.getvalue()
    block = tarfile.BLOCKSIZE
    spoiled = bytearray(tar)
    spoiled[2 * block + rng.randrange(100)] ^= 1 << rng.randrange(7)
    ways: dict[str, tuple[str, bytes]] = {
        "a tar that ends within a header": ("rows.tar", tar[: 2 * block + rng.randrange(1, block)]),
        "a tar that ends within a member": ("rows.tar", tar[: 3 * block + rng.randrange(1, len(row))]),
        "a tar with a spoiled header": ("rows.tar", bytes(spoiled)),
        "a tar of zeros": ("rows.tar", bytes(4 * block)),
        "no tar": ("rows.tar", row.encode() * 100),
        "an empty tar": ("rows.tar", b""),
        "no JSON Lines": ("rows.jsonl", bytes(rng.randrange(128, 256) for _ in range(200))),
        "empty JSON Lines": ("rows.jsonl", b""),
        "blank JSON Lines": ("rows.jsonl", b"\n\n \n"),
        "zeros": ("rows.jsonl", bytes(100)),
        "UTF-16": ("rows.jsonl", row.encode("utf-16")),
        **SPOILED_TABLES,
        "no Parquet": ("rows.parquet", b"PAR1" + bytes(50)),
        "an empty Parquet": ("rows.parquet", b""),
        "a JSON document": ("rows.json", f"[{row}]".encode()),
        "an unknown ending": ("rows.xyz", row.encode()),
    }
    what = rng.choice(list(ways))
    name, data = ways[what]
    (work / name).write_bytes(data)
    return Trial(what=what, arguments=inspecting(name, 9, *STREAMED), expected="refused")


def no_member(rng: random.Random, work: Path, _: Path) -> Trial:
    """Stream an archive with a row that is none, behind one that is."""
    row = dump({"question": "q", "answer": "a"}).encode()
    ways: dict[str, list[tuple[str, bytes]]] = {
        "JSON that is none": [("b.json", row[:-3])],
        "JSON that is a list": [("b.json", b"[" + row + b"]")],
        "a picture that is none": [("b.json", row), ("b.png", b"no picture")],
        "an empty picture": [("b.json", row), ("b.jpg", b"")],
        "a picture alone": [("b.png", draw(rng, "PNG"))],
        "text that is no UTF-8": [("b.txt", b"\xff\xfe\xe4")],
        "JSON twice": [("b.json", row), ("b.json", row)],
        "an unknown ending alone": [("b.xyz", b"a")],
    }
    what = rng.choice(list(ways))
    write_tar(work / "rows.tar", [("a.json", row), *ways[what]])
    return Trial(what=f"a tar with {what}", arguments=inspecting("rows.tar", 9, *STREAMED), expected="refused")


def no_keys(rng: random.Random, work: Path, _: Path) -> Trial:
    """Give keys that a stream cannot have."""
    rows = "".join(f"{dump({'question': 'q', 'answer': str(number)})}\n" for number in range(6))
    (work / "rows.jsonl").write_text(rows, encoding="utf-8")
    (work / "rows.json").write_text("[]", encoding="utf-8")
    ways: dict[str, tuple[tuple[str, ...], str]] = {
        "no length": (("data.streaming=true",), "train.iters"),
        "epochs": (("train.epochs=2",), "train.epochs"),
        "a share held out": (("data.valid_fraction=0.5",), "data.valid_fraction"),
        "an end": (('data.split="train[:3]"',), "data.split"),
        "a share": (('data.split="train[50%:]"',), "data.split"),
        "a part from the end": (('data.split="train[-3:]"',), "data.split"),
        "two splits": (('data.split="train+test"',), "data.split"),
        "all rows left out": (('data.split="train[6:]"',), "data.split"),
        "rows of both": (('data.valid_split="train[:3]"',), "data.split"),
        "a middle part": (('data.split="train[4:]"', 'data.valid_split="train[1:3]"'), "data.valid_split"),
        "a split that is the same rows": (('data.valid_split="dev"',), "data.valid_split"),
        "no buffer": (("data.shuffle_buffer=0",), "data.shuffle_buffer"),
        "a buffer in order": (("data.shuffle_buffer=7", IN_ORDER), "data.shuffle_buffer"),
        "a text for a buffer": (('data.shuffle_buffer="many"',), "data.shuffle_buffer"),
        "kept log-probabilities": (('train.objective="dpo"', "preference.precompute=true"), "preference.precompute"),
        "missing rows to validate on": (('data.valid_path="nowhere.jsonl"',), "data.valid_path"),
        "grouped in order": (('train.batching="grouped"', IN_ORDER), "train.batching"),
        "a path beside sources": (('data.sources=[{path="rows.jsonl", weight=1}]',), "data.sources"),
    }
    what = rng.choice(list(ways))
    sets, named = ways[what]
    before = STREAMED if sets[0].partition("=")[0] not in ("data.streaming", "train.epochs") else STREAMED[:1]
    return Trial(
        what=f"a stream with {what}",
        arguments=inspecting("rows.jsonl", 3, *before, *sets),
        expected="refused",
        says=(named,),
    )


def mixtures(rng: random.Random, work: Path, shared: Path) -> Trial:
    """Learn from a mixture of streams, in any batching; or give sources that are none."""
    shutil.copytree(shared / "streams" / "tiny-qwen3-vl", work / "tiny-qwen3-vl")
    n_sources = rng.randrange(1, 4)
    for number in range(n_sources):
        WRITERS[".jsonl"](rng, work / f"{number}.jsonl", [(draw_text(rng), "a") for _ in range(rng.randrange(1, 6))])
    sources: list[dict[str, Any]] = [
        {"path": f"{number}.jsonl", "weight": rng.choice((1, 0.5, 3, 1000))} for number in range(n_sources)
    ]
    bad = rng.choice((None, None, None, None, "weight", "no weight", "path", "rows", "key", "columns"))
    if bad is not None:
        wrong: dict[str, dict[str, Any]] = {
            "weight": {"weight": rng.choice((0, -1, "many", True))},
            "no weight": {},
            "path": {"path": "nowhere.jsonl"},
            "rows": {"rows": rng.choice((0, -3, "all"))},
            "key": {"wieght": 1},
            "columns": {"columns": {"question": "nothing of this name"}},
        }
        sources[-1] |= wrong[bad]
    if bad == "no weight":
        del sources[-1]["weight"]
    batching = rng.choice(("shuffled", "grouped", "packed"))
    sections = "".join(
        "[[data.sources]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in source.items())
        for source in sources
    )
    text = (
        '[model]\npath = "tiny-qwen3-vl"\n[lora]\nrank = 2\n[features]\ncache = false\n[output]\n'
        'path = "out/a.safetensors"\nreport = false\n'
        f'[train]\niters = {rng.randrange(1, 5)}\nbatch_size = 2\nbatching = "{batching}"\n'
        f"[data]\nstreaming = true\nshuffle_buffer = {rng.choice((1, 3, 1000))}\nworkers = 0\n{sections}"
    )
    (work / "recipe.toml").write_text(text, encoding="utf-8")
    # A single source has all rows, whatever its weight.
    expected = "accepted" if bad is None or (bad == "no weight" and n_sources == 1) else "refused"
    what = f"a {batching} mixture of {n_sources}, wrong: {bad}"
    return Trial(what=what, arguments=("recipe.toml",), expected=expected)  # type: ignore[arg-type]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {json.dumps(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def resumed(rng: random.Random, work: Path, shared: Path) -> Trial:
    """Go on with a run over a stream, whose files or state may have changed."""
    for name in ("out", "tiny-qwen3-vl", FOLDER):
        shutil.copytree(shared / "streams" / name, work / name)
    first = work / FOLDER / "part-0.jsonl"
    what = rng.choice(
        ("nothing", "nothing", "a longer file", "a shorter file", "a later file", "a name", "one more", "the place")
    )
    if what == "a longer file":
        first.write_text(first.read_text(encoding="utf-8") + '\n{"question": "q", "answer": "a"}', encoding="utf-8")
    elif what == "a shorter file":
        first.write_text(first.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    elif what == "a later file":
        os.utime(first, ns=(0, first.stat().st_mtime_ns + 10**9))
    elif what == "a name":
        first.rename(first.with_name("part-7.jsonl"))
    elif what == "one more":
        shutil.copy(first, first.with_name("part-2.jsonl"))
    elif what == "the place":
        _spoil_place(rng, work / "out" / STATE)
    expected = "accepted" if what == "nothing" else "refused"
    arguments = (*training(f"{FOLDER}/*.jsonl", 2), "--resume")
    return Trial(what=f"going on, changed: {what}", arguments=arguments, expected=expected)  # type: ignore[arg-type]


def _spoil_place(rng: random.Random, state: Path) -> None:
    """Write something else where a state says how far the stream was read, and leave no other state."""
    for path in state.parent.iterdir():
        if path != state:
            path.unlink()
    data = state.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    wrong = ("", "null", "3", "{}", "[]", '{"sources": 3}', "{", '{"epoch": "many"}', "[" * 9000)
    header["__metadata__"]["progress"] = rng.choice(wrong)
    text = json.dumps(header).encode()
    state.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


WAYS: tuple[Way, ...] = (
    texts,
    texts,
    texts,
    bad_rows,
    no_file,
    no_file,
    no_member,
    no_keys,
    mixtures,
    mixtures,
    resumed,
)
