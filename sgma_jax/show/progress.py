"""Progress on stderr: a bar on a terminal, a plain line every few seconds anywhere else."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 10.0
"""Where stderr is no terminal, the shortest time between two lines."""


class Progress:
    """A bar with count, loss, images per second and time left; use as a context manager.

    `start` is what a resumed run has already done; it counts as done but not towards the speed. A quiet one says
    nothing.
    """

    def __init__(
        self, title: str, total: int, *, start: int = 0, stream: TextIO | None = None, quiet: bool = False
    ) -> None:
        self._title, self._total, self._start = title, total, start
        self._console = Console(file=stream or sys.stderr, quiet=quiet)
        self._began = time.monotonic()
        self._printed = -float("inf")
        self._bar: RichProgress | None = None
        if self._console.is_terminal and not quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[values]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self._bar = RichProgress(*columns, console=self._console)
            self._task = self._bar.add_task(title, total=total, completed=start, values="")

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(
        self,
        done: int,
        *,
        loss: float | None = None,
        images_per_second: float | None = None,
        megapixels_per_second: float | None = None,
    ) -> None:
        """Show that `done` of the total are done, with what else is known."""
        values = [] if loss is None else [f"loss {loss:.4f}"]
        values += [] if images_per_second is None else [f"{images_per_second:.1f} images/s"]
        values += [] if megapixels_per_second is None else [f"{megapixels_per_second:.2f} Mpx/s"]
        if self._bar:
            self._bar.update(self._task, completed=done, values="  ".join(values))
            return
        now = time.monotonic()
        if done < self._total and now - self._printed < PLAIN_SECONDS:
            return
        self._printed = now
        if self._start < done < self._total:
            left = (now - self._began) * (self._total - done) / (done - self._start)
            values.append(f"{_minutes(left)} left")
        self.say("  ".join([f"{self._title} {done}/{self._total}", *values]))

    def say(self, text: str) -> None:
        """Print a line above the bar, or as one more plain line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _minutes(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
