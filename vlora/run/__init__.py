"""A run: rows in, steps taken, files written, events out."""
