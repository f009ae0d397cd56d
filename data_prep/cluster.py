"""Shards written by the machines of a cluster, through Apache Beam (optional: the extra `beam`).

TFDS 4.9.10 can itself hand a `ShardBasedBuilder` to Beam, but runs the whole pipeline again for every further split,
orders the lengths of more than ten shards as text, and lets two tries of a shard write into one file. So the
pipeline is ours: the numbers of the shards go out, and each machine finds plan and keys in the folder that all of
them share.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.shards import Plan, Shard, write_shard
from sgma_jax.errors import InputError

POLL_SECONDS = 1.0
"""How often the shared folder is asked which shards are finished."""
SHARE_SECONDS = 60.0
"""For how long a file that another machine has written may not be seen here: NFS caches folders for so long unless
told otherwise (acdirmax)."""


@dataclass(frozen=True)
class BeamOptions:
    """Which of Beam's runners works, and how."""

    runner: str
    """Name as Beam has it: DirectRunner, FlinkRunner, SparkRunner, DataflowRunner, ..."""
    options: tuple[str, ...] = ()
    """The runner's own options, NAME=VALUE or NAME."""


def check_beam(beam: BeamOptions) -> None:
    """Raise InputError where Beam is not installed or knows no such runner. Commands ask before they start to read."""
    if importlib.util.find_spec("apache_beam") is None:
        raise InputError(
            f"--beam-runner {beam.runner} needs Apache Beam, which is not installed. Install the extra: pip install "
            f"'sgma_jax[beam]'."
        )
    for option in beam.options:
        if option.startswith("-"):
            raise InputError(
                f"--beam-options: {option!r} starts with a dash. Write NAME=VALUE, as in direct_num_workers=4."
            )
    from apache_beam.runners.runner import create_runner

    try:
        create_runner(beam.runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise InputError(f"--beam-runner {beam.runner!r} is none that Beam can start ({error}).") from error


def write_with_beam(
    plan: Plan[Any], shards: Sequence[Shard[Any]], beam: BeamOptions, on_tile: Callable[[], None]
) -> None:
    """Write the shards on Beam's runner; `on_tile` is called here for every key of each finished shard.

    Raises InputError for the first that a shard met, and where the machines do not share the folder; else what Beam
    raises.
    """
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

    plan.save(shards)
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(plan, shards, on_tile, finished), daemon=True)
    watcher.start()
    try:
        with apache_beam.Pipeline(
            runner=beam.runner, options=PipelineOptions([f"--{option}" for option in beam.options])
        ) as pipeline:
            numbers = pipeline | "shards" >> apache_beam.Create([shard.index for shard in shards])
            # Without it, a runner may fuse both steps and give all shards to one machine.
            _ = numbers | "spread" >> apache_beam.Reshuffle() | "write" >> apache_beam.Map(_WriteShard(plan.folder))
    finally:
        finished.set()
        watcher.join()
    deadline = time.monotonic() + SHARE_SECONDS
    while (
        (lost := _unfinished(plan, shards)) and not any(plan.folder.glob("failure-*")) and time.monotonic() < deadline
    ):
        time.sleep(POLL_SECONDS)
    for failure in sorted(plan.folder.glob("failure-*")):
        raise InputError(failure.read_text(encoding="utf-8"))
    if lost:
        raise InputError(
            f"{len(lost)} of {len(shards)} shards did not arrive in {plan.folder.parent.parent}: the runner's machines "
            f"wrote them elsewhere. "
            "OUT must lie in a folder that all machines share under the same path."
        )


@dataclass(frozen=True)
class _WriteShard:
    """Writes the shard of a number, on a machine of the cluster."""

    folder: Path

    def __call__(self, index: int) -> None:
        if not (self.folder / "plan").is_file():
            raise InputError(
                f"{self.folder} is not there on this machine. SOURCE and OUT must be shared by all machines under the "
                f"same path."
            )
        if any(self.folder.glob("failure-*")):
            return  # the conversion has failed already
        # A plan for each shard: a machine may work on several at once in threads, and a reader's open files are not for
        # two.
        plan = Plan.load(self.folder)
        try:
            write_shard(plan, plan.load_shard(index), lambda: None)
        except InputError as error:
            # Bad input stays bad: raised, it would be tried again, and would arrive as one of Beam's own errors.
            (self.folder / f"failure-{index:05d}").write_text(str(error), encoding="utf-8")


def _unfinished(plan: Plan[Any], shards: Sequence[Shard[Any]]) -> list[Shard[Any]]:
    arrived = set(
        os.listdir(plan.folder)
    )  # listed, because looking up a name that is not there yet is remembered for longer
    return [shard for shard in shards if plan.report(shard.index).name not in arrived]


def _watch(
    plan: Plan[Any], shards: Sequence[Shard[Any]], on_tile: Callable[[], None], finished: threading.Event
) -> None:
    missing = shards
    while missing:
        last = finished.wait(POLL_SECONDS)
        still = _unfinished(plan, missing)
        for _ in range(sum(len(shard.keys) for shard in missing) - sum(len(shard.keys) for shard in still)):
            on_tile()
        missing = still
        if last:
            return
