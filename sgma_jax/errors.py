"""Bad input ends in one clear line and exit status 2; anything else is a bug and keeps its traceback."""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
from collections.abc import Callable


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
    """Wrap a command's main function so that an InputError or a full disk is one line and exit status 2."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
            sys.stdout.flush()  # so that a reader that has gone is noticed here and not at the interpreter's exit
        except InputError as error:
            message = " ".join(str(error).split())
        except BrokenPipeError:  # `sgma inspect ... | head`: the reader has gone, which is no error of ours
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from None
        except Exception as error:
            if not is_disk_full(error):
                raise
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
        else:
            return
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)

    return wrapped
