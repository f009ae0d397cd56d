"""Methods to compare SGMA with, each a change of a base preset: same encoder, data, budget and optimiser.

docs/experiments.md says what each simplifies.
"""
