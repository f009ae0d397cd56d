"""The budget that all methods share: a number of optimiser steps.

[C] Minutes would favour whoever ran while the machine was idle. So the minutes asked for are turned into steps once,
by the speed of SGMA itself, the dearest of the main methods; the number is written down, and every method, seed,
shard and resumed run uses it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgma_jax.config import TrainConfig
from sgma_jax.decoding import decode
from sgma_jax.errors import InputError
from sgma_jax.files import write_atomically
from sgma_jax.runs.metrics_log import read_metrics

BUDGET_FILE = "budget.json"
CALIBRATION_STEPS = 30
CALIBRATION_INTERVAL = 5
"""Steps between two measurements; the first interval holds the compilation and does not count."""


@dataclass(frozen=True)
class Budget:
    """Steps and time that every member of a comparison may use."""

    steps: int
    """Optimiser steps."""
    minutes: float
    """Minutes asked for, of one training of SGMA without compilation and validation; 0 where steps were asked for."""
    seconds_per_step: float
    """Of SGMA, measured on `machine`; 0 where steps were asked for."""
    machine: str


def read_budget(out: Path) -> Budget | None:
    """The budget that was fixed for the comparison in this folder, or None; InputError for a file that is no budget."""
    path = out / BUDGET_FILE
    if not path.is_file():
        return None
    try:
        budget: Budget = decode(json.loads(path.read_text(encoding="utf-8")), Budget)
    except ValueError as error:
        raise InputError(f"{path}: {error} Restore the file, or give another --out.") from error
    return budget


def fix_budget(out: Path, budget: Budget) -> Budget:
    """Write the budget down; where another shard was faster, what that one wrote holds."""
    path = out / BUDGET_FILE
    own = path.with_name(f".{BUDGET_FILE}.{platform.node()}.{os.getpid()}")
    write_atomically(own, (json.dumps(dataclasses.asdict(budget), indent=2) + "\n").encode())
    try:
        os.link(own, path)  # fails where the file is there, so the first one stays
    except FileExistsError:
        pass
    finally:
        own.unlink()
    fixed = read_budget(out)
    assert fixed is not None
    return fixed


def seconds_per_step(metrics: Path, batch_size: int) -> float:
    """Median over a calibration's intervals but the first."""
    speeds = [line["images_per_second"] for line in read_metrics(metrics) if line["kind"] == "train"][1:]
    if not speeds:
        raise InputError(
            f"{metrics}: too few lines to know the speed from; delete the folder and run the same command again."
        )
    return batch_size / statistics.median(speeds)


def machine() -> str:
    """The machine of the calibration, in words."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def calibration(config: TrainConfig) -> TrainConfig:
    """The short run from which the speed is taken."""
    steps = CALIBRATION_STEPS
    return dataclasses.replace(
        config, name="calibration", steps=steps, warmup_steps=0, evaluate_every=steps, log_every=CALIBRATION_INTERVAL
    )


def with_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """The configuration with another length; warm-up and validation keep their shares of it."""
    share = steps / config.steps
    changed: dict[str, Any] = {
        "steps": steps,
        "warmup_steps": min(round(config.warmup_steps * share), steps - 1),
        "evaluate_every": max(1, round(config.evaluate_every * share)),
        "log_every": max(1, min(config.log_every, steps // 10)),
    }
    return dataclasses.replace(config, **changed)
