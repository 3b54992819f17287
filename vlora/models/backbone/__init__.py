"""A model as the training step needs it."""
