"""The folder beside a map in which its finished rows wait until the map is whole: what --resume and --merge go on
from."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sgma_jax.errors import InputError, is_disk_full
from sgma_jax.files import locked, write_atomically

JOURNAL = "journal.json"


def parts_folder(out: Path) -> Path:
    """Return the folder in which the rows of a map wait."""
    return out.with_name(out.name + ".parts")


class Parts:
    """Rows of a map by unit (the rows that become final with a row of windows), each complete or not there."""

    def __init__(self, folder: Path, journal: Mapping[str, Any]) -> None:
        self.folder, self.journal = folder, dict(journal)

    def __contains__(self, unit: int) -> bool:
        return self._path(unit).is_file()

    def write(self, unit: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a unit's rows; afterwards they survive a kill."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_atomically(self._path(unit), zlib.compress(buffer.getbuffer(), 1))

    def read(self, unit: int) -> dict[str, np.ndarray]:
        """A unit's rows; InputError where the file is damaged."""
        path = self._path(unit)
        try:
            with np.load(io.BytesIO(zlib.decompress(path.read_bytes()))) as arrays:
                return dict(arrays)
        except (OSError, ValueError, zlib.error) as error:
            raise InputError(
                f"{path} cannot be read ({error}). Remove it and run the same command with --resume."
            ) from error

    def stored_bytes(self) -> int:
        """Return the bytes that all rows take on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("rows_*"))

    def remove(self) -> None:
        """Remove the folder, once the map is whole."""
        shutil.rmtree(self.folder)

    def _path(self, unit: int) -> Path:
        return self.folder / f"rows_{unit:06}"


@contextlib.contextmanager
def open_parts(
    out: Path, journal: Mapping[str, Any], resume: bool, shard: tuple[int, int], units: range
) -> Iterator[Parts]:
    """The parts of a map that is about to be computed, held for this process alone.

    With `resume`, or where other shards are at work, what is there stays and must be of the same prediction; `units`
    are those of this shard, which are begun anew without `resume`. InputError where the folder cannot be written or
    is of something else.
    """
    folder, journal = parts_folder(out), json.loads(json.dumps(journal))
    with writable(folder):
        folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as holding:
        try:
            holding.enter_context(locked(folder / f"lock_{shard[0]}_{shard[1]}"))
        except BlockingIOError as error:
            raise InputError(
                f"{out}: another process is predicting it right now. Wait for it, or choose another --out."
            ) from error
        except OSError:  # a file system that knows no locks is no obstacle
            pass
        found = _read_journal(folder)
        if found is not None and found != journal:
            changed = sorted(k for k in found.keys() | journal.keys() if found.get(k) != journal.get(k))
            if resume or shard[1] > 1:
                raise InputError(
                    f"{folder} is of a prediction with other {', '.join(changed)}. Run that command again, or remove "
                    f"the folder to begin anew."
                )
        parts = Parts(folder, journal)
        with writable(folder):
            if not resume:
                for path in folder.glob("rows_*") if shard[1] == 1 else map(parts._path, units):
                    path.unlink(missing_ok=True)
            if found != journal:
                write_atomically(folder / JOURNAL, (json.dumps(journal, indent=1) + "\n").encode())
        yield parts


def read_parts(out: Path) -> Parts:
    """The parts that shards have left; InputError where there are none."""
    folder = parts_folder(out)
    journal = _read_journal(folder) if folder.is_dir() else None
    if journal is None:
        raise InputError(
            f"{folder} does not exist or has no {JOURNAL}: there is nothing to merge. Run `sgma predict ... --shard "
            f"I/N` first."
        )
    return Parts(folder, journal)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an InputError that names the path; a full disk stays what it is."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{path} cannot be written ({error.strerror or error}). Choose another --out.") from error


def _read_journal(folder: Path) -> dict[str, Any] | None:
    try:
        journal: dict[str, Any] = json.loads((folder / JOURNAL).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / JOURNAL} cannot be read ({error}). Remove the folder {folder} to begin anew."
        ) from error
    return journal


def fsync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
