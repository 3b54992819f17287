"""The releases of MLX and mlx-vlm that vlora was proved with; a run with others says so at its start.

`python -m tests.prove --write` and `python -m tests.golden.compare --write` write their tables for these releases only.
To move to new ones: install them, run `python -m tests.prove` and `python -m pytest`, mend what they name, write the
releases here and the tables anew.
"""

from collections.abc import Mapping
from importlib import metadata

PROVEN: Mapping[str, str] = {"mlx": "0.32.4", "mlx-vlm": "0.7.10"}


def installed_versions() -> dict[str, str]:
    """Give the versions of these packages that are installed, without what a build adds behind "+"."""
    found = {}
    for package in PROVEN:
        try:
            found[package] = metadata.version(package).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def describe_versions(versions: Mapping[str, str]) -> str:
    """Write versions as a sentence names them: "mlx 0.32.4, mlx-vlm 0.7.10"."""
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def describe_unproven() -> str | None:
    """Say in one line which installed versions vlora was not proved with; None if it was with all."""
    others = {package: version for package, version in installed_versions().items() if version != PROVEN[package]}
    if not others:
        return None
    proven = describe_versions({package: PROVEN[package] for package in others})
    return (
        f"vlora was not proved with {describe_versions(others)}, but with {proven}; `python -m vlora doctor` checks "
        "this machine, `python -m tests.prove` in a checkout all model families"
    )
