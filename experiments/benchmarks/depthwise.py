"""Depthwise convolution on this device: XLA's grouped convolution, shifted products differentiated by JAX, and ours.

Command: python -m experiments.benchmarks.depthwise [--repeats 5] [--json]
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sgma_jax.errors import one_line_errors
from sgma_jax.flags import parse_process
from sgma_jax.models import cpu
from sgma_jax.models.layers import depthwise

# The four scales of PVT-v2-b0's projectors with four sensors and crops of 128 pixels, and the widest 3 x 3 of its MLPs.
CASES = (
    ((8, 32, 32, 128), 11),
    ((8, 16, 16, 256), 11),
    ((8, 8, 8, 640), 11),
    ((8, 4, 4, 1024), 11),
    ((32, 32, 32, 256), 3),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark."""

    repeats: int = 5
    """Timed calls of each form."""
    json: bool = False
    """Print JSON instead of lines."""


def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's own depthwise convolution."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel[:, :, None, :], (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=x.shape[-1]
    )


FORMS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "grouped": grouped,
    "shifted": lambda x, kernel: cpu.depthwise(x, kernel, margins=(kernel.shape[-3] // 2,) * 2),
    "ours": depthwise,
}


def measure(options: Options) -> list[dict[str, Any]]:
    """Milliseconds of forward and forward-with-gradient, and seconds of compilation, of every form in every case."""
    rows = []
    for shape, size in CASES:
        x, kernel = (
            jax.random.normal(jax.random.key(0), shape),
            jax.random.normal(jax.random.key(1), (size, size, shape[-1])),
        )
        programs: dict[tuple[str, str], Any] = {}
        row: dict[str, Any] = {"shape": shape, "kernel": size, "ms": {}, "compile_s": {}}
        for name, form in FORMS.items():
            gradient = jax.grad(lambda x, k, form=form: jnp.sum(form(x, k) ** 2), (0, 1))
            for what, function in (("forward", form), ("gradient", gradient)):
                began = time.perf_counter()
                programs[name, what] = jax.jit(function).lower(x, kernel).compile()
                row["compile_s"][f"{name}/{what}"] = round(time.perf_counter() - began, 2)
        times: dict[tuple[str, str], list[float]] = {key: [] for key in programs}
        for repeat in range(options.repeats + 1):  # in turn; the first round warms up
            for key, program in programs.items():
                began = time.perf_counter()
                jax.block_until_ready(program(x, kernel))
                if repeat:
                    times[key].append(1e3 * (time.perf_counter() - began))
        for (name, what), values in times.items():
            row["ms"][f"{name}/{what}"] = {
                "median": round(statistics.median(values), 2),
                "min": round(min(values), 2),
                "max": round(max(values), 2),
            }
        row["ratio"] = {
            what: round(row["ms"][f"grouped/{what}"]["median"] / row["ms"][f"ours/{what}"]["median"], 1)
            for what in ("forward", "gradient")
        }
        rows.append(row)
    return rows


@one_line_errors
def main() -> None:
    """Measure and print."""
    options = parse_process(Options, "experiments.benchmarks.depthwise")
    rows = measure(options)
    if options.json:
        print(
            json.dumps(
                {
                    "device": jax.devices()[0].device_kind,
                    "machine": platform.machine(),
                    "jax": jax.__version__,
                    "cases": rows,
                },
                indent=2,
            )
        )
        return
    for row in rows:
        ratio = row["ratio"]
        print(
            f"{row['shape']} kernel {row['kernel']}: ours over grouped {ratio['forward']} x forward, "
            f"{ratio['gradient']} x with gradient"
        )
        for key, value in row["ms"].items():
            print(
                f"  {key:18} {value['median']:8.2f} ms ({value['min']:.2f} to {value['max']:.2f}), compiled in "
                f"{row['compile_s'][key]} s"
            )


if __name__ == "__main__":
    main()
