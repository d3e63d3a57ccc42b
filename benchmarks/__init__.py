"""Benchmarks: `python -m benchmarks` runs them, `python -m benchmarks --readme` puts their results into the README."""
