"""The commands that a run ends with. Pure."""

import shlex

from ...events import Finished


def ask_command(event: Finished) -> str:
    """Write the command that asks the trained model through mlx-vlm.

    Args:
        event: The run's last.
    """
    parts = ["python", "-m", "mlx_vlm.generate", "--model", event.model]
    if event.adapter is not None:
        parts += ["--adapter-path", str(event.adapter)]
    if event.example_image is not None:
        parts += ["--image", str(event.example_image)]
    parts += ["--prompt", event.example_question, "--max-tokens", str(event.max_new_tokens), "--temperature", "0"]
    return shlex.join(parts)
