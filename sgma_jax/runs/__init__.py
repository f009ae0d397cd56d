"""A run's folder: every file in it, written and read here."""
