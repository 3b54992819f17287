"""What steps measure, as numbers."""

import pytest

from vlora.measured import add_measured, find_means


def test_means_weigh_terms() -> None:
    """A step of three pairs weighs three times as much as one of one pair; what only one of them has is kept."""
    total = add_measured({"rewards/chosen": (3.0, 3.0)}, {"rewards/chosen": (5.0, 1.0), "kl": (1.0, 2.0)})

    assert find_means(total) == pytest.approx({"rewards/chosen": 2.0, "kl": 0.5})
    assert add_measured({}, total) == total


def test_what_has_no_terms_has_no_mean() -> None:
    """An interval without an unwanted answer tells nothing of such, and no margin."""
    found = find_means({"rewards/chosen": (2.0, 2.0), "rewards/rejected": (0.0, 0.0)})

    assert found == {"rewards/chosen": 1.0}


def test_margins_of_answers_without_pairs_are_between_their_means() -> None:
    """As TRL has them; those of pairs stay what was measured."""
    unpaired = {"rewards/chosen": (2.0, 2.0), "rewards/rejected": (-1.0, 2.0)}

    assert find_means(unpaired)["rewards/margins"] == 1.5
    assert find_means({**unpaired, "rewards/margins": (4.0, 2.0)})["rewards/margins"] == 2.0
