"""First stage of the golden files of preferences, in vlora's environment: writes down what TRL has to reproduce.

    python -m tests.golden.preference_prepare --work /tmp/golden
    .venv-reference/bin/python -m tests.golden.preference_reference --work /tmp/golden

Beside what `prepare` writes of a family: `pairs.json`, the texts of prompts and answers; `pairs.safetensors`, the ids
that vlora makes of them.
"""

import vlora  # noqa: F401 - before anything imports mlx: it binds a fast BLAS

# isort: split

import argparse
import json
from pathlib import Path

import mlx.core as mx
import numpy as np

from vlora import models
from vlora.types import Example

from .preference_cases import FAMILIES, IMAGES
from .preference_side import encode_pairs, open_encoder
from .prepare import as_arrays, prepare


def spell_apart(encoder: models.Encoder, text: str, example: Example) -> str:
    """Give an answer's text as it has to be written to have its ids where it is tokenized apart from its prompt.

    SentencePiece begins every text with a space of its own.
    """
    places = np.flatnonzero(example.supervised)
    ids = example.tokens[places[0] : places[-1] + 1].tolist()
    return text if encoder.tokens([text])[0] == ids else text.removeprefix(" ")


def prepare_pairs(folder: Path) -> None:
    """Write the pairs of a family."""
    encoder = open_encoder(folder / "model")
    texts = []
    arrays: dict[str, np.ndarray] = {}
    for name, pair in zip(IMAGES, encode_pairs(encoder), strict=True):
        chosen, rejected = (spell_apart(encoder, *side) for side in zip(pair.texts, pair.examples, strict=True))
        texts.append({"name": name, "prompt": pair.prompt, "chosen": chosen, "rejected": rejected})
        for side, example in zip(("chosen", "rejected"), pair.examples, strict=True):
            arrays |= {f"{name}.{side}.tokens": example.tokens}
            arrays |= {f"{name}.{side}.supervised": example.supervised.astype(np.int32)}
    mx.save_safetensors(str(folder / "pairs.safetensors"), as_arrays(arrays))
    (folder / "pairs.json").write_text(json.dumps(texts))


def main() -> None:
    """Prepare all families."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.preference_prepare")
    parser.add_argument("--work", required=True, type=Path, help="where to write")
    options = parser.parse_args()
    for family in FAMILIES:
        (options.work / family).mkdir(parents=True, exist_ok=True)
        prepare(family, options.work / family)
        prepare_pairs(options.work / family)


if __name__ == "__main__":
    main()
