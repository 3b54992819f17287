"""The folder and the source files of vlora itself."""

from pathlib import Path

ROOT = Path(__file__).parent.parent


def source_files() -> list[Path]:
    """List the source files of vlora, Python and CUDA, in a fixed order."""
    return sorted((*ROOT.rglob("*.py"), *ROOT.rglob("*.cu")))
