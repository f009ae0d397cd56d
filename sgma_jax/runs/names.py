"""Names of the files and folders of a run, each once."""

from __future__ import annotations

CONFIG_FILE = "config.json"
"""The preset as it was trained."""
SCHEMA_FILE = "schema.json"
"""The data set's sensors, statistics and classes."""
METRICS_FILE = "metrics.jsonl"
"""Losses, scores and speed, a line each."""
STARTS_FILE = "starts.jsonl"
"""When training began or went on, by which command, on what."""
PRETRAINED_FILE = "pretrained.json"
"""Source of the encoder's first weights, where they were not random."""
CHECKPOINTS = "checkpoints"
EVALUATION = "evaluation"
"""Results, see `results.result_file`."""
PICTURES = "pictures"
