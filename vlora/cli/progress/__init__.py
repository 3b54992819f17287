"""Progress of a run: its current activity, the share that is done, and the remaining time, as a line of text."""
