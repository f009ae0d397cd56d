"""Many processes as one run, by JAX's own runtime: starting it, agreeing, and pre-emption.

Every function that needs the other processes must be called by all of them, in the same order; with one process they
return at once.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from sgma_jax.errors import InputError, one_line_errors

PATIENCE = 1800
"""[C] Seconds that processes wait for each other where one may have more to do, such as compiling."""
CLUSTERS = "Cloud TPU, SLURM, Open MPI or Kubernetes"

T = TypeVar("T")
_MEETINGS = itertools.count()


def start(
    coordinator: str | None = None, process: int | None = None, processes: int | None = None, *, silence: int = 60
) -> None:
    """Join the run's other processes; what is None comes from the environment of the cluster (Cloud TPU, SLURM, Open
    MPI, Kubernetes).

    A process that is not heard of for `silence` seconds counts as dead, and the others end. Must be called before
    JAX sees a device. Raises InputError where neither arguments nor environment say who takes part.
    """
    given = (coordinator, process, processes)
    if any(g is not None for g in given) and None in given:
        raise InputError(
            "--coordinator, --process and --processes belong together; give all three, or --distributed alone."
        )
    if processes is not None and process is not None and not 0 <= process < processes:
        raise InputError(f"--process is {process}; with --processes {processes} it lies between 0 and {processes - 1}.")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise InputError(
            f"--coordinator is {coordinator!r}; it is HOST:PORT, the same for all, of the host of process 0."
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator, processes, process, heartbeat_timeout_seconds=silence, shutdown_timeout_seconds=silence
        )
    except ValueError as error:
        raise InputError(
            f"--distributed found no cluster of {CLUSTERS} ({error}); give --coordinator, --process and --processes."
        ) from error


def is_writer() -> bool:
    """Return whether this is the process that writes what is written once and says what is said once."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Return when every process is here; all give the same name."""
    if jax.process_count() > 1:
        # Named processes meet at the coordinator and not in a collective, which on CPU gives up after half a minute. A
        # meeting's name must be new, so the meetings are counted.
        multihost.sync_global_processes(
            f"{name} {next(_MEETINGS)}", timeout=PATIENCE, processes=set(range(jax.process_count()))
        )


def gather(array: np.ndarray) -> np.ndarray:
    """The array of every process, along a new first axis, in every process."""
    if jax.process_count() == 1:
        return array[None]
    wait_for_all("gather")
    return np.asarray(multihost_utils.process_allgather(array))


def all_agree(mine: bool) -> bool:
    """Return whether `mine` is true in every process."""
    return bool(gather(np.array(mine)).all())


def from_writer(value: Any) -> Any:
    """The writer's value, which JSON must know, in every process; the others' own are not looked at."""
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode() if is_writer() else b""
    longest = int(gather(np.array(len(text), np.int32)).max())
    return json.loads(gather(np.frombuffer(text.ljust(longest), np.uint8))[0].tobytes())


def compile_together(program: Any, *arguments: Any) -> Any:
    """The jitted function, compiled for these arguments in every process before any of them may call it.

    The first to call would otherwise wait within a collective for those that are still compiling, and give up.
    """
    compiled = program.lower(*arguments).compile()
    wait_for_all("compiled")
    return compiled


def await_turn(results: Any) -> Any:
    """The results of a program, after which another may be called that does not depend on them.

    A GPU or TPU runs programs in the order of the calls. A CPU runs those at once that do not wait for each other,
    and between processes their collectives would then meet crosswise; so there this waits.
    """
    return jax.block_until_ready(results) if jax.process_count() > 1 and jax.default_backend() == "cpu" else results


def end_on_error(main: Callable[[], T]) -> T:
    """Return what `main` returns; with several processes an error ends this one at once, so that the others notice
    instead of waiting for it."""
    if not jax.distributed.is_initialized():
        return main()
    returned: list[T] = []
    try:
        one_line_errors(lambda: returned.append(main()))()
        return returned[0]
    except BaseException as error:
        # Python's orderly exit would wait for the others, which wait for this process in the middle of a step.
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)


class Preemption:
    """Tells that someone wants the run to end soon (SIGTERM); a context manager.

    With several processes JAX's runtime receives the signal and picks a moment that all of them reach.
    """

    def __init__(self) -> None:
        self._asked = False
        self._calls = 0
        self._former: Any = None
        self._listens = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Preemption:
        if self._listens:
            self._former = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._former)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def reached(self) -> bool:
        """Return whether to stop here; every process calls it equally often and gets the same answers. Once true, it
        stays so."""
        if jax.process_count() > 1 and not self._asked:
            self._calls += 1
            self._asked = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._asked
