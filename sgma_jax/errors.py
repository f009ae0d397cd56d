"""Bad input ends in one clear line and exit status 2; anything else is a bug and keeps its traceback."""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

REFUSALS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
"""Errors of a file system that say that the path is not what the user takes it for."""


class InputError(ValueError):
    """Input of the user cannot be used. The message names the file, the field and the way out."""


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an exception, or one that it was raised from, means that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # TensorStore and ArrayRecord report the same condition as text of a plain exception.
        if "No space left on device" in str(error) or "RESOURCE_EXHAUSTED: Error writing" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a command's main function so that an InputError, a path that the file system refuses, or a full disk is one
    line and exit status 2."""

    @functools.wraps(main)
    def wrapped() -> None:
        for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter gets "?" for it
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        try:
            main()
            sys.stdout.flush()  # so that a reader that has gone is noticed here and not at the interpreter's exit
        except InputError as error:
            message = " ".join(str(error).split())
        except BrokenPipeError:  # `sgma inspect ... | head`: the reader has gone, which is no error of ours
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from None
        except Exception as error:
            if is_disk_full(error):
                _end_on_full_disk(error)
            if not (isinstance(error, OSError) and error.errno in REFUSALS and error.filename):
                raise
            message = f"{error.filename}: {error.strerror}. Correct the path, or choose a place that can be written."
        else:
            return
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)

    return wrapped


def _end_on_full_disk(error: BaseException) -> NoReturn:
    """Say so in one line, and end with status 2."""
    where = getattr(error, "filename", None) or "the output folder"
    print(
        f"error: {where}: the disk is full, so nothing more was written. Free some space and run the same "
        f"command again.",
        file=sys.stderr,
    )
    # Orbax writes in the background, and each failed write would be told again behind our line, until the
    # interpreter is gone: by logs, by threads' tracebacks, and by C++ code, which knows the descriptor only.
    sys.stderr.flush()
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise SystemExit(2) from None
