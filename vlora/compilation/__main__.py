"""Starts a worker, which imports only MLX, so that it begins at once.

Run as a file, and not as `python -m`, which would import vlora: its folder is given to Python as a package that stands
alone. So the worker's modules import each other and MLX, and nothing else of vlora.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

NAME = "vlora_compilation"
"""Name of the package in this process."""

if __name__ == "__main__":
    start = Path(__file__).with_name("__init__.py")
    spec = importlib.util.spec_from_file_location(NAME, start, submodule_search_locations=[str(start.parent)])
    if spec is not None:
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        importlib.import_module(f"{NAME}.worker").main()
