"""Reads a run's folder: its numbers over steps and its recipe, whether it is running, finished or was resumed.

Damaged lines are counted and ignored.
"""

import json
import math
import statistics
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ...errors import VloraError
from ...output.paths import METRICS_NAME, RECIPE_NAME, WEIGHTS_SUFFIX
from ...recipe.parse import flatten_recipe


class RunError(VloraError):
    """A folder is not that of a run."""


@attrs.frozen
class Series:
    """One number over the steps of a run.

    Attributes:
        steps: Ascending.
        values: As many, finite.
    """

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    @property
    def last(self) -> float | None:
        """The last value; None without any."""
        return self.values[-1] if self.values else None

    @property
    def median(self) -> float | None:
        """The value in the middle, which a report of a few slow or fast steps does not move; None without any."""
        return statistics.median(self.values) if self.values else None

    def best(self, *, is_higher_better: bool = False) -> tuple[int, float] | None:
        """Return the step of the lowest or highest value, and the value: the first of equal ones, None without any."""
        if not self.values:
            return None
        choose = max if is_higher_better else min
        place = choose(range(len(self.values)), key=self.values.__getitem__)
        return self.steps[place], self.values[place]


@attrs.frozen(kw_only=True, eq=False)
class RunRecord:
    """A run as recorded in its files.

    Attributes:
        folder: Where they are.
        recipe: Values by dotted key, including defaults; empty if there is no readable recipe.
        series: Numbers over steps, by their names in metrics.jsonl.
        device: Its device, from the newest line that has it; empty if none has.
        resumed: Steps after which it was resumed.
        n_damaged: Lines that could not be read.
    """

    folder: Path
    recipe: Mapping[str, Any] = attrs.field(factory=dict)
    series: Mapping[str, Series] = attrs.field(factory=dict)
    device: str = ""
    resumed: tuple[int, ...] = ()
    n_damaged: int = 0

    def __getitem__(self, name: str) -> Series:
        """Return a number over steps; an empty series if the run has none of that name."""
        return self.series.get(name, Series())

    @property
    def step(self) -> int:
        """The last step that was reported."""
        return max((found.steps[-1] for found in self.series.values() if found.steps), default=0)


@attrs.define
class RunLog:
    """Gathers lines of metrics.jsonl, from the file or as they are written.

    Attributes:
        device: As in `RunRecord`.
        resumed: Likewise.
        n_damaged: Likewise.
    """

    device: str = ""
    resumed: tuple[int, ...] = ()
    n_damaged: int = 0
    _series: dict[str, tuple[list[int], list[float]]] = attrs.field(factory=dict, init=False)

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line. Steps that a resumed run reports again replace earlier ones."""
        step = int(line["step"])
        if isinstance(device := line.get("device"), str):
            self.begin(step, describe_device(device, str(line.get("device_name", ""))))
            return
        for name, value in line.items():
            if name == "step" or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if not math.isfinite(value):
                continue
            steps, values = self._series.setdefault(name, ([], []))
            while steps and steps[-1] >= step:
                steps.pop()
                values.pop()
            steps.append(step)
            values.append(float(value))

    def begin(self, step: int, device: str) -> None:
        """Record that a process began, or resumed after a step."""
        self.device = device
        if step:
            self.resumed = (*self.resumed, step)

    def freeze(self, folder: Path, recipe: Mapping[str, Any]) -> RunRecord:
        """Return the lines so far."""
        return RunRecord(
            folder=folder,
            recipe=recipe,
            series={name: Series(tuple(steps), tuple(values)) for name, (steps, values) in self._series.items()},
            device=self.device,
            resumed=self.resumed,
            n_damaged=self.n_damaged,
        )


def read_run(place: Path | str) -> RunRecord:
    """Read a run.

    Args:
        place: Its folder, or an adapter or another file in it.

    Raises:
        RunError: The folder has no metrics of a run.
    """
    folder = find_folder(Path(place))
    return read_log(folder).freeze(folder, read_recipe(folder))


def find_folder(place: Path) -> Path:
    """Find the folder of a run from its path or that of one of its files.

    Raises:
        RunError: The folder has no metrics of a run.
    """
    is_named_file = place.suffix in (WEIGHTS_SUFFIX, Path(METRICS_NAME).suffix, Path(RECIPE_NAME).suffix)
    folder = place.parent if place.is_file() or (is_named_file and not place.is_dir()) else place
    if not (folder / METRICS_NAME).is_file():
        msg = f"{place}: there is no {METRICS_NAME} in {folder}; give the folder of a run, or an adapter in it"
        raise RunError(msg)
    return folder


def read_log(folder: Path) -> RunLog:
    """Gather the lines of a run's metrics.jsonl; none if there is no such file."""
    log = RunLog()
    for line in _read_lines(folder / METRICS_NAME):
        try:
            log.add(line)
        except (ValueError, KeyError, TypeError, OverflowError):
            log.n_damaged += 1
    return log


def _read_lines(file: Path) -> Iterator[Any]:
    """Yield the content of each line; None for a damaged one."""
    if not file.is_file():
        return
    with file.open(encoding="utf-8", errors="replace") as opened:
        for text in opened:
            try:
                yield json.loads(text)
            except (ValueError, RecursionError):
                yield None


def read_recipe(folder: Path) -> dict[str, Any]:
    """Read the recipe of a run, with current defaults for other keys; {} if it cannot be read."""
    try:
        return flatten_recipe((folder / RECIPE_NAME).read_text(encoding="utf-8"), with_defaults=True)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return {}


def describe_device(kind: str, name: str) -> str:
    """Return the name of a run's device."""
    return f"{kind}, {name}" if name else kind
