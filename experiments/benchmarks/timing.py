"""Contenders in turn: every implementation in a process of its own, one call of each after the other, medians and
spread.

Processes, because PyTorch's and XLA's thread pools would otherwise compete for the same cores, and because peak
memory can then be told apart. While one contender works the others wait for a message.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple


class Subject(NamedTuple):
    """One implementation, built and warm, inside its process."""

    run: Callable[[str], None]
    """Does a case once and returns when the device has finished."""
    facts: dict[str, Any]
    """Facts about it: versions, threads, compile time, and `answer`, the numbers by which contenders
    must agree."""
    device_memory: Callable[[], int | None]
    """Peak bytes on the accelerator, or None where the device is the CPU."""


class ContenderFailed(Exception):
    """A contender could not be built, or died."""


class Contender:
    """A process that holds a subject and runs it when told to."""

    def __init__(self, name: str, build: Callable[..., Subject], *arguments: Any) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, build, arguments)
        )  # no daemon: those may have no workers
        self._process.start()
        theirs.close()
        self.facts: dict[str, Any] = self._receive()

    def seconds(self, case: str) -> float:
        """Wall time of one run of a case."""
        self._pipe.send(case)
        return float(self._receive())

    def peak_memory(self) -> dict[str, int | None]:
        """Peak bytes since it was warm: resident set of the whole process, and on the accelerator."""
        self._pipe.send(None)
        memory: dict[str, int | None] = self._receive()
        return memory

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _receive(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            raise ContenderFailed(f"{self.name}: its process died (exit status {self._process.exitcode})") from error
        if kind == "error":
            raise ContenderFailed(f"{self.name}: {value}")
        return value


@contextlib.contextmanager
def contenders(builders: Mapping[str, tuple[Any, ...]]) -> Iterator[tuple[dict[str, Contender], dict[str, str]]]:
    """All contenders, built one after the other from name -> (build, *arguments), and the errors of those that could
    not be."""
    running: dict[str, Contender] = {}
    failed: dict[str, str] = {}
    try:
        for name, (build, *arguments) in builders.items():
            note(f"building {name}")
            began = time.perf_counter()
            try:
                running[name] = Contender(name, build, *arguments)
            except ContenderFailed as error:
                failed[name] = str(error)
                note(str(error))
            note(f"  {time.perf_counter() - began:.1f} s")
        yield running, failed
    finally:
        for contender in running.values():
            contender.close()


def take_turns(running: Sequence[Contender], case: str, repeats: int, warmups: int = 1) -> dict[str, list[float]]:
    """Seconds of each contender's runs of a case: A B C A B C ..., after `warmups` rounds that do not count."""
    times: dict[str, list[float]] = {c.name: [] for c in running}
    for round_ in range(warmups + repeats):
        for contender in running:
            seconds = contender.seconds(case)
            if round_ >= warmups:
                times[contender.name].append(seconds)
    return times


def summary(seconds: Sequence[float], images: int) -> dict[str, Any]:
    """Median with the spread from fastest to slowest run, in milliseconds, and images per second at the median."""
    median = statistics.median(seconds)
    spread = {"min": round(1e3 * min(seconds), 2), "max": round(1e3 * max(seconds), 2)}
    return {"ms": {"median": round(1e3 * median, 2), **spread}, "images_per_second": round(images / median, 3)}


def relative_difference(answers: Mapping[str, Sequence[float]]) -> float:
    """Largest difference between two contenders' answers, relative to their size."""
    columns = list(zip(*answers.values(), strict=True))
    return max((max(c) - min(c)) / max(abs(v) for v in c) for c in columns)


def note(text: str) -> None:
    """Progress, which does not belong into what is printed."""
    print(text, file=sys.stderr, flush=True)


def _serve(pipe: Connection, build: Callable[..., Subject], arguments: tuple[Any, ...]) -> None:
    try:
        subject = build(*arguments)
        _reset_peak()
        pipe.send(("facts", subject.facts))
        while True:
            case = pipe.recv()
            if case is None:
                pipe.send(("memory", {"resident": peak_resident(), "device": subject.device_memory()}))
                continue
            began = time.perf_counter()
            subject.run(case)
            pipe.send(("seconds", time.perf_counter() - began))
    except EOFError:
        return  # the other side has closed
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send(("error", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"))


def _reset_peak() -> None:
    """Forget the peak so far, which building and compiling made."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> int | None:
    """Peak resident set in bytes, from Linux's /proc; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
