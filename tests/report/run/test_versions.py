"""What takes part in a run is named with its version."""

import platform

import vlora
from vlora.report.run.versions import find_versions


def test_versions() -> None:
    """Of vlora, installed or not, of MLX, and of Python."""
    found = find_versions()

    assert found["vlora"] == vlora.__version__
    assert {"mlx", "mlx-vlm", "transformers"} <= found.keys()
    assert found["Python"] == platform.python_version()
