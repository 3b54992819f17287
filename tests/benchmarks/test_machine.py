"""What a measurement says of the machine and the versions that it was made with."""

import importlib.metadata

import pytest

import vlora
from benchmarks import machine


def test_a_checkout_that_is_not_installed_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """An offline machine has the checkout alone; a package that is not there at all has no version."""

    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)

    assert machine.find_version("vlora") == vlora.__version__
    assert machine.find_version("mlx") is None
    assert machine.describe_host()["versions"] == {"vlora": vlora.__version__}
