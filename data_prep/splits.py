"""Splits that a user writes by hand: a table of two columns, what (a tile, an area, a city, a map) and which split."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Collection
from pathlib import Path

from sgma_jax.errors import InputError

WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
    "none": "",
}
"""Values of the column `split`; "none" leaves something out on purpose."""


def read_splits(path: Path, column: str, known: Collection[str]) -> dict[str, str]:
    """The CSV of `--splits FILE` with the header `<column>,split`: name -> train, validation or test.

    What the file does not name, or names with the split "none", is in no split and not in the result. InputError,
    naming line and column, for a name that is not in `known`, one that stands twice, an unknown split, and a file
    that gives nothing to train on.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [
                (number, [cell.strip() for cell in row])
                for number, row in enumerate(csv.reader(file), 1)
                if any(cell.strip() for cell in row)
            ]
    except FileNotFoundError:
        raise InputError(
            f"--splits names {path}, which does not exist. Give 'official', or a CSV with the columns {column},split."
        ) from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(
            f"{path} cannot be read as CSV in UTF-8 ({error}). Save it again as comma-separated values."
        ) from error
    if not rows or sorted(rows[0][1]) != sorted((column, "split")):
        found = ",".join(rows[0][1]) if rows else "nothing"
        raise InputError(
            f"{path}, line 1: the header is {found!r}, it should be '{column},split'. Correct the first line."
        )
    header = rows[0][1]
    splits: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in rows[1:]:
        if len(row) != 2:
            raise InputError(
                f"{path}, line {line}: {len(row)} cells for 2 columns. Give one {column} and one split a line."
            )
        name, word = row[header.index(column)], row[header.index("split")]
        if name not in known:
            close = difflib.get_close_matches(name, list(known), 1, 0.5)
            hint = f"Is {close[0]!r} meant?" if close else f"There are {', '.join(sorted(known)) or 'none'}."
            raise InputError(
                f"{path}, line {line}, column '{column}': {name!r} is not in the source. {hint} Correct or remove the "
                f"line."
            )
        if name in lines:
            raise InputError(
                f"{path}, line {line}, column '{column}': {name!r} stands in line {lines[name]} too. Keep one of the "
                f"two lines."
            )
        if word.lower() not in WORDS:
            raise InputError(
                f"{path}, line {line}, column 'split': {word!r} is no split. Write train, validation, test or none."
            )
        lines[name] = line
        splits[name] = WORDS[word.lower()]
    if "train" not in splits.values():
        raise InputError(f"{path}: no line gives a {column} to the training split. Give one at least.")
    return {name: split for name, split in splits.items() if split}
