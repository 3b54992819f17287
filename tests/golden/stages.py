"""What the scripts of this folder read from their command lines; each runs in an environment of its own.

Only Python's own library is imported here: some of these environments have neither MLX nor vlora's packages.
"""

import argparse
from pathlib import Path


def make_parser(script: str, text: str, work: str) -> argparse.ArgumentParser:
    """Make what reads a script's arguments: families, and the folder in which its stage reads or writes.

    Args:
        script: The script's name.
        text: Its docstring, whose first line describes it.
        work: What is in that folder.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tests.golden.{script}", description=text.splitlines()[0])
    parser.add_argument("families", nargs="*", help="families; all of them if none is named")
    parser.add_argument("--work", required=True, type=Path, help=work)
    return parser
