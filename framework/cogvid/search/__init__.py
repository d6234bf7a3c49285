"""Searches: runs of one experiment whose options Optuna chooses, each learning from those before it.

Only `study` and `suggest` need Optuna, and only `target` needs what runs are made of.
"""
