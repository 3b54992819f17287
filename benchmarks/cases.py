"""The rows of the tables, and what they are measured for. Pure."""

from collections.abc import Mapping
from typing import Literal

import attrs

from .shapes import Work

RANK = 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Adapted in every layer of the language model, on every side."""

LEARNING_RATE = 1e-4

SideName = Literal["vlora", "mlx-vlm", "torch"]


@attrs.frozen(kw_only=True)
class Case:
    """One row of a table.

    Attributes:
        name: The side, how it runs, and the rows and tokens that it takes: "vlora-cached/16x513".
        side: Whose step it is.
        shape: A key of `SHAPES`.
        work: The rows.
        bits: The language model's, if it is quantized.
        cached: The frozen tower's features are kept, as from the second epoch on.
        recomputed: Every layer is recomputed in the backward pass.
        keys: Other keys of the recipe, on our side.
    """

    name: str
    side: SideName
    shape: str
    work: Work
    bits: int | None = None
    cached: bool = False
    recomputed: bool = False
    keys: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Goal:
    """What a number, or the ratio of two, is to reach.

    Attributes:
        case: The case that is judged.
        number: Which number of it.
        other: What it is divided by: another case's number; None for the number itself.
        at_least: The least, or
        at_most: the most.
    """

    case: str
    number: str
    other: str | None = None
    at_least: float | None = None
    at_most: float | None = None


@attrs.frozen(kw_only=True)
class Table:
    """What one command measures.

    Attributes:
        cases: Its rows, in the order in which they are measured.
        goals: What is asked of them.
        together: Whether all sides are open at once and take turns, so that a noisy machine disturbs all of them
            alike. Otherwise one after the other, each with the device's memory for itself.
        same_loss: How far apart, relatively, the first losses of two sides may be.
        rounds: Times that a case is measured.
        steps: Of a round.
        matmul: Width of the square matrices whose product is the measure of MFU.
    """

    cases: tuple[Case, ...]
    goals: tuple[Goal, ...]
    together: bool
    same_loss: float
    rounds: int
    steps: int
    matmul: int


def cases_of(
    shape: str, label: str, work: Work, sides: Mapping[str, tuple[SideName, int | None, bool, bool]]
) -> dict[str, Case]:
    """Make the cases of some rows: name of a side to (side, bits, cached, recomputed)."""
    return {
        name: Case(
            name=f"{name}/{label}",
            side=side,
            shape=shape,
            work=work,
            bits=bits,
            cached=cached,
            recomputed=recomputed,
        )
        for name, (side, bits, cached, recomputed) in sides.items()
    }


WAYS: Mapping[str, tuple[SideName, int | None, bool, bool]] = {
    "mlx-vlm": ("mlx-vlm", None, False, False),
    "torch": ("torch", None, False, False),
    "vlora": ("vlora", None, False, False),
    "vlora-cached": ("vlora", None, True, False),
    "vlora-cached-recomputed": ("vlora", None, True, True),
    "mlx-vlm-4bit": ("mlx-vlm", 4, False, False),
    "vlora-4bit-cached": ("vlora", 4, True, False),
    "vlora-4bit-recomputed": ("vlora", 4, False, True),
}
"""How each side runs: whose step, bits, features kept, layers recomputed. "vlora" alone is the first epoch."""


def _select(names: str) -> dict[str, tuple[SideName, int | None, bool, bool]]:
    return {name: WAYS[name] for name in names.split()}


SHORT = Work(rows=16, image=512, prompt=65, answer=192)
LONG = Work(rows=4, image=1024, prompt=65, answer=512)
ONE = Work(rows=1, image=1024, prompt=512, answer=512)
MAIN = "vlora-cached mlx-vlm torch vlora vlora-cached-recomputed vlora-4bit-cached mlx-vlm-4bit"
_short = cases_of("2b", "16x513", SHORT, _select(MAIN))
_long = cases_of("2b", "4x1601", LONG, _select(MAIN))
_one = cases_of("8b", "8b-1x2048", ONE, _select("vlora-4bit-recomputed"))
# As on a card that has no more: two gigabytes beyond the weights.
_limited = attrs.evolve(
    _one["vlora-4bit-recomputed"],
    name="vlora-4bit-recomputed-limited/8b-1x2048",
    keys={"memory.limit_gb": 7.5, "memory.max_mb_per_buffer": 50},
)
_REST = ("torch", "vlora-cached-recomputed", "vlora-4bit-cached", "mlx-vlm-4bit")

NVIDIA = Table(
    cases=(
        *_short.values(),
        _long["vlora-cached"],
        _long["mlx-vlm"],
        _long["vlora"],
        _limited,
        _one["vlora-4bit-recomputed"],
        *(_long[name] for name in _REST),
    ),
    goals=(
        Goal(case="vlora-cached/16x513", number="tokens_per_s", other="mlx-vlm/16x513", at_least=4.5),
        Goal(case="vlora-cached/16x513", number="tokens_per_s", other="torch/16x513", at_least=3.0),
        Goal(case="vlora/16x513", number="tokens_per_s", other="mlx-vlm/16x513", at_least=3.0),
        Goal(case="vlora/16x513", number="tokens_per_s", other="torch/16x513", at_least=2.0),
        Goal(case="vlora-4bit-cached/16x513", number="tokens_per_s", other="mlx-vlm-4bit/16x513", at_least=6.0),
        Goal(case="vlora-cached/16x513", number="peak_gb", other="mlx-vlm/16x513", at_most=0.5),
        Goal(case="vlora-cached-recomputed/16x513", number="peak_gb", other="mlx-vlm/16x513", at_most=0.3),
        Goal(case="vlora-cached/16x513", number="mfu", at_least=0.5),
        Goal(case="vlora-cached/4x1601", number="tokens_per_s", other="mlx-vlm/4x1601", at_least=4.0),
        Goal(case="vlora/4x1601", number="tokens_per_s", other="mlx-vlm/4x1601", at_least=2.5),
        Goal(case=_limited.name, number="beyond_weights_gb", at_most=2.0),
    ),
    together=False,
    same_loss=1e-2,
    rounds=5,
    steps=4,
    matmul=8192,
)

TINY = Work(rows=2, image=128, prompt=17, answer=32)
SMALL = Work(rows=4, image=256, prompt=17, answer=48)
_CPU_MAIN = "vlora vlora-cached mlx-vlm torch"
_tiny = cases_of("tiny", "2x65", TINY, _select(_CPU_MAIN))
_small = cases_of("small", "4x129", SMALL, _select(_CPU_MAIN))
CPU = Table(
    cases=(*_tiny.values(), *_small.values()),
    goals=tuple(
        Goal(case=f"{name}/{label}", number="tokens_per_s", other=f"mlx-vlm/{label}", at_least=2.5)
        for label in ("2x65", "4x129")
        for name in ("vlora", "vlora-cached")
    ),
    together=True,
    same_loss=1e-5,
    rounds=10,
    steps=3,
    matmul=2048,
)

TABLES: Mapping[str, Table] = {"cpu": CPU, "nvidia": NVIDIA}

TINIEST = Work(rows=2, image=64, prompt=8, answer=6)


def shrink(table: Table) -> Table:
    """Make all of a table's models and rows tiny: to see that everything runs, not how fast."""
    cases = tuple(attrs.evolve(case, shape="tiniest", work=TINIEST, keys={}) for case in table.cases)
    return attrs.evolve(table, cases=cases, matmul=256)
