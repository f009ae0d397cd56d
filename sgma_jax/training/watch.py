"""Guards of a training: a watchdog, and a trace of some steps."""

from __future__ import annotations

import faulthandler
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

PROFILE_AFTER = 3
"""[C] Steps of a session before its trace begins: the first compiles, and the next ones fill the queues."""


class Watchdog:
    """Ends the process, with every thread's place on stderr, when it was not called for some seconds; None never
    does.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def __enter__(self) -> Callable[[], None]:
        self._again()
        return self._again

    def __exit__(self, *_: object) -> None:
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()

    def _again(self) -> None:
        if self._seconds:  # in C, so that it works whatever the interpreter waits for
            faulthandler.dump_traceback_later(
                self._seconds, exit=True, file=2
            )  # sys.stderr of a notebook has no descriptor


class Trace:
    """Traces some steps with jax.profiler, for TensorBoard or Perfetto."""

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder, self._steps, self._running = folder, steps, False

    def __enter__(self) -> Callable[[int, Any], None]:
        return self._after_step

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

    def _after_step(self, done: int, report: Any) -> None:
        if self._steps and done == PROFILE_AFTER:
            self._running = True
            jax.profiler.start_trace(self._folder)
        elif self._running and done == PROFILE_AFTER + self._steps:
            jax.block_until_ready(report)
            self.__exit__()
