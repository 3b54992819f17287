"""Reads rows from files, folders, saved data sets and the hub, with values as they are written."""
