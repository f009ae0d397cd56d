"""Metrics of a run: one JSON object a line in metrics.jsonl, and the same scalars for TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from sgma_jax.decoding import plain
from sgma_jax.files import write_atomically
from sgma_jax.runs.names import METRICS_FILE

TENSORBOARD_SECONDS = 10.0
"""How long events may wait in memory before they are flushed to disk."""


class MetricsLog:
    """Appends to FOLDER/metrics.jsonl and FOLDER/tensorboard, and continues both after a resume.

    With `resume_step` s, lines later than s are dropped, because the run is about to repeat those steps, and lines
    up to s stay byte for byte; a line that a kill left half-written is dropped too. With None the run starts over.
    """

    def __init__(self, folder: Path | str, resume_step: int | None) -> None:
        last_kept = -1 if resume_step is None else resume_step
        self._path = Path(folder) / METRICS_FILE
        kept = b"".join(line for line, values in _whole_lines(self._path) if values["step"] <= last_kept)
        if not self._path.exists() or kept != self._path.read_bytes():
            write_atomically(self._path, kept)
        self._file = self._path.open("ab")

        events = Path(folder) / "tensorboard"
        events.mkdir(parents=True, exist_ok=True)
        former = len(list(events.iterdir()))
        # Not SummaryWriter: its background thread dies on a full disk, and the training loop then waits for its queue
        # for ever. The suffix keeps a resume within the same second from overwriting the former file.
        self._events = EventsWriter(str(events / "events"), filename_suffix=f".{former}")
        if former:  # tells TensorBoard to forget what is later than the checkpoint
            self._events.write_event(
                Event(wall_time=time.time(), step=last_kept + 1, session_log=SessionLog(status=SessionLog.START))
            )
        self._flushed = time.monotonic()

    def log(self, step: int, kind: Literal["train", "evaluation", "fault"], values: Mapping[str, Any]) -> None:
        """Write one line and the scalars in it; numbers that are not finite become null in the line.

        In TensorBoard a value of a nested mapping is called "kind/outer/inner", an entry of a list "kind/name/0".
        Raises OSError where the disk is full; the line is then dropped at the next resume.
        """
        line = json.dumps({"step": step, "kind": kind, **plain(values)}, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(kind, values)]
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        if kind == "evaluation" or time.monotonic() - self._flushed > TENSORBOARD_SECONDS:
            self._events.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, oldest first, without a half-written one."""
    return [values for _, values in _whole_lines(Path(path))]


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and isinstance(values, dict) and isinstance(values.get("step"), int):
            yield line, values


def _scalars(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _scalars(f"{prefix}/{key}", inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _scalars(f"{prefix}/{index}", inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield prefix, float(value)
