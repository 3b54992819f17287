"""The command that asks a trained model is one that a shell reads as it was meant."""

import shlex
from pathlib import Path

import attrs
import pytest

from tests.run_events import FINISHED
from vlora.report.run.commands import ask_command


@pytest.mark.parametrize("adapter", [None, Path("a b/adapters.safetensors")])
@pytest.mark.parametrize("image", [None, Path("it's/example.png")])
def test_a_command_to_ask(adapter: Path | None, image: Path | None) -> None:
    """Paths with blanks and quotes stay whole; what there is not is not named."""
    event = attrs.evolve(
        FINISHED, model="a model", adapter=adapter, example_image=image, example_question="What's this?\n$HOME"
    )

    parts = shlex.split(ask_command(event))

    options = dict(zip(parts[3::2], parts[4::2], strict=True))
    assert parts[:3] == ["python", "-m", "mlx_vlm.generate"]
    assert options.pop("--prompt") == "What's this?\n$HOME"
    assert options.pop("--adapter-path", None) == (None if adapter is None else str(adapter))
    assert options.pop("--image", None) == (None if image is None else str(image))
    assert options == {"--model": "a model", "--max-tokens": "8", "--temperature": "0"}
