"""`[model]`: models and processors found, checked, loaded, and what of them is trained.

Most files are about one kind of file that a model consists of; there are more of those than a folder has otherwise.
"""
