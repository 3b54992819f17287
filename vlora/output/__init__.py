"""`[output]`: the files of a run, whole at every moment."""
