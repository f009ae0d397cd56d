"""Files of what was found out about a run on a split, under RUN/evaluation: where each lies, written and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from sgma_jax.decoding import plain, upgraded
from sgma_jax.errors import InputError
from sgma_jax.files import write_atomically

Result = Literal[".json", "_corruptions.json", "_analysis.json", "_records.npz"]
"""Scores of every subset, of failing sensors, separability and robustness, and each record's own counts."""
VERSION = 1
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def result_file(folder: Path, split: str, what: Result = ".json", missing: str = "skip") -> Path:
    """Return the path of a result; `missing` is what absent sensors were ("skip" or "zero")."""
    return folder / "evaluation" / f"{split if missing == 'skip' else f'{split}_{missing}'}{what}"


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result whole or not at all; numbers that are not finite become null."""
    text = json.dumps({"version": VERSION, **plain(result)}, indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def read_result(path: Path) -> dict[str, Any]:
    """Return what `write_result` of this or an earlier version wrote.

    Raises InputError for a file that is damaged, missing or of a newer version.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}). Restore the file, or write it again.") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} holds no result. Restore the file, or write it again with `sgma evaluate`.")
    try:
        return upgraded(fields, VERSION, MIGRATIONS)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
