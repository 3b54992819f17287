"""The entry point of mlx-vlm's older script, for programs that call it: change one import and they run.

from vlora.lora import main
main(argparse.Namespace(dataset="rows.jsonl", lora_rank=16))
"""

import argparse
import shlex
import sys

from .cli.main import main as run
from .cli.screen import Screen
from .cli.train import train
from .output.paths import RECIPE_NAME, output_paths
from .recipe.legacy import overrides_from
from .recipe.parse import parse_recipe


def main(args: argparse.Namespace) -> None:
    """Fine-tune as the options say.

    Args:
        args: The older script's options by their names; what is missing or None has its default.

    Raises:
        VloraError: Whatever the user can mend.
    """
    recipe = parse_recipe("", overrides_from(vars(args)))
    written = output_paths(recipe).folder / RECIPE_NAME
    go_on = shlex.join(["python", "-m", "vlora", str(written), "--resume"])
    train(recipe, Screen(highlight=False), go_on=go_on)


if __name__ == "__main__":
    sys.exit(run())
