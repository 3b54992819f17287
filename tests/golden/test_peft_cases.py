"""Every family that vlora and transformers have is exchanged with PEFT, or its table says why not."""

from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as ALL_NAMES

from vlora.models.families.registry import FAMILIES as OWN
from vlora.models.published.transformers_names import OWN_NAMES, find_transformers_names

from .peft_cases import CALLED_OTHERWISE, FAMILIES, LEFT_OUT
from .peft_table import TABLE


def test_all_families_of_both_have_a_line() -> None:
    """A family that comes to both needs one; none that is exchanged is said to be left out."""
    shared = {family for family in OWN if family in NAMES}
    assert len(shared) > 30
    assert shared <= {*FAMILIES, *LEFT_OUT}
    assert not {*FAMILIES} & {*LEFT_OUT}


def test_families_that_are_called_otherwise_there_have_a_line_too() -> None:
    """Both names are those of today; such a family is exchanged once vlora knows transformers' name."""
    assert all(own in OWN and other in ALL_NAMES for own, other in {**CALLED_OTHERWISE, **OWN_NAMES}.items())
    assert {*OWN_NAMES} <= {*FAMILIES}
    assert [own for own in CALLED_OTHERWISE if find_transformers_names({"model_type": own}) is not None] == []


def test_names_of_all_families_of_both_are_known() -> None:
    """Where the table of names has nothing, an adapter would be written under names that match nothing."""
    shared = {family for family in OWN if family in NAMES}
    assert [family for family in shared if find_transformers_names({"model_type": family}) is None] == []


def test_the_table_has_them() -> None:
    """Families that are exchanged have a row, in which nothing failed, and the others a sentence."""
    text = TABLE.read_text()
    assert [name for name in FAMILIES if f"\n| {name} |" not in text] == []
    assert [name for name, why in LEFT_OUT.items() if f"- {name} is left out: {why}." not in text] == []
    assert "**|" not in text.replace(" ", "")
