"""Numbers as people read them: bytes and counts with a unit."""


def format_bytes(nbytes: int) -> str:
    """Write a number of bytes, decimal: "1.50 GB"."""
    for size, unit in ((1e9, "GB"), (1e6, "MB")):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes / 1e3:.2f} kB"


def format_count(number: int) -> str:
    """Write a number of parameters: "2.21B"."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)
