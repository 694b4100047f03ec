"""Checks of a raw data set; each gives findings that say what, where and what is allowed."""
