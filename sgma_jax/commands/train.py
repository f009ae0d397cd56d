"""`sgma train`: train a preset, or continue a run."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from sgma_jax.commands.preparation import prepare_jax
from sgma_jax.commands.preset import load_preset
from sgma_jax.config import DataConfig, TrainConfig
from sgma_jax.config_check import check
from sgma_jax.errors import InputError
from sgma_jax.flags import parse_beside

PROG = "sgma train PRESET --workdir RUN"
EXAMPLE = TrainConfig(name="PRESET", data=DataConfig(modalities=(), bands=(), classes=()), steps=0)
"""Stands for the preset in the help of `sgma train` alone."""


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train a preset, or continue a run where it stopped."""

    workdir: Path
    """Folder of the run."""
    resume: bool = True
    """Continue from the newest checkpoint where the folder has one; --no-resume refuses such a folder instead."""
    stop_after: int | None = None
    """Stop after this step, with a checkpoint; the same command without it goes on."""
    profile: int = 0
    """Trace so many steps with jax.profiler into the folder's profile/, for TensorBoard or Perfetto."""
    distributed: bool = False
    """This is one of several processes, which the cluster has started: Cloud TPU, SLURM, Open MPI or Kubernetes
    (docs/pods.md)."""
    coordinator: str | None = None
    """HOST:PORT of process 0, the same for all processes, where the cluster does not say it; with --process and
    --processes."""
    process: int | None = None
    """Number of this process, from 0."""
    processes: int | None = None
    """How many processes there are."""
    heartbeat_seconds: int = 60
    """A process that is not heard of for so long is dead, and the others end."""
    stopped_status: int = 0
    """Exit status after SIGTERM and a checkpoint; another than 0 where the scheduler would take 0 for the end of the
    run."""
    stall_seconds: int = 1800
    """A process in which no step ends for so long says where it stands and ends; 0 waits for ever."""


def train(arguments: list[str]) -> None:
    """`sgma train PRESET --workdir RUN --FIELD VALUE ...`: numbers of the preset can be changed, kinds cannot."""
    asks = bool({"-h", "--help"} & set(arguments))
    if arguments and not arguments[0].startswith("-"):
        preset = load_preset(Path(arguments[0]))
    elif asks:
        preset = EXAMPLE
    else:
        raise InputError(
            "sgma train needs a preset first, such as `sgma train experiments/demo.py --workdir runs/demo`."
        )
    if asks:
        _help(preset)
    own, config = parse_beside(TrainArguments, preset, arguments[1:], "sgma train")
    prepare_jax()
    from sgma_jax.distributed import end_on_error, start
    from sgma_jax.sharding import one_device_a_core
    from sgma_jax.training.fit import train as fit

    check(config)
    if own.distributed or (own.coordinator, own.process, own.processes) != (None, None, None):
        start(own.coordinator, own.process, own.processes, silence=own.heartbeat_seconds)
    else:
        one_device_a_core(config.data.batch_size // config.accumulate, config.data.evaluation_batch_size)
    session = partial(
        fit, stop_after=own.stop_after, resume=own.resume, profile=own.profile, stall_seconds=own.stall_seconds or None
    )
    if not end_on_error(lambda: session(config, own.workdir)):
        raise SystemExit(own.stopped_status)


def _help(preset: TrainConfig) -> None:
    """Explain the flags of a session, then every field of the configuration with the preset's value; ends."""
    with contextlib.suppress(SystemExit):
        tyro.cli(TrainArguments, args=["--help"], prog=PROG, description=TrainArguments.__doc__)
    print("\nFields of the configuration, with the values of the preset:\n")
    tyro.cli(TrainConfig, default=preset, args=["--help"], prog=PROG, config=(tyro.conf.AvoidSubcommands,))
