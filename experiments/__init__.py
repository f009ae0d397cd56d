"""Presets: one file an experiment. Each opens with what it reproduces, the expected score, the cost and the command."""
