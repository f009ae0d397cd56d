"""`python -m experiments.compare.costs --base PRESET`: what each method costs, by the number of sensors present.

Parameters, multiply-adds and memory come from the compiled programs; images per second are measured here, on this
machine, one image at a time, as the median of RUNS passes after one that does not count.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from experiments.benchmarks.timing import note, summary
from experiments.compare.budget import machine
from experiments.compare.methods import METHODS, chosen_methods
from experiments.compare.tables import table
from sgma_jax.commands.preset import load_preset
from sgma_jax.config import TrainConfig
from sgma_jax.config_check import check
from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.files import write_atomically
from sgma_jax.flags import parse_process
from sgma_jax.models.inspection import inspect_subsets
from sgma_jax.models.network import initial_variables

RUNS = 25


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure what methods cost."""

    base: Path = Path("experiments/demo.py")
    """Preset whose encoder and sensors all methods have."""
    group: Literal["methods", "paper", "dropout", "fusion", "sampling"] = "methods"
    """Which methods, as in experiments.compare."""
    methods: tuple[str, ...] = ()
    """Methods by name, instead of a group."""
    size: int | None = None
    """Side of the image, in pixels; the preset's crop if not given."""
    out: Path | None = None
    """Folder for costs.json and costs.md; runs/compare/NAME of the base preset if not given."""


def costs_of(config: TrainConfig, size: int) -> list[dict[str, Any]]:
    """A row per number of sensors: parameters that prediction needs, multiply-adds, planned bytes, images per second
    with the spread."""
    variables = jax.jit(lambda: initial_variables(config))()
    images = {m: jnp.zeros((1, size, size, b)) for m, b in zip(config.data.modalities, config.data.bands, strict=True)}
    available = jnp.ones((1, len(images), size, size), bool)
    used = {
        root: tree for root, tree in variables["params"].items() if root != "alignment"
    }  # which only training needs
    parameters = sum(leaf.size for leaf in jax.tree.leaves(used))
    rows = []
    for costs in inspect_subsets(config, size):
        seconds = []
        for _ in range(RUNS + 1):
            began = time.perf_counter()
            jax.block_until_ready(
                costs.program(variables, images, available, jnp.arange(costs.modalities, dtype=jnp.int32))
            )
            seconds.append(time.perf_counter() - began)
        rows.append(
            {
                "sensors": costs.modalities,
                "parameters": parameters,
                "multiply_adds": costs.multiply_adds,
                "peak_bytes": costs.peak_bytes,
                **summary(seconds[1:], 1),
            }
        )
    return rows


@one_line_errors
def main() -> None:
    """Measure, then write and print the table."""
    arguments = parse_process(Arguments, "experiments.compare.costs")
    base = load_preset(arguments.base)
    size = arguments.size or base.data.crop
    if size < 1:
        raise InputError(f"--size is {size}; it must be at least 1 pixel.")
    names = chosen_methods(arguments.group, arguments.methods)
    found: dict[str, Any] = {
        "base": base.name,
        "size": size,
        "machine": machine(),
        "device": jax.devices()[0].device_kind,
        "methods": {},
    }
    for name in names:
        config = METHODS[name](base)
        check(config)
        note(f"{name}: compiling a program for each number of sensors, then {RUNS} passes of each")
        found["methods"][name] = costs_of(config, size)
    rows = [
        [
            name,
            str(row["sensors"]),
            f"{row['parameters']:,}",
            f"{row['multiply_adds'] / 1e9:.3f} G",
            f"{row['peak_bytes'] / 2**20:.1f} MiB",
            f"{row['images_per_second']:.1f}",
            "{median:.1f} ({min:.1f} to {max:.1f})".format(**row["ms"]),
        ]
        for name, by_number in found["methods"].items()
        for row in by_number
    ]
    text = f"One image of {size} x {size} pixels on {found['machine']} ({found['device']}).\n\n"
    text += (
        table(
            [
                "method",
                "sensors present",
                "parameters",
                "multiply-adds",
                "memory planned",
                "images/s",
                "ms (fastest to slowest)",
            ],
            rows,
        )
        + "\n"
    )
    out = arguments.out or Path("runs/compare") / base.name
    write_atomically(out / "costs.json", (json.dumps(found, indent=2) + "\n").encode())
    write_atomically(out / "costs.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
