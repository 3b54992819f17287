"""Cards: places of the machine are named by their last part, and metadata by the hub's keys."""

import attrs
import pytest

from vlora.export.card import Described, make_metadata, name_place, without_places, write_card

CARD = Described(
    repo="me/cats", base="some/model", has_hub_base=True, is_adapter=True, method="LoRA of rank 8 on 14 layers (sft)"
)


@pytest.mark.parametrize(
    ("place", "exists", "expected"),
    [
        ("some/model", False, ("some/model", True)),
        ("runs/first", True, ("first", False)),
        ("/home/me/rows.jsonl", False, ("rows.jsonl", False)),
        ("https://me:word@some.where/rows.jsonl?key=1", False, ("rows.jsonl?***", False)),
        ("builtin:digits", False, ("builtin:digits", False)),
    ],
)
def test_places(place: str, exists: bool, expected: tuple[str, bool]) -> None:
    """A hub id is told as it is, whatever else only by its last part."""
    assert name_place(place, exists=exists) == expected


def test_recipes() -> None:
    """Paths and secrets go, and everything else stays."""
    recipe = {
        "data.path": "/home/me/rows.jsonl",
        "data.system": "hf_" + "Zz09" * 8,
        "lora.rank": 8,
        "model.path": "a/b",
    }
    assert without_places(recipe, []) == {
        "data.path": "rows.jsonl",
        "data.system": "***",
        "lora.rank": 8,
        "model.path": "a/b",
    }


def test_sources() -> None:
    """Those of a mixture, too: only the last part of a path is told, and an id of the hub whole."""
    sources = [
        {"path": "/home/me/rows.jsonl", "weight": 2.0, "image_root": "/home/me/pictures"},
        {"path": "secret/rows", "columns": {"q": "question"}},
        {"path": "owner/charts", "system": "hf_" + "Zz09" * 8},
    ]

    assert without_places({"data.sources": sources}, ["data.sources[1].path"])["data.sources"] == [
        {"path": "rows.jsonl", "weight": 2.0, "image_root": "pictures"},
        {"path": "rows", "columns": {"q": "question"}},
        {"path": "owner/charts", "system": "***"},
    ]


def test_metadata() -> None:
    """An adapter and a whole model are told apart; nothing is said of a base that is not on the hub."""
    adapter = dict(make_metadata(CARD).__dict__)
    assert (adapter["base_model_relation"], "lora" in adapter["tags"]) == ("adapter", True)
    local = Described(repo="me/cats", base="base", has_hub_base=False, is_adapter=False, method="full fine-tuning")
    whole = {key: value for key, value in make_metadata(local).__dict__.items() if value is not None}
    assert not {"base_model", "base_model_relation", "datasets", "license"} & set(whole)
    text = write_card(local)
    assert 'load("me/cats")' in text
    assert "## Scores" not in text
    assert text.startswith("---\n")


def test_a_card_says_of_other_programs_what_they_take() -> None:
    """The rank that vLLM is told; of what it does not take, and PEFT not either, that there is a fused model."""
    served = write_card(attrs.evolve(CARD, vllm_rank=64))
    assert "--max-lora-rank 64 --lora-modules cats=" in served
    assert "a larger rank where" in served
    plain = write_card(CARD)
    assert "vllm serve" not in plain
    assert "With vLLM, which takes no such adapter, as one model" in plain
    assert "PeftModel.from_pretrained" in plain
    assert "PeftModel" not in write_card(attrs.evolve(CARD, has_peft_form=False))


def test_a_card_claims_nothing_of_a_model_of_which_nothing_is_known() -> None:
    """A fused folder does not say what it was made of; it was not trained whole."""
    text = write_card(Described(repo="me/cats", base="a model", has_hub_base=False, is_adapter=False, method=None))
    assert "do not say of which model, and how it was trained" in text
    assert "full fine-tuning" not in text


def test_peft_is_given_a_base_that_transformers_opens() -> None:
    """Where transformers opens a base only in a layout of its own, PEFT's lines name one in it, and no others do."""
    text = write_card(attrs.evolve(CARD, like="other/model-hf"))
    assert 'AutoModelForImageTextToText.from_pretrained("other/model-hf")' in text
    assert 'load("some/model"' in text
    assert 'from_pretrained("some/model")' in write_card(CARD)
