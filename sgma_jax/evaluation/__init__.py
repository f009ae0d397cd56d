"""Scores of every subset of the sensors, of sensors that fail in part, and what the features look like."""
