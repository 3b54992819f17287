"""`[data]`: from rows of files to batches."""
