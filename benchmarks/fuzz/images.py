"""Images of all formats, sizes, modes and depths; damaged ones; names that lead to none."""

import base64
import io
import os
import random
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rows import inspecting
from .talks import Turn, dump, spell_talk
from .trials import Trial

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "TIFF": ("L", "RGB", "I;16", "F"),
}
"""Modes that a format is written in; others in RGB."""


def generate(rng: random.Random, work: Path, _: Path) -> Trial:
    """Ask about one image, beside a row without any."""
    is_good = rng.random() < 0.4  # noqa: PLR2004 - less than half of them
    what, image = _draw_good(rng, work) if is_good else _draw_bad(rng, work)
    rows = [{"question": "a", "answer": "b"}, {"image": image, "question": "c", "answer": "d"}]
    (work / "rows.jsonl").write_text("\n".join(map(dump, rows)), encoding="utf-8")
    plain = spell_talk([Turn("user", ("a",)), Turn("assistant", ("b",))])
    seen = spell_talk([Turn("user", (None, "c")), Turn("assistant", ("d",))])
    return Trial(
        what=what,
        arguments=inspecting("rows.jsonl", 2),
        expected="learned",
        conversations=(plain, seen if is_good else None),
    )


def draw(rng: random.Random, kind: str, mode: str | None = None) -> bytes:
    """Make an image file with noise in it."""
    import numpy as np
    from PIL import Image

    mode = mode or rng.choice(MODES.get(kind, ("RGB",)))
    width, height = rng.choice((1, 2, 17, 40, 64, 100)), rng.choice((1, 3, 20, 33, 64))
    numbers = np.random.default_rng(rng.randrange(2**32))
    if mode in ("I;16", "F"):
        values = numbers.integers(0, 4000, (height, width)).astype(np.uint16 if mode == "I;16" else np.float32)
        image = Image.fromarray(values)
    else:
        image = Image.fromarray(numbers.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def _draw_good(rng: random.Random, work: Path) -> tuple[str, Any]:
    kind = rng.choice(FORMATS)
    data = draw(rng, kind)
    way = rng.choice(
        ("a file", "base64", "a data address", "an object with a path", "a file without an ending", "a link")
    )
    name = "image" if way == "a file without an ending" else f"image.{kind.lower()}"
    (work / name).write_bytes(data)
    text = base64.b64encode(data).decode()
    if way == "a link":
        (work / "link.img").symlink_to(name)
    images: dict[str, Any] = {
        "base64": text,
        "a data address": f"data:image/{kind.lower()};base64,{text}",
        "an object with a path": {"path": name},
        "a link": "link.img",
    }
    return f"{kind} as {way}", images.get(way, name)


def _draw_bad(rng: random.Random, work: Path) -> tuple[str, Any]:
    if rng.random() < 0.5:  # noqa: PLR2004 - one or the other
        return _damage(rng, work)
    os.mkfifo(work / "pipe.png")
    (work / "folder.png").mkdir()
    (work / "loop.png").symlink_to("loop.png")
    named: dict[str, Any] = {
        "a missing file": "nowhere.png",
        "a named pipe": "pipe.png",
        "a device": "/dev/zero",
        "a folder": "folder.png",
        "a link to itself": "loop.png",
        "a name with NUL": "a\0.png",
        "a long name": "x" * 5000,
        "a home of nobody": "~nosuchuser/a.png",
        "an address": "https://example.org/a.png",
        "an address within": "http://127.0.0.1:9/a.png",
        "a number": 3,
        "a truth value": True,
        "an object of numbers": {"path": 3},
        "base64 of text": base64.b64encode(b"hello, I am no image" * 20).decode(),
        "broken base64": "data:image/png;base64,!!!!",
        "file:// of nowhere": "file:///nowhere/a.png",
        "a long word": "A" * 100_000,
    }
    what = rng.choice(list(named))
    return what, named[what]


def _damage(rng: random.Random, work: Path) -> tuple[str, str]:
    kind = rng.choice(("PNG", "JPEG", "WEBP", "GIF", "TIFF", "JPEG2000", "AVIF"))
    data = draw(rng, kind, "RGB")
    head = data[: max(1, min(len(data) // 4, 20))]
    ways: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "its beginning alone": lambda: head,
        "zeros": lambda: bytes(len(data)),
        "noise behind its first bytes": lambda: data[:12] + rng.randbytes(len(data)),
        "text": lambda: b"This is no image.\n" * 5,
        "HTML": lambda: b"<!DOCTYPE html><html></html>",
        "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "PDF": lambda: b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
        "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "too many pixels": lambda: _huge_png(2**20, 2**20),
        "no pixels": lambda: _huge_png(0, 0),
    }
    what = rng.choice(list(ways))
    (work / "bad.img").write_bytes(ways[what]())
    return f"{kind}: {what}", "bad.img"


def _huge_png(width: int, height: int) -> bytes:
    """Write the header of a PNG of any size, and nothing that fills it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )
