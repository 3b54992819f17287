"""A model as the training step needs it.

`backbone` is what the step calls; every other file answers one question about a model or its tower.
"""
