"""`python -m vlora`."""

from .cli import run

run()
