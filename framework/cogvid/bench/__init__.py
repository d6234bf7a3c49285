"""Benchmarks: what claims to compute the same is checked first, and only then timed."""
