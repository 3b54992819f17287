"""Measurements, each a program of its own; vlora imports nothing from here."""
