"""Proofs of vlora on the machine that it runs on."""
