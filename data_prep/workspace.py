"""A converted set appears under its name when it is whole, and a conversion that fails leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import glob
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sgma_jax.data.schema import FORMAT, MANIFEST
from sgma_jax.errors import InputError, is_disk_full
from sgma_jax.files import locked

LOCK = "lock"


def check_target(out: Path, overwrite: bool) -> None:
    """Raise InputError where OUT must not be written. Commands ask before they start to read."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise InputError(
            f"{out} exists already. Choose another folder, or give --overwrite to replace the converted set in it."
        )
    # A damaged or outdated manifest is a reason to convert again, so only its mark is looked for.
    manifest = out / MANIFEST
    if not (manifest.is_file() and FORMAT in manifest.read_text(encoding="utf-8", errors="replace")):
        raise InputError(
            f"{out} holds something other than a converted set, so --overwrite does not touch it. Choose another "
            f"folder."
        )


@contextlib.contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A folder beside OUT that is gone afterwards, whatever happens; also those that a killed run left there.

    A living run holds a lock in its folder, which the system lets go when the process ends in any way.
    """
    prefix = f".{out.name}.converting-"
    created = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for stale in out.parent.glob(f"{glob.escape(prefix)}*"):
            with contextlib.suppress(OSError):
                with locked(stale / LOCK):
                    pass  # nobody's, and nobody but another cleaner would want it
                shutil.rmtree(stale)  # after the lock's file is closed, which NFS would keep under another name
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(
            f"{out} cannot be written ({error.strerror}). Choose a folder that you may write to."
        ) from error
    whole = False
    try:
        with contextlib.ExitStack() as stack:
            # Some network file systems know no locks. No other run gets one there either, so each leaves the other's
            # folder alone.
            with contextlib.suppress(OSError):
                stack.enter_context(locked(folder / LOCK))
            yield folder
        whole = True
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not whole:
            for parent in created:  # innermost first
                with contextlib.suppress(OSError):
                    parent.rmdir()


def publish(finished: Path, out: Path, previous: Path) -> None:
    """Give the finished folder its name. What stood there before is moved aside first, and back if that fails."""
    if out.exists():
        out.rename(previous)
    try:
        finished.rename(out)
    except OSError as error:
        if previous.exists():
            previous.rename(out)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise InputError(f"{out} was written by another process in the meantime. Choose another folder.") from error
        raise
