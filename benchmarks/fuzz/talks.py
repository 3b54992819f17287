"""Conversations drawn at random, and how the built-in model's template spells them."""

import json
import random
import string
from collections.abc import Sequence
from typing import Any

import attrs

from .trials import LEARN_BEGIN, LEARN_END

ODD = (
    *("007", "12.50", "1e3", "0x1F", "3.0", "-0", "1_000", "12345678901234567890123", "2024-03-05", "10:20:00"),
    *("true", "True", "false", "None", "null", "NA", "N/A", "nan", "NaN", "inf", "yes", "no", "-", "#N/A", "[]", "{}"),
    *(
        '["cat"]',
        '{"a": 1}',
        '"quoted"',
        "'single'",
        "a,b;c\td|e",
        'say "hi", then go',
        "\\n is no newline",
        "\\",
        "\\\\",
    ),
    *(
        "two\nlines",
        "tab\there",
        " leading",
        "trailing ",
        "  ",
        "e\u0301",
        "\u00e9",
        "\u4f60\u597d",
        "\U0001f600",
        "\u202eabc",
    ),
    *(
        "\ufeffmark",
        "\u00a0",
        "\u2028",
        "a",
        "<b>bold</b>",
        "{{ braces }}",
        "{% if %}",
        "{question}",
        "%s",
        "$1",
    ),
    *("<image", "image>", "< image >", "user: hi", "assistant", "https://example.org/a?b=c#d", "=1+1", "@cmd", "'"),
)
"""What readers of tables and templates take for something else."""

PAD = "<|image_pad|>"
IMAGE = f"<|vision_start|>{PAD}<|vision_end|>"


@attrs.frozen
class Turn:
    """What somebody says: text and images, in the order in which they stand.

    Attributes:
        role: Who.
        parts: Texts; None for an image.
    """

    role: str
    parts: tuple[str | None, ...]

    @property
    def text(self) -> str:
        """All texts, and a mark for each image."""
        return "".join("<image>" if part is None else part for part in self.parts)


def draw_text(rng: random.Random, *, is_odd: bool = True) -> str:
    """Draw a text that is not empty."""
    words = ["".join(rng.choices(string.ascii_letters, k=rng.randrange(1, 9))) for _ in range(rng.randrange(1, 6))]
    if is_odd and rng.random() < 0.6:  # noqa: PLR2004 - more than half of them
        words.insert(rng.randrange(len(words) + 1), rng.choice(ODD))
        if rng.random() < 0.4:  # noqa: PLR2004 - and alone
            return rng.choice(ODD)
    return " ".join(words)


def draw_talk(rng: random.Random, *, n_images: int = 0, is_long: bool = True, has_system: bool = True) -> list[Turn]:
    """Draw a conversation that ends with an answer; images stand before or behind the texts of questions."""
    turns = []
    if has_system and rng.random() < 0.3:  # noqa: PLR2004 - now and then
        turns.append(Turn("system", (draw_text(rng),)))
    n_rounds = rng.randrange(1, 4) if is_long else 1
    places = [rng.randrange(n_rounds) for _ in range(n_images)]
    for number in range(n_rounds):
        # A backslash before a mark makes the mark a word.
        parts: list[str | None] = [draw_text(rng).rstrip("\\") or "a", *[None] * places.count(number)]
        if rng.random() < 0.5:  # noqa: PLR2004 - one or the other
            parts.reverse()
        turns += [Turn("user", tuple(parts)), Turn("assistant", (draw_text(rng),))]
    return turns


def spell_talk(turns: Sequence[Turn]) -> str | None:
    """Spell a conversation as the template does; what is learned of it stands between marks.

    None for one whose answers are all blank: it is refused, since there is nothing to learn from it.
    """
    if not any(turn.text.strip() for turn in turns if turn.role == "assistant"):
        return None
    return "".join(map(_spell_turn, turns))


def _spell_turn(turn: Turn) -> str:
    text = "".join(IMAGE if part is None else part for part in turn.parts)
    if turn.role != "assistant":
        return f"<|im_start|>{turn.role}\n{text}<|im_end|>\n"
    return f"<|im_start|>{turn.role}\n{LEARN_BEGIN}{text}<|im_end|>{LEARN_END}\n"


def dump(value: Any) -> str:
    """Write JSON on a line."""
    return json.dumps(value, ensure_ascii=False)
