"""The releases that tables of proofs are written for."""

import argparse

from vlora.models.proven_versions import PROVEN, describe_versions, installed_versions


def check_versions(parser: argparse.ArgumentParser) -> None:
    """Refuse to write a table for other releases than those that `vlora.models.proven_versions` names."""
    if (installed := installed_versions()) != PROVEN:
        parser.error(
            f"--write: found {describe_versions(installed)}, the table is of {describe_versions(PROVEN)}; "
            "change PROVEN in vlora/models/proven_versions.py once all proofs hold"
        )
