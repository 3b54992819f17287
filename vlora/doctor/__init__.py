"""Checks of vlora on this machine: `checks` runs them, the other files have them by subject."""
