"""Runs that are killed before every change of their folders and at random moments, resumed, and compared."""
