"""Each record's own confusion matrices (evaluation/<split>_records.npz): what intervals over the tiles of a split
are computed from."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from sgma_jax.errors import InputError
from sgma_jax.files import write_atomically


class RecordConfusions(NamedTuple):
    """The confusion matrices of a split's records; summed over the records they are those of
    evaluation/<split>.json."""

    ids: tuple[str, ...]
    """The records' own names, in the split's order."""
    subsets: tuple[tuple[str, ...], ...]
    """Subsets of the sensors."""
    confusions: Int[np.ndarray, "records subsets classes classes"]
    """int32 pixels by label (row) and prediction (column)."""


def write_record_confusions(path: Path, records: RecordConfusions) -> None:
    """Write the file, whole or not at all."""
    buffer = io.BytesIO()
    subsets = ["+".join(subset) for subset in records.subsets]  # a sensor's name has no plus
    np.savez_compressed(
        buffer, ids=np.array(records.ids), subsets=np.array(subsets), confusions=records.confusions.astype(np.int32)
    )
    write_atomically(path, buffer.getvalue())


def read_record_confusions(path: Path) -> RecordConfusions:
    """Return what `write_record_confusions` wrote. InputError where the file is missing or damaged."""
    again = "Write it with `sgma evaluate`."
    try:
        with np.load(path) as file:
            ids, subsets, confusions = (file[name] for name in ("ids", "subsets", "confusions"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. {again}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error}). {again}") from error
    return RecordConfusions(tuple(map(str, ids)), tuple(tuple(str(s).split("+")) for s in subsets), confusions)
