"""The records of a family: what follows from their fields."""

from vlora.models.families.family import Family, Forward
from vlora.models.forward.lm_inputs import LAYOUTS, PadSpec


def test_how_answers_are_read() -> None:
    """What layers make of a token is kept, unless prompts have to be of one length, or rows are read anew."""
    assert Forward().reading == "kept"
    assert Forward(equal_prompts="states").reading == "equal"
    assert Forward(equal_prompts="states", rereads="an encoder").reading == "anew"


def test_inputs_of_its_own_are_padded_as_it_says() -> None:
    """They come besides those of all families, and win over them."""
    name, own = next(iter(LAYOUTS)), PadSpec()

    assert Forward().layouts == LAYOUTS
    assert Forward(own_inputs={"types": own, name: own}).layouts == {**LAYOUTS, "types": own, name: own}


def test_a_difference_holds_for_the_models_that_have_it() -> None:
    """A reason stands for all models of a family, or for those whose config.json says so."""
    every = Family(upstream_differs="why")
    some = Family(upstream_differs="why", differs_if=lambda config: config.get("experts", 0) > 1)

    assert every.difference({}) == some.difference({"experts": 2}) == "why"
    assert some.difference({}) is None
    assert Family().difference({}) is None
