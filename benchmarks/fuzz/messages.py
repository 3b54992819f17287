"""Conversations in every layout that is accepted, with images; and rows that are no conversations."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .rows import inspecting
from .talks import Turn, draw_talk, dump, spell_talk
from .trials import Trial

Written = dict[str, Any]
Layout = Callable[[random.Random, list[Turn]], Written | None]
"""Writes a conversation as a row; None if the layout cannot."""


def generate(rng: random.Random, work: Path, _: Path) -> Trial:
    """Write conversations, a layout for all of them, and look at the rows."""
    if rng.random() < 0.25:  # noqa: PLR2004 - a quarter
        return broken(rng, work)
    names = list(LAYOUTS)
    layout = rng.choice(names)
    rows, spelled = [], []
    for number in range(rng.randrange(1, 5)):
        n_images = rng.choice((0, 0, 1, 2))
        talk = draw_talk(rng, n_images=n_images, is_long=layout in LONG, has_system=layout in LONG)
        written = LAYOUTS[layout](rng, talk)
        if written is None:
            continue
        images = _write_images(rng, work, number, n_images)
        rows.append(_fill(written, images))
        spelled.append(spell_talk(talk))
    if not rows:
        talk = draw_talk(rng, is_long=False, has_system=False)
        rows, spelled = [_fill(messages(rng, talk), [])], [spell_talk(talk)]
    _write_rows(rng, work, rows)
    return Trial(
        what=f"layout {layout}",
        arguments=inspecting("rows.jsonl", len(rows)),
        expected="learned",
        conversations=tuple(spelled),
    )


def messages(rng: random.Random, talk: list[Turn]) -> Written:
    """Write role and content, the content a text with marks or a list of parts; images beside the messages."""
    is_list = rng.random() < 0.5  # noqa: PLR2004 - one or the other
    found = [{"role": turn.role, "content": _parts(turn) if is_list else turn.text} for turn in talk]
    key = rng.choice(("messages", "conversations"))
    return {key: found, "images": ...}


def inside(rng: random.Random, talk: list[Turn]) -> Written:
    """Write the images into the content."""
    del rng
    found = []
    for turn in talk:
        parts = [
            {"type": "image", "image": ...} if part is None else {"type": "text", "text": part} for part in turn.parts
        ]
        found.append({"role": turn.role, "content": parts})
    return {"messages": found}


def from_value(rng: random.Random, talk: list[Turn]) -> Written:
    """Write ShareGPT's from and value."""
    names = rng.choice(({"user": "human", "assistant": "gpt"}, {"user": "user", "assistant": "assistant"}))
    found = [{"from": names.get(turn.role, turn.role), "value": turn.text} for turn in talk]
    return {"conversations": found, "images": ...}


def as_text(rng: random.Random, talk: list[Turn]) -> Written:
    """Write the messages as JSON in a text."""
    written = messages(rng, talk)
    return {key: value if value is ... else dump(value) for key, value in written.items()}


def question_answer(rng: random.Random, talk: list[Turn]) -> Written | None:
    """Write two columns, under one of the names that they go by."""
    question, answer = rng.choice((("question", "answer"), ("query", "response"), ("instruction", "output")))
    user = talk[0]
    if None in user.parts:
        # Where an image without a mark stands is the layout's own affair.
        return {question: user.text, answer: talk[1].text, "images": ...} if question != "instruction" else None
    return {question: user.text, answer: talk[1].text}


def prompt_completion(rng: random.Random, talk: list[Turn]) -> Written:
    """Write TRL's prompt and completion, as messages."""
    del rng
    found = [{"role": turn.role, "content": turn.text} for turn in talk]
    return {"prompt": found[:-1], "completion": found[-1:], "images": ...}


def texts(rng: random.Random, talk: list[Turn]) -> Written | None:
    """Write The Cauldron's texts."""
    del rng
    if any(None in turn.parts for turn in talk):
        return None
    return {
        "texts": [
            {"user": user.text, "assistant": answer.text} for user, answer in zip(talk[::2], talk[1::2], strict=True)
        ]
    }


LAYOUTS: dict[str, Layout] = {
    "messages": messages,
    "inside": inside,
    "from and value": from_value,
    "JSON in a text": as_text,
    "question and answer": question_answer,
    "prompt and completion": prompt_completion,
    "texts": texts,
}
LONG = ("messages", "inside", "from and value", "JSON in a text", "prompt and completion")
"""Layouts with room for several rounds and a system prompt."""


def broken(rng: random.Random, work: Path) -> Trial:
    """Write a row that is none beside one that is."""
    talk = draw_talk(rng, is_long=False, has_system=False)
    good = messages(rng, talk)
    del good["images"]
    user, answer = ({"role": turn.role, "content": turn.text} for turn in talk)
    rows: dict[str, Any] = {
        "no role": [{"content": "a"}, answer],
        "a role that is none": [{"role": "nobody", "content": "a"}, answer],
        "a role that is a number": [{"role": 3, "content": "a"}, answer],
        "no answer": [user],
        "content null": [user, {"role": "assistant", "content": None}],
        "messages null": None,
        "messages a number": 3,
        "messages empty": [],
        "messages a text": "hello",
        "messages an object": {"role": "user", "content": "a"},
        "a message null": [None, answer],
        "a message a text": ["a", answer],
        "a message a list": [[user], answer],
        "a video": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}, answer],
        "a missing image": [{"role": "user", "content": [{"type": "image", "image": "nowhere.png"}]}, answer],
        "an image null": [{"role": "user", "content": [{"type": "image", "image": None}]}, answer],
        "an image with NUL": [{"role": "user", "content": [{"type": "image", "image": "a\0.png"}]}, answer],
        "an image of nobody": [{"role": "user", "content": [{"type": "image", "image": "~nosuchuser/a.png"}]}, answer],
        "a mark without an image": [{"role": "user", "content": "what <image> is it"}, answer],
    }
    what = rng.choice(list(rows))
    key = next(iter(good))
    bad = {key: rows[what]}
    is_first = rng.random() < 0.5  # noqa: PLR2004 - one or the other
    found = [bad, good] if is_first else [good, bad]
    (work / "rows.jsonl").write_text("\n".join(map(dump, found)), encoding="utf-8")
    spelled = [None, spell_talk(talk)] if is_first else [spell_talk(talk), None]
    return Trial(
        what=f"{key}: {what}",
        arguments=inspecting("rows.jsonl", 2),
        expected="learned",
        conversations=tuple(spelled),
    )


def _parts(turn: Turn) -> list[Written]:
    return [{"type": "image"} if part is None else {"type": "text", "text": part} for part in turn.parts]


def _write_images(rng: random.Random, work: Path, number: int, n_images: int) -> list[str]:
    from PIL import Image

    names = []
    for count in range(n_images):
        name = f"{number}-{count}.{rng.choice(('png', 'jpg', 'webp'))}"
        size = (rng.randrange(16, 64), rng.randrange(16, 64))
        Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3))).save(work / name)
        names.append(name)
    return names


def _fill(written: Any, images: list[str]) -> Any:
    """Put images where a layout has left room for them."""
    if isinstance(written, dict):
        if written.get("images") is ...:
            rest = {key: value for key, value in written.items() if key != "images"}
            return rest if not images else {**rest, "image" if len(images) == 1 else "images": _alone(images)}
        return {key: _fill(value, images) for key, value in written.items()}
    if isinstance(written, list):
        return [_fill(item, images) for item in written]
    return images.pop(0) if written is ... else written


def _alone(images: list[str]) -> Any:
    return images[0] if len(images) == 1 else images


def _write_rows(rng: random.Random, work: Path, rows: list[Any]) -> None:
    is_ascii = rng.random() < 0.5  # noqa: PLR2004 - one or the other
    text = "\n".join(json.dumps(row, ensure_ascii=is_ascii) for row in rows)
    (work / "rows.jsonl").write_text(text, encoding="utf-8")
