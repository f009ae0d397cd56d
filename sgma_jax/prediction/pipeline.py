"""Reading, computing and writing at the same time: threads read windows, the devices answer batches, one thread
blends and writes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from sgma_jax.prediction.scene import WindowData
from sgma_jax.prediction.windows import Answers, WindowModel

READERS = min(4, os.cpu_count() or 1)
"""[C] Threads that read."""
WAITING = 2
"""Batches that wait to be written before the devices get no more."""
Place = tuple[int, int]
"""Row and column of a window in its tiling."""


def answer_windows(
    model: WindowModel,
    read: Callable[[int, int], WindowData | None],
    places: Iterable[Place],
    take: Callable[[list[tuple[Place, int | None]], Answers | None], None],
) -> None:
    """Read the windows at `places`, have the model answer those that are not None in full batches, and hand all to
    `take` in order.

    `take` runs in a thread of its own; it gets places with their row in the answers (numpy), or None for a window
    where nothing is available. What goes wrong anywhere is raised here, after all threads have ended; so is Ctrl-C.
    """
    reading = ThreadPoolExecutor(READERS, thread_name_prefix="read")
    writing = ThreadPoolExecutor(1, thread_name_prefix="write")
    ahead: deque[tuple[Place, Future[WindowData | None]]] = deque()
    behind: deque[Future[None]] = deque()
    sequence: list[tuple[Place, int | None]] = []
    batch: list[WindowData] = []

    def hand_over() -> None:
        nonlocal sequence, batch
        answers = model(*_stack(batch, model.batch)) if batch else None
        behind.append(writing.submit(_take, take, sequence, answers))
        sequence, batch = [], []
        while len(behind) > WAITING:
            behind.popleft().result()

    def next_window() -> None:
        place, future = ahead.popleft()
        data = future.result()
        sequence.append((place, None if data is None else len(batch)))
        if data is not None:
            batch.append(data)
        if len(batch) == model.batch or len(sequence) >= 1000:
            hand_over()

    try:
        for place in places:
            ahead.append((place, reading.submit(read, *place)))
            if len(ahead) > model.batch + READERS:
                next_window()
        while ahead:
            next_window()
        if sequence:
            hand_over()
        while behind:
            behind.popleft().result()
    finally:
        reading.shutdown(cancel_futures=True)
        writing.shutdown(cancel_futures=True)


def _stack(batch: list[WindowData], size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One batch of the full size; what is missing repeats the last window."""
    full = batch + [batch[-1]] * (size - len(batch))
    return {name: np.stack([w.images[name] for w in full]) for name in full[0].images}, np.stack(
        [w.available for w in full]
    )


def _take(take: Callable[..., None], sequence: list[tuple[Place, int | None]], answers: Any) -> None:
    take(sequence, None if answers is None else Answers(*(np.asarray(a) for a in answers)))
