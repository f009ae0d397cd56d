"""A run's folder: its configuration, and where what must outlive the machine is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from sgma_jax.config import MAY_CHANGE, TrainConfig, differences, from_json, to_json
from sgma_jax.distributed import from_writer, is_writer, wait_for_all
from sgma_jax.errors import InputError
from sgma_jax.files import locked, write_atomically
from sgma_jax.runs.names import CHECKPOINTS, CONFIG_FILE, LOCK, METRICS_FILE, SCHEMA_FILE, STARTS_FILE

COPIED = (CONFIG_FILE, SCHEMA_FILE, METRICS_FILE, STARTS_FILE)
"""Files of a run of which `config.storage` keeps a copy."""


def prepare_run(folder: Path, config: TrainConfig) -> None:
    """Write the configuration into a new run's folder, or check that an existing run is of the same experiment.

    One process writes; all return when it is there. Raises InputError for a run of another preset, naming the fields
    that differ.
    """
    path = folder / CONFIG_FILE
    if path.exists():
        different = [d for d in differences(read_config(folder), config) if d not in MAY_CHANGE]
        if different:
            raise InputError(
                f"{path} is of another experiment (it differs in {', '.join(different)}). Use another --workdir, or "
                f"the run's own preset."
            )
    elif folder.exists() and (folder / CHECKPOINTS).exists():
        raise InputError(
            f"{folder} holds checkpoints but no {CONFIG_FILE}; restore that file or use another --workdir."
        )
    wait_for_all("looked at the run's configuration")
    if is_writer():
        write_atomically(path, to_json(config).encode())
    wait_for_all("wrote the run's configuration")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process, which must be the one that writes; InputError where another trains into it.

    The system lets go when the process ends in any way. A file system that knows no locks is no obstacle. A folder
    that was not there, and that nothing was written into, is gone afterwards.
    """
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK))
        except BlockingIOError as error:
            raise InputError(
                f"another process is training into {folder}. Wait until it ends, or choose another --workdir."
            ) from error
        except OSError:
            pass
        try:
            yield
        finally:
            if fresh and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()


def read_config(folder: Path) -> TrainConfig:
    """The configuration of a run; InputError where the folder is no run."""
    path = folder / CONFIG_FILE
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{folder} is not a run: it has no {CONFIG_FILE}. Give the --workdir of a `sgma train`."
        ) from error
    try:
        return from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def kept_in(folder: Path, config: TrainConfig | None = None) -> epath.Path:
    """The folder that holds a run's checkpoints: what its configuration names as storage, or the run's own.

    While training, the configuration is given: a host need not see the run's folder.
    """
    if config is None and (folder / CONFIG_FILE).exists():
        config = read_config(folder)
    storage = config.storage if config else ""
    return epath.Path(storage if in_bucket(storage) else Path(storage or folder).absolute())


def in_bucket(path: object) -> bool:
    """Return whether a path is an object store's, and no file system's."""
    return "://" in str(path)


def fetch_copies(folder: Path, config: TrainConfig) -> bool:
    """Where a run's folder is gone or new and its storage has a run, bring the copied files back; whether that was so.

    Raises InputError where the storage cannot be reached.
    """
    if not config.storage or not is_writer():
        return from_writer(False)
    try:
        storage = epath.Path(config.storage)
        lost = not (folder / CONFIG_FILE).exists() and (storage / CONFIG_FILE).exists()
        if lost:
            for name in sorted(
                COPIED, key=lambda name: name == CONFIG_FILE
            ):  # the configuration last: with it the folder is a run
                if (storage / name).exists():
                    write_atomically(folder / name, (storage / name).read_bytes())
    except Exception as error:  # every file system has its own kinds
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"storage: {config.storage} cannot be reached ({type(error).__name__}: {reason}). "
            "gs:// needs `pip install 'sgma_jax[cloud]'` and the machine's credentials for the bucket."
        ) from error
    return from_writer(lost)


def keep_copies(folder: Path, config: TrainConfig) -> None:
    """Copy the run's small files to its storage, where it has one; each is the old or the new one."""
    if not config.storage or not is_writer():
        return
    storage = epath.Path(config.storage)
    storage.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (folder / name).exists():
            content = (folder / name).read_bytes()
            if in_bucket(storage):
                (storage / name).write_bytes(content)  # a bucket's objects are there as a whole or not
            else:
                write_atomically(Path(storage / name), content)
