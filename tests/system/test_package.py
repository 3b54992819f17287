"""Where vlora's own code lies."""

import vlora
from vlora.system.package import ROOT, source_files


def test_the_root_is_the_package() -> None:
    """It is where Python imports vlora from."""
    assert vlora.__file__ == str(ROOT / "__init__.py")


def test_sources_are_python_and_cuda_in_order() -> None:
    """All of them, and nothing else: kept features depend on this list."""
    files = source_files()

    assert files == sorted(set(files))
    assert {file.suffix for file in files} == {".py", ".cu"}
    assert {ROOT / "__init__.py", ROOT / "system" / "package.py"} < set(files)
    assert len(files) == sum(file.suffix in (".py", ".cu") for file in ROOT.rglob("*") if file.is_file())
