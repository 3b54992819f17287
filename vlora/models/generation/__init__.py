"""Generates answers to batches of prompts with the forward that is trained."""
