"""Answers beside what was expected: records of them, metrics, and means with their intervals."""
