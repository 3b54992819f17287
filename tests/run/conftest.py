"""Fixtures that several files of whole runs share."""

from tests.run.test_fit import rows

__all__ = ["rows"]
