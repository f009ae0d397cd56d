"""Presets: Python files with `config = TrainConfig(...)`, or a run's config.json."""

from __future__ import annotations

import runpy
from pathlib import Path

from sgma_jax.config import TrainConfig, from_json
from sgma_jax.errors import InputError


def load_preset(path: Path) -> TrainConfig:
    """Return the `config` of a preset, or a run's config.json; InputError where the file has none."""
    if not path.is_file():
        raise InputError(
            f"{path}: no such preset. Give a Python file with `config = TrainConfig(...)`, such as experiments/demo.py."
        )
    if path.suffix == ".json":
        try:
            of_a_run: TrainConfig = from_json(path.read_text(encoding="utf-8"))
        except (InputError, ValueError) as error:
            raise InputError(f"{path}: {error}") from error
        return of_a_run
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:
        raise InputError(
            f"{path}: the preset cannot be run ({type(error).__name__}: {error}); correct the file."
        ) from error
    if not isinstance(config, TrainConfig):
        raise InputError(f"{path}: the preset defines no `config = TrainConfig(...)`; add it.")
    return config
