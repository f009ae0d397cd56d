"""The description of what a run was trained on, kept in its folder, so that the folder is enough to predict from:
sensors, statistics, classes, palette."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgma_jax.data.schema import Manifest, Schema
from sgma_jax.decoding import decode, upgraded
from sgma_jax.errors import InputError
from sgma_jax.files import write_atomically
from sgma_jax.runs.names import SCHEMA_FILE

FORMAT = "sgma_jax run schema"
VERSION = 2


def _logarithm_to_modality(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 1 listed the sensors in decibels; since version 2 each sensor says it itself."""
    logs, schema = fields["log_sensors"], fields["schema"]
    modalities = [{**modality, "log": modality["name"] in logs} for modality in schema["modalities"]]
    kept = {name: value for name, value in fields.items() if name != "log_sensors"}
    return {**kept, "schema": {**schema, "modalities": modalities}}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _logarithm_to_modality}


@dataclass(frozen=True)
class RunSchema:
    """The converted set that a run was trained on, as far as its model depends on it."""

    schema: Schema
    """The run's sensors in the run's order, with the statistics that normalised them."""
    manifest_hash: str
    """Of the whole set."""


def write_run_schema(folder: Path, schema: Schema, manifest: Manifest) -> None:
    """Write RUN/schema.json; `schema` holds the run's sensors of the manifest's set."""
    # Sets of before modalities said so themselves have it among their converter's options.
    logs = manifest.options.get("log_modalities", ())
    modalities = tuple(dataclasses.replace(m, log=m.log or m.name in logs) for m in schema.modalities)
    content = dataclasses.asdict(RunSchema(dataclasses.replace(schema, modalities=modalities), manifest.manifest_hash))
    text = json.dumps({"format": FORMAT, "version": VERSION, **content}, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / SCHEMA_FILE, text.encode())


def read_run_schema(folder: Path) -> RunSchema:
    """Return what `write_run_schema` wrote; InputError with the way out where a run is older than the file, or the file
    is damaged."""
    path = folder / SCHEMA_FILE
    again = (
        "Run the run's own `sgma train` command once more: it goes on where it stopped, also at the end, and writes "
        "the file."
    )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} has no {SCHEMA_FILE} with its sensors' statistics, because an older version trained it. {again}"
        ) from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}). {again}") from error
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
        raise InputError(f"{path} is no {FORMAT} (field 'format'). {again}")
    try:
        run_schema: RunSchema = decode(upgraded(fields, VERSION, MIGRATIONS), RunSchema)
    except InputError as error:
        raise InputError(f"{path}: {error} {again}") from error
    return run_schema
