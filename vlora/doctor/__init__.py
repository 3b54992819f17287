"""Proofs of vlora on the machine that it runs on: `checks` runs them, the other files hold them by what they check."""
