"""What a run has left: its files byte by byte, its metrics apart from times, and whether all of it can be loaded."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .modes import OUTPUT

BEST = "best"
METRICS_NAME = "metrics.jsonl"
DERIVED_NAMES = ("report.html", "loss.png")
"""Files that show what stands in metrics.jsonl, times among it."""
STATE_NAME = "state.safetensors"
REPORTS, CHECKSUM = "reports", "checksum"
"""Notes of a state: the metrics since the last line, whose times are of the process, and the sum over all of it."""

BEFORE_NAME = "state-before.safetensors"
"""The state before the newest one: of which step it is depends on when the run was gone on with."""

PASSING = (
    "seconds",
    "unix_time",
    "first_step_unix_time",
    "tokens_per_s",
    "wait_s",
    "n_traces",
    "trace_s",
    "peak_memory_gb",
    "active_memory_gb",
    "cache_memory_gb",
)
"""Of a line: what is of the process, and not of the run. So are lines of what a process computes on, where features
came from, and what each of several devices has done since the process began."""


def describe(slot: Path) -> dict[str, Any]:
    """Give all that has to be the same after a run that was killed as after one that was not.

    Args:
        slot: The folder that it was started in.

    Returns:
        Digests of its files by name; metrics.jsonl's lines under that name.
    """
    found: dict[str, Any] = {}
    for file in _files(slot):
        if file.name == BEFORE_NAME or file.name in DERIVED_NAMES:
            continue
        name = str(file.relative_to(slot))
        if file.name == METRICS_NAME:
            found[name] = _metrics(file)
        elif file.name == STATE_NAME:
            found[name] = _state(file)
        else:
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Name the files that two runs do not have in common, or not with the same content."""
    lines = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    lines += [f"{name} is left over" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(found.keys() & expected.keys()):
        if found[name] != expected[name]:
            lines.append(f"{name} differs{_first_difference(found[name], expected[name])}")
    return lines


def list_unloadable(slot: Path, expected: dict[str, Any]) -> list[str]:
    """Name what lies under a final name and is not whole.

    Args:
        slot: The folder that the run was started in.
        expected: What a whole run leaves, by `describe`.
    """
    wrong = []
    for file in _files(slot):
        if file.suffix == ".safetensors" and not _is_whole(file):
            wrong.append(f"{file.relative_to(slot)} is not whole")
        if file.suffix == ".json" and not _is_json(file.read_text(encoding="utf-8")):
            wrong.append(f"{file.relative_to(slot)} is no JSON")
        is_adapter = file.suffix == ".safetensors" and file.parent.name in (OUTPUT, BEST) and "model" not in file.name
        if is_adapter and not (file.parent / "adapter_config.json").is_file():
            wrong.append(f"{file.relative_to(slot)} has no adapter_config.json beside it")
    for folder in {Path(name).parent for name in expected if Path(name).name == "config.json"}:
        # What is called a model has all that a model has.
        if (slot / folder / "config.json").is_file():
            names = [name for name in expected if Path(name).parent == folder and _is_models(Path(name).name)]
            wrong += [f"{folder} lacks {name}" for name in names if not (slot / name).is_file()]
    return wrong


def contents(folder: Path) -> dict[str, str]:
    """Give the digests of the files of an earlier run, by their names."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if not any(part.startswith("earlier-") for part in file.relative_to(folder).parts)
    }


def _files(slot: Path) -> Iterator[Path]:
    """Yield what a run has written, without what is not whole yet and without what was there before it."""
    for folder in sorted(slot.glob(f"{OUTPUT}*")):
        for file in sorted(folder.rglob("*")):
            parts = file.relative_to(slot).parts
            if file.is_file() and not any(part.startswith(".") or "earlier-" in part for part in parts):
                yield file


def _metrics(file: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [_lasting(line) for line in lines if "device" not in line]


def _lasting(line: Any) -> Any:
    if not isinstance(line, dict):
        return line
    passing = re.compile(rf"{'|'.join(PASSING)}|features_.*|device\d+/.*")
    kept = {key: value for key, value in line.items() if not passing.fullmatch(key)}
    return {key: _lasting(value) for key, value in kept.items()}


def _state(file: Path) -> dict[str, Any]:
    """Give the arrays of a state, and its notes without times."""
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    notes = header.pop("__metadata__")
    reports = _lasting(json.loads(notes.pop(REPORTS, "{}")))
    # Lines of what a process computes on are counted, too, and where features came from.
    reports = {key: value for key, value in reports.items() if key not in ("n_lines", "counts")}
    notes.pop(CHECKSUM, None)
    arrays = {name: [entry["dtype"], entry["shape"]] for name, entry in sorted(header.items())}
    data = {
        name: content[begin + entry["data_offsets"][0] : begin + entry["data_offsets"][1]]
        for name, entry in header.items()
    }
    digests = {name: hashlib.sha256(value).hexdigest() for name, value in data.items()}
    return {"notes": notes, REPORTS: reports, "arrays": arrays, "digests": digests}


def _first_difference(found: Any, expected: Any) -> str:
    if isinstance(found, dict):
        parts = [key for key in expected if found[key] != expected[key]]
        return f": {', '.join(f'{key} {found[key]} for {expected[key]}'[:300] for key in parts)}"
    if not isinstance(found, list):
        return ""
    if len(found) != len(expected):
        return f": {[line['step'] for line in found]}, not {[line['step'] for line in expected]}"
    ours, theirs = next(pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1])
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    return f": step {theirs['step']}: {', '.join(f'{key} {ours.get(key)} for {theirs.get(key)}' for key in keys)}"


def _is_models(name: str) -> bool:
    return name not in ("recipe.toml", "metrics.jsonl", "example.png", *DERIVED_NAMES)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _is_whole(file: Path) -> bool:
    """Whether a safetensors file has all the bytes that its header speaks of."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if 8 + length > len(content) or not _is_json(content[8 : 8 + length].decode("utf-8", "replace")):
        return False
    header = json.loads(content[8 : 8 + length])
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0) == len(content)
