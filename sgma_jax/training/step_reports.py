"""Reports of the steps, read one step late so that the device never waits for it: lines of metrics.jsonl, and
faults."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from sgma_jax.config import TrainConfig
from sgma_jax.data.source import Source
from sgma_jax.errors import InputError
from sgma_jax.runs.metrics_log import MetricsLog
from sgma_jax.show.progress import Progress

LAG = 1
"""[C] Steps that are under way before the oldest one's report is read."""


class _Pending(NamedTuple):
    done: int
    losses: dict[str, jax.Array]
    applied: jax.Array
    ids: jax.Array
    values: dict[str, Any]
    """Facts that the host knew when the step began."""


class StepReports:
    """Takes each step's report, reads it when the next step is under way, and raises InputError where faults exceed
    their limits."""

    def __init__(
        self, config: TrainConfig, source: Source, log: MetricsLog | None, progress: Progress, faults: Mapping[str, Any]
    ) -> None:
        """`faults` is what `faults()` returned when the run was saved, empty for a new one; only the writer has a
        log."""
        self._config, self._source, self._log, self._progress = config, source, log, progress
        self._pending: deque[_Pending] = deque()
        self._unapplied, self._in_a_row = int(faults.get("unapplied_steps", 0)), int(faults.get("in_a_row", 0))
        self._unreadable = set(faults.get("unreadable_records", ()))
        self._clock = DeviceClock()
        self.restart_clock()

    def faults(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the faults, in JSON's types: steps not applied, in all and lately in a row,
        and records skipped."""
        return {
            "unapplied_steps": self._unapplied,
            "in_a_row": self._in_a_row,
            "unreadable_records": sorted(self._unreadable),
        }

    def about_to_start(self) -> None:
        """Called just before a step is handed to the devices."""
        self._clock.dispatching()

    def push(self, done: int, report: Any, values: dict[str, Any]) -> None:
        """Take the report of step `done`, as arrays that may still be being computed, and the values that its line
        has besides."""
        self._clock.dispatched(report.applied)
        self._pending.append(_Pending(done, report.losses, report.applied, report.ids, values))
        while len(self._pending) > LAG:
            self._read(self._pending.popleft())

    def read_all(self) -> None:
        """Wait for every step that was pushed, and read its report."""
        while self._pending:
            self._read(self._pending.popleft())

    def restart_clock(self) -> None:
        """Begin a new interval for speed and waiting, after something that is no training."""
        self._began, self._steps = time.monotonic(), 0
        self._clock.restart()

    def close(self) -> None:
        """Let go of the thread."""
        self._clock.close()

    def _read(self, step: _Pending) -> None:
        losses, applied, ids = jax.device_get((step.losses, step.applied, step.ids))
        self._steps += 1
        self._count_unreadable(step.done, ids)
        if bool(applied):
            self._in_a_row = 0
        else:
            self._count_unapplied(step.done, losses, ids)
        if step.values:
            seconds = max(time.monotonic() - self._began, 1e-9)
            speed, waited = self._steps * self._config.data.batch_size / seconds, self._clock.waited() / seconds
            counts = {"unapplied_steps": self._unapplied, "unreadable_records": len(self._unreadable)}
            self._line(
                step.done,
                "train",
                {**losses, **step.values, **counts, "images_per_second": speed, "host_wait": min(waited, 1.0)},
            )
            self._progress.update(step.done, loss=float(losses["loss"]), images_per_second=speed)
            self._began, self._steps = time.monotonic(), 0

    def _count_unreadable(self, done: int, ids: np.ndarray) -> None:
        for number in sorted({-int(i) - 2 for i in ids if i < -1} - self._unreadable):
            self._unreadable.add(number)
            most, shard = self._config.data.max_bad_records, self._source.shard_of(number)
            which = f"record {number} of split {self._source.split!r}, in {shard}, cannot be read"
            self._line(
                done,
                "fault",
                {"fault": "unreadable record", "record": number, "split": self._source.split, "shard": shard},
            )
            if len(self._unreadable) > most:
                raise InputError(
                    f"{self._source.path}: {which}, and {most} others were skipped already. Restore the files, convert "
                    f"the data again, "
                    "or raise --data.max-bad-records."
                )
            self._progress.say(f"{which}; going on without it ({len(self._unreadable)} skipped, at most {most})")

    def _count_unapplied(self, done: int, losses: Mapping[str, Any], ids: np.ndarray) -> None:
        self._unapplied, self._in_a_row = self._unapplied + 1, self._in_a_row + 1
        loss, norm = float(losses["loss"]), float(losses["gradient_norm"])
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        names = [self._source.record_id(int(i)) for i in ids if i >= 0]
        values = {"fault": "not finite", "loss": loss, "gradient_norm": norm, "records": names}
        self._line(done, "fault", values)
        if self._in_a_row >= self._config.max_bad_steps:
            raise InputError(
                f"step {done}: {what}, for {self._in_a_row} steps in a row; none of them was applied, so the newest "
                f"checkpoint is sound. "
                f"Lower optimizer.peak_learning_rate, or look for values out of range in the records, such as "
                f"{', '.join(names[:4])}."
            )
        self._progress.say(f"step {done}: {what}; the step was not applied (records {', '.join(names)})")

    def _line(self, done: int, kind: Any, values: Mapping[str, Any]) -> None:
        if self._log:
            self._log.log(done, kind, values)


class DeviceClock:
    """A clock of the time in which the devices wait for the host to hand them the next step.

    A thread waits for each step's result, and notes when it came; the loop notes when it hands over the next step.
    Where the result came first, the time between the two is the devices' waiting.
    """

    def __init__(
        self, wait: Callable[[Any], Any] = jax.block_until_ready, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._wait, self._now = wait, now
        self._queue: queue.Queue[tuple[float, Any] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._waited, self._free_since, self._dispatching = 0.0, float("inf"), 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def dispatching(self) -> None:
        """Note that the loop begins to hand over a step."""
        self._dispatching = self._now()

    def dispatched(self, result: Any) -> None:
        """Note that the step has been handed over; it is finished when `result`, an array of it, is ready."""
        self._queue.put((self._dispatching, result))

    def waited(self) -> float:
        """Seconds that the devices waited since the last call, as far as known by now."""
        with self._lock:
            waited, self._waited = self._waited, 0.0
        return waited

    def restart(self) -> None:
        """Forget what was, as when the loop did something other than training."""
        self._queue.put(
            (0.0, None)
        )  # in turn, so that the last step's end is not taken for the new interval's beginning

    def close(self) -> None:
        """End the thread."""
        self._queue.put(None)

    def _watch(self) -> None:
        while (entry := self._queue.get()) is not None:
            dispatched, result = entry
            if result is None:
                with self._lock:
                    self._waited, self._free_since = 0.0, float("inf")
                continue
            with self._lock:
                self._waited += max(0.0, dispatched - self._free_since)
            try:
                self._wait(result)
            except Exception:  # the loop meets the same error, and tells it
                return
            with self._lock:
                self._free_since = self._now()
