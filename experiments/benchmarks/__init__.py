"""Benchmarks: each compares alternatives in one run, in turn, and prints ratios. Results with date and machine:
docs/benchmarks.md."""
