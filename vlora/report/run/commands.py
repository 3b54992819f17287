"""The commands that a run ends with. Pure."""

import shlex
from pathlib import Path

from ...events import Finished


def ask_command(event: Finished, kept: Path | None = None) -> str:
    """Write the command that asks the trained model through mlx-vlm.

    Args:
        event: The run's last.
        kept: A folder with another state of it, an adapter or a whole model; None for the last state.
    """
    adapter, model = event.adapter, event.model
    if kept is not None:
        adapter, model = (None, str(kept)) if adapter is None else (kept, model)
    parts = ["python", "-m", "mlx_vlm.generate", "--model", model]
    if event.revision is not None:
        parts += ["--revision", event.revision]
    if adapter is not None:
        parts += ["--adapter-path", str(adapter)]
    if event.example_image is not None:
        parts += ["--image", str(event.example_image)]
    parts += ["--prompt", event.example_question, "--max-tokens", str(event.max_new_tokens), "--temperature", "0"]
    return shlex.join(parts)
