"""`[model]`: models and processors found, checked, loaded, and what of them is trained."""
