"""The members of a comparison: one method with one seed, trained and evaluated by the `sgma` command in a process of
its own."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sgma_jax.config import TrainConfig, differences, from_json, to_json
from sgma_jax.errors import InputError
from sgma_jax.files import write_atomically
from sgma_jax.runs.names import CHECKPOINTS
from sgma_jax.runs.results import Result, result_file

PRESET_FILE = "preset.json"
LOG_FILE = "log.txt"
SGMA = (sys.executable, "-c", "from sgma_jax.cli import main; main()")


class Member(NamedTuple):
    """One training."""

    method: str
    seed: int
    config: TrainConfig
    folder: Path


def members(methods: dict[str, TrainConfig], seeds: int, out: Path) -> list[Member]:
    """Every method with every seed, first seeds first, so that an interrupted comparison can be read as early as
    possible."""
    return [
        Member(name, seed, dataclasses.replace(config, name=name, seed=config.seed + seed), out / name / str(seed))
        for seed in range(seeds)
        for name, config in methods.items()
    ]


def share(everything: Sequence[Member], shard: str) -> list[Member]:
    """Those of shard "i/n", i from 1 to n; InputError where it is none."""
    number, _, count = shard.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise InputError(f"--shard is {shard!r}; give i/n with i from 1 to n, such as 2/4.")
    return list(everything[int(number) - 1 :: int(count)])


def is_trained(member: Member) -> bool:
    """Return whether its last checkpoint is there, complete."""
    return (member.folder / CHECKPOINTS / str(member.config.steps)).is_dir()


EXTRAS: dict[str, Result] = {"--corruptions": "_corruptions.json", "--analysis": "_analysis.json"}
"""Flags of `sgma evaluate`, and the files that they add."""


def evaluation_path(member: Member, split: str, what: Result = ".json") -> Path:
    """Return the path of a file that `sgma evaluate` leaves."""
    return result_file(member.folder, split, what)


def run_member(member: Member, split: str, extras: Sequence[str]) -> str | None:
    """Train and evaluate what is not yet there; `extras` are flags of `sgma evaluate`. None, or in a line what went
    wrong."""
    if wrong := _another_experiment(member):
        return wrong
    evaluated: list[Result] = [".json", *(EXTRAS[extra] for extra in extras)]
    if is_trained(member) and all(evaluation_path(member, split, what).is_file() for what in evaluated):
        return None
    if not is_trained(member):
        write_atomically(member.folder / PRESET_FILE, to_json(member.config).encode())
        wrong = run_sgma(member.folder, "train", str(member.folder / PRESET_FILE), "--workdir", str(member.folder))
        if wrong:
            return wrong
    return run_sgma(member.folder, "evaluate", str(member.folder), "--split", split, *extras)


def _another_experiment(member: Member) -> str | None:
    path = member.folder / PRESET_FILE
    if not path.is_file():
        return None
    try:
        different = [
            field
            for field in differences(from_json(path.read_text(encoding="utf-8")), member.config)
            if field != "data.path"
        ]
    except InputError as error:
        return f"{path}: {error}"
    return (
        f"{path} is of another experiment (it differs in {', '.join(different)}); give another --out, or delete the "
        f"folder"
        if different
        else None
    )


def run_sgma(folder: Path, *arguments: str) -> str | None:
    """Run the `sgma` command; what it says is appended to FOLDER/log.txt. None, or in a line what went wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / LOG_FILE
    with log.open("ab") as file:
        file.write(f"\n$ sgma {' '.join(arguments)}    # {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        file.flush()
        began = file.tell()
        done = subprocess.run(
            [*SGMA, *arguments], stdout=file, stderr=subprocess.STDOUT, env=dict(os.environ), check=False
        )
    if done.returncode == 0:
        return None
    return (
        f"sgma {arguments[0]} ended with {done.returncode}: "
        f"{cause(log.read_bytes()[began:].decode(errors='replace'))[:300]} (more in {log})"
    )


def cause(said: str) -> str:
    """The line of a failed command's output that says why: its own error, else the first exception, of which later
    ones are consequences."""
    lines = [line for line in said.splitlines() if line.strip()]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    exceptions = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return [*own[-1:], *exceptions[:1], *lines[-1:], "it said nothing"][0]
