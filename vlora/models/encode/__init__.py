"""From a `Sample` to an `Example`: what a model reads."""
