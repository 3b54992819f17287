"""`[model]`: finds, checks and loads models and processors, and makes their parts trainable.

Most files are about one kind of file of a model's folder.
"""
