"""An input, what is to come of it, and what has come of it."""

import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import attrs

Expected = Literal["refused", "accepted", "learned"]
Verdict = Literal["as expected", "traceback", "crash", "hang", "wrong"]

REFUSED = 2
LONGEST = 2_000
"""Characters of a line of a complaint: more is not a sentence that anybody reads."""

TRIAL_NAME, LEARNED_NAME, OUT_NAME, ERR_NAME = "trial.json", "learned.json", "stdout", "stderr"


@attrs.frozen(kw_only=True)
class Trial:
    """A command on files that were made for it.

    Attributes:
        what: What is odd about the input.
        arguments: What is typed after `python -m vlora`.
        expected: "refused": one sentence and status 2. "accepted": status 0. "learned": status 0, and `conversations`
            is what is learned.
        says: What the sentence has to name.
        conversations: For every row the conversation as its tokens spell it, learned text between `LEARN_BEGIN` and
            `LEARN_END`; None for a row that is refused.
    """

    what: str
    arguments: tuple[str, ...]
    expected: Expected
    says: tuple[str, ...] = ()
    conversations: tuple[str | None, ...] = ()


LEARN_BEGIN, LEARN_END = "\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}", "\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}"


@attrs.frozen(kw_only=True)
class Ended:
    """What a process has ended with.

    Attributes:
        status: Its exit status; the signal's number, negative, if one has ended it.
        seconds: How long it ran.
        is_hung: It was ended because it did not end.
        out: What it printed.
        err: What it complained of.
    """

    status: int
    seconds: float
    is_hung: bool
    out: str
    err: str


@attrs.frozen(kw_only=True)
class Judged:
    """An input and its outcome.

    Attributes:
        kind: The kind of input.
        number: Its number.
        expected: What was to come of it.
        verdict: Whether it did.
        what: What is odd about the input.
        found: What is wrong with the outcome; empty if nothing is.
        seconds: How long it took.
    """

    kind: str
    number: int
    expected: str
    verdict: Verdict
    what: str
    found: str
    seconds: float


def judge(kind: str, number: int, folder: Path, ended: Ended) -> Judged:
    """Compare the outcome of a trial with what it said before it ran."""
    try:
        trial = Trial(**json.loads((folder / TRIAL_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        trial = Trial(what="the input could not be made", arguments=(), expected="accepted")
        verdict, found = "wrong", f"{error}: {ended.err.strip().rpartition(chr(10))[2]}"
    else:
        verdict, found = _compare(trial, ended, folder)
    return Judged(
        kind=kind,
        number=number,
        expected=trial.expected,
        verdict=verdict,  # type: ignore[arg-type]
        what=trial.what,
        found=found,
        seconds=ended.seconds,
    )


def _compare(trial: Trial, ended: Ended, folder: Path) -> tuple[Verdict, str]:
    last = ended.err.strip().splitlines()[-1:] or ended.out.strip().splitlines()[-1:] or ["nothing was said"]
    if ended.is_hung:
        return "hang", f"did not end within {ended.seconds:.0f} s"
    if ended.status < 0:
        return "crash", f"{signal.Signals(-ended.status).name}: {last[0]}"
    if "Traceback (most recent call last)" in ended.err + ended.out or "unforeseen" in ended.err:
        return "traceback", last[0][:LONGEST]
    if trial.expected == "refused":
        found = _judge_refusal(trial, ended)
    else:
        due = REFUSED if None in trial.conversations else 0
        found = "" if ended.status == due else f"status {ended.status} instead of {due}: {last[0][:LONGEST]}"
    if not found and trial.expected == "learned":
        found = _judge_learned(trial, folder)
    return ("wrong", found) if found else ("as expected", "")


def _judge_refusal(trial: Trial, ended: Ended) -> str:
    if ended.status != REFUSED:
        return f"status {ended.status} instead of {REFUSED}: {ended.out.strip()[-200:]}"
    # argparse writes the command before what is wrong with it, and lines of usage before that.
    begin = next((mark for mark in ("vlora: ", ": error: ") if mark in ended.err), None)
    said = ended.out if begin is None else ended.err[ended.err.find(begin) :]
    lines = said.strip().splitlines()
    if not lines or (begin is not None and any(not line.startswith("  ") for line in lines[1:])):
        return f"no sentence: {said.strip()[:LONGEST]!r}"
    if (longest := max(map(len, lines))) > LONGEST:
        return f"a line of {longest} characters"
    absent = [word for word in trial.says if word not in said]
    return f"does not name {absent[0]!r}: {said.strip()[:LONGEST]}" if absent else ""


def _judge_learned(trial: Trial, folder: Path) -> str:
    learned: list[Any] = json.loads((folder / LEARNED_NAME).read_text(encoding="utf-8"))
    if len(learned) != len(trial.conversations):
        return f"{len(learned)} rows instead of {len(trial.conversations)}"
    for number, (found, put_in) in enumerate(zip(learned, trial.conversations, strict=True)):
        if found != put_in:
            return f"row {number}: put in {put_in!r}, learned {found!r}"
    return ""


def tabulate(judged: list[Judged]) -> list[dict[str, Any]]:
    """Count outcomes, a line for each kind and one for all."""
    kinds = list(dict.fromkeys(one.kind for one in judged))
    return [_count(kind, [one for one in judged if one.kind == kind]) for kind in kinds] + [_count("all", judged)]


def _count(kind: str, judged: list[Judged]) -> dict[str, Any]:
    verdicts, expected = Counter(one.verdict for one in judged), Counter(one.expected for one in judged)
    return {
        "kind": kind,
        "inputs": len(judged),
        **{name: expected[name] for name in ("refused", "accepted", "learned")},
        "tracebacks": verdicts["traceback"],
        "crashes": verdicts["crash"],
        "hangs": verdicts["hang"],
        "wrong": verdicts["wrong"],
        "longest_s": round(max((one.seconds for one in judged), default=0.0), 1),
    }


def spell(text: str, placeholder: str) -> str:
    """Join the placeholders of an image into one: how many there are is the processor's affair."""
    return re.sub(f"(?:{re.escape(placeholder)})+", placeholder, text)
