"""What is kept of rows while they are counted: numbers, repeats, answers."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from vlora.report.tally import CLASS_LENGTH, MOST_ANSWERS, Answers, Repeats, RowNumbers

keys = st.lists(st.integers(0, 5), max_size=30)


@given(keys)
def test_repeats_are_counted(found: list[int]) -> None:
    """Each thing once less than it occurs; its rows are one group, those of the most rows first."""
    repeats = Repeats()
    for row, key in enumerate(found):
        assert repeats.add(key, row) == found.index(key)

    groups = [[row for row, other in enumerate(found) if other == key] for key in dict.fromkeys(found)]
    assert sum(map(len, repeats.again.values())) == len(found) - len(set(found))
    assert repeats.groups() == sorted((g for g in groups if len(g) > 1), key=lambda g: (-len(g), g[0]))


def test_a_thing_twice_in_one_row_is_no_repeat() -> None:
    """A row may show one image twice."""
    repeats = Repeats()
    repeats.add(1, 7)
    repeats.add(1, 7)

    assert (repeats.again, repeats.groups()) == ({}, [])


@given(keys, keys)
def test_shared_things_are_found(valid: list[int], train: list[int]) -> None:
    """Every row of a thing that is in the other collection, with the first row there."""
    one, other = Repeats(), Repeats()
    for row, key in enumerate(valid):
        one.add(key, row)
    for row, key in enumerate(train):
        other.add(key, row)

    assert sorted(one.shared(other)) == [(row, train.index(key)) for row, key in enumerate(valid) if key in train]


def test_the_longest_rows() -> None:
    """The longest first, of equal ones the first."""
    numbers = RowNumbers(rows=array("q", [4, 2, 9, 7]), n_tokens=array("q", [5, 8, 8, 6]))

    assert numbers.longest(3) == [2, 9, 7]
    assert numbers.longest(99) == [2, 9, 7, 4]


def test_classes_are_few_short_answers() -> None:
    """Answers that differ in most rows, or are long, are no classes."""
    few, many, long = Answers(), Answers(), Answers()
    for number in range(40):
        few.add("yes" if number % 3 else "no")
        many.add(str(number))
        long.add("a" * (CLASS_LENGTH + 1))

    assert few.are_classes()
    assert few.counts == {"yes": 26, "no": 14}
    assert not many.are_classes()
    assert not long.are_classes()
    assert (long.n_other, long.n_rows) == (40, 40)
    assert not Answers().are_classes()


def test_memory_is_bounded() -> None:
    """Of too many different answers no more are kept."""
    answers = Answers()
    for number in range(MOST_ANSWERS + 5):
        answers.add(str(number))
    answers.add("0")

    assert len(answers.counts) == MOST_ANSWERS
    assert (answers.n_other, answers.counts["0"]) == (5, 2)
