"""Recipes: what their sections and keys are, how a file is read, what contradicts."""
