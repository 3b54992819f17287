"""A complete model as it is written after full fine-tuning."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx_vlm
import numpy as np

from tests.models.load.test_config_translation import copy_checkpoint, logits, spell_anew
from tests.models.load.test_transformers5 import THETA
from vlora import models
from vlora.recipe.schema import ModelSection
from vlora.run.save import NOT_A_MODELS


def test_fully_fine_tuned_model_is_written_in_words_that_mlx_vlm_reads(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """What full fine-tuning of such a base writes needs no translation."""
    config = json.loads((checkpoint("mllama") / "config.json").read_text())
    config["text_config"]["rope_theta"] = THETA
    folder = copy_checkpoint(checkpoint("mllama"), tmp_path / "newer", spell_anew(config))
    section = ModelSection(path=str(folder))
    files = models.find_model(section)
    backbone, _ = models.load_backbone(files, section)
    (tmp_path / "saved").mkdir()
    models.save_model(backbone, files, tmp_path / "saved")
    assert not models.find_model(ModelSection(path=str(tmp_path / "saved"))).is_translated
    assert mlx_vlm.load(str(tmp_path / "saved"))[0].config.text_config.rope_theta == THETA
    np.testing.assert_array_equal(logits(tmp_path / "saved"), logits(folder))


def test_files_of_a_run_are_none_of_the_models(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A base may be what another run has trained, and evaluations have written there, too."""
    folder = tmp_path / "base"
    shutil.copytree(checkpoint("qwen3_vl"), folder)
    files = models.find_model(ModelSection(path=str(folder)))
    before = models.companions(files, NOT_A_MODELS)
    for name in ("metrics.jsonl", "predictions-eval.jsonl", "predictions-eval-base-train.jsonl"):
        (folder / name).write_text("{}")

    assert before
    assert models.companions(files, NOT_A_MODELS) == before
