"""Searches: runs of one experiment whose options Optuna chooses, each learning from those before it.

`study` and `suggest` need Optuna, which is an extra; `target` and `check` what runs are made of.
"""
