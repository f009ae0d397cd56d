"""Worker processes that die are started again; batches go on as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from sgma_jax.errors import InputError

RESTARTS = 3
"""[C] Deaths in a row, without a batch between them, after which a run ends: then it is no accident."""
LOOK_SECONDS = 1.0
"""How often living workers are looked for while a batch is waited for."""


class Supervised:
    """Grain's iterator with worker processes, from a position on, started again where it stopped when a worker dies.

    A worker that is killed while it sends a batch leaves half a message, for whose rest Grain would wait for ever.
    So a thread waits, and the caller looks after the workers meanwhile.
    """

    def __init__(self, from_position: Callable[[int], Any], position: int) -> None:
        self._from_position, self._position = from_position, position
        self._deaths = 0
        self._begin()

    def __iter__(self) -> Supervised:
        return self

    def __next__(self) -> Any:
        while True:
            try:
                batch, error = self._batches.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                batch, error = None, None
            if batch is not None:
                self._position, self._deaths = self._position + 1, 0
                return batch
            dead = self._dead_workers()
            if error is not None and not (
                dead and "terminated unexpectedly" in str(error)
            ):  # Grain's words, where it notices
                raise error
            if dead:
                self._restart(dead)

    def close(self) -> None:
        """End the workers."""
        self._stop.set()
        self._iterator.close()

    def _begin(self) -> None:
        others = set(multiprocessing.active_children())
        self._iterator = self._from_position(self._position)
        self._batches: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._others = others
        self._workers: set[Any] = set()
        threading.Thread(target=_read, args=(self._iterator, self._batches, self._stop), daemon=True).start()

    def _dead_workers(self) -> list[int]:
        """Exit codes of workers that ended otherwise than by themselves."""
        self._workers |= set(multiprocessing.active_children()) - self._others
        return [w.exitcode for w in self._workers if w.exitcode]

    def _restart(self, codes: list[int]) -> None:
        self._deaths += 1
        if self._deaths > RESTARTS:
            raise InputError(
                f"data.workers: a worker process died {self._deaths} times in a row (exit code {codes[0]}); mostly "
                f"memory ran out. "
                "Use fewer of them with --data.workers, or 0."
            )
        print(
            f"a data worker died (exit code {codes[0]}); starting the workers again at global batch {self._position}",
            file=sys.stderr,
        )
        self._stop.set()
        for worker in self._workers:
            worker.kill()
        self._begin()


def _read(iterator: Any, batches: queue.Queue[tuple[Any, BaseException | None]], stop: threading.Event) -> None:
    """Hand batches on until told to stop or until there is an error, which is handed on too."""
    while not stop.is_set():
        entry: tuple[Any, BaseException | None]
        try:
            entry = (next(iterator), None)
        except BaseException as error:
            entry = (None, error)
        while not stop.is_set():
            try:
                batches.put(entry, timeout=LOOK_SECONDS)
                break
            except queue.Full:
                continue
        if entry[1] is not None:
            return
