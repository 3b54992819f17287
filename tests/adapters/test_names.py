"""Names that several families share are kept in one file."""

import ast
from pathlib import Path

import vlora
from vlora.adapters import names

KNOWN = {"q_proj", "gate_proj", "lm_head", "embed_tokens", "wte", "router", "multi_modal_projector"}
FILES = sorted(Path(vlora.__file__).parent.rglob("*.py"))


def lists_of_names(text: str) -> list[int]:
    """Find the lines of lists in which modules are named."""
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Tuple, ast.List, ast.Set))]
    return [
        node.lineno
        for node in found
        if len(node.elts) > 1
        and KNOWN & {item.value for item in node.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)}
    ]


def test_lists_of_names_stand_in_one_file() -> None:
    """No other file lists them, but a family its own."""
    others = [file for file in FILES if file.parts[-2:] != ("adapters", "names.py") and file.parent.name != "families"]

    assert len(others) > 100
    assert not {str(file): lines for file in others if (lines := lists_of_names(file.read_text()))}


def test_lists_are_found() -> None:
    """The search finds the lists where they are."""
    assert len(lists_of_names(Path(names.__file__).read_text())) >= len(KNOWN) - 1
