"""The command line: the errors of all commands."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import complaint
from vlora.errors import RecipeError, VloraError

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize("command", [[], ["inspect"]])
def test_missing_data_set(
    command: list[str], checkpoint: CheckpointFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data set that is not there ends with status 2 and its path."""
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--output-path", str(tmp_path / "out")]
    message = complaint([*command, "--dataset", str(tmp_path / "none.jsonl"), *options], capsys)

    assert f"data.path: cannot read {str(tmp_path / 'none.jsonl')!r}" in message


def test_errors_are_of_one_kind() -> None:
    """What the command line catches is what the library raises."""
    assert issubclass(RecipeError, VloraError)
    assert issubclass(VloraError, ValueError)
