"""The entry point of mlx-vlm's older script, for programs that call it: change one import and they run.

from vlora.lora import main
main(argparse.Namespace(dataset="rows.jsonl", lora_rank=16))
"""

import argparse

from rich.console import Console

from .cli import run, train
from .options import overrides_from
from .recipe import parse_recipe


def main(args: argparse.Namespace) -> None:
    """Fine-tune as the options say.

    Args:
        args: The older script's options by their names; what is missing or None has its default.

    Raises:
        VloraError: Whatever the user can mend.
    """
    train(parse_recipe("", overrides_from(vars(args))), Console(highlight=False))


if __name__ == "__main__":
    run()
