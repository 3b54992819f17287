"""Rows chosen, looked at, and shown on a page."""
