"""The arguments of the scripts that make the reference's numbers."""

import ast
from pathlib import Path

import pytest

from tests.golden.stages import make_parser


def test_a_stage_takes_families_and_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a folder it says which one is missing."""
    parser = make_parser("prepare", "Writes.\n\nMore.", "where to write")
    given = parser.parse_args(["llava", "gemma3", "--work", "folder"])

    assert (given.families, given.work) == (["llava", "gemma3"], Path("folder"))
    assert "More" not in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "python -m tests.golden.prepare: error:" in capsys.readouterr().err


def test_stages_need_python_alone() -> None:
    """The environment that has torch need not have what vlora needs."""
    text = Path(__file__).with_name("stages.py").read_text(encoding="utf-8")
    names = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }

    assert names == {"argparse", "pathlib"}
