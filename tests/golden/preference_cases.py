"""What is compared with TRL's trainers of preferences, as data for both sides: it needs neither MLX nor torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .cases import ROWS

FAMILIES = ("qwen2_vl", "qwen3_vl", "llava", "gemma3", "idefics3")
STEPS, PAIRS_OF_A_STEP, ROWS_OF_A_STEP = 10, 2, 4
"""Of KTO, whose rows have one answer, a step has as many answers as of the others."""

WORSE = {
    "one": "two hats",
    "tall": "no",
    "other": "The sky is yellow.",
    "longer": "three",
    "wide": "a red square and a yellow house",
    "text": "There are three of them.",
}
"""By the name of a row of `cases.ROWS`, whose own answer is the better one: another answer."""

PRECISIONS: Mapping[str, str] = {"lora": "linears", "4 bit": "qlora"}
"""By name the run of `cases.RUNS` that opens the model: adapters on all linear layers of the language model. The
reference of 4 bit trains on the dequantized weights."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What is minimised.

    Attributes:
        objective: As `train.objective`.
        name: As `preference.loss`.
        parts: Instead of it several losses, with their weights.
        keys: Further keys of the section `preference`.
        rate: The learning rate of the steps: lower where gradients are larger by far, or where rounding would grow.
        source: Whose numbers they are: TRL's trainer, or the published formula, written down in torch.
        everywhere: All families are compared, with adapters on weights of either precision; otherwise one is.
    """

    objective: Literal["dpo", "kto", "orpo", "cpo"] = "dpo"
    name: str
    parts: Mapping[str, float] = field(default_factory=dict)
    keys: Mapping[str, float] = field(default_factory=dict)
    rate: float = 0.5
    source: Literal["trl", "formula"] = "trl"
    everywhere: bool = True


LOSSES: Mapping[str, Loss] = {
    "sigmoid": Loss(name="sigmoid"),
    "ipo": Loss(name="ipo", rate=0.005),
    # At 0.5 ten steps on Qwen3-VL in 4 bit let rounding grow two hundred times: TRL in float32 was 1.8e-4 from TRL in
    # float64, and on two threads 4e-5 from itself. At 0.3 all runs are within 5e-6 of float64.
    "hinge": Loss(name="hinge", rate=0.3),
    "robust": Loss(name="robust", keys={"label_smoothing": 0.1}),
    "apo_zero": Loss(name="apo_zero"),
    "kto": Loss(objective="kto", name="kto"),
    "orpo": Loss(objective="orpo", name="orpo", rate=0.1, source="formula"),
    "cpo": Loss(objective="cpo", name="sigmoid", rate=0.1, source="formula"),
    "simpo": Loss(
        objective="cpo", name="simpo", keys={"beta": 2.0, "gamma": 1.0, "nll_weight": 0.0}, rate=0.1, source="formula"
    ),
    "cdpo": Loss(name="sigmoid", keys={"label_smoothing": 0.1}, source="formula"),
    "apo_down": Loss(name="apo_down", everywhere=False),
    "bco_pair": Loss(name="bco_pair", everywhere=False),
    "nca_pair": Loss(name="nca_pair", everywhere=False),
    "sigmoid_norm": Loss(name="sigmoid_norm", everywhere=False),
    "sppo_hard": Loss(name="sppo_hard", rate=0.001, everywhere=False),
    "apo_zero_unpaired": Loss(objective="kto", name="apo_zero_unpaired", everywhere=False),
    "kto_weighted": Loss(
        objective="kto",
        name="kto",
        keys={"desirable_weight": 1.3, "undesirable_weight": 0.7},
        everywhere=False,
    ),
    # TRL's "sft" is a mean over the tokens of a batch, MPO's over those of each answer.
    "mpo": Loss(
        name="sigmoid",
        parts={"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0},
        rate=0.1,
        source="formula",
        everywhere=False,
    ),
    "dpop": Loss(name="sigmoid", keys={"dpop": 50.0}, rate=0.02, source="formula", everywhere=False),
    "cpo_hinge": Loss(objective="cpo", name="hinge", rate=0.1, source="formula", everywhere=False),
    "cpo_ipo": Loss(objective="cpo", name="ipo", rate=0.005, source="formula", everywhere=False),
}
"""By the name of a run; beta is 0.1 where none is given."""

THOROUGH = "qwen3_vl"
"""The family that all losses are compared with."""

RUNS = [
    (family, precision, run)
    for family in FAMILIES
    for precision in PRECISIONS
    for run, loss in LOSSES.items()
    if loss.everywhere or (family, precision) == (THOROUGH, "lora")
]
"""(family, precision, run) of all runs."""

IMAGES = tuple(name for name in WORSE if ROWS[name].sizes)
"""Rows that have an image: TRL's trainers of pictures read no others."""


def get_settings(loss: Loss) -> dict[str, Any]:
    """Give the keys of a loss, with the defaults of vlora's recipe."""
    return {"beta": 0.1, "label_smoothing": 0.0, "gamma": 0.5, "nll_weight": 1.0, "dpop": 0.0, **loss.keys}
