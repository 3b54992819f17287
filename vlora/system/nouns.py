"""Numbers with what they count, as sentences have them."""


def with_noun(number: int, noun: str, *, commas: bool = True) -> str:
    """Write a number and its noun, in the plural unless there is one: "1 row", "1,497 rows".

    Args:
        number: How many there are.
        noun: What is counted, in the singular; its plural ends with s.
        commas: Whether thousands are set apart.
    """
    written = f"{number:,}" if commas else str(number)
    return f"{written} {noun}" if number == 1 else f"{written} {noun}s"
