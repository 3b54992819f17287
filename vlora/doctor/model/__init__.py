"""Checks of a model: whether it can be opened and trained, and whether its batches are right; `checks` has all."""
