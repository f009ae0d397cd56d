"""The flags that say who does the work of a conversion. Every converter has them; none of them changes a byte of
what is written.

A converter's options have a field `parallel: tyro.conf.OmitArgPrefixes[ParallelOptions] =
field(default_factory=ParallelOptions)`, and it calls `convert(..., **parallel_arguments(options.parallel))`. [C] One
worker unless more are asked for, as in gdalwarp, make and pytest: a shared login node and a laptop's memory are not
taken unasked, and a small set is done before workers have started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from data_prep.cluster import BeamOptions, check_beam
from sgma_jax.errors import InputError


@dataclass(frozen=True)
class ParallelOptions:
    """Who does the work. The result is the same, byte for byte."""

    workers: int = 1
    """Processes of this machine that convert side by side. Each needs the memory of a tile and about 0.5 GB besides."""
    beam_runner: str = ""
    """Runner of Apache Beam that converts on a cluster instead (DirectRunner, FlinkRunner, SparkRunner,
    DataflowRunner)."""
    beam_options: tuple[str, ...] = ()
    """The runner's own options as NAME=VALUE, for example: flink_master=head:8081 parallelism=64."""


class ParallelArguments(TypedDict):
    """Keyword arguments of `convert`."""

    workers: int
    beam: BeamOptions | None


def parallel_arguments(options: ParallelOptions) -> ParallelArguments:
    """The flags as arguments of `convert`. InputError where they contradict each other or Beam cannot start; ask
    before reading anything."""
    if options.workers < 1:
        raise InputError(
            f"--workers is {options.workers}; it must be at least 1, the number of processes that convert side by side."
        )
    if not options.beam_runner:
        if options.beam_options:
            raise InputError(
                "--beam-options are given without --beam-runner. Name the runner that they are for, or leave them out."
            )
        return {"workers": options.workers, "beam": None}
    if options.workers != 1:
        raise InputError(
            f"--workers {options.workers} counts processes of this machine, but --beam-runner {options.beam_runner} "
            f"brings its own. "
            "Leave --workers out, and tell the runner with --beam-options."
        )
    beam = BeamOptions(options.beam_runner, options.beam_options)
    check_beam(beam)
    return {"workers": 1, "beam": beam}
