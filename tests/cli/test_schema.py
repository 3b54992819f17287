"""The command that prints the schema of recipes."""

import json

import pytest

from vlora.cli.main import main
from vlora.recipe.json_schema import make_schema


def test_it_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """To be written to a file; quiet or not; for programs as one event."""
    for options in ([], ["--quiet"]):
        assert main(["schema", *options]) == 0
        assert json.loads(capsys.readouterr().out) == make_schema()
    assert main(["schema", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"event": "Schema", "schema": make_schema()}
