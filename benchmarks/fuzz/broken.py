"""Values that are wrong, texts that are no JSON, files that are none."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

Kind = Literal["int", "number", "text", "flag", "object", "list"]

DEPTH = 100_000
"""How deep what is nested is nested."""

HUGE = (2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)

WRONG: dict[Kind, tuple[Any, ...]] = {
    "int": ("4", "", [4], {"a": 4}, 1.5, True, float("nan"), float("inf"), -1, -(2**31), -(2**63) - 1, *HUGE),
    "number": ("0.5", [0.5], {"a": 1}, True, float("nan"), float("inf"), -float("inf")),
    "text": (3, 1.5, True, ["a"], {"a": "b"}, 2**64),
    "flag": ("true", "yes", [True], {"a": 1}, 3.5),
    "object": ("a", 3, [], [{"a": 1}], True),
    "list": ("a", 3, {"a": 1}, True),
}
"""For each kind of value what is none of it, or of a size that nothing has."""


def wrong_value(rng: random.Random, kind: Kind) -> Any:
    """Draw a value that is not of a kind."""
    return rng.choice(WRONG[kind])


def show(value: Any) -> str:
    """Write a value in a few characters."""
    return f"{value!r:.60}"


def paths(tree: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the places of all values of nested objects."""
    for key, value in tree.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


def put(tree: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Copy nested objects with another value at a place."""
    changed: dict[str, Any] = json.loads(json.dumps(tree))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def drop(tree: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    """Copy nested objects without a key."""
    changed: dict[str, Any] = json.loads(json.dumps(tree))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    return changed


def break_json(rng: random.Random, text: str) -> tuple[str, bytes]:
    """Make of a JSON object what is none.

    Returns:
        What is wrong with it, and its bytes.
    """
    data = text.encode()
    deep = "[" * DEPTH + "]" * DEPTH
    inside = text.rstrip().removesuffix("}")
    ways: dict[str, bytes] = {
        "empty": b"",
        "only spaces": b" \n\t ",
        "cut off": data[: rng.randrange(1, max(2, len(data) - 3))],
        "no JSON": b"model = 3\n",
        "a list": b"[" + data + b"]",
        "null": b"null",
        "a number": b"12",
        "a string": json.dumps(text[:200]).encode(),
        "true": b"true",
        "nested deeply": deep.encode(),
        "nested deeply inside": f'{inside}, "extra": {deep}}}'.encode(),
        "objects nested deeply": ('{"a":' * DEPTH + "1" + "}" * DEPTH).encode(),
        "a number of 5,000 digits": f'{inside}, "extra": {"9" * 5000}}}'.encode(),
        "bytes": bytes(rng.randrange(128, 256) for _ in range(200)),
        "Latin-1": f'{inside}, "extra": "\xe4\xf6"}}'.encode("latin-1", "replace"),
        "after a byte order mark": text.encode("utf-8-sig"),
        "UTF-16": text.encode("utf-16"),
        "zeros": bytes(64),
        "two objects": data + b"\n" + data,
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "an HTML page": b"<!DOCTYPE html><html><body>404</body></html>",
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1234\n",
    }
    what = rng.choice(list(ways))
    return what, ways[what]


def break_file(rng: random.Random, path: Path) -> str:
    """Put in the place of a file what is none, or nothing.

    Returns:
        What stands there now.
    """
    path.unlink()
    ways: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "a folder": path.mkdir,
        "a named pipe": lambda: os.mkfifo(path),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a link to nothing": lambda: path.symlink_to("nowhere"),
    }
    what = rng.choice(list(ways))
    ways[what]()
    return what
