"""Settings of PEFT that are not read are refused, and so are layers that a configuration names and a file lacks."""

from typing import Any

import pytest

from vlora.errors import CheckpointError
from vlora.models.published.peft_settings import check_settings, find_missing

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
LAYERS = [f"model.layers.{depth}.{name}" for depth in (0, 1) for name in ("q_proj", "k_proj", "up_proj")]
KNOWN = {f"{name}.weight": f"{name}.weight" for name in (*LAYERS, "model.tower.layers.0.q_proj", "model.embed_tokens")}
TIED = KNOWN | {"lm_head.weight": "model.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"peft_type": "VERA"}, "type 'VERA'"),
        ({"use_qalora": True}, "use_qalora: found True"),
        ({"use_bdlora": {}}, "use_bdlora: found {}"),
        ({"r": True}, "r: found True"),
        ({"init_lora_weights": "pissa_niter_4"}, "its base is not the published one"),
        ({"target_parameters": "*x"}, "target_parameters: found '\\*x', which is no pattern"),
        ({"modules_to_save": [1]}, "modules_to_save: found \\[1\\], expected a list of names"),
    ],
)
def test_settings_that_are_not_read_are_refused(changes: dict[str, Any], told: str) -> None:
    """The sentence names the file, the setting, and what it has."""
    check_settings({**PLAIN, "use_qalora": False, "use_bdlora": None, "target_modules": "all-linear"}, "file")
    with pytest.raises(CheckpointError, match=f"^file: .*{told}"):
        check_settings(PLAIN | changes, "file")


def missing(adapted: list[str], whole: tuple[str, ...] = (), **config: Any) -> str | None:
    return find_missing(config, TIED, {f"{name}.weight" for name in adapted}, set(whole))


@pytest.mark.parametrize(
    "targets", [LAYERS, ["q_proj", "k_proj", "up_proj"], r".*layers\.\d+\.(q_proj|k_proj|up_proj)"]
)
def test_a_layer_is_missing_where_others_of_its_kind_are_there(targets: Any) -> None:
    """Whatever names it; a tower's layers, of which none is there, are another kind."""
    assert missing(LAYERS, target_modules=targets) is None
    lacking = [name for name in LAYERS if name != "model.layers.1.up_proj"]
    assert missing(lacking, target_modules=targets) == "model.layers.1.up_proj"


def test_layers_that_settings_leave_out_are_not_missing() -> None:
    """Excluded ones, those of other depths, and those that are not read, as of layers that share others' keys."""
    lacking = [name for name in LAYERS if name != "model.layers.1.up_proj"]
    ends = ["q_proj", "up_proj"]
    assert missing(lacking, target_modules=ends, exclude_modules=["layers.1.up_proj"]) is None
    assert missing(lacking, target_modules=ends, layers_to_transform=[0]) is None
    shared = [name for name in LAYERS if name != "model.layers.1.k_proj"]
    assert missing(shared, target_modules=["k_proj"]) == "model.layers.1.k_proj"
    read = {name: other for name, other in TIED.items() if name != "model.layers.1.k_proj.weight"}
    assert find_missing({"target_modules": LAYERS}, read, {f"{name}.weight" for name in shared}, set()) is None


def test_tables_and_experts_that_are_named_have_to_be_there() -> None:
    """A tied head is there where its table is; names that the model does not have are PEFT's to pass over."""
    table = ("model.embed_tokens.weight",)
    assert missing([], modules_to_save=["lm_head"]) == "lm_head"
    assert missing([], table, modules_to_save=["lm_head", "embed_tokens", "score"]) is None
    known = {"model.mlp.experts.down_proj": "model.mlp.experts.down_proj"}
    config = {"target_parameters": [*known, "mlp.experts.gate_up_proj"]}
    assert find_missing(config, known, {}, {}) == "model.mlp.experts.down_proj"
    assert find_missing(config, known, known, {}) is None
