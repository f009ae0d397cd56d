"""Shards written by several processes of this machine.

[C] Processes are spawned, not forked: they inherit neither the lock on the folder that is written nor threads and open
files of GDAL, and work alike on every system. That costs each the imports, about two seconds, side by side.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, cast

from data_prep.shards import Plan, Shard, write_shard
from sgma_jax.errors import InputError

_TILE, _SHARD = "tile", "shard"
"""Messages of a worker: a tile is done, a shard is done. The third kind is the exception that ended it."""


def write_in_processes(
    plan: Plan[Any], shards: Sequence[Shard[Any]], workers: int, on_tile: Callable[[], None]
) -> None:
    """Write the shards with `workers` processes; `on_tile` is called here, after each key.

    Raises what a worker raised, and InputError where the system ended one. No worker outlives the call, nor this
    process.
    """
    plan.save(shards)
    todo = iter([shard.index for shard in shards])
    processes: dict[Connection, SpawnProcess] = {}
    try:
        with _interrupts_held_back():
            for _ in range(min(workers, len(shards))):
                connection, process = _start(plan.folder)
                processes[connection] = process
        for connection, process in processes.items():
            _give(connection, process, next(todo))
        while processes:
            for ready in wait(list(processes)):
                connection = cast(Connection, ready)
                process = processes[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    raise _ended(process) from None
                if isinstance(message, Exception):
                    raise message
                if message == _TILE:
                    on_tile()
                elif (index := next(todo, None)) is not None:
                    _give(connection, process, index)
                else:
                    del processes[connection]
                    _stop(connection, process)
    finally:
        for connection, process in processes.items():
            _stop(connection, process)


def _start(folder: Path) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, folder), daemon=True)
    process.start()
    theirs.close()  # so that its end means the end of the process
    return ours, process


def _give(connection: Connection, process: SpawnProcess, index: int) -> None:
    try:
        connection.send(index)
    except OSError:
        raise _ended(process) from None


def _stop(connection: Connection, process: SpawnProcess) -> None:
    # Whatever it is at, nothing of it is wanted any more: half a shard lies in a folder that is removed.
    process.kill()
    process.join()
    connection.close()


def _ended(process: SpawnProcess) -> Exception:
    process.join()
    status = process.exitcode or 0
    if status < 0:
        return InputError(
            f"a worker process was ended from outside ({signal.Signals(-status).name}), most likely because the memory "
            f"ran out, so nothing was kept. "
            "Give fewer --workers or a smaller tile, or close other programs."
        )
    return RuntimeError(f"a worker process ended with status {status}; it has said above why")


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C reaches this process afterwards, and processes started meanwhile never: this one ends them, without a
    word from each."""
    resource_tracker.ensure_running()  # multiprocessing's own process, at whose start it lets SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, folder: Path) -> None:
    """A worker's life: take up shard after shard."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        plan = Plan.load(folder)
        while True:
            write_shard(plan, plan.load_shard(connection.recv()), lambda: connection.send(_TILE))
            connection.send(_SHARD)
    except Exception as error:
        with contextlib.suppress(OSError):  # nobody listens any more
            connection.send(_sendable(error))


def _end_with_parent() -> None:
    """A killed conversion must not go on writing into a folder that the next one clears."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _sendable(error: Exception) -> Exception:
    """The error with its traceback as a note, or one of a plain kind if it survives no pickling."""
    text = f"in a worker process:\n{traceback.format_exc()}"
    error.add_note(text)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(text)
    return error
